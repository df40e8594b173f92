"""Codecs: the ids of one layer as bytes. ``CODECS`` is all of them; docs/codecs/ their bytes."""

from importlib import import_module

from ..errors import UnsupportedError, unknown
from .block import Codec

__all__ = ["CODECS", "codec_named", "codec_of"]

CODECS = (
    "plain",
    "packed",
    "set",
    "context",
    "delta",
    "token",
)  # each in a room of its name, as CODEC


def codec_named(name: str) -> Codec:
    """The codec of a name, in the version that is written. Raises UnsupportedError for others."""
    if name not in CODECS:
        raise unknown("codec", name, CODECS, UnsupportedError)
    codec: Codec = import_module(f".{name}", __name__).CODEC
    return codec


def codec_of(codec_id: str) -> Codec:
    """The codec that reads ``name/version``.

    Raises UnsupportedError, by name, for a codec or a version that this routectl does not know.
    """
    name, _, version = codec_id.partition("/")
    if name not in CODECS:
        raise UnsupportedError(f"codec {codec_id!r} is not known: {', '.join(CODECS)}")
    codec = codec_named(name)
    if version != str(codec.version):
        raise UnsupportedError(f"codec {codec_id!r} is newer: this routectl reads {codec.id}")
    return codec
