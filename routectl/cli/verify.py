"""``routectl pack --verify``: a replay folder's tensors checked, rank by rank."""

from pathlib import Path
from typing import TYPE_CHECKING

from .replay import Job, misfit, places

if TYPE_CHECKING:
    from ..formats.replay import RankFile
    from ..ops.suspects import Suspect
    from ..ops.verify import Landed, Tally, Verification

__all__ = ["verify_folder"]


def verify_folder(job: Job, folder: Path) -> "Verification":
    """Check the tensors in a folder against the job's dump; what is wrong is in the result."""
    from ..formats.replay import list_tensors, read_tensors
    from ..ops.pack import Rank
    from ..ops.verify import RankIds, Tally, Verification, check_tensors

    packing, meta = job.packing, job.dump.meta
    found = list_tensors(folder)
    tally = Tally(meta.num_experts, meta.layers_L)
    absent, misfits, held_for, held = [], [], None, job.dump
    for place in places(packing, job.only):
        if place not in found:
            absent.append(place.path)
            continue
        share = packing.share(place.mb, place.dp, place.cp)
        if held_for != share.samples:
            held, held_for = job.dump.subset(share.samples).held(), share.samples
        tensors = read_tensors(found[place])
        rank = Rank(share.cp_rank, place.tp, place.pp)
        wrong = misfit(job, place, tensors)
        if wrong is not None:
            misfits.append(wrong)
            continue
        samples = list(zip(share.samples, (s.routes for s in held), strict=True))
        ids = RankIds(place.path, tensors.layers, tensors.mask)
        check_tensors(tally, ids, share.packing, rank, samples)
    whole = not {"dp", "cp", "tp"} & set(job.only)
    return Verification(
        tally,
        files=len(found),
        absent_files=tuple(absent),
        misfits=tuple(misfits),
        landed=_landed(job, tally) if whole else None,
        suspects=_suspects(job, found) if tally.wrong or misfits else (),
        ep=job.spec.ep,
    )


def _stage_layers(job: Job) -> list[int]:
    """The layers of the stages that the job is about."""
    pipeline = job.packing.pipeline
    stages = range(1 if pipeline is None else pipeline.pp)
    asked = [job.only["pp"]] if "pp" in job.only else stages
    layers = job.dump.meta.layers_L
    return [n for pp in asked for chunk in job.packing.stage_layers(pp, layers) for n in chunk]


def _landed(job: Job, tally: "Tally") -> "Landed":
    """How the routes of all samples in the plan were found."""
    from ..ops.verify import Landed

    plan, layers = job.packing.plan, _stage_layers(job)
    columns = [job.dump.meta.layers_L.index(layer) for layer in layers]
    total = Landed(0, 0, 0)
    for index in range(len(job.packing.lens)) if plan is None else plan.samples():
        routes = job.dump[index].routes
        if routes is not None:
            total += tally.landed(index, routes, job.packing.num_routes(index), columns)
    return total


def _suspects(job: Job, found: "dict[RankFile, Path]") -> "tuple[Suspect, ...]":
    """Layouts that one micro-batch's tensors of one layer match."""
    from ..formats.replay import read_tensors
    from ..ops.pack import Rank
    from ..ops.suspects import find_suspects

    first = next(place for place in places(job.packing, job.only) if place in found)
    share = job.packing.share(first.mb, first.dp, first.cp)
    group = [
        place
        for place in places(job.packing, {**job.only, "pp": first.pp})
        if place.mb == first.mb and place in found
        and job.packing.share(place.mb, place.dp, place.cp).samples == share.samples
    ]  # fmt: skip
    read = {place: read_tensors(found[place]).layers for place in group}
    layers = sorted(set(job.dump.meta.layers_L).intersection(*read.values()))
    if not layers:
        return ()
    layer = layers[len(layers) // 2]
    tensors = [
        (Rank(job.packing.share(p.mb, p.dp, p.cp).cp_rank, p.tp), ids[layer])
        for p, ids in read.items()
    ]
    routes = [sample.routes for sample in job.dump.subset(share.samples)]
    column = job.dump.meta.layers_L.index(layer)
    return tuple(find_suspects(share.packing, tensors, routes, column))
