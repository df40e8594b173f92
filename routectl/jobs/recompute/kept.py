"""One side of a comparison as a checkpoint: its routes for the other side's tokens, run and kept.

``diff``, ``check`` and ``staleness`` come here with a path that names weights, and a dump.
"""

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import FormatError, MismatchError, RoutectlError, UnsupportedError
from ...files.private import close_to_others
from ...reports.text.wording import bytes_text, plural
from ..progress import SILENT, Progress
from .cache import Cache
from .crew import DeviceCrew, crew_of
from .estimate import estimating
from .forwarding import Forwarding, run_options
from .partner import Partner
from .parts import Parts, open_parts, parts_folder
from .run import Saving, write_recompute
from .samples import job_of
from .share import DeviceWork
from .weights import identity_of

if TYPE_CHECKING:
    from ...dump import Dump
    from ...forward import Prepared

__all__ = ["CheckpointSide", "prepare_side", "recomputed_side"]

_LAYOUT = 2  # of what is kept and how it is named
# what a job says that a recompute is not made of
_OF_PLACES = ("checkpoint", "dump", "dump_bytes", "mode", "tokens")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointSide:
    """A checkpoint opened by its headers, what it is run on, and where that is kept.

    told is what messages call it; names are those of the entries of the cache, by mode.
    """

    told: str
    work: DeviceWork
    crew: DeviceCrew
    prepared: "Prepared"
    partner: Partner
    names: Mapping[str, str]
    cache: Cache = dataclasses.field(default_factory=Cache)

    def opener(self, mode: str) -> "Callable[[], Dump]":
        """What opens its routes in another process of this machine, once they are kept."""
        return partial(_opened, self.cache.path(self.names[mode]), self.work.options.checkpoint)

    def kept(self) -> "dict[str, Dump]":
        """The routes by mode that were made before; no run lets go of them while they are held."""
        note = self.crew.progress.note
        found = {mode: self.cache.open(name, note) for mode, name in self.names.items()}
        return {
            mode: _named(dump, self.work.options.checkpoint)
            for mode, dump in found.items()
            if dump is not None
        }

    def routes(self) -> "dict[str, Dump]":
        """The routes by mode; what is not kept is run, going on where a run was ended."""
        self.cache.prepare()
        found = self.kept()
        absent = {mode: name for mode, name in self.names.items() if mode not in found}
        if absent:
            with self.cache.making(tuple(absent.values()), self.crew.progress.note):
                found |= self.kept()  # by another run, which was waited for
                absent = {mode: name for mode, name in absent.items() if mode not in found}
                if absent:
                    self._run(absent)
                    found |= self.kept()
            self.cache.shrink(self.crew.progress.note)
        return {mode: found[mode] for mode in self.names}

    def _run(self, absent: Mapping[str, str]) -> None:
        """Make entries of the cache, by mode."""
        for mode, name in absent.items():
            self.cache.begin(name, {**self._about(), "mode": mode})
        targets = {mode: self.cache.path(name) for mode, name in absent.items()}
        # the forced file's name holds the routes too, so that parts of others are never met
        output = targets.get("forced") or targets["free"]
        mode = "both" if len(absent) > 1 else next(iter(absent))
        own = dataclasses.replace(self.work.given((), mode=mode), output=output)
        self._announce(tuple(absent))
        self._drop_foreign_parts(own, tuple(absent))
        crew = dataclasses.replace(self.crew, progress=estimating(self.crew.progress))
        saving = Saving(targets=targets, inputs=None, resume=True, force=True)
        try:
            write_recompute(own, crew, saving)
            for target in targets.values():
                close_to_others(target)
        except KeyboardInterrupt:
            done = sum(map(len, Parts(parts_folder(output), tuple(absent)).done()))
            of = plural(len(self.partner.dump), "sample")
            self.crew.progress.note(
                f"{self.told}: {done} of {of} are kept: the same command goes on from there"
            )
            raise

    def _about(self) -> dict[str, Any]:
        """What an entry says that it is of."""
        return {
            "checkpoint": str(self.work.options.checkpoint.resolve()),
            "dump": self.partner.dump.meta.path,
            "samples": len(self.partner.dump),
            "tokens": self.partner.tokens,
            "made": time.time(),
        }

    def _announce(self, modes: tuple[str, ...]) -> None:
        of = self.partner
        size = bytes_text(self.prepared.store.total_bytes())
        layers = plural(len(self.prepared.layers), "MoE layer")
        twice = " twice, free and forced" if len(modes) > 1 else ""
        self.crew.progress.note(
            f"{self.told}: pushing {of.tokens:,} tokens of {plural(len(of.dump), 'sample')}"
            f"{twice} through {size} of weights, {layers}; kept in {self.cache.folder}"
        )

    def _drop_foreign_parts(self, work: DeviceWork, modes: tuple[str, ...]) -> None:
        """Let go of the parts of a killed run that was not this one: of other paths, say."""
        folder = parts_folder(work.output)
        if not folder.exists():
            return
        try:
            open_parts(work.output, job_of(work.prepare(), self.partner.dump), modes, resume=True)
        except (FormatError, MismatchError) as error:
            self.crew.progress.note(f"starting anew: {error}")
            Parts(folder, modes).drop()


def _opened(path: Path, checkpoint: Path) -> "Dump":
    from ...formats.native.container import open_native

    return _named(open_native(path), checkpoint)


def _named(dump: "Dump", checkpoint: Path) -> "Dump":
    """What is kept, by the name of the weights."""
    dump.meta = dataclasses.replace(dump.meta, path=str(checkpoint))
    return dump


def prepare_side(
    checkpoint: Path,
    partner: Partner,
    how: Forwarding,
    progress: Progress,
    *,
    told: str,
    some_layers: bool = True,
) -> CheckpointSide:
    """A checkpoint made ready to be run on a dump's tokens; no weight is read.

    ``some_layers`` tells that it may have other layers than the dump. Raises MismatchError for a
    checkpoint of another shape or a dump without tokens, UnsupportedError for what is not run.
    """
    crew = crew_of(how.device, how.threads, progress)
    if crew.ranks is not None and crew.size > 1:
        raise UnsupportedError(
            "this is run by one process, not by torchrun", hint="--forward device=cuda"
        )
    if partner.opener is None:
        crew = DeviceCrew(crew.devices[:1], None, progress)
    source = partner.dump
    if not source.keys:
        raise MismatchError(f"{told}: {source.meta.path} has no token ids to run")
    if partner.left_out:
        left = plural(partner.left_out, "sample")
        progress.note(f"{left} without token ids: not run, and not compared")
    work, prepared = _prepared(checkpoint, partner, how, crew, told)
    _refuse_other_shape(told, prepared, source, some_layers=some_layers)
    made_of = {**_made_of(prepared, source), "weights": identity_of(checkpoint)}
    names = _names(made_of, source, how.modes)
    return CheckpointSide(
        told=told, work=work, crew=crew, prepared=prepared, partner=partner, names=names
    )


def recomputed_side(
    checkpoint: Path,
    partner: Partner,
    how: Forwarding | None = None,
    progress: Progress = SILENT,
    *,
    told: str | None = None,
) -> "tuple[Dump, Callable[[], Dump]]":
    """What a checkpoint's routers select for a dump's tokens, with margins, as a dump of its path;
    and what opens it in another process of this machine.

    Run once and kept in the user's cache. Samples that have no tokens, or cannot be read at all,
    are not run, with a note; log-probs are there where the dump has some. Raises RoutectlError as
    ``prepare_side`` does, and for mode "both".
    """
    how = Forwarding() if how is None else how
    if len(how.modes) > 1:
        raise RoutectlError("--forward mode=both: one side is of one mode: expected free or forced")
    without = dataclasses.replace(how, gate_logprobs=how.gate_logprobs is True)
    side = prepare_side(checkpoint, partner, without, progress, told=told or str(checkpoint))
    return side.routes()[how.mode], side.opener(how.mode)


def _prepared(
    checkpoint: Path, partner: Partner, how: Forwarding, crew: DeviceCrew, told: str
) -> "tuple[DeviceWork, Prepared]":
    """The checkpoint opened by its headers, without what nobody asked for and it cannot give."""
    opener: Callable[[], Dump] = (
        partner.opener if crew.size > 1 and partner.opener else (lambda: partner.dump)
    )
    wanted = {
        "no router shift": how.gate_logprobs is not False,
        "no log-probs": partner.scored if how.logprobs is None else how.logprobs,
    }
    free = {"no router shift": how.gate_logprobs is None, "no log-probs": how.logprobs is None}
    lost: list[str] = []
    while True:
        options = run_options(
            checkpoint, how, crew, mode=how.modes[0], want_logprobs=wanted["no log-probs"]
        )
        work = DeviceWork(
            options=options,
            open_source=opener,
            indices=(),
            output=checkpoint,  # until it is known what is absent
            gates=wanted["no router shift"],
        )
        try:
            prepared = work.prepare()
        except UnsupportedError as error:
            let_go = next((what for what, on in wanted.items() if on and free[what]), None)
            if let_go is None:
                raise
            wanted[let_go] = False
            lost.append(f"{told}: {let_go}: {error}")
            continue
        for said in lost:  # where nothing can be run, the error alone says why
            crew.progress.note(said)
        return work, prepared


def _refuse_other_shape(
    told: str, prepared: "Prepared", source: "Dump", *, some_layers: bool
) -> None:
    """Raise MismatchError before weights are run whose routes are not of the dump's shape."""
    first, meta = prepared.routers[0], source.meta
    for name, got, expected in (
        ("num_experts", first.num_choices, meta.num_experts),
        ("top_k", first.top_k, meta.top_k),
        ("layers", prepared.layers, meta.layers_L),
    ):
        if got != expected and not (some_layers and name == "layers"):
            raise MismatchError(
                f"{told} is of another shape than {meta.path}: {name}: "
                f"got {got}, expected {expected}",
                hint="--layers compares some of the layers" if name == "layers" else None,
            )


def _made_of(prepared: "Prepared", source: "Dump") -> dict[str, Any]:
    """What a recompute's content depends on, weights and routes aside."""
    job = {k: v for k, v in job_of(prepared, source).items() if k not in _OF_PLACES}
    tokens = hashlib.sha256()
    for key in source.keys:
        for part in ((key.sample_id or "").encode(), key.tokens or b"", key.prompt or b""):
            tokens.update(len(part).to_bytes(8, "little") + part)
    return {**job, "tokens": tokens.hexdigest(), "layout": _LAYOUT}


def _names(made_of: Mapping[str, Any], source: "Dump", modes: tuple[str, ...]) -> dict[str, str]:
    """The entry of each mode; forced ones, and gates, depend on the dump's routes too."""
    found = {}
    for mode in modes:
        about = dict(made_of)
        if mode == "forced" or made_of["gate_logprobs"]:
            about["routes"] = _routes_digest(source)
        digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:32]
        found[mode] = digest if mode == "free" else f"{digest}.{mode}"
    return found


def _routes_digest(source: "Dump") -> str:
    """The digest of every route of a dump."""
    found = hashlib.sha256()
    for sample in source:
        routes = sample.routes
        if routes is None:
            found.update(b"none")
            continue
        shape = (*routes.ids_TLK.shape, routes.start, *routes.layers_L)
        found.update(repr((shape, routes.ids_TLK.dtype.str)).encode())
        found.update(routes.ids_TLK.tobytes())
        found.update(b"" if routes.missing_TL is None else routes.missing_TL.tobytes())
    return found.hexdigest()
