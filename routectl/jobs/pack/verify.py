"""``routectl verify``: a replay folder's tensors checked, rank by rank."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import FormatError
from ..shards.share import share_of
from ..shards.work import Opened, Shard, cut_runs
from .folder import Job, misfit, places
from .moves import WrongFile, find_moves
from .own_samples import samples_faults
from .samples import held_if_small

if TYPE_CHECKING:
    from ...dump import Dump
    from ...formats.replay.folder import RankFile, RankTensors
    from ...layouts.packing import Packing, Share
    from ...ops.pack.declared import Declared
    from ...ops.pack.once import Landed
    from ...ops.pack.partial import VerifyPartial
    from ...ops.pack.suspects import Suspect
    from ...ops.pack.verify import Tally, Verification

__all__ = ["Folder", "VerifyWork"]

_GROUPS = 8  # with something wrong that are looked at for a layout that they match


@dataclass(frozen=True, slots=True, eq=False)
class VerifyWork:
    """The files of a folder; each process opens the dump once."""

    folder: "Opened[Folder]"
    place: tuple[int, int] = (1, 1)
    doing: str = "verifying"

    @property
    def identity(self) -> tuple[Any, ...]:
        """What says which files are verified: see ``digest_of``."""
        here = self.folder()
        files = sorted((place.path, path.stat().st_size) for place, path in here.found.items())
        return files, here.job.packing.lens, here.job.dump.meta.layers_L

    def cut(self, most: int) -> list[Shard]:
        """Groups of ranks that share samples, about as many bytes of each shard."""
        here = self.folder()
        groups, shards = here.groups(), []
        weights = [here.bytes_of(group) for group in groups]
        if self.place[1] > 1:
            parts, at = share_of(cut_runs(weights, self.place[1], 1), self.place)
            groups = groups[parts[at].start : parts[at].stop]
            weights = weights[parts[at].start : parts[at].stop]
        for run in cut_runs(weights, most):
            own = groups[run.start : run.stop]
            name = f"{here.folder}: {here.ranks[own[0][0]].path} and what follows" if own else ""
            samples = sum(len(here.share(group[0]).samples) for group in own)
            weight = sum(weights[run.start : run.stop])
            shards.append(Shard(name, weight, samples, own))
        return shards

    def partial(self, shard: Shard) -> "VerifyPartial":
        """What some groups come to."""
        return self.folder().partial(shard.of)


class Folder:
    """A folder's files beside a job: groups of ranks that share samples are checked apart."""

    def __init__(self, job: Job, folder: Path) -> None:
        from ...formats.replay.folder import list_tensors

        self.job, self.folder, self.found = job, folder, list_tensors(folder)
        self.ranks = list(places(job.packing, job.only))
        self.whole = not {"dp", "cp", "tp"} & set(job.only)

    def empty(self) -> "VerifyPartial":
        """Of no files."""
        from ...ops.pack.partial import VerifyPartial
        from ...ops.pack.verify import Tally

        meta = self.job.dump.meta
        return VerifyPartial(Tally(meta.num_experts, meta.layers_L, self.job.allow_missing))

    def groups(self) -> list[list[int]]:
        """The numbers of the ranks that share a micro-batch's samples, each number once.

        A route is in one group alone, so that it is known there whether it is on a rank once.
        """
        found: dict[tuple[int, tuple[int, ...]], list[int]] = {}
        for number, place in enumerate(self.ranks):
            found.setdefault((place.mb, tuple(self.share(number).samples)), []).append(number)
        return list(found.values())

    def share(self, number: int) -> "Share":
        """What a rank has of its micro-batch."""
        place = self.ranks[number]
        return self.job.packing.share(place.mb, place.dp, place.cp)

    def bytes_of(self, group: list[int]) -> int:
        """The size of the files of some ranks."""
        paths = [self.found[place] for n in group if (place := self.ranks[n]) in self.found]
        return sum(path.stat().st_size for path in paths)

    def partial(self, groups: "Iterable[list[int]]") -> "VerifyPartial":
        """Hold each rank's file of some groups against the dump."""
        found, job = self.empty(), self.job
        for group in groups:
            share = self.share(group[0])
            held = held_if_small(job.dump.select(samples=share.samples), share.packing)
            for number in group:
                self._check(number, held, found)
            if self.whole:
                columns = [job.dump.meta.layers_L.index(n) for n in _stage_layers(job)]
                for index, sample in zip(share.samples, held, strict=True):
                    if sample.routes is not None:
                        stop = job.packing.num_routes(index)
                        found.tally.once.owe(index, sample.routes, stop, columns)
            found.tally.once.settle()
        return found

    def _check(self, number: int, held: "Dump", found: "VerifyPartial") -> None:
        """Hold one rank's file against its samples."""
        from ...formats.replay.folder import file_digest, read_tensors
        from ...ops.pack.pack import Rank
        from ...ops.pack.verify import RankIds, check_tensors

        place, job, tally = self.ranks[number], self.job, found.tally
        path = self.found.get(place)
        if path is None:
            found.absent[number] = place.path
            return
        share, name = self.share(number), self._name(place)
        if job.digests is not None and job.digests.get(place.path) != file_digest(path):
            found.changed[number] = name
        try:
            tensors, tally.number = read_tensors(path), number
        except FormatError as error:
            found.damaged[number] = f"{name}: {str(error).removeprefix(f'{path}: ')}"
            return
        found.read += 1
        wrong, ids = misfit(job, place, tensors, name), RankIds(name, tensors.layers, tensors.mask)
        faults = _faults(job, share.packing, tensors, name, misfits=wrong is not None)
        if faults:
            found.faults[number] = faults
        if wrong is not None:
            found.misfits[number] = wrong
            if all(one.shape[1:] == (job.dump.meta.top_k,) for one in tensors.layers.values()):
                tally.add_strays(ids)
            return
        samples = zip(share.samples, (s.routes for s in held), strict=True)
        check_tensors(tally, ids, share.packing, Rank(share.cp_rank, place.tp, place.pp), samples)

    def _name(self, place: "RankFile") -> str:
        return str(self.found[place].relative_to(self.folder))

    def result(self, found: "VerifyPartial") -> "Verification":
        """What all files come to; what is wrong is looked at again, in the folder and the dump."""
        from ...ops.pack.verify import Verification

        job, tally, known = self.job, found.tally, set(places(self.job.packing, {}))
        if found.damaged and not found.read:
            raise FormatError(f"{self.folder}: {found.damaged[min(found.damaged)]}")
        misfits = {self.ranks[number] for number in found.misfits}
        damaged = {self.ranks[number] for number in found.damaged}
        sound = {place: path for place, path in self.found.items() if place not in damaged}
        files = _Files({place: self._name(place) for place in sound}, misfits)
        whose = {place: path for place, path in sound.items() if place in known}
        moves, explained = find_moves(job, whose, _wrong_files(files, tally))
        declared = self._declared()
        likely = replace(job, packing=_as_named(declared))
        judged, suspects = (None, ()) if explained else _suspects(likely, sound, files, tally)
        faults = found.faults | {n: [line] for n, line in found.damaged.items()}
        own = samples_faults(self.folder, job)
        return Verification(
            tally,
            files=found.read,
            absent_files=tuple(found.absent[n] for n in sorted(found.absent)),
            misfits=tuple(found.misfits[n] for n in sorted(found.misfits)),
            landed=self._landed(tally) if self.whole else None,
            suspects=suspects,
            ep=job.spec.ep,
            extra_files=tuple(name for place, name in files.names.items() if place not in known),
            faults=(*own, *(line for n in sorted(faults) for line in faults[n])),
            changed=tuple(found.changed[n] for n in sorted(found.changed)),
            judged=judged,
            moves=moves,
            declared=declared,
            unusable=len(found.misfits.keys() | faults.keys()) + bool(own),
            names=self._names(tally),
        )

    def _declared(self) -> "Declared":
        """The layout, and what the names of all files say of one."""
        from ...ops.pack.declared import Declared, NamedSizes

        job, most = self.job, {"dp": 0, "cp": 0, "tp": 0, "pp": 0, "mb": 0}
        for place in self.found:
            most = {axis: max(n, getattr(place, axis)) for axis, n in most.items()}
        named = NamedSizes(*(1 + n for n in most.values()))
        said = Declared(job.packing, job.digests is not None, job.assumed, named, job.given)
        return said if job.refuses is None else replace(said, refuses=job.refuses)

    def _names(self, tally: "Tally") -> dict[int, str]:
        """The ids of the samples that examples are of."""
        keys = self.job.dump.keys
        found = {row.sample: keys[row.sample].sample_id for row in tally.examples}
        return {sample: name for sample, name in found.items() if name is not None}

    def _landed(self, tally: "Tally") -> "Landed":
        """How the routes of all samples in the plan were found."""
        plan = self.job.packing.plan
        used = range(len(self.job.packing.lens)) if plan is None else plan.samples()
        return tally.once.landed(self.job.dump[index].routes for index in used)


def _as_named(said: "Declared") -> "Packing":
    """The declared layout; of one micro-batch of one data-parallel rank with the tp and cp that
    files are named by, where those are greater and it can have them.
    """
    own, named = said.packing, said.named
    if said.from_manifest or own.plan is not None or (named.dp, named.micro_batches) != (1, 1):
        return own
    try:
        return replace(own, tp=max(own.tp, named.tp), cp=max(own.cp, named.cp))
    except ValueError:
        return own


@dataclass(frozen=True, slots=True)
class _Files:
    """Files by place; names are those in the folder, misfits are of another shape."""

    names: "dict[RankFile, str]"
    misfits: "set[RankFile]"


def _faults(
    job: Job, packing: "Packing", tensors: "RankTensors", name: str, *, misfits: bool
) -> list[str]:
    """A dtype that is not the declared one, and cu_seqlens that are not the manifest's.

    Every file that a manifest is of has a mask and cu_seqlens: one without is named. Of a file
    that misfits, which has other rows, they say no more.
    """
    found = []
    if tensors.mask is None and job.digests is not None and not misfits:
        found.append(f"{name}: no mask in it, which pack writes")
    for layer, ids in tensors.layers.items():
        if job.spec.dtype is not None and ids.dtype.name != job.spec.dtype:
            found.append(f"{name}: layer {layer}: got {ids.dtype}, expected {job.spec.dtype}")
            break
    for key in ("cu_seqlens", "cu_seqlens_padded"):
        array, expected = getattr(tensors, key), getattr(packing, key)
        if job.digests is None or misfits:
            continue
        if array is None:
            found.append(f"{name}: no {key} in it, which pack writes")
        elif array.shape != expected.shape:
            found.append(f"{name}: {key}: got shape {array.shape}, expected {expected.shape}")
        elif (array != expected).any():
            at = int((array != expected).argmax())
            found.append(f"{name}: {key}[{at}]: got {array[at]}, expected {expected[at]}")
    return found


def _stage_layers(job: Job) -> list[int]:
    """The layers of the stages that the job is about."""
    asked = [job.only["pp"]] if "pp" in job.only else range(job.packing.pp)
    layers = job.dump.meta.layers_L
    return [n for pp in asked for chunk in job.packing.stage_layers(pp, layers) for n in chunk]


def _counts(tally: "Tally", name: str) -> Counter[int]:
    """The wrong rows of a file's layers."""
    return Counter({n: one.wrong for n, one in tally.wrong_at.get(name, {}).items()})


def _wrong_files(files: _Files, tally: "Tally") -> "dict[RankFile, WrongFile]":
    """Files with something wrong, and the layer with most wrong rows; None for one that misfits."""
    found: dict[RankFile, WrongFile] = {}
    for place, name in files.names.items():
        counts = _counts(tally, name)
        if place in files.misfits:
            found[place] = WrongFile(None, {})
        elif counts.total():
            layers = tally.wrong_at[name].items()
            holds = {n: held for n, one in layers if (held := one.holds) is not None}
            found[place] = WrongFile(max(counts, key=lambda n: counts[n]), holds)
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
        trouble[key] += _counts(tally, name).total()
        trouble[key] += sum(share.packing.lens) if place in files.misfits else 0
    judged = None
    for key in (key for key, wrong in trouble.most_common(_GROUPS) if wrong):
        counts = sum((_counts(tally, files.names[p]) for p in groups[key]), Counter[int]())
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
    shared = sorted(set(job.dump.meta.layers_L).intersection(*read.values()))
    most = max((wrong[layer] for layer in shared), default=0)
    layers = [layer for layer in shared if 10 * wrong[layer] >= 9 * most]
    if not layers:
        return None, ()
    layer = layers[len(layers) // 2]  # from the middle, layers are known both ways
    shares = {place: job.packing.share(place.mb, place.dp, place.cp) for place in group}
    packing, samples, _ = next(iter(shares.values()))
    tensors = [(Rank(shares[p].cp_rank, p.tp), ids[layer]) for p, ids in read.items()]
    routes = [sample.routes for sample in job.dump.select(samples=samples)]
    column = job.dump.meta.layers_L.index
    others = {column(n): [ids[n] for ids in read.values()] for n in shared if n != layer}
    suspects = find_suspects(packing, tensors, routes, column(layer), others)
    as_declared = any(
        s.rate == 1
        and packing.framework in s.frameworks
        and packing.form == s.form
        and not (s.shift or s.layer_shift or s.options)
        for s in suspects
    )
    return (None, ()) if as_declared else (layer, tuple(suspects))
