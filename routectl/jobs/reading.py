"""How a dump that the user named is read: options that every command with a dump takes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..cli.options import model_from, open_input
from ..errors import RoutectlError

if TYPE_CHECKING:
    from ..dump import Dump
    from ..model import ModelFacts
    from ..ops.diff.thresholds import Threshold

__all__ = ["Reading", "refuse_relative"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """The model, or its three sizes, and what else a dump does not say itself; None: it does.

    model       config.json or a folder with one
    num_layers  with top_k and num_experts, in place of a model
    format      a name that ``open_dump`` knows
    start       position of row 0
    """

    model: Path | None = None
    num_layers: int | None = None
    top_k: int | None = None
    num_experts: int | None = None
    format: str | None = None
    start: int | None = None

    @property
    def facts(self) -> "ModelFacts | Path | None":
        """The model as open_dump takes it. Raises RoutectlError where options contradict."""
        return model_from(self.model, self.num_layers, self.top_k, self.num_experts)

    def open(self, path: str) -> "Dump":
        """The dump at a path, a folder or a glob; - is standard input."""
        return open_input(path, self.facts, self.format, self.start)


def refuse_relative(limits: "Sequence[Threshold]") -> None:
    """Raise RoutectlError for a threshold that is relative, where nothing was accepted before."""
    for limit in limits:
        if limit.relative_to is not None:
            raise RoutectlError(
                f"threshold {limit.text!r} is relative to a baseline, and there is none",
                hint="routectl ci keeps one",
            )
