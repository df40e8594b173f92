"""Two dumps compared and judged, for diff and recompute."""
