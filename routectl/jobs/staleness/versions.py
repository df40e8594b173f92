"""The versions behind ``--at NAME=WHERE``: dumps opened, checkpoints recomputed."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import RoutectlError, UnsupportedError
from ..progress import Progress
from ..recompute.cache import RecomputeCache, refuse_other_shape
from ..recompute.crew import Crew, crew_of
from ..recompute.request import Forwarding
from ..recompute.router_check import CHECKED_TOKENS
from ..recompute.share import Work

if TYPE_CHECKING:
    from ...dump import Dump
    from ...forward import Prepared
    from ...ops.staleness.attribution import Version
    from ...ops.staleness.staleness import Noise

__all__ = ["At", "Recomputing", "Versions", "parse_at"]

_MODES = {"free": ("free",), "forced": ("forced",), "both": ("free", "forced")}


@dataclasses.dataclass(frozen=True, slots=True)
class At:
    """A version as it was given: ``--at NAME=WHERE``."""

    name: str
    where: str

    @property
    def is_checkpoint(self) -> bool:
        """Whether it is weights, and not a dump."""
        from ...checkpoints import is_checkpoint

        return is_checkpoint(self.where)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Recomputing:
    """How checkpoints are recomputed, and the folder in which that is kept.

    logprobs None: as the dump has them; gates None: where the family allows them. some_layers tells
    that only some are compared.
    """

    cache: Path | None
    progress: Progress
    mode: str = "free"
    forwarding: Forwarding = dataclasses.field(default_factory=Forwarding)
    threads: int | None = None
    logprobs: bool | None = None
    gates: bool | None = None
    some_layers: bool = False


def parse_at(texts: Sequence[str]) -> tuple[At, ...]:
    """NAME=WHERE, each; a name may be there twice, for free and forced routes."""
    found = []
    for text in texts:
        name, equals, where = text.partition("=")
        if not (name.strip() and equals and where):
            raise RoutectlError(f"--at {text}: expected NAME=WHERE, a dump or a checkpoint")
        found.append(At(name.strip(), where))
    if not found:
        raise RoutectlError(
            "no version is given", hint="--at v0=WHERE, a dump of recomputed routes or a checkpoint"
        )
    return tuple(found)


class Versions:
    """The versions of one command line: opened and checked first, recomputed after that."""

    def __init__(
        self,
        given: Sequence[At],
        open_source: "Callable[[], Dump]",
        how: Recomputing,
        open_at: "Callable[[str], Dump]",
    ) -> None:
        self.given, self.source, self.how = given, open_source(), how
        self._open_source = open_source
        if how.mode not in _MODES:
            raise RoutectlError(f"--mode {how.mode!r} is not known: {', '.join(_MODES)}")
        checkpoints = [at for at in given if at.is_checkpoint]
        if checkpoints and how.cache is None:
            at = checkpoints[0]
            raise RoutectlError(
                f"--at {at.name}={at.where}: what is recomputed at a checkpoint must be kept: "
                "where is not said",
                hint="-o REPORT keeps it in REPORT.versions/, --cache DIR in DIR",
            )
        self._dumps = {at: open_at(at.where) for at in given if at not in checkpoints}
        self._refuse_twice(checkpoints)
        self._crew: Crew | None = None
        self._works, self._prepared = self._prepare(checkpoints)

    @property
    def names(self) -> tuple[str, ...]:
        """Each name once, in the order given."""
        return tuple(dict.fromkeys(at.name for at in self.given))

    def open(self) -> "tuple[Version, ...]":
        """Recompute what is not kept yet, and every version with the routes of its modes."""
        from ...ops.staleness.attribution import Version

        routes = {(at.name, _mode_of(dump)): dump for at, dump in self._dumps.items()}
        for at in self._prepared:
            routes |= self._recomputed(at)
        return tuple(
            Version(name, routes.get((name, "free")), routes.get((name, "forced")))
            for name in self.names
        )

    def refuse_noise(self) -> None:
        """Raise RoutectlError where no version can be run again."""
        if not self._prepared:
            raise RoutectlError(
                "--noise-floor runs a checkpoint again: every --at is a dump of routes",
                hint="--at NAME=CHECKPOINT for one of them",
            )

    def noise(self, versions: "Sequence[Version]") -> "tuple[Noise, ...]":
        """How many rows the last checkpoint changes against itself: its weights are run again."""
        from ...ops.staleness.staleness import Noise
        from ..recompute.noise import noise_runs

        at, prepared = list(self._prepared.items())[-1]
        mode = _MODES[self.how.mode][0]
        version = next(v for v in versions if v.name == at.name)
        base = version.routes(mode)
        assert base is not None
        options = dataclasses.replace(prepared.options, mode=mode)
        found = []
        again = dataclasses.replace(prepared, options=options)
        for run in noise_runs(again, self.source, base, self.how.progress):
            if run.refused is not None:
                self.how.progress.note(f"noise floor, {run.name}: not run: {run.refused}")
                continue
            found.append(Noise(run.name, run.rows, run.rows_mismatched))
        return tuple(found)

    def _refuse_twice(self, checkpoints: Sequence[At]) -> None:
        """Raise RoutectlError where a name has one mode from two places."""
        seen: dict[tuple[str, str], At] = {}
        for at in self.given:
            modes = _MODES[self.how.mode] if at in checkpoints else (_mode_of(self._dumps[at]),)
            for mode in modes:
                before = seen.setdefault((at.name, mode), at)
                if before is not at:
                    raise RoutectlError(
                        f"--at {at.name} is given twice with {mode} routes: {before.where} and "
                        f"{at.where}"
                    )

    def _prepare(self, checkpoints: Sequence[At]) -> "tuple[dict[At, Work], dict[At, Prepared]]":
        """The checkpoints opened by their headers, each of the dump's shape, and their work."""
        if not checkpoints:
            return {}, {}
        from ...forward import RunOptions

        how = self.how
        crew = self._crew = crew_of(how.forwarding.device, how.threads, how.progress)
        if crew.ranks is not None and crew.size > 1:
            raise UnsupportedError(
                "staleness is run by one process, not by torchrun", hint="--device cuda"
            )
        logprobs = how.logprobs
        if logprobs is None:
            logprobs = any(sample.logprobs is not None for sample in self.source)
        works, found = {}, {}
        for at in checkpoints:
            try:
                options = RunOptions(
                    checkpoint=Path(at.where),
                    device=crew.devices[0],
                    sharing=crew.sharing,
                    dtype=how.forwarding.dtype,
                    mode=_MODES[how.mode][0],
                    streaming=how.forwarding.streaming,
                    want_logprobs=logprobs,
                    check_tokens=CHECKED_TOKENS,
                )
            except ValueError as error:
                raise RoutectlError(str(error)) from None
            assert how.cache is not None
            work = Work(
                options=options,
                open_source=self._open_source,
                indices=(),
                output=how.cache,
                gates=how.gates is not False,
            )
            works[at], found[at] = _with_gates(work, at, how)
            told = f"version {at.name} ({at.where})"
            refuse_other_shape(told, found[at], self.source, some_layers=how.some_layers)
        return works, found

    def _recomputed(self, at: At) -> "dict[tuple[str, str], Dump]":
        """The routes of a checkpoint by its name and mode."""
        from ...formats.native.container import open_native

        assert self.how.cache is not None
        assert self._crew is not None
        cache, modes = RecomputeCache(self.how.cache), _MODES[self.how.mode]
        prepared, work = self._prepared[at], self._works[at]
        which = f"{at.name}, version {[*self._works].index(at) + 1} of {len(self._works)}"
        crew = dataclasses.replace(self._crew, progress=self.how.progress.within(which))
        files = cache.recomputed(work, crew, prepared, self.source, modes)
        return {(at.name, mode): open_native(path) for mode, path in files.items()}


def _with_gates(work: Work, at: At, how: Recomputing) -> "tuple[Work, Prepared]":
    """A checkpoint opened for gate log-probabilities too, or without where its family has none."""
    try:
        return work, work.prepare()
    except UnsupportedError as error:
        if not (work.gates and how.gates is None):
            raise
        without = dataclasses.replace(work, gates=False)
        prepared = without.prepare()
        how.progress.note(f"version {at.name}: no router shift: {error}")
        return without, prepared


def _mode_of(dump: "Dump") -> str:
    """What a recomputed dump says of itself: forced, or else free."""
    return "forced" if dump.meta.provenance.get("mode") == "forced" else "free"
