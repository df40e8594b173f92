"""Workers that are started however small the work is, so that tests see them at it."""

import pytest

from routectl.jobs.shards import run as runner

__all__ = ["hired"]


def hired(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let --jobs N start workers for any work; the list fills with how many were started."""
    started: list[int] = []

    class Counted(runner.Workers):
        def grow(self, count, modules=()):
            if count > 0:
                started.append(count)
            super().grow(count, modules)

    monkeypatch.setattr(runner, "_SURE_BYTES", 0)
    monkeypatch.setattr(runner, "Workers", Counted)
    return started
