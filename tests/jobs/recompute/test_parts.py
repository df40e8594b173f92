"""The folder of finished parts: whose it is, and when it is begun anew."""

import json
import stat

import pytest

from routectl.errors import MismatchError, RoutectlError
from routectl.files import temporaries
from routectl.files.writing import refuse_existing
from routectl.jobs.recompute.parts import holding_parts, parts_folder
from support.crews import dump_of

JOB = {"mode": "free", "dtype": "float32", "tokens": True}
LAYERS = (0, 1)


def part(folder):
    """A finished part of two samples, whose digests stand in a dump beside."""
    return dump_of(folder / "00000000-00000001.free.parquet", (4, 5), LAYERS)


def test_one_run_at_a_time_has_the_folder(tmp_path):
    """A second run beside a living one is refused; the folder is its user's alone."""
    output = tmp_path / "a.parquet"
    with holding_parts(output, JOB, ("free",), resume=False) as parts:
        assert stat.S_IMODE(parts.folder.stat().st_mode) == 0o700
        with (
            pytest.raises(RoutectlError, match="another run writes it"),
            holding_parts(output, JOB, ("free",), resume=True),
        ):
            pass
        assert json.loads((parts.folder / "job.json").read_text("utf-8")) == JOB
    with holding_parts(output, JOB, ("free",), resume=True):
        pass


def test_without_a_finished_part_a_job_is_begun_anew(tmp_path):
    """Where a killed run has finished nothing, another job needs no --resume and no deleting."""
    output = tmp_path / "a.parquet"
    folder = parts_folder(output)
    folder.mkdir()
    for left in (None, json.dumps(JOB | {"dtype": "bfloat16"}), "half of a jo"):
        if left is not None:
            (folder / "job.json").write_text(left, "utf-8")
        with holding_parts(output, JOB, ("free",), resume=False) as parts:
            assert parts.done() == []
        assert json.loads((folder / "job.json").read_text("utf-8")) == JOB


def test_finished_parts_are_kept_for_resume(tmp_path):
    """A finished part asks for --resume; what was not finished goes."""
    output = tmp_path / "a.parquet"
    with holding_parts(output, JOB, ("free",), resume=False) as parts:
        part(parts.folder)
        (parts.folder / ".x.01234567-01234567.tmp").touch()
    with (
        pytest.raises(MismatchError, match="an earlier run left finished parts there"),
        holding_parts(output, JOB, ("free",), resume=False),
    ):
        pass
    with holding_parts(output, JOB, ("free",), resume=True) as parts:
        parts.tidy()
        assert parts.done() == [range(2)]
        assert not list(parts.folder.glob(".*"))


def test_a_joined_file_is_known(tmp_path):
    """A file with the routes of all parts is what a killed run had joined; another one is not."""
    output = tmp_path / "a.parquet"
    with holding_parts(output, JOB, ("free",), resume=False) as parts:
        part(parts.folder)
        assert not parts.is_joined("free", output)
        output.write_bytes(b"something else")
        assert not parts.is_joined("free", output)
        output.unlink()
        dump_of(output, (4, 5), LAYERS)
        assert parts.is_joined("free", output)
        output.unlink()
        dump_of(output, (4, 6), LAYERS)
        assert not parts.is_joined("free", output)


def test_parts_go_whole(tmp_path, monkeypatch):
    """A run that is killed while its parts go leaves no folder of parts that lacks some of them."""
    output = tmp_path / "a.parquet"
    with holding_parts(output, JOB, ("free",), resume=False) as parts:
        part(parts.folder)
        monkeypatch.setattr(temporaries, "_remove", lambda path: (path / "job.json").unlink())
        parts.drop()
        monkeypatch.undo()
        assert not parts.folder.exists()
    assert len(list(tmp_path.iterdir())) == 1
    output.touch()
    with pytest.raises(RoutectlError, match="already exists"):
        refuse_existing(output, force=False)
    assert list(tmp_path.iterdir()) == [output]
