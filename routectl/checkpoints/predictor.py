"""A predictor's file: safetensors with ``layer.N.predictor`` float32 [D, E], layers 0-based.

``fitted_prefixes`` int64 [P] are digests of the rows that it was fitted on (ops/predict/rows.py);
the metadata's key ``routectl`` holds the facts, as JSON. Shape suffixes: D hidden size, E columns
of the logits, P rows fitted on.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import FormatError, UnsupportedError
from ..files.writing import replacing
from .headers import layer_tensors, read_header, stored_texts, strict_json

if TYPE_CHECKING:
    import torch

__all__ = ["Predictor", "PredictorFacts", "PredictorLayer", "open_predictor", "write_predictor"]

SCHEMA = "routectl.predictor/1"
_LAYER = re.compile(r"layer\.(\d{1,4})\.predictor")
_PREFIXES = "fitted_prefixes"


@dataclass(frozen=True, slots=True)
class PredictorLayer:
    """What the fit of a layer reached, mean KL in nats: see ops/predict.LayerFit."""

    layer: int
    ridge: float | None
    kl_frozen: float
    kl: float
    choose_kl_frozen: float
    choose_kl: float


@dataclass(frozen=True, slots=True)
class PredictorFacts:
    """What a predictor was fitted to.

    family           the recipe's.
    old, later       names of the versions.
    routers          the digest of each of their routers, by name.
    tokens           rows a layer that it was fitted on, those that chose the ridge included.
    sequences, held  sequences in all, and of them those held out.
    layers           ascending.
    """

    family: str
    old: str
    later: tuple[str, ...]
    routers: Mapping[str, str]
    tokens: int
    sequences: int
    held: int
    layers: tuple[PredictorLayer, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Predictor:
    """Weights float32 [D, E] by layer, the digests of rows fitted on, and the facts."""

    weights: "Mapping[int, torch.Tensor]"
    prefixes: NDArray[np.int64]
    facts: PredictorFacts


def write_predictor(predictor: Predictor, path: Path, *, force: bool) -> None:
    """Write a predictor's file, whole or not at all; an old one stays unless ``force``."""
    from safetensors.numpy import save

    tensors = {  # save() writes the memory of an array, whatever its strides
        f"layer.{n}.predictor": w.contiguous().numpy() for n, w in sorted(predictor.weights.items())
    }
    tensors[_PREFIXES] = np.unique(predictor.prefixes)
    about = json.dumps({"schema": SCHEMA, **asdict(predictor.facts)})
    with replacing(path, force=force) as stream:
        stream.write(save(tensors, metadata={"routectl": about}))


def open_predictor(path: Path) -> Predictor:
    """A predictor out of its file.

    Raises FormatError when the file is damaged or not a predictor's, UnsupportedError for a newer
    one.
    """
    from .tensors import read_tensor

    header = read_header(path)
    weights = {}
    for layer, info in layer_tensors(header, _LAYER):
        if info.dtype != "F32" or len(info.shape) != 2:
            raise FormatError(
                f"{path}: {info.name}: got {info.dtype} {list(info.shape)}, expected F32 [D, E]"
            )
        weights[layer] = read_tensor(info, str(path))
    held = header.get(_PREFIXES)
    others = [name for name in header if name != _PREFIXES and not _LAYER.fullmatch(name)]
    if not weights or held is None or held.dtype != "I64" or len(held.shape) != 1 or others:
        got = f": got {others[0][:80]!a}" if others else ""
        raise FormatError(f"{path}: no predictor{got}: expected layer.N.predictor and {_PREFIXES}")
    for layer, weight_DE in weights.items():
        if not weight_DE.isfinite().all():
            raise FormatError(f"{path}: layer {layer}: not finite: expected numbers")
    facts = _facts(path)
    if [about.layer for about in facts.layers] != sorted(weights):
        raise FormatError(f"{path}: damaged: its metadata is of other layers than its tensors")
    prefixes = read_tensor(held, str(path)).numpy().astype(np.int64)
    return Predictor(dict(sorted(weights.items())), prefixes, facts)


def _facts(path: Path) -> PredictorFacts:
    text = stored_texts(path).get("routectl")
    if text is None:
        raise FormatError(f"{path}: no predictor: no 'routectl' entry in its metadata")
    about = strict_json(text.encode(), f"{path}: metadata")
    schema = about.pop("schema", None)
    if schema != SCHEMA:
        raise UnsupportedError(f"{path}: got {str(schema)[:80]!a}, this routectl reads {SCHEMA}")
    try:
        about["layers"] = tuple(_layer(entry) for entry in about["layers"])
        about["later"] = (*about["later"],)
        facts = PredictorFacts(**about)
        names = [facts.family, facts.old, *facts.later, *facts.routers, *facts.routers.values()]
        sizes = (facts.tokens, facts.sequences, facts.held)
        if not all(isinstance(n, str) for n in names) or not all(type(n) is int for n in sizes):
            raise TypeError
        if not {facts.old, *facts.later} <= set(facts.routers):
            raise KeyError
    except (TypeError, KeyError, AttributeError):
        raise FormatError(f"{path}: damaged: the metadata cannot be read") from None
    return facts


def _layer(entry: Any) -> PredictorLayer:
    """One entry of the metadata. Raises TypeError for what no writer makes."""
    about = PredictorLayer(**entry)
    numbers = [value for name, value in entry.items() if name not in ("layer", "ridge")]
    if about.ridge is not None:
        numbers.append(about.ridge)
    if type(about.layer) is not int or not all(
        isinstance(n, float) and math.isfinite(n) for n in numbers
    ):
        raise TypeError
    return about
