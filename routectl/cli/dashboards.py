"""Where the scalars of a result go beside the report: TensorBoard, an offline run of W&B."""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import RoutectlError, UnsupportedError
from .output import note

if TYPE_CHECKING:
    from ..reports.diff.document import Document

__all__ = ["Dashboards", "Step", "Tensorboard", "Wandb", "dashboards_to"]

Tensorboard = Annotated[
    Path | None,
    typer.Option("--tensorboard", metavar="DIR", help="Write the figures as TensorBoard scalars."),
]
Wandb = Annotated[
    Path | None,
    typer.Option("--wandb-offline", metavar="DIR", help="Write them as an offline run of W&B."),
]
Step = Annotated[
    int | None,
    typer.Option(
        "--step",
        min=0,
        metavar="N",
        show_default=False,
        help="The training step that the scalars are of; 0 when not given.",
    ),
]


@dataclass(frozen=True, slots=True)
class Dashboards:
    """The folders that scalars are written to; None: none was asked for."""

    tensorboard: Path | None
    wandb: Path | None
    step: int

    def write(self, document: "Document") -> None:
        """Write the scalars of a document, where that was asked for."""
        if self.tensorboard is None and self.wandb is None:
            return
        from ..reports.ci.scalars import metrics

        scalars = metrics(document)
        if self.tensorboard is not None:
            from ..reports.ci.dashboards import write_events

            write_events(self.tensorboard, scalars, self.step)
            note(f"wrote {self.tensorboard}: {len(scalars)} scalars of step {self.step}")
        if self.wandb is not None:
            from ..reports.ci.dashboards import write_offline_run

            run = write_offline_run(self.wandb, scalars, self.step)
            note(f"wrote {run}: {len(scalars)} scalars of step {self.step}")


def dashboards_to(tensorboard: Path | None, wandb: Path | None, step: int | None) -> Dashboards:
    """What --tensorboard and --wandb-offline ask for; refused before any work is done."""
    if step is not None and tensorboard is None and wandb is None:
        raise RoutectlError("--step is of --tensorboard or --wandb-offline: got neither")
    for path, flag, package, extra in (
        (tensorboard, "--tensorboard", "tensorboardX", "tensorboard"),
        (wandb, "--wandb-offline", "wandb", "wandb"),
    ):
        if path is None:
            continue
        if path.exists() and not path.is_dir():
            raise RoutectlError(f"{flag} {path}: expected a folder, got a file")
        if find_spec(package) is None:
            raise UnsupportedError(
                f"{flag} needs {package}, which is not installed",
                hint=f"pip install 'routectl[{extra}]'",
            )
    return Dashboards(tensorboard, wandb, step or 0)
