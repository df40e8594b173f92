"""routectl as a typed package: a user's program passes ``mypy --strict``."""

import subprocess
import sys

import pytest

PROGRAM = """
from pathlib import Path

import routectl

old = routectl.open_dump("rollout.parquet", model="config.json")
result = routectl.diff(old, routectl.open_dump("trainer.npz"), tokens="response")
rows: int = result.rows_mismatched
packing = routectl.Packing([9, 17], framework="slime", tp=2, cp=4)
packed = routectl.pack([s.routes for s in old if s.routes], packing, routectl.Rank(cp=1, tp=0))
layout = routectl.LayoutOptions(framework="slime", tp=2, cp=4)
request = routectl.PackRequest(dump="rollout.parquet", save=Path("replay"), layout=layout)
manifest = routectl.run(request, routectl.Progress(note=print))

paths: routectl.DiffAnswer = routectl.diff(
    "rollout.parquet", Path("trainer.npz"), layers=range(4), fail_over=["mismatch:1%"]
)
code: int = (paths + result).verdict.exit_code
names: list[str] = paths.to_arrow("layers").column_names
found = routectl.check("rollout.parquet", old, select="R2").findings
lags = routectl.staleness(old, {"v0": "v0.parquet", "v1": [old, "v1.npz"]}).by_lag
written: int = routectl.write(old, "x.parquet", codec="set")["samples"]
back = routectl.unpack("r", save="y")
tensors: routectl.Packed = routectl.pack("rollout.parquet", routectl.layout([9], tp=2))
proved: bool = routectl.verify(Path("replay"), "rollout.parquet").ok
text: str = repr(routectl.show("checkpoints/1")) + paths._repr_html_()
"""
WRONG = (  # what is replaced, by what, and what mypy says of it
    ("Packing([9, 17], framework=", "Packing([9, 17], frame=", 'keyword argument "frame"'),
    ("fail_over=", "fail_ovr=", 'keyword argument "fail_ovr"'),
    ('codec="set"', "codec=3", 'Argument "codec" to "write" has incompatible type "int"'),
)
# Large libraries that no type of the program is made of are not read: 6 s in place of 44.
CONFIG = """
[mypy]
strict = True
[mypy-torch.*,transformers.*,wandb.*]
follow_imports = skip
"""


@pytest.mark.slow
def test_a_users_program_is_checked(tmp_path):
    """Public names have their types outside of the house, and a wrong one is noticed."""
    (tmp_path / "right.py").write_text(PROGRAM, "utf-8")
    wrong = PROGRAM
    for right, other, _ in WRONG:
        assert wrong.count(right) == 1
        wrong = wrong.replace(right, other)
    (tmp_path / "wrong.py").write_text(wrong, "utf-8")
    (tmp_path / "mypy.ini").write_text(CONFIG, "utf-8")
    command = [sys.executable, "-m", "mypy", "--cache-dir", "cache", "right.py", "wrong.py"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    said = done.stdout.splitlines()
    errors = [line for line in said if ": error: " in line]
    assert (done.stderr, done.returncode, len(errors)) == ("", 1, len(WRONG)), done
    for line, (_, _, told) in zip(errors, WRONG, strict=True):
        assert line.startswith("wrong.py:")
        assert told in line
