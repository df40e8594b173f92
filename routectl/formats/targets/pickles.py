"""Pickled batches that trainers load: verl's gen_batch.dp, ROLL's and SkyRL's .pkl.

Written by their opcodes, without verl, ROLL, SkyRL or tensordict. Sources: verl 0.9.1
(protocol.py, utils/skip/rollout_skip.py), ROLL 8eb27cc2 (distributed/scheduler/protocol.py,
rollout_mock_mixin.py), SkyRL 0.3.0 and 0.4.0 (backends/skyrl_train/training_batch.py).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import IO, Any

from numpy.typing import NDArray

from ...dump import Sample
from ...files.scratch import scratch_file
from ...pickled.archive_writer import spooled, tensordict_archive
from ...pickled.opcodes import Chunks, Made, Name, Streamed, chunks_of, emit_pickle, objects_array
from .grid import PackedGrid, grid_of
from .rows import Feed

__all__ = ["write_pickle"]

Arrays = Mapping[str, Any]  # NDArray, Streamed, and SkyRL's PackedGrid
_BYTES_IO = Name("_io", "BytesIO")
_SKYRL = "skyrl.backends.skyrl_train.training_batch"


def _names(samples: Sequence[Sample]) -> dict[str, list[str]]:
    """Sample and group ids where all samples have them."""
    found = {
        "sample_id": [sample.sample_id for sample in samples],
        "group_id": [sample.group_id for sample in samples],
    }
    return {name: ids for name, ids in found.items() if None not in ids}  # type: ignore[misc]


def _tensordict(arrays: Arrays, samples: Sequence[Sample], file: IO[bytes]) -> Chunks:
    tensordict_archive(arrays, len(samples), file)
    return spooled(file)


def _verl(arrays: Arrays, samples: Sequence[Sample], file: IO[bytes]) -> Made:
    """A DataProto. meta_info needs a timing, which the trainer takes out."""
    columns = {name: objects_array(ids) for name, ids in _names(samples).items()}
    state: Any = (_tensordict(arrays, samples, file), columns, {"timing": {}})
    return Made(Name("verl.protocol", "DataProto"), state=state, new=True)


def _roll(arrays: Arrays, samples: Sequence[Sample], file: IO[bytes]) -> Made:
    """A DataProto of ROLL: the bytes in a BytesIO, and no remote batch."""
    columns = {name: objects_array(ids) for name, ids in _names(samples).items()}
    held = (_tensordict(arrays, samples, file), 0, None)
    state: Any = (Made(_BYTES_IO, state=held, new=True), columns, None, {})
    return Made(Name("roll.distributed.scheduler.protocol", "DataProto"), state=state, new=True)


def _skyrl_tensor(array: NDArray[Any] | Streamed | PackedGrid) -> dict[str, Any]:
    if isinstance(array, PackedGrid):
        parts = {name: _skyrl_tensor(part) for name, part in array.parts.items()}
        return {"format": "packed_tensor", **parts}
    data = chunks_of(array)
    return {"format": "numpy", "data": data, "shape": array.shape, "dtype": array.dtype.name}


def _skyrl(arrays: Arrays, samples: Sequence[Sample], _: IO[bytes]) -> Made:
    """A TrainingInputBatch: uids are the groups, by which advantages are made."""
    names = _names(samples)
    batch = {name: _skyrl_tensor(array) for name, array in arrays.items()}
    about = {
        "uids": names.get("group_id", [str(i) for i in range(len(samples))]),
        **({"sample_id": names["sample_id"]} if "sample_id" in names else {}),
        "response_length": arrays["response_mask"].shape[1],
    }
    empty = {"rollout_logprobs": None}
    if any(isinstance(array, PackedGrid) for array in arrays.values()):
        empty["rollout_sample_support"] = None
    state = {
        "batch_dict": {**empty, **batch},
        "batch_size": len(samples),
        "device": None,
        "metadata": about,
    }
    maker = Name(_SKYRL, "_rebuild_tensor_batch")
    return Made(maker, (Name(_SKYRL, "TrainingInputBatch"), state))


_BATCHES: dict[str, Callable[[Arrays, Sequence[Sample], IO[bytes]], Made]] = {
    "verl-dp": _verl,
    "roll-pkl": _roll,
    "skyrl-pkl": _skyrl,
    "skyrl-0.3-pkl": _skyrl,
    "skyrl-0.4-pkl": _skyrl,
}


def write_pickle(feed: Feed, stream: IO[bytes]) -> int:
    """Write the pickle of a trainer's own batch class, a padded grid in it."""
    placed = feed.survey()
    if placed:
        arrays = grid_of(placed, feed)
        make = _BATCHES[feed.shape.target.name]
        with scratch_file() as file:
            emit_pickle(make(arrays, [one.sample for one in placed], file), stream)
    return len(placed)
