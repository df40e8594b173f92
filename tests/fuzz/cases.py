"""A case: some files by name, as one string of bytes that a fuzzer can keep."""

import random

import msgspec

from .containers import changed_file

__all__ = ["changed_case", "packed", "unpacked", "written"]

MOST_BYTES = 4 << 20


def packed(files):
    """The bytes of a case."""
    return msgspec.msgpack.encode(files)


def unpacked(data):
    """The files of a case; none where the bytes are no case."""
    try:
        return msgspec.msgpack.decode(data, type=dict[str, bytes])
    except msgspec.MsgspecError:
        return {}


def changed_case(data, seed, weights=()):
    """A case with one of its files changed; ``weights`` tell files by the ends of their names."""
    rng = random.Random(seed)
    files = unpacked(data)
    if not files:
        return data
    names = sorted(files)
    chances = [next((w for end, w in weights if n.endswith(end)), 1.0) for n in names]
    name = rng.choices(names, chances)[0]
    if rng.random() < 0.03 and len(names) > 1:
        del files[name]
    elif rng.random() < 0.03:
        files[name] = files[rng.choice(names)]
    else:
        files[name] = changed_file(rng, name, files[name])
    whole = packed(files)
    return whole if len(whole) <= MOST_BYTES else data


def written(files, folder):
    """Write a case's files below an empty folder; names that lead out of it are left out."""
    for name, body in files.items():
        path = folder / name
        if ".." in name or name.startswith("/") or len(name) > 200 or "\x00" in name:
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.is_dir():
            path.write_bytes(body)
