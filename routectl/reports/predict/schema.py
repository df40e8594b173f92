"""The types of a routectl.predict/1 document, as docs/json.md has them."""

from typing import Literal, NotRequired, TypedDict

__all__ = [
    "FailedGain",
    "FigureEntry",
    "FrozenFigures",
    "KindFigures",
    "LaterVersion",
    "LayerPrediction",
    "PredictDocument",
    "PredictVerdict",
    "PredictionEntry",
    "PredictionFigures",
    "PredictorEntry",
    "PredictorLayerEntry",
    "ReplaceRate",
]


class FigureEntry(TypedDict):
    """A rate and its 95 % interval."""

    value: float | None
    low: float | None
    high: float | None


class FrozenFigures(TypedDict):
    """The figures of frozen routes."""

    accuracy: FigureEntry
    mismatch: FigureEntry


class KindFigures(FrozenFigures):
    """The figures of other routes, some against frozen ones."""

    gain: FigureEntry
    removed: FigureEntry


class PredictionFigures(TypedDict):
    """The figures of each kind of routes."""

    frozen: FrozenFigures
    extrapolated: NotRequired[KindFigures]
    predicted: KindFigures


class LayerPrediction(PredictionFigures):
    """Those of one layer."""

    layer: int


class ReplaceRate(TypedDict):
    """Slots of frozen routes whose score is under ratio times that of the weakest own expert."""

    ratio: float
    replace_rate: float | None
    layers: list[float | None]


class PredictionEntry(PredictionFigures):
    """A later version: the figures of all layers, and of each; replace rates of frozen routes."""

    replaced: NotRequired[list[ReplaceRate]]

    version: str
    lag: int
    rows: int
    layers: list[LayerPrediction]


class LaterVersion(TypedDict):
    """A later version, and where its hidden states are from."""

    version: str
    lag: int
    fitted: bool
    hidden_states: str


class PredictorLayerEntry(TypedDict):
    """How one layer was fitted; ridge is None where it predicts nothing."""

    layer: int
    ridge: float | None
    kl_frozen: float
    kl: float
    choose_kl_frozen: float
    choose_kl: float


class PredictorEntry(TypedDict):
    """What a predictor was fitted to."""

    family: str
    old: str
    later: list[str]
    routers: dict[str, str]
    tokens: int
    sequences: int
    held: int
    layers: list[PredictorLayerEntry]


class FailedGain(TypedDict):
    """A threshold that a later version's gain is under."""

    threshold: str
    version: str
    value: float


class PredictVerdict(TypedDict):
    """The later versions that count, and those in which prediction beats freezing."""

    judged: list[str]
    beats: list[str]
    failed: list[FailedGain]
    exit_code: int


class PredictDocument(TypedDict):
    """routectl.predict/1."""

    schema: Literal["routectl.predict/1"]
    inputs: str
    old: str
    previous: str | None
    later: list[LaterVersion]
    layers: list[int]
    top_k: int
    tokens: int
    tokens_left_out: int
    sequences: int
    predictor: PredictorEntry
    comparisons: list[PredictionEntry]
    verdict: PredictVerdict
