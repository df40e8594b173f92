"""routectl recompute by several processes: two on the CPU stand for two devices, or two ranks."""

import time
from functools import partial
from signal import SIGINT, SIGKILL

import psutil
import pytest
from torch import cuda

from routectl.errors import RoutectlError
from routectl.jobs.reading import open_input
from routectl.jobs.recompute.share import DeviceWork, do_work
from routectl.jobs.recompute.workers import run_workers
from routectl.limits import raised_limits
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
from support.shell import complaint, run, written

pytestmark = pytest.mark.models
TORCHRUN = (
    *("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
    *("-m", "routectl"),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny checkpoint, dumps, and what one process writes of one of them in mode both."""
    return make_folder(tmp_path_factory.mktemp("crew"))


def test_several_processes_write_what_one_does(capsys, tmp_path, folder):
    """Routes, margins, log-probs, order and metadata are byte for byte those of one process."""
    target = tmp_path / "r.parquet"
    done = run(capsys, *command(folder, target, *BOTH, "--device", "cpu,cpu"))
    assert done.code == 0, done.err
    assert "by each of 2 processes" in done.err
    is_what_one_process_writes(folder, target)


@pytest.mark.gpu
@pytest.mark.skipif(not cuda.is_available(), reason="no CUDA device")
def test_two_processes_on_cuda_write_what_one_does(capsys, tmp_path, folder):
    """On CUDA too, on one device twice, or on all visible ones where there are several."""
    one, two = tmp_path / "one.parquet", tmp_path / "two.parquet"
    every = "cuda" if cuda.device_count() > 1 else "cuda:0,cuda:0"
    for target, device in ((one, "cuda:0"), (two, every)):
        done = run(capsys, *command(folder, target, "--logprobs", "--device", device))
        assert done.code == 0, done.err
    assert one.read_bytes() == two.read_bytes()


def test_a_kill_between_the_two_files(capsys, tmp_path, monkeypatch, folder):
    """In mode both, a run killed when one file is there goes on with --resume alone."""
    from routectl.formats.native import container as native

    target = tmp_path / "r.parquet"
    write = native.write_native

    def dies(samples, meta, path, *, force):
        if path.name == "r.forced.parquet":
            raise KeyboardInterrupt
        return write(samples, meta, path, force=force)

    with monkeypatch.context() as patch:
        patch.setattr(native, "write_native", dies)
        assert run(capsys, *command(folder, target, *BOTH)).code == 130
    assert target.exists()
    assert "already exists" in complaint(capsys, *command(folder, target, *BOTH))
    done = run(capsys, *command(folder, target, *BOTH, "--resume"))
    assert done.code == 0, done.err
    is_what_one_process_writes(folder, target)


def test_resume_does_not_replace_what_it_did_not_write(capsys, tmp_path, folder):
    """While samples are left to do, a file of the output's name is somebody else's."""
    target = tmp_path / "r.parquet"
    do_by_hand(folder, target, (0, 1))
    target.write_bytes(b"mine")
    said = complaint(capsys, *command(folder, target, *BOTH, "--resume"))
    assert "already exists" in said
    assert target.read_bytes() == b"mine"
    done = run(capsys, *command(folder, target, *BOTH, "--resume", "--force"))
    assert done.code == 0, done.err
    is_what_one_process_writes(folder, target)


def test_overlapping_and_damaged_parts_are_refused(capsys, tmp_path, folder):
    """A sample in two parts, a part of another length and a foreign name are one line each."""
    target = tmp_path / "r.parquet"
    do_by_hand(folder, target, (0, 1), (2,))
    parts = tmp_path / "r.parquet.partial"
    line = command(folder, target, *BOTH, "--resume")
    for name, said in (
        ("00000001-00000002", "sample 1 is in two parts"),
        ("x", "not a part"),
        ("00000002-00000004", "got 1 samples, expected 3"),
    ):
        for mode in ("free", "forced"):
            (parts / f"00000002-00000002.{mode}.parquet").rename(parts / f"{name}.{mode}.parquet")
        done = run(capsys, *line)
        assert (done.code, said in done.err) == (2, True), done.err
        for mode in ("free", "forced"):
            (parts / f"{name}.{mode}.parquet").rename(parts / f"00000002-00000002.{mode}.parquet")


@pytest.mark.parametrize("launcher", [None, TORCHRUN], ids=["alone", "torchrun"])
def test_resume_goes_on_from_the_parts_of_several(capsys, tmp_path, folder, launcher):
    """Parts with gaps, one of them in one mode only, are gone on from by one process, or by two
    ranks of torchrun, of which one speaks.
    """
    target = tmp_path / "r.parquet"
    do_by_hand(folder, target, (0, 1, 3), (5,), (6,))
    parts = tmp_path / "r.parquet.partial"
    (parts / "00000006-00000006.forced.parquet").unlink()
    spans = ["00000000-00000001", "00000003-00000003", "00000005-00000005"]
    assert [path.name.split(".")[0] for path in sorted(parts.glob("*.forced.*"))] == spans
    line = command(folder, target, *BOTH, "--resume")
    if launcher is None:
        done = run(capsys, *line)
        code, err = done.code, done.err
    else:
        code, err = finished(outside(*line, launcher=launcher))
    assert code == 0, err
    assert err.count("4 samples done before; going on") == 1
    assert err.count("routectl: wrote") == 2
    is_what_one_process_writes(folder, target)


def test_a_failed_process_ends_the_others(capsys, tmp_path, folder):
    """A sample that cannot be run is one line of its process; only finished parts are left."""
    done = run(
        capsys, *command(folder, tmp_path / "r.parquet", "--device", "cpu,cpu", dump="bare.parquet")
    )
    assert done.code == 2
    assert done.err.splitlines()[1:] == ["routectl: s5: it has no token ids to run"]
    only_finished_parts_are_left(tmp_path)


def test_a_failed_rank_ends_the_other(tmp_path, folder):
    """A sample that cannot be run is one line of its rank, and torchrun fails; nothing hangs."""
    line = command(folder, tmp_path / "r.parquet", dump="bare.parquet")
    code, err = finished(outside(*line, launcher=TORCHRUN))
    assert code == 1, err  # torchrun's own exit code
    said = [one for one in err.splitlines() if one.startswith("routectl: ") and "s5" in one]
    assert said == ["routectl: s5: it has no token ids to run"]
    only_finished_parts_are_left(tmp_path)


def test_a_share_that_is_not_done_is_not_joined(capsys, tmp_path, monkeypatch, folder):
    """Where a process ended well and wrote nothing, there is no output."""
    from routectl.jobs.recompute import run as recomputing

    monkeypatch.setattr(recomputing, "run_share", lambda *_: None)
    done = run(capsys, *command(folder, tmp_path / "r.parquet"))
    assert (done.code, "sample 0 is in no part" in done.err) == (2, True), done.err
    assert written(tmp_path) == []


def children_of(process, number):
    """The workers of a run, when all of them are there."""
    for _ in range(600):
        found = [
            child
            for child in psutil.Process(process.pid).children()
            if "spawn_main" in " ".join(child.cmdline())
        ]
        if len(found) == number:
            return found
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    raise AssertionError("no workers")


@pytest.mark.parametrize("how", [SIGINT, SIGKILL, "worker"])
def test_no_process_is_left_behind(tmp_path, folder, how):
    """On Ctrl-C, when the parent is killed, or one of them: all end, and --resume can go on."""
    target = tmp_path / "r.parquet"
    process = outside(*command(folder, target, "--device", "cpu,cpu", dump="long.parquet"))
    workers = children_of(process, 2)
    time.sleep(0.5)
    if how == "worker":
        workers[0].kill()
    else:
        process.send_signal(how)
    code, err = finished(process)
    assert code == {SIGINT: 130, SIGKILL: -SIGKILL, "worker": 2}[how], err
    assert "Traceback" not in err
    if how == "worker":
        assert err.endswith("routectl: the process on cpu was killed by signal 9\n")
    _, alive = psutil.wait_procs(workers, timeout=20)
    assert alive == []
    assert not target.exists()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--device", "cpu,abacus"), "device abacus"),
        (("--device", "cpu,cuda:7"), "device cuda:7"),
        (("--device", "cpu,"), "device"),
        (("--device", "cpu,meta"), "device cpu,meta: got cpu, meta, expected one kind"),
        (("--device", "cpu,cpu", "--router-inputs", "x.safetensors"), "written by one process"),
    ],
)
def test_refusals(capsys, tmp_path, monkeypatch, folder, more, said):
    """What several processes cannot do is one line, exit 2, and leaves nothing behind."""
    monkeypatch.chdir(tmp_path)
    assert said in complaint(capsys, *command(folder, "r.parquet", *more))
    assert written(tmp_path) == []


def test_a_process_checks_that_the_job_is_the_same(tmp_path, folder):
    """A process whose results would not fit the parts refuses to write any."""
    from dataclasses import replace

    target = tmp_path / "r.parquet"
    do_by_hand(folder, target)
    from routectl.forward import RunOptions

    options = RunOptions(checkpoint=folder / "checkpoint", dtype="bfloat16", mode="both")
    opened = partial(open_input, str(folder / "dump.parquet"), folder / "checkpoint")
    work = DeviceWork(options=options, open_source=opened, indices=(0,), output=target)
    with pytest.raises(RoutectlError, match="dtype was float32, is bfloat16"):
        do_work(work, print)
    with pytest.raises(RoutectlError, match="logprobs was True, is False"):
        do_work(replace(work, options=replace(options, dtype="float32")), print)


def test_budgets_reach_every_process(tmp_path, folder):
    """What --limit says holds in the processes that read the dump, too."""
    from routectl.forward import RunOptions

    options = RunOptions(checkpoint=folder / "checkpoint", device="cpu")
    opened = partial(open_input, str(folder / "dump.parquet"), folder / "checkpoint")
    work = DeviceWork(
        options=options, open_source=opened, indices=(0,), output=tmp_path / "r.parquet"
    )
    with raised_limits(cell="1"), pytest.raises(RoutectlError) as caught:
        run_workers([work], 1, None, print)
    assert "--limit cell=" in caught.value.hint
