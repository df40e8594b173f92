"""Shards done by tasks of a Ray cluster, whatever happens to its workers and nodes."""

import os
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


def test_each_shard_is_added_once(crew, tmp_path):
    """Tasks of two nodes add up what one process does, in a tree; each opens inputs once."""
    log, seen = tmp_path / "log", []
    found = added(Adding(log, 100, slow_s=0.02), crew, heard(seen.append))
    assert found.total == 4950
    assert seen == list(range(101))
    assert os.getpid() not in found.processes
    assert sorted(map(int, log.read_text().split())) == sorted(found.processes)
    assert len(found.processes) > 1


def test_a_worker_is_killed(crew, tmp_path):
    """What a killed worker was at is done again, once."""
    killed = []

    def kill_one(done):
        if done >= 20 and not killed:
            killed.extend(one.kill() for one in workers("adding")[:1])

    found = added(Adding(tmp_path / "log", 60, slow_s=0.05), crew, heard(kill_one))
    assert found.total == 1770
    assert len(killed) == 1


def test_a_node_is_lost(crew, nodes, tmp_path):
    """What lay on a lost node, and what ran there, is done again on others."""
    lost = []

    def lose_one(done):
        if done >= 20 and not lost:
            lost.append(nodes.lose())

    found = added(Adding(tmp_path / "log", 60, slow_s=0.05), crew, heard(lose_one))
    assert found.total == 1770
    assert len(lost) == 1


def test_damaged_shards_are_told(crew, tmp_path):
    """The rest is added up, and each damaged one is an error of its own kind, with its hint."""
    found = counted(Adding(tmp_path / "log", 30, bad=(3, 25)), crew, SILENT)
    assert found.partial.total == sum(range(30)) - 28
    assert [(type(one), str(one), one.hint) for one in found.errors] == [
        (FormatError, "number 3: damaged", "mend it"),
        (FormatError, "number 25: damaged", "mend it"),
    ]


def test_the_first_damaged_shard_ends_the_rest(crew, tmp_path):
    """Where no damage is tolerated, shards behind the first damaged one are given up."""
    seen = []
    with pytest.raises(FormatError, match=r"^number 2: damaged"):
        added(Adding(tmp_path / "log", 200, bad=(2, 150), slow_s=0.05), crew, heard(seen.append))
    assert len(seen) < 150


def test_a_shard_that_always_kills_its_worker(crew, tmp_path):
    """Ray gives it up after its own number of tries, and it is named."""
    with pytest.raises(RoutectlError, match=r"^number 4: given up by Ray: "):
        added(Adding(tmp_path / "log", 6, deadly=(4,)), crew, SILENT)


def test_results_in_order(crew, tmp_path):
    """What shards give comes in their order, few of them ahead, and an error in its turn."""
    found = in_order(Adding(tmp_path / "log", 40, bad=(30,), slow_s=0.01), crew, SILENT)
    assert [next(found).total for _ in range(30)] == list(range(30))
    with pytest.raises(FormatError, match="number 30: damaged"):
        next(found)
