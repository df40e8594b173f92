"""Scalars as files of dashboards: TensorBoard's events, offline runs of Weights & Biases.

TensorBoard's are written by tensorboardX, which needs protobuf alone and loads no torch; runs by
wandb's own library, for ``wandb sync`` to upload later.
"""

import os
import time
from collections.abc import Mapping
from pathlib import Path

from ...errors import RoutectlError
from ...files.destinations import cannot_write
from ...files.places import RemotePath, local_only
from ...files.reading import read_bytes
from ...files.scratch import scratch_folder
from ...files.writing import replacing

__all__ = ["write_events", "write_offline_run"]


def write_events(folder: Path, scalars: Mapping[str, float], step: int) -> None:
    """Write scalars of one step to a new event file in a folder, which is made where needed.

    Names are kept as they are; TensorBoard keeps values as float32, and reads all files of a folder
    as one run. Raises RoutectlError where the folder cannot be written.
    """
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.proto.summary_pb2 import Summary

    now = time.time_ns()
    values = [Summary.Value(tag=tag, simple_value=value) for tag, value in scalars.items()]
    with scratch_folder("events") as work:
        try:
            # the library names files by the second, and would write over another one of it
            writer = EventsWriter(str(work / "events"), f".{now}.routectl")
            writer.write_event(Event(wall_time=now / 1e9, step=step, summary=Summary(value=values)))
            writer.close()
            (written,) = work.iterdir()
            content = read_bytes(written)
        except OSError as error:
            raise cannot_write(work, error) from None
    try:
        if not isinstance(folder, RemotePath):
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(folder, error) from None
    with replacing(folder / written.name, force=False) as stream:
        stream.write(content)


def write_offline_run(folder: Path, scalars: Mapping[str, float], step: int) -> Path:
    """Write scalars of one step as an offline run under ``folder``/wandb, and give its folder.

    Nothing is sent: the mode is offline whatever the environment says, and reports of crashes and
    facts about the machine are off. The project is WANDB_PROJECT's, or routectl; a run's id is
    WANDB_RUN_ID's where it is set. Raises RoutectlError where nothing can be written.
    """
    local_only(folder, "the folder that wandb writes")
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
        raise cannot_write(folder, error) from None
    except UnicodeError:
        raise RoutectlError(
            f"{folder}: cannot be written: wandb takes command lines in UTF-8 alone"
        ) from None
    except wandb.Error as error:
        raise RoutectlError(f"{folder}: wandb: {error}") from None
    return Path(run.dir).parent
