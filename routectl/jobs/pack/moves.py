"""Whose rows a replay folder's wrong files hold: another rank's, or another micro-batch's."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from .folder import Job, places

if TYPE_CHECKING:
    from ...formats.replay.folder import RankFile
    from ...ops.pack.moves import Candidate, Move, Place
    from ...ops.pack.truth import Truth

__all__ = ["WrongFile", "find_moves"]

_FILES = 64  # with something wrong that are looked at


@dataclass(frozen=True, slots=True)
class WrongFile:
    """A file with something wrong: the layer to look at, None for the middle one of the file.

    holds are its layers whose rows are another layer's, as far as that is known.
    """

    layer: int | None
    holds: "Mapping[int, int]"


def find_moves(
    job: Job, found: "Mapping[RankFile, Path]", wrong: "Mapping[RankFile, WrongFile]"
) -> "tuple[tuple[Move, ...], bool]":
    """Files that hold another place's rows, and whether that explains all that were looked at.

    found are the files that the layout has; wrong those with something wrong.
    """
    from ...formats.replay.folder import read_tensors
    from ...ops.pack.moves import moves_of, owner_of

    looked = [place for place in wrong if place in found][:_FILES]
    whose = _Places(job)
    owners = []
    for place in looked:
        tensors, one = read_tensors(found[place]).layers, wrong[place]
        labels = sorted(tensors)
        stage = whose.stage([one.holds.get(n, n) for n in labels], place.pp)
        shared = [n for n in labels if one.holds.get(n, n) in whose.layers(stage)]
        if not shared:
            continue
        asked = one.layer if stage == place.pp else None
        layer = shared[len(shared) // 2] if asked is None else asked
        ids, own = tensors[layer], (place.mb, place.dp, place.cp, place.tp)
        if ids.shape[1] != job.dump.meta.top_k:
            continue
        held = one.holds.get(layer, layer) if stage != place.pp else layer
        other = owner_of(ids, own, whose.sizes, partial(whose.candidate, held))
        if other is not None and (*other, stage) != (*own, place.pp):
            owners.append(((*own, place.pp), (*other, stage)))
    return moves_of(owners), bool(looked) and len(owners) == len(looked)


class _Places:
    """What each place of a layout should hold, one layer at a time; samples are read once."""

    def __init__(self, job: Job) -> None:
        self.job = job
        packing = job.packing
        self.sizes: dict[Place, int] = {}
        for at in places(packing, {"pp": 0}):
            share = packing.share(at.mb, at.dp, at.cp)
            self.sizes[at.mb, at.dp, at.cp, at.tp] = share.packing.num_rows(at.tp)
        self._truths: dict[tuple[int, tuple[int, ...]], Truth] = {}
        self._known: dict[tuple[Place, int], Candidate] = {}

    def layers(self, pp_rank: int) -> list[int]:
        """The MoE layers of a stage, ascending."""
        held = self.job.packing.stage_layers(pp_rank, self.job.dump.meta.layers_L)
        return sorted(layer for chunk in held for layer in chunk)

    def stage(self, layers: list[int], own: int) -> int:
        """The stage whose layers these are, its own where they are no other's."""
        stages = range(self.job.packing.pp)
        return next((pp for pp in stages if pp != own and self.layers(pp) == layers), own)

    def candidate(self, layer: int, at: "Place") -> "Candidate":
        """What a place should hold in a layer."""
        from ...ops.pack.moves import Candidate
        from ...ops.pack.truth import Truth

        if (at, layer) not in self._known:
            mb, dp, cp, tp = at
            share, dump = self.job.packing.share(mb, dp, cp), self.job.dump
            key = layer, share.samples
            if key not in self._truths:
                part = dump.select(layers=[layer]).select(samples=share.samples)
                routes = [sample.routes for sample in part]
                self._truths[key] = Truth(routes, 0, dump.meta.top_k)
            table = share.packing.local_rows(share.cp_rank, tp)
            self._known[at, layer] = Candidate(table, self._truths[key])
        return self._known[at, layer]
