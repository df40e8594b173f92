"""How many clusters it takes to say an interval; apart, so that a report knows it without numpy."""

__all__ = ["FEWEST"]

# Of fewer, an end of a 95 % interval rests on under ten of 2,000 replicates, and intervals cover
# less than they say: docs/metrics.md has what was measured.
FEWEST = 8
