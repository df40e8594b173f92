"""Offline runs of Weights & Biases, by its own library; ``wandb sync`` uploads them later."""

import os
from collections.abc import Mapping
from pathlib import Path

from ...errors import RoutectlError

__all__ = ["write_offline_run"]


def write_offline_run(folder: Path, scalars: Mapping[str, float], step: int) -> Path:
    """Write scalars of one step as an offline run under ``folder``/wandb, and give its folder.

    Nothing is sent: the mode is offline whatever the environment says, and reports of crashes and
    facts about the machine are off. The project is WANDB_PROJECT's, or routectl; a run's id is
    WANDB_RUN_ID's where it is set. Raises RoutectlError where nothing can be written.
    """
    os.environ["WANDB_ERROR_REPORTING"] = "false"  # read when the library is imported
    import wandb

    settings = wandb.Settings(
        mode="offline",
        silent=True,
        console="off",
        disable_git=True,
        disable_code=True,
        x_disable_meta=True,
        x_disable_machine_info=True,
        x_disable_stats=True,
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):  # the library would write to the system's folder
            raise RoutectlError(f"{folder}: cannot be written: no permission")
        project = os.environ.get("WANDB_PROJECT", "routectl")
        run = wandb.init(project=project, dir=str(folder), settings=settings)
        run.log(dict(scalars), step=step)
        run.finish()
    except OSError as error:
        raise RoutectlError(f"{folder}: cannot be written: {error.strerror}") from None
    except wandb.Error as error:
        raise RoutectlError(f"{folder}: wandb: {error}") from None
    return Path(run.dir).parent
