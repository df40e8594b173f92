"""Pickled batches of trainers as sequences: verl's gen_batch.dp, ROLL's and SkyRL's .pkl; and the
arrays of FastDeploy's routing store.

Shape suffixes: B samples, S positions.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ...errors import FormatError
from ...visible import quoted
from ..documents.fields import text
from ..documents.forms import unlike
from ..wire.sample import NoSamplesError, WireSample
from .batches import PickledBatch, read_batch
from .fields import PackedRows, packed_rows
from .grids import read_grid
from .routing_store import SUFFIX, read_store

__all__ = ["read_pickle"]

_ROUTES = ("routed_experts", "rollout_expert_indices")
_GROUPS = ("group_id", "uid", "uids", "traj_group_id", "prompt_id")
_STEPS = ("min_global_steps", "max_global_steps")


def _values(batch: PickledBatch, name: str) -> Any:
    """What the batch has by that name: a column, an entry of its metadata, or a tensor's values."""
    if name in batch.columns:
        return batch.columns[name].values
    if name in batch.about:
        return batch.about[name]
    return batch.tensors[name].tolist() if name in batch.tensors else None


def _column(batch: PickledBatch, names: Sequence[str], size: int) -> list[Any] | None:
    """The first of the columns that is there with a value for each sample."""
    for name in names:
        values = _values(batch, name)
        if isinstance(values, list) and len(values) == size and None not in values:
            return values
    return None


def _groups(batch: PickledBatch, size: int) -> list[str] | None:
    """The group of each sample, by a name, or by SkyRL's bounds of the samples of a prompt."""
    named = _column(batch, _GROUPS, size)
    if named is not None:
        return [text(value) or "" for value in named]
    bounds = batch.about.get("policy_prompt_boundaries")
    groups: list[str] = []
    for i, bound in enumerate(bounds if isinstance(bounds, list) else ()):
        if not isinstance(bound, tuple | list) or len(bound) != 2 or bound[0] != len(groups):
            return None
        if type(bound[1]) is not int or not bound[0] <= bound[1] <= size:
            return None
        groups += [str(i)] * (bound[1] - bound[0])
    return groups if len(groups) == size and size else None


def _names(batch: PickledBatch, groups: Sequence[str] | None, size: int) -> list[str] | None:
    """A name for each sample where the file tells one: its own, or its place in its group."""
    own = _column(batch, ("sample_id",), size)
    if own is not None and len({text(name) for name in own}) == size:
        return [text(name) or "" for name in own]
    if groups is None or _column(batch, _GROUPS, size) is None:
        return None
    seen: Counter[str] = Counter()
    names = []
    for group in groups:
        names.append(f"{group}/{seen[group]}")
        seen[group] += 1
    return names


def _samples(batch: PickledBatch, held: int, where: str) -> int:
    """How many of the samples are no copies that SkyRL adds to fill a batch."""
    added = batch.about.get("pad_size", 0)
    if type(added) is not int or not 0 <= added <= held:
        raise FormatError(f"{where}: pad_size: got {quoted(added, 40)}, expected at most {held}")
    return held - added


def read_pickle(path: Path) -> list[WireSample]:
    """The sequences of a pickled batch. Raises NoSamplesError when it has no routes."""
    if path.suffix == SUFFIX or path.is_dir():
        return read_store(path)
    batch = read_batch(path)
    try:
        return list(_sequences(batch, path))
    except FormatError as error:
        raise (
            error if str(error).startswith(str(path)) else FormatError(f"{path}: {error}")
        ) from None


def _sequences(batch: PickledBatch, path: Path) -> Iterator[WireSample]:
    """The rows of the batch's grid, or those that it has end to end."""
    routes: dict[str, Any] = {
        **{k: batch.tensors[k] for k in _ROUTES if k in batch.tensors},
        **{k: packed_rows(*batch.packed[k], f"{path}: {k}") for k in _ROUTES if k in batch.packed},
    }
    key = next((k for k, held in routes.items() if _holds_rows(held)), None)
    if key is None:
        what = f"a batch without {' or '.join(_ROUTES)} [B, S, layers, k]"
        raise NoSamplesError(f"{path}: {what}: {unlike(batch.tensors, 'batch')}")
    held = len(routes[key])
    size = _samples(batch, held, str(path))
    groups = _groups(batch, held)
    about: dict[str, Sequence[Any]] = {
        "sample_id": _names(batch, groups, held) or [],
        "group_id": groups or [],
        **{name: batch.columns[name].values for name in _STEPS if name in batch.columns},
    }
    tensors: dict[str, Any] = {
        n: a[:size] if a.ndim and len(a) == held else a for n, a in batch.tensors.items()
    }
    if isinstance(routes[key], PackedRows):
        tensors[key] = routes[key].first(size)
    return read_grid(tensors, key, path, {n: v for n, v in about.items() if v})


def _holds_rows(held: Any) -> bool:
    return isinstance(held, PackedRows) or held.ndim == 4
