"""The keywords of the library's verbs: of each its request, and the types that a program may pass.

fixtures/make.py writes routectl/jobs/library/keywords.py of them.
"""

from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

import routectl
from routectl.jobs.library.asking import keywords_of, layout_keys
from routectl.jobs.options import groups_of, options_of

__all__ = ["VERBS", "keywords_module"]

PLACED = {"save", "output", "dst"}  # given by their own parameter
VERBS = {  # of each verb: its request, and the fields that are no keywords, but parameters
    "check": ("CheckRequest", {"dump", "against", "partial"}),
    "convert": ("ConvertRequest", {"src", "train"} | PLACED),
    "diff": ("DiffRequest", {"old", "new", "partial", "table", "force"}),
    "layout": ("LayoutRequest", {"dump", "lens"}),
    "pack": ("PackRequest", {"dump"} | PLACED),
    "recompute": ("RecomputeRequest", {"checkpoint", "dump"} | PLACED),
    "show": ("ShowRequest", {"path", "detail", "partial", "force"}),
    "staleness": ("StalenessRequest", {"dump", "at", "series", "shard", "partial", "force"}),
    "unpack": ("UnpackRequest", {"folder"} | PLACED),
    "verify": ("VerifyRequest", {"folder", "against", "partial"}),
}
TOLD = {  # lists of numbers, a range of them, the model
    "layers": "str | Sequence[int] | None",
    "model": "Model | None",
    "moe_layer_freq": "str | Sequence[int] | None",
    "positions": "str | range | None",
}
HEAD = '''\
"""The keywords of each verb: the options of its command, under the names of its request's fields.

Made by fixtures/make.py of the requests. What a list, a mapping or a dump stands for:
``asking.request_of``.
"""

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import TypedDict

from ..progress import Progress
from .asking import Model, Source

'''


def _is_dump(request: Any, field: str) -> bool:
    """Whether the option of a request, or of one of its groups, is a dump."""
    kinds = (request, *groups_of(request).values())
    about = {one.name: option for kind in kinds for one, option in options_of(kind)}
    return field in about and "DUMP" in (about[field].metavar or "")


def _type(request: Any, name: str, field: str, kind: Any) -> str:
    """What a program may pass for a keyword, as it is written."""
    if name in TOLD:
        return TOLD[name]
    parts = get_args(kind) if get_origin(kind) in (UnionType, Union) else (kind,)
    if any(get_origin(part) is tuple for part in parts):
        return "Texts"
    words = [part.__name__ for part in parts if part is not NoneType]
    if Path in parts:
        words = ["AnyPath", *(word for word in words if word not in ("Path", "str"))]
    elif str in parts and _is_dump(request, field):
        words = ["Source"]
    return " | ".join([*words, *(["None"] if NoneType in parts else [])])


def keywords_module() -> str:
    """The file of the keywords."""
    names = [f"{verb.capitalize()}Keywords" for verb in VERBS]
    parts = ["__all__ = [\n", *(f'    "{name}",\n' for name in names), "]\n\n"]
    parts.append("AnyPath = str | PathLike[str]\n")
    parts.append("Texts = str | Sequence[str] | Mapping[str, object]\n")
    for verb, name in zip(VERBS, names, strict=True):
        request, placed = getattr(routectl, VERBS[verb][0]), VERBS[verb][1]
        parts.append(f'\n\nclass {name}(TypedDict, total=False):\n    """Of ``{verb}``."""\n\n')
        for keyword, (field, kind) in keywords_of(request).items():
            if not {keyword, field} & placed:
                parts.append(f"    {keyword}: {_type(request, keyword, field, kind)}\n")
        for keyword, kind in layout_keys(request).items():
            parts.append(f"    {keyword}: {_type(request, keyword, keyword, kind | None)}\n")
        parts.append("    progress: Progress\n")
    return HEAD + "".join(parts)
