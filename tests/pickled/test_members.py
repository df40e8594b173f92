"""The zip of a torch file: what torch writes opens, and whatever two readers could differ about
does not.
"""

import struct
import zipfile
from unittest import mock

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from routectl.checkpoints.infos import Piece, TensorInfo
from routectl.checkpoints.predictor import open_predictor
from routectl.checkpoints.tensors import read_tensor
from routectl.errors import FormatError
from routectl.formats.trainers.fields import numbers_in
from routectl.pickled.archives import open_archive
from routectl.pickled.members import read_members
from routectl.pickled.torch_files import load_torch
from support.building import check_line

PICKLE = b"\x80\x02}."
STORAGE = bytes(range(64))
GOOD = {"a/data.pkl": PICKLE, "a/byteorder": b"little", "a/data/0": STORAGE, "a/version": b"3\n"}


def packed(path, members, *, force_zip64=False):
    """A zip of these members, which may be pairs; returns its path."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items() if isinstance(members, dict) else members:
            with archive.open(zipfile.ZipInfo(name), "w", force_zip64=force_zip64) as member:
                member.write(data)
    return path


def directory_at(data, name):
    """Where the directory's entry of a member begins."""
    return data.index(name, data.index(b"PK\x01\x02")) - 46


def changed(path, at, form, *values):
    """Write some numbers over the bytes of a file."""
    data = bytearray(path.read_bytes())
    struct.pack_into(form, data, at, *values)
    path.write_bytes(data)


def refused(path, said):
    """The file is refused in one line that says this."""
    with pytest.raises(FormatError, match=said) as caught:
        load_torch(path)
    check_line(caught.value, path)


class TestSound:
    """What opens."""

    def test_zip64(self, tmp_path):
        """Members, a directory and an end of zip64's are read as any other."""
        with (
            mock.patch.object(zipfile, "ZIP64_LIMIT", 8),
            mock.patch.object(zipfile, "ZIP_FILECOUNT_LIMIT", 2),
        ):
            path = packed(tmp_path / "a.pt", GOOD, force_zip64=True)
        assert b"PK\x06\x06" in path.read_bytes()
        with path.open("rb") as stream:
            found = read_members(stream, "here")
            assert {n: m.read(stream, "here") for n, m in found.items()} == {
                name.removeprefix("a/"): data for name, data in GOOD.items()
            }

    def test_without_crcs(self, tmp_path):
        """torch that was told to compute no CRC writes 0 for all, and its files open."""
        path, ids = tmp_path / "a.pt", torch.arange(16, dtype=torch.int32)
        torch.serialization.set_crc32_options(False)
        try:
            torch.save({"x": ids}, path)
        finally:
            torch.serialization.set_crc32_options(True)
        assert {info.CRC for info in zipfile.ZipFile(path).infolist()} == {0}
        assert np.array_equal(load_torch(path)["x"].array, ids.numpy())


class TestCrc:
    """Every byte that is used is held against the CRC."""

    def flipped(self, path, value):
        """What torch saved of this, with the last byte of its storage changed."""
        torch.save(value, path)
        info = next(i for i in zipfile.ZipFile(path).infolist() if i.filename.endswith("data/0"))
        with path.open("rb") as stream:
            held = read_members(stream, "here")["data/0"]
        assert held.size == info.file_size
        at = held.begin + held.size - 1
        changed(path, at, "B", path.read_bytes()[at] ^ 1)
        return path

    def test_a_mapped_storage(self, tmp_path):
        """A changed bit that torch.load does not see is seen when the tensor is first used."""
        path = self.flipped(tmp_path / "a.pt", {"x": torch.arange(9), "y": torch.ones(2)})
        assert torch.load(path)["x"][-1] != 8
        doc = load_torch(path)
        assert doc["y"].array.tolist() == [1, 1]
        with pytest.raises(FormatError, match=r"'data/0' is not what was written: CRC \w{8}, exp"):
            numbers_in(doc["x"], "here")

    def test_every_window_of_a_large_one(self, tmp_path):
        """A storage of several windows is summed whole, and used unchanged thereafter."""
        ids = torch.arange(3 << 20, dtype=torch.int32)
        path = tmp_path / "a.pt"
        torch.save([ids[:7], ids], path)
        few, all_of_it = load_torch(path)
        few.array[:] = -1  # written to, and not lost when the rest is summed
        assert few.array.tolist() == [-1] * 7
        assert np.array_equal(all_of_it.array[7:], ids.numpy()[7:])
        with pytest.raises(FormatError, match="is not what was written"):
            load_torch(self.flipped(path, [ids]))[0].array  # noqa: B018

    def test_a_block_of_a_checkpoint(self, tmp_path):
        """A tensor out of a torch archive, mapped or a file of its own, is checked as well."""
        path = self.flipped(tmp_path / "a.pt", torch.ones(8))
        with path.open("rb") as stream:
            archive = open_archive(stream, "here")
        _, begin, shape, _ = archive.place(archive.value)
        member = archive.storage(archive.value)
        whole = Piece(path, 0, path.stat().st_size, (0,), shape, archived=True)
        for piece in (whole, Piece(path, begin, 32, (0,), shape, member=member)):
            with pytest.raises(FormatError, match="'data/0' is not what was written"):
                read_tensor(TensorInfo("t", "F32", shape, 32, (piece,)), "here")

    def test_one_that_is_zero(self, tmp_path):
        """A CRC that is zeroed beside others that are not is damage."""
        path = packed(tmp_path / "a.pt", GOOD)
        data = path.read_bytes()
        changed(path, directory_at(data, b"a/data.pkl") + 16, "<I", 0)
        changed(path, 14, "<I", 0)
        refused(path, "'data.pkl' is not what was written: CRC")


class TestNames:
    """Names are exact, and there once."""

    @pytest.mark.parametrize(
        ("other", "said"),
        [
            ("a/data.pkl", "got 'a/data.pkl' and 'a/data.pkl', expected one"),
            ("a/DATA.PKL", "got 'a/data.pkl' and 'a/DATA.PKL', expected one"),
            ("a/Data/0", "got 'a/data/0' and 'a/Data/0', expected one"),
            ("b/data.pkl", "a member named 'b/data.pkl'"),
            ("A/data.pkl", "a member named 'A/data.pkl'"),
            ("data.pkl", "a member named 'data.pkl'"),
            ("a/../b/data.pkl", "a member named"),
            ("a/./x", "a member named"),
            ("a//x", "a member named"),
            ("a/", "a member named"),
            ("/a/x", "a member named"),
            ("a/x\\y", "a member named"),
        ],
    )
    @pytest.mark.filterwarnings("ignore:Duplicate name")
    def test_another_member(self, tmp_path, other, said):
        """A name twice in any case, in another folder or that leads out of it is refused."""
        path = packed(tmp_path / "a.pt", [*GOOD.items(), (other, b"x")])
        refused(path, said)

    def test_a_nul(self, tmp_path):
        """A name that ends early for some readers is refused."""
        path = packed(tmp_path / "a.pt", {**GOOD, "a/data.pklX": PICKLE})
        path.write_bytes(path.read_bytes().replace(b"a/data.pklX", b"a/data.pkl\0"))
        refused(path, "a member named 'a/data.pkl.x00'")

    def test_no_pickle(self, tmp_path):
        """What has no data.pkl is not torch's, whatever else is in it."""
        refused(packed(tmp_path / "a.pt", {"a/version": b"3\n"}), "got no data.pkl in it")


class TestPlaces:
    """The directory and what stands before each member say the same."""

    @pytest.mark.parametrize(
        ("at", "form", "value", "said"),
        [
            (6, "<H", 1, "not what the directory says"),  # encrypted, before the member alone
            (8, "<H", 8, "not what the directory says"),
            (14, "<I", 7, "not what the directory says"),
            (18, "<I", 3, "not what the directory says"),
            (22, "<I", 3, "not what the directory says"),
            (30, "2s", b"b/", "not what the directory says"),
            (0, "<I", 0, "not what the directory says"),
            (26, "<H", 9, "not what the directory says"),
        ],
    )
    def test_local_headers(self, tmp_path, at, form, value, said):
        """Another flag, method, CRC, size or name before a member than in the directory."""
        path = packed(tmp_path / "a.pt", GOOD)
        changed(path, at, form, value)
        refused(path, said)

    @pytest.mark.parametrize(
        ("at", "form", "values", "said"),
        [
            (8, "<H", (1,), "damaged or compressed"),
            (8, "<H", (1 << 13,), "damaged or compressed"),
            (10, "<H", (8,), "damaged or compressed"),
            (20, "<I", (1,), "damaged or compressed"),
            (20, "<2I", (1 << 23, 1 << 23), "not what the directory says"),
            (42, "<I", (0,), "damaged archive|does not begin|directory says"),
            (42, "<I", (1 << 30,), "not what the directory says|damaged archive"),
        ],
    )
    def test_the_directory(self, tmp_path, at, form, values, said):
        """Encrypted, patched, compressed, longer or elsewhere, by the directory alone."""
        path = packed(tmp_path / "a.pt", GOOD)
        changed(path, directory_at(path.read_bytes(), b"a/data/0") + at, form, *values)
        refused(path, said)

    def test_shared_bytes(self, tmp_path):
        """A member whose bytes are another one's too is refused."""
        path = packed(tmp_path / "a.pt", GOOD)
        data = path.read_bytes()
        size = len(STORAGE) + 60
        changed(path, directory_at(data, b"a/data/0") + 20, "<2I", size, size)
        changed(path, data.index(b"a/data/0") - 12, "<2I", size, size)
        refused(path, "'a/data/0' reaches beyond its place")

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            (lambda data: b"x" + data, "does not begin with its first member"),
            (lambda data: data + b"\0", "does not end where its directory does"),
            (lambda data: data + data, "does not begin with its first member"),
            (lambda data: data[:-1], "does not end where its directory does"),
            (lambda data: data[:-2] + b"\x03\0abc", "does not end where its directory does"),
            (lambda data: data[-22:], "damaged archive"),
            (lambda data: data[:20], "does not end"),
            (lambda data: b"PK\x05\x06" + bytes(18), "does not begin"),
        ],
    )
    def test_around(self, tmp_path, change, said):
        """Bytes before or behind, a comment, a second archive, and files cut short are refused."""
        path = packed(tmp_path / "a.pt", GOOD)
        path.write_bytes(change(path.read_bytes()))
        refused(path, said)


def test_metadata_that_are_no_text(tmp_path):
    """A predictor whose header only safetensors itself refuses is refused in one line."""
    save_file({"layer.1.predictor": np.zeros((2, 2), "f4"), "fitted_prefixes": np.zeros(1, "i8")},
              tmp_path / "p.safetensors", {"routectl": "x"})  # fmt: skip
    path = tmp_path / "p.safetensors"
    path.write_bytes(path.read_bytes().replace(b'"routectl":"x"', b'"routectl":123'))
    with pytest.raises(FormatError, match=r"damaged \.safetensors"):
        open_predictor(path)
