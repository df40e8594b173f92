"""Recipes read from configs: a model's config.json, or Megatron-Core's options.

The facts of families are in ``families``; this file only fills in what a config says.
"""

from collections.abc import Mapping
from typing import Any

from ..errors import FormatError, UnsupportedError, did_you_mean
from ..model import facts_from_config, text_part
from ..visible import quoted
from .engine_families import ENGINE_FAMILIES, ENGINE_NOT_COVERED, ENGINE_SOURCE
from .families import (
    ALIASES,
    FAMILIES,
    FLOAT32_SINCE,
    NEWEST,
    NOT_COVERED,
    Case,
    Key,
    minor_of,
)
from .recipe import Recipe, unfit_groups

__all__ = ["Recipe", "megatron_recipe", "recipe_from_config"]

SCORING = ("scoring_func", "score_func", "score_function")  # names in configs


def recipe_from_config(
    config: Mapping[str, object], source: str, *, version: str = NEWEST
) -> Recipe:
    """The recipe of a model's routers, from its config.json; ``source`` opens messages.

    ``version`` is that of the transformers whose routers are meant: before 5.24 it rounds the
    matrices of more routers to the model's dtype.

    Raises FormatError for bad values, UnsupportedError for a family that is not in the table
    (docs/routers.md) or a router that the family does not have.
    """
    facts = facts_from_config(config, source)
    part = text_part(config)
    name = _row_name(facts.model_type, config.get("model_type"), source)
    family = FAMILIES[name] if name in FAMILIES else ENGINE_FAMILIES[name]
    _refuse_uncovered(name, part, source)
    values = dict(family.facts)
    for case in family.cases:
        values |= _case(case, part, source)
    read: dict[str, Any] = {
        name: _value(part, value, source) if isinstance(value, Key) else value
        for name, value in values.items()
    }
    if "hash_layers" in read:
        read["hash_layers"] = _hash_layers(part, facts.layers, read["hash_layers"])
    _check_scoring(part, str(read.get("score", "softmax")), name, source)
    routed = facts.num_experts - facts.zero_experts
    columns = routed + read.get("zero_experts", 0) + read.get("skip_experts", 0)
    read |= _groups(read, columns, facts.top_k, source)
    if read.get("score") == "sparsemixer" and facts.top_k != 2:
        raise _bad(source, "num_experts_per_tok", facts.top_k, "2, which sparsemixer selects")
    whose = f"{ENGINE_SOURCE} {family.router}"
    if name in FAMILIES:
        read["matrix_dtype"] = "float32" if _in_float32(name, version) else "model"
        whose = f"transformers {version} {family.router}"
    return Recipe(name, whose, routed, facts.top_k, **read)


def megatron_recipe(
    options: Mapping[str, object], source: str, *, version: str = "0.16.1"
) -> Recipe:
    """The recipe of Megatron-Core's TopKRouter, from options under its own names.

    ``options`` are fields of TransformerConfig, or the arguments in a checkpoint: num_moe_experts
    (or num_experts), moe_router_topk, moe_router_score_function, moe_router_pre_softmax,
    moe_router_num_groups, moe_router_group_topk, moe_router_topk_scaling_factor,
    moe_router_enable_expert_bias, moe_router_dtype, add_bias_linear. Absent ones have Megatron's
    defaults. Scores are rounded to the logits' dtype before version 0.18, not since.

    Source: Megatron-Core 0.16.1, transformer/moe/moe_utils.py, topk_routing_with_score_function;
    of 0.18, read. Raises FormatError for bad values and UnsupportedError for routing by sinkhorn,
    by quantiles, by jitter or by chance.
    """
    _refuse_other_routing(options, source)
    num_experts = int(_value(options, Key(("num_moe_experts", "num_experts"), 0), source))
    top_k = int(_value(options, Key(("moe_router_topk",), 2), source))
    if not 1 <= top_k <= num_experts:
        raise _bad(source, "moe_router_topk", top_k, f"1 to num_moe_experts = {num_experts}")
    score = _word(options, "moe_router_score_function", "softmax", source)
    if score not in ("softmax", "sigmoid", "sqrtsoftplus"):
        raise _unsupported(source, "moe_router_score_function", score, "softmax, sigmoid")
    first = score != "softmax" or _value(options, Key(("moe_router_pre_softmax",), False), source)
    bias = bool(_value(options, Key(("moe_router_enable_expert_bias",), False), source))
    if bias and score == "softmax":
        raise _bad(source, "moe_router_enable_expert_bias", True, "a sigmoid score function")
    groups = _megatron_groups(options, num_experts, top_k, source)
    dtype = _word(options, "moe_router_dtype", "", source)
    dtypes = {"": "weight", "fp32": "float32", "fp64": "float64"}
    if dtype not in dtypes:
        raise _bad(source, "moe_router_dtype", dtype, "fp32, fp64 or none")
    return Recipe(
        "megatron",
        f"Megatron-Core {version} TopKRouter",
        num_experts,
        top_k,
        logits_dtype=dtypes[dtype],
        linear_bias=bool(_value(options, Key(("add_bias_linear",), True), source)),
        score=score,
        score_dtype="rounded" if minor_of(version) < (0, 18) else "float32",
        select_on="scores" if first else "logits",
        expert_bias=bias,
        weights_of="scores" if bias else "selection",
        normalise=score != "softmax" and top_k > 1,
        norm_eps=1e-20 if score != "softmax" and top_k > 1 else 0.0,
        scale=float(_value(options, Key(("moe_router_topk_scaling_factor",), 0.0), source)) or 1.0,
        weight_dtype="logits",
        **groups,
    )


def _row_name(inner: str | None, outer: object, source: str) -> str:
    """The row of a model_type: the text part's, without _text, or the whole model's."""
    names = [str(name).removesuffix("_text") for name in (inner, outer) if name]
    names = [ALIASES.get(name, name) for name in names]
    for table in (FAMILIES, ENGINE_FAMILIES):
        for name in names:
            if name in table:
                return name
    for name in names:
        if name in NOT_COVERED:
            raise UnsupportedError(f"{source}: {name} is not covered: {NOT_COVERED[name]}")
    known = sorted([*FAMILIES, *ENGINE_FAMILIES, *ALIASES])
    got = names[0] if names else "no model_type"
    near = did_you_mean(got, known) if names else None
    hint = "its dumps are still read, diffed and checked; nothing is recomputed"
    raise UnsupportedError(
        f"{source}: unknown router: got {got}, expected one of {', '.join(known)}",
        hint=f"{near} {hint}" if near else hint,
    )


def _in_float32(name: str, version: str) -> bool:
    """Whether transformers keeps the matrix of a family's routers in float32."""
    return name in FLOAT32_SINCE and minor_of(version) >= FLOAT32_SINCE[name]


def _case(case: Case, part: Mapping[str, object], source: str) -> Mapping[str, object]:
    word = _word(part, case.name, case.default, source)
    if word not in case.facts:
        raise _unsupported(source, case.name, word, ", ".join(filter(None, case.facts)))
    return case.facts[word]


def _refuse_uncovered(name: str, part: Mapping[str, object], source: str) -> None:
    """Refuse a router that a key of the config changes into one that no recipe follows."""
    for (family, key), why in ENGINE_NOT_COVERED.items():
        if family == name and part.get(key):
            raise UnsupportedError(f"{source}: {name} with {key} is not covered: {why}")


def _word(part: Mapping[str, object], name: str, default: str, source: str) -> str:
    value = part.get(name)
    if value is None:
        return default
    if not isinstance(value, str):
        raise _bad(source, name, value, "a word")
    return value


def _value(part: Mapping[str, object], key: Key, source: str) -> Any:
    """What a config holds under a key, of the type of the key's default."""
    expected = {bool: "true or false", int: "a whole number", float: "a number"}[type(key.default)]
    for name in key.names:
        value = part.get(name)
        if value is None:
            continue
        if isinstance(key.default, bool) or isinstance(value, bool):
            fits = isinstance(key.default, bool) and isinstance(value, bool)
        elif isinstance(key.default, int):
            fits = isinstance(value, int) and key.least <= value <= 65536
        else:
            fits = isinstance(value, int | float) and abs(value) < 1e9  # so NaN does not fit
        if not fits:
            raise _bad(source, name, value, expected)
        return float(value) if isinstance(key.default, float) else value  # type: ignore[arg-type]
    return key.default


def _groups(read: Mapping[str, Any], columns: int, top_k: int, source: str) -> dict[str, Any]:
    """The checked groups; none where no group is ever dropped, nor gives experts of its own."""
    n_group, topk_group = read.get("n_group", 1), read.get("topk_group", 1)
    if read.get("each_group"):
        n_group = max(n_group, 1)  # -1 is none
        if columns % n_group or top_k % n_group:
            fits = f"a divisor of {columns} experts and of top-{top_k}"
            raise _bad(source, "router_n_groups", n_group, fits)
        return {"n_group": n_group, "topk_group": n_group, "each_group": n_group > 1}
    if wrong := unfit_groups(columns, top_k, n_group, topk_group):
        raise FormatError(f"{source}: {wrong}")
    if topk_group == n_group:
        return {"n_group": 1, "topk_group": 1}
    if columns // n_group < read.get("group_best", 2):
        raise _bad(source, "n_group", n_group, "at least 2 experts in a group")
    return {"n_group": n_group, "topk_group": topk_group}


def _megatron_groups(
    options: Mapping[str, object], num_experts: int, top_k: int, source: str
) -> dict[str, Any]:
    """Megatron's groups: the sum of the top_k // group_topk best experts is a group's score."""
    topk_group = int(_value(options, Key(("moe_router_group_topk",), 0), source))
    if not topk_group:
        return {}
    n_group = int(_value(options, Key(("moe_router_num_groups",), 1), source))
    best = top_k // topk_group
    groups = _groups(
        {"n_group": n_group, "topk_group": topk_group, "group_best": best},
        num_experts,
        top_k,
        source,
    )
    if groups["n_group"] > 1 and best < 1:
        raise _bad(source, "moe_router_group_topk", topk_group, f"at most moe_router_topk {top_k}")
    return {**groups, "group_best": best} if groups["n_group"] > 1 else {}


def _hash_layers(
    part: Mapping[str, object], layers: tuple[int, ...], first: int
) -> tuple[int, ...]:
    """DeepSeek-V4's layers that select by table: as listed, or the first so many."""
    words = part.get("mlp_layer_types")
    if isinstance(words, list):
        return tuple(layer for layer in layers if words[layer] == "hash_moe")
    return tuple(layer for layer in layers if layer < first)


def _check_scoring(part: Mapping[str, object], score: str, name: str, source: str) -> None:
    """Refuse a score function that the family's router, as read, does not have."""
    for key in SCORING:
        got = part.get(key)
        if got in ("softmax", "sigmoid", "sqrtsoftplus") and got != score:
            raise _unsupported(source, f"{key} of {name}", got, score)


def _refuse_other_routing(options: Mapping[str, object], source: str) -> None:
    kinds = options.get("moe_router_load_balancing_type") or "none"
    for kind in kinds if isinstance(kinds, list) else [kinds]:
        if kind in ("sinkhorn", "quantile_balancing"):
            raise _unsupported(source, "moe_router_load_balancing_type", kind, "top-k routing")
    for name in (
        "moe_input_jitter_eps",
        "moe_router_force_load_balancing",
        "moe_router_force_biased",
    ):
        if options.get(name):
            raise _unsupported(source, name, options[name], "none: it makes routes random")


def _bad(source: str, name: str, value: object, expected: str) -> FormatError:
    return FormatError(f"{source}: bad {name}: got {quoted(value)}, expected {expected}")


def _unsupported(source: str, name: str, value: object, expected: str) -> UnsupportedError:
    return UnsupportedError(
        f"{source}: unsupported {name}: got {quoted(value)}, expected {expected}"
    )
