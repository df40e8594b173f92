"""Known forms by the names in them: what is said of a file that is none of them.

A reader that refuses a form asks ``unlike`` for the end of its message: the nearest form that is
known in the same container, and how the two differ. What each form is: docs/formats.md.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache

from ...visible import quoted

__all__ = ["FORMS", "KnownForm", "unlike"]

_CLOSE = 0.78  # of difflib's ratio: routed_expert is near routed_experts, token_ids not near ids
_MOST = 6  # names that a message lists
_FEW = 4  # forms that it lists
_LOOKED_AT = 64  # names that are looked at
_NUMBERED = (  # names with a number or an id in them, as the forms below spell them
    (re.compile(r"layer\.\d+"), "layer.N"),
    (re.compile(r"layer_\d+"), "layer_NNN"),
    (re.compile(r".+\.routed_experts"), "<id>.routed_experts"),
)


@dataclass(frozen=True, slots=True)
class KnownForm:
    """A form in words, the container that it is in, the names that make it, and others it has.

    container   json: the names of an object; arrays: of npz and safetensors; torch and pickle: of
                what was saved; batch and jagged: of the tensors within; parquet: of columns.
    use         of a form that is no dump, what takes it.
    """

    name: str
    container: str
    needs: tuple[str, ...]
    has: tuple[str, ...] = ()
    use: str = ""


_TOKENS = ("prompt_token_ids", "token_ids", "logprobs")
_BATCH = ("input_ids", "attention_mask", "position_ids", "prompts", "responses", "response_mask")
FORMS = (
    KnownForm("a response of OpenAI's form", "json", ("choices",), ("id", "object", "usage")),
    KnownForm("a response of SGLang's /generate", "json", ("meta_info",), ("text", "output_ids")),
    KnownForm("vLLM's RequestOutput", "json", ("request_id", "outputs"), ("prompt_token_ids",)),
    KnownForm(
        "a flat record", "json", ("routed_experts",), (*_TOKENS, "sample_id", "start", "loss_mask")
    ),
    KnownForm("a request with its response", "json", ("request", "response"), ("sample_id",)),
    KnownForm("a session of miles", "json", ("session_id", "records")),
    KnownForm("a trace of Fireworks' gateway", "json", ("payloads",)),
    KnownForm(
        "a request of Megatron-Core's inference",
        "json",
        ("request_id", "routing_indices", "generated_tokens"),
        ("prompt_tokens", "policy_epoch"),
    ),
    KnownForm(
        "a router trace of Megatron-Core",
        "json",
        ("step", "stage", "block", "layer", "num_tokens", "topk", "top_indices"),
    ),
    KnownForm("an array a sample", "arrays", ("<id>.routed_experts",), ("config",)),
    KnownForm(
        "a padded array",
        "arrays",
        ("routed_experts", "lengths"),
        ("start", "sample_id", "input_ids", "prompt_lengths", "response_lengths"),
    ),
    KnownForm(
        "router inputs",
        "arrays",
        ("layer.N",),
        ("cu_seqlens", "token_ids"),
        "which routectl recompute takes",
    ),
    KnownForm("slime's or miles' rollout dump", "torch", ("samples",), ("rollout_id",)),
    KnownForm("slime's train data", "torch", ("format_version", "tokens"), ("log_probs",)),
    KnownForm("verl's tq_batch.pt", "torch", ("tensordict",), ("tags", "keys", "global_steps")),
    KnownForm("miles' replays", "torch", ("replays",), ("version",)),
    KnownForm(
        "the batch of verl, ROLL or ms-swift", "torch", ("routed_experts", "input_ids"), _BATCH[1:]
    ),
    KnownForm(
        "the batch of NeMo-RL",
        "torch",
        ("routed_experts", "input_ids", "input_lengths"),
        ("token_mask", "generation_logprobs"),
    ),
    KnownForm(
        "the batch of SkyRL",
        "torch",
        ("rollout_expert_indices", "sequences", "attention_mask"),
        ("response_mask", "loss_mask", "rollout_logprobs", "router_padding_mask"),
    ),
    KnownForm("the batch of verl or ROLL", "batch", ("routed_experts", "input_ids"), _BATCH[1:]),
    KnownForm(
        "the batch of SkyRL",
        "batch",
        ("rollout_expert_indices", "sequences", "attention_mask"),
        ("response_mask", "loss_mask", "rollout_logprobs", "router_padding_mask"),
    ),
    KnownForm(
        "verl's tq_batch.pt",
        "jagged",
        ("routed_experts", "input_ids", "prompts"),
        ("rollout_log_probs", "loss_mask", "responses", "response_mask", "position_ids"),
    ),
    KnownForm("verl's or ROLL's DataProto", "pickle", ("DataProto",)),
    KnownForm("SkyRL's TrainingInputBatch", "pickle", ("TrainingInputBatch",)),
    KnownForm(
        "routectl's native file",
        "parquet",
        ("sample_id", "prompt_ids", "response_ids", "num_rows", "layer_NNN"),
        ("group_id", "prompt_length", "response_length", "logprobs", "loss_mask", "start"),
    ),
)


@dataclass(frozen=True, slots=True)
class _Match:
    """A form beside names: those of its that are there, those of its needs that are not, and what
    may be one of them under another spelling.
    """

    form: KnownForm
    hits: int
    lacking: tuple[str, ...]
    spelt: tuple[tuple[str, str], ...]


def _matched(form: KnownForm, names: tuple[str, ...]) -> _Match:
    known = {*form.needs, *form.has}
    others = [name for name in names if name not in known]
    lacking, spelt = [], []
    for need in form.needs:
        if need in names:
            continue
        close = get_close_matches(need, others, 1, _CLOSE)
        if close:
            spelt.append((close[0], need))
        else:
            lacking.append(need)
    return _Match(form, len(known.intersection(names)), tuple(lacking), tuple(spelt))


def unlike(names: Iterable[object], container: str) -> str:
    """How what has these names differs from the nearest known form of a container, as a clause.

    Where no form shares a name with it, some that are known are listed. Names are those of a
    foreign file: they are quoted, and the first alone.
    """
    held = tuple(name for name in names if isinstance(name, str))
    listed = f"it has {quoted(list(held[:_MOST]), 120)}{' and more' if len(held) > _MOST else ''}"
    return f"{listed}{_nearest(held[:_LOOKED_AT], container)}"


@lru_cache(256)  # lines of a file have the same names
def _nearest(names: tuple[str, ...], container: str) -> str:
    """The clause without the names."""
    spelt = tuple(
        next((word for form, word in _NUMBERED if form.fullmatch(name)), name) for name in names
    )
    forms = [form for form in FORMS if form.container == container]
    best = max(
        (_matched(form, spelt) for form in forms),
        key=lambda one: (one.hits + len(one.spelt), -len(one.lacking)),
    )
    if not best.hits and not best.spelt:
        more = f" and {len(forms) - _FEW} more" if len(forms) > _FEW else ""
        known = ", ".join(one.name for one in forms[:_FEW])
        return f", none of them of a known form: {known}{more}"
    parts = [f"which has also {', '.join(map(repr, best.lacking))}"] if best.lacking else []
    parts += [f"whose {need!r} may be {quoted(found)}" for found, need in best.spelt]
    how = " and ".join(parts) if parts else best.form.use or "of other types or shapes"
    return f"; nearest is {best.form.name}, {how}"
