"""Trainers' files newer than what one environment holds: run by path, their packages left aside.

A folder ``.trainers/NAME-VERSION`` at the root of the repository has the unpacked package, as
``python tests/trainers/environments.py`` makes it; git does not see it. The newest that is there is
taken. Tests are skipped where none is. SkyRL that can be imported as it is (Python 3.12) comes
first: then nothing of it is left aside.
"""

import contextlib
import importlib
import logging
import sys
from importlib import metadata
from pathlib import Path
from types import ModuleType

from packaging.version import Version

__all__ = [
    "ART",
    "ART_NEWEST",
    "HAVE_SKYRL",
    "UNSLOTH",
    "art_replay",
    "skyrl_modules",
    "unsloth_replay",
]

_HERE = Path(__file__).resolve().parent.parent.parent / ".trainers"


def _newest(name):
    """The folder of the newest version; of none where there is none."""
    found = {Version(one.name.partition("-")[2]): one for one in _HERE.glob(f"{name}-*")}
    return found[max(found)] if found else _HERE / name


def _importable_skyrl():
    """Whether a SkyRL of the newer form is installed."""
    with contextlib.suppress(metadata.PackageNotFoundError):
        return Version(metadata.version("skyrl")) >= Version("0.4")
    return False


SKYRL = _newest("skyrl")
HAVE_SKYRL = _importable_skyrl() or SKYRL.is_dir()
UNSLOTH = _newest("unsloth_zoo")
ART = _HERE / "openpipe_art-0.5.18"  # the last that takes bundles of version 1
ART_NEWEST = _newest("openpipe_art")  # of version 4: 0.5.23
_PACKAGES = (  # whose __init__ files import what is not there
    *("skyrl", "skyrl.backends", "skyrl.backends.skyrl_train", "skyrl.train"),
    *("skyrl.train.dataset", "skyrl.backends.skyrl_train.utils"),
    *("skyrl.backends.skyrl_train.distributed", "skyrl.backends.skyrl_train.distributed.megatron"),
)


class _Any:
    """A type of tensors: Float[torch.Tensor, "batch"] is just that."""

    def __class_getitem__(cls, item):
        return cls


def _package(name, folder):
    """A package without its __init__: its modules are files of ``folder``."""
    module = ModuleType(name)
    module.__path__ = [str(folder / name.replace(".", "/"))]
    return module


@contextlib.contextmanager
def _importable(folder, packages, stubs):
    """The modules of packages under ``folder`` are imported from there, inside."""
    made = {name: _package(name, folder) for name in packages}
    for name, held in stubs.items():
        made[name] = ModuleType(name)
        vars(made[name]).update(held)
    roots = {name.partition(".")[0] for name in (*packages, *stubs)}
    before = _taken_out(roots)
    sys.modules.update(made)
    try:
        yield
    finally:  # theirs alone goes: torch and Megatron-Core, imported meanwhile, cannot be again
        _taken_out(roots)
        sys.modules.update(before)


def _taken_out(roots):
    """Take the modules of these packages out of sys.modules; gives them back."""
    names = [name for name in sys.modules if name.partition(".")[0] in roots]
    return {name: sys.modules.pop(name) for name in names}


@contextlib.contextmanager
def skyrl_modules():
    """SkyRL 0.4.0's own training_batch, packed_tensor, token_metadata, replay_utils, preprocess.

    Its classes can be pickled and unpickled inside. By path, jaxtyping (types alone) and loguru are
    not needed.
    """
    stubs = {
        "jaxtyping": dict.fromkeys(("Bool", "Float", "Integer"), _Any),
        "loguru": {"logger": logging.getLogger("skyrl")},
    }
    train = "skyrl.backends.skyrl_train"
    names = {
        "batch": f"{train}.training_batch",
        "packed": f"{train}.utils.packed_tensor",
        "layout": f"{train}.distributed.megatron.token_metadata",
        "replay": f"{train}.utils.replay_utils",
        "preprocess": "skyrl.train.dataset.preprocess",
    }
    by_path = _importable(SKYRL, _PACKAGES, stubs)
    with contextlib.nullcontext() if _importable_skyrl() else by_path:
        yield {short: importlib.import_module(name) for short, name in names.items()}


@contextlib.contextmanager
def art_replay(folder=ART, module="art.megatron.routing_replay"):
    """A module of ART's own, its routing_replay; Megatron-Core's and pydantic are the real ones."""
    names = {"canonical_art_param_name": lambda name: name}
    stubs = {
        "art.megatron.weights.param_name_canonicalization": names,
        "art.openai": {"ART_MOE_ROUTING_METADATA_KEY": ""},
        **{name: {} for name in ("openai", "openai.types", "openai.types.chat")},
        "openai.types.chat.chat_completion": {"Choice": None},  # types of answers alone
    }
    packages = ("art", "art.megatron", "art.megatron.weights", "art.preprocessing")
    with _importable(folder, packages, stubs):
        yield importlib.import_module(module)


@contextlib.contextmanager
def unsloth_replay():
    """unsloth_zoo's own routing_replay: its package asks for a GPU, this module for torch alone."""
    with _importable(UNSLOTH, ("unsloth_zoo",), {}):
        yield importlib.import_module("unsloth_zoo.routing_replay")
