"""The local cache of Hugging Face's hub: the config.json of a model that was fetched before."""

import os
import re
from pathlib import Path

from ...errors import FormatError
from ...files.reading import read_text

__all__ = ["cached_config", "hub_folder"]

_NAME = re.compile(r"[\w.-]{1,96}(?:/[\w.-]{1,96})?", re.ASCII)
_REVISION = re.compile(r"[\w.-]{1,64}", re.ASCII)


def hub_folder() -> Path:
    """Where huggingface_hub keeps what it fetched.

    Source: huggingface_hub 1.x, constants.py: HF_HUB_CACHE, else HUGGINGFACE_HUB_CACHE, else hub
    in HF_HOME, which is huggingface in XDG_CACHE_HOME or in ~/.cache.
    """
    named = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")
    if not named:
        caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        named = f"{os.environ.get('HF_HOME') or f'{caches}/huggingface'}/hub"
    return Path(os.path.expandvars(named)).expanduser()


def cached_config(name: str) -> Path | None:
    """The config.json of ``org/name`` in the cache; None for what is no name, or is not there.

    The revision is that of refs/main, or the only one. Nothing is fetched. Raises FormatError
    where the model is there and its config is not.
    """
    if not _NAME.fullmatch(name) or ".." in name:
        return None
    folder = hub_folder() / f"models--{name.replace('/', '--')}"
    try:
        if not folder.is_dir():
            return None
        snapshot = _snapshot(folder)
    except (OSError, UnicodeDecodeError) as error:
        raise FormatError(f"{name}: {folder} cannot be read: {error}") from None
    config = snapshot / "config.json"
    if not config.is_file():
        raise FormatError(f"{name}: no config.json in {snapshot}, where it is cached")
    return config


def _snapshot(folder: Path) -> Path:
    """The folder of a model's revision."""
    main = folder / "refs" / "main"
    if main.is_file():
        revision = read_text(main, 65, "too long for a revision").strip()
        if _REVISION.fullmatch(revision) and ".." not in revision:
            return folder / "snapshots" / revision
    there = sorted((folder / "snapshots").glob("*"))
    return there[0] if len(there) == 1 else folder / "snapshots"
