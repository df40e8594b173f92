"""Where a checkpoint's weights are, and what tells them from others without reading them.

A file of weights in the cache of the Hugging Face Hub is a link to ``blobs/SHA256``, so that its
digest is known. Of another the header, the size, the time of its last change and its place are
taken. config.json and the index are read.
"""

import hashlib
import os
import re
from pathlib import Path

from ...errors import FormatError
from ...files.places import RemotePath, is_there, pinned, place_of
from ...files.reading import open_regular, read_bytes

__all__ = ["checkpoint_at", "folder_of", "identity_of"]

_SHA256 = re.compile(r"[0-9a-f]{64}")
_MAX_HEADER = 256 << 20
_MAX_JSON = 256 << 20


def folder_of(checkpoint: str | Path) -> Path:
    """The folder that a checkpoint's name means: itself, or of ``org/name`` in the Hub's cache.

    Nothing is fetched. Raises FormatError where a model's config is cached and its weights are not.
    """
    from ...checkpoints import is_checkpoint
    from ...formats.documents.hub import cached_config

    folder = place_of(checkpoint)
    cached = None if is_there(str(checkpoint)) else cached_config(str(checkpoint))
    if cached is None:
        return folder
    if not is_checkpoint(cached.parent):
        raise FormatError(
            f"{checkpoint}: no weights in {cached.parent}, where its config is cached",
            hint=f"hf download {checkpoint}",
        )
    return cached.parent


def checkpoint_at(path: str) -> Path | None:
    """The folder of weights that a path names, or ``org/name`` of the Hub's cache; None where it
    names something else.

    Raises UnsupportedError or FormatError for weights that no forward is run of.
    """
    if os.path.isfile(path):  # most are: without the import
        return None
    from ...checkpoints import is_checkpoint, refuse_unrunnable

    folder = folder_of(path)
    if not is_checkpoint(folder):
        return None
    refuse_unrunnable(folder)
    return folder


def identity_of(checkpoint: Path) -> dict[str, str]:
    """By name of each file that routes depend on: a digest of its content, or of what is known.

    Raises FormatError where one cannot be read.
    """
    told = (*checkpoint.glob("config.json"), *checkpoint.glob("*.safetensors.index.json"))
    found = {path.name: _digest(read_bytes(path, _MAX_JSON)) for path in told}
    for path in checkpoint.glob("*.safetensors"):
        found[path.name] = _known_digest(path) or _seen(path)
    return dict(sorted(found.items()))


def _known_digest(path: Path) -> str | None:
    """The sha256 of a file that the Hub's cache names so."""
    real = path.resolve()
    is_blob = real.parent.name == "blobs" and _SHA256.fullmatch(real.name)
    return real.name if is_blob else None


def _seen(path: Path) -> str:
    """A digest of what is seen of a file from outside, and of its header."""
    path = pinned(path)
    try:
        about = path.stat()
        with open_regular(path) as stream:
            size = int.from_bytes(stream.read(8), "little")
            header = stream.read(min(size, _MAX_HEADER))
    except OSError as error:
        raise FormatError(f"{path}: cannot be read: {error.strerror}") from None
    written = str(path.about) if isinstance(path, RemotePath) else about.st_mtime_ns
    outside = f"{path.resolve()} {about.st_size} {written} "
    return _digest(outside.encode("utf-8", "surrogateescape") + header)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
