"""The table of model families: what each one's router does, as data.

Read from transformers 5.21 to 5.24 (``models/*/modeling_*.py``) and held against them by
tests/routers/test_maths.py. A value is a fact, or a Key: a value that config.json holds. A Key's
default is that of transformers' config class, which is what transformers itself uses where the
file is silent. Facts that a row does not name have the defaults of ``Recipe``. Routers are the same
in all these versions, but for the dtype in which more of them hold their matrix since 5.24.
"""

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = [
    "ALIASES",
    "FAMILIES",
    "FIRST",
    "FLOAT32_SINCE",
    "NEWEST",
    "NOT_COVERED",
    "Case",
    "Family",
    "Key",
    "minor_of",
]

FIRST, NEWEST = "5.21.0", "5.24.0"  # versions of transformers that the table was held against


@dataclass(frozen=True, slots=True)
class Key:
    """A value of config.json: the first of ``names`` that is there and not null, else the default.

    It has the type of the default: bool, int, float; a whole number is at least ``least``.
    """

    names: tuple[str, ...]
    default: bool | int | float
    least: int = 0


@dataclass(frozen=True, slots=True)
class Case:
    """Facts that hang on one word of config.json."""

    name: str
    default: str
    facts: Mapping[str, Mapping[str, object]]


@dataclass(frozen=True, slots=True)
class Family:
    """One row: the router's class, its facts, and those that hang on a word.

    module is transformers' folder of that class where it is not the family's own.
    """

    router: str
    facts: Mapping[str, object]
    cases: tuple[Case, ...] = ()
    module: str | None = None


def minor_of(version: str) -> tuple[int, int]:
    """The first two numbers of a version: "5.24.0.dev1" is (5, 24)."""
    major, minor, *_ = version.split(".")
    return int(major), int(minor)


def _norm(default: bool) -> Key:
    return Key(("norm_topk_prob", "moe_renormalize"), default)


def _scale(default: float, *names: str) -> Key:
    return Key(names or ("routed_scaling_factor",), default)


# Softmax over all experts in float32, then top-k; weights in the logits' dtype.
_QWEN = {"score": "softmax", "weight_dtype": "logits"}
# Top-k of the logits, then the score function over the selected ones.
_LATE = {"select_on": "logits", "score": "softmax", "score_dtype": "logits"}
_GRANITE = {**_LATE, "logits_dtype": "weight_then_float32", "weight_dtype": "model"}
# Sigmoid with an expert bias; weights are the sigmoids, not biased, made to sum to 1.
_SIGMOID = {"score": "sigmoid", "expert_bias": True, "normalise": True}


def _v2(group: int) -> dict[str, object]:
    """DeepSeek-V2: the best expert of a group is its score, dropped groups score 0."""
    groups = {"n_group": Key(("n_group",), group), "topk_group": Key(("topk_group",), group)}
    return {**groups, "group_best": 1, "group_mask": "zero"}


def _v3(n_group: int, topk_group: int, norm: bool, scale: float) -> dict[str, object]:
    """DeepSeek-V3: as _SIGMOID, in the groups whose two best experts have the highest sum."""
    return {
        **_SIGMOID,
        "logits_dtype": "float32",
        "n_group": Key(("n_group", "num_expert_group"), n_group),
        "topk_group": Key(("topk_group",), topk_group),
        "normalise": _norm(norm),
        "norm_eps": 1e-20,
        "scale": _scale(scale),
    }


def _mistral(norm: bool | Key, logits_dtype: str) -> dict[str, object]:
    return {
        **_v3(1, 1, True, 1.0),
        "score": "softmax",
        "score_dtype": "logits",
        "expert_bias": False,
        "group_mask": "zero",
        "normalise": norm,
        "logits_dtype": logits_dtype,
    }


_V2_FACTS = {
    "logits_dtype": "float32",
    "score": "softmax",
    "weights_of": "selection",
    "scale": _scale(1.0),
}
_V2_CASE = (Case("topk_method", "greedy", {"greedy": {}, "group_limited_greedy": _v2(1)}),)
_SCORING = {"sqrtsoftplus": {"score": "sqrtsoftplus"}, "sigmoid": {"score": "sigmoid"}}

FAMILIES: Mapping[str, Family] = {
    "afmoe": Family("AfmoeTokenChoiceRouter", {
        **_SIGMOID, "logits_dtype": "weight_then_float32", "norm_eps": 1e-20,
        "scale": _scale(1.0, "route_scale")}),
    "aria": Family("AriaTextTopKRouter", _LATE),
    "axk1": Family("AXK1TopkRouter", _v3(8, 4, True, 2.5)),
    "axk2": Family("AXK2TopkRouter", {**_v3(1, 1, True, 2.5), "group_mask": "zero"}),
    "bailing_hybrid": Family("BailingHybridTopkRouter", _v3(8, 4, True, 2.5)),
    "beam": Family("BeamTopKRouter", {**_v3(8, 4, True, 1.0), "scale": 1.0}),
    "cohere2_moe": Family(
        "Cohere2MoeTopKRouter", {**_LATE, "weight_dtype": "logits"},
        (Case("expert_selection_fn", "softmax", {
            "softmax": {"score_dtype": "float32"},
            "sigmoid": {"score": "sigmoid", "normalise": _norm(True)}}),)),
    "deepseek_ocr2": Family("DeepseekOcr2TextTopkRouter", _V2_FACTS, _V2_CASE),
    "deepseek_v2": Family("DeepseekV2TopkRouter", _V2_FACTS, _V2_CASE),
    "deepseek_v3": Family("DeepseekV3TopkRouter", _v3(8, 4, True, 2.5)),
    "deepseek_v32": Family("DeepseekV32TopkRouter", _v3(8, 4, True, 2.5)),
    "deepseek_v4": Family(
        "DeepseekV4TopKRouter", {
            **_SIGMOID, "score_dtype": "logits", "norm_eps": 1e-20, "scale": _scale(1.5),
            "hash_layers": Key(("num_hash_layers",), 3)},
        (Case("scoring_func", "sqrtsoftplus", _SCORING),)),
    "dots1": Family("Dots1TopkRouter", _v3(1, 1, False, 1.0)),
    "dots3_note": Family("Dots3NoteTextTopkRouter", _v3(1, 1, True, 1.0)),
    "ernie4_5_moe": Family("Ernie4_5_MoeTopKRouter", {
        "logits_dtype": "float32", "score": "softmax", "expert_bias": True, "normalise": True,
        "norm_min": Key(("moe_norm_min",), 1e-12), "weight_dtype": "model"}),
    "exaone_moe": Family("ExaoneMoeTopkRouter", _v3(1, 1, True, 2.5)),
    "flex_olmo": Family("FlexOlmoTopKRouter", {**_QWEN, "normalise": _norm(False)}),
    "flint": Family("FlintTopKRouter", {
        "logits_dtype": "float32", "score": "sigmoid", "normalise": _norm(True)}),
    "gemma4": Family("Gemma4TextRouter", {
        "score": "softmax", "normalise": True, "expert_scale": True,
        "logits_gap": "the router normalises and scales its input first"}),
    "glm4_moe": Family("Glm4MoeTopkRouter", _v3(1, 1, True, 1.0)),
    "glm4_moe_lite": Family("Glm4MoeLiteTopkRouter", _v3(1, 1, True, 1.8)),
    "glm4v_moe": Family("Glm4vMoeTextTopkRouter", _v3(1, 1, True, 1.0)),
    "glm5_next": Family("Glm5NextTextTopkRouter", _v3(1, 1, True, 2.5)),
    "glm_moe_dsa": Family("GlmMoeDsaTopkRouter", _v3(1, 1, True, 2.5)),
    "gpt_oss": Family("GptOssTopKRouter", {**_LATE, "linear_bias": True}),
    "granitemoe": Family("GraniteMoeTopKRouter", _GRANITE),
    "granitemoe_swa": Family("GraniteMoeSWATopKRouter", _GRANITE),
    "granitemoehybrid": Family("GraniteMoeHybridTopKRouter", _GRANITE),
    "granitemoeshared": Family("GraniteMoeSharedTopKRouter", _GRANITE),
    "hunyuan_v1_moe": Family("HunYuanMoEV1Gate", {
        **_QWEN, "logits_dtype": "float32", "normalise": True}),
    "hy_v3": Family("HYV3TopKRouter", {
        **_SIGMOID, "logits_dtype": "float32", "norm_eps": 1e-20,
        "scale": _scale(2.826, "router_scaling_factor")}),
    "hy_v4": Family("HYV4TopkRouter", _v3(1, 1, True, 2.827)),
    "hy_v4_vl": Family("HYV4VLTopkRouter", _v3(1, 1, True, 2.827)),
    "inkling2": Family(
        "Inkling2TopKRouter", {
            **_SIGMOID, "logits_dtype": "float32", "norm_eps": 1e-20,
            "scale": _scale(8.0, "route_scale", "routed_scaling_factor")},
        (Case("scoring_func", "sigmoid", _SCORING),)),
    "jamba": Family("JambaTopKRouter", _QWEN),
    "kimi_linear": Family("KimiLinearTopkRouter", _v3(1, 1, True, 2.446)),
    "kolibri1": Family("Kolibri1TopKRouter", {
        "logits_dtype": "float32", "select_on": "logits", "score": "sigmoid", "expert_bias": True,
        "normalise": _norm(False)}),
    "laguna": Family("LagunaTopKRouter", {
        **_SIGMOID, "logits_dtype": "weight_then_float32", "weight_dtype": "model",
        "softcap": Key(("moe_router_logit_softcapping",), 0.0)}),
    "lara_mini": Family("LaraMiniTopKRouter", {
        "logits_dtype": "float32", "score": "softmax", "normalise": _norm(True),
        "weight_dtype": "model"}),
    "lfm2_moe": Family("Lfm2MoeTopKRouter", {
        "score": "sigmoid", "score_dtype": "logits", "normalise": _norm(True), "norm_eps": 1e-6,
        "expert_bias": Key(("use_expert_bias",), True), "scale": _scale(1.0)}),
    "llama4": Family("Llama4Router", {
        "select_on": "logits", "score": "sigmoid", "weight_dtype": "logits"}),
    "longcat_flash": Family("LongcatFlashTopkRouter", {
        "logits_dtype": "float32", "score": "softmax", "expert_bias": True, "scale": _scale(6.0),
        "zero_experts": Key(("zero_expert_num",), 256)}),
    "mellum": Family("MellumTopKRouter", {**_QWEN, "normalise": _norm(True)}),
    "mimo_v2_flash": Family("MiMoV2FlashTopkRouter", _v3(1, 1, True, 1.0)),
    "minimax": Family("MiniMaxTopKRouter", {"score": "softmax", "normalise": True}),
    "minimax_m2": Family("MiniMaxM2TopKRouter", _SIGMOID),
    "minimax_m3_vl": Family("MiniMaxM3VLTopKRouter", _SIGMOID),
    "mistral4": Family("Mistral4TopkRouter", _mistral(_norm(True), "weight")),
    "mistral_large4": Family("MistralLarge4TextTopkRouter", _mistral(True, "float32")),
    "mixtral": Family("MixtralTopKRouter", {"score": "softmax", "normalise": True}),
    "muse_spark": Family("MuseSparkTopkRouter", {
        **_SIGMOID, "logits_dtype": "float32", "norm_eps": 1e-15, "scale": _scale(1.0),
        "multiplier": Key(("output_multiplier",), 0.1767766952966369)}),
    "nemotron_h": Family("NemotronHTopkRouter", _v3(1, 1, True, 1.0)),
    "olmoe": Family("OlmoeTopKRouter", {**_QWEN, "normalise": _norm(False)}),
    "openai_privacy_filter": Family("OpenAIPrivacyFilterTopKRouter", {
        **_LATE, "logits_dtype": "float32", "linear_bias": True, "mean": True}),
    "phimoe": Family("PhimoeTopKRouter", {
        "select_on": "logits", "score": "sparsemixer", "score_dtype": "logits",
        "jitter": Key(("router_jitter_noise",), 0.01)}),
    "qwen2_moe": Family("Qwen2MoeTopKRouter", {**_QWEN, "normalise": _norm(False)}),
    "qwen3_5_moe": Family("Qwen3_5MoeTopKRouter", {**_QWEN, "normalise": True}),
    "qwen3_moe": Family("Qwen3MoeTopKRouter", {**_QWEN, "normalise": _norm(False)}),
    "qwen3_next": Family("Qwen3NextTopKRouter", {**_QWEN, "normalise": _norm(True)}),
    "qwen3_omni_moe": Family("Qwen3OmniMoeThinkerTextTopKRouter",
                             {**_QWEN, "normalise": _norm(True)}),
    "qwen3_vl_moe": Family("Qwen3VLMoeTextTopKRouter", {**_QWEN, "normalise": True}),
    "qwen4_exp": Family("Qwen4ExpTextTopKRouter", {**_QWEN, "normalise": _norm(True)}),
    "sarvam_mla": Family(
        "DeepseekV3TopkRouter", _v3(1, 1, True, 2.5), module="deepseek_v3"),
    "sarvam_moe": Family("Glm4MoeTopkRouter", _v3(1, 1, True, 2.5), module="glm4_moe"),
    "solar_open": Family("SolarOpenTopkRouter", _v3(1, 1, True, 1.0)),
    "step3p7": Family("Step3p7TopKRouter", _SIGMOID),
    "unlimited_ocr": Family("UnlimitedOcrTextTopkRouter", _V2_FACTS, _V2_CASE),
    "zaya": Family("ZayaRouter", {
        "score": "softmax", "score_dtype": "logits", "expert_bias": True, "skip_experts": 1,
        "logits_gap": "the router is a network that also reads the router of the layer below"}),
}  # fmt: skip

# Since which version a router's matrix is float32 in a model of any dtype; others have its dtype.
FLOAT32_SINCE: Mapping[str, tuple[int, int]] = {
    **dict.fromkeys(
        (
            *("beam", "ernie4_5_moe", "flint", "hunyuan_v1_moe", "inkling2", "mistral_large4"),
            "muse_spark",
        ),
        (5, 21),
    ),
    **dict.fromkeys(
        (
            *("axk1", "axk2", "bailing_hybrid", "deepseek_ocr2", "deepseek_v2", "deepseek_v3"),
            *("deepseek_v32", "dots1", "dots3_note", "exaone_moe", "glm4_moe", "glm4_moe_lite"),
            *("glm4v_moe", "glm5_next", "glm_moe_dsa", "hy_v3", "hy_v4", "hy_v4_vl", "kimi_linear"),
            *("mimo_v2_flash", "nemotron_h", "sarvam_mla", "sarvam_moe", "solar_open"),
            "unlimited_ocr",
        ),
        (5, 24),
    ),
}

# A text part's model_type is looked up without "_text"; these have other names.
ALIASES: Mapping[str, str] = {
    "kimi_k2": "deepseek_v3",
    "kimi_k3": "kimi_linear",
    "step3p5": "step3p7",
}

NOT_COVERED: Mapping[str, str] = {
    "dbrx": "its router returns logits, the selection is in the experts' block",
    "diffusion_gemma": "a diffusion decoder routes every canvas anew",
    "doge": "experts are found by product keys, without a router",
    "ernie4_5_vl_moe": "a layer has two routers, for text and for image tokens",
    "inkling": "weights are shared with shared experts inside the router",
    "inkling2_loop": "layers run several times a forward, each time with routes of their own",
    "jetmoe": "a layer has two routers, one of them of attention",
    "nllb_moe": "tokens are dropped by capacity",
    "switch_transformers": "tokens are dropped by capacity",
}
