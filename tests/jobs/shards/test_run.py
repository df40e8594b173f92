"""Shards run by this process and by workers."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from routectl.errors import FormatError, RoutectlError
from routectl.jobs.progress import SILENT, Progress, Show
from routectl.jobs.shards.crew import ALONE, Crew
from routectl.jobs.shards.run import added, counted, in_order
from routectl.jobs.shards.work import cut_runs
from support.adding import Adding

TWO = Crew(jobs=2)


def test_workers_add_up_what_one_process_does(tmp_path: Path) -> None:
    """A worker and this process give the sum that it gives alone; each opens its inputs once."""
    log = tmp_path / "log"
    alone = added(Adding(log, 20), ALONE, SILENT)
    assert alone.processes == {os.getpid()}
    log.unlink()
    both = added(Adding(log, 120, slow_s=0.02), TWO, SILENT)
    assert (alone.total, both.total) == (190, 7140)
    opened = log.read_text().split()
    assert sorted(opened) == sorted(map(str, both.processes))
    assert len(opened) == 2


def test_small_work_stays_in_this_process(tmp_path: Path) -> None:
    """Shards of a few bytes that are done in no time start no worker."""
    work = Adding(tmp_path / "log", 100, weight=1000)
    assert added(work, Crew(jobs=8), SILENT).processes == {os.getpid()}


def test_results_come_in_order(tmp_path: Path) -> None:
    """What workers give is taken in the order of shards."""
    found = list(in_order(Adding(tmp_path / "log", 120, slow_s=0.02), TWO, SILENT))
    assert [one.total for one in found] == list(range(120))
    assert len(frozenset().union(*(one.processes for one in found))) == 3


@pytest.mark.parametrize("crew", [ALONE, TWO])
def test_the_first_damaged_shard_is_told(tmp_path: Path, crew: Crew) -> None:
    """Whatever the number of processes, the error is that of the first shard that has one."""
    work = Adding(tmp_path / "log", 120, bad=(119, 70, 72), slow_s=0.02 * (crew is TWO))
    for taken in (added, lambda *of: list(in_order(*of))):
        with pytest.raises(FormatError) as caught:
            taken(work, crew, SILENT)
        assert (str(caught.value), caught.value.hint) == ("number 70: damaged", "mend it")


def test_what_could_be_read_is_counted(tmp_path: Path) -> None:
    """The rest of damaged shards is added up, and each of them is told."""
    found = counted(Adding(tmp_path / "log", 100, bad=(3, 90), slow_s=0.02), TWO, SILENT)
    assert found.partial is not None
    assert found.partial.total == sum(range(100)) - 93
    assert [str(error) for error in found.errors] == ["number 3: damaged", "number 90: damaged"]


def test_a_worker_that_dies_is_told_with_its_shard(tmp_path: Path) -> None:
    """A killed process is an error that names what it was at."""
    work = Adding(tmp_path / "log", 60, slow_s=0.05, deadly=tuple(range(60)))
    with pytest.raises(RoutectlError, match=r"^number \d+: the process on it was killed") as caught:
        added(work, TWO, SILENT)
    assert "--jobs" in str(caught.value.hint)


@given(st.lists(st.integers(0, 100), min_size=1, max_size=50), st.integers(1, 20))
def test_runs_hold_every_item_once(weights: list[int], most: int) -> None:
    """Runs of items are in order, at most so many, and none is empty."""
    runs = cut_runs(weights, most, least=50)
    assert [i for run in runs for i in run] == list(range(len(weights)))
    assert len(runs) <= most
    assert all(len(run) for run in runs)


def test_runs_are_about_equal() -> None:
    """Items of one weight are cut into runs as long as each other, but for one item."""
    lengths = [len(run) for run in cut_runs(np.full(1000, 100), 7, least=1)]
    assert max(lengths) - min(lengths) <= 1


def test_runs_begin_where_something_is_read_at_once() -> None:
    """With as many beginnings as runs, each run begins at one; with fewer they do not matter."""
    weights, starts = np.full(100, 10), np.arange(0, 100, 6)
    runs = cut_runs(weights, 5, least=1, starts=starts)
    assert {run.start for run in runs} <= set(starts.tolist())
    assert [i for run in runs for i in run] == list(range(100))
    assert len(runs) == 5
    assert cut_runs(weights, 20, least=1, starts=starts) == cut_runs(weights, 20, least=1)


def test_an_interrupted_run_leaves_no_process(tmp_path: Path) -> None:
    """Ctrl-C in the middle ends every worker."""
    log = tmp_path / "log"

    @contextmanager
    def line(what: str, unit: str) -> Iterator[Show]:
        def show(done: float, total: int, words: object) -> None:
            if len(log.read_text().split() if log.exists() else []) > 2:  # two workers are at it
                raise KeyboardInterrupt

        yield show

    with pytest.raises(KeyboardInterrupt):
        added(Adding(log, 400, slow_s=0.02), Crew(jobs=3), Progress(line=line))
    pids = {int(pid) for pid in log.read_text().split()} - {os.getpid()}
    assert len(pids) == 2
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]
