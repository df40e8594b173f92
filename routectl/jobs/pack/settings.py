"""A layout out of files, trainers' configs, KEY=VALUE pairs and flags: the later of these wins."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any, get_args

from ...errors import MismatchError, RoutectlError, UnsupportedError, check_choice, misspelt
from ...files.places import place_of
from ...layouts.plan import BALANCES
from ...layouts.rules import FORMS, FP8_RECIPES, FRAMEWORKS
from ...visible import quoted
from ..progress import Progress
from .layout import Layout, LayoutOptions

if TYPE_CHECKING:
    from ...formats.configs.trainers import Doubt

__all__ = ["LayoutSource", "Settled", "given_keys", "settled_layout"]

_TYPES = {one.name: one.type for one in fields(Layout)}
_PAIR = re.compile(r"([A-Za-z][\w-]*)=(.*)", re.DOTALL)
_LEAST = {"first_stage_layers": 0, "last_stage_layers": 0}
_MOST = 1 << 31
_CHOICES = {
    "framework": FRAMEWORKS,
    "balance": BALANCES,
    "form": FORMS,
    "fp8": FP8_RECIPES,
    "rows": ("n-1", "n"),
}
_BATCHES = ("plan", "max_tokens_per_gpu", "micro_batch_size")  # each says all of micro-batches
_BY_PLAN = ("dp", "balance")
_SIZES = ("framework", "tp", "cp", "pp", "dp")
_ORDER = "samples form micro-batches in the dump's order; --plan says the trainer's own"


@dataclass(frozen=True, slots=True)
class LayoutSource:
    """A file that a layout was read from: whose it is, of each key what is it called there.

    trainer is None for a file of routectl's own keys; unread is what the file says that a layout
    has no place for.
    """

    path: str
    trainer: str | None
    keys: dict[str, str]
    unread: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Settled:
    """A layout, the files that it was read from, and the fields of it that somebody said."""

    layout: Layout
    sources: tuple[LayoutSource, ...]
    said: frozenset[str]

    @property
    def assumed(self) -> tuple[str, ...]:
        """Keys that nobody said: ``Declared`` has which."""
        told = {"dp"} if "plan" in self.said else set()
        keys = [name for name in _SIZES if name not in self.said | told]
        return (*keys, *["max-tokens-per-gpu"] * self.said.isdisjoint(_BATCHES))


@dataclass(slots=True)
class _Said:
    """What one --layout says."""

    values: dict[str, Any]
    source: LayoutSource | None = None
    gpus: int | None = None
    doubts: "Sequence[Doubt]" = ()


def _key(field_name: str) -> str:
    return field_name.replace("_", "-")


def settled_layout(options: LayoutOptions, progress: Progress) -> Settled:
    """The layout that the options say; the files that it was read from are told.

    Raises RoutectlError for a key that is not known and a value that is none of it, FormatError for
    a file that is no config, and UnsupportedError for what a trainer's config says that a layout
    cannot, unless a later one settles it.
    """
    said = [_said(text) for text in options.settings]
    flags = {name: value for name in _TYPES if (value := getattr(options, name, None)) is not None}
    said.append(_Said(flags))
    values: dict[str, Any] = {}
    whose: dict[str, int] = {}
    for i, one in enumerate(said):
        values |= one.values
        whose |= dict.fromkeys(one.values, i)
    _drop_weaker(values, whose, said)
    _refuse_doubts(said, whose)
    _divide_gpus(values, whose, said)
    found = []
    for i, one in enumerate(said):
        if one.source is not None:
            kept = {_key(n): name for n, name in one.source.keys.items() if whose.get(n) == i}
            source = one.source
            found.append(LayoutSource(source.path, source.trainer, kept, source.unread))
            _tell(found[-1], values, progress)
    layout = Layout(**values)
    sized = (layout.max_tokens_per_gpu, layout.micro_batch_size) != (None, None)
    if sized and any(one.trainer for one in found):
        progress.note(_ORDER)
    return Settled(layout, tuple(found), frozenset(values))


def given_keys(settings: Sequence[str]) -> dict[str, Any]:
    """What --layout says, by field; nothing of it is told."""
    values: dict[str, Any] = {}
    for text in settings:
        values |= _said(text).values
    return values


def _said(text: str) -> _Said:
    """What a file, or KEY=VALUE pairs, say."""
    if _PAIR.fullmatch(text):
        where = f"--layout {text:.60}"
        return _Said({n: _typed(n, value, where) for n, value in _pairs(text)})
    path = place_of(text)
    from ...formats.configs.flat import read_flat
    from ...formats.configs.trainers import trainer_layout

    flat = read_flat(path)
    own = {name.removeprefix("layout.").replace("-", "_"): value for name, value in flat.items()}
    if flat and own.keys() <= _TYPES.keys():
        values = {n: _typed(n, value, str(path)) for n, value in own.items() if value is not None}
        if "plan" in values:
            values["plan"] = path.parent / values["plan"]
        return _Said(values, LayoutSource(str(path), None, {n: _key(n) for n in values}))
    theirs = None if path.suffix == ".toml" else trainer_layout(flat)
    if theirs is None:
        unknown = [name for name in own if name not in _TYPES]
        if path.suffix == ".toml" or len(unknown) < len(own):
            raise _unknown(unknown[0] if unknown else "", str(path))
        raise RoutectlError(
            f"{path}: says no layout: expected keys of one, or a config of verl, slime, ROLL, "
            "ms-swift or Megatron"
        )
    values = {
        n: _typed(n, value, f"{path}: {theirs.origins[n]}") for n, value in theirs.values.items()
    }
    source = LayoutSource(str(path), theirs.trainer, theirs.origins, tuple(theirs.unread))
    return _Said(values, source, theirs.gpus, theirs.doubts)


def _unknown(name: str, where: str) -> RoutectlError:
    keys = [*map(_key, _TYPES)]
    what = f"{quoted(_key(name))} is no key of a layout" if name else "no key of a layout in it"
    return misspelt(f"{where}: {what}", name, keys, RoutectlError)


def _pairs(text: str) -> Iterator[tuple[str, str]]:
    """KEY=VALUE pairs; a part without ``=`` goes on with the value before it, as in 0,1,1."""
    joined: list[str] = []
    for part in text.split(","):
        if joined and not _PAIR.fullmatch(part.strip()):
            joined[-1] += f",{part}"
        else:
            joined.append(part.strip())
    for pair in joined:
        name, _, value = pair.partition("=")
        field_name = name.replace("-", "_")
        if field_name not in _TYPES:
            raise _unknown(name, f"--layout {text:.60}")
        yield field_name, value


def _typed(name: str, value: Any, where: str) -> Any:
    """A value as its field has it; text of numbers and booleans too."""
    kind = _TYPES[name]
    plain = next(k for k in get_args(kind) or (kind,)) if isinstance(kind, UnionType) else kind
    if plain is int:
        if isinstance(value, str) and re.fullmatch(r"\d{1,12}", value.strip()):
            value = int(value)
        least = _LEAST.get(name, 1)
        if type(value) is int and least <= value < _MOST:
            return value
        large = type(value) is int and value >= _MOST
        span = f"below {_MOST}" if large else f"from {least} on"
        raise RoutectlError(f"{where}: {_key(name)}: got {quoted(value)}, expected a number {span}")
    if plain is bool:
        switch = {"true": True, "false": False}.get(str(value).lower())
        if switch is not None:
            return switch
        raise RoutectlError(f"{where}: {_key(name)}: got {quoted(value)}, expected true or false")
    if name == "moe_layer_freq" and isinstance(value, int | list) and not isinstance(value, bool):
        value = str(value).strip("[]")
    if not isinstance(value, str) or not value or "\0" in value:
        raise RoutectlError(f"{where}: {_key(name)}: got {quoted(value)}, expected text")
    if name in _CHOICES:
        check_choice(f"{where}: {_key(name)}", value, _CHOICES[name])
    return place_of(value) if plain is Path else value


def _drop_weaker(values: dict[str, Any], whose: dict[str, int], said: Sequence[_Said]) -> None:
    """What a trainer's config says of micro-batches goes where a later one says it otherwise."""
    sayers = [name for name in _BATCHES if name in values]
    if not sayers:
        return
    strongest = max(sayers, key=lambda name: whose[name])
    others = [name for name in _BATCHES if name != strongest]
    for name in (*others, *(_BY_PLAN if strongest == "plan" else ())):
        if name in values and _is_trainers(said[whose[name]]) and whose[name] < whose[strongest]:
            del values[name], whose[name]


def _is_trainers(one: _Said) -> bool:
    return one.source is not None and one.source.trainer is not None


def _refuse_doubts(said: Sequence[_Said], whose: Mapping[str, int]) -> None:
    """Raise UnsupportedError for what cannot be followed and nothing later settles."""
    for i, one in enumerate(said):
        for doubt in one.doubts:
            if any(whose.get(key, -1) > i for key in doubt.settled_by):
                continue
            assert one.source is not None
            hint = (
                f"--layout {_key(doubt.settled_by[0])}=... after it settles that"
                if doubt.settled_by
                else "give the keys of a layout themselves: docs/layouts.md"
            )
            raise UnsupportedError(f"{one.source.path}: {doubt.what}", hint=hint)


def _divide_gpus(values: dict[str, Any], whose: dict[str, int], said: Sequence[_Said]) -> None:
    """dp out of a trainer's GPUs, where nothing says it."""
    for i, one in enumerate(said):
        if one.gpus is None or "dp" in values or "plan" in values:
            continue
        ranks = values.get("tp", 1) * values.get("cp", 1) * values.get("pp", 1)
        if one.gpus % ranks:
            assert one.source is not None
            raise MismatchError(
                f"{one.source.path}: {one.gpus} GPUs do not divide by tp x cp x pp = {ranks}",
                hint="--dp N",
            )
        values["dp"], whose["dp"] = one.gpus // ranks, i


def _tell(source: LayoutSource, values: Mapping[str, Any], progress: Progress) -> None:
    """Say what was read from a file, and what was not."""
    read = ", ".join(f"{key} {values[key.replace('-', '_')]}" for key in source.keys)
    whose = "" if source.trainer is None else f"{source.trainer}'s config: "
    progress.note(f"{source.path}: {whose}{read or 'nothing of it is taken'}")
    if source.unread:
        progress.note(f"{source.path}: not followed: {', '.join(source.unread)}")
