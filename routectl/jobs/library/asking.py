"""A request out of what a program passes: dumps in memory, paths, lists where a flag has text."""

from collections.abc import Container, Mapping
from dataclasses import fields
from os import PathLike, fspath
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin

from ...dump import Dump
from ...errors import unknown
from ...files.places import place_of
from ...model import ModelFacts
from ...reports.document import AskedEntry
from ..asked import asked_of
from ..held import HeldDump
from ..options import build, groups_of, options_of

__all__ = [
    "Model",
    "Source",
    "asked_in",
    "keywords_of",
    "layout_keys",
    "path_text",
    "request_of",
]

Model = str | PathLike[str] | ModelFacts
"""A model: its config, a folder with one, or the facts themselves."""
Source = Dump | str | PathLike[str]
"""A dump, or where one is: a path, a folder, a glob, with ``::start=0`` and the like behind it."""
_OF_PATHS = frozenset({"start", "format", "base", "expert_map"})
_WRITTEN = frozenset({"partial", "table"})


def path_text(source: Source) -> str:
    """A source as a request has it. Raises TypeError for what is neither a dump nor a path."""
    if isinstance(source, Dump):
        return HeldDump(source)
    if isinstance(source, str | PathLike):
        return source if isinstance(source, str) else fspath(source)
    raise TypeError(f"got {type(source).__name__}, expected a Dump, or the path of one")


def keywords_of(kind: Any) -> dict[str, tuple[str, Any]]:
    """The fields of a request and of its groups, with their types, by keyword.

    An option's is its flag, ``fail_over`` of ``--fail-over``; of what is none, the field's name.
    """
    found: dict[str, tuple[str, Any]] = {}
    for group in groups_of(kind).values():
        found |= keywords_of(group)
    flags = {one.name: about.flag.replace("-", "_") for one, about in options_of(kind)}
    own = [one for one in fields(kind) if one.name not in groups_of(kind)]
    return found | {flags.get(one.name, one.name): (one.name, one.type) for one in own}


def layout_keys(kind: Any) -> dict[str, Any]:
    """The keys of a layout, with their types, that are keywords beside the options of a request.

    None where it has no ``layout``, whose texts they become: ``framework=slime``.
    """
    from ..pack.layout import Layout

    known = keywords_of(kind)
    if "layout" not in known:
        return {}
    return {one.name: one.type for one in fields(Layout) if one.name not in known}


def request_of(kind: Any, values: Mapping[str, Any], **placed: Any) -> Any:
    """A request of a class out of keywords, see ``keywords_of``, and of fields by their own name.

    A list stands for a tuple of texts, a mapping for texts NAME=VALUE, a range or a list of numbers
    for text such as "0-3,7", one text for a list of one, text for a path, and a dump for the path
    of one; see ``layout_keys`` too. Raises TypeError for a keyword that is no option, that is a
    parameter of the verb, or that asks for a file which the verb does not write; and for one that
    says how paths are read where all dumps are open.
    """
    known, keys = keywords_of(kind), layout_keys(kind)
    taken = {name for name, (field, _) in known.items() if field in placed}
    values = _laid_out(values, keys)
    for name in values:
        verb = kind.__name__.removesuffix("Request").lower()
        if name in taken:
            raise TypeError(
                f"{verb}: {name!r} is no keyword: the function's own parameter gives it"
            )
        if name in _WRITTEN and name in known:
            raise TypeError(
                f"{verb}: {name} writes a file: routectl.run({kind.__name__}(...)) does"
            )
        if name not in known:
            expected = sorted((known.keys() | keys.keys()) - taken - _WRITTEN)
            raise unknown(f"{verb}: keyword", name, expected, TypeError)
    sources = [value for value in placed.values() if value is not None]
    if sources and all(isinstance(value, HeldDump) for value in sources):
        for name in _OF_PATHS & values.keys() & known.keys():
            raise TypeError(f"{name}: of paths: open_dump has it, and these dumps are open")
    given = [(*known[name], value) for name, value in values.items()]
    given += [(one.name, one.type, placed[one.name]) for one in fields(kind) if one.name in placed]
    return build(kind, {field: _fitted(value, of) for field, of, value in given})


def _laid_out(values: Mapping[str, Any], keys: Container[str]) -> Mapping[str, Any]:
    """Keywords, of which those that are keys of a layout are said by ``layout``, as its last."""
    said = {name: values[name] for name in values if name in keys}
    if not said:
        return values
    texts = [f"{name}={_fitted(v, str)}" for name, v in said.items() if v is not None]
    layout = (*_fitted(values.get("layout", ()), tuple[str, ...]), *texts)
    return {name: v for name, v in values.items() if name not in said} | {"layout": layout}


def asked_in(request: Any) -> AskedEntry | None:
    """What a request asks, as words of a command line; None where a dump is in memory."""
    values = (getattr(request, field.name) for field in fields(request))
    return None if any(isinstance(v, HeldDump) for v in values) else asked_of(request)


def _fitted(value: Any, kind: Any) -> Any:
    """A value as a field of some type has it, where it can be."""
    kinds = get_args(kind) if get_origin(kind) in (UnionType, Union) else (kind,)
    if isinstance(value, Dump):
        return HeldDump(value)
    if isinstance(value, HeldDump):
        return value
    if any(get_origin(one) is tuple for one in kinds):
        if isinstance(value, str | PathLike):
            return (fspath(value),)
        if isinstance(value, Mapping):
            return tuple(f"{name}={part}" for name, part in value.items())
        return tuple(map(_text, value)) if isinstance(value, list | tuple) else value
    if isinstance(value, str) and Path in kinds and str not in kinds:
        return place_of(value)
    if isinstance(value, PathLike) and str in kinds and Path not in kinds:
        return fspath(value)
    if str in kinds and isinstance(value, range | list | tuple):
        whole = isinstance(value, range) and value.step == 1 and len(value) > 0
        return f"{value[0]}-{value[-1]}" if whole else ",".join(map(str, value))
    return value


def _text(value: Any) -> Any:
    return fspath(value) if isinstance(value, PathLike) else value
