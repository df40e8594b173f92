"""What holds for every test: one thread a process, kernels compiled once, the same examples.

Fixtures of the whole session: the checkpoints of tiny_rl and what recompute gives for them.
"""

import os
from pathlib import Path

from hypothesis import HealthCheck, settings

# Read when numba and torch are loaded, by the workers of xdist and by processes of tests too.
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny models gain nothing from more
os.environ.setdefault(
    "NUMBA_CACHE_DIR", str(Path(__file__).parent.parent / ".pytest_cache" / "numba")
)

from support.stores import bucket, s3_server  # noqa: F401
from support.tiny_rl import tiny_checkpoints, tiny_dumps  # noqa: F401

settings.register_profile(
    "routectl", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("routectl")
