"""Hostile pickled batches: each is refused in one line, quickly, in little memory; nothing runs.

The files are made here, opcode by opcode, around what the trainers' own files hold.
"""

import io
import pickle
import struct
import time
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from routectl.errors import FormatError, UnsupportedError
from routectl.formats import open_dump
from routectl.model import ModelFacts
from routectl.pickled.archive_writer import tensordict_archive, torch_archive
from routectl.pickled.opcodes import Chunks, Made, Name, PersistentId, emit_pickle, objects_array
from support.building import check_line
from support.shell import complaint

FACTS = ModelFacts(2, (1,), 4, 2, None)
VERL = Name("verl.protocol", "DataProto")
ROLL = Name("roll.distributed.scheduler.protocol", "DataProto")
SKYRL = "skyrl.backends.skyrl_train.training_batch"
KINDS = ("dp", "dp inner", "roll", "roll inner", "skyrl", "skyrl inner")


def arrays():
    """A right-padded grid of one sample of three tokens."""
    return {
        "input_ids": np.array([[1, 2, 3]]),
        "attention_mask": np.ones((1, 3), np.int64),
        "routed_experts": np.array([[[[0, 0], [0, 1]], [[0, 0], [2, 3]], [[0, 0], [0, 0]]]]),
    }


def dumps(value, protocol=4):
    """The pickle of a tree."""
    stream = io.BytesIO()
    emit_pickle(value, stream, protocol)
    return stream.getvalue()


def archive_of(value):
    """A torch.save archive whose data.pkl is this tree; storage 0 is 16 bytes."""
    stream = io.BytesIO()
    with torch_archive(stream) as archive:
        archive.storage(Chunks(16, lambda: (bytes(16),)), "ByteStorage", 16)
        archive.finish(value)
    return stream.getvalue()


def batch_of(columns):
    """What torch.save writes of a TensorDict of one sample."""
    stream = io.BytesIO()
    tensordict_archive(columns, 1, stream)
    return stream.getvalue()


def skyrl(batch, about=None):
    """A TrainingInputBatch of SkyRL."""
    state = {"batch_dict": batch, "batch_size": 1, "device": None, "metadata": about or {}}
    return Made(Name(SKYRL, "_rebuild_tensor_batch"), (Name(SKYRL, "TrainingInputBatch"), state))


def with_evil(kind, evil):
    """A batch of a kind that holds ``evil`` where nothing needs it."""
    good = batch_of(arrays())
    inner = archive_of({"a": evil})
    held = Made(Name("_io", "BytesIO"), state=(inner, 0, None), new=True)
    return {
        "dp": lambda: Made(VERL, state=(good, {}, {"x": evil}), new=True),
        "dp inner": lambda: Made(VERL, state=(inner, {}, {}), new=True),
        "roll": lambda: Made(ROLL, state=(good, {"x": evil}, None, {}), new=True),
        "roll inner": lambda: Made(ROLL, state=(held, {}, None, {}), new=True),
        "skyrl": lambda: skyrl({}, {"x": evil}),
        "skyrl inner": lambda: skyrl({"sequences": {"format": "torch", "data": inner}}),
    }[kind]()


EVILS = {
    "os.system": Made(Name("posix", "system"), ("touch ran",)),
    "eval": Made(Name("builtins", "eval"), ("open('ran', 'w')",)),
    "getattr": Made(Name("builtins", "getattr"), (Name("verl.protocol", "DataProto"), "x")),
    "import": Made(Name("builtins", "__import__"), ("os",)),
    "a class off the list": Made(Name("subprocess", "Popen"), (["touch", "ran"],)),
    "a name with a dot": Name("numpy", "ndarray.__reduce__"),
    "load_from_bytes": Made(Name("torch.storage", "_load_from_bytes"), (b"x",)),
    "pickle in pickle": Made(Name("_pickle", "loads"), (b"cposix\nsystem\n.",)),
    "numpy load": Made(Name("numpy", "load"), ("ran",)),
    "f2py": Made(Name("numpy.f2py", "run_main"), ([],)),
}


def refused(path, data, line):
    """Opening the file raises one line that says this, within a second and 100 MB."""
    path.write_bytes(data)
    begin = time.process_time()
    with pytest.raises(FormatError, match=line) as caught:
        list(open_dump(path, model=FACTS))
    assert time.process_time() - begin < 1
    tracemalloc.start()
    try:
        with pytest.raises(FormatError, match=line):
            list(open_dump(path, model=FACTS))
        assert tracemalloc.get_traced_memory()[1] < 100e6
    finally:
        tracemalloc.stop()
    check_line(caught.value, path)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A file in a folder of its own, which is the working folder: nothing else may appear in it."""
    monkeypatch.chdir(tmp_path)
    list(open_dump(_good(tmp_path / "x.pkl"), model=FACTS))  # so that no import is measured
    yield tmp_path / "x.pkl"
    assert [file.name for file in tmp_path.iterdir()] == ["x.pkl"]


def _good(path):
    archive = batch_of(arrays())
    path.write_bytes(dumps(Made(VERL, state=(archive, {}, {}), new=True)))
    return path


@pytest.mark.parametrize("evil", EVILS)
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_off_the_list_is_refused(here, kind, evil):
    """Whatever a pickle names, outside or within a batch, runs nothing and is refused by name."""
    value = EVILS[evil]
    name = value.maker if isinstance(value, Made) else value
    line = rf"refused pickle: names {name.module}\.{name.name}, which is not on the list"
    refused(here, dumps(with_evil(kind, value)), line)


@pytest.mark.parametrize(
    ("data", "line"),
    [
        (b"\x80\x04\x8c\x05posix\x94\x8c\x06system\x94h\x00h\x01\x93.", "names posix.system"),
        (b"\x80\x04(\x8c\x04evalctypes\nFunctionType\n.", "names types.FunctionType"),
        (b"\x80\x02cverl.protocol\nDataProto\n(X\x01\x00\x00\x00xtQ.", "a persistent object"),
        (b"\x80\x02}U\x01xQ.", "a persistent object"),
        (b"\x80\x04Pposix\n.", "opcode 0x50"),
        (b"\x80\x02\x82\x01.", "opcode 0x82"),
        (b"\x80\x04(iposix\nsystem\n.", "opcode 0x69"),
        (b"\x80\x04(cposix\nsystem\no.", "opcode 0x6f|names posix.system"),
        (b"\x80\x05\x97.", "opcode 0x97"),
        (b"\x80\x04\x8e" + struct.pack("<Q", 1 << 45) + b"x.", "no end"),
        (b"\x80\x05\x96" + struct.pack("<Q", 1 << 45) + b"x.", "no end"),
        (b"\x80\x04\x95" + struct.pack("<Q", 1 << 45) + b"N.", "frame beyond the data"),
        (b"\x80\x04Nr\xff\xff\xff\x7f.", "memo slot out of order"),
        (b"\x80\x04N" + b"2" * 64 + b".", "opcode 0x32"),
        (b"\x80\x04" + b"(" * 200_000 + b".", "more than 200 deep"),
        (b"\x80\x04" + b"]" * 200_000, "no end"),
        (b"\x80\x04", "no end"),
    ],
)
def test_opcodes(here, data, line):
    """Names through the memo, persistent ids, extensions and claimed lengths are refused."""
    refused(here, data, line)


def nested(levels, key):
    """Tuples of two of the one before, the last of them hashed."""
    pairs = b"".join(b"h" + bytes([n]) + b"h" + bytes([n]) + b"\x86\x94" for n in range(levels))
    last = b"h" + bytes([levels])
    return b"\x80\x04)\x94" + pairs + key.replace(b"?", last) + b"."


@pytest.mark.parametrize(
    "key",
    [b"}?Ns", b"}(?Nu", b"\x8f(?\x90", b"(?\x91", b"}ctorch\nSize\n?\x85RNs", b"}(K\x01K\x01?Nu"],
)
def test_a_key_that_hashes_forever_is_refused(here, key):
    """A tuple of itself twice, forty times over, is 2 ** 40 values to hash: refused unhashed."""
    refused(here, nested(40, key), "take longer than the data to hash|more than 200 deep")


@pytest.mark.parametrize("hidden", [b"(u\x94", b"N0\x94", b"h\x00\x94", b"\x94\x94", b"\x94q\x07"])
def test_tuples_cannot_be_hidden_in_the_memo(here, hidden):
    """A memo slot that is given anything but what was just made is refused."""
    refused(here, b"\x80\x04)\x94h\x00\x85" + hidden + b".", "memo slot out of order")


def test_a_listed_class_cannot_be_changed(here):
    """State given to a class of the list, not to an object, raises and leaves it alone."""
    refused(
        here,
        b"\x80\x02cverl.protocol\nDataProto\n}X\x04\x00\x00\x00evilK\x01sb.",
        "damaged|a function with a state",
    )
    refused(
        here,
        b"\x80\x02cnumpy._core.multiarray\nscalar\nN}X\x04\x00\x00\x00evilK\x01s\x86b.",
        "damaged|a function with a state",
    )


STORAGE = ("storage", Name("torch", "ByteStorage"), "0", "cpu", 16)


def tensor(offset, shape, strides, dtype="ByteStorage"):
    """A tensor of storage 0, which is 16 bytes."""
    held = PersistentId(("storage", Name("torch", dtype), "0", "cpu", 16))
    args = (held, offset, shape, strides, False, Made(Name("collections", "OrderedDict")))
    return Made(Name("torch._utils", "_rebuild_tensor_v2"), args)


def leaf(word, shape, start, stop, storage=None):
    """A consolidated TensorDict in a DataProto, whose routes are this leaf of 16 bytes."""
    leaves = {"routed_experts": (word, shape, start, stop, 0)}
    metadata = {"cls": "TensorDict", "leaves": leaves, "non_tensors": {}, "cls_metadata": {}}
    made = Made(
        Name("tensordict._reductions", "_rebuild_tensordict_files_consolidated"),
        (metadata, storage or tensor(0, (16,), (1,))),
    )
    return Made(VERL, state=(archive_of(made), {}, {}), new=True)


def plain(made):
    """A TensorDict of one tensor, not consolidated, in ROLL's DataProto."""
    state = {"_tensordict": {"routed_experts": made}}
    made = Made(
        Name("tensordict._reductions", "_make_td"), (Name("tensordict._td", "TensorDict"), state)
    )
    held = Made(Name("_io", "BytesIO"), state=(archive_of(made), 0, None), new=True)
    return Made(ROLL, state=(held, {}, None, {}), new=True)


def numpy_array(shape, code, data, flags=(False, True), order="<"):
    """A numpy array in verl's second form, that of the routes."""
    dtype = Made(Name("numpy", "dtype"), (code, *flags), (3, order, None, None, None, -1, -1, 0))
    made = Made(
        Name("numpy._core.multiarray", "_reconstruct"),
        (Name("numpy", "ndarray"), (0,), b"b"),
        (1, shape, dtype, False, data),
    )
    items = {"routed_experts": ("uint8", (1, 2, 2, 2), made)}
    return Made(VERL, state=(((1,), None, items), {}, {}), new=True)


BIG = 1 << 45


@pytest.mark.parametrize(
    ("value", "line"),
    [
        (leaf("torch.uint8", [1, 2, 2, 8], 0, 16), "larger than its 16 bytes"),
        (leaf("torch.uint8", [BIG, 2, 2, 8], 0, 16), "larger than its 16 bytes"),
        (leaf("torch.uint8", [1, 2, 2, 2], 8, 1 << 40), "bytes 8 to 1099511627776 of 16"),
        (leaf("torch.uint8", [1, 2, 2, 2], -8, 8), "bytes -8 to 8 of 16"),
        (leaf("torch.uint8", [-1, -2, 2, 2], 0, 16), "a tensor of shape"),
        (leaf("torch.uint8", [1.0, 2, 2, 2], 0, 16), "a tensor of shape"),
        (leaf("torch.uint8", [BIG, 0, 2, 2], 0, 16), "an empty grid|input_lengths"),
        (leaf("torch.uint8", "abcd", 0, 16), "a tensor of shape"),
        (leaf("torch.system", [1, 2, 2, 2], 0, 16), "a batch without routed_experts"),
        (leaf("torch.uint8", [1, 2, 2, 2], 0, 16, tensor(0, (17,), (1,))), "has 16 bytes"),
        (leaf("torch.uint8", [1, 2, 2, 2], 0, 16, tensor(9, (16,), (1,))), "has 16 bytes"),
        (leaf("torch.uint8", [1, 2, 2, 2], 0, 16, tensor(0, (16,), (0,))), "expected plain bytes"),
        (leaf("torch.uint8", [1, 2, 2, 2], 0, 16, {"a": 1}), "without leaves"),
        (plain(tensor(0, (1, 2, 2, 8), (32, 16, 8, 1))), "has 16 bytes"),
        (plain(tensor(0, (1 << 20, 2, 2, 2), (0, 0, 0, 0))), "larger than its"),
        (plain(tensor(0, (1, 2, 2, 2), (8, 4, 2, -1))), "without a storage, shape or strides"),
        (plain(tensor(-8, (1, 2, 2, 2), (8, 4, 2, 1))), "without a storage, shape or strides"),
        (plain(tensor(BIG, (1, 2, 2, 2), (8, 4, 2, 1))), "has 16 bytes"),
        (plain(tensor(0, (1, 2, 2, 2), (8, 4, 2, 1), "LongStorage")), "has 16 bytes"),
        (numpy_array((8,), "u1", bytes(7)), "7 bytes for a numpy array"),
        (numpy_array((BIG,), "u1", bytes(8)), "8 bytes for a numpy array"),
        (numpy_array((-8, -1), "u1", bytes(8)), "8 bytes for a numpy array"),
        (numpy_array((8,), "O8", [1] * 8), "array of objects, expected numbers"),
        (numpy_array((8,), "V1", bytes(8)), "array of objects, expected numbers"),
        (numpy_array((8,), "M8", bytes(64)), "array of objects, expected numbers"),
        (numpy_array((8,), "u1", bytes(8), order="?"), "array of objects, expected numbers"),
        (numpy_array((BIG,), "U0", b""), "array of objects, expected numbers"),
        (numpy_array((1,), "U999999999", b""), "array of objects, expected numbers"),
        (Made(VERL, state=(b"PK", {}, {}), new=True), "damaged archive"),
        (Made(VERL, state=(bytes(2), {}, {}), new=True), "damaged archive"),
        (Made(VERL, state=(7, {}, {}), new=True), "expected what torch.save wrote"),
        (Made(VERL, state=(), new=True), "a DataProto without"),
        (Made(VERL, new=True), "a DataProto without"),
        (Made(ROLL, state=(Made(VERL, new=True), {}, None, {}), new=True), "expected what torch"),
        (
            skyrl(
                {
                    "rollout_expert_indices": {
                        "format": "numpy",
                        "data": bytes(8),
                        "dtype": "uint8",
                        "shape": (BIG, 1, 1, 1),
                    }
                }
            ),
            "larger than its 8 bytes",
        ),
        (
            skyrl({"rollout_expert_indices": {"data": bytes(8), "dtype": "uint8", "shape": 7}}),
            "a tensor of shape",
        ),
        (skyrl([1]), "without its batch_dict"),
        (Made(Name(SKYRL, "_rebuild_tensor_batch")), "without its batch_dict"),
    ],
)
def test_tensors_lie_within_their_bytes(here, value, line):
    """Offsets, shapes, strides and dtypes that reach beyond the bytes at hand are refused."""
    refused(here, dumps(value), line)


def changed(**more):
    """A good DataProto with some of its arrays replaced."""
    archive = batch_of({**arrays(), **more})
    return Made(VERL, state=(archive, {}, {}), new=True)


@pytest.mark.parametrize(
    ("value", "line"),
    [
        (changed(attention_mask=np.ones((1, 4), np.int64)), "attention_mask"),
        (changed(input_ids=np.array([[1, 2, -3]])), "expected token ids"),
        (changed(prompts=np.zeros((2, 1), np.int64)), "prompts: got"),
        (changed(response_mask=np.ones(3, np.int64)), "response_mask: got"),
        (changed(rollout_log_probs=np.ones((0, 3))), "rollout_log_probs: got"),
        (changed(router_padding_mask=np.ones((1, 2), bool)), "router_padding_mask"),
        (changed(infer_logprobs=np.ones((1, 3))), "infer_logprobs: got"),
        (changed(routed_experts=np.full((1, 3, 2, 2), 9)), "9"),
        (
            changed(routed_experts=np.zeros((1, 3, 7, 2), int)),
            r"got \[2, 7, 2\], which is \[rows, top_k, layers\]",
        ),
    ],
)
def test_columns_that_do_not_fit(here, value, line):
    """Columns of other samples, places or values than the grid's are refused by name."""
    refused(here, dumps(value), line)


def test_objects_are_lists_of_what_is_allowed(here):
    """An array of objects that holds a call is refused; one that lies about its length, too."""
    archive = batch_of(arrays())
    columns = {"uid": objects_array([EVILS["os.system"]])}
    made = Made(VERL, state=(archive, columns, {}), new=True)
    refused(here, dumps(made), "names posix.system")
    lying = objects_array(["a"])
    lying = Made(lying.maker, lying.args, (1, (1 << 40,), *lying.state[2:]))
    made = Made(VERL, state=(archive, {"uid": lying}, {}), new=True)
    refused(here, dumps(made), "1 objects in a numpy array of shape")


def test_the_command_line_says_it_in_one_line(capsys, here):
    """routectl show exits with 2 and one line; the call in the file is not made."""
    here.write_bytes(dumps(with_evil("dp", EVILS["os.system"])))
    sizes = ("--model", "2,2,4")
    said = complaint(capsys, "show", here, *sizes)
    assert said.count("\n") == 1
    assert "names posix.system, which is not on the list" in said


GOOD = dumps(changed())


@given(at=st.integers(0, len(GOOD) - 1), byte=st.integers(0, 255), cut=st.booleans())
def test_damage_raises_nothing_but_format_errors(tmp_path_factory, at, byte, cut):
    """A batch cut anywhere, or with a byte changed, reads or raises one line."""
    path = tmp_path_factory.getbasetemp() / "damaged.pkl"
    path.write_bytes(GOOD[:at] if cut else GOOD[:at] + bytes([byte]) + GOOD[at + 1 :])
    try:
        list(open_dump(path, model=FACTS))
    except (FormatError, UnsupportedError) as error:
        check_line(error, path)
    else:
        assert not cut


def test_torch_and_pickle_find_no_fault_with_the_good_one():
    """The file that the others are made from is one that torch reads."""
    import tensordict  # noqa: F401

    archive = io.BytesIO(batch_of(arrays()))
    loaded = torch.load(archive, weights_only=False)
    assert torch.equal(loaded["input_ids"], torch.tensor([[1, 2, 3]]))
    assert pickle.loads(dumps({"a": [1, 2.5, None, True, -(1 << 70), "ü", b"x", (1,)]})) == {
        "a": [1, 2.5, None, True, -(1 << 70), "ü", b"x", (1,)]
    }
