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
request = routectl.PackRequest(dump="rollout.parquet", output=Path("replay"), layout=layout)
manifest = routectl.run(request, routectl.Progress(note=print))
"""
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
    (tmp_path / "wrong.py").write_text(PROGRAM.replace("framework=", "frame=", 1), "utf-8")
    (tmp_path / "mypy.ini").write_text(CONFIG, "utf-8")
    command = [sys.executable, "-m", "mypy", "--cache-dir", "cache", "right.py", "wrong.py"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    said = done.stdout.splitlines()
    assert (done.stderr, done.returncode, len(said)) == ("", 1, 2), done
    assert said[0].startswith('wrong.py:9: error: Unexpected keyword argument "frame"')
