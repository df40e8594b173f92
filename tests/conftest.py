"""One hypothesis profile: the same examples in every run, and no verdict on the machine's speed.

Fixtures of the whole session: the checkpoints of tiny_rl and what recompute gives for them.
"""

from hypothesis import HealthCheck, settings

from support.tiny_rl import tiny_checkpoints, tiny_dumps  # noqa: F401

settings.register_profile(
    "routectl", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("routectl")
