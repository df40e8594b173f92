"""Shards done by tasks of a Ray cluster, whatever happens to its workers and nodes."""

import os
import signal
from contextlib import contextmanager

import pytest

from routectl.errors import FormatError, RoutectlError
from routectl.jobs.progress import SILENT, Progress
from routectl.jobs.shards.crew import Crew
from routectl.jobs.shards.run import added, counted, in_order
from support.adding import Adding
from support.clusters import workers

pytestmark = pytest.mark.ray


@pytest.fixture
def crew(nodes):
    """The cluster, as --ray names it."""
    return Crew(ray=nodes.address)


def heard(on_shard):
    """A listener whose function is told how many shards are done."""

    @contextmanager
    def line(what, unit):
        yield lambda done, total, words: on_shard(done)

    return Progress(line=line)


def test_each_shard_is_added_once(cluster, tmp_path):
    """Tasks of two nodes add up what one process does, in a tree; each opens inputs once."""
    log = tmp_path / "log"
    total, errors, seen = counted(cluster, Adding(log, 100, slow_s=0.02))
    assert (total.total, errors) == (4950, {})
    assert sorted(seen) == sorted(f"number {i}" for i in range(100))
    assert os.getpid() not in total.processes
    assert sorted(map(int, log.read_text().split())) == sorted(total.processes)
    assert len(total.processes) > 1


def test_a_worker_is_killed(cluster, tmp_path):
    """What a killed worker was at is done again, once."""

    def kill_one(done):
        if done == 20:
            (victim, *_) = workers()
            victim.send_signal(signal.SIGKILL)

    total, errors, seen = counted(cluster, Adding(tmp_path / "log", 60, slow_s=0.05), kill_one)
    assert (total.total, errors) == (1770, {})
    assert len(seen) == 60


def test_a_node_is_lost(cluster, nodes, tmp_path):
    """What lay on a lost node, and what ran there, is done again on others."""

    def lose_one(done):
        if done == 20:
            nodes.lose()

    total, errors, _ = counted(cluster, Adding(tmp_path / "log", 60, slow_s=0.05), lose_one)
    assert (total.total, errors) == (1770, {})


def test_damaged_shards_are_told(cluster, tmp_path):
    """The rest is added up, and each damaged one is an error of its own kind, with its hint."""
    total, errors, _ = counted(cluster, Adding(tmp_path / "log", 30, bad=(3, 25)))
    assert total.total == sum(range(30)) - 28
    assert {n: (type(e), str(e), e.hint) for n, e in errors.items()} == {
        3: (FormatError, "number 3: damaged", "mend it"),
        25: (FormatError, "number 25: damaged", "mend it"),
    }


def test_the_first_damaged_shard_ends_the_rest(cluster, tmp_path):
    """Where no damage is tolerated, shards behind the first damaged one are given up."""
    work = Adding(tmp_path / "log", 200, bad=(2, 150), slow_s=0.05)
    total, errors, seen = counted(cluster, work, tolerant=False)
    assert total is None
    assert str(errors[min(errors)]) == "number 2: damaged"
    assert len(seen) < 150


def test_a_shard_that_always_kills_its_worker(cluster, tmp_path):
    """Ray gives it up after its own number of tries, and it is named."""
    with pytest.raises(RoutectlError, match=r"^number 4: given up by Ray: "):
        counted(cluster, Adding(tmp_path / "log", 6, deadly=(4,)))


def test_results_in_order(cluster, tmp_path):
    """What shards give comes in their order, few of them ahead, and an error in its turn."""
    work = Adding(tmp_path / "log", 40, bad=(30,), slow_s=0.01)
    found = in_order_there(cluster, work, work.cut(1000))
    for number in range(30):
        assert next(found)[1].total == number
    with pytest.raises(FormatError, match="number 30: damaged"):
        next(found)
