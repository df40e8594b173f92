"""Whether a share that was counted is over a limit by more than the few rows that were counted."""

from math import log

__all__ = ["exceeds"]

_NATS = 4.0  # log-likelihood of the share beyond that of the limit: z of 2.8, 0.2 % one-sided


def exceeds(wrong: int, rows: int, limit: float) -> bool:
    """Whether ``wrong`` of ``rows`` is more than a share ``limit`` (0..1) by more than chance."""
    if not rows or wrong <= limit * rows:
        return False
    right, share = rows - wrong, wrong / rows
    gain = wrong * log(share / limit)
    return gain + (right * log((1 - share) / (1 - limit)) if right else 0.0) > _NATS
