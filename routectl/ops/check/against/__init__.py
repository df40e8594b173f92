"""check against a reference: what was done to the data is estimated, then named."""
