"""The one place that leans on transformers' undocumented functions: a model without weights.

Verified with transformers 5.21 to 5.24, each on the families that it has (5.20 has other
quantizers): ``core_model_loading`` (renaming and conversion of checkpoint keys),
``conversion_mapping``, ``initialization`` and the quantizers. With a newer one a run is held
against the recipes of its routers (``Prepared.unverified``).
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from ..checkpoints.checkpoint import Checkpoint
from ..checkpoints.scales import quantization_of, refused_method
from ..errors import FormatError, RoutectlError, UnsupportedError, extra_hint
from ..files.places import RemotePath
from ..files.reading import read_bytes
from ..files.scratch import scratch_folder
from ..files.writing import replacing
from ..routers.families import FIRST, NEWEST, minor_of
from ..routers.from_config import recipe_from_config
from .options import RunOptions
from .routers import RouterAt, find_routers, layer_of, refuse_family

__all__ = [
    "Skeleton",
    "build_skeleton",
    "config_of",
    "errors_told",
    "fill_buffers",
    "keep_stored",
    "model_class",
    "transformers_version",
    "unverified",
]

NEEDED = ("transformers", "accelerate", "greenlet")
ALIASES = {"kimi_k2": "deepseek_v3"}  # remote-code names of a family that transformers has
BIASES = ("e_score_correction_bias", "expert_bias", "balancing_biases")
_LAYERS = ("num_hidden_layers", "num_layers", "n_layer", "n_layers")
_ROWS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts", "num_labels")


@dataclass(frozen=True, slots=True, eq=False)
class Skeleton:
    """A model on the meta device, its routers, and what turns checkpoint tensors into its own.

    layers is the name of the list of decoder layers. Buffers that no checkpoint has (rope tables)
    are real, on the device of the run, after ``fill_buffers``. quantizer is transformers' for
    mxfp4, else None.
    """

    model: Any
    routers: tuple[RouterAt, ...]
    layers: str
    num_layers: int
    dtype: torch.dtype
    conversions: tuple[Any, ...]
    quantizer: Any

    def dtype_of(self, name: str) -> torch.dtype:
        """The dtype that from_pretrained gives a parameter or buffer."""
        for pattern, dtype in self.model._get_dtype_plan(self.dtype).items():
            if re.search(pattern.replace("*", ".*"), name):
                return dtype  # type: ignore[no-any-return]
        return self.model.get_parameter_or_buffer(name).dtype  # type: ignore[no-any-return]


def keep_stored(name: str) -> bool:
    """Whether a tensor is an expert bias, which is used in the dtype that it is stored in.

    transformers 5.24 rounds those of minimax_m2, laguna and longcat_flash to bf16, earlier ones
    those of kimi_linear and afmoe too.
    """
    return name.rsplit(".", 1)[-1] in BIASES


def config_of(checkpoint: Checkpoint, options: RunOptions) -> Any:
    """The checkpoint's config as a transformers object, with the implementations asked for.

    Raises FormatError where there is none, UnsupportedError for a transformers outside the range,
    for a family that it does not have and for weights that are not turned back; no code of the
    checkpoint is run, nothing is fetched.
    """
    transformers = _transformers()
    folder = checkpoint.path
    if checkpoint.config is None:  # transformers would ask the hub for it
        raise FormatError(f"{folder}: no config.json: expected a Hugging Face folder")
    with _config_here(folder) as here:
        document, _ = transformers.PreTrainedConfig.get_config_dict(here)
    kind = str(document.get("model_type"))
    refuse_family(kind)
    kind = ALIASES.get(kind, kind)
    if kind not in transformers.CONFIG_MAPPING:
        raise UnsupportedError(
            f"{folder}: transformers {transformers.__version__} has no family {kind!r}",
            hint=_without_forward(document),
        )
    document.pop("auto_map", None)
    quantization = quantization_of(document)
    if quantization is not None and (why := refused_method(quantization)) is not None:
        raise UnsupportedError(f"{folder}: {why}")
    _check_sizes(document, checkpoint)
    with errors_told(folder):
        config = transformers.CONFIG_MAPPING[kind].from_dict({**document, "model_type": kind})
        config.output_router_logits = False
        _set_quantization(config, quantization)
        config._attn_implementation = options.attention
        config._experts_implementation = options.experts
    return config


def _without_forward(document: Mapping[str, Any]) -> str | None:
    """What can be done with a family that only engines run; None where its routers are unknown."""
    try:
        recipe_from_config(document, "config.json")
    except RoutectlError:
        return None
    return "its routers alone run on dumped router inputs: recompute CHECKPOINT INPUTS.safetensors"


@contextmanager
def _config_here(folder: Path) -> Iterator[Path]:
    """A folder of this machine with the config.json of a checkpoint: its own, or a copy's."""
    if not isinstance(folder, RemotePath):
        yield folder
        return
    with scratch_folder("config") as copy:
        with replacing(copy / "config.json", force=True) as stream:
            stream.write(read_bytes(folder / "config.json"))
        yield copy


@contextmanager
def errors_told(folder: Path, newer: str = "") -> Iterator[None]:
    """Whatever transformers raises while it makes a model of a config.json, in one line.

    It checks some fields, and fails on others wherever they are used, by errors of any class; a
    ``newer`` one than is verified may have other functions.
    """
    try:
        yield
    except (RoutectlError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # noqa: BLE001 - of the library, on a document of others
        said = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        if newer:
            raise UnsupportedError(
                f"{newer}, and makes no model: {said}", hint=extra_hint("models")
            ) from None
        raise FormatError(
            f"{folder}: transformers makes no model of its config.json: {said}"
        ) from None


def _check_sizes(document: Mapping[str, Any], checkpoint: Checkpoint) -> None:
    """Raise FormatError for more layers than tensors, or more experts than these have rows.

    A layer is some tensors, and an expert is some, or a row of one; transformers makes as many
    modules and names as the config says before anything is compared.
    """
    tensors = checkpoint.tensors.values()
    rows = max([len(tensors), *(size for info in tensors for size in info.shape)])
    for name, value in document.items():
        if isinstance(value, Mapping):
            _check_sizes(value, checkpoint)
        most = len(tensors) if name in _LAYERS else rows
        if name in (*_LAYERS, *_ROWS) and isinstance(value, int) and value > most:
            raise FormatError(
                f"{checkpoint.path}: config.json: {name}: got {value}, expected at most {most}: "
                f"the checkpoint has {len(tensors)} tensors"
            )


def model_class(config: Any) -> Any:
    """The class to run: the family's causal model, else the one that the config names."""
    transformers = _transformers()
    mapping = transformers.AutoModelForCausalLM._model_mapping
    if type(config) in mapping:
        return mapping[type(config)]
    for name in config.architectures or ():
        if (found := getattr(transformers, name, None)) is not None:
            return found
    mapping = transformers.AutoModel._model_mapping
    if type(config) in mapping:
        return mapping[type(config)]
    raise UnsupportedError(f"{config.model_type}: transformers names no model class for it")


def build_skeleton(config: Any, options: RunOptions) -> Skeleton:
    """A model of the config without weights; some 0.3 s for DeepSeek-V3's sizes.

    Raises UnsupportedError where no router is found or the quantization is not known.
    """
    from transformers import initialization
    from transformers.conversion_mapping import get_model_conversion_mapping

    with errors_told(options.checkpoint):
        dtype = _dtype_of(config, options.dtype)
        quantizer = _quantizer_of(config)
        try:
            with (
                torch.device("meta"),
                initialization.no_init_weights(),
                initialization.meta_device_safe_creation_ops(),
            ):
                model = model_class(config)._from_config(config, dtype=dtype).eval()
        except (ValueError, ImportError) as error:  # implementations that it does not have
            said = " ".join(str(error).split())
            raise UnsupportedError(f"{options.checkpoint}: {said}") from None
        if quantizer is not None:
            quantizer.preprocess_model(
                model=model, dtype=dtype, device_map=None, checkpoint_files=[]
            )
    routers = find_routers(model)
    layers, _ = layer_of(routers[0].name)
    conversions = tuple(get_model_conversion_mapping(model, None, quantizer))
    depth = len(model.get_submodule(layers))
    return Skeleton(model, routers, layers, depth, dtype, conversions, quantizer)


def _transformers() -> Any:
    """The library, its version checked."""
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        raise UnsupportedError(
            f"running a model needs {' and '.join(missing)}", hint=extra_hint("models")
        )
    import transformers

    if minor_of(transformers.__version__) < minor_of(FIRST):
        raise UnsupportedError(
            f"transformers {transformers.__version__} is older than what is verified: "
            f"expected {FIRST} or later",
            hint=extra_hint("models"),
        )
    return transformers


def transformers_version() -> str:
    """The version of transformers that is installed. Raises UnsupportedError for none or an old."""
    return str(_transformers().__version__)


def unverified() -> str:
    """What is said of a transformers that is newer than the verified ones; empty for these."""
    version = transformers_version()
    if minor_of(version) <= minor_of(NEWEST):
        return ""
    return f"transformers {version} is newer than {NEWEST}, the newest that is verified"


def _dtype_of(config: Any, wanted: str) -> torch.dtype:
    """The dtype asked for; "auto" is the config's, float32 where it names none."""
    named = config.dtype or config.get_text_config().dtype or torch.float32
    named = named if wanted == "auto" else wanted
    found = getattr(torch, named) if isinstance(named, str) else named
    if not isinstance(found, torch.dtype):
        raise TypeError(f"dtype: got {str(found)[:80]!a}")
    return found


def _set_quantization(config: Any, quantization: Mapping[str, Any] | None) -> None:
    """Let transformers undo mxfp4; other quantised weights are plain ones when it sees them."""
    for part in (config, config.get_text_config()):
        if getattr(part, "quantization_config", None) is not None:
            del part.quantization_config
    if quantization is not None and quantization.get("quant_method") == "mxfp4":
        config.quantization_config = {**quantization, "dequantize": True}


def _quantizer_of(config: Any) -> Any:
    """transformers' quantizer that turns stored weights into plain ones, or None."""
    from transformers.quantizers.auto import AutoHfQuantizer

    found = getattr(config, "quantization_config", None)
    if found is None:
        return None
    return AutoHfQuantizer.from_config(dict(found), pre_quantized=True)


def fill_buffers(skeleton: Skeleton, options: RunOptions) -> None:
    """Compute what no checkpoint has: rope tables and the like, on the device of the run.

    To be done when the model is known to be the checkpoint's (Store): these are as large as the
    config says.
    """
    model = skeleton.model
    for tensor in (*model.parameters(), *model.buffers()):
        tensor._is_hf_initialized = True
    for name, buffer in list(model.named_non_persistent_buffers()):
        holder = model.get_submodule(name.rpartition(".")[0])
        holder._buffers[name.rpartition(".")[2]] = torch.empty_like(buffer, device=options.device)
    with errors_told(options.checkpoint):
        model.initialize_weights()
    if any(b.device.type == "meta" for _, b in model.named_non_persistent_buffers()):
        raise FormatError(f"{type(model).__name__}: a buffer that no checkpoint has was not made")
