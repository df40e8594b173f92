"""The versions behind ``--at NAME=WHERE``: dumps opened, checkpoints recomputed."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import RoutectlError
from ..progress import Progress
from ..recompute.forwarding import Forwarding
from ..recompute.kept import CheckpointSide, checkpoint_at, prepare_side
from ..recompute.partner import Partner

if TYPE_CHECKING:
    from ...dump import Dump
    from ...ops.staleness.attribution import Version
    from ...ops.staleness.staleness import Noise

__all__ = ["At", "Versions", "parse_at"]


@dataclasses.dataclass(frozen=True, slots=True)
class At:
    """A version as it was given, ``--at NAME=WHERE``; weights are where it is a checkpoint."""

    name: str
    where: str
    weights: Path | None


def parse_at(texts: Sequence[str]) -> tuple[At, ...]:
    """NAME=WHERE, each; a name may be there twice, for free and forced routes."""
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
        from ...ops.staleness.attribution import Version

        routes = {(at.name, _mode_of(dump)): dump for at, dump in self._dumps.items()}
        held = [side.kept() for side in self._sides.values()]  # no run lets go of these now
        done: list[str] = []
        try:
            for at, side in self._sides.items():
                routes |= {(at.name, mode): dump for mode, dump in side.routes().items()}
                done.append(at.name)
        except KeyboardInterrupt:
            if done:
                self.progress.note(f"finished and kept: {', '.join(done)}")
            raise
        del held
        return tuple(
            Version(name, routes.get((name, "free")), routes.get((name, "forced")))
            for name in self.names
        )

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
            modes = self.how.modes if at.weights else (_mode_of(self._dumps[at]),)
            for mode in modes:
                before = seen.setdefault((at.name, mode), at)
                if before is not at:
                    raise RoutectlError(
                        f"--at {at.name} is given twice with {mode} routes: {before.where} and "
                        f"{at.where}"
                    )


def _mode_of(dump: "Dump") -> str:
    """What a recomputed dump says of itself: forced, or else free."""
    return "forced" if dump.meta.provenance.get("mode") == "forced" else "free"
