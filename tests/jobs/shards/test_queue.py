"""Who takes which shard next, and workers that stay from one run to the next."""

import os
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from routectl.jobs.progress import SILENT
from routectl.jobs.shards.crew import Crew
from routectl.jobs.shards.queue import Queue
from routectl.jobs.shards.run import added, in_order
from routectl.jobs.shards.team import current_team, one_team
from support.adding import Adding


@given(st.integers(0, 60), st.lists(st.integers(0, 3), max_size=80))
def test_each_is_taken_once(count: int, turns: list[int]) -> None:
    """In whatever turn, all are taken once, each behind the taker's last where that is left."""
    queue, last, found = Queue(count), dict[int, int](), list[int]()
    for who in [*turns, *[0] * count]:
        if not queue:
            break
        before = last.get(who)
        last[who] = queue.take(before, far=who > 0)
        if before is not None and before + 1 < count and before + 1 not in found:
            assert last[who] == before + 1
        found.append(last[who])
    assert sorted(found) == list(range(count))


def test_two_that_take_turns_meet_once() -> None:
    """One begins at the first, the other in the middle: neither crosses the other's run."""
    queue, last, jumps = Queue(100), [None, None], 0
    for turn in range(100):
        who = turn % 2
        number = queue.take(last[who], far=who > 0)
        jumps += last[who] is not None and number != last[who] + 1
        last[who] = number
    assert (len(queue), jumps) == (0, 0)


def test_what_is_behind_an_error_is_dropped() -> None:
    """Numbers below it are taken still."""
    queue = Queue(10)
    assert [queue.take(None, far=True), queue.take(5, far=False)] == [5, 6]
    queue.drop(8)
    assert len(queue) == 6
    assert sorted(queue.take_lowest() for _ in range(6)) == [0, 1, 2, 3, 4, 7]
    assert queue.lowest is None


def test_runs_of_a_team_share_workers(tmp_path: Path) -> None:
    """A worker is started once for two runs, whether they add up or are in order; none is left."""
    crew, log = Crew(jobs=2), tmp_path / "log"
    with one_team(crew, []):
        found = [added(Adding(log, n, slow_s=0.02), crew, SILENT).processes for n in (250, 30)]
        parts = list(in_order(Adding(log, 30, slow_s=0.02), crew, SILENT))
    assert found[0] == found[1]
    assert len(found[0]) == 2
    assert found[0] - {os.getpid()} <= frozenset().union(*(one.processes for one in parts))
    assert not [pid for pid in found[0] - {os.getpid()} if Path(f"/proc/{pid}").exists()]


def test_a_worker_has_a_shard_before_the_leader_does_its_first(tmp_path: Path) -> None:
    """Of two shards each process does one: a worker of the run before is not waited for."""
    crew, log = Crew(jobs=2), tmp_path / "log"
    with one_team(crew, []):
        served = added(Adding(log, 250, slow_s=0.02), crew, SILENT).processes
        assert added(Adding(log, 2), crew, SILENT).processes == served


def test_large_files_start_workers_at_once(tmp_path: Path) -> None:
    """They are there before there is work, and gone without any; small files start none."""
    large, small = tmp_path / "large", tmp_path / "small"
    small.write_bytes(b"x")
    with large.open("wb") as stream:
        stream.truncate(1 << 30)
    for path, expected in ((large, True), (small, False), (tmp_path, False)):
        with one_team(Crew(jobs=2), [str(path)], ["json"]):
            team = current_team()
            assert team is not None
            assert (team.workers is not None) == expected
        assert team.workers is None
    assert current_team() is None
