"""A NaN that signals, of which numpy warns where it is cast or added, is an unknown log-prob."""

import io
import zipfile
from dataclasses import replace

import numpy as np
import pytest

from fuzz import seeds
from fuzz.oracle import command
from routectl.formats import open_dump
from routectl.formats.native.container import write_native
from support.shell import NOTED

SIGNALLING = {"<f4": "<u4", "<f8": "<u8", ">f8": ">u8"}
BITS = {"<u4": 0x7FA00000, "<u8": 0x7FF4 << 48, ">u8": 0x7FF4 << 48}


def poisoned(data, value):
    """The bytes of a file in which a number, as each dtype, is such a NaN; how many were."""
    if data[:2] == b"PK":
        body, total = io.BytesIO(), 0
        with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(body, "w") as target:
            for name in source.namelist():
                inner, count = poisoned(source.read(name), value)
                target.writestr(name, inner)
                total += count
        return body.getvalue(), total
    total = 0
    for dtype, bits in SIGNALLING.items():
        old = np.array(value, dtype).tobytes()
        total += data.count(old)
        data = data.replace(old, np.array(BITS[bits], bits).tobytes())
    return data, total


def judged(path):
    """The log-probs of the first sample, after every command that reads them."""
    for words in (("show", path, "--json"), ("check", path), ("diff", path, path)):
        done = command(*words)
        assert (done.code, NOTED.sub("", done.err)) == (0, "")
    for target, ending in ((None, "parquet"), ("verl", "pt"), ("npz", "npz")):
        words = ("--to", target, "--lossy") if target else ()
        done = command("convert", path, "--save", path.parent / f"out.{ending}", *words)
        assert done.code == 0, done.err
    return open_dump(path)[0].logprobs


FORMS = (
    *("verl", "verl-padded", "skyrl", "nemo-rl-tensor", "roll", "slime", "miles"),
    *("skyrl-pkl", "skyrl-0.3-pkl", "skyrl-0.4", "skyrl-0.4-pkl", "npz", "safetensors"),
)


@pytest.mark.parametrize("form", FORMS)
def test_of_a_dump(form, tmp_path):
    """In the log-probs of each form: every command is without a warning, and reads NaN."""
    for file, body in seeds.dumps(form)[0].items():
        (tmp_path / file).write_bytes(body)
    path = next(path for path in tmp_path.iterdir() if path.stem == "x")
    whole = open_dump(path)[0].logprobs.copy()
    body, count = poisoned(path.read_bytes(), whole[0])
    assert count
    path.write_bytes(body)
    np.testing.assert_array_equal(judged(path), [np.nan, *whole[1:]])


def test_of_a_native_file(tmp_path):
    """A native file may hold one, as whoever calls the library wrote it."""
    for file, body in seeds.lines()[0].items():
        (tmp_path / file).write_bytes(body)
    dump = open_dump(tmp_path / "x.jsonl")
    samples = [replace(sample, logprobs=sample.logprobs.copy()) for sample in dump]
    samples[0].logprobs.view("<u8")[0] = BITS["<u8"]
    write_native(samples, dump.meta, tmp_path / "n.parquet", force=False)
    np.testing.assert_array_equal(judged(tmp_path / "n.parquet"), samples[0].logprobs)
