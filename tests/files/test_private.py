"""What only its user may look into: side files, parts and caches, whatever the umask."""

import os

import pytest

from routectl.errors import RoutectlError
from routectl.files.private import close_to_others, open_private, private_folder
from support.permissions import mode_of, umask

ANOTHER = 65533  # a user that this is not


UMASKS = pytest.mark.parametrize("mask", [0o000, 0o022, 0o077], ids=["000", "022", "077"])


@UMASKS
def test_a_file_is_0600_whatever_the_umask(tmp_path, mask):
    """A new file can be read by its user alone, and written."""
    with umask(mask), open_private(tmp_path / "x") as file:
        file.write(b"one")
    assert mode_of(tmp_path / "x") == "600"
    with open_private(tmp_path / "x") as file:
        file.write(b"two")
        file.seek(0)
        assert file.read() == b"onetwo"


@UMASKS
def test_a_folder_is_0700_whatever_the_umask(tmp_path, mask):
    """A new folder can be looked into by its user alone; those it is in are as any folder."""
    with umask(mask):
        private_folder(tmp_path / "a" / "b", lambda _: False)
        private_folder(tmp_path / "a" / "b", lambda _: False)
    assert mode_of(tmp_path / "a" / "b") == "700"
    assert mode_of(tmp_path / "a") == f"{0o777 & ~mask:o}"


def test_what_was_open_to_others_is_closed(tmp_path):
    """A file of before is closed to others; a folder too where it is one that routectl made."""
    (tmp_path / "x").write_bytes(b"")
    (tmp_path / "x").chmod(0o666)
    open_private(tmp_path / "x").close()
    assert mode_of(tmp_path / "x") == "600"
    (tmp_path / "d").mkdir()
    (tmp_path / "d").chmod(0o775)
    with pytest.raises(RoutectlError, match=r"others can look into it \(mode 775\)") as caught:
        private_folder(tmp_path / "d", lambda _: False)
    assert caught.value.hint.startswith("chmod 700 ")
    assert mode_of(tmp_path / "d") == "775"
    private_folder(tmp_path / "d", lambda folder: folder == tmp_path / "d")
    assert mode_of(tmp_path / "d") == "700"


def test_files_are_closed_and_links_let_be(tmp_path):
    """A file loses others' permissions; what a link points to keeps its own."""
    (tmp_path / "x").write_bytes(b"")
    (tmp_path / "x").chmod(0o644)
    (tmp_path / "link").symlink_to("x")
    close_to_others(tmp_path / "link")
    close_to_others(tmp_path / "absent")
    assert mode_of(tmp_path / "x") == "644"
    close_to_others(tmp_path / "x")
    assert mode_of(tmp_path / "x") == "600"


@pytest.mark.parametrize("kind", ["link", "dangling link", "folder", "FIFO"])
def test_what_is_no_file_is_refused(tmp_path, kind):
    """A link, a folder or a FIFO where a file should be is refused at once, and let be."""
    path, other = tmp_path / "x", tmp_path / "other"
    if kind == "folder":
        path.mkdir()
    elif kind == "FIFO":
        os.mkfifo(path)
    else:
        path.symlink_to(other)
    if kind == "link":
        other.write_bytes(b"")
    with pytest.raises(RoutectlError, match=r"is a link|is a folder|is no regular file"):
        open_private(path)
    assert kind == "link" or not other.exists()


@pytest.mark.parametrize("kind", ["link", "file"])
def test_what_is_no_folder_is_refused(tmp_path, kind):
    """A link to a folder, or a file, where a folder should be is refused."""
    (tmp_path / "real").mkdir()
    path = tmp_path / "x"
    path.symlink_to("real") if kind == "link" else path.write_bytes(b"")
    said = "is a link" if kind == "link" else "is no folder"
    with pytest.raises(RoutectlError, match=said):
        private_folder(path, lambda _: True)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs another user's file")
def test_what_is_another_users_is_refused(tmp_path):
    """A file or folder of another user is not written into: he could read it, or have made it."""
    (tmp_path / "x").write_bytes(b"")
    (tmp_path / "d").mkdir(0o700)
    for name in ("x", "d"):
        os.chown(tmp_path / name, ANOTHER, ANOTHER)
    with pytest.raises(RoutectlError, match=r"is another user's \(uid 65533\)"):
        open_private(tmp_path / "x")
    with pytest.raises(RoutectlError, match=r"is another user's \(uid 65533\)"):
        private_folder(tmp_path / "d", lambda _: True)
