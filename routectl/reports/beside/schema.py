"""The types of a routectl.beside/1 document, as docs/json.md has them."""

from typing import Literal, TypedDict

__all__ = ["BesideDocument", "BesideSide", "FigurePair", "LayerFigure", "LayerPair", "PairedFigure"]


class BesideSide(TypedDict):
    """One of the two reports: its file, what it is about, and its verdict in a line."""

    path: str
    about: list[str]
    verdict: str


class PairedFigure(TypedDict):
    """A figure of A and of B, None where that report has it not; the difference is B less A."""

    a: float | None
    b: float | None
    difference: float | None


class FigurePair(PairedFigure):
    """A figure of the whole report by its name; rate: it is a share, 0 to 1."""

    name: str
    rate: bool


class LayerPair(PairedFigure):
    """The same of one layer."""

    layer: int


class LayerFigure(TypedDict):
    """A figure by layer; worst are the layers in which A and B part most, that one first."""

    name: str
    rate: bool
    layers: list[LayerPair]
    worst: list[int]


class BesideDocument(TypedDict):
    """routectl.beside/1."""

    schema: Literal["routectl.beside/1"]
    of: str
    a: BesideSide
    b: BesideSide
    figures: list[FigurePair]
    layer_figures: list[LayerFigure]
    figures_differing: int
