"""Safetensors folders opened from their headers, against the safetensors library."""

import json
import struct
import time
import tracemalloc
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from routectl.checkpoints import is_checkpoint, open_checkpoint
from routectl.checkpoints.headers import read_header
from routectl.errors import FormatError, RoutectlError, UnsupportedError

DTYPES = {
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "F32": torch.float32,
    "F64": torch.float64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E8M0": torch.float8_e8m0fnu,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I32": torch.int32,
    "I64": torch.int64,
    "BOOL": torch.bool,
    "U16": torch.uint16,
    "U32": torch.uint32,
    "U64": torch.uint64,
}


def raw(header: object, data: bytes = b"") -> bytes:
    """A safetensors file with any header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(begin: int, end: int, shape: list[int] | None = None, dtype: str = "U8") -> dict:
    """A header entry."""
    return {
        "dtype": dtype,
        "shape": [end - begin] if shape is None else shape,
        "data_offsets": [begin, end],
    }


def bits(tensor: torch.Tensor) -> bytes:
    """The bytes of a tensor's elements."""
    return bytes(tensor.clone().untyped_storage())


def write(folder: Path, shards: list[dict[str, torch.Tensor]], index: bool = True) -> None:
    """Shards in a folder, with an index or without."""
    places = {}
    for number, tensors in enumerate(shards, 1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        save_file(tensors, folder / name)
        places |= dict.fromkeys(tensors, name)
    if index:
        document = {"metadata": {}, "weight_map": places}
        (folder / "model.safetensors.index.json").write_text(json.dumps(document))


class TestReading:
    """What good files give."""

    def test_every_dtype_is_read_as_stored(self, tmp_path: Path) -> None:
        """Each tensor has the dtype, shape and bits that the library reads."""
        numbers = torch.arange(24, dtype=torch.uint8)
        tensors = {
            name: numbers.view(dtype).clone()
            for name, dtype in DTYPES.items()
            if dtype != torch.bool
        }
        tensors |= {"bool": torch.tensor([[True, False]])}
        tensors |= {"scalar": torch.tensor(1.5), "none": torch.empty(0, 7, dtype=torch.bfloat16)}
        save_file(tensors, tmp_path / "model.safetensors")
        checkpoint = open_checkpoint(tmp_path)
        with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
            assert set(file.keys()) == set(checkpoint.tensors)
            for name, info in checkpoint.tensors.items():
                there, read = file.get_tensor(name), checkpoint.read(name)
                assert info.dtype == file.get_slice(name).get_dtype()
                assert info.shape == tuple(there.shape) == tuple(read.shape)
                assert info.num_bytes == there.nbytes
                assert there.dtype == read.dtype
                assert bits(there) == bits(read)

    def test_an_odd_header_is_read_all_the_same(self, tmp_path: Path) -> None:
        """Elements at an unaligned offset, as old writers left them, are right."""
        values = torch.arange(5, dtype=torch.float32)
        header = json.dumps({"a": entry(0, 20, [5], "F32")}).encode()
        for pad in range(4):
            data = raw(header + b" " * pad, values.numpy().tobytes())
            (tmp_path / "model.safetensors").write_bytes(data)
            assert torch.equal(open_checkpoint(tmp_path).read("a"), values)

    def test_writing_to_a_tensor_leaves_the_file_alone(self, tmp_path: Path) -> None:
        """Tensors are private copies of the pages, so they may be written."""
        save_file({"a": torch.ones(3)}, tmp_path / "model.safetensors")
        checkpoint = open_checkpoint(tmp_path)
        checkpoint.read("a").zero_()
        assert checkpoint.read("a").tolist() == [1, 1, 1]

    @pytest.mark.parametrize("index", [True, False])
    def test_shards_are_one_checkpoint(self, tmp_path: Path, index: bool) -> None:
        """With an index or without, all tensors are there, and the files are in order."""
        shards = [{"b": torch.ones(2), "z": torch.zeros(3)}, {"a": torch.full((4,), 2.0)}]
        write(tmp_path, shards, index)
        checkpoint = open_checkpoint(tmp_path)
        assert sorted(checkpoint.tensors) == ["a", "b", "z"]
        assert [file.name[:11] for file in checkpoint.files] == ["model-00001", "model-00002"]
        for tensors in shards:
            for name, tensor in tensors.items():
                assert torch.equal(checkpoint.read(name), tensor)

    def test_tensors_beside_the_index_are_named_and_left_out(self, tmp_path: Path) -> None:
        """A tensor that a shard has and the index not is listed as unindexed."""
        write(tmp_path, [{"a": torch.ones(2), "b": torch.ones(2)}])
        index = tmp_path / "model.safetensors.index.json"
        document = json.loads(index.read_text())
        del document["weight_map"]["b"]
        index.write_text(json.dumps(document))
        checkpoint = open_checkpoint(tmp_path)
        assert (list(checkpoint.tensors), checkpoint.unindexed) == (["a"], ("b",))

    def test_a_name_that_is_not_there_is_refused(self, tmp_path: Path) -> None:
        """Reading an unknown name is a FormatError."""
        save_file({"a": torch.ones(3)}, tmp_path / "model.safetensors")
        with pytest.raises(FormatError, match="no tensor 'b' among 1"):
            open_checkpoint(tmp_path).read("b")

    def test_a_dtype_that_torch_cannot_hold_is_listed_and_not_read(self, tmp_path: Path) -> None:
        """F4 counts half a byte an element, and reading it is unsupported."""
        data = raw({"a": entry(0, 4, [8], "F4")}, bytes(4))
        (tmp_path / "model.safetensors").write_bytes(data)
        checkpoint = open_checkpoint(tmp_path)
        assert checkpoint.info("a").num_bytes == 4
        with pytest.raises(UnsupportedError, match="a: torch has no F4"):
            checkpoint.read("a")

    def test_a_file_cut_after_opening_is_refused(self, tmp_path: Path) -> None:
        """A tensor that is gone when it is read raises FormatError."""
        path = tmp_path / "model.safetensors"
        save_file({"a": torch.ones(30000)}, path)
        checkpoint = open_checkpoint(tmp_path)
        path.write_bytes(path.read_bytes()[:5000])
        with pytest.raises(FormatError, match=r"a: .*cannot be read"):
            checkpoint.read("a")


HOSTILE = {
    "empty": (b"", "bad header length: got 0 in a file of 0 bytes"),
    "seven bytes": (b"\0" * 7, "bad header length"),
    "no header": (raw(b""), "bad header length: got 0"),
    "truncated header": (raw({"a": entry(0, 4)})[:-3], "bad header length"),
    "huge length": (struct.pack("<Q", (1 << 64) - 1) + b"{}", "bad header length: got 18446744"),
    "not JSON": (raw(b"{nope}"), "header: not JSON"),
    "not UTF-8": (raw(b'{"\xff": 1}'), "header: not JSON"),
    "nested deep": (raw(b"[" * 100_000), "header: not JSON"),
    "huge number": (raw(b'{"a": ' + b"9" * 5000 + b"}"), "header: not JSON"),
    "no object": (raw([1]), "got list, expected a JSON object"),
    "twice": (
        raw(b'{"a":%b,"a":%b}' % ((json.dumps(entry(0, 4)).encode(),) * 2), bytes(4)),
        "header: 'a' is there twice",
    ),
    "no entry": (raw({"a": 3}), "'a': got no dtype"),
    "no offsets": (raw({"a": {"dtype": "U8", "shape": [4]}}, bytes(4)), "bad shape or data_off"),
    "float shape": (raw({"a": entry(0, 4, [4.0])}, bytes(4)), "bad shape or data_offsets"),
    "bool shape": (raw({"a": entry(0, 1, [True])}, bytes(1)), "bad shape or data_offsets"),
    "negative": (raw({"a": entry(-4, 0, [4])}, bytes(4)), "bad shape or data_offsets"),
    "backwards": (raw({"a": entry(4, 0, [0])}, bytes(4)), "-4 bytes for U8"),
    "beyond the end": (raw({"a": entry(0, 8)}, bytes(4)), "tensors end at byte"),
    "left over": (raw({"a": entry(0, 4)}, bytes(9)), "tensors end at byte"),
    "overlap": (raw({"a": entry(0, 4), "b": entry(2, 6)}, bytes(6)), "'b' overlaps the one before"),
    "gap": (raw({"a": entry(0, 4), "b": entry(6, 8)}, bytes(8)), "'b' leaves a gap"),
    "shape lies": (raw({"a": entry(0, 4, [1 << 60])}, bytes(4)), "4 bytes for U8"),
    "shape explodes": (raw({"a": entry(0, 4, [1 << 61] * 16)}, bytes(4)), "4 bytes for U8"),
    "many axes": (raw({"a": entry(0, 4, [1] * 1000)}, bytes(4)), "bad shape or data_offsets"),
}


class TestHostile:
    """Files that are not what they claim."""

    @pytest.mark.parametrize("case", HOSTILE)
    def test_it_is_refused_quickly_in_little_memory(self, tmp_path: Path, case: str) -> None:
        """Every damage is a one-line FormatError, in under a second and 20 MB."""
        data, said = HOSTILE[case]
        (tmp_path / "model.safetensors").write_bytes(data)
        tracemalloc.start()
        begin = time.monotonic()
        with pytest.raises(FormatError) as caught:
            open_checkpoint(tmp_path)
        spent, peak = time.monotonic() - begin, tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        message = str(caught.value)
        assert said in message
        assert message.startswith(str(tmp_path / "model.safetensors"))
        assert "\n" not in message
        assert len(message) < 400 + len(str(tmp_path))
        assert spent < 1
        assert peak < 20e6

    def test_a_long_header_is_refused_unread(self, tmp_path: Path) -> None:
        """A header of more than 100 MB, in a sparse file that is large enough, is not read."""
        path = tmp_path / "model.safetensors"
        with path.open("wb") as file:
            file.write(struct.pack("<Q", 200_000_000))
            file.truncate(300_000_000)
        tracemalloc.start()
        with pytest.raises(FormatError, match="header of 200000000 bytes, expected at most"):
            open_checkpoint(tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 1e6
        tracemalloc.stop()

    def test_an_unknown_dtype_is_unsupported(self, tmp_path: Path) -> None:
        """A dtype of the future is refused with the list of known ones."""
        (tmp_path / "model.safetensors").write_bytes(raw({"a": entry(0, 4, [4], "F3")}, bytes(4)))
        with pytest.raises(UnsupportedError, match="dtype 'F3' is not known: BOOL, U8"):
            open_checkpoint(tmp_path)

    @given(data=st.data())
    def test_it_accepts_what_the_library_accepts(
        self, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
    ) -> None:
        """Of files changed at random, those that pass are those that safetensors opens."""
        offsets = st.integers(-1, 9)
        shape = st.lists(st.integers(0, 4), max_size=2)
        entries = st.fixed_dictionaries(
            {
                "dtype": st.sampled_from(["U8", "BF16", "F32"]),
                "shape": shape,
                "data_offsets": st.lists(offsets, min_size=2, max_size=2),
            }
        )
        header = data.draw(st.dictionaries(st.sampled_from("abc"), entries, max_size=3))
        if data.draw(st.booleans()):  # lay it out well, so that many pass
            at = 0
            for item in header.values():
                size = {"U8": 1, "BF16": 2, "F32": 4}[item["dtype"]]
                for n in item["shape"]:
                    size *= n
                item["data_offsets"] = [at, at + size]
                at += size
        length = max([0, *(max(e["data_offsets"]) for e in header.values())])
        content = raw(header, bytes(length + data.draw(st.sampled_from([0, 0, 0, 1]))))
        path = tmp_path_factory.mktemp("fuzz") / "model.safetensors"
        path.write_bytes(content)
        try:
            with safe_open(path, framework="pt") as file:
                known = {n: tuple(file.get_slice(n).get_shape()) for n in file.keys()}  # noqa: SIM118
        except SafetensorError:
            known = None
        try:
            found = {name: info.shape for name, info in read_header(path).items()}
        except RoutectlError:
            found = None
        assert found == known

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"gone": "model-00001-of-00002.safetensors"}, "'gone' is not in model-00001"),
            ({"a": "model-00009-of-00002.safetensors"}, "cannot be read: No such file"),
            ({"a": "../secret.safetensors"}, "expected one in the same folder"),
            ({"a": "/etc/passwd"}, "expected one in the same folder"),
            ({"a": 3}, "got file '3', expected one"),
            ({"a": ".."}, "expected one in the same folder"),
        ],
    )
    def test_an_index_that_lies_is_refused(self, tmp_path: Path, change: dict, said: str) -> None:
        """An index that names absent files or tensors, or leaves the folder, raises FormatError."""
        write(tmp_path, [{"a": torch.ones(2)}, {"b": torch.ones(2)}])
        index = tmp_path / "model.safetensors.index.json"
        document = json.loads(index.read_text())
        document["weight_map"] |= change
        index.write_text(json.dumps(document))
        with pytest.raises(FormatError, match=said):
            open_checkpoint(tmp_path)

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("{}", "no weight_map"),
            ('{"weight_map": {}}', "no weight_map"),
            ('{"weight_map": {"a": "x", "a": "x"}}', "'a' is there twice"),
            ("", "not JSON"),
        ],
    )
    def test_an_index_without_a_map_is_refused(self, tmp_path: Path, text: str, said: str) -> None:
        """An index that maps nothing, or a name twice, raises FormatError."""
        (tmp_path / "model.safetensors.index.json").write_text(text)
        with pytest.raises(FormatError, match=said):
            open_checkpoint(tmp_path)

    def test_incomplete_shards_are_refused(self, tmp_path: Path) -> None:
        """Without an index, a shard that is absent or a tensor in two of them is an error."""
        write(tmp_path, [{"a": torch.ones(2)}, {"a": torch.ones(2)}], index=False)
        with pytest.raises(FormatError, match="'a' is in another shard too"):
            open_checkpoint(tmp_path)
        (tmp_path / "model-00001-of-00002.safetensors").unlink()
        with pytest.raises(FormatError, match="1 shards without an index, expected 00002"):
            open_checkpoint(tmp_path)

    def test_pickled_weights_are_unsupported(self, tmp_path: Path) -> None:
        """A folder of pytorch_model.bin alone is recognised and refused."""
        (tmp_path / "pytorch_model.bin").write_bytes(b"")
        assert is_checkpoint(tmp_path)
        with pytest.raises(UnsupportedError, match=r"pickled weights \(pytorch_model\.bin\)"):
            open_checkpoint(tmp_path)

    def test_what_is_no_checkpoint_is_refused(self, tmp_path: Path) -> None:
        """A file, an absent folder and an empty one each say so."""
        (tmp_path / "file").touch()
        for name, said in (
            ("file", "expected a folder"),
            ("gone", "no such folder"),
            (".", "no ch"),
        ):
            assert not is_checkpoint(tmp_path / name)
            with pytest.raises(FormatError, match=said):
                open_checkpoint(tmp_path / name)
