"""How dumps that the user named are read: options that every job with a dump takes."""

from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import FormatError, RoutectlError, check_choice
from ..model import ModelFacts, facts_from_sizes
from .held import HeldDump
from .inputs import Input, parse_input
from .options import check_bounds, option
from .progress import SILENT, Progress

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ..codecs.dictionary import TokenDictionary
    from ..dump import Dump
    from ..formats.documents.facts import Guess, Logical, Model, Otherwise
    from ..ops.diff.thresholds import Threshold

__all__ = [
    "EXPERT_MAP",
    "MODEL",
    "WITHOUT_TOKENS",
    "Reading",
    "coded_against",
    "finite_eps",
    "open_input",
    "otherwise_of",
    "parse_layers",
    "parse_positions",
    "reachable",
    "refuse_relative",
    "refuse_severity",
]

WITHOUT_TOKENS = (
    "without token ids: samples are joined by their names alone, and what runs or packs tokens "
    "cannot use them"
)


MODEL = {  # --model of whatever reads a dump, or asks for one
    "metavar": "MODEL",
    "help": "HF config.json, a folder with one, ORG/NAME of the local HF cache, or LAYERS,K,E; "
    "when not given what the dump says, the other dump, or a config beside it.",
}

EXPERT_MAP: dict[str, Any] = {  # --expert-map of the same
    "shared": True,
    "decides": True,
    "metavar": "FILE",
    "help": "Logical experts of physical ids.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What dumps do not say themselves; of each dump, ``PATH::start=0`` says it too, and wins.

    model   as ``open_dump`` takes it: it holds for every dump
    expert_map  a file with the logical expert of each physical one, whose ids the dumps have
    start   position of row 0
    format  a name that ``open_dump`` knows
    base    the dump that native files of codec delta were coded against

    Raises RoutectlError for sizes out of bounds.
    """

    model: str | Path | ModelFacts | None = option(None, **MODEL)
    expert_map: Path | None = option(None, **EXPERT_MAP)
    start: int | None = None
    format: str | None = None
    base: str | None = None

    def __post_init__(self) -> None:
        check_bounds(self)
        if isinstance(self.model, str):
            facts_from_sizes(self.model)
        if self.start is not None and self.start < 0:
            raise RoutectlError(f"start {self.start}: expected at least 0")

    @property
    def facts(self) -> "ModelFacts | Path | None":
        """The model that was named: the path of its config, or facts. Raises FormatError."""
        if self.model is None:
            return None
        from ..formats.documents.facts import find_model

        return find_model(self.model)

    def input(self, text: str) -> Input:
        """A dump as the user named it, with what holds for every dump."""
        own = parse_input(text)
        return replace(
            own,
            start=self.start if own.start is None else own.start,
            format=own.format or self.format,
            base=own.base or (None if own.dictionary else self.base),
            expert_map=own.expert_map
            or (None if self.expert_map is None else str(self.expert_map)),
        )

    def open(
        self, path: str, otherwise: "Otherwise | Guess | None" = None, progress: Progress = SILENT
    ) -> "Dump":
        """The dump at a path, a folder or a glob; - is standard input.

        ``otherwise`` is the model where neither the dump nor these options say it. Where that, or
        a config beside the dump, decides, a note says so.
        """
        if isinstance(path, HeldDump):
            return path.dump
        named = self.input(path)
        dump = open_input(named, otherwise if self.model is None else self.facts)
        _refuse_own(named, otherwise)
        if self.model is None:
            _say_source(dump, named.path, otherwise, progress)
        _say_map(dump, named, progress)
        return dump

    def open_sides(
        self, sides: "Mapping[str, str]", progress: Progress = SILENT
    ) -> "dict[str, Dump]":
        """Dumps of one model by name, such as OLD and NEW: what one says holds for the others.

        One that does not say its model is read by the first that does; where none does, by what
        lies beside it, and at last by what lies beside another. Notes say so.
        """
        from ..formats.documents.facts import Otherwise, UnknownModelError

        if self.model is not None or len(sides) < 2:
            return {name: self.open(path, progress=progress) for name, path in sides.items()}
        opened: dict[str, Dump] = {}
        first: UnknownModelError | None = None
        for how in (Otherwise(), None):
            for name in [name for name in sides if name not in opened]:
                try:
                    opened[name] = self.open(sides[name], how, progress)
                except UnknownModelError as error:
                    first = error if how is None and first is None else first
            if opened:
                break
        if not opened:
            assert first is not None
            raise first
        donor = next(iter(opened))
        for name in [name for name in sides if name not in opened]:
            known = otherwise_of(opened[donor], donor)
            opened[name] = self.open(sides[name], known)
            _say_map(opened[name], self.input(sides[name]), progress)
            if opened[name].meta.facts_source == known.source:
                progress.note(f"model of {name} from {donor}")
        return {name: opened[name] for name in sides}


def _refuse_own(named: Input, otherwise: "Otherwise | Guess | None") -> None:
    """Raise FormatError for a folder of pack: its dump is without routes, to be looked at alone."""
    from ..formats.documents.facts import Guess
    from ..formats.documents.own import own_folder

    own = None if isinstance(otherwise, Guess) else own_folder(Path(named.path))
    if own is not None:
        raise FormatError(f"{named.path}: {own[0]}, not a dump", hint=own[1])


def _say_map(dump: "Dump", named: Input, progress: Progress) -> None:
    """Note which map made logical ids of a dump's."""
    if named.expert_map is not None:
        progress.note(f"logical ids of {named.path} by {dump.meta.provenance['expert_map']}")


def otherwise_of(dump: "Dump", name: str) -> "Otherwise":
    """The model of a dump, for one that does not say its own; ``name`` is OLD, say."""
    from ..formats.documents.facts import Otherwise

    meta = dump.meta
    layers = meta.layers_L
    num_layers = meta.num_layers or layers[-1] + 1
    facts = ModelFacts(num_layers, layers, meta.num_experts, meta.top_k, None)
    return Otherwise(facts, f"{name}, {meta.path}")


def _say_source(
    dump: "Dump", path: str, otherwise: "Otherwise | Guess | None", progress: Progress
) -> None:
    """Note where a model was found that neither the user nor the dump named."""
    from ..formats.documents.facts import Otherwise, is_beside

    source = dump.meta.facts_source or ""
    if isinstance(otherwise, Otherwise) and otherwise.facts is not None:
        decided = source == otherwise.source
    else:
        decided = is_beside(source, path)
    if decided:
        progress.note(f"model of {path} from {source}")


def open_input(
    named: "Input | str",
    model: "Model" = None,
    base: "Dump | TokenDictionary | str | None" = None,
) -> "Dump":
    """Open a dump that the user named, and the base of one that was coded against another.

    ``-`` is standard input. ``base`` is that of one which does not name its own.
    """
    from ..formats import open_dump
    from ..formats.documents.facts import Physical
    from .stdin import file_of

    one = parse_input(named) if isinstance(named, str) else named
    source = file_of(one.path)
    logical = model.model if isinstance(model, Physical) else model
    own = coded_against(one, logical)
    tokens = None if one.tokens is None else file_of(one.tokens)
    dump = open_dump(
        source,
        model=model if one.expert_map is None else Physical(logical, file_of(one.expert_map)),
        format=one.format,
        start=one.start,
        base=base if own is None else own,
        tokens=tokens,
    )
    if source != one.path:
        dump.meta = replace(dump.meta, path=one.path)
    return dump


def coded_against(one: Input, model: "Logical" = None) -> "Dump | TokenDictionary | str | None":
    """What a native file that the user named was coded against or with, where that is named."""
    if one.dictionary is not None:
        from ..formats.native.dictionaries import read_dictionary

        return read_dictionary(one.dictionary)
    return None if one.base is None else _base_of(one.base, model)


def reachable(text: str) -> str:
    """A dump as another process finds it: what is on a pipe is named by its copy."""
    from .stdin import file_of

    return text if isinstance(text, HeldDump) else str(parse_input(text).placed(file_of))


def _base_of(text: str, model: "Logical") -> "Dump | str":
    """A base: its path, which is opened where it is needed; with options, the dump."""
    from ..formats.documents.facts import Otherwise
    from .stdin import file_of

    named = parse_input(text)
    if str(named) == named.path:
        return file_of(named.path)
    return open_input(named, None if isinstance(model, Otherwise) else model)


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
    from ..ops.check.book.kind import SEVERITIES

    check_choice("--fail-on", fail_on, SEVERITIES)


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
