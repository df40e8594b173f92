"""routectl recompute --ray: workers of a real cluster, on the CPU, write what one process does."""

from dataclasses import replace
from functools import partial

import pytest

from routectl.jobs.progress import SILENT
from routectl.jobs.recompute.cluster import elsewhere_of
from support.crews import (
    BOTH,
    EXACT,
    command,
    do_by_hand,
    is_what_one_process_writes,
    make_folder,
    opened_or_killed,
    work_by_hand,
)
from support.shell import complaint, run, written

pytestmark = [pytest.mark.ray, pytest.mark.models]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny checkpoint, dumps, and what one process writes of one of them in mode both."""
    return make_folder(tmp_path_factory.mktemp("there"), long=())


def test_workers_write_what_one_process_does(capsys, tmp_path, folder, nodes):
    """Four workers of two nodes: routes, margins, log-probs, order and metadata, byte for byte."""
    target = tmp_path / "r.parquet"
    done = run(capsys, *command(folder, target, *BOTH, "--ray", nodes.address))
    assert done.code == 0, done.err
    assert "by each of 4 processes" in done.err
    is_what_one_process_writes(folder, target)
    assert written(tmp_path) == ["r.forced.parquet", "r.parquet"]


def test_workers_go_on_from_parts(capsys, tmp_path, folder, nodes):
    """Parts with gaps, of whatever processes, are gone on from with --resume."""
    target = tmp_path / "r.parquet"
    do_by_hand(folder, target, (0, 1, 3), (5,))
    done = run(capsys, *command(folder, target, *BOTH, "--ray", nodes.address, "--resume"))
    assert done.code == 0, done.err
    assert "4 samples done before; going on" in done.err
    is_what_one_process_writes(folder, target)


def test_a_worker_is_killed(capsys, tmp_path, folder, cluster):
    """Ray calls a killed worker's share again; what is joined then is byte for byte the same."""
    target, log = tmp_path / "r.parquet", tmp_path / "killed"
    work = work_by_hand(folder, target)
    deadly = replace(work, open_source=partial(opened_or_killed, log, work.open_source))
    workers = elsewhere_of(cluster, "cpu", 1)
    assert (workers.size, workers.sharing) == (4, 2)
    workers.run([deadly.given((0, 1, 2)), deadly.given((3, 4, 5, 6))], SILENT)
    assert log.exists()
    done = run(capsys, *command(folder, target, *BOTH, "--resume"))
    assert done.code == 0, done.err
    is_what_one_process_writes(folder, target)


def test_a_sample_that_cannot_be_run(capsys, tmp_path, folder, nodes):
    """It is one line, exit 2; parts that were finished are left, and nothing else."""
    line = command(folder, tmp_path / "r.parquet", "--ray", nodes.address, dump="bare.parquet")
    done = run(capsys, *line)
    assert done.code == 2
    assert done.err.splitlines()[-1] == "routectl: s5: it has no token ids to run"
    assert not (tmp_path / "r.parquet").exists()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--device", "cuda"), "device cuda: no node of the cluster has a GPU"),
        (("--device", "cpu,cpu"), "device cpu,cpu: expected auto, cuda or cpu with --ray"),
        (("--threads", "3"), "--threads 3: got nodes of 2 processors"),
        (("--noise-floor",), "--noise-floor is of one process: expected no --ray"),
        (("--router-inputs", "x.safetensors"), "--router-inputs is of one process"),
        (("--jobs", "2"), "--jobs is of this machine"),
    ],
)
def test_refusals(capsys, tmp_path, monkeypatch, folder, nodes, more, said):
    """What a cluster cannot do is one line, exit 2, and leaves nothing behind."""
    monkeypatch.chdir(tmp_path)
    line = command(folder, "r.parquet", "--ray", nodes.address)
    if more[0] in EXACT:  # an option is given once
        line = tuple(word for word in line if word not in EXACT[:2])
    assert said in complaint(capsys, *line, *more)
    assert written(tmp_path) == []
