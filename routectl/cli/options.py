"""Arguments and options that more than one command takes, each defined once."""

from dataclasses import replace
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import RoutectlError

if TYPE_CHECKING:
    from ..dump import Dump
    from ..model import ModelFacts

__all__ = [
    "Detail",
    "Device",
    "Dtype",
    "Eps",
    "ExitZero",
    "Force",
    "Format",
    "Html",
    "Json",
    "Layers",
    "Model",
    "NumExperts",
    "NumLayers",
    "Output",
    "Plain",
    "Start",
    "Streaming",
    "Threads",
    "TokenizerFile",
    "Tokens",
    "TopK",
    "finite_eps",
    "model_from",
    "open_input",
    "parse_layers",
    "parse_positions",
]

Model = Annotated[
    Path | None,
    typer.Option(
        "--model", metavar="CONFIG", help="HF config.json, or a folder with one: MoE layers, E, K."
    ),
]
NumLayers = Annotated[
    int | None,
    typer.Option("--num-layers", min=1, help="Without --model: layers in the dump, all MoE."),
]
TopK = Annotated[int | None, typer.Option("--top-k", min=1, help="Without --model: K.")]
NumExperts = Annotated[
    int | None, typer.Option("--num-experts", min=1, max=65536, help="Without --model: E.")
]
Format = Annotated[
    str | None,
    typer.Option(
        "--format",
        metavar="FORMAT",
        help="json, jsonl, sse, npy, npz, safetensors, torch, pickle, msgpack or native; "
        "sniffed when not given.",
    ),
]
Start = Annotated[
    int | None,
    typer.Option("--start", min=0, help="Position of row 0 where the dump does not say it."),
]
Json = Annotated[bool, typer.Option("--json", help="Print the report as one JSON document.")]
Plain = Annotated[
    bool,
    typer.Option("--plain", help="Print to a terminal as to a pipe: no colours, no pictures."),
]
Detail = Annotated[
    bool,
    typer.Option("--detail", help="In --json, what a page shows beside the figures: `report`."),
]
Html = Annotated[
    Path | None,
    typer.Option("--html", metavar="PATH", help="Write the report as one HTML page there too."),
]
TokenizerFile = Annotated[
    Path | None,
    typer.Option(
        "--tokenizer", metavar="PATH", help="tokenizer.json: the page shows tokens as text."
    ),
]
Output = Annotated[
    Path | None,
    typer.Option("-o", "--output", metavar="PATH", help="Write the report there; - is stdout."),
]
Force = Annotated[bool, typer.Option("--force", help="Replace a file that exists.")]
ExitZero = Annotated[bool, typer.Option("--exit-zero", help="Exit 0 when the dumps differ.")]


Tokens = Annotated[str, typer.Option("--tokens", help="Compare all, prompt or response tokens.")]
Layers = Annotated[
    str | None,
    typer.Option("--layers", metavar="LIST", help="Only these layers, such as 0-3,7."),
]
Eps = Annotated[
    float | None,
    typer.Option(
        "--eps",
        min=0,
        show_default=False,
        help="A mismatch with a margin up to this is a near-tie, beyond it a clear flip; in "
        "units of the selection score; 0.001 when not given.",
    ),
]
Device = Annotated[
    str,
    typer.Option(
        "--device",
        help="cpu, cuda (all of one kind), cuda:0,cuda:1: a process each. auto: cuda, else cpu.",
    ),
]
Dtype = Annotated[
    str, typer.Option("--dtype", help="auto (as stored), float32, bfloat16 or float16.")
]
Streaming = Annotated[
    str,
    typer.Option(
        "--streaming",
        metavar="HOW",
        help="plain: all weights in memory; stream: layer by layer; auto: plain where they fit.",
    ),
]
Threads = Annotated[int | None, typer.Option("--threads", min=1, help="CPU threads.")]


def finite_eps(eps: float | None) -> float:
    """The margin up to which a flip is a near-tie. Raises RoutectlError unless it is finite."""
    from ..margins import EPS

    width = EPS if eps is None else eps
    if not isfinite(width):
        raise RoutectlError(f"--eps {width}: expected a finite margin")
    return width


def model_from(
    config: Path | None, num_layers: int | None, top_k: int | None, num_experts: int | None
) -> "ModelFacts | Path | None":
    """The model as open_dump takes it: a config's path, or facts out of the three sizes."""
    sizes = {"--num-layers": num_layers, "--top-k": top_k, "--num-experts": num_experts}
    given = [name for name, size in sizes.items() if size is not None]
    if config is not None and given:
        raise RoutectlError(f"--model and {given[0]} cannot both be given")
    if not given:
        return config
    if num_layers is None or top_k is None or num_experts is None:
        absent = [name for name in sizes if name not in given]
        raise RoutectlError(f"{', '.join(given)} also needs {' and '.join(absent)}")
    if top_k > num_experts:
        raise RoutectlError(f"--top-k {top_k} is more than --num-experts {num_experts}")
    from ..model import ModelFacts

    return ModelFacts(num_layers, tuple(range(num_layers)), num_experts, top_k, None)


def open_input(
    path: str,
    model: "ModelFacts | Path | None",
    form: str | None,
    start: int | None,
    base: "Dump | None" = None,
    tokens: Path | None = None,
) -> "Dump":
    """Open a dump that the user named, and the base of one that was coded against another.

    ``-`` is standard input.
    """
    from ..formats import open_dump
    from ..jobs.stdin import file_of

    source = file_of(path)
    dump = open_dump(source, model=model, format=form, start=start, base=base, tokens=tokens)
    if path == "-":
        dump.meta = replace(dump.meta, path=path)
    return dump


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
