"""Where a dump's model facts come from: the caller, the file itself, or a config beside it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...dump import DumpMeta
from ...errors import FormatError
from ...files.reading import read_bytes
from ...model import ModelFacts, facts_from_config
from .fields import from_json

__all__ = ["Context", "UnknownModelError", "find_context", "model_config", "read_model"]

_MAX_CONFIG_BYTES = 64 << 20
_HINT = "--model CONFIG.json, or --num-layers, --top-k and --num-experts"


class UnknownModelError(FormatError):
    """Nothing tells the sizes of a file's model: it may be whole, and waiting does not help."""


@dataclass(frozen=True, slots=True)
class Context:
    """The facts that hold for a file, where they come from, and what meta.json beside it says."""

    facts: ModelFacts
    source: str
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
            facts_source=self.source,
            file_bytes=path.stat().st_size,
            num_layers=facts.num_layers,
            **{**said, "model": said.get("model") or facts.model_type},
        )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        text = read_bytes(path, _MAX_CONFIG_BYTES, "too large for a model config")
        doc = from_json(text, str(path))
    except (ValueError, RecursionError):
        raise FormatError(f"{path}: not JSON, expected an HF config.json") from None
    if not isinstance(doc, dict):
        raise FormatError(f"{path}: got a {type(doc).__name__}, expected an HF config.json")
    return doc


def read_model(path: str | Path) -> ModelFacts:
    """Model facts from an HF config.json, or from the folder that holds one."""
    return facts_from_config(model_config(path), str(path))


def model_config(path: str | Path) -> dict[str, Any]:
    """The config.json at a path or in the folder there; in a meta.json, what hf_config holds."""
    file = Path(path)
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


def _beside(folder: Path, about: dict[str, Any]) -> tuple[ModelFacts | None, str]:
    """Facts from ``hf_config`` in meta.json or from config.json in the dump's folder."""
    meta, config = folder / "meta.json", folder / "config.json"
    if isinstance(about.get("hf_config"), dict):
        return facts_from_config(about["hf_config"], str(meta)), str(meta)
    if config.is_file():
        return facts_from_config(_read_json(config), str(config)), str(config)
    return None, ""


def find_context(
    path: Path, model: ModelFacts | str | Path | None, own: dict[str, Any] | None = None
) -> Context:
    """The facts for the dump at ``path``: ``model`` first, then ``own``, then the folder's.

    ``own`` is a config that the file itself carries. Raises UnknownModelError when none of them
    tells, because the layer axis and the id range cannot be checked without.
    """
    about = _notes(path.parent / "meta.json", needed=model is None and own is None)
    if isinstance(model, ModelFacts):
        return Context(model, "given", about)
    if model is not None:
        return Context(read_model(model), str(model), about)
    if own is not None:
        return Context(facts_from_config(own, f"{path}: config"), "the file itself", about)
    found, source = _beside(path.parent, about)
    if found is not None:
        return Context(found, source, about)
    raise UnknownModelError(
        f"{path}: the model is not known: no config in the file, no config.json or meta.json "
        "beside it",
        hint=_HINT,
    )
