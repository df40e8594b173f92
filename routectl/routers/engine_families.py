"""Families that engines run and transformers 5.24 does not have: their routers, as data.

Rows are as in ``families``. Read from SGLang 0.5.23 (``srt/models``, ``srt/layers/moe/topk.py``)
and vLLM 0.33.0, and held against the functions of theirs that select
(tests/routers/test_engine_families.py). Scores are those of float32 logits: kernels compute in it.
"""

from collections.abc import Mapping

from .families import Case, Family, Key

__all__ = ["ENGINE_FAMILIES", "ENGINE_NOT_COVERED", "ENGINE_SOURCE"]

ENGINE_SOURCE = "SGLang 0.5.23"

_NORM = Key(("norm_topk_prob",), True)
_SCALE = Key(("routed_scaling_factor",), 1.0)
_GROUPS = {"n_group": Key(("n_group",), 1), "topk_group": Key(("topk_group",), 1)}
_BIASED = {"score": "sigmoid", "expert_bias": True, **_GROUPS}
_BEST = {"score": "softmax", **_GROUPS, "group_best": 1, "group_mask": "zero"}
_WEIGHTS = {"normalise": _NORM, "norm_eps": 1e-20, "scale": _SCALE}
_FLOAT32 = {"matrix_dtype": "float32", "logits_dtype": "float32"}
_MODEL = {"matrix_dtype": "model", "logits_dtype": "weight"}
_ROUTER_DTYPE = Case("router_dtype", "", {"": _MODEL, "bf16": _MODEL, "fp32": _FLOAT32})


def _bailing(score: str) -> Family:
    """Ling and Ring: float32 logits are rounded to the model's dtype before the selection."""
    rounded = {"matrix_dtype": "float32", "logits_dtype": "float32_then_model"}
    return Family(
        "BailingMoEGate",
        _WEIGHTS,
        (
            Case("score_function", score, {"softmax": _BEST, "sigmoid": _BIASED}),
            Case("router_dtype", "", {"": _MODEL, "bf16": _MODEL, "fp32": rounded}),
        ),
    )


ENGINE_FAMILIES: Mapping[str, Family] = {
    "bailing_moe": _bailing("softmax"),
    "bailing_moe_v2": _bailing("sigmoid"),
    "deepseek_v41": Family("MoEGate", {
        **_FLOAT32, "matrix_dtype": "stored", "expert_bias": True, "normalise": _NORM,
        "norm_eps": 1e-20, "scale": Key(("routed_scaling_factor",), 1.5),
        "hash_layers": Key(("num_hash_layers",), 0)},
        (Case("scoring_func", "sqrtsoftplus", {
            "sqrtsoftplus": {"score": "sqrtsoftplus"}, "sigmoid": {"score": "sigmoid"}}),)),
    "interns1_pro": Family("InternS1ProTextDecoderLayer", {
        **_MODEL, "score": "softmax", "normalise": Key(("norm_topk_prob",), False),
        "n_group": Key(("router_n_groups",), 1, least=-1), "each_group": True}),
    "llada2_moe": Family("LLaDA2MoeGate", _WEIGHTS, (
        Case("score_function", "sigmoid", {"softmax": _BEST, "sigmoid": _BIASED}),
        _ROUTER_DTYPE)),
    "longcat_next": Family("LongcatFlashRouter", {
        "score": "softmax", "expert_bias": True, "scale": Key(("routed_scaling_factor",), 6.0),
        "zero_experts": Key(("zero_expert_num",), 0)},
        (Case("rounter_params_dtype", "float32", {
            "float32": _FLOAT32, "bfloat16": _MODEL}),)),
    "mimo_v2": Family("MoEGate", {**_BIASED, "normalise": _NORM, "norm_eps": 1e-20}, (
        Case("topk_method", "noaux_tc", {"noaux_tc": {}}),
        Case("moe_router_dtype", "float32", {
            "float32": _FLOAT32,
            "bfloat16": {"matrix_dtype": "model", "logits_dtype": "weight_then_float32"}}))),
    "minimax_m3": Family("MiniMaxM3MoE", {
        **_FLOAT32, "normalise": True, "norm_eps": 1e-20,
        "expert_bias": Key(("use_routing_bias",), True),
        "scale": Key(("routed_scaling_factor",), 2.0)},
        (Case("scoring_func", "sigmoid", {"sigmoid": {"score": "sigmoid"}}),)),
    "step3": Family("Step3TextMoEMLP", {
        **_MODEL, "score": "softmax", "normalise": Key(("norm_expert_weight",), False)}),
}  # fmt: skip

# Whether a key of a config makes a router that no recipe follows: the family, the key, the reason.
ENGINE_NOT_COVERED: Mapping[tuple[str, str], str] = {
    ("llada2_moe", "expert_capacity"): "the tokens of a block share their experts",
    ("bailing_moe", "multi_gate"): "text, images and sounds have gates of their own",
    ("bailing_moe_v2", "multi_gate"): "text, images and sounds have gates of their own",
}
