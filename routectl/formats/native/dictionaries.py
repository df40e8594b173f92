"""Dictionaries of codec ``token``: read from a file of theirs, or out of a native file's footer."""

import binascii
from collections.abc import Mapping
from pathlib import Path

from ...codecs.dictionary import TokenDictionary
from ...dump import Dump, DumpMeta
from ...errors import FormatError, MismatchError
from ...files.places import place_of
from ...files.reading import open_regular

__all__ = ["STORED", "check_dictionary", "dictionary_of", "read_dictionary", "stored_dictionary"]

STORED = "routectl.dictionary"  # in the footer: a dictionary of the file's own, in base64
_MOST_BYTES = 1 << 28


def read_dictionary(path: Path | str) -> TokenDictionary:
    """The dictionary in a file, its digest checked; a layer is read where it is asked for.

    Raises FormatError for a file that is none, UnsupportedError for a version to come.
    """
    with open_regular(place_of(path), _MOST_BYTES) as stream:
        data = stream.read(_MOST_BYTES + 1)
    if len(data) > _MOST_BYTES:
        raise FormatError(f"{path}: more than {_MOST_BYTES >> 20} MiB: no dictionary is so long")
    return TokenDictionary(data, str(path))


def check_dictionary(dictionary: TokenDictionary, meta: DumpMeta) -> None:
    """Raise MismatchError unless a dictionary is of the E, K and layers of a dump."""
    sizes = dictionary.sizes
    got, wanted = (sizes.num_experts, sizes.top_k), (meta.num_experts, meta.top_k)
    if got != wanted:
        raise MismatchError(
            f"{dictionary.where}: of another model: got E {got[0]}, K {got[1]}, in {meta.path} "
            f"E {wanted[0]}, K {wanted[1]}"
        )
    lacking = sorted(set(meta.layers_L) - set(dictionary.layers))
    if lacking:
        raise MismatchError(
            f"{dictionary.where}: of another model: it has no layer {lacking[0]}, which is in "
            f"{meta.path}"
        )


def stored_dictionary(dictionary: TokenDictionary) -> dict[str, str]:
    """The entry of a footer that holds a dictionary."""
    return {STORED: binascii.b2a_base64(dictionary.data, newline=False).decode()}


def dictionary_of(
    path: Path,
    named: str | None,
    footer: Mapping[bytes, bytes],
    given: Dump | TokenDictionary | Path | str | None,
) -> TokenDictionary | None:
    """What a native file was coded with, where it is there; None where it needs none, or lacks it.

    ``named`` is the digest in the file. Raises MismatchError where another one is given,
    FormatError for damage.
    """
    if named is None:
        return None
    stored, found = footer.get(STORED.encode()), None
    if stored is not None:
        try:
            data = binascii.a2b_base64(stored, strict_mode=True)
        except binascii.Error as error:
            raise FormatError(f"{path}: damaged: its dictionary: {error}") from None
        found = TokenDictionary(data, f"{path}: its dictionary")
        if found.digest.hex() != named:
            raise FormatError(f"{path}: damaged: its dictionary is not the one that it names")
    elif isinstance(given, Dump):
        raise MismatchError(
            f"{path}: coded with a dictionary, not against a dump", hint=f"{path}::dictionary=DICT"
        )
    elif given is not None:
        found = given if isinstance(given, TokenDictionary) else read_dictionary(given)
        if found.digest.hex() != named:
            raise MismatchError(
                f"{path}: coded with another dictionary: got {found.digest.hex()}, in "
                f"{found.where}, expected {named}"
            )
    return found
