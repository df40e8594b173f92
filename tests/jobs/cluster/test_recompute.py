"""routectl recompute --ray: workers of a real cluster, on the CPU, write what one process does."""

import time
from threading import Thread

import pytest

from support.clusters import workers
from support.crews import BOTH, command, do_by_hand, is_what_one_process_writes, make_folder
from support.shell import complaint, run, written

pytestmark = [pytest.mark.ray, pytest.mark.models]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny checkpoint, dumps, and what one process writes of one of them in mode both."""
    return make_folder(tmp_path_factory.mktemp("there"), long=(400,) * 60)


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


def test_a_worker_is_killed(capsys, tmp_path, folder, nodes):
    """Ray calls a killed worker's share again, and what is written is the same."""
    one, two, killed = tmp_path / "one.parquet", tmp_path / "two.parquet", []
    assert run(capsys, *command(folder, one, dump="long.parquet")).code == 0

    def kill_one():
        end = time.monotonic() + 60
        while not killed and time.monotonic() < end:
            time.sleep(0.02)
            for victim in workers("recomputing")[:1]:
                victim.kill()
                killed.append(victim.pid)

    killer = Thread(target=kill_one)
    killer.start()
    done = run(capsys, *command(folder, two, "--ray", nodes.address, dump="long.parquet"))
    killer.join()
    assert done.code == 0, done.err
    assert len(killed) == 1
    assert two.read_bytes() == one.read_bytes()


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
    line = command(folder, "r.parquet", "--ray", nodes.address, *more)
    assert said in complaint(capsys, *line)
    assert written(tmp_path) == []
