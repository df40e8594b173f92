"""Router traces of Megatron-Core as dumps: a sample a micro-batch, or a sequence, with margins.

What stands in a trace: checkpoints/router_trace.py. Shape suffixes: T rows, L MoE layers, K top_k,
E experts, D hidden size.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from ...checkpoints.router_trace import RouterTrace, TraceBatch, read_trace
from ...checkpoints.trace_state import TracedRouter, traced_routers
from ...dump import Dump, Sample
from ...errors import FormatError, MismatchError, UnsupportedError
from ...files.reading import open_regular
from ...margins import margins_to_float16
from ...model import ModelFacts
from ..documents.facts import (
    ITSELF,
    MODEL_HINT,
    Context,
    Model,
    UnknownModelError,
    find_context,
)
from ..wire.sample import WireSample, to_sample
from .layer_lists import cut_rows, sequence_of

__all__ = ["open_router_trace"]

_STEP = 2.0**-8  # bfloat16: from a number to the next one, relative
Floats = NDArray[np.float32]


class _Rows(msgspec.Struct):
    """The rows of a record."""

    top_indices: list[list[int]]


@dataclass(frozen=True, slots=True)
class _Part:
    """The rows of one sequence: whose they are, and where in which micro-batch."""

    batch: TraceBatch
    rows: slice
    wire: WireSample


def open_router_trace(
    path: Path, model: Model, start: int | None, tokens: Dump | Sequence[Sample] | None
) -> Dump:
    """The trace of one rank as a dump; ``tokens`` are the samples that were run, in order.

    Layers and K are the trace's, E that of its logits or router state, else the model's. Without
    tokens each micro-batch is a sample. Where logits, or hidden states, and router states are
    there, rows have margins. Raises FormatError on damage, MismatchError where tokens or the model
    do not fit, UnsupportedError where layers cannot be placed.
    """
    known = _known(path, model)
    trace = read_trace(path, None if known is None else known.layers)
    routers = {n: r for n, r in traced_routers(path).items() if n in trace.layers}
    routers = routers if len(routers) == len(trace.layers) else {}
    context = _context(trace, routers, known)
    scored = bool(routers) and (trace.has_inputs or trace.num_experts is not None)
    parts = _parts(trace, tokens)
    meta = replace(
        context.meta(path, "trace", engine="megatron", wire_dtype="json"),
        skipped=trace.skipped,
        margins=scored,
    )

    def load(index: int) -> Sample:
        part = parts[index]
        ids_TLK = _ids(trace, part)
        sample = to_sample(replace(part.wire, payload=ids_TLK), context.facts, start)
        return _with_margins(sample, trace, part, routers) if scored else sample

    return Dump(meta, [part.wire.key for part in parts], load)


def _known(path: Path, model: Model) -> ModelFacts | None:
    """The model's facts, where anything but the trace tells them."""
    try:
        return find_context(path, model).facts
    except UnknownModelError:
        return None


def _context(
    trace: RouterTrace, routers: Mapping[int, TracedRouter], known: ModelFacts | None
) -> Context:
    """The model's facts with the layers of the trace; what it says itself comes first."""
    columns = {router.weight.shape[0] for router in routers.values()}
    columns |= set() if trace.num_experts is None else {trace.num_experts}
    if len(columns) > 1:
        raise FormatError(f"{trace.path}: logits and router states of {sorted(columns)} experts")
    experts = columns.pop() if columns else None if known is None else known.num_experts
    if experts is None:
        raise UnknownModelError(
            f"{trace.path}: a router trace without logits or router state does not say E",
            hint=MODEL_HINT,
        )
    if known is not None:
        if (known.num_experts, known.top_k) != (experts, trace.top_k):
            raise MismatchError(
                f"{trace.path}: top-{trace.top_k} of {experts} experts, the model "
                f"{known.source} has top-{known.top_k} of {known.num_experts}"
            )
        _check_layers(trace, known)
    facts = ModelFacts(
        known.num_layers if known else trace.layers[-1] + 1,
        trace.layers,
        experts,
        trace.top_k,
        known.model_type if known else None,
        source=known.source if known else ITSELF,
    )
    return Context(facts, {})


def _check_layers(trace: RouterTrace, known: ModelFacts) -> None:
    """Refuse layers that are not the model's, and those that a stage's modules may have."""
    strays = sorted(set(trace.layers) - set(known.layers))
    if strays:
        raise MismatchError(
            f"{trace.path}: routes of layers {strays}, which are not MoE in {known.source}"
        )
    if trace.hooked and trace.layers != known.layers:
        raise UnsupportedError(
            f"{trace.path}: {len(trace.layers)} of the model's {len(known.layers)} MoE layers: a "
            "pipeline stage numbers its own from 0, and the trace does not say which stage it is"
        )


def _parts(trace: RouterTrace, tokens: Dump | Sequence[Sample] | None) -> list[_Part]:
    """The sequences of a trace: those of ``tokens``, else its micro-batches."""
    if tokens is None:
        found = []
        for batch in trace.batches:
            name = f"rank{trace.rank}/{batch.step}/{batch.number}"
            where = f"{trace.path}: step {batch.step}, micro-batch {batch.number}"
            wire = WireSample(where, start=0, sample_id=name, any_rows=True)
            found.append(_Part(batch, slice(0, batch.tokens), wire))
        return found
    lengths = [batch.tokens for batch in trace.batches]
    return [
        _Part(trace.batches[m], rows, sequence_of(f"{trace.path}: sample {i}", None, i, sample))
        for i, (m, rows, sample) in enumerate(cut_rows(lengths, tokens, trace.path))
    ]


def _ids(trace: RouterTrace, part: _Part) -> NDArray[np.int64]:
    """[T, L, K], the last token's row left out where the tokens are known."""
    decoder, layers = msgspec.json.Decoder(_Rows), []
    with open_regular(trace.path) as stream:
        for layer in trace.layers:
            record = part.batch.records[layer]
            stream.seek(record.offset)
            try:
                rows = decoder.decode(stream.read(record.size)).top_indices
                layers.append(np.array(rows, np.int64).reshape(record.tokens, trace.top_k))
            except (ValueError, OverflowError):
                raise FormatError(f"{part.wire.where}: layer {layer}: changed on disk") from None
    last = part.rows.stop - (part.wire.prompt_ids is not None)
    return np.stack(layers, axis=1)[part.rows.start : last]


def _with_margins(
    sample: Sample, trace: RouterTrace, part: _Part, routers: Mapping[int, TracedRouter]
) -> Sample:
    """The sample with the margin of each row, by scores of its own logits."""
    routes = sample.routes
    if routes is None or not routes.num_tokens:
        return sample
    rows = slice(part.rows.start, part.rows.start + routes.num_tokens)
    columns = []
    for i, layer in enumerate(trace.layers):
        weight_ED, bias_E = routers[layer].arrays()
        ids_TK = routes.ids_TLK[:, i].astype(np.int64)
        with np.errstate(over="ignore", invalid="ignore"):  # what is not finite has no margin
            logits_TE = _logits(trace, part.batch, layer, weight_ED)[rows]
            columns.append(_margins(logits_TE, ids_TK, routers[layer].score, bias_E))
    margin_TL = margins_to_float16(np.stack(columns, axis=1))
    if routes.missing_TL is not None:
        margin_TL[routes.missing_TL] = np.nan
    return replace(sample, routes=replace(routes, margin_TL=margin_TL))


def _logits(trace: RouterTrace, batch: TraceBatch, layer: int, weight_ED: Floats) -> Floats:
    """float32 [T, E]: hidden states times the weight, or the logits where no inputs are there."""
    record = batch.records[layer]
    if trace.has_inputs and record.hidden is not None:
        hidden_TD = _bfloat16(trace.sidecar("hidden_states"), record.hidden, record.tokens)
        if hidden_TD.shape[1] != weight_ED.shape[1]:
            raise FormatError(
                f"{trace.path}: layer {layer}: inputs of {hidden_TD.shape[1]} columns"
            )
        product: Floats = hidden_TD @ weight_ED.T
        return product
    if record.logits is None or record.logits[1] != len(weight_ED):
        raise FormatError(f"{trace.path}: step {batch.step}: layer {layer}: no logits")
    return _bfloat16(trace.sidecar("logits"), record.logits, record.tokens)


def _bfloat16(file: Path, place: tuple[int, int], tokens: int) -> Floats:
    """A tensor of a sidecar as float32: bfloat16 is its upper half."""
    begin, width = place
    with open_regular(file) as stream:
        stream.seek(begin)
        data = stream.read(2 * tokens * width)
    if len(data) != 2 * tokens * width:
        raise FormatError(f"{file}: cut short: byte {begin + len(data)}")
    upper = np.frombuffer(data, "<u2").astype(np.uint32) << 16
    return upper.view(np.float32).reshape(tokens, width)


def _margins(
    logits_TE: Floats, ids_TK: NDArray[np.int64], score: str, bias_E: Floats | None
) -> Floats:
    """The least score of the experts that were selected, less the best of the others: float32 [T].

    Scores as Megatron selects on them: logits under softmax, which come before the softmax or order
    alike (of a softmax over all the margin is smaller), else the score function and the expert
    bias. What is below 0 by no more than bfloat16's rounding is 0; beyond, other things selected
    (groups, replayed routes), and the margin is NaN. inf where K is E.
    """
    slack_TE = _STEP * np.abs(logits_TE)
    scores_TE: Any = logits_TE
    if score == "sigmoid":
        scores_TE = 1 / (1 + np.exp(-logits_TE))
    elif score == "sqrtsoftplus":
        scores_TE = np.sqrt(np.logaddexp(0, logits_TE))
    scores_TE = (scores_TE if bias_E is None else scores_TE + bias_E).astype(np.float32)
    taken_TE = np.zeros(scores_TE.shape, bool)
    np.put_along_axis(taken_TE, ids_TK, True, axis=1)
    low_T = np.where(taken_TE, scores_TE, np.inf).min(axis=1)
    high_T = np.where(taken_TE, -np.inf, scores_TE).max(axis=1)
    margin_T: Any = low_T - high_T
    slack_T: Any = 2 * slack_TE.max(axis=1)
    margin_T = np.where((margin_T < 0) & (margin_T >= -slack_T), 0, margin_T)
    found: Floats = np.where(margin_T < 0, np.nan, margin_T).astype(np.float32)
    return found
