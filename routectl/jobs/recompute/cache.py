"""Recomputes of a dump at checkpoints, each made once and kept by what it was made of."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import FormatError, MismatchError
from ...files.private import close_to_others, private_folder
from ...files.reading import open_regular, read_bytes
from ..progress import Progress
from .crew import Crew
from .parts import open_parts, parts_folder
from .run import Saving, write_recompute
from .samples import job_of
from .share import Work

if TYPE_CHECKING:
    from ...dump import Dump
    from ...forward import Prepared

__all__ = ["RecomputeCache", "refuse_other_shape", "user_cache"]

_MEMO = "weights.json"
_CHUNK = 1 << 24
_MAX_MEMO = 64 << 20
# what a job says that a recompute is not made of
_OF_PLACES = ("checkpoint", "dump", "dump_bytes", "mode", "tokens")


@dataclass(frozen=True, slots=True)
class RecomputeCache:
    """A folder of native files, each named by the digest of weights, tokens and job.

    A file appears whole or not at all. ``weights.json`` remembers the digests of weight files by
    path, size and time of change, so that they are read for it once. Only its user can look into
    the folder: see ``files.private``.
    """

    folder: Path

    def recomputed(
        self, work: Work, crew: Crew, prepared: "Prepared", source: "Dump", modes: tuple[str, ...]
    ) -> dict[str, Path]:
        """The file of each mode; what is not there yet is run, going on where a run was killed."""
        private_folder(self.folder, _is_cache)
        for path in self.folder.iterdir():
            close_to_others(path)
        made_of = {**_made_of(prepared, source), "weights": self._weights(prepared, crew.progress)}
        targets = {mode: self._path(made_of, source, mode) for mode in modes}
        absent = {mode: path for mode, path in targets.items() if not path.exists()}
        if absent:
            # the forced file's name holds the routes too, so that parts of others are never met
            output = absent.get("forced") or absent["free"]
            mode = "both" if len(absent) > 1 else next(iter(absent))
            own = replace(work.given((), mode=mode), output=output)
            self._drop_foreign_parts(own, source, tuple(absent), crew.progress)
            saving = Saving(targets=absent, inputs=None, resume=True, force=True)
            write_recompute(own, crew, saving)
            for path in absent.values():
                close_to_others(path)
        return targets

    def _path(self, made_of: Mapping[str, Any], source: "Dump", mode: str) -> Path:
        """The file of a mode; forced ones, and gates, depend on the dump's routes too."""
        of_routes = mode == "forced" or made_of["gate_logprobs"]
        digest = _digest({**made_of, **({"routes": _routes_digest(source)} if of_routes else {})})
        return self.folder / f"{digest}{'' if mode == 'free' else '.forced'}.parquet"

    def _weights(self, prepared: "Prepared", progress: Progress) -> dict[str, str]:
        """The sha256 of config.json and of every weight file, by name."""
        memo_path, files = self.folder / _MEMO, _content_files(prepared.options.checkpoint)
        memo, found = _read_memo(memo_path), {}
        unknown = [path for path in files if _memo_key(path) not in memo]
        total = sum(path.stat().st_size for path in unknown)
        with progress.counting(
            "reading weights", max(1, total // _CHUNK), "x 16 MB", _bytes_rate
        ) as read:
            for path in files:
                key = _memo_key(path)
                memo[key] = memo.get(key) or _sha256(path, read)
                found[path.name] = memo[key]
        if unknown:
            _write_whole(memo_path, json.dumps(memo, indent=1, sort_keys=True) + "\n")
        return found

    def _drop_foreign_parts(
        self, work: Work, source: "Dump", modes: tuple[str, ...], progress: Progress
    ) -> None:
        """Let go of the parts of a killed run that was not this one: of other paths, say."""
        folder = parts_folder(work.output)
        if not folder.exists():
            return
        try:
            open_parts(work.output, job_of(work.prepare(), source), modes, resume=True)
        except (FormatError, MismatchError) as error:
            progress.note(f"starting anew: {error}")
            shutil.rmtree(folder)


def user_cache() -> Path:
    """Where recomputes are kept that no folder was named for: in XDG_CACHE_HOME, else ~/.cache."""
    named = os.environ.get("XDG_CACHE_HOME", "")
    root = Path(named) if os.path.isabs(named) else Path.home() / ".cache"
    return root / "routectl" / "recomputed"


def refuse_other_shape(
    told: str, prepared: "Prepared", source: "Dump", *, some_layers: bool
) -> None:
    """Raise MismatchError before weights are run whose routes are not of the dump's shape.

    told names the weights; some_layers tells that they may have other layers than the dump.
    """
    first, meta = prepared.routers[0], source.meta
    for name, got, expected in (
        ("num_experts", first.num_choices, meta.num_experts),
        ("top_k", first.top_k, meta.top_k),
        ("layers", prepared.layers, meta.layers_L),
    ):
        if got != expected and not (some_layers and name == "layers"):
            raise MismatchError(
                f"{told} is of another shape than {meta.path}: {name}: "
                f"got {got}, expected {expected}",
                hint="--layers compares some of the layers" if name == "layers" else None,
            )


def _content_files(checkpoint: Path) -> list[Path]:
    """The files that a checkpoint's routes depend on."""
    names = ("config.json", "*.safetensors", "*.safetensors.index.json")
    return sorted(path for name in names for path in checkpoint.glob(name))


def _made_of(prepared: "Prepared", source: "Dump") -> dict[str, Any]:
    """What a recompute's content depends on, weights and routes aside."""
    job = {k: v for k, v in job_of(prepared, source).items() if k not in _OF_PLACES}
    tokens = hashlib.sha256()
    for key in source.keys:
        for part in ((key.sample_id or "").encode(), key.tokens or b"", key.prompt or b""):
            tokens.update(len(part).to_bytes(8, "little") + part)
    return {**job, "tokens": tokens.hexdigest(), "layout": 1}


def _digest(about: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:32]


def _routes_digest(source: "Dump") -> str:
    """The digest of every route of a dump."""
    found = hashlib.sha256()
    for sample in source:
        routes = sample.routes
        if routes is None:
            found.update(b"none")
            continue
        shape = (*routes.ids_TLK.shape, routes.start, *routes.layers_L)
        found.update(repr((shape, routes.ids_TLK.dtype.str)).encode())
        found.update(routes.ids_TLK.tobytes())
        found.update(b"" if routes.missing_TL is None else routes.missing_TL.tobytes())
    return found.hexdigest()


def _memo_key(path: Path) -> str:
    about = path.stat()
    return f"{path.resolve()} {about.st_size} {about.st_mtime_ns}"


def _is_cache(folder: Path) -> bool:
    """Whether a folder is a cache already, or empty."""
    return (folder / _MEMO).exists() or not any(folder.iterdir())


def _read_memo(path: Path) -> dict[str, str]:
    """What is remembered; a memo that cannot be read is none."""
    try:
        found = json.loads(read_bytes(path, _MAX_MEMO))
    except (FormatError, ValueError, RecursionError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {str(key): value for key, value in found.items() if isinstance(value, str)}


def _sha256(path: Path, read: Callable[[int], None]) -> str:
    found = hashlib.sha256()
    try:
        with open_regular(path) as stream:
            while block := stream.read(_CHUNK):
                found.update(block)
                read(len(block))
    except OSError as error:
        raise FormatError(f"{path}: cannot be read: {error.strerror}") from None
    return found.hexdigest()


def _bytes_rate(speed: float) -> str:
    return f"{speed / 1e6:,.0f} MB/s"


def _write_whole(path: Path, text: str) -> None:
    from ...files.writing import replacing

    with replacing(path, force=True, private=True) as stream:
        stream.write(text.encode())
