"""``open_dump`` as a Python program calls it: a dump named as commands and verbs take it."""

from dataclasses import replace
from os import PathLike, fspath
from typing import TYPE_CHECKING

from ..inputs import parse_input
from ..reading import open_input

if TYPE_CHECKING:
    from ...codecs.dictionary import TokenDictionary
    from ...dump import Dump
    from ...formats.documents.facts import Model

__all__ = ["open_dump"]


def open_dump(
    path: str | PathLike[str],
    *,
    model: "Model" = None,
    format: str | None = None,  # noqa: A002 - the word that users know
    start: int | None = None,
    base: "Dump | TokenDictionary | str | PathLike[str] | None" = None,
    tokens: str | PathLike[str] | None = None,
) -> "Dump":
    """Open a file, a folder or a glob as one lazy Dump; a path, or a URI (docs/places.md).

    ``-`` is standard input. What a dump does not say itself may stand behind its path, as commands
    take it (``"x.npz::start=0,format=npz"``), and wins over the keywords:

    model   an HF config.json, a folder with one, ``org/name`` of the local HF cache, the sizes
            ``"LAYERS,K,E"``, or ModelFacts; None to take what the file or its folder says.
            Physical of any of these, with a map of experts or the path of one, where ids are of
            physical experts: they are read as logical ones.
    format  json, jsonl, npz, native, ...; None to sniff the content, then the name.
    start   position of row 0 for samples that do not say it.
    base    the dump that native files of codec delta were coded against; None to take the path in
            the file. Of codec token: their dictionary, or its path.
    tokens  a second file with the tokens of a torch file that holds layers alone, or of a router
            trace: a dump or slime's train data with its samples in order, or a JSON list of ids.

    Raises FormatError when a file is not what it claims, UnsupportedError when it is understood
    and not handled, MismatchError when the files of a folder are of different models.
    """
    named = parse_input(fspath(path))
    known = replace(
        named,
        format=named.format or format,
        start=start if named.start is None else named.start,
        tokens=named.tokens or (None if tokens is None else fspath(tokens)),
    )
    return open_input(known, model, fspath(base) if isinstance(base, PathLike) else base)
