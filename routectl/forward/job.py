"""One forward of one sample: what goes in, and the Forwarded that comes out.

Shape suffixes: T tokens, L MoE layers, K top_k, G response tokens.
"""

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..dump import Sample
from ..errors import MismatchError
from ..routes import Routes, ids_dtype
from .options import Forwarded, RunOptions
from .routers import RouterAt
from .tape import Asked, Forced, LayerRows, Tape

__all__ = ["ForwardJob", "make_jobs"]

_NOT_NUMBERS = "weights are NaN or infinite, or the forward overflows: --dtype fp32 tells"


@dataclass(frozen=True, slots=True, eq=False)
class ForwardJob:
    """One forward: T tokens, the tape that it writes, and where the response begins."""

    name: str
    index: int
    mode: str
    tokens_T: torch.Tensor
    prompt_length: int
    tape: Tape

    def finish(self, routers: tuple[RouterAt, ...], logprobs_G: Any) -> Forwarded:
        """The result, with layers in the order of the routers; the tape is emptied.

        Raises MismatchError where a router's scores are NaN, since what it takes then means
        nothing, or log-probs are.
        """
        self.tape.to_host()
        rows = [self.tape.rows.pop(at.layer) for at in routers]
        margins_TL = _stacked(row.margin_T for row in rows)
        if np.isnan(margins_TL).any():
            raise self._not_numbers(routers, np.isnan(margins_TL))
        first = int(not self.prompt_length)  # a token that none is before has no log-prob
        if logprobs_G is not None and np.isnan(logprobs_G[first:]).any():
            raise MismatchError(f"{self.name}: its log-probs are NaN", hint=_NOT_NUMBERS)
        dtype = ids_dtype(max(at.num_choices for at in routers))
        live_TLK = forced_TL = None
        if self.mode == "forced":
            live = [row.ids_TK if row.live_TK is None else row.live_TK for row in rows]
            live_TLK = torch.stack(live, dim=1).numpy().astype(dtype)
            forced_TL = np.stack([self._was_forced(at) for at in routers], axis=1)
        inputs = {at.layer: row.inputs_TD for at, row in zip(routers, rows, strict=True)}
        return Forwarded(
            index=self.index,
            mode=self.mode,
            ids_TLK=torch.stack([row.ids_TK for row in rows], dim=1).numpy().astype(dtype),
            live_TLK=live_TLK,
            forced_TL=forced_TL,
            margins_TL=margins_TL,
            group_margins_TL=_group_margins(rows),
            ties_TL=_stacked(row.tie_T for row in rows),
            logprobs_G=logprobs_G,
            gate_logprobs_TLK=_gate_logprobs(rows) if self.tape.asked else None,
            inputs=inputs if self.tape.input_rows else None,
        )

    def _not_numbers(self, routers: tuple[RouterAt, ...], nan_TL: Any) -> MismatchError:
        """What is said of scores that are NaN, at the first layer that has some."""
        column = int(nan_TL.any(axis=0).argmax())
        rows, first = int(nan_TL[:, column].sum()), int(nan_TL[:, column].argmax())
        layer, tokens = routers[column].layer, len(nan_TL)
        return MismatchError(
            f"{self.name}: layer {layer}: the router's scores are NaN for {rows} of {tokens} "
            f"tokens, from position {first} on: its routes mean nothing",
            hint=_NOT_NUMBERS,
        )

    def _was_forced(self, at: RouterAt) -> Any:
        """bool [T], where a layer's rows were given."""
        forced = self.tape.forced.get(at.layer)
        if forced is None or at.selection == "table":
            return np.zeros(len(self.tokens_T), np.bool_)
        assert forced.missing_T is not None
        return ~forced.missing_T.cpu().numpy()


def _stacked(parts_T: Iterable[torch.Tensor | None]) -> Any:
    """[T, L] of one [T] a layer, each of which is there."""
    return torch.stack([part for part in parts_T if part is not None], dim=1).numpy()


def _group_margins(rows: Sequence[LayerRows]) -> Any:
    """[T, L] of all layers, infinity where a layer drops no groups; None where none does."""
    parts = [row.group_margin_T for row in rows]
    if all(part is None for part in parts):
        return None
    never_T = torch.full(rows[0].ids_TK.shape[:1], torch.inf)
    return _stacked(never_T if part is None else part for part in parts)


def _gate_logprobs(rows: Sequence[LayerRows]) -> Any:
    """float32 [T, L, K] of all layers, NaN in one that was not asked."""
    unknown_TK = torch.full(rows[0].ids_TK.shape, torch.nan)
    parts = [unknown_TK if row.gate_TK is None else row.gate_TK for row in rows]
    return torch.stack(parts, dim=1).numpy()


def make_jobs(
    sample: Sample, index: int, routers: tuple[RouterAt, ...], options: RunOptions, vocab: int
) -> Iterator[ForwardJob]:
    """The forwards that a sample needs: one, or two in mode "both".

    Raises MismatchError where the sample has no token ids, a token that the model does not know,
    or, forced, no routes, routes of another model, or none for one of its layers. Rows may be
    missing, and layers whose ids a table gives. What gates are asked about may be missing too.
    """
    name = sample.sample_id or f"sample {index}"
    tokens = sample.token_ids
    if tokens is None or not len(tokens):
        raise MismatchError(f"{name}: it has no token ids to run")
    if int(tokens.min()) < 0:
        raise MismatchError(f"{name}: {int((tokens < 0).sum())} positions have no token id: media")
    if int(tokens.max()) >= vocab:
        raise MismatchError(f"{name}: token {int(tokens.max())}: expected ids below {vocab}")
    tokens_T = torch.from_numpy(tokens.astype(np.int64)).to(options.device)
    assert sample.prompt_ids is not None
    forces = options.mode != "free"
    given: dict[int, Forced] = {}
    if sample.routes is not None and (forces or options.gates is not None):
        given = _given(sample.routes, name, routers, tokens_T)
    if forces:
        _check_forced(sample, name, routers)
    asked = {}
    if options.gates is not None:
        if lacking := sorted(set(given) - set(options.gates)):
            raise MismatchError(f"{name}: {_layers(lacking)}: routes, but no gate to ask of them")
        asked = {layer: Asked(options.gates[layer], rows) for layer, rows in given.items()}
    for mode in ("free", "forced") if options.mode == "both" else (options.mode,):
        checked = options.check_tokens if index == 0 else 0
        tape = Tape(
            given if mode == "forced" else {},
            sys.maxsize if options.want_inputs else checked,
            asked=asked,
        )
        yield ForwardJob(name, index, mode, tokens_T, len(sample.prompt_ids), tape)


def _check_forced(sample: Sample, name: str, routers: tuple[RouterAt, ...]) -> None:
    """Raise MismatchError where there is nothing to force, or not in every layer that selects."""
    if sample.routes is None:
        raise MismatchError(f"{name}: it has no routes to force")
    chosen = {at.layer for at in routers if at.selection != "table"}
    if lacking := sorted(chosen - set(sample.routes.layers_L)):
        raise MismatchError(
            f"{name}: no routes to force in {_layers(lacking)}: got {len(sample.routes.layers_L)} "
            f"MoE layers, expected {len(chosen)}: a layer left free moves what the next ones see",
            hint="--mode free needs no routes",
        )


def _given(
    routes: Routes, name: str, routers: tuple[RouterAt, ...], tokens_T: torch.Tensor
) -> dict[int, Forced]:
    """A sample's routes by layer, with the rows that it does not have as missing."""
    by_layer = {at.layer: at for at in routers}
    if extra := set(routes.layers_L) - set(by_layer):
        raise MismatchError(f"{name}: layer {min(extra)} has routes, but no router in the model")
    if routes.stop > len(tokens_T):
        raise MismatchError(f"{name}: {routes.stop} rows for {len(tokens_T)} tokens")
    given = {}
    for column, layer in enumerate(routes.layers_L):
        at = by_layer[layer]
        sizes = (at.num_experts, at.num_choices)
        if routes.top_k != at.top_k or routes.num_experts not in sizes:
            got, wanted = (f"top-{x.top_k} of {x.num_experts}" for x in (routes, at))
            raise MismatchError(
                f"{name}: layer {layer}: wrong routes: got {got}, expected {wanted}"
            )
        ids_TK = np.zeros((len(tokens_T), routes.top_k), np.int64)
        missing_T = np.ones(len(tokens_T), np.bool_)
        ids_TK[routes.start : routes.stop] = routes.ids_TLK[:, column]
        held = slice(routes.start, routes.stop)
        missing_T[held] = False if routes.missing_TL is None else routes.missing_TL[:, column]
        parts = (torch.from_numpy(part).to(tokens_T.device) for part in (ids_TK, missing_T))
        given[layer] = Forced(*parts)
    return given


def _layers(layers: list[int]) -> str:
    """Layers in words; of many, the first few."""
    shown = ", ".join(map(str, layers[:5]))
    return f"layer{'s' * (len(layers) > 1)} {shown}{' ...' if len(layers) > 5 else ''}"
