"""``routectl verify``: a replay folder's tensors checked, rank by rank."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ..progress import Progress
from .folder import Job, misfit, places
from .moves import find_moves
from .samples import held_if_small

if TYPE_CHECKING:
    from ...formats.replay.folder import RankFile, RankTensors
    from ...layouts.packing import Packing
    from ...ops.pack.once import Landed
    from ...ops.pack.suspects import Suspect
    from ...ops.pack.verify import Tally, Verification

__all__ = ["verify_folder"]

_GROUPS = 8  # with something wrong that are looked at for a layout that they match


@dataclass(slots=True)
class _Files:
    """What was found of files; names are those in the folder."""

    names: "dict[RankFile, str]"
    absent: list[str] = field(default_factory=list)
    misfits: "dict[RankFile, str]" = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    read: int = 0


def verify_folder(job: Job, folder: Path, progress: Progress) -> "Verification":
    """Check the tensors in a folder against the job's dump; what is wrong is in the result."""
    from ...formats.replay.folder import list_tensors
    from ...ops.pack.verify import Tally, Verification

    packing, meta = job.packing, job.dump.meta
    found = list_tensors(folder)
    tally = Tally(meta.num_experts, meta.layers_L, job.allow_missing)
    files = _Files({place: str(path.relative_to(folder)) for place, path in found.items()})
    _check_files(job, found, files, tally, progress)
    whose = {place: path for place, path in found.items() if place in set(places(packing, {}))}
    moves, explained = find_moves(job, whose, _wrong_files(files, tally))
    judged, suspects = (None, ()) if explained else _suspects(job, found, files, tally)
    whole = not {"dp", "cp", "tp"} & set(job.only)
    known = set(places(packing, {}))
    return Verification(
        tally,
        files=files.read,
        absent_files=tuple(files.absent),
        misfits=tuple(files.misfits.values()),
        landed=_landed(job, tally) if whole else None,
        suspects=suspects,
        ep=job.spec.ep,
        extra_files=tuple(name for place, name in files.names.items() if place not in known),
        faults=tuple(files.faults),
        changed=tuple(files.changed),
        judged=judged,
        moves=moves,
    )


def _check_files(
    job: Job, found: "dict[RankFile, Path]", files: _Files, tally: "Tally", progress: Progress
) -> None:
    """Hold each rank's file against the dump; what is wrong goes into files and tally."""
    from ...formats.replay.folder import file_digest, read_tensors
    from ...ops.pack.pack import Rank
    from ...ops.pack.verify import RankIds, check_tensors

    packing, ranks = job.packing, list(places(job.packing, job.only))
    held_for, held = None, job.dump
    with progress.counting("verifying", len(ranks), "files", lambda rate: "") as advance:
        for place in ranks:
            advance(0)
            if place not in found:
                files.absent.append(place.path)
                continue
            share, name = packing.share(place.mb, place.dp, place.cp), files.names[place]
            if held_for != share.samples:
                part = job.dump.select(samples=share.samples)
                held, held_for = held_if_small(part, share.packing), share.samples
            tensors = read_tensors(found[place])
            files.read += 1
            if job.digests is not None and job.digests.get(place.path) != file_digest(found[place]):
                files.changed.append(name)
            files.faults += _faults(job, share.packing, tensors, name)
            wrong = misfit(job, place, tensors, name)
            if wrong is not None:
                files.misfits[place] = wrong
                if all(one.shape[1:] == (job.dump.meta.top_k,) for one in tensors.layers.values()):
                    tally.add_strays(RankIds(name, tensors.layers, tensors.mask))
                continue
            samples = zip(share.samples, (s.routes for s in held), strict=True)
            ids = RankIds(name, tensors.layers, tensors.mask)
            check_tensors(
                tally, ids, share.packing, Rank(share.cp_rank, place.tp, place.pp), samples
            )


def _faults(job: Job, packing: "Packing", tensors: "RankTensors", name: str) -> list[str]:
    """A dtype that is not the declared one, and cu_seqlens that are not the manifest's."""
    found = []
    for layer, ids in tensors.layers.items():
        if job.spec.dtype is not None and ids.dtype.name != job.spec.dtype:
            found.append(f"{name}: layer {layer}: got {ids.dtype}, expected {job.spec.dtype}")
            break
    for key in ("cu_seqlens", "cu_seqlens_padded"):
        array, expected = getattr(tensors, key), getattr(packing, key)
        if array is None or job.digests is None:
            continue
        if array.shape != expected.shape:
            found.append(f"{name}: {key}: got shape {array.shape}, expected {expected.shape}")
        elif (array != expected).any():
            at = int((array != expected).argmax())
            found.append(f"{name}: {key}[{at}]: got {array[at]}, expected {expected[at]}")
    return found


def _stage_layers(job: Job) -> list[int]:
    """The layers of the stages that the job is about."""
    pipeline = job.packing.pipeline
    stages = range(1 if pipeline is None else pipeline.pp)
    asked = [job.only["pp"]] if "pp" in job.only else stages
    layers = job.dump.meta.layers_L
    return [n for pp in asked for chunk in job.packing.stage_layers(pp, layers) for n in chunk]


def _landed(job: Job, tally: "Tally") -> "Landed":
    """How the routes of all samples in the plan were found."""
    plan, layers = job.packing.plan, _stage_layers(job)
    columns = [job.dump.meta.layers_L.index(layer) for layer in layers]
    used = range(len(job.packing.lens)) if plan is None else plan.samples()
    for index in used:
        routes = job.dump[index].routes
        if routes is not None:
            tally.once.owe(index, routes, job.packing.num_routes(index), columns)
    return tally.once.landed(job.dump[index].routes for index in used)


def _wrong_files(files: _Files, tally: "Tally") -> "dict[RankFile, int | None]":
    """Files with something wrong, and the layer with most wrong rows; None for one that misfits."""
    found: dict[RankFile, int | None] = {}
    for place, name in files.names.items():
        counts = tally.wrong_at.get(name, Counter[int]())
        if place in files.misfits or counts.total():
            found[place] = None if place in files.misfits else max(counts, key=lambda n: counts[n])
    return found


def _suspects(
    job: Job, found: "dict[RankFile, Path]", files: _Files, tally: "Tally"
) -> "tuple[tuple[int, int, int] | None, tuple[Suspect, ...]]":
    """Layouts that tensors of one layer match in a micro-batch and stage where most is wrong.

    With (micro-batch, stage, layer); None where all that is there matches the declared layout.
    """
    groups: dict[tuple[int, int, tuple[int, ...]], list[RankFile]] = {}
    trouble: Counter[tuple[int, int, tuple[int, ...]]] = Counter()
    for place, name in ((p, files.names[p]) for p in places(job.packing, job.only) if p in found):
        share = job.packing.share(place.mb, place.dp, place.cp)
        key = (place.mb, place.pp, share.samples)
        groups.setdefault(key, []).append(place)
        trouble[key] += tally.wrong_at.get(name, Counter[int]()).total()
        trouble[key] += sum(share.packing.lens) if place in files.misfits else 0
    judged = None
    for key in (key for key, wrong in trouble.most_common(_GROUPS) if wrong):
        counts = sum(
            (tally.wrong_at.get(files.names[p], Counter()) for p in groups[key]), Counter[int]()
        )
        layer, suspects = _match(job, {p: found[p] for p in groups[key]}, counts)
        if layer is not None:
            judged = judged or (key[0], key[1], layer)
            if suspects:
                return (key[0], key[1], layer), suspects
    return judged, ()


def _match(
    job: Job, group: "dict[RankFile, Path]", wrong: Counter[int]
) -> "tuple[int | None, tuple[Suspect, ...]]":
    """Layouts that one micro-batch's tensors match in one of the layers with most wrong rows.

    The layer is None where there is none, or all of it is as declared.
    """
    from ...formats.replay.folder import read_tensors
    from ...ops.pack.pack import Rank
    from ...ops.pack.suspects import find_suspects

    read = {place: read_tensors(path).layers for place, path in group.items()}
    layers = sorted(set(job.dump.meta.layers_L).intersection(*read.values()))
    most = max((wrong[layer] for layer in layers), default=0)
    layers = [layer for layer in layers if 10 * wrong[layer] >= 9 * most]
    if not layers:
        return None, ()
    layer = layers[len(layers) // 2]  # from the middle, layers are known both ways
    shares = {place: job.packing.share(place.mb, place.dp, place.cp) for place in group}
    packing, samples, _ = next(iter(shares.values()))
    tensors = [(Rank(shares[p].cp_rank, p.tp), ids[layer]) for p, ids in read.items()]
    routes = [sample.routes for sample in job.dump.select(samples=samples)]
    suspects = find_suspects(packing, tensors, routes, job.dump.meta.layers_L.index(layer))
    as_declared = any(
        s.rate == 1
        and packing.framework in s.frameworks
        and packing.form == s.form
        and not (s.shift or s.layer_shift or s.options)
        for s in suspects
    )
    return (None, ()) if as_declared else (layer, tuple(suspects))
