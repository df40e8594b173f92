"""Pickles of checkpoints: what they may say, and torch.save's archives against torch.load."""

import io
import os
import pickle
import struct
import subprocess
import time
import tracemalloc
import zipfile
from collections import OrderedDict, defaultdict
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from routectl.checkpoints.infos import Piece, TensorInfo
from routectl.checkpoints.tensors import read_tensor
from routectl.errors import FormatError, UnsupportedError
from routectl.pickled.archives import open_archive, single_tensor
from routectl.pickled.reading import load_pickle
from routectl.pickled.records import Record, StoredTensor

METADATA = (
    Path(__file__).parent.parent.parent
    / "fixtures"
    / "checkpoints"
    / "megatron-0.15.3"
    / "iter_0000007"
    / ".metadata"
).read_bytes()


def saved(value: object) -> bytes:
    """What torch.save writes."""
    stream = io.BytesIO()
    torch.save(value, stream)
    return stream.getvalue()


class Calls:
    """An object whose pickle calls a function."""

    def __init__(self, function, *args) -> None:
        self.call = function, args

    def __reduce__(self):
        return self.call


class TestRefused:
    """Nothing runs, and nothing grows."""

    @pytest.mark.parametrize(
        "function",
        [
            os.system,
            eval,
            exec,
            getattr,
            __import__,
            open,
            subprocess.Popen,
            os.getcwd,
            type,
            map,
            pickle.loads,
            torch.load,
            torch.hub.load,
            nn.Linear,
            io.open,
            object,
            dict,
            list,
            setattr,
        ],
    )
    def test_a_name_off_the_list_is_refused(self, function) -> None:
        """Every function and class that is not on the list is refused by name."""
        for protocol in range(2, 6):
            data = pickle.dumps(Calls(function, "echo"), protocol)
            with pytest.raises(FormatError, match=r"^here: (refused|damaged) pickle: names .*list"):
                load_pickle(data, "here")

    def test_dotted_names_do_not_reach_through(self) -> None:
        """A name with a dot, which pickle would follow as attributes, is refused."""
        data = b"\x80\x04\x8c\x05torch\x8c\x0cSize.__new__\x93."
        with pytest.raises(FormatError, match=r"names torch\.Size\.__new__"):
            load_pickle(data, "here")

    def test_a_class_of_the_list_cannot_be_changed(self) -> None:
        """State that is set on a class, not on an object, raises and leaves the class alone."""
        for name in (
            b"torch\nSize",
            b"collections\nOrderedDict",
            b"argparse\nNamespace",
            b"torch._utils\n_rebuild_parameter",
        ):
            data = b"\x80\x02c" + name + b"\nN}X\x04\x00\x00\x00evilK\x01s\x86b."
            with pytest.raises(FormatError, match=r"(damaged|refused) pickle: "):
                load_pickle(data, "here")
        assert not hasattr(Record, "evil")

    @pytest.mark.parametrize(
        ("data", "said"),
        [
            (b"", "no end"),
            (b"\x80\x04N", "no end"),
            (b"\x80\x04Nr\xff\xff\xff\x7f.", "memo slot out of order"),
            (b"\x80\x05\x96" + struct.pack("<Q", 1 << 40) + b".", "no end"),
            (b"\x80\x05\x97.", "opcode 0x97"),
            (b"\x80\x04N2.", "opcode 0x32"),
            (b"\x80\x04\x8d" + struct.pack("<Q", 1 << 40) + b".", "no end"),
            (b"\x80\x04\x95" + struct.pack("<Q", 1 << 60) + b"N.", "frame beyond the data"),
            (b"(i__main__\nX\n.", "opcode 0x69"),
            (b"I1\n.", "opcode 0x49"),
            (b"\x80\x04" + b"(" * 100_000 + b".", "more than 200 deep"),
            (b"\x80\x04K\x01Q.", "a persistent object"),
            (b"cone line", "no end"),
        ],
    )
    def test_it_is_refused_quickly_in_little_memory(self, data: bytes, said: str) -> None:
        """Opcodes that claim gigabytes, or that these writers never use, take neither."""
        tracemalloc.start()
        begin = time.process_time()
        with pytest.raises(FormatError, match=r"here: .*") as caught:
            load_pickle(data, "here")
        assert said in str(caught.value)
        assert time.process_time() - begin < 1
        assert tracemalloc.get_traced_memory()[1] < 20e6
        tracemalloc.stop()

    @given(at=st.integers(0, len(METADATA) - 1), byte=st.integers(0, 255), cut=st.booleans())
    def test_damage_raises_nothing_but_format_errors(self, at: int, byte: int, cut: bool) -> None:
        """Real metadata cut anywhere, or with a byte changed, loads or raises FormatError."""
        data = METADATA[:at] if cut else METADATA[:at] + bytes([byte]) + METADATA[at + 1 :]
        try:
            load_pickle(data, "here")
        except FormatError as error:
            assert str(error).startswith("here: ")  # noqa: PT017
        else:
            assert not cut


class TestValues:
    """What real pickles give."""

    def test_plain_values_come_back(self) -> None:
        """Numbers, text, containers, sizes and dtypes are read as they are."""
        value = {
            "a": [1, 2.5, None, True, -1, 1 << 70],
            "b": ("text", b"bytes"),
            "c": {"d": {}},
            "size": torch.Size([2, 3]),
            "ordered": OrderedDict(x=1),
            "default": defaultdict(None, y=2),
        }
        for protocol in range(2, 6):
            data = pickle.dumps({**value, "b": ("text",)}, protocol)
            assert load_pickle(data, "here") == {**value, "b": ("text",)}
        assert load_pickle(pickle.dumps(value, 4), "here")["b"] == ("text", b"bytes")
        assert load_pickle(pickle.dumps(torch.bfloat16), "here") == "BF16"

    def test_tuples_used_again_come_back(self) -> None:
        """Tuples that are there more than once, keys among them, are read as they are."""
        shared = (1, (2, 3))
        value = {
            "keys": {(shared, i): (shared, shared) for i in range(60)},
            "lists": [shared] * 60,
            "sizes": [torch.Size((2, 3))] * 60,
            "deep": ((shared,),),
        }
        for protocol in range(2, 6):
            assert load_pickle(pickle.dumps(value, protocol), "here") == value

    def test_the_walk_reads_what_pickle_reads(self) -> None:
        """Bytes behind the end are not looked at, as pickle does not."""
        assert load_pickle(pickle.dumps([1]) + b"\xff" * 9, "here") == [1]


TENSORS = {
    "bf16": torch.randn(3, 5).bfloat16(),
    "f32": torch.randn(7),
    "i64": torch.arange(6).view(2, 3),
    "bool": torch.tensor([True, False]),
    "scalar": torch.tensor(2.5),
    "none": torch.empty(0, 4),
    "slice": torch.randn(6, 4)[2:5],
    "transposed": torch.randn(4, 6).t(),
    "strided": torch.randn(6, 6)[::2, 1::2],
    "expanded": torch.randn(1, 4).expand(3, 4),
    "f16": torch.randn(2, 2).half(),
    "u8": torch.arange(9, dtype=torch.uint8),
}


class TestArchives:
    """torch.save's files."""

    @pytest.mark.parametrize("name", TENSORS)
    def test_a_tensor_is_what_torch_loads(self, name: str, tmp_path: Path) -> None:
        """Each layout, view and dtype is read from a file's middle as torch.load gives it."""
        tensor = TENSORS[name]
        data = saved(tensor)
        path = tmp_path / "file"
        path.write_bytes(b"front" + data + b"behind")
        dtype, _, strides = single_tensor(data, "here")
        assert strides == tensor.stride()
        shape = tuple(tensor.shape)
        piece = Piece(path, 5, len(data), (0,) * len(shape), shape, archived=True)
        info = TensorInfo("t", dtype, shape, tensor.nbytes, (piece,))
        read = read_tensor(info, "here")
        loaded = torch.load(io.BytesIO(data))
        assert read.dtype == loaded.dtype
        assert torch.equal(read, loaded)

    def test_values_and_places(self) -> None:
        """A state dict's tensors, Parameters and shared storages have their places."""
        shared = torch.randn(4, 4)
        data = saved({"w": nn.Parameter(shared), "row": shared[1], "n": 3})
        archive = open_archive(io.BytesIO(data), "here")
        assert archive.value["n"] == 3
        assert all(isinstance(archive.value[k], StoredTensor) for k in ("w", "row"))
        whole, row = (archive.place(archive.value[k]) for k in ("w", "row"))
        assert whole[1] + 16 == row[1]
        numbers = struct.unpack_from("<4f", data, row[1])
        assert numbers == tuple(shared[1].tolist())

    @pytest.mark.parametrize(
        "change",
        [
            lambda data: data[:-10],
            lambda data: data[: len(data) // 2],
            lambda data: data[:4] + bytes(len(data) - 4),
            lambda data: b"",
            lambda data: data.replace(b"little", b"bigger"),
        ],
    )
    def test_damaged_archives_are_refused(self, change) -> None:
        """Cut, zeroed and foreign archives raise FormatError or UnsupportedError."""
        with pytest.raises((FormatError, UnsupportedError), match=r"^here: "):
            single_tensor(change(saved(torch.ones(100))), "here")

    def test_compressed_members_are_refused(self) -> None:
        """A member that would inflate is not looked at."""
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("archive/data.pkl", pickle.dumps({"a": 1}) + bytes(1 << 24))
        with pytest.raises(FormatError, match=r"'archive/data\.pkl' is damaged or compressed"):
            open_archive(io.BytesIO(stream.getvalue()), "here")

    def test_a_tensor_larger_than_its_storage_is_refused(self, tmp_path: Path) -> None:
        """A shape that reaches beyond the storage raises before anything is allocated."""
        from torch._utils import _rebuild_tensor_v2

        class Lies:
            def __reduce__(self):
                storage = torch.ones(4)._typed_storage()
                size = (1 << 40,)
                return _rebuild_tensor_v2, (storage, 0, size, (1,), False, OrderedDict())

        with pytest.raises(FormatError, match=r"has 16 bytes, a tensor of it more"):
            single_tensor(saved(Lies()), "here")
