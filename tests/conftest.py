"""One hypothesis profile: the same examples in every run, and no verdict on the machine's speed."""

from hypothesis import HealthCheck, settings

settings.register_profile(
    "routectl", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("routectl")
