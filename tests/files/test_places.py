"""What a text names: a path of this machine, or a place in a store."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from routectl.errors import RoutectlError, UnsupportedError
from routectl.files.places import RemotePath, is_uri, place_of
from routectl.files.stores import store_trouble

MEMORY = "memory://step/7"  # fsspec's: a store of this process


@pytest.mark.parametrize("text", ["a/b.jsonl", "/a", "s3:/bucket/x", "c:d", "x://"])
def test_what_is_no_uri_is_a_path(text):
    """A text without two letters and :// is a local path; a scheme alone is refused."""
    if text == "x://":
        assert not is_uri(text)
    assert type(place_of(text)) is type(Path())


def test_a_file_uri_is_a_local_path():
    """file:// names a local path, its escapes undone, and no other host."""
    assert place_of("file:///a%20b/c") == Path("/a b/c")
    assert place_of("file://localhost/a") == Path("/a")
    with pytest.raises(RoutectlError, match="expected file:///PATH"):
        place_of("file://host/a")


def test_names_are_those_of_paths():
    """Name, suffix, parent and what is below are pathlib's, and the URI comes back."""
    path = place_of(f"{MEMORY}/a.jsonl.gz")
    assert isinstance(path, RemotePath)
    assert (path.name, path.stem, path.suffix) == ("a.jsonl.gz", "a.jsonl", ".gz")
    assert str(path) == f"{MEMORY}/a.jsonl.gz"
    assert str(path.parent) == MEMORY
    assert str(path.with_name("b") / "c" / "d") == f"{MEMORY}/b/c/d"
    assert str(path.with_suffix(".x").relative_to(path.parent)) == "a.jsonl.x"
    assert path.is_relative_to(path.parent.parent)
    assert not path.is_relative_to(place_of("memory://other"))
    assert sorted([path, path.parent, Path("/a")])[0] == Path("/a")
    assert path != Path("a")
    assert Path("a") != path
    assert str(place_of("memory://step")) == "memory://step"


def test_a_place_is_pickled():
    """A worker gets the same place, held to the same object."""
    path = place_of(MEMORY)
    assert pickle.loads(pickle.dumps(path)) == path


def test_a_file_of_this_machine_is_asked_for_in_one_line():
    """What needs a path of the system refuses a URI, and says so."""
    with pytest.raises(UnsupportedError, match=r"memory://step/7: expected a path of this machine"):
        os.stat(place_of(MEMORY))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("s3://", "expected a name behind it"),
        ("s3://bucket//x", "got an empty name"),
        ("s3://bucket/a/../x", "got an empty name, . or .."),
        ("s3://bucket/x?colour=red", "colour=...: 'colour' is not known: endpoint_override"),
        ("s3://key:topsecret@bucket/x", "a password in a URI"),
        ("noway://host/x", "noway://: not known: expected s3, gs, abfs, hdfs, or a scheme of"),
    ],
)
def test_a_uri_that_cannot_be_one_is_refused(text, words):
    """What is wrong with a URI is said before anything is asked, and no secret with it."""
    with pytest.raises(RoutectlError) as told:
        place_of(text)
    assert words in str(told.value)
    assert "topsecret" not in str(told.value)


def test_a_missing_package_is_named():
    """A scheme that fsspec knows without its package says what to install."""
    import fsspec

    for name in ("oss", "dropbox", "webhdfs", "lakefs"):
        try:
            fsspec.get_filesystem_class(name)
        except ImportError:
            break
    else:
        pytest.skip("all packages are installed")
    with pytest.raises(
        UnsupportedError, match=f"{name}://: its package is not installed: "
    ) as told:
        place_of(f"{name}://host/x")
    assert "nstall" in str(told.value)


def test_a_signed_url_is_not_told():
    """Of a URL neither its query nor that of one in a library's message is shown."""
    said = store_trouble("x", OSError("403, url='https://h/x?X-Amz-Signature=topsecret&a=b'"))
    assert "topsecret" not in str(said)
    assert "https://h/x" in str(said)
    path = place_of("memory://h/x?X-Amz-Signature=topsecret")
    assert str(path) == "memory://h/x"
    assert "topsecret" not in repr(path)


def test_nothing_is_loaded_for_local_paths():
    """A local path loads neither pyarrow.fs nor fsspec, and the names of a URI's file do not."""
    code = (
        "import sys; from routectl.files.places import place_of; place_of('a/b').exists();"
        "print([m for m in ('pyarrow', 'fsspec', 'botocore') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
