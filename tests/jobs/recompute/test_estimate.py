"""How long a run will take is said once, when some seconds of it were measured."""

from contextlib import nullcontext

import pytest

from routectl.jobs.progress import Progress
from routectl.jobs.recompute import estimate
from routectl.jobs.recompute.estimate import duration, estimating


def told(monkeypatch, steps, total=100):
    """The notes of a run whose clock stands at these seconds when so many samples are done."""
    notes, shown, clock = [], [], [0.0]
    monkeypatch.setattr(estimate.time, "monotonic", lambda: clock[0])
    seen = Progress(notes.append, lambda *_: nullcontext(lambda *of: shown.append(of[:2])))
    with estimating(seen).line("recomputing", "samples") as show:
        for seconds, done in steps:
            clock[0] = seconds
            show(done, total, lambda elapsed: "")
    assert shown == [(done, total) for _, done in steps]  # whoever looks sees every step
    return notes


def test_it_is_said_once_when_measured(monkeypatch):
    """Nothing in the first seconds, then what is left by what was done, and not again."""
    found = told(monkeypatch, [(0, 0), (1, 1), (4, 2), (8, 4)])
    assert found == ["about 3 min left, judged by 2 of 100 samples in 4 s"]


def test_a_share_of_a_pass_is_a_measure(monkeypatch):
    """A streamed run is judged by the layers of its pass that are done, as parts of its samples."""
    assert told(monkeypatch, [(40, 2.5)], 100)[0].startswith("about 26 min left, judged by 2.5 of")


def test_what_is_over_soon_is_not_said(monkeypatch):
    """A run with seconds left, or at its end, says nothing."""
    assert told(monkeypatch, [(4, 80), (5, 100)]) == []


@pytest.mark.parametrize(
    ("seconds", "words"), [(40, "40 s"), (99, "99 s"), (720, "12 min"), (12_600, "3.5 h")]
)
def test_times_in_words(seconds, words):
    """Seconds, minutes and hours, with as many digits as an estimate has."""
    assert duration(seconds) == words
