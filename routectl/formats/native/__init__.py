"""routectl's own container: Parquet with one row a sample, one column a MoE layer."""
