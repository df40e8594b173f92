"""How a dump that the user named is read: options that every job with a dump takes."""

from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import RoutectlError
from .held import HeldDump
from .options import check_bounds, option

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..dump import Dump
    from ..model import ModelFacts
    from ..ops.diff.thresholds import Threshold

__all__ = [
    "WITHOUT_TOKENS",
    "ModelSizes",
    "Reading",
    "finite_eps",
    "open_input",
    "parse_layers",
    "parse_positions",
    "refuse_relative",
    "refuse_severity",
]

WITHOUT_TOKENS = (
    "without token ids: samples are joined by their names alone, and what runs or packs tokens "
    "cannot use them"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSizes:
    """The model, or its three sizes: num_layers (in the dump, all MoE), top_k and num_experts."""

    model: Path | None = option(
        None, metavar="CONFIG", help="HF config.json, or a folder with one: MoE layers, E, K."
    )
    num_layers: int | None = option(
        None, least=1, help="Without --model: layers in the dump, all MoE."
    )
    top_k: int | None = option(None, least=1, help="Without --model: K.")
    num_experts: int | None = option(None, least=1, most=65536, help="Without --model: E.")

    def __post_init__(self) -> None:
        check_bounds(self)

    @property
    def facts(self) -> "ModelFacts | Path | None":
        """The model as open_dump takes it: a config's path, or facts out of the three sizes.

        Raises RoutectlError where options contradict.
        """
        sizes = {
            "--num-layers": self.num_layers,
            "--top-k": self.top_k,
            "--num-experts": self.num_experts,
        }
        given = [name for name, size in sizes.items() if size is not None]
        if self.model is not None and given:
            raise RoutectlError(f"--model and {given[0]} cannot both be given")
        if not given:
            return self.model
        if self.num_layers is None or self.top_k is None or self.num_experts is None:
            absent = [name for name in sizes if name not in given]
            raise RoutectlError(f"{', '.join(given)} also needs {' and '.join(absent)}")
        if self.top_k > self.num_experts:
            raise RoutectlError(
                f"--top-k {self.top_k} is more than --num-experts {self.num_experts}"
            )
        from ..model import ModelFacts

        layers = tuple(range(self.num_layers))
        return ModelFacts(self.num_layers, layers, self.num_experts, self.top_k, None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading(ModelSizes):
    """The model, and what else a dump does not say itself; None: it does.

    format  a name that ``open_dump`` knows
    start   position of row 0
    base    the dump that native files of codec delta were coded against
    """

    format: str | None = option(
        None,
        metavar="FORMAT",
        help="json, jsonl, sse, npy, npz, safetensors, torch, pickle, msgpack or native; "
        "sniffed when not given.",
    )
    start: int | None = option(
        None, least=0, help="Position of row 0 where the dump does not say it."
    )

    base: str | None = option(
        None,
        metavar="DUMP",
        help="What a file of codec delta was coded against, where it is not in the file's folder.",
    )

    def open(self, path: str, otherwise: "ModelFacts | Path | None" = None) -> "Dump":
        """The dump at a path, a folder or a glob; - is standard input.

        ``otherwise`` is the model where neither the dump nor these options say it.
        """
        facts = self.facts if otherwise is None else otherwise
        return open_input(path, facts, self.format, self.start, self.base)


def open_input(
    path: str,
    model: "ModelFacts | Path | None" = None,
    form: str | None = None,
    start: int | None = None,
    base: "Dump | str | None" = None,
    tokens: Path | None = None,
) -> "Dump":
    """Open a dump that the user named, and the base of one that was coded against another.

    ``-`` is standard input.
    """
    from ..formats import open_dump
    from .stdin import file_of

    if isinstance(path, HeldDump):
        return path.dump
    source = file_of(path)
    base = file_of(base) if isinstance(base, str) else base
    dump = open_dump(source, model=model, format=form, start=start, base=base, tokens=tokens)
    if source != path:
        dump.meta = replace(dump.meta, path=path)
    return dump


def refuse_relative(limits: "Sequence[Threshold]") -> None:
    """Raise RoutectlError for a threshold that is relative, where nothing was accepted before."""
    for limit in limits:
        if limit.relative_to is not None:
            raise RoutectlError(
                f"threshold {limit.text!r} is relative to a baseline, and there is none",
                hint="routectl ci keeps one",
            )


def refuse_severity(fail_on: str) -> None:
    """Raise RoutectlError for a --fail-on that no finding has."""
    from ..ops.check.book.findings import SEVERITIES

    if fail_on not in SEVERITIES:
        raise RoutectlError(f"--fail-on {fail_on!r} is not known: {', '.join(SEVERITIES)}")


def finite_eps(eps: float | None) -> float:
    """The margin up to which a flip is a near-tie. Raises RoutectlError unless it is finite."""
    from ..margins import EPS

    width = EPS if eps is None else eps
    if not isfinite(width):
        raise RoutectlError(f"--eps {width}: expected a finite margin")
    return width


def parse_layers(text: str | None) -> list[int] | None:
    """Layer numbers out of "0-3,7"; None stays None. Raises RoutectlError."""
    if text is None:
        return None
    layers: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()) or len(part) > 20:
            raise RoutectlError(f"--layers {text}: got {part!r}, expected numbers like 0-3,7")
        lo, hi = int(first), int(last) if dash else int(first)
        if lo > hi or hi > 100_000:
            raise RoutectlError(f"--layers {text}: got {part!r}, expected an ascending range")
        layers.update(range(lo, hi + 1))
    return sorted(layers)


def parse_positions(text: str | None) -> range | None:
    """Token positions out of "128-255" or "7"; None stays None. Raises RoutectlError."""
    if text is None:
        return None
    first, dash, last = text.partition("-")
    whole = first.isdecimal() and (last.isdecimal() or not dash) and len(text) <= 40
    if not whole or (dash and int(first) > int(last)):
        raise RoutectlError(f"--positions {text}: expected a range like 128-255")
    return range(int(first), int(last if dash else first) + 1)
