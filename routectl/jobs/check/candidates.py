"""``check --candidates NAME=WHERE``: weights that may have made the rows, laid beside them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from glob import has_magic
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ...errors import MismatchError, RoutectlError, misspelt
from ...files.places import is_there
from ..held import HeldDump
from ..progress import Progress
from ..reading import Reading, finite_eps
from ..recompute.forwarding import forwarding_of
from ..recompute.kept import CheckpointSide, prepare_side
from ..recompute.partner import Partner, partner_at
from ..recompute.weights import checkpoint_at

if TYPE_CHECKING:
    from ...dump import Dump
    from ...ops.check.candidates.made_by import MadeBy

__all__ = ["Candidates", "who_made"]


class _How(Protocol):
    """What of a request says how candidates are read and run."""

    @property
    def forward(self) -> tuple[str, ...]:
        """What --forward said."""

    @property
    def eps(self) -> float | None:
        """What --eps said."""

    @property
    def reading(self) -> Reading:
        """How dumps are read."""


@dataclass(frozen=True, slots=True)
class Candidates:
    """Weights by name, oldest first, and the one that should have made the rows, or None."""

    where: dict[str, str]
    expected: str | None

    @classmethod
    def parsed(cls, texts: Sequence[str], against: str | None) -> "Candidates":
        """NAME=WHERE each; the reference is one of them by name or by place, or one more.

        Raises RoutectlError for a text of another form, for a name that is there twice, and for
        one candidate alone: the nearest of one says nothing.
        """
        where: dict[str, str] = {}
        for text in texts:
            name, equals, place = text.partition("=")
            name = name.strip()
            if not (name and equals and place):
                raise RoutectlError(
                    f"--candidates {text}: expected NAME=WHERE, a checkpoint or its routes"
                )
            if name in where:
                raise RoutectlError(f"--candidates {name} is given twice")
            if name in ("none", "undecided", "several"):
                raise RoutectlError(f"--candidates {name}: a verdict's word, no candidate's name")
            where[name] = place
        found = cls._with(where, against)
        if where and len(found.where) == 1:
            raise RoutectlError(
                f"--candidates: one is given, {next(iter(where))}: which is nearest is told of two",
                hint="another --candidates NAME=WHERE; --against WHERE holds rows against one",
            )
        return found

    @classmethod
    def _with(cls, where: dict[str, str], against: str | None) -> "Candidates":
        """Candidates by name, and the reference among them."""
        if against is None or against in where:
            return cls(where, against)
        known = {Path(place): name for name, place in where.items()}
        name = known.get(Path(against), Path(against).name or against)
        if name in where and Path(where[name]) != Path(against):
            raise RoutectlError(
                f"--candidates {name} is another place than --against {against}",
                hint=f"--against {name} names the candidate itself",
            )
        return cls({**where, name: against}, name)

    def refuse_unknown(self, against: str) -> None:
        """Raise RoutectlError for a reference that is no place, and a name of no candidate."""
        name, equals, _ = against.partition("=")
        if isinstance(against, HeldDump) or "/" in name:  # of NAME=WHERE the name has none
            return
        if against == "-" or "::" in against or has_magic(against) or is_there(against):
            return
        others = [one for one in self.where if one != against]
        if equals:
            raise RoutectlError(
                f"--against {against}: no file, no folder: NAME=WHERE is a candidate's form",
                hint=f"--candidates {against}, another one beside it, and --against {name}",
            )
        if others:
            said = f"--against {against}: no file, no folder, and none of the candidates"
            raise misspelt(said, against, others, RoutectlError)
        raise RoutectlError(
            f"--against {against}: no file and no folder is called so",
            hint="a dump or a Hugging Face folder; a NAME is that of --candidates NAME=WHERE",
        )

    def reference(self, against: str | None) -> str | None:
        """Where the reference is: its place, where --against names a candidate."""
        return against if against is None else self.where.get(against, against)


def who_made(
    path: str, dump: "Dump", candidates: Candidates, how: _How, progress: Progress
) -> "MadeBy":
    """Run what is not kept yet, and say who made each sample of a dump that was opened at a path.

    Raises MismatchError for routes of another shape, or that were forced.
    """
    from ...ops.check.candidates.counts import count_parts
    from ...ops.check.candidates.made_by import made_by

    routes, eps = _routes(path, dump, candidates, how, progress), finite_eps(how.eps)
    with progress.watching(dump, "comparing candidates") as watched:
        return made_by(tuple(routes), count_parts(watched, routes, eps), candidates.expected)


def _routes(
    path: str, dump: "Dump", candidates: Candidates, how: _How, progress: Progress
) -> "dict[str, Dump]":
    """The routes of each candidate by name: all are opened before one is run."""
    opened: dict[str, Dump | CheckpointSide] = {}
    forward = forwarding_of(how.forward)
    partner: Partner | None = None
    free = replace(
        forward, gate_logprobs=forward.gate_logprobs is True
    )  # what --against alone keeps
    for number, (name, where) in enumerate(candidates.where.items(), 1):
        weights = None if isinstance(where, HeldDump) else checkpoint_at(where)
        if weights is None:
            opened[name] = _free(name, how.reading.open(where, progress=progress))
            continue
        if partner is None:
            partner = partner_at(path, how.reading, weights, dump)
        which = progress.within(f"{name}, candidate {number} of {len(candidates.where)}")
        told = f"candidate {name} ({where})"
        opened[name] = prepare_side(weights, partner, free, which, told=told)
    return {
        name: one.routes()["free"] if isinstance(one, CheckpointSide) else one
        for name, one in opened.items()
    }


def _free(name: str, routes: "Dump") -> "Dump":
    """Routes of a file, whose router chose them. Raises MismatchError for forced ones."""
    if routes.meta.provenance.get("mode", "free") != "free":
        raise MismatchError(
            f"candidate {name}: {routes.meta.path} was forced to the dump's routes, which every "
            "candidate would be near to: expected free ones"
        )
    return routes
