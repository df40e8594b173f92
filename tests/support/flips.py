"""Files of every container with one bit flipped, and what came of it.

A flip is *refused*; or the file reads the *same*; or something else is read: other *routes*, or
other *fields* beside them, with nothing said.
"""

import shutil

import numpy as np

from fuzz import seeds
from fuzz.oracle import read_again
from routectl.errors import RoutectlError
from routectl.formats import open_dump
from routectl.jobs.pack.request import VerifyRequest
from routectl.jobs.pack.unpack import UnpackRequest
from routectl.jobs.run import run

__all__ = ["FORMS", "came_of", "flipped", "outcomes"]

NATIVE = ("plain", "packed", "set", "context", "delta", "token", "margins")
FORMS = (  # by what of a file has a checksum: all of it, its zip members, nothing
    *(f"native.{name}" for name in NATIVE),
    *("npz", "slime", "verl", "skyrl"),
    *("replay.verify", "replay.unpack"),
    *("safetensors", "npy", "jsonl", "prime-rl", "roll-pkl"),
)


def files_of(form):
    """The files of a sound case, and the one whose bits are flipped."""
    if form.startswith("native."):
        return seeds.native()[NATIVE.index(form[7:])], "x.parquet"
    if form.startswith("replay."):
        return seeds.replay_folder()[0], "r/dp0-cp0-tp0-pp0/mb0000.safetensors"
    if form in ("npy", "npz", "safetensors"):
        return seeds.arrays(form)[0], f"x.{form}"
    if form == "jsonl":
        return seeds.lines()[0], "x.jsonl"
    files = seeds.dumps(form)[0]
    return files, next(name for name in files if name.startswith("x."))


def written(files, folder):
    """The files below a folder that holds nothing else."""
    shutil.rmtree(folder, ignore_errors=True)
    for name, body in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)


def _read(form, folder, name):
    """What a reader of the form makes of it: a whole dump, or None of a folder that verifies."""
    if form == "replay.verify":
        request = VerifyRequest(folder=folder / "r", against=str(folder / "x.parquet"))
        if not run(request)["ok"]:
            raise RoutectlError("does not verify")
        return None
    path = folder / name
    if form == "replay.unpack":
        path = folder / "out.parquet"
        run(UnpackRequest(folder=folder / "r", save=path, force=True))
    dump = open_dump(path)
    return dump.meta, list(dump)


def flipped(data, bit):
    """The bytes with one bit flipped."""
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def came_of(form, folder, bit):
    """What came of one flip: refused, same, routes or fields."""
    files, name = files_of(form)
    written(files, folder)
    sound = _read(form, folder, name)
    (folder / name).write_bytes(flipped(files[name], bit))
    return _outcome(form, folder, name, sound)


def _outcome(form, folder, name, sound):
    try:
        found = _read(form, folder, name)
    except RoutectlError:
        return "refused"
    if sound is None:
        return "same"
    (meta, samples), (other, others) = sound, found
    try:
        read_again(samples, others)
    except Exception as wrong:  # noqa: BLE001 - WrongError, whose kind says what differs
        return "routes" if "routes" in str(wrong) or "samples" in str(wrong) else "fields"
    same = (meta.layers_L, meta.num_experts, meta.engine, meta.model) == (
        (other.layers_L, other.num_experts, other.engine, other.model)
    )
    return "same" if same else "fields"


def outcomes(form, folder, count, seed=0):
    """How many of so many flips, drawn over the whole file, came to what; and the bits of each."""
    files, name = files_of(form)
    written(files, folder)
    sound = _read(form, folder, name)
    bits = np.random.default_rng(seed).integers(0, 8 * len(files[name]), count).tolist()
    found = {"refused": [], "same": [], "routes": [], "fields": []}
    for bit in bits:
        (folder / name).write_bytes(flipped(files[name], bit))
        found[_outcome(form, folder, name, sound)].append(bit)
    return found
