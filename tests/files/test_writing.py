"""A file is written whole or not at all, replaced when that was asked for, never in between."""

import errno
import multiprocessing
import os
import re
import resource
import socket
import stat
import threading

import pytest

from routectl.errors import RoutectlError
from routectl.files import publishing
from routectl.files.writing import refuse_existing, replacing
from support.racing import raced


def write(path, content=b"new", *, force=False, private=False, meanwhile=None):
    """Write a file as every writer does; meanwhile something happens, or is raised."""
    with replacing(path, force=force, private=private) as stream:
        stream.write(content)
        if meanwhile is not None:
            if isinstance(meanwhile, type):
                raise meanwhile
            meanwhile()


def names(folder):
    """What is in a folder."""
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_whole(tmp_path):
    """While it is written there is only a hidden temporary, which nobody else can read."""
    path = tmp_path / "a.json"
    with replacing(path, force=False) as stream:
        stream.write(b"half")
        (hidden,) = tmp_path.iterdir()
        assert re.fullmatch(r"\.a\.json\.[0-9a-f]{8}-[0-9a-f]{8}\.tmp", hidden.name)
        assert stat.S_IMODE(hidden.stat().st_mode) == 0o600
        assert str(stream.name) == str(hidden)
    assert (names(tmp_path), path.read_bytes()) == (["a.json"], b"half")


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_trouble_leaves_nothing(tmp_path, error):
    """Whatever ends the block but its end, the destination is as before."""
    kept = tmp_path / "kept"
    kept.write_bytes(b"old")
    for path in (kept, tmp_path / "absent"):
        with pytest.raises(error):
            write(path, force=True, meanwhile=error)
    assert (names(tmp_path), kept.read_bytes()) == (["kept"], b"old")


def test_what_exists_needs_force(tmp_path):
    """An existing file is refused before anything is written, and replaced with force."""
    path = tmp_path / "a"
    path.write_bytes(b"old")
    for refused in (lambda: write(path), lambda: refuse_existing(path, force=False)):
        with pytest.raises(RoutectlError, match="already exists"):
            refused()
    write(path, force=True)
    assert (names(tmp_path), path.read_bytes()) == (["a"], b"new")


@pytest.mark.parametrize("how", ["renameat2", "link", "neither"])
@pytest.mark.parametrize("came", ["file", "folder", "link"])
def test_what_appears_meanwhile_is_kept(tmp_path, monkeypatch, how, came):
    """Without force, what came to have the name while the file was written stays, and says so.

    The three ways to give a name that nothing has are those of kernels and file systems.
    """
    if how != "renameat2":
        monkeypatch.setattr(publishing, "_renamed", lambda *_: False)
    if how == "neither":

        def no_link(*args, **kwargs):
            raise OSError(errno.EPERM, "no links here")

        monkeypatch.setattr(os, "link", no_link)
    path = tmp_path / "a"
    coming = {
        "file": lambda: path.write_bytes(b"theirs"),
        "folder": path.mkdir,
        "link": lambda: path.symlink_to("nowhere"),
    }
    with pytest.raises(RoutectlError, match="already exists: it came"):
        write(path, meanwhile=coming[came])
    assert names(tmp_path) == ["a"]
    assert came != "file" or path.read_bytes() == b"theirs"
    write(tmp_path / "b")
    assert names(tmp_path) == ["a", "b"]


class TestModes:
    """Who may read what is written."""

    @pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
    def test_a_new_file_has_the_umasks(self, tmp_path, umask, mode):
        """A new file has the permissions that the umask leaves; a private one none for others."""
        before = os.umask(umask)
        try:
            write(tmp_path / "a")
            write(tmp_path / "b", private=True)
        finally:
            os.umask(before)
        assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == mode
        assert stat.S_IMODE((tmp_path / "b").stat().st_mode) == 0o600

    def test_a_replaced_file_hands_on_its_mode(self, tmp_path):
        """What replaces a file has its permissions: one that was closed to others stays closed."""
        path = tmp_path / "a"
        path.write_bytes(b"old")
        path.chmod(0o640)
        write(path, force=True)
        assert stat.S_IMODE(path.stat().st_mode) == 0o640


class TestLinks:
    """A link is followed; a dangling one is no licence."""

    def test_a_link_stays_a_link(self, tmp_path):
        """With force the file that a link leads to is replaced, in its own folder."""
        (tmp_path / "there").mkdir()
        target, link = tmp_path / "there" / "a", tmp_path / "link"
        target.write_bytes(b"old")
        link.symlink_to("there/a")
        with pytest.raises(RoutectlError, match="already exists"):
            write(link)
        with replacing(link, force=True) as stream:
            stream.write(b"new")
            assert len(names(tmp_path / "there")) == 2
        assert (link.is_symlink(), target.read_bytes()) == (True, b"new")

    def test_a_dangling_link_exists(self, tmp_path):
        """A link to nothing is refused; with force what it leads to is written."""
        link = tmp_path / "link"
        link.symlink_to("target")
        with pytest.raises(RoutectlError, match="is a link to target, where nothing is"):
            write(link)
        write(link, force=True)
        assert (link.is_symlink(), (tmp_path / "target").read_bytes()) == (True, b"new")

    def test_a_circle_of_links(self, tmp_path):
        """Links in a circle are one line."""
        (tmp_path / "a").symlink_to("b")
        (tmp_path / "b").symlink_to("a")
        with pytest.raises(RoutectlError, match="a: cannot be written: Too many levels"):
            write(tmp_path / "a", force=True)


class TestStreams:
    """Devices, pipes and open files are written to, and stay what they are."""

    @pytest.mark.parametrize("force", [False, True])
    def test_devices(self, force):
        """/dev/null takes it all; /dev/full is full; both stay devices."""
        from pathlib import Path

        write(Path("/dev/null"), force=force)
        with pytest.raises(RoutectlError, match="/dev/full: cannot be written: No space left"):
            write(Path("/dev/full"), force=force)
        for name in ("/dev/null", "/dev/full"):
            assert stat.S_ISCHR(os.stat(name).st_mode)

    @pytest.mark.parametrize("force", [False, True])
    def test_a_fifo_stays(self, tmp_path, force):
        """A FIFO is given the bytes when they are all there, and is a FIFO after."""
        path, got = tmp_path / "pipe", []
        os.mkfifo(path)
        reader = threading.Thread(target=lambda: got.append(path.read_bytes()))
        reader.start()
        write(path, b"x" * 100_000, force=force)
        reader.join()
        assert got == [b"x" * 100_000]
        assert stat.S_ISFIFO(path.stat().st_mode)

    def test_open_files(self, tmp_path):
        """/dev/fd/N is this process's open file: it is written where it stands."""
        from pathlib import Path

        path = tmp_path / "a"
        with path.open("wb", buffering=0) as stream:
            stream.write(b"before ")
            write(Path(f"/dev/fd/{stream.fileno()}"))
            link = tmp_path / "link"
            link.symlink_to(f"/proc/self/fd/{stream.fileno()}")
            write(link, b" and")
            stream.write(b" after")
        assert path.read_bytes() == b"before new and after"
        with pytest.raises(RoutectlError, match="cannot be written: Bad file descriptor"):
            write(Path("/dev/fd/999"))

    def test_nothing_comes_of_trouble(self, tmp_path):
        """A pipe is given nothing when the block ends badly."""
        from pathlib import Path

        reader, writer = os.pipe()
        with pytest.raises(SystemExit):
            write(Path(f"/dev/fd/{writer}"), meanwhile=SystemExit)
        os.close(writer)
        assert os.read(reader, 10) == b""
        os.close(reader)


class TestRefusals:
    """What cannot be written is one line, before any work."""

    @pytest.mark.parametrize(
        ("name", "said"),
        [
            ("folder", "is a folder, expected a file"),
            ("absent/a", "there is no folder"),
            ("file/a", "cannot be written: Not a directory"),
            ("n" * 256, "cannot be written: File name too long"),
            ("a\0b", "cannot be written: not a name of a file"),
            ("a\ud83d", "cannot be written: not a name of a file"),
            ("socket", "is a socket: expected a file"),
        ],
    )
    @pytest.mark.parametrize("force", [False, True])
    def test_what_is_no_place_for_a_file(self, tmp_path, monkeypatch, name, said, force):
        """Folders, sockets, impossible names and folders that are not there are refused at once."""
        monkeypatch.chdir(tmp_path)
        (tmp_path / "folder").mkdir()
        (tmp_path / "file").touch()
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind("socket")
            before = names(tmp_path)
            for tried in (write, refuse_existing):
                with pytest.raises(RoutectlError, match=said) as told:
                    tried(tmp_path / name, force=force)
                assert "\n" not in str(told.value)
            assert names(tmp_path) == before

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
    def test_a_folder_that_is_read_only(self, tmp_path):
        """A folder without leave to write is one line."""
        tmp_path.chmod(0o500)
        with pytest.raises(RoutectlError, match="cannot be written: Permission denied"):
            write(tmp_path / "a")
        tmp_path.chmod(0o700)

    @pytest.mark.parametrize("name", ["n" * 250, "é" * 125, "\udcff\udcfe.json", "-", "a b"])
    def test_odd_names_are_written(self, tmp_path, name):
        """The longest names, and names that are no UTF-8, are written: the temporary's is short."""
        write(tmp_path / name)
        write(tmp_path / name, b"again", force=True)
        assert (names(tmp_path), (tmp_path / name).read_bytes()) == ([name], b"again")


@pytest.mark.parametrize("call", ["fsync", "fchmod", "link"])
def test_trouble_of_a_disk_at_any_call(tmp_path, monkeypatch, call):
    """Where the disk gives way at the last steps, nothing is there and one line says so."""

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(publishing, "_renamed", lambda *_: False)
    monkeypatch.setattr(os, call, full)
    with pytest.raises(RoutectlError, match="a: cannot be written: No space left"):
        write(tmp_path / "a")
    assert names(tmp_path) == []


def limited(path, sizes):
    """Write 64 kB in a process that may write so many bytes."""
    for size in sizes:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, 1 << 20))
        if size >= 65536:
            write(path, os.urandom(65536))
            continue
        with pytest.raises(RoutectlError, match=f"^{path}: cannot be written: File too large$"):
            write(path, os.urandom(65536))


def test_a_disk_that_is_full_at_any_byte(tmp_path):
    """Wherever the room ends, nothing is there and one line says so."""
    sizes = (*range(0, 65536, 4099), 65535, 65536)
    process = multiprocessing.get_context("fork").Process(
        target=limited, args=(tmp_path / "a", sizes)
    )
    process.start()
    process.join()
    assert process.exitcode == 0
    assert (names(tmp_path), (tmp_path / "a").stat().st_size) == (["a"], 65536)


@pytest.mark.parametrize("force", [False, True])
def test_of_several_writers_one_wins(tmp_path, force):
    """Of eight writers of a name one wins and seven say so; with force the last, whole."""
    path = tmp_path / "a"

    def racer(number, begin):
        with replacing(path, force=force) as stream:
            begin()
            stream.write(f"{number}".encode() * 10_000)

    won = raced(racer, force=force)
    content = path.read_bytes()
    assert int(content[:1]) in won
    assert content == content[:1] * 10_000
    assert names(tmp_path) == ["a"]
