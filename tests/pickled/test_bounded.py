"""Small pickles that would be much: each is refused within a second, by whichever list it is read.

What each callable of the lists could be made to do again and again with the same bytes, and what
values within values could be made of, opcode by opcode.
"""

import gc
import pickle
import struct
import time
import tracemalloc

import numpy as np
import pytest
import torch

from routectl.errors import FormatError
from routectl.pickled.names import BATCHES, CHECKPOINTS, DUMPS
from routectl.pickled.reading import load_pickle
from routectl.pickled.torch_files import load_torch
from routectl.pickled.trees import check_tree
from routectl.visible import quoted
from support.building import check_line

MANY = 12_000
LISTS = {"checkpoints": CHECKPOINTS, "batches": BATCHES, "dumps": DUMPS}


def text(value):
    """BINUNICODE."""
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def name(module, what):
    """GLOBAL, in memo slot 0."""
    return b"\x80\x04c" + f"{module}\n{what}\n".encode() + b"\x94"


def again(call):
    """So many of these in a list."""
    return b"](" + call * MANY + b"e."


def lists(levels):
    """A list of the one before twice, so many times."""
    steps = b"".join(b"]\x94(h" + bytes([n]) + b"h" + bytes([n]) + b"e" for n in range(levels))
    return b"\x80\x04]\x94" + steps + b"."


def bytes_of(size):
    """BINBYTES."""
    return b"B" + struct.pack("<I", size) + bytes(size)


def noted(module, what, *args):
    """A name in memo slot 0, and arguments in those after it."""
    return name(module, what) + b"".join(arg + b"\x94" for arg in args)


SIZE, DEVICE, ENCODE = ("torch", "Size"), ("torch", "device"), ("_codecs", "encode")
SCALAR, OF_TYPE = ("numpy.core.multiarray", "scalar"), ("torch._tensor", "_rebuild_from_type_v2")
NUMBERS, LATIN = b"(" + b"N" * MANY + b"t", text("latin1")
DTYPE = b"cnumpy\ndtype\n" + text("U99999") + b"\x89\x88\x87R"
BOMBS = {
    "a key of tuples, each in the next": b"\x80\x04})" + b"\x85" * MANY + b"Ns.",
    "the same behind other values": b"\x80\x04})" + b"N\x86" * MANY + b"Ns.",
    "the same by marks": b"\x80\x04}" + b"(" * MANY + b"t" * MANY + b"Ns.",
    "lists, each in the next": b"\x80\x04" + b"](" * MANY + b"e" * MANY + b".",
    "lists appended": b"\x80\x04" + b"]" * MANY + b"a" * (MANY - 1) + b".",
    "dicts, each in the next": b"\x80\x04" + b"}N" * MANY + b"}" + b"s" * MANY + b".",
    "calls of calls": b"\x80\x04"
    + b"ctorch\ndevice\n" * MANY
    + b")R"
    + b"\x85R" * (MANY - 1)
    + b".",
    "lists of the one before twice": lists(40),
    "a list in itself": b"\x80\x04]\x94h\x00a.",
    "a dict in its list": b"\x80\x04}\x94N](h\x00es.",
    "a number of megabytes": b"\x80\x04\x8b" + struct.pack("<I", 1 << 20) + bytes(1 << 20) + b".",
    "a size of many": noted(*SIZE, NUMBERS) + again(b"h\x00h\x01\x85R"),
    "a size of a list": noted(*SIZE) + b"]\x94(" + b"N" * MANY + b"e" + again(b"h\x00h\x01\x85R"),
    "a size of text": noted(*SIZE, text("x" * MANY)) + again(b"h\x00h\x01\x85R"),
    "a record of many": noted(*DEVICE, NUMBERS) + again(b"h\x00h\x01R"),
    "the same, made new": noted(*DEVICE, NUMBERS) + again(b"h\x00h\x01\x81"),
    "made with names": name(*DEVICE) + b")}\x92.",
    "an encoding": noted(*ENCODE, text("x" * MANY), LATIN) + again(b"h\x00h\x01h\x02\x86R"),
    "another encoding": name(*ENCODE) + text("\u3042" * MANY) + text("punycode") + b"\x86R.",
    "no encoding": name(*ENCODE) + text("x") + text("nope") + b"\x86R.",
    "an encoding of a name": name(*ENCODE) + text("x") + b"h\x00\x86R.",
    "bytes claimed": b"\x80\x05\x96" + struct.pack("<Q", 10**12) + b".",
    "text by eval": b"\x80\x02S'x'\n.",
    "a number by its digits": b"\x80\x02L" + b"9" * MANY + b"L\n.",
}
OF_NUMPY = {
    "text of numpy's": noted(*SCALAR, DTYPE, bytes_of(4 * 99_999)) + again(b"h\x00h\x01h\x02\x86R"),
}
OF_DUMPS = {
    "arguments of a maker": noted(*OF_TYPE, NUMBERS) + again(b"(h\x00Nh\x01NtR"),
    "a maker of makers": name(*OF_TYPE) + b"(h\x00N" * 150 + b"()Nt" + b"NtR" * 150 + b".",
}
ALL = (*BOMBS.items(), *OF_NUMPY.items(), *OF_DUMPS.items())
CASES = {  # each by one list, what any list has by each
    **{f"{what} dumps": (data, DUMPS) for what, data in ALL},
    **{f"{w} {n}": (BOMBS[w], LISTS[n]) for w in ("an encoding", "no encoding") for n in LISTS},
}


@pytest.mark.parametrize(("data", "names"), CASES.values(), ids=CASES)
def test_bombs(data, names):
    """Each is refused in one line, in a second, and in not much more memory than it has bytes."""
    tracemalloc.start()
    try:
        with pytest.raises(FormatError, match=r"^here: (refused|damaged) pickle: ") as caught:
            load_pickle(data, "here", names)
        assert tracemalloc.get_traced_memory()[1] < 40 * len(data) + (20 << 20)
    finally:
        tracemalloc.stop()
    gc.freeze()  # what other tests left is not this one's to walk through
    try:
        began = time.thread_time()
        with pytest.raises(FormatError):
            load_pickle(data, "here", names)
        assert time.thread_time() - began < 1
    finally:
        gc.unfreeze()
    check_line(caught.value, "here")


@pytest.mark.parametrize("what", ["torch Size", "_codecs encode", "collections OrderedDict"])
def test_nothing_of_a_list_is_changed(what):
    """State that is given to what a name stands for changes it in no way."""
    found = DUMPS[tuple(what.split())]
    before = {a: getattr(found, a, None) for a in ("__dict__", "__defaults__", "__doc__")}
    before["__dict__"] = dict(before["__dict__"] or {})
    for state in (b"}" + text("evil") + b"Ns", b"N}" + text("__doc__") + b"Ns\x86"):
        with pytest.raises(FormatError):
            load_pickle(name(*what.split()) + state + b"b.", "here", DUMPS)
    assert dict(getattr(found, "__dict__", {})) == before["__dict__"]
    assert getattr(found, "__defaults__", None) == before["__defaults__"]


@pytest.mark.parametrize("protocol", range(2, 6))
def test_what_is_shared_in_sound_files(protocol):
    """Values that are used again, as writers use them, are read as they are."""
    prompt, ids = "x" * 100_000, list(range(300))
    value = {
        "samples": [
            {"prompt": prompt, "ids": ids, "all": [n, 0.5, None, True]} for n in range(500)
        ],
        "pairs": {(i, str(i)): (prompt, ids) for i in range(500)},
    }
    assert load_pickle(pickle.dumps(value, protocol), "here", DUMPS) == value


def expanded(value):
    """The oracle of the count: every part, wherever it is used."""
    parts = [*value, *value.values()] if isinstance(value, dict) else value
    if not isinstance(value, dict | list | tuple):
        return 0
    return len(parts) + sum(expanded(part) for part in parts)


def test_the_count_of_values():
    """It is exact: as many as a walk through everything finds pass, one fewer does not."""
    shared = [1, {"a": (2, [3])}]
    value = {"x": [shared, shared, (shared,)], "y": shared}
    count = expanded(value)
    check_tree(value, count)
    with pytest.raises(FormatError, match=f"more than {count - 1} values"):
        check_tree(value, count - 1)


def test_few_words_of_much():
    """A large, deep or self-containing value is shown in a few words."""
    loop = []
    loop.append(loop)
    for value in (loop, [[[[[1]]]]] * MANY, {"a": "x" * MANY}, 7**700, (b"x" * MANY,)):
        assert len(quoted(value)) <= 61


@pytest.mark.parametrize("kind", ["tensor", "array"])
def test_tensors_that_are_used_again(tmp_path, kind):
    """A file in which one tensor is many samples' is counted as often as it is used."""
    one = torch.zeros(2_000) if kind == "tensor" else np.zeros(2_000)
    path = tmp_path / "x.pt"
    torch.save([{"routes": one}] * 100, path)
    assert len(load_torch(path)) == 100
    torch.save([{"routes": one}] * 20_000, path)
    assert path.stat().st_size < 100_000
    with pytest.raises(FormatError, match="values used again or within each other: more than"):
        load_torch(path)
