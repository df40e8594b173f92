"""staleness: mismatch and old weights told apart, with intervals and drift."""
