"""One array a sample, in ``.npz`` or ``.safetensors``: one pass, one sample in memory.

docs/formats.md, Arrays, has the names. Shape suffixes: T rows, L MoE layers, K top_k.
"""

import json
import shutil
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ...errors import UnsupportedError
from ...files.scratch import scratch_file
from .rows import Feed, TargetRows

__all__ = ["stream_safetensors", "write_npz", "write_safetensors"]

_NAMES = {"u1": "U8", "u2": "U16", "i1": "I8", "i2": "I16", "i4": "I32", "i8": "I64", "f8": "F64"}


def _arrays_of(placed: TargetRows) -> Iterator[tuple[str, NDArray[Any]]]:
    """The arrays of a sample, little-endian; a sample without routes has none."""
    sample = placed.sample
    if placed.ids_RWK is None or sample.routes is None:
        return
    name = str(placed.index) if sample.sample_id is None else sample.sample_id
    parts = {
        "routed_experts": placed.ids_RWK,
        "prompt_token_ids": sample.prompt_ids,
        "token_ids": sample.response_ids,
        "logprobs": sample.logprobs,
        "start": np.array(sample.routes.start),
    }
    for part, array in parts.items():
        if array is not None:
            little = array.dtype.newbyteorder("<")
            yield f"{name}.{part}", np.asarray(array, little, order="C")


def _named_arrays(feed: Feed) -> Iterator[tuple[bool, str, NDArray[Any]]]:
    """Every array under its name, with whether it is the first of its sample."""
    seen: set[str] = set()
    for placed in feed:
        for number, (name, array) in enumerate(_arrays_of(placed)):
            if name in seen or len(name) > 255 or not name.isprintable():
                where = feed.where(placed.index, placed.sample)
                raise UnsupportedError(f"{where}: no array can be named {name[:60]!a}, or two are")
            seen.add(name)
            yield number == 0, name, array


def _config_of(feed: Feed) -> str:
    """What the reader must know of the model, as an HF config: its MoE layers, E and K."""
    meta = feed.shape.meta
    num_layers = feed.shape.num_layers or max(meta.layers_L) + 1
    return json.dumps(
        {
            "model_type": meta.model or "unknown",
            "num_hidden_layers": num_layers,
            "mlp_only_layers": sorted(set(range(num_layers)) - set(meta.layers_L)),
            "num_experts": meta.num_experts,
            "num_experts_per_tok": meta.top_k,
        }
    )


def _texts_of(feed: Feed) -> dict[str, str]:
    """What a reader must know: the model's config, and who made the routes where that is known."""
    meta = feed.shape.meta
    texts = {"config": _config_of(feed), "engine": meta.engine}
    texts |= {"engine_version": meta.engine_version}
    return {name: text for name, text in texts.items() if text is not None}


def write_npz(feed: Feed, stream: IO[bytes]) -> int:
    """Write a .npz, deflated, as ``numpy.savez_compressed`` does; returns how many samples."""
    count = 0
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for first, name, array in _named_arrays(feed):
            count += first
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.save(member, array, allow_pickle=False)
        for name, text in _texts_of(feed).items():
            with archive.open(f"{name}.npy", "w") as member:
                np.save(member, np.array(text), allow_pickle=False)
    return count


def write_safetensors(feed: Feed, stream: IO[bytes]) -> int:
    """Write a .safetensors file; returns how many samples."""
    count = 0

    def arrays() -> Iterator[tuple[str, NDArray[Any]]]:
        nonlocal count
        for first, name, array in _named_arrays(feed):
            count += first
            yield name, array

    stream_safetensors(arrays(), lambda: _texts_of(feed), stream)
    return count


def stream_safetensors(
    arrays: Iterable[tuple[str, NDArray[Any]]],
    texts: Callable[[], dict[str, str]],
    stream: IO[bytes],
) -> None:
    """Write a .safetensors file; the arrays wait in temporary files for their header.

    Arrays of wide dtypes come first, so that all are aligned, as the format asks. ``texts`` is
    asked for when all arrays are there.
    """
    entries: list[tuple[int, str, Any, int, int]] = []  # item size, name, header entry, bytes
    with ExitStack() as stack:
        bodies = {n: stack.enter_context(scratch_file()) for n in (8, 4, 2, 1)}
        for name, array in arrays:
            body = bodies[array.itemsize]
            kind = _NAMES[f"{array.dtype.kind}{array.itemsize}"]
            entry = {"dtype": kind, "shape": list(array.shape)}
            entries.append((array.itemsize, name, entry, body.tell(), array.nbytes))
            body.write(array.tobytes())
        base, start = 0, {}
        for itemsize, body in bodies.items():
            start[itemsize] = base
            base += body.tell()
        header: dict[str, Any] = {"__metadata__": texts()}
        for itemsize, name, entry, offset, size in entries:
            at = start[itemsize] + offset
            header[name] = entry | {"data_offsets": [at, at + size]}
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        stream.write(len(text).to_bytes(8, "little") + text)
        for body in bodies.values():
            body.seek(0)
            shutil.copyfileobj(body, stream, 1 << 20)
