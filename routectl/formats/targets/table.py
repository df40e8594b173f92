"""What trainers read, as a table: one line a layout, docs/formats.md in words.

N tokens of a sample; K top_k. Sources are the projects' public repositories at the named commit or
release; rows, dtypes and pads are what their own code makes of an engine's routes.
"""

from dataclasses import dataclass

from ...errors import UnsupportedError, unknown

__all__ = ["BY_SUFFIX", "MISSING", "TARGETS", "TargetSpec", "target_named"]

MISSING = ("arange", "zero", "minus-one", "drop")


@dataclass(frozen=True, slots=True)
class TargetSpec:
    """One layout of routes that some program reads.

    kind     which writer: lines, arrays, samples, grid, pickle (a grid in a trainer's own batch
             class), jagged, layers, msgpack or bundle.
    suffix   what the file is called; empty for a folder.
    key      the entry that holds the routes.
    axis     all: a column for every decoder layer, zeros in dense ones; moe: MoE layers alone.
    rows     N: one for every token; N-1: all but the last, exactly; engine: start .. N-2;
             own: those that the dump has.
    dtype    a numpy dtype or a rule: narrow (uint8 for E <= 256, else uint16), signed (int8 for
             E <= 128, int16 for E <= 32768, else int32), value (uint8 up to id 255, int16 up to
             32767, else int32, by the greatest id of the file), own (narrow, signed where rows
             are missing).
    side     where a grid is padded: left, right, or both (prompts left, responses right).
    pad      what rows hold that no token has, and the row of the last token: zero, arange (0..K-1),
             or repeat: zero, and in the last token's row the one before.
    missing  one of MISSING where the layout itself has a way to say it; repeat: the nearest row
             before, in a sample that a column says is not to be replayed; None: an error.
    tail     uncaptured rows at the end are padding, and the layout has a mask that says so.
    holds    which of logprobs, loss_mask and weight_spans it has a place for; version_numbers are
             weight_spans whose names are numbers, in samples that say whose their first token is.
    columns  of a grid: the names of its other tensors, and what is in them.
    packed   of a grid: its routes are end to end, of tokens alone, with cu_seqlens [B + 1] beside.
    """

    name: str
    kind: str
    suffix: str
    key: str
    axis: str
    rows: str
    dtype: str
    source: str
    side: str = ""
    pad: str = "zero"
    missing: str | None = None
    tail: bool = False
    holds: tuple[str, ...] = ()
    columns: tuple[tuple[str, str], ...] = ()
    packed: bool = False


_VERL_GRID = (
    ("prompts", "prompts"),
    ("responses", "responses"),
    ("response_mask", "loss-first"),
    ("input_ids", "tokens"),
    ("attention_mask", "attention"),
    ("position_ids", "positions"),
    ("rollout_log_probs", "logprobs-first"),
)
_SKYRL_GRID = (
    ("sequences", "tokens"),
    ("attention_mask", "attention"),
    ("response_mask", "response-last"),
    ("loss_mask", "loss-last"),
    ("rollout_logprobs", "logprobs-last"),
)
_SKYRL_PACKED = (
    *((name, "weights-last" if name == "loss_mask" else what) for name, what in _SKYRL_GRID),
    ("router_padding_mask", "uncaptured"),
)
_ROLL_GRID = (
    ("input_ids", "tokens"),
    ("attention_mask", "attention"),
    ("position_ids", "positions"),
    ("prompt_mask", "prompt-full"),
    ("response_mask", "loss-full"),
    ("infer_logprobs", "logprobs-next"),
)
_NEMO_GRID = (
    ("input_ids", "tokens"),
    ("input_lengths", "lengths"),
    ("token_mask", "loss-full"),
    ("generation_logprobs", "logprobs-full"),
)
_AREAL_GRID = (
    ("input_ids", "tokens"),
    ("attention_mask", "attention"),
    ("loss_mask", "loss-full"),
    ("logprobs", "logprobs-full"),
    ("r3_routing_valid", "whole"),
    ("versions", "versions-full"),
)
_SWIFT_GRID = (
    ("input_ids", "tokens"),
    ("attention_mask", "attention"),
    ("position_ids", "positions"),
)
_SPANS = ("logprobs", "weight_spans")
_MASKED = ("logprobs", "loss_mask")
_ALL = (*_MASKED, "weight_spans")

TARGETS = (
    TargetSpec("npz", "arrays", ".npz", "<id>.routed_experts", "moe", "own", "own",
           "routectl: one array a sample", missing="minus-one", holds=("logprobs",)),
    TargetSpec("safetensors", "arrays", ".safetensors", "<id>.routed_experts", "moe", "own", "own",
           "routectl: one array a sample", missing="minus-one", holds=("logprobs",)),
    TargetSpec("jsonl", "lines", ".jsonl", "choices[].routed_experts", "all", "engine", "narrow",
           "vLLM 0.32.0, /v1/completions", holds=_SPANS),
    TargetSpec("jsonl-sglang", "lines", ".jsonl", "meta_info.routed_experts", "all", "engine",
           "int32", "SGLang 0.5.23, /generate", holds=_SPANS),
    TargetSpec("verl", "jagged", ".pt", "routed_experts", "all", "N", "int16",
           "verl 0.9.1, RolloutSkip tq_batch.pt", holds=_MASKED),
    TargetSpec("verl-padded", "grid", ".pt", "routed_experts", "all", "N", "int16",
           "verl 0.9.1, the batch of agent_loop.py", side="both", holds=_MASKED,
           columns=_VERL_GRID),
    TargetSpec("verl-dp", "pickle", ".dp", "routed_experts", "all", "N", "int16",
           "verl 0.9.1, RolloutSkip gen_batch.dp", side="both", holds=_MASKED,
           columns=_VERL_GRID),
    TargetSpec("slime", "samples", ".pt", "rollout_routed_experts", "all", "N-1", "int32",
           "slime 624b824a, --save-debug-rollout-data", holds=_ALL),
    TargetSpec("slime-numpy", "samples", ".pt", "rollout_routed_experts", "all", "N-1", "int32",
           "slime before #2108, --save-debug-rollout-data", holds=_ALL),
    TargetSpec("miles", "samples", ".pt", "rollout_routed_experts", "all", "N-1", "int32",
           "miles 31f1ca96, --save-debug-rollout-data", missing="minus-one", holds=_ALL),
    TargetSpec("skyrl", "grid", ".pt", "rollout_expert_indices", "all", "N", "value",
           "SkyRL a9564572, TrainingInputBatch", side="left", pad="arange", tail=True,
           holds=_MASKED, columns=(*_SKYRL_GRID, ("router_padding_mask", "uncaptured"))),
    TargetSpec("skyrl-0.3", "grid", ".pt", "rollout_expert_indices", "all", "N", "value",
           "SkyRL 0.3.0, TrainingInputBatch", side="left", holds=_MASKED, columns=_SKYRL_GRID),
    TargetSpec("skyrl-pkl", "pickle", ".pkl", "rollout_expert_indices", "all", "N", "value",
           "SkyRL a9564572, training_input.pkl", side="left", pad="arange", tail=True,
           holds=_MASKED, columns=(*_SKYRL_GRID, ("router_padding_mask", "uncaptured"))),
    TargetSpec("skyrl-0.3-pkl", "pickle", ".pkl", "rollout_expert_indices", "all", "N", "value",
           "SkyRL 0.3.0, training_input.pkl", side="left", holds=_MASKED, columns=_SKYRL_GRID),
    TargetSpec("skyrl-0.4", "grid", ".pt", "rollout_expert_indices", "all", "N", "value",
           "SkyRL 0.4.0, TrainingInputBatch", side="left", pad="arange", tail=True,
           holds=_MASKED, columns=_SKYRL_PACKED, packed=True),
    TargetSpec("skyrl-0.4-pkl", "pickle", ".pkl", "rollout_expert_indices", "all", "N", "value",
           "SkyRL 0.4.0, training_input.pkl", side="left", pad="arange", tail=True,
           holds=_MASKED, columns=_SKYRL_PACKED, packed=True),
    TargetSpec("nemo-rl", "lines", ".jsonl", "routed_experts", "moe", "N", "signed",
           "NeMo-RL 7ea279ab, nrlre1 of routed_experts_codec.py", pad="arange",
           missing="minus-one", holds=("logprobs",)),
    TargetSpec("nemo-rl-tensor", "grid", ".pt", "routed_experts", "moe", "N", "signed",
           "NeMo-RL 7ea279ab, pad_and_align_routed_expert_indices", side="right", pad="arange",
           missing="minus-one", holds=_MASKED, columns=_NEMO_GRID),
    TargetSpec("areal", "grid", ".pt", "routed_experts", "moe", "N", "int32",
           "AReaL #1496, the batch of to_tensor_dict", side="right", pad="repeat",
           missing="repeat", holds=(*_MASKED, "version_numbers"), columns=_AREAL_GRID),
    TargetSpec("prime-rl", "msgpack", ".bin", "routed_experts", "all", "N", "narrow",
           "prime-rl 559b4477, rollouts/step_N/rank_r.bin", holds=_MASKED),
    TargetSpec("roll", "grid", ".pt", "routed_experts", "all", "N", "value",
           "ROLL 8eb27cc2, the batch of functionals.py", side="right", holds=_MASKED,
           columns=_ROLL_GRID),
    TargetSpec("roll-pkl", "pickle", ".pkl", "routed_experts", "all", "N", "value",
           "ROLL 8eb27cc2, RolloutMockMixin step_N.pkl", side="right", holds=_MASKED,
           columns=_ROLL_GRID),
    TargetSpec("ms-swift", "grid", ".pt", "routed_experts", "all", "N", "int64",
           "ms-swift 4.6.0, build_routed_experts_batch", side="right", columns=_SWIFT_GRID),
    TargetSpec("art", "bundle", "", "<router>/call_N/expert_indices", "moe", "N", "int32",
           "OpenPipe ART 17aa12b6, moe_routing_replay_v3", pad="arange"),
    TargetSpec("art-v4", "bundle", "", "<router>/call_N/expert_indices", "moe", "N", "int32",
           "OpenPipe ART 0.5.23, moe_routing_replay_v4", pad="arange"),
    TargetSpec("megatron", "layers", ".pt", "a list", "moe", "N", "int64",
           "megatron-core 0.16.1, RouterReplay.set_replay_data", pad="arange"),
)  # fmt: skip

BY_SUFFIX = {".npz": "npz", ".safetensors": "safetensors", ".jsonl": "jsonl", ".dp": "verl-dp"}


def target_named(name: str) -> TargetSpec:
    """The line of the table; UnsupportedError with all names when there is none."""
    for target in TARGETS:
        if target.name == name:
            return target
    known = ("native", *(target.name for target in TARGETS))
    raise unknown("--to", name, known, UnsupportedError)
