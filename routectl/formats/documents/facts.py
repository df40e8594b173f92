"""Where a dump's model facts come from: one place decides for every reader.

What the caller says, else the file itself or the meta.json beside it, else what the caller knows of
another dump, else a config.json beside the file.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from ...dump import DumpMeta
from ...errors import FormatError
from ...files.places import place_of
from ...files.reading import read_bytes
from ...model import ModelFacts, facts_from_config, facts_from_sizes
from .fields import from_json
from .hub import cached_config, hub_folder
from .kinds import kind_in_words

__all__ = [
    "GUESSED",
    "ITSELF",
    "MODEL_HINT",
    "Context",
    "Experts",
    "Guess",
    "Logical",
    "Model",
    "Otherwise",
    "Physical",
    "UnknownModelError",
    "find_context",
    "find_model",
    "is_beside",
    "model_config",
    "read_model",
    "refuse_alone",
]

_MAX_CONFIG_BYTES = 16 << 20
_META, _CONFIG = "meta.json", "config.json"
ITSELF = "the file itself"
MODEL_HINT = "--model CONFIG.json, a folder with one, ORG/NAME of the HF cache, or LAYERS,K,E"
_CALLER = "the caller"
GUESSED = "nothing: a guess"


class UnknownModelError(FormatError):
    """Nothing tells the sizes of a file's model: it may be whole, and waiting does not help."""


@dataclass(frozen=True, slots=True)
class Otherwise:
    """The model of a dump that does not say its own, before a config.json beside it is asked.

    ``source`` says whose it is. With ``facts`` None the dump alone is asked, and nothing else.
    """

    facts: ModelFacts | None = None
    source: str = ""


@dataclass(frozen=True, slots=True)
class Guess:
    """What a dump looks like, where nothing tells its model: for what is said of it, not counted.

    The source of such facts is ``GUESSED``; they are no model's.
    """


class Experts(Protocol):
    """What of an expert map decides how a file is read; ``formats.experts.maps.ExpertMap`` is."""

    def physical(self, facts: ModelFacts) -> ModelFacts:
        """The model as its physical experts are."""

    def check(self, facts: ModelFacts) -> None:
        """Raise MismatchError where it is of another model."""


Logical = ModelFacts | str | Path | Otherwise | Guess | None


@dataclass(frozen=True, slots=True)
class Physical:
    """The model of a dump whose ids are of physical experts, of which the model's have copies.

    ``experts`` is the map of them, or the path of a file with it.
    """

    model: Logical
    experts: Experts | str | Path


Model = Logical | Physical  # what a caller says of a dump's model


@dataclass(frozen=True, slots=True)
class Context:
    """The facts that hold for a file, where they come from, and what meta.json beside it says."""

    facts: ModelFacts
    about: dict[str, Any]

    def meta(self, path: Path, kind: str, **said: Any) -> DumpMeta:
        """What is known of the dump at ``path``, of format ``kind``; ``said`` is what it says."""
        facts = self.facts
        return DumpMeta(
            path=str(path),
            format=kind,
            layers_L=facts.layers,
            num_experts=facts.num_experts,
            top_k=facts.top_k,
            facts_source=facts.source,
            file_bytes=path.stat().st_size,
            num_layers=facts.num_layers,
            **{**said, "model": said.get("model") or facts.model_type},
        )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        text = read_bytes(path, _MAX_CONFIG_BYTES, "too large for a model config")
        doc = from_json(text, str(path))
    except (ValueError, RecursionError):
        kind = kind_in_words(path)
        got = "not JSON" if kind == "JSON" else f"got {kind}"
        raise FormatError(f"{path}: {got}, expected an HF config.json") from None
    if not isinstance(doc, dict):
        raise FormatError(f"{path}: got a {type(doc).__name__}, expected an HF config.json")
    return doc


def find_model(model: str | Path | ModelFacts) -> Path | ModelFacts:
    """What names a model, found: the path of its config or of the folder with it, or its facts.

    A path that is there is itself; ``LAYERS,K,E`` are sizes; ``org/name`` is looked up in the
    cache of Hugging Face's hub on this machine. Raises FormatError where nothing is there.
    """
    if isinstance(model, ModelFacts):
        return model if model.source else replace(model, source=_CALLER)
    try:
        if place_of(model).exists():
            return place_of(model)
    except (OSError, ValueError):  # too long, a NUL
        pass
    found = facts_from_sizes(str(model)) or cached_config(str(model))
    if found is None:
        raise FormatError(
            f"{model}: no such file or folder, and no model of that name in {hub_folder()}",
            hint=MODEL_HINT,
        )
    return found


def read_model(model: str | Path | ModelFacts) -> ModelFacts:
    """The facts of what names a model; see ``find_model``. Raises FormatError."""
    found = find_model(model)
    return found if isinstance(found, ModelFacts) else _facts_at(found)


def _facts_at(path: Path) -> ModelFacts:
    return facts_from_config(model_config(path), str(path))


def model_config(path: str | Path) -> dict[str, Any]:
    """The config.json at a path or in the folder there; in a meta.json, what hf_config holds."""
    file = place_of(path)
    doc = _read_json(file / "config.json" if file.is_dir() else file)
    config = doc.get("hf_config", doc)
    if not isinstance(config, dict):
        raise FormatError(f"{path}: hf_config: got a {type(config).__name__}, expected an object")
    return config


def _notes(meta: Path, needed: bool) -> dict[str, Any]:
    """The meta.json beside a dump; a foreign one is in nobody's way unless it is needed."""
    try:
        return _read_json(meta) if meta.is_file() else {}
    except FormatError:
        if needed:
            raise
        return {}


def is_beside(source: str, path: str) -> bool:
    """Whether facts of the dump at ``path`` came from the config.json in its folder."""
    at = place_of(path)
    return place_of(source) in (at / _CONFIG, at.parent / _CONFIG)


def _of_dump(folder: Path, about: dict[str, Any]) -> ModelFacts | None:
    """What the meta.json of a dump's folder says of its model: its ``hf_config``."""
    if isinstance(about.get("hf_config"), dict):
        return facts_from_config(about["hf_config"], str(folder / _META))
    return None


def refuse_alone(path: Path, model: Model) -> None:
    """Raise UnknownModelError where the dump alone is asked, and only its meta.json could tell.

    Of a form that has no place for a model, before the file is read.
    """
    model = model.model if isinstance(model, Physical) else model
    alone = isinstance(model, Otherwise) and model.facts is None
    if alone and "hf_config" not in _notes(path.parent / _META, needed=False):
        raise UnknownModelError(f"{path}: does not say its model", hint=MODEL_HINT)


def find_context(
    path: Path,
    model: Model,
    own: dict[str, Any] | None = None,
    guess: Callable[[], ModelFacts] | None = None,
) -> Context:
    """The facts for the dump at ``path``, from the first that tells.

    ``model``, where the caller names one; ``own``, a config that the file itself carries; the
    meta.json beside it; an ``Otherwise``; the config.json beside it, which is taken for an
    ``Otherwise`` of the same sizes too; for a ``Guess``, what ``guess`` makes of the file. Raises
    UnknownModelError when none of them tells, because the layer axis and the id range cannot be
    checked without. For a ``Physical`` they are those of its model, with its physical experts as E.
    """
    if isinstance(model, Physical):
        assert not isinstance(model.experts, str | Path)  # open_dump has read it
        context = find_context(path, model.model, own, guess)
        if context.facts.source != GUESSED:
            model.experts.check(context.facts)
        return replace(context, facts=model.experts.physical(context.facts))
    folder = path.parent
    about = _notes(folder / _META, needed=model is None and own is None)
    if model is not None and not isinstance(model, Otherwise | Guess):
        return Context(read_model(model), about)
    if own is not None:
        facts = facts_from_config(own, f"{path}: config")
        return Context(replace(facts, source=ITSELF), about)
    found = _of_dump(folder, about)
    if found is None and isinstance(model, Otherwise):
        refuse_alone(path, model)
        assert model.facts is not None
        found = _confirmed(model.facts, folder / _CONFIG) or replace(
            model.facts, source=model.source
        )
    if found is None and (folder / _CONFIG).is_file():
        found = _facts_at(folder / _CONFIG)
    if found is None and isinstance(model, Guess) and guess is not None:
        found = guess()
    if found is None:
        raise UnknownModelError(
            f"{path}: the model is not known: no config in the file, no config.json or meta.json "
            "beside it",
            hint=MODEL_HINT,
        )
    return Context(found, about)


def _confirmed(facts: ModelFacts, config: Path) -> ModelFacts | None:
    """What the config beside a dump says, where it has the same layers, E and K; else None."""
    try:
        beside = _facts_at(config) if config.is_file() else None
    except FormatError:
        return None
    same = beside is not None and _sizes(beside) == _sizes(facts)
    return beside if same else None


def _sizes(facts: ModelFacts) -> tuple[tuple[int, ...], int, int]:
    return facts.layers, facts.num_experts, facts.top_k
