"""What holds for every test of a job: captures wait shorter before they ask again."""

import pytest

from routectl.jobs.capture import CaptureRequest


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch):
    """The first wait of a capture is 0.01 s, in this process: it has no flag."""
    monkeypatch.setitem(CaptureRequest.__init__.__kwdefaults__, "backoff", 0.01)
