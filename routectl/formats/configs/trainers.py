"""What a trainer's own config says of a layout, by the trainer's own names.

Sources: verl 0.9.1 ``trainer/config`` (engine/megatron.yaml, engine/veomni.yaml, actor); slime
624b824a ``utils/arguments.py``; ROLL 8eb27cc2 ``configs/base_config.py``, ``worker_config.py``,
router_replay.md and dynamic_batching.md; ms-swift 4.6 ``MegatronArguments``; Megatron-Core 0.16.1
``ModelParallelConfig`` and ``TransformerConfig``, Megatron-LM's arguments. docs/layouts.md has it.
"""

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

from .flat import Flat
from .script import plain_value

__all__ = ["Doubt", "TrainerLayout", "trainer_layout"]


@dataclass(frozen=True, slots=True)
class Doubt:
    """What a config says that no layout would follow.

    settled_by are keys of which any settles it, given elsewhere; where there is none, nothing does.
    """

    what: str
    settled_by: tuple[str, ...]


@dataclass(slots=True)
class TrainerLayout:
    """A layout, as a trainer's config has it.

    trainer   whose config it is
    values    by the fields of a layout
    origins   for each of them, what the config calls it
    gpus      of all data-parallel ranks together, None where it does not say
    doubts    what cannot be followed
    unread    what has no place in a layout, and is not followed
    """

    trainer: str
    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)
    gpus: int | None = None
    doubts: list[Doubt] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)


_SIZES = {  # Megatron's own names, which all others took over; the later of a field wins
    "tensor_model_parallel_size": "tp",
    "context_parallel_size": "cp",
    "pipeline_model_parallel_size": "pp",
    "virtual_pipeline_model_parallel_size": "vpp",
    "num_virtual_stages_per_pipeline_rank": "vpp",
    "expert_model_parallel_size": "ep",
    "num_layers": "decoder_layers",
    "num_layers_in_first_pipeline_stage": "first_stage_layers",
    "num_layers_in_last_pipeline_stage": "last_stage_layers",
    "decoder_first_pipeline_num_layers": "first_stage_layers",
    "decoder_last_pipeline_num_layers": "last_stage_layers",
}
_SWITCHES = {
    "account_for_embedding_in_pipeline_split": "account_embedding",
    "account_for_loss_in_pipeline_split": "account_loss",
}
_OF_MODEL = ("decoder_layers", "moe_layer_freq")  # --model says them as well
_OF_SLIME = {
    *("use_rollout_routing_replay", "use_routing_replay", "rollout_num_gpus", "allgather_cp"),
    *("max_tokens_per_gpu", "data_pad_size_multiplier", "actor_num_gpus_per_node"),
    *("use_dynamic_batch_size", "rollout_num_gpus_per_engine", "num_rollout"),
}
_OF_SWIFT = {"padding_free", "rlhf_type", "tuner_type", "cp_partition_mode", "packing_length"}
_MEGATRON_TABLES = ("", "model.", "model_parallel.", "language_model.", "args.")
_INTERPOLATED = re.compile(r"\$\{([\w.]+)\}")
_GPUS = re.compile(r"list\(range\((\d{1,6}),\s*(\d{1,6})\)\)")
_BATCHES = ("max_tokens_per_gpu", "micro_batch_size")
_FP8 = ("blockwise", "mxfp8", "tensorwise")


class _Reader:
    """A config that is read: what was found goes into ``found``."""

    def __init__(self, trainer: str, flat: Flat) -> None:
        self.flat = flat
        self.found = TrainerLayout(trainer)

    def get(self, name: str) -> Any:
        """A setting, None where there is none; ``${a.b}`` is the setting a.b."""
        value = self.flat.get(name)
        for _ in range(8):
            named = _INTERPOLATED.fullmatch(value) if isinstance(value, str) else None
            if named is None or named[1] not in self.flat:
                break
            value = self.flat[named[1]]
        return plain_value(value) if isinstance(value, str) else value

    def is_on(self, name: str, default: bool = False) -> bool:
        """A switch. Anything but true and false is a doubt that nothing settles."""
        value = self.get(name)
        if value is None or isinstance(value, bool):
            return default if value is None else value
        self.doubt(f"{name} is {value!r:.60}, neither true nor false")
        return default

    def put(self, key: str, name: str, value: Any) -> None:
        """Note a value of a layout, and what the config calls it."""
        self.found.values[key], self.found.origins[key] = value, name

    def doubt(self, what: str, *settled_by: str) -> None:
        """Note what cannot be followed."""
        self.found.doubts.append(Doubt(what, settled_by))

    def take(self, key: str, name: str, least: int = 1) -> int | None:
        """Take a size; a value that is none is a doubt, which the key settles."""
        value = self.get(name)
        if value is None:
            return None
        if isinstance(value, int) and not isinstance(value, bool) and value >= least:
            self.put(key, name, value)
            return value
        if key in _OF_MODEL:
            self.found.unread.append(f"{name} {value!r:.60}")
        else:
            self.doubt(f"{name} is {value!r:.60}: no number", key)
        return None

    def count(self, *names: str) -> int | None:
        """The product of sizes, None unless all are there."""
        product = 1
        for name in names:
            value = self.get(name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                return None
            product *= value
        return product


def _megatron_part(config: _Reader, above: str, fp8: bool) -> None:
    """Sizes, stages and MoE layers, by Megatron's names below ``above``; fp8 where it pads."""
    for name, key in _SIZES.items():
        config.take(key, above + name, least=0 if key.endswith("_stage_layers") else 1)
    for name, key in _SWITCHES.items():
        if config.is_on(above + name):
            config.put(key, above + name, True)
    name = f"{above}pipeline_model_parallel_layout"
    layout = config.get(name)
    if isinstance(layout, str):
        config.put("pipeline_layout", name, layout)
    elif layout is not None:
        config.doubt(f"{name} is no text such as Et*3|(tt|)*2,L", "pipeline_layout")
    _take_freq(config, f"{above}moe_layer_freq")
    _take_chunks(config, f"{above}num_layers_per_virtual_pipeline_stage")
    for name in ("hybrid_context_parallel", "dynamic_context_parallel"):
        if config.is_on(above + name):
            config.doubt(f"{above}{name}: micro-batches have a CP size of their own", "plan")
    name = f"{above}hierarchical_context_parallel_sizes"
    if config.get(name) is not None:
        config.doubt(f"{name}: no layout of it is known")
    value = config.get(f"{above}sequence_parallel")
    if value is False and config.found.values.get("tp", 1) > 1:
        config.doubt(f"{above}sequence_parallel is false: every tp rank has all rows", "tp")
    _take_fp8(config, above, fp8)


def _take_freq(config: _Reader, name: str) -> None:
    value = config.get(name)
    if value is None:
        return
    if isinstance(value, int | str | list) and "$" not in str(value):
        config.put("moe_layer_freq", name, value)
    else:
        config.found.unread.append(f"{name} {value!r:.60}")


def _take_chunks(config: _Reader, name: str) -> None:
    """vpp out of the layers of a chunk."""
    if config.get(name) is None:
        return
    layers, pp = config.found.values.get("decoder_layers"), config.found.values.get("pp", 1)
    size = config.count(name)
    if layers is None or size is None or layers % (pp * size):
        config.doubt(f"{name} {config.get(name)!r:.60}: it needs num_layers, a multiple", "vpp")
    else:
        config.put("vpp", name, layers // (pp * size))


def _take_fp8(config: _Reader, above: str, pads: bool) -> None:
    name = next((n for n in ("fp8", "fp8_format") if config.get(above + n) is not None), None)
    if name is None:
        return
    recipe = config.get(f"{above}fp8_recipe") or "delayed"
    if not pads:
        config.found.unread.append(f"{above}{name}: {config.found.trainer} pads no more for it")
    elif recipe in _FP8:
        config.put("fp8", f"{above}fp8_recipe", recipe)
    else:
        config.doubt(f"{above}fp8_recipe is {recipe!r:.60}: known are {', '.join(_FP8)}", "fp8")


def _take_gpus(config: _Reader, *names: str) -> None:
    config.found.gpus = config.count(*names)
    if config.found.gpus is not None:
        config.found.origins["dp"] = " x ".join(names)


def _take_batches(config: _Reader, dynamic: bool, tokens: str, samples: str) -> None:
    """Micro-batches of so many tokens, or of so many samples."""
    if dynamic:
        config.take("max_tokens_per_gpu", tokens)
        if config.get(tokens) is None:
            config.doubt(f"no {tokens}, which the size of a micro-batch is", "max_tokens_per_gpu")
    else:
        config.take("micro_batch_size", samples)


def _verl(config: _Reader) -> None:
    actor = "actor_rollout_ref.actor."
    strategy = config.get(f"{actor}strategy")
    megatron = f"{actor}megatron."
    if strategy is None and any(name.startswith(megatron) for name in config.flat):
        strategy = "megatron"
    config.put("framework", f"{actor}strategy", "verl")
    if strategy == "megatron":
        _megatron_part(config, megatron, fp8=True)
        _megatron_part(config, f"{megatron}override_transformer_config.", fp8=True)
        if not config.is_on(f"{megatron}use_remove_padding", True):
            config.put("form", f"{megatron}use_remove_padding", "bshd")
            if config.is_on(f"{megatron}pad_bshd_to_minibatch_max", True):
                name = f"{megatron}pad_bshd_to_minibatch_max"
                config.doubt(f"{name}: S is the longest of a mini-batch", "seq_len")
        elif config.is_on(f"{megatron}pad_to_length"):
            config.take("bucket", f"{megatron}pad_to_length_bucket")
    elif strategy == "veomni":
        config.put("framework", f"{actor}strategy", "ulysses")
        config.take("cp", f"{actor}veomni.ulysses_parallel_size")
        config.take("ep", f"{actor}veomni.expert_parallel_size")
    else:
        config.doubt(f"{actor}strategy is {strategy!r:.60}: routes are replayed under megatron")
    dynamic = config.is_on(f"{actor}use_dynamic_bsz")
    _take_batches(
        config, dynamic, f"{actor}ppo_max_token_len_per_gpu", f"{actor}ppo_micro_batch_size_per_gpu"
    )
    if dynamic:
        config.put("balance", f"{actor}use_dynamic_bsz", "verl")
    _take_gpus(config, "trainer.nnodes", "trainer.n_gpus_per_node")


def _slime(config: _Reader) -> None:
    gathered = config.is_on("allgather_cp")
    name = "allgather_cp" if gathered else "options of slime"
    config.put("framework", name, "slime-allgather" if gathered else "slime")
    _megatron_part(config, "", fp8=False)
    if config.get("sequence_parallel") is None and config.found.values.get("tp", 1) > 1:
        config.doubt("no --sequence-parallel: every tp rank has all rows", "tp")
    dynamic = config.is_on("use_dynamic_batch_size")
    _take_batches(config, dynamic, "max_tokens_per_gpu", "micro_batch_size")
    if not dynamic and "micro_batch_size" not in config.found.values:
        config.put("micro_batch_size", "no use_dynamic_batch_size", 1)
    config.take("pad_multiplier", "data_pad_size_multiplier")
    if config.get("qkv_format") not in (None, "thd"):
        config.doubt(f"qkv_format is {config.get('qkv_format')!r:.60}", "form")
    config.found.unread += [n for n in ("balance_data", "balance_by_flops") if config.is_on(n)]
    _take_gpus(config, "actor_num_nodes", "actor_num_gpus_per_node")


def _roll(config: _Reader) -> None:
    worker = "actor_train."
    name = f"{worker}strategy_args.strategy_name"
    if config.get(name) != "megatron_train":
        config.doubt(f"{name} is {config.get(name)!r:.60}: routes are replayed in megatron_train")
    config.put("framework", name, "roll")
    _megatron_part(config, f"{worker}strategy_args.strategy_config.", fp8=False)
    if config.is_on(f"{worker}use_sequence_packing"):
        config.doubt(f"{worker}use_sequence_packing: ROLL replays no routes with packing")
    if config.is_on(f"{worker}use_dynamic_batching_in_train"):
        config.doubt(f"{worker}use_dynamic_batching_in_train: each micro-batch has an S of its own")
    if config.found.values.get("cp", 1) > 1:
        config.doubt("context_parallel_size: ROLL replays no routes with CP", "cp")
    config.put("form", f"{worker}use_sequence_packing", "bshd")
    if config.take("seq_len", "sequence_length") is None:
        parts = [config.get("prompt_length"), config.get("response_length")]
        if all(type(part) is int for part in parts):
            config.put("seq_len", "prompt_length + response_length", sum(parts))
        else:
            config.doubt("no sequence_length", "seq_len")
    config.take("micro_batch_size", f"{worker}training_args.per_device_train_batch_size")
    mapping = config.get(f"{worker}device_mapping")
    gpus = _GPUS.fullmatch(mapping) if isinstance(mapping, str) else None
    if gpus is not None or isinstance(mapping, list):
        config.found.gpus = int(gpus[2]) - int(gpus[1]) if gpus else len(mapping)
        config.found.origins["dp"] = f"{worker}device_mapping"


def _swift(config: _Reader) -> None:
    contiguous = config.get("cp_partition_mode") == "contiguous"
    name = "cp_partition_mode" if contiguous else "arguments of ms-swift"
    config.put("framework", name, "ms-swift-contiguous" if contiguous else "ms-swift")
    _megatron_part(config, "", fp8=True)
    if not config.is_on("padding_free", True) and not config.is_on("packing"):
        config.put("form", "padding_free", "bshd-b-major")
    if config.is_on("packing"):
        config.doubt("packing: ms-swift fills micro-batches its own way", "plan", *_BATCHES)
    else:
        config.take("micro_batch_size", "micro_batch_size")


def _megatron(config: _Reader) -> None:
    config.put("framework", "names of Megatron", "megatron")
    for above in _MEGATRON_TABLES:
        _megatron_part(config, above, fp8=False)
    config.take("dp", "data_parallel_size")


_Reading = Callable[[_Reader], None]


def _reading_of(flat: Flat) -> tuple[str, _Reading] | None:
    """Whose config it is, and how it is read, by names that no other has."""
    names: Collection[str] = flat
    if any(name.startswith("actor_rollout_ref.actor.") for name in names):
        return "verl", _verl
    if any(name.startswith("actor_train.") for name in names):
        return "ROLL", _roll
    if not any(above + name in flat for above in _MEGATRON_TABLES for name in _SIZES):
        return None
    if _OF_SLIME & set(names):
        return "slime", _slime
    return ("ms-swift", _swift) if _OF_SWIFT & set(names) else ("Megatron", _megatron)


def trainer_layout(flat: Flat) -> TrainerLayout | None:
    """The layout that a trainer's config says; None where it is of no trainer that is known."""
    known = _reading_of(flat)
    if known is None:
        return None
    config = _Reader(known[0], flat)
    known[1](config)
    return config.found
