"""Recipes as read from configs: the facts, transformers' defaults, one clear line otherwise."""

import json
import re
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest
import torch

from routectl.errors import FormatError, UnsupportedError
from routectl.routers.families import ALIASES, FAMILIES, NOT_COVERED
from routectl.routers.from_config import megatron_recipe, recipe_from_config
from routectl.routers.maths import route, router_logits
from routectl.routers.recipe import Recipe
from support.families import FAMILIES as TINY
from support.families import UNBUILT, config_of_family

CONFIGS = Path(__file__).parent.parent.parent / "fixtures" / "configs"
V3 = {
    "model_type": "deepseek_v3",
    "n_routed_experts": 256,
    "num_experts_per_tok": 8,
    "n_group": 8,
    "topk_group": 4,
    "norm_topk_prob": True,
    "routed_scaling_factor": 2.5,
    "num_hidden_layers": 61,
    "first_k_dense_replace": 3,
    "scoring_func": "sigmoid",
    "topk_method": "noaux_tc",
}


def softmax(**rest):
    """A config of Qwen3-MoE."""
    return {
        "model_type": "qwen3_moe",
        "num_hidden_layers": 2,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        **rest,
    }


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (V3, "sigmoid + bias, top-2-sum of 8 groups keep 4, top-8 of 256, normalised, x 2.5"),
        (
            {
                **V3,
                "model_type": "kimi_k2",
                "n_routed_experts": 384,
                "n_group": 1,
                "topk_group": 1,
                "routed_scaling_factor": 2.827,
            },
            "sigmoid + bias, top-8 of 384, normalised, x 2.827",
        ),
        (softmax(norm_topk_prob=True), "softmax, top-8 of 128, normalised"),
        (softmax(norm_topk_prob=False), "softmax, top-8 of 128"),
        (softmax(), "softmax, top-8 of 128"),
        (
            {
                "model_type": "gpt_oss",
                "num_local_experts": 32,
                "num_experts_per_tok": 4,
                "num_hidden_layers": 24,
            },
            "logits, top-4 of 32, softmax of those",
        ),
        (
            {
                "model_type": "deepseek_v2",
                "n_routed_experts": 160,
                "num_experts_per_tok": 6,
                "n_group": 8,
                "topk_group": 3,
                "topk_method": "group_limited_greedy",
                "routed_scaling_factor": 16.0,
                "num_hidden_layers": 60,
                "scoring_func": "softmax",
            },
            "softmax, best of 8 groups keep 3, top-6 of 160, x 16",
        ),
        (
            {
                "model_type": "kimi_linear",
                "num_experts": 256,
                "num_experts_per_token": 8,
                "num_expert_group": 1,
                "topk_group": 1,
                "moe_renormalize": True,
                "routed_scaling_factor": 2.446,
                "num_hidden_layers": 27,
            },
            "sigmoid + bias, top-8 of 256, normalised, x 2.446",
        ),
        (
            {
                "model_type": "longcat_flash",
                "n_routed_experts": 512,
                "zero_expert_num": 256,
                "moe_topk": 12,
                "num_layers": 28,
                "routed_scaling_factor": 6.0,
            },
            "softmax + bias, top-12 of 512 + 256 zero experts, x 6",
        ),
        (
            {
                "model_type": "deepseek_v4",
                "n_routed_experts": 256,
                "num_experts_per_tok": 6,
                "num_hidden_layers": 43,
            },
            "layers 0, 1, 2 by table of token ids, sqrtsoftplus + bias, top-6 of 256, normalised, "
            "x 1.5",
        ),
        (
            {"model_type": "kimi_k25", "text_config": {**V3, "model_type": "kimi_k2"}},
            "sigmoid + bias, top-2-sum of 8 groups keep 4, top-8 of 256, normalised, x 2.5",
        ),
        (
            {"model_type": "qwen3_vl_moe", "text_config": softmax(model_type="qwen3_vl_moe_text")},
            "softmax, top-8 of 128, normalised",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else value["model_type"],
)
def test_a_model_in_words(config, words):
    """A config as published reads as people say its router."""
    assert recipe_from_config(config, "config.json").describe() == words


@pytest.mark.models
@pytest.mark.parametrize("name", [name for name in TINY if "." not in name and name in FAMILIES])
def test_defaults_are_those_of_transformers(name):
    """A config that is silent gives the recipe of transformers' own config with its defaults."""
    full = config_of_family(name)
    sizes = (
        "model_type",
        "num_experts",
        "num_local_experts",
        "n_routed_experts",
        "moe_num_experts",
        "num_experts_per_tok",
        "num_experts_per_token",
        "moe_k",
        "moe_topk",
        "top_k_experts",
        "num_layers",
        "layers_block_type",
        "enable_moe_block",
        "zero_expert_num",
    )
    silent = {key: value for key, value in full.to_dict().items() if key in sizes}
    if not {"num_layers", "layers_block_type"} & {*silent}:
        silent["num_hidden_layers"] = 8
    if name == "longcat_flash":  # of what is E + zero experts the class takes both sizes
        assert silent.pop("zero_expert_num") == 4
        silent["n_routed_experts"] = 512
    settings = {key: value for key, value in silent.items() if key != "model_type"}
    spoken = type(full)(**settings).to_dict()
    assert recipe_from_config(silent, name) == recipe_from_config(spoken, name)


def test_fixtures_read():
    """The configs of the recorded checkpoints give their recipes."""
    words = {
        path.stem: recipe_from_config(json.loads(path.read_text()), path.name).describe()
        for path in sorted(CONFIGS.glob("*.json"))
    }
    assert words["qwen3_moe"] == "softmax, top-4 of 32, normalised"
    assert words["deepseek_v3"].startswith("sigmoid + bias, ")


@pytest.mark.models
def test_every_router_class_is_accounted_for():
    """Each family of transformers that records router logits is in the table, or listed as not."""
    import transformers

    models = Path(transformers.__file__).parent / "models"
    found = {
        path.parent.name
        for path in models.glob("*/modeling_*.py")
        if '"router_logits": ' in path.read_text() and "OutputRecorder(" in path.read_text()
    }
    assert found <= {*FAMILIES, *NOT_COVERED}
    assert not {*FAMILIES} & {*NOT_COVERED}
    assert {*UNBUILT} <= {*NOT_COVERED}
    newer = {*FAMILIES} - {name.removesuffix("_text") for name in TINY}
    assert all(not (models / name).exists() for name in newer)
    assert {*ALIASES.values()} <= {*FAMILIES}


@pytest.mark.models
@pytest.mark.parametrize(
    "name", [name for name in FAMILIES if name in TINY or f"{name}_text" in TINY]
)
def test_the_named_class_exists(name):
    """The router class that a row names is one of transformers' module of that family."""
    module = FAMILIES[name].module or name
    found = import_module(f"transformers.models.{module}.modeling_{module}")
    assert hasattr(found, FAMILIES[name].router)


@pytest.mark.parametrize(
    ("config", "kind", "message"),
    [
        (
            {**V3, "model_type": "mamba9"},
            UnsupportedError,
            "c.json: unknown router: got mamba9, expected one of afmoe, ",
        ),
        (
            {**V3, "model_type": "step5"},
            UnsupportedError,
            "c.json: unknown router: got step5, expected one of afmoe, ",
        ),
        (
            {**V3, "model_type": "inkling2_loop_text"},
            UnsupportedError,
            "c.json: inkling2_loop is not covered: layers run several times a forward",
        ),
        (
            {**V3, "model_type": None},
            UnsupportedError,
            "c.json: unknown router: got no model_type, expected one of afmoe, ",
        ),
        (
            {**V3, "model_type": "jetmoe"},
            UnsupportedError,
            "c.json: jetmoe is not covered: a layer has two routers, one of them of attention",
        ),
        (
            {**V3, "scoring_func": "softmax"},
            UnsupportedError,
            "c.json: unsupported scoring_func of deepseek_v3: got 'softmax', expected sigmoid",
        ),
        (
            {**V3, "n_group": 7},
            FormatError,
            "c.json: bad n_group: got 7, expected a divisor of 256 experts",
        ),
        (
            {**V3, "topk_group": 9},
            FormatError,
            "c.json: bad topk_group: got 9, expected 1 to 8 for top-8 of 256 experts in 8 groups",
        ),
        (
            {**V3, "n_group": 256, "topk_group": 16},
            FormatError,
            "c.json: bad n_group: got 256, expected at least 2 experts in a group",
        ),
        (
            {**V3, "norm_topk_prob": 1},
            FormatError,
            "c.json: bad norm_topk_prob: got 1, expected true or false",
        ),
        (
            {**V3, "routed_scaling_factor": "2.5"},
            FormatError,
            "c.json: bad routed_scaling_factor: got '2.5', expected a number",
        ),
        (
            {**V3, "routed_scaling_factor": float("nan")},
            FormatError,
            "c.json: bad routed_scaling_factor: got nan, expected a number",
        ),
        (
            {**V3, "n_group": True},
            FormatError,
            "c.json: bad n_group: got True, expected a whole number",
        ),
        (
            {
                **V3,
                "model_type": "deepseek_v2",
                "topk_method": "noaux_tc",
                "scoring_func": "softmax",
            },
            UnsupportedError,
            "c.json: unsupported topk_method: got 'noaux_tc', "
            "expected greedy, group_limited_greedy",
        ),
        (
            {**V3, "model_type": "deepseek_v2", "topk_method": 2},
            FormatError,
            "c.json: bad topk_method: got 2, expected a word",
        ),
        (
            {
                "model_type": "phimoe",
                "num_local_experts": 16,
                "num_experts_per_tok": 3,
                "num_hidden_layers": 2,
            },
            FormatError,
            "c.json: bad num_experts_per_tok: got 3, expected 2, which sparsemixer selects",
        ),
        (
            {
                "model_type": "hunyuan_v1_moe",
                "num_experts": [8, 16],
                "moe_topk": 2,
                "num_hidden_layers": 2,
            },
            FormatError,
            "c.json: unlike layers: got num_experts=8 and num_experts=16, expected one number "
            "for all layers",
        ),
    ],
)
def test_refused_in_one_line(config, kind, message):
    """A config that cannot be followed is refused in one line that says what and why."""
    with pytest.raises(kind) as caught:
        recipe_from_config(config, "c.json")
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("model_type", "version", "held"),
    [
        ("deepseek_v3", "5.21.0", "model"),
        ("deepseek_v3", "5.23.1", "model"),
        ("deepseek_v3", "5.24.0", "float32"),
        ("deepseek_v3", "5.99.0.dev0", "float32"),
        ("mimo_v2_flash", "5.22.2", "model"),
        ("qwen3_moe", "5.24.0", "model"),
        ("beam", "5.21.0", "float32"),
    ],
)
def test_the_matrix_is_held_as_a_version_holds_it(model_type, version, held):
    """bf16 inputs and a float32 matrix: the logits of one that was rounded, or of float32."""
    config = {**V3, "model_type": model_type, "num_experts": 256, "n_group": 1, "topk_group": 1}
    config |= {"scoring_func": None}
    recipe = recipe_from_config(config, "c", version=version)
    assert recipe.matrix_dtype == held
    assert recipe.source.startswith(f"transformers {version} ")
    generator = torch.Generator().manual_seed(0)
    hidden_TD = torch.randn(5, 16, generator=generator).bfloat16()
    weight_ED = torch.randn(256, 16, generator=generator)
    product = weight_ED if held == "float32" else weight_ED.bfloat16()
    if recipe.logits_dtype == "float32":
        hidden, product = hidden_TD.float(), product.float()
    else:
        hidden = hidden_TD
    logits_TE = router_logits(recipe, hidden_TD, weight_ED)
    assert torch.equal(logits_TE, hidden @ product.T)


def test_hash_layers_are_listed_or_counted():
    """DeepSeek-V4's hash layers come from mlp_layer_types, or are the first num_hash_layers."""
    config = {
        "model_type": "deepseek_v4",
        "n_routed_experts": 16,
        "num_experts_per_tok": 2,
        "num_hidden_layers": 4,
    }
    assert recipe_from_config({**config, "num_hash_layers": 1}, "c").hash_layers == (0,)
    listed = {**config, "mlp_layer_types": ["moe", "hash_moe", "moe", "moe"]}
    recipe = recipe_from_config(listed, "c")
    assert recipe.hash_layers == (1,)
    assert recipe.at(1).select_on == "table"
    assert not recipe.at(1).expert_bias
    assert recipe.at(1).describe() == (
        "top-2 of 16 by table of token ids, sqrtsoftplus of those, normalised, x 1.5"
    )
    assert recipe.at(0).select_on == "scores"


def test_groups_of_megatron():
    """Megatron's groups score the sum of their K // kept best experts."""
    megatron = megatron_recipe(
        {
            "num_moe_experts": 64,
            "moe_router_topk": 6,
            "moe_router_num_groups": 8,
            "moe_router_group_topk": 2,
            "moe_router_pre_softmax": True,
        },
        "args",
    )
    assert megatron.group_best == 3


def steps_of(recipe):
    """Recipes that differ from one in one step, as implementations do, where it has that step."""
    changes = [{"tie": "highest"}]
    if recipe.select_on == "scores":
        rounded = {"float32": "rounded"}.get(recipe.score_dtype, "float32")
        changes.append({"score_dtype": rounded})
    if recipe.expert_bias:
        changes += [{"bias_dtype": "bfloat16"}, {"expert_bias": False}]
    elif recipe.select_on == "scores" and recipe.score == "softmax" and not recipe.grouped:
        changes.append({"select_on": "logits"})
    if recipe.grouped:
        size = recipe.columns // recipe.n_group
        bests = {1, 2, recipe.top_k // recipe.topk_group} & set(range(1, size + 1))
        changes += [{"n_group": 1, "topk_group": 1}, {"group_mask": "zero"}, {"group_mask": "-inf"}]
        changes += [{"group_best": best, "group_distinct": False} for best in sorted(bests)]
        changes += [{"group_distinct": True}] if size > 1 and recipe.group_best == 2 else []
    return [(c, replace(recipe, **c)) for c in changes if replace(recipe, **c) != recipe]


@pytest.mark.models
@pytest.mark.parametrize("name", [name for name in TINY if name in FAMILIES])
def test_steps_can_select_others(name):
    """A recipe that differs in one step selects other experts for some logits with ties."""
    recipe = recipe_from_config(config_of_family(name).to_dict(), name)
    generator = torch.Generator().manual_seed(0)
    biases = [torch.randn(recipe.columns, generator=generator) * 0.3]
    biases.append((biases[0] * 4).round() / 4)  # so that scores tie
    biases.append(biases[0] - 2)  # so that 0 is a good score
    scale = torch.ones(recipe.columns) if recipe.expert_scale else None

    def ids(which, logits, bias):
        given = bias if which.expert_bias else None
        return route(which, logits, expert_bias_E=given, expert_scale_E=scale).ids_TK

    shape = (2000, recipe.columns)
    spreads = [(torch.randn(shape, generator=generator) * s).bfloat16() for s in (0.05, 1, 8, 60)]
    spreads.append(torch.randint(-1, 2, shape, generator=generator).bfloat16())
    for change, other in steps_of(recipe):
        assert any(
            not torch.equal(ids(recipe, logits, bias), ids(other, logits, bias))
            for logits in spreads
            for bias in biases
        ), change


def test_recipe_checks_itself():
    """A recipe of unknown words or unfit sizes cannot be made."""
    recipe = recipe_from_config(V3, "c")
    for change, words in (
        ({"score": "tanh"}, "score 'tanh' is not known: "),
        ({"tie": "random"}, "tie 'random' is not known: "),
        ({"top_k": 0}, "top_k must be in 1..256"),
        ({"top_k": 257}, "top_k must be in 1..256"),
        ({"n_group": 3}, "bad n_group"),
        ({"topk_group": 0}, "bad topk_group"),
        ({"group_best": 33}, "group_best must fit"),
        ({"score": "sparsemixer"}, "sparsemixer selects 2"),
    ):
        with pytest.raises(ValueError, match=re.escape(words)):
            replace(recipe, **change)
    assert isinstance(recipe, Recipe)
    assert hash(recipe) == hash(recipe_from_config(V3, "other"))
