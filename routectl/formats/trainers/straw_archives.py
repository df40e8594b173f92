"""slime's rollout archives in straw's store: an index (``*.straw.json``), samples in packs.

A collection is tagged JSON: a list is what its first item says, and a tensor names a record. It is
no pickle, and no class that a payload names is looked for. Sources: slime b2d74b11
(data/archive.py) and 5dcf67cd (data/codec.py); vime has the same under its own name.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import FormatError, UnsupportedError
from ...files.reading import read_bytes
from ...limits import limits
from ...visible import quoted
from ..documents.fields import from_json
from ..wire.sample import WireSample
from .rollout_samples import read_rollout
from .straw_packs import PackPool

__all__ = ["read_archive"]

_FORMATS = {"slime.straw-debug": "slime", "vime.straw-debug": "vime"}
_FIELDS = (  # of a sample, those that a rollout dump is read for
    *("tokens", "response_length", "loss_mask", "status", "index", "group_index", "rollout_id"),
    *("rollout_routed_experts", "rollout_log_probs", "weight_versions", "queue_policy_segments"),
    *("metadata", "prefix_cache_info"),
)
_INFO = ("spec-info", "prefix-cache-info", "dynamic-filter")
_UNREAD = ("bytes", "image-png", "record-set")
_SPECIAL = ("inf", "-inf", "nan")
_DAMAGE = (KeyError, IndexError, TypeError, ValueError, AttributeError, RecursionError)


@dataclass(frozen=True, slots=True)
class _Elsewhere:
    """A collection that another one names."""

    reference: Any
    more: Any


class _Collection:
    """The values of one record set."""

    def __init__(self, pool: PackPool, reference: Any, codec: str, where: str) -> None:
        self._pool, self._where = pool, where
        members = pool.members(reference)
        self._needed = members.dependencies
        self._sets: dict[int, Any] = {}
        records = [pool.record(*one) for one in members.records]
        if len(records) != 1 or records[0].codec != codec:
            raise UnsupportedError(f"{where}: expected one record of {codec}")
        doc = from_json(bytes(records[0].payload), where)
        if doc["version"] != 1:
            raise UnsupportedError(f"{where}: version {quoted(doc['version'], 20)} of {codec}")
        self._tree = doc["tree"]

    def values(self) -> Any:
        """All of it, tensors as arrays; of samples what a rollout dump is read for."""
        return self._visit(self._tree)

    def _visit(self, node: Any) -> Any:
        if not isinstance(node, list):
            return node
        tag = node[0]
        if tag == "dict":
            return {self._visit(key): self._visit(value) for key, value in node[1]}
        if tag in ("list", "tuple"):
            return [self._visit(item) for item in node[1]]
        if tag == "sample":
            return {key: self._visit(value) for key, value in node[1][1] if key in _FIELDS}
        if tag in _INFO or tag == "ndarray":
            return self._visit(node[1])
        if tag == "status":
            return node[1]
        if tag == "float" and node[1] in _SPECIAL:
            return float(node[1])
        if tag == "tensor":
            return self._tensor(node)
        if tag == "rollout-ref":
            return _Elsewhere(self._needed[_place(node[2])], self._visit(node[3]))
        if tag in _UNREAD:
            return None
        raise UnsupportedError(f"{self._where}: a value of kind {quoted(tag, 40)}")

    def _tensor(self, node: list[Any]) -> Any:
        number, ordinal = _place(node[1]["dependency"]), _place(node[1]["ordinal"])
        if number not in self._sets:
            self._sets[number] = self._pool.members(self._needed[number]).records
        array = self._pool.record(*self._sets[number][ordinal]).tensor(self._where)
        if array is not None and (list(array.shape), array.dtype.name) != (node[2], node[3]):
            raise FormatError(f"{self._where}: a tensor {array.shape}, expected {quoted(node[2])}")
        return array


def _place(number: Any) -> int:
    """An index from 0 on; Python would count others from the end."""
    if type(number) is not int or number < 0:
        raise FormatError(f"an index of {quoted(number, 20)}")
    return number


def _root(path: Path, said: Any) -> Path:
    """The folder of the packs: beside the index by its own name, else where it was written."""
    if not isinstance(said, str) or not Path(said).name:
        raise FormatError(f"{path}: root: got {quoted(said, 80)}, expected a folder")
    beside = path.parent / Path(said).name
    return beside if beside.is_dir() else Path(said)


def read_archive(path: Path) -> tuple[list[WireSample], int]:
    """The sequences of an archive, in its order, and the bytes of index and packs.

    Raises FormatError on damage, UnsupportedError for an archive of references into a queue.
    """
    try:
        index = from_json(read_bytes(path, limits().document), str(path))
        name = _FORMATS.get(index["format"])
        if name is None or index["version"] != 1:
            raise UnsupportedError(
                f"{path}: {quoted(index['format'], 40)} {quoted(index['version'], 20)}, this "
                f"routectl reads version 1 of {' and '.join(_FORMATS)}"
            )
        pool, codec = PackPool(_root(path, index["root"]), str(path)), f"{name}.v1"
        contents = _Collection(pool, index["manifest"], codec, str(path)).values()
        wires = read_rollout(_samples(contents, pool, codec, path), path, name)
        return wires, path.stat().st_size + pool.num_bytes
    except _DAMAGE as error:
        kind = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise FormatError(f"{path}: damaged archive of rollouts: {quoted(kind, 120)}") from None
    except FormatError as error:
        known = str(error).startswith(("/", str(path)))
        raise error if known else FormatError(f"{path}: {error}") from None


def _samples(contents: Any, pool: PackPool, codec: str, path: Path) -> list[Mapping[str, Any]]:
    """The samples that an archive's entries name."""
    if "raw" in contents:
        raise UnsupportedError(
            f"{path}: an archive of references into a rollout queue",
            hint="RolloutArchive(path).export_pt(file) writes a dump of it",
        )
    found, loaded = [], {}
    for entry in contents["entries"]:
        chunk = _place(entry["chunk"])
        if chunk not in loaded:
            elsewhere = contents["chunks"][chunk]
            if elsewhere.more:
                raise UnsupportedError(f"{path}: a part of a collection, not all of it")
            loaded[chunk] = _Collection(pool, elsewhere.reference, codec, str(path)).values()
        found.append(loaded[chunk][_place(entry["offset"])])
    return found
