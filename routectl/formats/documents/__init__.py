"""What JSON of foreign programs may be: typed fields, limits, a model's facts."""
