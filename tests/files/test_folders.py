"""A folder is written whole or not at all; one that holds what is not ours is never replaced."""

import errno
import multiprocessing
import os
import stat

import pytest

from routectl.errors import RoutectlError
from routectl.files import folders
from routectl.files.folders import replacing_folder
from support.racing import raced


def names(folder):
    """What is in a folder."""
    return sorted(path.name for path in folder.iterdir())


def foreign(folder):
    """These tests' folders hold numbered files and nothing else."""
    if not folder.is_dir():
        return "is not a folder"
    others = [path.name for path in folder.iterdir() if not path.name.isdecimal()]
    return f"holds {others[0]}" if others else None


def write(path, number=1, *, force=False, files=3, meanwhile=None):
    """Write a folder of some files, each with the number of the writer; and a file meanwhile."""
    with replacing_folder(path, force=force, foreign=foreign) as folder:
        if meanwhile is not None:
            meanwhile.touch()
        (folder / "0").mkdir()
        for name in range(1, files):
            (folder / str(name)).write_text(str(number), "utf-8")


def whole(path, files=3):
    """The number in a folder that one writer wrote, all of it."""
    assert names(path) == sorted(map(str, range(files)))
    (number,) = {(path / str(name)).read_text("utf-8") for name in range(1, files)}
    return int(number)


@pytest.fixture(params=["exchange", "two renames"])
def _how(request, monkeypatch):
    """Both ways to put a folder in the place of another."""
    if request.param == "two renames":
        monkeypatch.setattr(folders, "exchange", lambda *_: False)


def test_a_folder_appears_whole(tmp_path):
    """While it is written it is hidden and its user's alone, then it has the umask's mode."""
    path = tmp_path / "deep" / "er" / "a"
    with replacing_folder(path, force=False, foreign=foreign) as folder:
        assert folder.parent == path.parent
        assert folder.name.startswith(".a.")
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert not path.exists()
    plain = tmp_path / "plain"
    plain.mkdir()
    assert path.stat().st_mode == plain.stat().st_mode
    assert names(path.parent) == ["a"]


@pytest.mark.usefixtures("_how")
def test_a_folder_is_replaced(tmp_path):
    """With force a folder takes the place of another, with its permissions; without it is kept."""
    path = tmp_path / "a"
    write(path, 1)
    path.chmod(0o750)
    with pytest.raises(RoutectlError, match="already exists"):
        write(path, 2)
    assert whole(path) == 1
    write(path, 3, force=True)
    assert (whole(path), names(tmp_path)) == (3, ["a"])
    assert stat.S_IMODE(path.stat().st_mode) == 0o750


@pytest.mark.usefixtures("_how")
@pytest.mark.parametrize("when", ["before", "meanwhile", "at the last moment"])
def test_what_is_not_ours_is_kept(tmp_path, monkeypatch, when):
    """A folder with another's file in it is not replaced, whenever the file came."""
    path = tmp_path / "a"
    write(path, 1)
    if when == "before":
        (path / "notes").touch()
    if when == "at the last moment":
        waited = folders.lock_is_had

        def late(fd, **how):
            (path / "notes").touch()
            return waited(fd, **how)

        monkeypatch.setattr(folders, "lock_is_had", late)
    notes = None if when == "at the last moment" else path / "notes"
    with pytest.raises(RoutectlError, match="a: holds notes, so --force does not replace it"):
        write(path, 2, force=True, meanwhile=notes)
    assert (names(path), names(tmp_path)) == (["0", "1", "2", "notes"], ["a"])


def test_a_folder_with_anothers_file_is_exchanged_back(tmp_path, monkeypatch):
    """What came between the last look and the exchange is seen after it, and all is put back."""
    path, real = tmp_path / "a", folders.exchange
    write(path, 1)

    def late(one, other):
        if not (path / "notes").exists() and not (one / "notes").exists():
            (path / "notes").touch()
        return real(one, other)

    monkeypatch.setattr(folders, "exchange", late)
    with pytest.raises(RoutectlError, match="holds notes"):
        write(path, 2, force=True)
    assert (names(path), names(tmp_path)) == (["0", "1", "2", "notes"], ["a"])
    assert (path / "1").read_text("utf-8") == "1"


@pytest.mark.parametrize("came", ["folder", "file", "link"])
def test_what_appears_meanwhile_is_kept(tmp_path, came):
    """Without force, what came to have the name while the folder was written stays."""
    path = tmp_path / "a"
    with (
        pytest.raises(RoutectlError, match="already exists: it came while"),
        replacing_folder(path, force=False, foreign=foreign),
    ):
        {"folder": path.mkdir, "file": path.touch, "link": lambda: path.symlink_to("b")}[came]()
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize("at", [1, 2])
def test_two_renames_are_recovered(tmp_path, at):
    """A run that dies before one of its renames leaves the old folder; the next puts it back."""
    path = tmp_path / "a"
    write(path, 1)
    context = multiprocessing.get_context("fork")
    process = context.Process(target=die_at_rename, args=(path, at))
    process.start()
    process.join()
    assert process.exitcode == 9
    assert path.exists() == (at != 2)
    with pytest.raises(RoutectlError, match="already exists"):
        write(path, 3)
    assert whole(path) == 1
    assert names(tmp_path) == ["a"]


def die_at_rename(path, at):
    """Replace a folder in two renames, and die just before one of them."""
    from pathlib import Path

    real = folders.rename_new

    def second(old, new):
        if not os.path.lexists(new):
            os._exit(9)
        real(old, new)

    folders.exchange = lambda *_: False
    if at == 1:
        Path.rename = lambda *_: os._exit(9)
    else:
        folders.rename_new = second
    write(path, 2, force=True)


def test_a_link_stays_a_link(tmp_path):
    """The folder that a link leads to is replaced, and a dangling link needs force too."""
    link, there = tmp_path / "link", tmp_path / "there"
    link.symlink_to("there")
    with pytest.raises(RoutectlError, match="is a link to there, where nothing is"):
        write(link, 1)
    for number in (1, 2):
        write(link, number, force=True)
        assert (link.is_symlink(), whole(there)) == (True, number)
    assert names(tmp_path) == ["link", "there"]


@pytest.mark.parametrize("force", [False, True])
def test_a_file_or_a_pipe_is_no_folder(tmp_path, force):
    """Where a file or a pipe stands, no folder is written."""
    from pathlib import Path

    (tmp_path / "a").touch()
    with pytest.raises(RoutectlError, match="is not a folder" if force else "already exists"):
        write(tmp_path / "a", force=force)
    with pytest.raises(RoutectlError, match="is a device or a pipe: expected a folder"):
        write(Path("/dev/null"), force=force)
    assert (tmp_path / "a").is_file()


def test_a_full_disk(tmp_path, monkeypatch):
    """Where the last steps find the disk full, the old folder stands and nothing else."""

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "a"
    write(path, 1)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RoutectlError, match="a: cannot be written: No space left"):
        write(path, 2, force=True)
    assert (whole(path), names(tmp_path)) == (1, ["a"])


@pytest.mark.usefixtures("_how")
@pytest.mark.parametrize("force", [False, True])
def test_of_several_writers_one_wins(tmp_path, force):
    """Of eight writers of a folder one wins and seven say so; with force the last, whole."""
    path = tmp_path / "a"

    def racer(number, begin):
        begin()
        write(path, number, force=force, files=20)

    won = raced(racer, force=force)
    assert whole(path, 20) in won
    assert names(tmp_path) == ["a"]
