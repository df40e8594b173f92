"""Places in a store: read by ranges of one version, written whole; on a real S3 server."""

import gc
import io
import json
import signal
from unittest.mock import Mock

import fsspec
import pytest
from pyarrow import fs

from routectl.errors import FormatError, RoutectlError
from routectl.files import arrow_store, fsspec_store
from routectl.files.folders import replacing_folder
from routectl.files.places import pinned, place_of
from routectl.files.reading import open_mappable, open_regular, read_ahead, read_bytes, size_of
from routectl.files.stores import Root, store_trouble
from routectl.files.writing import refuse_existing, replacing

TEXT = bytes(range(256)) * 1024  # 256 KB


def test_an_object_is_a_stream(bucket):
    """An object is read, sought and measured as a file is."""
    path = place_of(bucket.put("a/x", TEXT))
    with open_regular(path) as stream:
        assert size_of(stream) == len(TEXT)
        assert stream.read(300) == TEXT[:300]
        stream.seek(-5, 2)
        assert stream.read() == TEXT[-5:]
        stream.seek(100_000)
        assert stream.read(70_000) == TEXT[100_000:170_000]
    assert read_bytes(path) == TEXT
    with open_mappable(path) as copy:
        assert copy.read() == TEXT
        assert copy.fileno() > 0


def test_a_jump_reads_little(bucket):
    """A reader that jumps gets 64 KB, spans that are announced alone are moved, and once."""
    path = place_of(bucket.put("x", TEXT * 40))  # 10 MB
    with open_regular(path) as stream:
        bucket.proxy.requests.clear()
        stream.seek(5 << 20)
        stream.read(10)
        assert bucket.proxy.moved == 64 << 10
        bucket.proxy.requests.clear()
        read_ahead(stream, [(0, 1000), (1 << 20, (1 << 20) + 500)])
        stream.seek(0)
        assert stream.read(1000) == TEXT[:1000]
        stream.seek(1 << 20)
        stream.read(500)
        assert sum(r.moved for r in bucket.proxy.requests if r.range) == 1500


def test_a_folder_is_listed(bucket):
    """A key with keys below it is a folder; globs match as local ones do."""
    for key in ("d/a.jsonl", "d/b.json", "d/e/c.jsonl", "d/.hidden.jsonl", "d2/x.jsonl"):
        bucket.put(key, b"x")
    folder = place_of(bucket / "d")
    assert folder.is_dir()
    assert not folder.is_file()
    assert not place_of(bucket / "d/no").exists()
    assert {p.name for p in folder.iterdir()} == {"a.jsonl", "b.json", "e", ".hidden.jsonl"}
    assert {p.key for p in folder.glob("*.jsonl")} == {"d/a.jsonl"}
    assert {p.key for p in folder.glob("**/*.jsonl")} == {"d/a.jsonl", "d/e/c.jsonl"}
    assert {p.key for p in folder.glob("*/c.jsonl")} == {"d/e/c.jsonl"}
    files = {p.key for p in folder.rglob("*.jsonl")}
    assert files == {"d/a.jsonl", "d/e/c.jsonl", "d/.hidden.jsonl"}


def test_the_endpoint_may_stand_in_the_uri(bucket, monkeypatch):
    """endpoint_override and scheme of a query lead to a server, as in pyarrow's from_uri."""
    host = bucket.proxy.endpoint.removeprefix("http://")
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    bucket.put("x", b"abc")
    path = place_of(f"{bucket / 'x'}?endpoint_override={host}&scheme=http")
    assert read_bytes(path) == b"abc"
    assert path.suffix == ""
    assert str(path).endswith(f"x?endpoint_override={host}&scheme=http")
    assert read_bytes(place_of(str(path))) == b"abc"


def test_what_is_written_is_put_once(bucket):
    """A small object is one put, after the block has ended well; without, nothing is there."""
    path = place_of(bucket / "a/x")
    with pytest.raises(ZeroDivisionError), replacing(path, force=False) as stream:
        stream.write(b"half" * (1 // 0))
    assert bucket.keys() == []
    bucket.proxy.requests.clear()
    with replacing(path, force=False) as stream:
        stream.write(b"whole")
    assert bucket.bytes("a/x") == b"whole"
    assert [r.method for r in bucket.proxy.requests if r.method in ("PUT", "POST")] == ["PUT"]


def test_what_is_there_is_refused(bucket):
    """An object is replaced with force alone, one that came meanwhile too; a folder never."""
    path = place_of(bucket.put("a/x", b"old"))
    with pytest.raises(RoutectlError, match="already exists") as told:
        refuse_existing(path, force=False)
    assert told.value.hint == "--force to replace it"
    with replacing(path, force=True) as stream:
        stream.write(b"new")
    assert bucket.bytes("a/x") == b"new"
    with pytest.raises(RoutectlError, match="is a folder, expected a file"):
        refuse_existing(place_of(bucket / "a"), force=True)
    other = place_of(bucket / "y")
    with (
        pytest.raises(RoutectlError, match="it came while this was written"),
        replacing(other, force=False) as stream,
    ):
        stream.write(bucket.put("y", b"another's").encode())
    assert bucket.bytes("y") == b"another's"


def test_a_large_object_is_completed_parts(bucket):
    """An object of more than 10 MB goes up in parts, and is all there."""
    with replacing(place_of(bucket / "x"), force=False) as stream:
        stream.write(TEXT * 50)
    assert bucket.bytes("x") == TEXT * 50
    assert bucket.parts() == []


@pytest.mark.slow
@pytest.mark.parametrize("old", [None, b"old"])
def test_parts_of_an_upload_that_fails_are_aborted(bucket, old):
    """Where a part fails, what was there stays, and no part is left."""
    if old:
        bucket.put("x", old)
    bucket.proxy.fault = lambda r: 503 if "partNumber=2" in r.path else None
    with (
        pytest.raises(RoutectlError, match=r"x: cannot be written: the server has no time \(503\)"),
        replacing(place_of(bucket / "x"), force=True) as stream,
    ):
        stream.write(TEXT * 80)
    assert bucket.keys() == ([] if old is None else ["x"])
    assert old is None or bucket.bytes("x") == old
    assert bucket.parts() == []


@pytest.mark.slow
def test_an_interrupted_upload_is_aborted(bucket, monkeypatch):
    """Ctrl-C in the middle of an upload leaves neither an object nor a part."""
    monkeypatch.setattr(arrow_store, "_BLOCK", 12 << 20)

    def interrupt(request):
        if "partNumber=1&" in request.path:
            signal.raise_signal(signal.SIGINT)

    bucket.proxy.fault = interrupt
    with pytest.raises(KeyboardInterrupt), replacing(place_of(bucket / "x"), force=False) as stream:
        stream.write(TEXT * 96)  # two blocks
    assert bucket.keys() == []
    assert bucket.parts() == []


class Failing:
    """A file of which a second block cannot be read."""

    blocks = 0

    def read(self, size):
        """The first block."""
        self.blocks += 1
        if self.blocks > 1:
            raise OSError("the disk is gone")
        return TEXT


def test_a_body_that_cannot_be_read_is_not_put(bucket):
    """Bytes that came before an error are no object, however the stream ends."""
    path = place_of(bucket / "x")
    with pytest.raises(RoutectlError, match="cannot be written: the disk is gone"):
        path.store.put(path.key, Failing())
    gc.collect()
    assert bucket.keys() == []


def test_a_store_that_shows_what_comes_gets_it_under_another_name(tmp_path, monkeypatch):
    """Azure has an empty blob in place of the one before at once: so what is there stays until all
    is, and nothing else is left. The keys are those of an account, with no container as their root.
    """
    opened = (fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem()), "", (None, None))
    monkeypatch.setattr(arrow_store, "_opened", lambda _root: opened)
    (tmp_path / "dumps").mkdir()
    store = arrow_store.ArrowStore(Root("abfs", "account@host", ""))
    store.put("dumps/x", io.BytesIO(b"old"))
    with pytest.raises(RoutectlError, match="dumps/x: cannot be written: the disk is gone"):
        store.put("dumps/x", Failing())
    assert [(key, about.size) for key, about in store.below("dumps", deep=True)] == [("dumps/x", 3)]
    store.put("dumps/x", io.BytesIO(TEXT))
    assert [path.read_bytes() for path in (tmp_path / "dumps").iterdir()] == [TEXT]
    with pytest.raises(FormatError, match="there is no bucket other"):
        store.find("other/x")


def nothing_foreign(folder):
    """A folder that may be replaced."""
    return


def test_a_folder_is_put_manifest_last(bucket):
    """The file that makes a folder whole is put last, and goes first when it is replaced."""
    path = place_of(bucket / "pack")
    for names in (("b", "manifest.json", "z/a"), ("c", "manifest.json")):
        bucket.proxy.requests.clear()
        with replacing_folder(
            path, force=True, foreign=nothing_foreign, last="manifest.json"
        ) as folder:
            for name in names:
                (folder / name).parent.mkdir(exist_ok=True)
                (folder / name).write_bytes(name.encode())
        assert bucket.keys() == sorted(f"pack/{name}" for name in names)
        changes = [r for r in bucket.proxy.requests if r.method in ("PUT", "DELETE")]
        assert changes[-1].path.endswith("/manifest.json")
    assert (changes[0].method, changes[0].path[-14:]) == ("DELETE", "/manifest.json")


def test_a_folder_that_fails_is_removed(bucket):
    """Where a put of a folder fails, nothing of it stays."""
    bucket.proxy.fault = lambda r: 503 if r.method == "PUT" and r.path.endswith("/b") else None
    with (
        pytest.raises(RoutectlError, match="cannot be written"),
        replacing_folder(
            place_of(bucket / "p"), force=False, foreign=nothing_foreign, last="b"
        ) as folder,
    ):
        assert [(folder / name).write_bytes(b"x") for name in "ab"]
    assert bucket.keys() == []


def test_a_replaced_object_is_refused(bucket):
    """Between two openings, and between two reads of one, another object is told by its ETag."""
    path = pinned(place_of(bucket.put("x", TEXT)))
    assert read_bytes(path) == TEXT
    with open_regular(path) as stream:
        stream.read(10)
        bucket.put("x", TEXT[::-1])
        with pytest.raises(FormatError, match="was replaced while it was read: it is "):
            stream.read()
    with pytest.raises(FormatError, match="was replaced while it was read"):
        read_bytes(path)
    assert read_bytes(place_of(bucket / "x")) == TEXT[::-1]


@pytest.mark.slow
def test_a_connection_that_is_cut_is_told(bucket):
    """Half an answer is asked for again, and told where each is cut; no half is handed on."""
    path = place_of(bucket.put("x", TEXT))
    cuts = iter(["cut"])
    bucket.proxy.fault = lambda r: next(cuts, None) if r.range else None
    assert read_bytes(path) == TEXT
    bucket.proxy.fault = lambda r: "cut" if r.range else None
    with pytest.raises(FormatError, match=r"x: cannot be read: the connection failed or was cut"):
        read_bytes(path)


def test_a_503_is_asked_again(bucket):
    """A busy server is asked again, as the library does."""
    path = place_of(bucket.put("x", TEXT))
    busy = iter([503])
    bucket.proxy.fault = lambda r: next(busy, None) if r.range else None
    assert read_bytes(path) == TEXT


def test_a_destination_that_cannot_be_asked_cannot_be_written(bucket):
    """Where a server does not say what stands at a destination, it is the writing that failed."""
    path = place_of(bucket / "x")
    bucket.proxy.fault = lambda _: "cut"
    with pytest.raises(RoutectlError, match="x: cannot be written: "):
        replacing(path, force=False).__enter__()


@pytest.mark.parametrize(
    ("library", "said"),
    [
        (
            "When reading information for key 'a' in bucket 'x': AWS Error NETWORK_CONNECTION "
            "during HeadObject operation: curlCode: 7, Couldn't connect to server",
            "the connection failed or was cut: Couldn't connect to server",
        ),
        ("AWS Error ACCESS_DENIED during HeadObject operation: No response body.", None),
        (
            "When listing 'x': AWS Error UNKNOWN (HTTP status 418) during HeadBucket operation: x",
            "AWS Error UNKNOWN (HTTP status 418): x",
        ),
        ("GET https://x/a?X-Amz-Signature=secret failed\nwith more", "GET https://x/a failed"),
        ("y" * 400, "y" * 150),
    ],
)
def test_a_store_is_told_of_in_a_short_line(library, said):
    """In our words where they are known, else in the library's, without where and in what."""
    told = str(store_trouble("s3://x/a", OSError(library)))
    wanted = said or "access is denied: no credentials, or others"
    assert told == f"s3://x/a: cannot be read: {wanted}"


@pytest.mark.slow
def test_503s_are_told(bucket):
    """A server that stays busy is told of in one line, after three requests."""
    path = place_of(bucket.put("x", TEXT))
    bucket.proxy.fault = lambda r: 503 if r.range else None
    bucket.proxy.requests.clear()
    with pytest.raises(FormatError, match=r"cannot be read: the server has no time \(503\)"):
        read_bytes(path)
    assert sum(1 for r in bucket.proxy.requests if r.range) == 3


def test_a_missing_bucket_or_object_is_told(bucket):
    """No bucket and no object are told apart, of reads as of writes."""
    with pytest.raises(FormatError, match="there is no bucket no-such-bucket"):
        read_bytes(place_of("s3://no-such-bucket/x"))
    with pytest.raises(FormatError, match="no such object"):
        read_bytes(place_of(bucket / "nothing"))
    with (
        pytest.raises(RoutectlError, match="there is no bucket no-such-bucket"),
        replacing(place_of("s3://no-such-bucket/x"), force=False) as stream,
    ):
        stream.write(b"x")


def test_no_credentials_are_told(bucket, s3_server, monkeypatch):
    """Without credentials a server that wants them is told of in one line."""
    path = bucket.put("x", TEXT)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", "/nonexistent")
    with (
        s3_server.wanting_credentials(),
        pytest.raises(FormatError, match="access is denied: no credentials") as told,
    ):
        read_bytes(place_of(path))
    assert "\n" not in str(told.value)


def test_memory_of_fsspec_is_a_store():
    """A scheme of fsspec is read, listed, written and refused as S3 is."""
    path = place_of("memory://places/a/x.json")
    with replacing(path, force=True) as stream:
        stream.write(json.dumps({"a": 1}).encode())
    assert read_bytes(path) == b'{"a": 1}'
    assert [one.name for one in path.parent.iterdir()] == ["x.json"]
    assert [str(one) for one in place_of("memory://places").glob("*/*.json")] == [str(path)]
    with pytest.raises(RoutectlError, match="already exists"):
        refuse_existing(path, force=False)
    held = pinned(path)
    with replacing(path, force=True) as stream:
        stream.write(b"other")
    with pytest.raises(FormatError, match="was replaced while it was read"):
        read_bytes(held)


def test_a_file_server_of_fsspec_gets_a_file_under_another_name(monkeypatch):
    """Where a file is seen while it grows (sftp, ftp), one that fails leaves nothing, and what was
    there stays.
    """
    monkeypatch.setattr(fsspec_store, "_FILE_SERVERS", ("memory",))
    path = place_of("memory://server/x")
    path.store.put(path.key, io.BytesIO(b"old"))
    with pytest.raises(RoutectlError, match="server/x: cannot be written: the disk is gone"):
        path.store.put(path.key, Failing())
    assert [(one.name, read_bytes(one)) for one in path.parent.iterdir()] == [("x", b"old")]
    path.store.put(path.key, io.BytesIO(TEXT))
    assert [(one.name, read_bytes(one)) for one in path.parent.iterdir()] == [("x", TEXT)]


def test_a_scheme_that_lacks_credentials_is_no_unknown_scheme(monkeypatch):
    """What a known scheme says when it cannot be opened is told."""
    kind = Mock(side_effect=ValueError("no account_name"))
    kind._get_kwargs_from_urls.return_value = {}
    monkeypatch.setattr(fsspec, "get_filesystem_class", lambda _: kind)
    with pytest.raises(FormatError, match="az://a: cannot be read: no account_name"):
        fsspec_store.FsspecStore(Root("az", "a", ""))


@pytest.mark.parametrize(("status", "said"), [(404, None), (403, "access is denied")])
def test_http_tells_what_is_missing_from_what_is_refused(monkeypatch, status, said):
    """fsspec calls whatever goes wrong with http:// a missing file; its cause tells."""
    cause = OSError(f"{status}, message='Forbidden'")
    cause.status = status
    missing = FileNotFoundError("http://h/x")
    missing.__cause__ = cause
    info = Mock(side_effect=missing)
    kind = Mock(return_value=Mock(info=info, _strip_protocol=str))
    kind._get_kwargs_from_urls.return_value = {}
    monkeypatch.setattr(fsspec, "get_filesystem_class", lambda _: kind)
    store = fsspec_store.FsspecStore(Root("http", "h", ""))
    if said is None:
        assert store.find("x") is None
        return
    with pytest.raises(FormatError, match=said):
        store.find("x")
