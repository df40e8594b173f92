"""What a forward is asked for, and what it gives back a sample.

Shape suffixes: T tokens, L MoE layers, K top_k, D hidden, G response tokens.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import unknown
from ..routes import Bools, Ids

__all__ = [
    "DTYPES",
    "MODES",
    "SHORT_DTYPES",
    "STREAMING",
    "Forwarded",
    "RunOptions",
    "RunProgress",
]

DTYPES = ("auto", "bfloat16", "float16", "float32")
SHORT_DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
MODES = ("free", "forced", "both")
STREAMING = ("auto", "plain", "stream")


@dataclass(frozen=True, slots=True)
class RunProgress:
    """How far a whole run is.

    layer, layers  of this pass; a plain run has done all of them
    samples        finished ones, and of those of this pass the share of layers that are done
    tokens         pushed through the model, likewise, padding too; in mode "both" each one twice
    read_bytes     of the checkpoint, so far
    """

    layer: int
    layers: int
    samples: float
    tokens: float
    read_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """How tokens are pushed through a checkpoint.

    checkpoint           a Hugging Face folder
    device               a torch device: "cpu", "cuda", "cuda:1"
    dtype                of weights and activations; "auto" is the checkpoint's own; fp32, bf16
                         and fp16 are taken for the long names
    mode                 "free": the model's own routes; "forced": every layer is given the
                         sample's; "both": one after the other, over weights read once
    streaming            "plain": all weights in memory; "stream": one layer at a time; "auto":
                         plain if it fits in three quarters of the free memory
    max_tokens_per_pass  a stream reads all weights once a pass; None: one pass
    attention, experts   transformers' implementations; None: its own choice, which is recorded
    batch                so many sequences in one forward, right-padded with a mask; 1: each alone,
                         unpadded
    want_logprobs        log-probabilities of the response tokens, at temperature 1
    want_inputs          the hidden states that each router sees
    gates                by layer, what gives the log-probabilities [T, E] that its router has for
                         hidden states [T, D], as torch tensors; then those of the experts of the
                         sample's own routes are kept, slot by slot
    check_tokens         so many of them of the first sample alone, to check the routers on
    sharing              processes that share the device's memory, this one too
    on_progress          called after every layer of a stream and every sample of a plain run

    Raises ValueError for words that are not known.
    """

    checkpoint: Path
    device: str = "cpu"
    dtype: str = "auto"
    mode: str = "free"
    streaming: str = "auto"
    max_tokens_per_pass: int | None = None
    attention: str | None = None
    experts: str | None = None
    batch: int = 1
    want_logprobs: bool = False
    want_inputs: bool = False
    gates: Mapping[int, Callable[[Any], Any]] | None = None
    check_tokens: int = 0
    sharing: int = 1
    on_progress: Callable[[RunProgress], None] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "dtype", SHORT_DTYPES.get(self.dtype, self.dtype))
        known = {"dtype": DTYPES, "mode": MODES, "streaming": STREAMING}
        for name, words in known.items():
            if getattr(self, name) not in words:
                raise unknown(name, getattr(self, name), words, ValueError)
        for name in ("max_tokens_per_pass", "batch"):
            size = getattr(self, name)
            if size is not None and size < 1:
                raise ValueError(f"{name} must be at least 1: {size}")


@dataclass(frozen=True, slots=True, eq=False)
class Forwarded:
    """What the routers did on the T tokens of one sample; all T go in, as a trainer feeds them.

    index        the sample's place in the input
    mode         "free" or "forced"
    ids_TLK      the experts used, by falling selection score; uint8 (up to 256 choices) or uint16.
                 Ids behind the routed experts are zero or skip experts (LongCat, Zaya)
    live_TLK     forced: the router's own top-k on this path, beside what was used; free: None
    forced_TL    forced: True where the sample's route was used; free: None
    margins_TL   float32, k-th minus (k+1)-th selection score of the router's own top-k; inf where
                 nothing is left out or a table decides
    group_margins_TL  the same between the last kept and the best dropped group; inf in a layer
                 without groups; None where no router drops groups
    ties_TL      one of them exactly 0: which of the equal experts is taken is not the model's word
    logprobs_G   float64, natural log, of the response tokens; None unless asked for
    gate_logprobs_TLK  float32, of the experts of the sample's routes, as they are there; NaN where
                 it has no route. None unless asked for, and for a sample without routes
    inputs       {layer: [T, D]} in the model's dtype as torch tensors, of the first tokens only
                 where they are to check the routers on; None unless asked for
    """

    index: int
    mode: str
    ids_TLK: Ids
    live_TLK: Ids | None
    forced_TL: Bools | None
    margins_TL: NDArray[np.float32]
    group_margins_TL: NDArray[np.float32] | None
    ties_TL: Bools
    logprobs_G: NDArray[np.float64] | None = None
    gate_logprobs_TLK: NDArray[np.float32] | None = None
    inputs: Mapping[int, Any] | None = None
