"""What holds for every test: one thread a process, kernels compiled once, the same examples.

Fixtures of the whole session: the checkpoints of tiny_rl and what recompute gives for them.
"""

import os
import signal
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, settings

# Read when numba and torch are loaded, by the workers of xdist and by processes of tests too.
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny models gain nothing from more
os.environ.setdefault(
    "NUMBA_CACHE_DIR", str(Path(__file__).parent.parent / ".pytest_cache" / "numba")
)

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as a shell leaves it to what it runs with &
    signal.signal(signal.SIGINT, signal.default_int_handler)  # tests send it, processes inherit it

from support.browser import browser  # noqa: F401
from support.stores import bucket, s3_server  # noqa: F401
from support.tiny_rl import tiny_checkpoints, tiny_dumps  # noqa: F401

# The user's cache of whoever runs the tests is not theirs: of a process, and of those it starts.
_CACHE = TemporaryDirectory(prefix="routectl-tests-cache-")
os.environ["XDG_CACHE_HOME"] = _CACHE.name

# The same examples each time; a longer search is the fuzz targets'.
settings.register_profile(
    "routectl",
    deadline=None,
    derandomize=True,
    max_examples=30,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("routectl")

# What is started once a process and takes seconds, and what takes long: xdist gives each worker a
# run of tests and moves the last of them, so that what stands first is one worker's.
STARTED = ("nodes", "browser", "tiny_dumps", "trainers", "slow")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with tests that need what is STARTED stand first, in that order."""
    place: dict[Path, int] = {}
    for item in items:
        needs = {*getattr(item, "fixturenames", ()), *(mark.name for mark in item.iter_markers())}
        first = next((i for i, name in enumerate(STARTED) if name in needs), len(STARTED))
        place[item.path] = min(first, place.get(item.path, first))
    items.sort(key=lambda item: place[item.path])
