"""diff: compared rows counted, measured and held against thresholds."""
