"""TensorBoard event files, by tensorboardX: it needs protobuf alone, and loads no torch."""

import time
from collections.abc import Mapping
from pathlib import Path

from ...errors import RoutectlError

__all__ = ["write_events"]


def write_events(folder: Path, scalars: Mapping[str, float], step: int) -> None:
    """Write scalars of one step to a new event file in a folder, which is made where needed.

    Names are kept as they are; TensorBoard keeps values as float32, and reads all files of a folder
    as one run. Raises RoutectlError where the folder cannot be written.
    """
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.proto.summary_pb2 import Summary

    now = time.time_ns()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # the library names files by the second, and would write over another one of it
        writer = EventsWriter(str(folder / "events"), f".{now}.routectl")
        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in scalars.items()]
        writer.write_event(Event(wall_time=now / 1e9, step=step, summary=Summary(value=values)))
        writer.close()
    except OSError as error:
        raise RoutectlError(f"{folder}: cannot be written: {error.strerror}") from None
