"""Torch files that someone else made: refused in one line, at little cost, and nothing runs.

Pickles are written out opcode by opcode: what torch.save would never write.
"""

import os
import struct
import time
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from routectl.cli.main import main
from routectl.errors import FormatError, RoutectlError, UnsupportedError
from routectl.formats import open_dump
from routectl.formats.replay.plans import read_plan
from routectl.formats.trainers.train_data import read_train_data
from routectl.model import ModelFacts
from support.building import check_line
from support.slime_files import slime_sample

FACTS = ModelFacts(2, (1,), 4, 2, None)


def text(value):
    """BINUNICODE."""
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def number(value):
    """BININT."""
    return b"J" + struct.pack("<i", value)


def tuple_of(*parts):
    """MARK ... TUPLE."""
    return b"(" + b"".join(parts) + b"t"


def call(name, *args):
    """GLOBAL, a tuple, REDUCE: what a name gives when called."""
    return b"c" + name.replace(" ", "\n").encode() + b"\n" + tuple_of(*args) + b"R"


def tensor(storage=4, offset=0, shape=(4,), strides=(1,), kind="IntStorage"):
    """A tensor of entry data/0, as torch.save writes one."""
    place = (
        tuple_of(
            text("storage"),
            b"ctorch\n" + kind.encode() + b"\n",
            text("0"),
            text("cpu"),
            number(storage),
        )
        + b"Q"
    )
    sizes = (tuple_of(*map(number, part)) for part in (shape, strides))
    return call(
        "torch._utils _rebuild_tensor_v2",
        place,
        number(offset),
        *sizes,
        b"\x89",
        b"ccollections\nOrderedDict\n)R",
    )


def ndarray(code="i4", shape=(4,), data=b"\x00" * 16, extra=b""):
    """A numpy array, as numpy pickles one at protocol 2."""
    made = call(
        "numpy._core.multiarray _reconstruct", b"cnumpy\nndarray\n", tuple_of(number(0)), text("b")
    )
    raw = call("_codecs encode", text(data.decode("latin1")), text("latin1"))
    dtype = call("numpy dtype", text(code), b"\x89", b"\x88") + extra
    return made + tuple_of(number(1), tuple_of(*map(number, shape)), dtype, b"\x89", raw) + b"b"


def samples_of(**fields):
    """A rollout dump with one sample of these fields, each written out."""
    doc = {"tokens": b"](K\x01K\x02K\x03K\x04K\x05e", "response_length": b"K\x02", **fields}
    sample = b"}(" + b"".join(text(k) + v for k, v in doc.items()) + b"u"
    return b"}(" + text("samples") + b"](" + sample + b"eu"


def save(path, pickled, data=bytes(16), **entries):
    """An archive as torch.save's, with this pickle."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", b"\x80\x02" + pickled + b".")
        archive.writestr("a/byteorder", "little")
        archive.writestr("a/data/0", data)
        archive.writestr("a/version", "3\n")
        for name, content in entries.items():
            archive.writestr(f"a/{name}", content)
    return path


def refused(path, said, kind=FormatError, opened=lambda p: list(open_dump(p, model=FACTS))):
    """The file is refused in one line, in a second of the CPU and 16 MB of Python's memory."""
    with pytest.raises(kind):
        opened(path)  # once outside of the clock, so that no import is counted
    began = time.process_time()
    with pytest.raises(kind, match=said) as caught:
        opened(path)
    assert time.process_time() - began < 1
    tracemalloc.start()
    try:
        with pytest.raises(kind):
            opened(path)
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()
    check_line(caught.value, path, RoutectlError)


class TestNames:
    """What a pickle may name."""

    @pytest.mark.parametrize(
        "name",
        [
            "posix system",
            "os system",
            "nt system",
            "__builtin__ eval",
            "builtins exec",
            "builtins getattr",
            "subprocess Popen",
            "torch load",
            "torch.hub load",
            "builtins open",
            "torch._utils _rebuild_sparse_tensor",
            "builtins bytearray",
            "torch FloatTensor",
            "numpy load",
            "numpy._core.multiarray fromstring",
            "torch.nn.parameter Parameter",
            "slime.utils.types Sample",
            "verl.protocol DataProto",
        ],
    )
    def test_off_the_list(self, tmp_path, name):
        """Functions and classes that are not on the list are refused by name, called or not."""
        for n, pickled in enumerate(
            (
                call(name, text("echo 1 > ran")),
                samples_of(rollout_routed_experts=call(name, text("x"))),
                b"c" + name.replace(" ", "\n").encode() + b"\n0}",
            )
        ):
            path = save(tmp_path / f"{n}.pt", pickled)
            refused(path, f"names {name.replace(' ', '.')}, which is not on the list")

    def test_nothing_runs(self, tmp_path):
        """A pickle that would make a file makes none, by whichever way it is opened."""
        ran = tmp_path / "ran"

        class Evil:
            def __reduce__(self):
                return os.system, (f"touch {ran}",)

        path = tmp_path / "evil.pt"
        torch.save({"samples": [slime_sample(trace=Evil())], "dp_shards": []}, path)
        for opened in (
            lambda p: open_dump(p, model=FACTS),
            read_train_data,
            lambda p: read_plan(p, 1),
        ):
            refused(path, "names posix.system", FormatError, opened)
        assert main(["show", str(path)]) == 2
        assert main(["check", str(path)]) == 2
        assert not ran.exists()

    @pytest.mark.parametrize(
        ("opcode", "said"),
        [
            (b"i__main__\nX\n", "opcode 0x69"),
            (b"\x82\x01", "opcode 0x82"),
            (text("os") + text("system") + b"\x93", "names os.system, which is not on the list"),
        ],
    )
    def test_other_ways_to_a_name(self, tmp_path, opcode, said):
        """Opcodes that reach a name by another way than torch.save's reach none off the list."""
        refused(save(tmp_path / "a.pt", b"(" + opcode), f"refused pickle: {said}")

    def test_jagged_names_elsewhere(self, tmp_path):
        """The names that a TensorDict needs make nothing, and are no routes elsewhere."""
        pickled = samples_of(rollout_routed_experts=call("torch Tensor", number(4)))
        refused(save(tmp_path / "a.pt", pickled), "got Tensor, expected numbers")

    @pytest.mark.parametrize(
        ("name", "said"),
        [
            ("xtuner.v1.rl.replay_buffer StorageItem", "of xtuner's classes the states of"),
            ("ray._raylet ObjectRef", "references into a Ray cluster"),
        ],
    )
    def test_xtuner(self, tmp_path, name, said):
        """What of xtuner's is no rollout state, such as its replay buffer's, is refused by name."""
        item = b"c" + name.replace(" ", "\n").encode() + b"\n)\x81}b"
        path = save(tmp_path / "debug_rollout_3.pt", b"](](" + item + b"ee")
        refused(path, f"names {name.replace(' ', '.')}: {said}", UnsupportedError)
        assert main(["show", str(path)]) == 2


class TestTensors:
    """Tensors that claim what is not theirs."""

    @pytest.mark.parametrize(
        ("claim", "said"),
        [
            ({"offset": 3}, "storage '0' has 16 bytes, a tensor of it more"),
            ({"shape": (1000,)}, "storage '0' has 16 bytes, a tensor of it more"),
            ({"shape": (1 << 30,), "storage": 1 << 30}, "has 16 bytes, a tensor of it more"),
            ({"shape": (2, 2), "strides": (1 << 20, 1)}, "has 16 bytes, a tensor of it more"),
            ({"strides": (-1,)}, "a tensor without a storage, shape or strides"),
            ({"offset": -1}, "a tensor without a storage, shape or strides"),
            ({"shape": (-3,)}, "a tensor without a storage, shape or strides"),
            ({"shape": (1000,), "storage": 1000}, "has 16 bytes, a tensor of it more"),
            ({"shape": (4,), "strides": (1, 1)}, "a tensor without a storage, shape or strides"),
        ],
    )
    def test_outside_of_the_storage(self, tmp_path, claim, said):
        """Shapes, strides and offsets that leave the storage are refused; it is not made larger."""
        pickled = samples_of(rollout_routed_experts=tensor(**claim))
        refused(save(tmp_path / "a.pt", pickled), f"refused pickle: .*{said}")

    def test_stretched(self, tmp_path):
        """A tensor without strides, larger than its bytes, is refused before it is copied."""
        pickled = samples_of(
            rollout_routed_experts=tensor(shape=(1 << 20, 1 << 10, 2), strides=(0, 0, 0))
        )
        refused(save(tmp_path / "a.pt", pickled), "larger than its bytes")

    def test_no_entry(self, tmp_path):
        """A storage that is not in the archive is damage."""
        pickled = samples_of(tokens=tensor().replace(text("0"), text("9")))
        refused(save(tmp_path / "a.pt", pickled), "refused pickle: no storage '9'")

    @pytest.mark.parametrize(
        ("field", "value", "said"),
        [
            ("tokens", tensor(kind="FloatStorage"), "expected token ids"),
            ("tokens", tensor(shape=(2, 2), strides=(2, 1)), "expected token ids"),
            ("tokens", b"N", "got NoneType, expected numbers"),
            ("response_length", b"K\x09", "a prompt of -4 tokens of 5"),
            ("response_length", b"\x88", "expected a count"),
            ("rollout_log_probs", tensor(), r"got \(4,\), expected one of 2 tokens"),
            ("rollout_log_probs", text("x"), "got str, expected numbers"),
            ("loss_mask", tensor(), r"loss_mask: got \(4,\), expected 2"),
            ("metadata", b"}" + text("weight_spans") + b"](K\x01es", "weight_spans: got "),
            ("weight_versions", b"](}e", "expected {version, start, end}"),
            ("rollout_routed_experts", b"](](](K\x01eee", "got rows of 1 ids, expected top_k = 2"),
            ("rollout_routed_experts", number(3), "got int, expected numbers"),
        ],
    )
    def test_fields(self, tmp_path, field, value, said):
        """Every field of another kind or length is refused by its name."""
        refused(
            save(
                tmp_path / "a.pt", samples_of(**{"rollout_routed_experts": tensor(), field: value})
            ),
            said,
        )


class TestArrays:
    """numpy arrays, which are bytes until they are asked for."""

    @pytest.mark.parametrize(
        ("claim", "said"),
        [
            ({"code": "O8"}, "numpy array of objects, expected numbers"),
            ({"code": "V4"}, "expected numbers"),
            ({"code": "i4,O"}, "expected numbers"),
            ({"shape": (5,)}, "16 bytes for a numpy array"),
            ({"shape": (1 << 30, 1 << 30)}, "16 bytes for a numpy array"),
            ({"shape": (-4,)}, "16 bytes for a numpy array"),
            ({"shape": (-2, -2)}, "16 bytes for a numpy array"),
            ({"shape": (1,) * 9}, "shape"),
        ],
    )
    def test_claims(self, tmp_path, claim, said):
        """An array of objects, or of another size than its bytes, is refused and never made."""
        pickled = samples_of(rollout_routed_experts=ndarray(**claim))
        refused(save(tmp_path / "a.pt", pickled), said)

    def test_never_called(self, tmp_path):
        """Calls that would have numpy take memory, or that leave an array unfilled, do nothing."""
        huge = tuple_of(number(1 << 30), number(1 << 30))
        for n, value in enumerate(
            (
                call("numpy ndarray", huge),
                call("numpy._core.multiarray _reconstruct", b"cnumpy\nndarray\n", huge, text("b")),
                call("numpy dtype", text("i4")),
                call("numpy._core.multiarray scalar", call("numpy dtype", text("O8")), b"N"),
                b"cnumpy\nndarray\n",
            )
        ):
            path = save(tmp_path / f"{n}.pt", samples_of(rollout_routed_experts=value))
            refused(path, "expected numbers|without its state|damaged")

    def test_what_numpy_makes(self, tmp_path):
        """What numpy itself pickles of objects is refused as well."""
        path = tmp_path / "a.pt"
        ids = np.array([[[0, 1], [1, 0]]] * 3, object)
        torch.save({"samples": [slime_sample(rollout_routed_experts=ids)]}, path)
        refused(path, "without its state|expected numbers")


class TestArchives:
    """The zip around."""

    def test_bomb(self, tmp_path):
        """An entry that inflates far beyond the file is refused before it is read."""
        path = tmp_path / "a.pt"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a/data.pkl", b"\x80\x02}.")
            archive.writestr("a/data/0", bytes(80 << 20), zipfile.ZIP_DEFLATED)
        refused(path, "member 'a/data/0' is damaged or compressed")

    def test_compressed(self, tmp_path):
        """torch.save compresses nothing, and what is compressed cannot be mapped."""
        path = tmp_path / "a.pt"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("a/data.pkl", b"\x80\x02}.")
        refused(path, "member 'a/data.pkl' is damaged or compressed")

    @pytest.mark.parametrize("place", [b"tokens", b"little"])
    def test_a_byte_changed(self, tmp_path, place):
        """A pickle that is not the one that was written is refused, and so are unknown orders."""
        path = save(tmp_path / "a.pt", samples_of(rollout_routed_experts=tensor()))
        path.write_bytes(path.read_bytes().replace(place, place[:-1] + b"x", 1))
        refused(path, "is not what was written")

    @pytest.mark.parametrize("cut", [1, 30, 200])
    def test_cut_short(self, tmp_path, cut):
        """A file cut short is damaged."""
        path = save(tmp_path / "a.pt", samples_of(rollout_routed_experts=tensor()))
        path.write_bytes(path.read_bytes()[:-cut])
        refused(path, "damaged")

    @pytest.mark.parametrize(
        "pickled",
        [
            b"",
            b"(" * 10_000,
            b"\x8a\xff",
            b"}" + text("a"),
            b"\x95" + b"\xff" * 8,
            b"h\x09",
            b"0" * 9,
            b"](" * 20_000 + b"e" * 20_000,
            b"\x8d" + b"\xff" * 7 + b"\x7f",
        ],
    )
    def test_no_pickle(self, tmp_path, pickled):
        """Bytes that are no pickle, or nest beyond reason, are refused."""
        refused(save(tmp_path / "a.pt", pickled), "damaged|refused|without routes")

    def test_every_byte(self, tmp_path):
        """Whichever byte of a small dump is flipped, it opens or is refused in one line."""
        path = tmp_path / "a.pt"
        whole = save(path, samples_of(rollout_routed_experts=tensor())).read_bytes()
        for place in range(0, len(whole)):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
            try:
                list(open_dump(path, model=FACTS))
            except RoutectlError as error:
                check_line(error, path)


def test_a_link_out_of_the_folder(tmp_path):
    """Nothing is read through a reference but the dump's own spill folder."""
    secret = tmp_path / "secret.safetensors"
    secret.write_bytes(b"x")
    state = b"}(" + text("path") + text(str(secret)) + text("shape") + tuple_of(number(1)) + b"u"
    ref = b"cslime.utils.tensor_store\nDiskTensorRef\n)\x81" + state + b"b"
    path = save(tmp_path / "a.pt", samples_of(rollout_routed_experts=ref))
    refused(path, f"a_r3_spill/{Path(tmp_path).name}/secret.safetensors, which is not there")
