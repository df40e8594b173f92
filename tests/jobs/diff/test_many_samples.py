"""Very many small samples, from the command line: right counts in little memory."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))

import bench_many_samples as bench

_PEAK_MB = 700  # imports and compiled loops are half of it; row groups are held up to a limit


@pytest.mark.slow
def test_counts_and_memory(tmp_path):
    """Of 60,000 samples a side a diff and a check say what was made, in less than 700 MB."""
    paths = [tmp_path / "old.parquet", tmp_path / "new.parquet"]
    for path in paths:
        bench.write_dump(path, 60_000, is_new=path.stem == "new")
    for command, named in (("diff", paths), ("check", paths[:1])):
        document, _, _, peak = bench.measured([command, *map(str, named), "--jobs", "1"])
        assert bench.found_of(command, document) == bench.expected(60_000)[command]
        assert peak < _PEAK_MB
