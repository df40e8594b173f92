"""routectl recompute under the real torchrun, two ranks on the CPU."""

import pytest

from support.crews import (
    BOTH,
    command,
    do_by_hand,
    finished,
    is_what_one_process_writes,
    make_folder,
    only_finished_parts_are_left,
    outside,
)

pytestmark = pytest.mark.models


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny checkpoint, dumps, and what one process writes of one of them in mode both."""
    return make_folder(tmp_path_factory.mktemp("crew"))


def torchrun(*words):
    """The same under torchrun, two processes."""
    launcher = (
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "routectl",
    )
    return outside(*words, launcher=launcher)


def test_resume_goes_on_with_torchrun(tmp_path, folder):
    """Parts with gaps, one of them in one mode only, are gone on from; one rank speaks."""
    target = tmp_path / "r.parquet"
    do_by_hand(folder, target, (0, 1, 3), (5,), (6,))
    parts = tmp_path / "r.parquet.partial"
    (parts / "00000006-00000006.forced.parquet").unlink()
    spans = ["00000000-00000001", "00000003-00000003", "00000005-00000005"]
    assert [path.name.split(".")[0] for path in sorted(parts.glob("*.forced.*"))] == spans
    line = command(folder, target, *BOTH, "--resume")
    code, err = finished(torchrun(*line))
    assert code == 0, err
    assert err.count("4 samples done before; going on") == 1
    assert err.count("routectl: wrote") == 2
    is_what_one_process_writes(folder, target)


def test_a_failed_rank_ends_the_other(tmp_path, folder):
    """A sample that cannot be run is one line of its rank, and torchrun fails; nothing hangs."""
    line = command(folder, tmp_path / "r.parquet", dump="bare.parquet")
    code, err = finished(torchrun(*line))
    assert code == 1, err  # torchrun's own exit code
    said = [one for one in err.splitlines() if one.startswith("routectl: ") and "s5" in one]
    assert said == ["routectl: s5: it has no token ids to run"]
    only_finished_parts_are_left(tmp_path)
