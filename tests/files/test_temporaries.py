"""What a killed run leaves is found by the next one; what a living one has is left alone."""

import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from routectl.errors import RoutectlError
from routectl.files import temporaries
from routectl.files.folders import replacing_folder
from routectl.files.scratch import scratch_file, scratch_folder
from routectl.files.temporaries import new_temporary
from routectl.files.writing import refuse_existing, replacing

HOLDING = """
import sys, time
from pathlib import Path
from routectl.files.temporaries import new_temporary
held = new_temporary(Path(sys.argv[1]), "a", folder=sys.argv[2] == "folder")
print(held.path, flush=True)
time.sleep(600)
"""
ROOT = Path(__file__).parent.parent.parent


def names(folder):
    """What is in a folder."""
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(params=["file", "folder"])
def holder(request, tmp_path):
    """A process that has a temporary of ``a``; its path is ``said``."""
    line = [sys.executable, "-c", HOLDING, str(tmp_path), request.param]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    process.said = Path(process.stdout.readline().strip())
    yield process
    process.kill()
    process.communicate()


def look(folder):
    """A run to the same name, as far as its first look."""
    refuse_existing(folder / "a", force=True)


def test_the_living_keep_theirs(tmp_path, holder):
    """A temporary whose run lives stays, and goes with the next run when it was killed."""
    look(tmp_path)
    assert names(tmp_path) == [holder.said.name]
    holder.kill()
    holder.wait()
    look(tmp_path)
    assert names(tmp_path) == []


def test_a_stopped_run_lives(tmp_path, holder):
    """A run that is stopped is not dead, however long ago it wrote."""
    holder.send_signal(signal.SIGSTOP)
    os.utime(holder.said, (0, 0))
    look(tmp_path)
    assert names(tmp_path) == [holder.said.name]


def test_the_next_run_removes_them_though_it_is_refused(tmp_path, holder):
    """A run that may not replace the file removes what a killed one left, and nothing else."""
    (tmp_path / "a").write_bytes(b"old")
    holder.kill()
    holder.wait()
    with pytest.raises(RoutectlError, match="already exists"):
        refuse_existing(tmp_path / "a", force=False)
    assert names(tmp_path) == ["a"]


def test_names_of_others_stay(tmp_path):
    """Only temporaries of the very name are removed: no name that holds it, nobody's own file."""
    others = [".a.tmp", ".a.0123-4567.tmp", ".b.01234567-01234567.tmp", "a.01234567-01234567.tmp"]
    others += [".a.b.01234567-01234567.tmp", ".a.01234567-01234567.tmp.bak", ".A.01234567-0.tmp"]
    for name in others:
        (tmp_path / name).touch()
    look(tmp_path)
    assert names(tmp_path) == sorted(others)


def test_another_machines_are_left_for_a_day(tmp_path, monkeypatch):
    """Where no lock tells, on another machine of a shared file system, age does: one day."""
    monkeypatch.setattr(temporaries, "_boot", lambda: "0" * 8)
    held = new_temporary(tmp_path, "a")
    os.close(held.fd)
    monkeypatch.undo()
    look(tmp_path)
    assert names(tmp_path) == [held.path.name]
    os.utime(held.path, (time.time() - 90_000,) * 2)
    look(tmp_path)
    assert names(tmp_path) == []


def test_without_locks_nothing_is_removed(tmp_path, monkeypatch):
    """On a file system without locks nobody knows who lives: nothing is removed, all is written."""
    held = new_temporary(tmp_path, "a")
    os.close(held.fd)
    monkeypatch.setattr(temporaries, "lock_is_had", lambda *_, **__: None)
    with replacing(tmp_path / "a", force=False) as stream:
        stream.write(b"new")
    assert names(tmp_path) == [held.path.name, "a"]


def test_a_name_that_was_taken_is_not_used(tmp_path, monkeypatch):
    """Where a run took a new temporary for a dead one's, before it was locked, another is made."""
    real, seen = temporaries.lock_is_had, []

    def taken_once(fd, **how):
        seen.append(fd)
        if len(seen) == 1:
            for path in tmp_path.iterdir():
                path.unlink()
        return real(fd, **how)

    monkeypatch.setattr(temporaries, "lock_is_had", taken_once)
    held = new_temporary(tmp_path, "a")
    assert (len(seen), names(tmp_path)) == (2, [held.path.name])
    os.close(held.fd)


class TestScratch:
    """$TMPDIR, where a run keeps what is its own."""

    def test_a_file_has_no_name(self, tmp_path, monkeypatch):
        """A scratch file is in no folder's list, and can be read and written."""
        monkeypatch.setenv("TMPDIR", str(tmp_path))
        with scratch_file() as file:
            file.write(b"abc")
            file.seek(1)
            assert (file.read(), names(tmp_path)) == (b"bc", [])

    def test_a_folder_goes(self, tmp_path, monkeypatch):
        """A scratch folder is its user's alone, goes after the block, and with a killed run's."""
        monkeypatch.setenv("TMPDIR", str(tmp_path))
        left = new_temporary(tmp_path, "routectl-x", folder=True)
        (left.path / "file").touch()
        os.close(left.fd)
        with scratch_folder("x") as folder:
            assert names(tmp_path) == [folder.name]
            assert folder.stat().st_mode & 0o777 == 0o700
            (folder / "file").touch()
        assert names(tmp_path) == []

    @pytest.mark.parametrize("what", ["absent", "file"])
    def test_trouble_names_the_folder(self, tmp_path, monkeypatch, what):
        """A TMPDIR that is not there, or is no folder, is one line that names it."""
        (tmp_path / "file").touch()
        monkeypatch.setenv("TMPDIR", str(tmp_path / what))
        with pytest.raises(RoutectlError, match=f"{what}: no temporary file can be") as told:
            scratch_file()
        assert told.value.hint == "TMPDIR names the folder for temporary files"
        with pytest.raises(RoutectlError, match=what), scratch_folder("x"):
            pass

    def test_a_full_one_is_named(self, tmp_path, monkeypatch):
        """A write that finds TMPDIR full names it, and not the file that the bytes were for."""
        monkeypatch.setenv("TMPDIR", str(tmp_path))
        process = multiprocessing.get_context("fork").Process(target=fill, args=(tmp_path,))
        process.start()
        process.join()
        assert (process.exitcode, names(tmp_path)) == (0, [])


def fill(folder):
    """Write a scratch file where there is room for 1000 bytes."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    with (
        pytest.raises(RoutectlError, match=f"{folder}: no temporary file can be written there: "),
        replacing(folder / "a", force=False),
        scratch_file() as file,
    ):
        file.write(b"x" * 100_000)


def test_a_folder_put_aside_is_put_back(tmp_path):
    """Where folders cannot be exchanged, one put aside by a run that died is back with the next."""
    old = tmp_path / f".a.{temporaries._boot()}-01234567.old"
    old.mkdir()
    (old / "kept").touch()
    with pytest.raises(RoutectlError, match="already exists"):
        refuse_existing(tmp_path / "a", force=False, folder=True)
    assert (names(tmp_path), names(tmp_path / "a")) == (["a"], ["kept"])
    with replacing_folder(tmp_path / "a", force=True, foreign=lambda _: None) as folder:
        (folder / "new").touch()
    assert (names(tmp_path), names(tmp_path / "a")) == (["a"], ["new"])
