"""Whether each layer of a live model took the experts that it was given, counted on its device.

Looked at is what the experts were called with, not what the hooks on routers did: the ids that a
block's ``experts`` are given (transformers 5), or, where these take none, what the router returned:
a map [T, E] (Megatron-Core 0.16.1 ``TopKRouter``, Llama 4).

Shape suffixes: L MoE layers, T tokens, K top_k, E experts.
"""

from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...errors import MismatchError
from ..probe import Probe
from ..routers import RouterAt
from ..tape import Tape
from .recomputation import in_backward

__all__ = ["Proof", "watched_experts"]


class Proof:
    """What the experts of each layer were called with, beside what was given. All in rows: a token
    in a layer. Numbers are of the whole block once it has ended; to read one waits for the device.

    given_L  rows with a route, of the forwards in the block
    seen_L   of these, rows that reached a layer's experts in a forward
    other_L  rows with other experts than were given, in a forward or computed again in a backward
    """

    def __init__(self, routers: tuple[RouterAt, ...]) -> None:
        self.layers = tuple(at.layer for at in routers)
        self.given_L: NDArray[np.int64] = np.zeros(len(routers), np.int64)
        self._counts: dict[int, torch.Tensor] = {}  # of a layer: seen, other

    def __repr__(self) -> str:
        given, seen, other = (int(part.sum()) for part in (self.given_L, self.seen_L, self.other_L))
        return (
            f"<Proof: {len(self.layers)} MoE layers, {seen:,} of {given:,} given rows seen, "
            f"{other:,} with other experts>"
        )

    @property
    def seen_L(self) -> NDArray[np.int64]:  # noqa: N802
        """Rows that had a route and reached the experts, by layer."""
        return self._counted(0)

    @property
    def other_L(self) -> NDArray[np.int64]:  # noqa: N802
        """Rows that reached the experts with other ids than their route's, by layer."""
        return self._counted(1)

    def check(self) -> None:
        """Raise MismatchError, with layers and counts, where a row was not replayed."""
        seen_L, other_L = self.seen_L, self.other_L
        wrong = [
            f"layer {layer}: " + ", ".join(said)
            for layer, given, seen, other in zip(
                self.layers, self.given_L, seen_L, other_L, strict=True
            )
            if (said := _complaints(int(given), int(seen), int(other)))
        ]
        if wrong:
            more = f"; and {len(wrong) - 3} more layers" if len(wrong) > 3 else ""
            raise MismatchError(f"not replayed: {'; '.join(wrong[:3])}{more}")

    def add(self, given_L: NDArray[np.int64], tape: Tape) -> None:
        """A forward succeeded that was given so many rows; its tape has what was seen of them."""
        self.given_L = self.given_L + given_L
        for layer, counted in tape.proven.items():
            self._add(layer, counted)

    @torch.no_grad()
    def look(self, at: RouterAt, tape: Tape, used: torch.Tensor) -> None:
        """A layer's experts are called with ids [T, K], or by a map [T, E]: counted, without
        waiting for the device. Other rows than the forward's are not seen.
        """
        forced = tape.forced.get(at.layer)
        if forced is None or len(used) != len(forced.ids_TK):
            return
        given_TK = forced.ids_TK.long()
        if used.dtype == torch.bool:
            same_T = used.gather(1, given_TK).all(dim=1) & (used.sum(dim=1) == at.top_k)
        else:
            used_TK = used.sort(dim=1).values
            same_T = (used_TK == given_TK.sort(dim=1).values).all(dim=1)
            if at.num_choices > at.num_experts:  # Zaya masks its skip to expert 0 of weight 0
                plain_TK = given_TK.masked_fill(given_TK >= at.num_experts, 0)
                same_T = same_T | (used_TK == plain_TK.sort(dim=1).values).all(dim=1)
        there_T = torch.ones_like(same_T) if forced.missing_T is None else ~forced.missing_T
        again = in_backward()
        counted = torch.stack((there_T.sum() * (not again), (there_T & ~same_T).sum()))
        if again:
            self._add(at.layer, counted)
        else:
            tape.proven[at.layer] = counted

    def _add(self, layer: int, counted: torch.Tensor) -> None:
        before = self._counts.get(layer)
        self._counts[layer] = counted if before is None else before + counted

    def _counted(self, which: int) -> NDArray[np.int64]:
        """[L], 0 for layers that were never seen."""
        counts = (self._counts.get(layer) for layer in self.layers)
        return np.array([0 if c is None else int(c[which]) for c in counts], np.int64)


def watched_experts(
    model: torch.nn.Module, routers: tuple[RouterAt, ...], probe: Probe, proof: Proof
) -> ExitStack:
    """Hooks that tell the proof what is called after each router, until they are closed."""
    hooks = ExitStack()
    for at in routers:
        for hook in _hooks(model, at, probe, proof):
            hooks.callback(hook.remove)
    return hooks


def _hooks(model: torch.nn.Module, at: RouterAt, probe: Probe, proof: Proof) -> list[Any]:
    """Hooks on the experts beside a router, and on the router for what these are not told."""
    experts = getattr(model.get_submodule(at.name.rpartition(".")[0]), "experts", None)

    def look(used: torch.Tensor | None) -> None:
        tape = probe.tape(at.layer)
        if used is not None and tape is not None:
            proof.look(at, tape, used)

    def before_experts(module: torch.nn.Module, args: Any, kwargs: Any) -> None:
        look(_ids_of((*args, *kwargs.values()), at.top_k))

    def after_router(module: torch.nn.Module, args: Any, out: Any) -> None:
        parts = out if isinstance(out, tuple | list) else (out,)
        ids_TK = _ids_of(parts, at.top_k)
        if ids_TK is None:
            look(_map_of(parts, at.num_choices))
        elif not isinstance(experts, torch.nn.Module):
            look(ids_TK)

    hooks = [at.module.register_forward_hook(after_router)]
    if isinstance(experts, torch.nn.Module):
        hooks.append(experts.register_forward_pre_hook(before_experts, with_kwargs=True))
    return hooks


def _ids_of(parts: Iterable[Any], top_k: int) -> torch.Tensor | None:
    """The first integers [..., K] of some arguments or results, as [T, K]."""
    for part in parts:
        if (
            isinstance(part, torch.Tensor)
            and part.ndim >= 2
            and part.shape[-1] == top_k
            and not part.is_floating_point()
            and part.dtype != torch.bool
        ):
            return part.reshape(-1, top_k)
    return None


def _map_of(parts: Iterable[Any], experts: int) -> torch.Tensor | None:
    """A map [T, E] of some results: the boolean one, or where the first has no 0."""
    found = [
        part.reshape(-1, experts)
        for part in parts
        if isinstance(part, torch.Tensor) and part.ndim >= 2 and part.shape[-1] == experts
    ]
    plain = [part for part in found if part.dtype == torch.bool]
    return plain[0] if plain else found[0] != 0 if found else None


def _complaints(given: int, seen: int, other: int) -> list[str]:
    """What is to be said of a layer."""
    said = []
    if other:
        said.append(f"{other:,} rows with other experts than the {given:,} given")
    if seen != given:
        said.append(
            f"{given - seen:,} of {given:,} given rows went by unseen: a fused kernel, compiled "
            "code or a replaced block goes around its router or experts"
        )
    return said
