"""The versions behind ``--at NAME=WHERE``: dumps opened, checkpoints recomputed."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import RoutectlError
from ..progress import Progress
from ..recompute.forwarding import Forwarding
from ..recompute.kept import CheckpointSide, prepare_side
from ..recompute.partner import Partner
from ..recompute.samples import is_replay_of_own
from ..recompute.weights import checkpoint_at
from .own_routes import OwnRoutes, aligned, older_samples

if TYPE_CHECKING:
    from ...dump import Dump
    from ...ops.staleness.attribution import Version
    from ...ops.staleness.options import StalenessOptions
    from ...ops.staleness.plan import StalenessPlan
    from ...ops.staleness.staleness import Noise

__all__ = ["At", "Versions", "mode_of", "parse_at", "version_of"]


@dataclasses.dataclass(frozen=True, slots=True)
class At:
    """A version as it was given, ``--at NAME=WHERE``; weights are where it is a checkpoint."""

    name: str
    where: str
    weights: Path | None


def parse_at(texts: Sequence[str]) -> tuple[At, ...]:
    """NAME=WHERE, each; a name may be there again, for routes of another mode."""
    found = []
    for text in texts:
        name, equals, where = text.partition("=")
        if not (name.strip() and equals and where):
            raise RoutectlError(f"--at {text}: expected NAME=WHERE, a dump or a checkpoint")
        found.append(At(name.strip(), where, checkpoint_at(where)))
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
        partner: Callable[[], Partner],
        how: Forwarding,
        progress: Progress,
        open_at: "Callable[[str], Dump]",
        *,
        some_layers: bool = False,
    ) -> None:
        self.given, self.how, self.progress = given, how, progress
        self._dumps = {at: open_at(at.where) for at in given if at.weights is None}
        checkpoints = [at for at in given if at.weights is not None]
        self._refuse_twice()
        self._sides: dict[At, CheckpointSide] = {}
        if not checkpoints:
            return
        source = partner()
        for number, at in enumerate(checkpoints, 1):
            assert at.weights is not None
            told = f"version {at.name} ({at.where})"
            which = progress.within(f"{at.name}, version {number} of {len(checkpoints)}")
            self._sides[at] = prepare_side(
                at.weights, source, how, which, told=told, some_layers=some_layers
            )

    @property
    def names(self) -> tuple[str, ...]:
        """Each name once, in the order given."""
        return tuple(dict.fromkeys(at.name for at in self.given))

    def open(self) -> "tuple[Version, ...]":
        """Recompute what is not kept yet, and every version with the routes of its modes.

        Where that is ended, what is finished is kept, and said.
        """
        routes: dict[str, dict[str, Dump]] = {name: {} for name in self.names}
        for given, dump in self._dumps.items():
            routes[given.name][mode_of(dump)] = dump
        held = [side.kept() for side in self._sides.values()]  # no run lets go of these now
        done: list[str] = []
        try:
            for at, side in self._sides.items():
                routes[at.name] |= side.routes()
                done.append(at.name)
        except KeyboardInterrupt:
            if done:
                self.progress.note(f"finished and kept: {', '.join(done)}")
            raise
        del held
        return tuple(version_of(name, of) for name, of in routes.items())

    def with_replays(
        self, versions: "Sequence[Version]", dump: "Dump", options: "StalenessOptions"
    ) -> "tuple[Version, ...]":
        """The versions, with R2's log-probs of each checkpoint that was run in both modes.

        Each is forced once to the routes that the versions which sampled took when they were free:
        without such routes, or such log-probs, it is as it was.
        """
        from ...ops.staleness.plan import plan_of

        plan, found = plan_of(dump, versions, options), list(versions)
        for at, side in self._sides.items() if self.how.mode == "both" else ():
            place = self.names.index(at.name)
            if found[place].replayed is None and side.prepared.options.want_logprobs:
                replayed = self._replayed(at, side, versions, plan)
                found[place] = dataclasses.replace(found[place], replayed=replayed)
        return tuple(found)

    def _replayed(
        self, at: At, side: CheckpointSide, versions: "Sequence[Version]", plan: "StalenessPlan"
    ) -> "Dump | None":
        """What a checkpoint gives for R2's routes; None where no sample has any."""
        place, source = self.names.index(at.name), side.partner.dump
        free = {code: one.free for code, one in enumerate(versions) if one.free is not None}
        chosen = older_samples(source, plan.attributor, place, free)
        if not chosen:
            return None
        here = OwnRoutes(
            partial(_itself, source),
            {code: partial(_itself, dump) for code, dump in free.items()},
            plan.attributor,
            chosen,
            plan.options.match,
        )
        files = {self.names.index(of.name): one.opener("free") for of, one in self._sides.items()}
        elsewhere = None
        if side.partner.opener is not None and set(free) <= set(files):
            files = {code: files[code] for code in free}
            elsewhere = dataclasses.replace(here, source=side.partner.opener, free=files)
        tokens = sum(source[index].num_tokens or 0 for index in chosen)  # no routes are read for it
        partner = Partner(here(), tokens, 0, scored=True, opener=elsewhere)
        how = dataclasses.replace(self.how, mode="forced", logprobs=True, gate_logprobs=False)
        progress, told = self.progress.within(f"{at.name}, R2"), f"version {at.name} ({at.where})"
        assert at.weights is not None
        run = prepare_side(at.weights, partner, how, progress, told=f"{told}, R2")
        return aligned(run.routes()["forced"], source, chosen)

    def refuse_noise(self) -> None:
        """Raise RoutectlError where no version can be run again."""
        if not self._sides:
            raise RoutectlError(
                "--noise-floor runs a checkpoint again: every --at is a dump of routes",
                hint="--at NAME=CHECKPOINT for one of them",
            )

    def noise(self, versions: "Sequence[Version]") -> "tuple[Noise, ...]":
        """How many rows the last checkpoint changes against itself: its weights are run again."""
        from ...ops.staleness.staleness import Noise
        from ..recompute.noise import noise_runs

        at, side = list(self._sides.items())[-1]
        mode = self.how.modes[0]
        version = next(v for v in versions if v.name == at.name)
        base = version.routes(mode)
        assert base is not None
        options = dataclasses.replace(side.prepared.options, mode=mode)
        found = []
        again = dataclasses.replace(side.prepared, options=options)
        for run in noise_runs(again, side.partner.dump, base, self.progress):
            if run.refused is not None:
                self.progress.note(f"noise floor, {run.name}: not run: {run.refused}")
                continue
            found.append(Noise(run.name, run.rows, run.rows_mismatched))
        return tuple(found)

    def _refuse_twice(self) -> None:
        """Raise RoutectlError where a name has one mode from two places."""
        seen: dict[tuple[str, str], At] = {}
        for at in self.given:
            modes = self.how.modes if at.weights else (mode_of(self._dumps[at]),)
            for mode in modes:
                before = seen.setdefault((at.name, mode), at)
                if before is not at:
                    raise RoutectlError(
                        f"--at {at.name} is given twice with {mode} routes: {before.where} and "
                        f"{at.where}"
                    )


def mode_of(dump: "Dump") -> str:
    """What a recomputed dump says of itself: forced, R2 (forced to recomputed routes), or free."""
    from ...ops.staleness.attribution import R2

    if is_replay_of_own(dump.meta):
        return R2
    return "forced" if dump.meta.provenance.get("mode") == "forced" else "free"


def version_of(name: str, routes: "Mapping[str, Dump]") -> "Version":
    """A version by what there is of each mode. Raises RoutectlError where there is R2 alone."""
    from ...ops.staleness.attribution import R2, Version

    free, forced = routes.get("free"), routes.get("forced")
    if free is None and forced is None:
        raise RoutectlError(
            f"version {name}: {routes[R2].meta.path} was forced to recomputed routes: R2 comes "
            "beside a version's own",
            hint=f"--at {name}=WHERE again, its free routes",
        )
    return Version(name, free, forced, routes.get(R2))


def _itself(dump: "Dump") -> "Dump":
    return dump
