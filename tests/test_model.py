"""The facts in a config.json, against the models that transformers builds from it."""

import json
import re

import pytest

from routectl.errors import FormatError
from routectl.model import ModelFacts, facts_from_config
from support import families

TYPES = ["dense", "sparse", "dense", "sparse", "sparse", "dense"]
SMALL = {"num_experts_per_tok": 3, "num_hidden_layers": 6}
MLA = {"n_group": 1, "topk_group": 1, "n_routed_experts": 12, **SMALL}
# model type, what its config class is given, the MoE layers, experts and top_k of the model
FAMILIES = [
    ("qwen2_moe", {"decoder_sparse_step": 2, "num_experts": 12, **SMALL}, (1, 3, 5), 12, 3),
    ("qwen3_moe", {"mlp_only_layers": [0, 4], "num_experts": 12, **SMALL}, (1, 2, 3, 5), 12, 3),
    (
        "qwen3_next",
        {"decoder_sparse_step": 2, "mlp_only_layers": [3], "num_experts": 12, **SMALL},
        (1, 5),
        *(12, 3),
    ),
    ("qwen3_5_moe_text", {"num_experts": 12, **SMALL}, (0, 1, 2, 3, 4, 5), 12, 3),
    ("flint", {"num_experts": 12, **SMALL}, (2, 3, 4, 5), 12, 3),
    ("mixtral", {"num_local_experts": 12, **SMALL}, (0, 1, 2, 3, 4, 5), 12, 3),
    ("phimoe", {"num_local_experts": 12, **SMALL}, (0, 1, 2, 3, 4, 5), 12, 3),
    ("olmoe", {"num_experts": 12, **SMALL}, (0, 1, 2, 3, 4, 5), 12, 3),
    ("mellum", {"mlp_layer_types": TYPES, "num_experts": 12, **SMALL}, (1, 3, 4), 12, 3),
    ("gpt_oss", {"num_local_experts": 12, **SMALL}, (0, 1, 2, 3, 4, 5), 12, 3),
    ("deepseek_v2", {"first_k_dense_replace": 1, **MLA}, (1, 2, 3, 4, 5), 12, 3),
    ("deepseek_v3", {"first_k_dense_replace": 4, **MLA}, (4, 5), 12, 3),
    ("deepseek_v32", {"mlp_layer_types": TYPES, **MLA}, (1, 3, 4), 12, 3),
    ("deepseek_v4", {"n_routed_experts": 12, **SMALL}, (0, 1, 2, 3, 4, 5), 12, 3),
    ("glm4_moe", {"first_k_dense_replace": 2, **MLA}, (2, 3, 4, 5), 12, 3),
    ("glm4_moe_lite", {"mlp_layer_types": TYPES, **MLA}, (1, 3, 4), 12, 3),
    ("dots1", {"first_k_dense_replace": 3, "n_shared_experts": 1, **MLA}, (3, 4, 5), 12, 3),
    ("axk1", {"first_k_dense_replace": 2, "moe_layer_freq": 3, **MLA}, (3,), 12, 3),
    ("mimo_v2_flash", {"mlp_layer_types": TYPES, **MLA}, (1, 3, 4), 12, 3),
    ("kimi_linear", {"num_local_experts": 12, **SMALL}, (1, 2, 3, 4, 5), 12, 3),
    ("minimax_m2", {"num_local_experts": 12, **SMALL}, (0, 1, 2, 3, 4, 5), 12, 3),
    (
        "ernie4_5_moe",
        {
            **{"moe_num_experts": 12, "moe_k": 3, "num_hidden_layers": 8},
            **{"moe_layer_start_index": 2, "moe_layer_end_index": 6, "moe_layer_interval": 2},
        },
        (3, 5),
        *(12, 3),
    ),
    (
        "hunyuan_v1_moe",
        {"num_hidden_layers": 6, "num_experts": 12, "moe_topk": [3] * 6, "head_dim": 128},
        (0, 1, 2, 3, 4, 5),
        *(12, 3),
    ),
    ("afmoe", {"num_dense_layers": 2, "num_experts": 12, **SMALL}, (2, 3, 4, 5), 12, 3),
    ("granitemoehybrid", {"num_local_experts": 12, **SMALL}, (0, 1, 2, 3, 4, 5), 12, 3),
    (
        "jamba",
        {"expert_layer_period": 3, "expert_layer_offset": 1, "num_experts": 12, **SMALL},
        (1, 4),
        *(12, 3),
    ),
    (
        "lfm2_moe",
        {"num_dense_layers": 2, "num_experts": 12, "layer_types": ["conv"] * 6, **SMALL},
        (2, 3, 4, 5),
        *(12, 3),
    ),
    (
        "nemotron_h",
        {"hybrid_override_pattern": "ME*E-ME", "n_routed_experts": 12, "num_experts_per_tok": 3},
        (1, 3, 6),
        *(12, 3),
    ),
    (
        "llama4_text",
        {"interleave_moe_layer_step": 2, "num_local_experts": 12, **SMALL},
        (1, 3, 5),
        *(12, 3),
    ),
    (
        "llama4",
        {"text_config": {"moe_layers": [0, 5], "num_local_experts": 12, **SMALL}},
        (0, 5),
        *(12, 3),
    ),
    (
        "longcat_flash",
        {"num_layers": 6, "n_routed_experts": 12, "zero_expert_num": 4, "moe_topk": 3},
        (0, 1, 2, 3, 4, 5),
        *(16, 3),
    ),
    (
        "gemma4_text",
        {
            **{"enable_moe_block": True, "num_experts": 12, "top_k_experts": 3},
            **{"moe_intermediate_size": 64, "num_hidden_layers": 6},
        },
        (0, 1, 2, 3, 4, 5),
        *(12, 3),
    ),
]


@pytest.mark.models
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("model_type", "given", "layers", "num_experts", "top_k"),
    [pytest.param(*family, id=family[0]) for family in FAMILIES],
)
def test_facts_agree_with_the_routers_of_the_real_model(
    model_type, given, layers, num_experts, top_k
):
    """The facts of a saved config are those of the router modules that transformers builds."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    transformers.logging.set_verbosity_error()
    config = transformers.AutoConfig.for_model(model_type, **given)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    routers = families.routers(model)
    facts = facts_from_config(json.loads(json.dumps(config.to_dict())), "config.json")
    assert facts.layers == tuple(sorted(routers)) == layers
    text = config.get_text_config()
    for router in routers.values():
        counts = (getattr(router, name, None) for name in ("n_routed_experts", "num_experts"))
        real = max(filter(None, counts), default=None) or router.proj.out_features
        assert facts.num_experts == real == num_experts
        assert facts.top_k == (getattr(router, "top_k", None) or text.top_k_experts) == top_k
    decoders = {re.match(r".*?\blayers\.\d+", name) for name, _ in model.named_parameters()}
    numbers = {int(match[0].rsplit(".", 1)[1]) for match in decoders if match}
    assert facts.num_layers == len(numbers)
    assert facts.model_type == text.model_type


@pytest.mark.models
@pytest.mark.filterwarnings("ignore")
def test_a_dense_model_of_transformers_is_refused():
    """The config of a dense Qwen3 has no MoE layer."""
    transformers = pytest.importorskip("transformers")
    config = transformers.AutoConfig.for_model("qwen3", num_hidden_layers=6)
    with pytest.raises(FormatError, match=r"^c: no MoE layer: got none of num_experts, "):
        facts_from_config(config.to_dict(), "c")


REWRITTEN = [
    ("kimi_linear", {"num_experts": 12, "num_experts_per_token": 3, "first_k_dense_replace": 2}),
    ("cohere2_moe", {"num_experts": 12, "num_experts_per_tok": 3, "first_k_dense_replace": 2}),
    ("dots3_note_text", {"first_k_dense_replace": 2, "moe_layer_freq": [1, 1, 0, 1, 1, 0], **MLA}),
    (
        "minimax_m3_vl_text",
        {"moe_layer_freq": [0, 1, 1, 0, 1, 1], "num_local_experts": 12, **SMALL},
    ),
    ("step3p7", {"text_config": {"moe_layers_enum": "1,4,5", "model_type": "step3p5", **MLA}}),
    ("inkling_text", {"dense_mlp_idx": 2, **MLA}),
    ("nemotron_h", {"hybrid_override_pattern": "ME*E-E", "n_routed_experts": 12, **SMALL}),
]


@pytest.mark.models
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("model_type", "given"), [pytest.param(*r, id=r[0]) for r in REWRITTEN])
def test_hub_names_mean_what_transformers_makes_of_them(model_type, given):
    """A hub file's names give the facts of the config that transformers rewrites it to."""
    transformers = pytest.importorskip("transformers")
    transformers.logging.set_verbosity_error()
    hub = {"model_type": model_type, "num_hidden_layers": 6, **given}
    saved = transformers.AutoConfig.for_model(**json.loads(json.dumps(hub))).to_dict()
    facts = facts_from_config(hub, "hub")
    assert facts == facts_from_config(saved, "saved")
    assert 0 < len(facts.layers) < 6


BASE = {"num_hidden_layers": 6, "num_experts": 8, "num_experts_per_tok": 2}
HUB = [
    ("mimo_v2_flash", {"moe_layer_freq": [0, 1, 1, 0, 1, 1]}, (1, 2, 4, 5)),
    ("step3", {"moe_layers_enum": "3,4,5"}, (3, 4, 5)),
    ("step3_with_mtp", {"moe_layers_enum": "4, 5,6,7"}, (4, 5)),
    ("deepseek_freq", {"first_k_dense_replace": 1, "moe_layer_freq": 2}, (2, 4)),
    (
        "freq_and_first",
        {"first_k_dense_replace": 2, "moe_layer_freq": [1, 1, 1, 0, 1, 1]},
        (2, 4, 5),
    ),
    ("types_win", {"mlp_layer_types": TYPES, "first_k_dense_replace": 1}, (1, 3, 4)),
    ("types_with_mtp", {"mlp_layer_types": [*TYPES, "sparse"]}, (1, 3, 4)),
    ("hash_types", {"mlp_layer_types": ["hash_moe"] * 2 + ["moe"] * 4}, (0, 1, 2, 3, 4, 5)),
    ("ernie_open_end", {"moe_layer_start_index": 2, "moe_layer_end_index": -1}, (2, 3, 4, 5)),
    ("null_means_absent", {"mlp_only_layers": None, "moe_layers": None}, (0, 1, 2, 3, 4, 5)),
    (
        "attention_only_blocks",
        {"layers_block_type": ["mamba", "attention"] * 3},
        (0, 1, 2, 3, 4, 5),
    ),
    (
        "blocks",
        {"layers_block_type": ["mamba", "moe", "attention", "moe", "mlp", "moe"]},
        (1, 3, 5),
    ),
    ("pattern", {"hybrid_override_pattern": "ME*E-E"}, (1, 3, 5)),
]


@pytest.mark.parametrize(("given", "layers"), [pytest.param(*row[1:], id=row[0]) for row in HUB])
def test_hub_names_select_the_moe_layers(given, layers):
    """The names that hub files use, and transformers rewrites, select the same MoE layers."""
    assert facts_from_config({**BASE, **given}, "c") == ModelFacts(6, layers, 8, 2, None)


def test_an_empty_list_of_moe_layers_means_none():
    """A moe_layers list that is empty is a dense model, not a model without the list."""
    with pytest.raises(FormatError, match="no MoE layer: got 6 dense layers"):
        facts_from_config({**BASE, "moe_layers": []}, "c")


@pytest.mark.parametrize("path", ["text_config", "llm_config", "language_config", "thinker_config"])
def test_the_text_part_of_a_multimodal_config_is_read(path):
    """A nested text config gives the facts, and the vision tower's experts are not looked at."""
    text = {**BASE, "first_k_dense_replace": 1, "model_type": "text"}
    inner = {"text_config": text} if path == "thinker_config" else text
    whole = {"model_type": "whole", "vision_config": {"num_experts": 99}, path: inner}
    assert facts_from_config(whole, "c") == ModelFacts(6, (1, 2, 3, 4, 5), 8, 2, "text")


def test_experts_beside_a_text_part_without_them_are_read():
    """Where only the outer config names experts, it gives the facts, its own type included."""
    whole = {**BASE, "model_type": "whole", "text_config": {"hidden_size": 8}}
    assert facts_from_config(whole, "c").model_type == "whole"


@pytest.mark.models
def test_dbrx_keeps_its_sizes_in_a_part_of_their_own():
    """Of DBRX every layer is MoE, with the experts and top_k of its ffn_config."""
    transformers = pytest.importorskip("transformers")
    config = transformers.DbrxConfig(n_layers=3, ffn_config={"moe_num_experts": 8, "moe_top_k": 2})
    facts = facts_from_config(config.to_dict(), "config.json")
    assert (facts.layers, facts.num_experts, facts.top_k) == ((0, 1, 2), 8, 2)
    assert facts.model_type == "dbrx"


def test_longcat_counts_its_decoder_layers():
    """LongCat's num_hidden_layers, which counts two attentions a layer, gives way to num_layers."""
    whole = {"num_layers": 4, "num_hidden_layers": 8, "n_routed_experts": 8, "moe_topk": 2}
    assert facts_from_config(whole, "c").layers == (0, 1, 2, 3)


def test_constant_lists_and_two_names_for_one_number_are_read():
    """Lists by layer and several names are fine while they hold one number."""
    lists = {"num_hidden_layers": 4, "num_experts": [8] * 4, "n_routed_experts": 8, "moe_topk": [2]}
    overrides = {"per_layer_config": {"1": {"num_experts": 8, "head_dim": 4}}}
    assert facts_from_config({**lists, **overrides}, "c") == ModelFacts(4, (0, 1, 2, 3), 8, 2, None)


WHOLE = "a whole number from"
BAD = [
    ({"num_experts": None}, "no MoE layer: got none of num_experts, .*, expected one of them"),
    ({"num_experts": 0}, "no MoE layer: got 0 experts, expected 2 or more"),
    ({"num_experts": 1}, "no MoE layer: got 1 experts, expected 2 or more"),
    (
        {"enable_moe_block": False},
        "no MoE layer: got 6 dense layers, expected at least 1 MoE layer",
    ),
    ({"first_k_dense_replace": 6}, "no MoE layer: got 6 dense layers"),
    ({"num_experts": -8}, f"bad num_experts: got -8, expected {WHOLE} 0 to 65536"),
    ({"num_experts": 10**30}, f"bad num_experts: got {10**30}, expected"),
    ({"num_experts": True}, "bad num_experts: got True, expected"),
    ({"num_experts": 8.0}, "bad num_experts: got 8.0, expected"),
    ({"num_experts": "8"}, "bad num_experts: got '8', expected"),
    ({"num_experts": {"a": 8}}, "bad num_experts: got {'a': 8}, expected"),
    ({"num_experts": [8, 16]}, "unlike layers: got num_experts=8 and num_experts=16, expected one"),
    ({"n_routed_experts": 9}, "unlike layers: got num_experts=8 and n_routed_experts=9, expected"),
    ({"per_layer_config": {"1": {"num_experts": 4}}}, "unlike layers: got num_experts=8 and"),
    ({"num_experts_per_tok": None}, "no top_k: got none of num_experts_per_tok, .*, expected one"),
    ({"num_experts_per_tok": 9}, f"bad num_experts_per_tok: got 9, expected {WHOLE} 1 to 8"),
    ({"num_experts_per_tok": 0}, "bad num_experts_per_tok: got 0, expected"),
    ({"num_experts_per_tok": [2, 3]}, "unlike layers: got num_experts_per_tok=2 and"),
    ({"num_hidden_layers": None}, f"bad num_hidden_layers: got None, expected {WHOLE} 1 to 4096"),
    ({"num_hidden_layers": 10**9}, "bad num_hidden_layers: got 1000000000, expected"),
    ({"num_hidden_layers": [6]}, r"bad num_hidden_layers: got \[6\], expected"),
    ({"first_k_dense_replace": [1, 1]}, r"bad first_k_dense_replace: got \[1, 1\], expected"),
    ({"first_k_dense_replace": -1}, "bad first_k_dense_replace: got -1, expected"),
    ({"decoder_sparse_step": 0}, "bad decoder_sparse_step: got 0, expected"),
    ({"expert_layer_period": 2, "expert_layer_offset": 2}, "bad expert_layer_offset: got 2"),
    ({"mlp_only_layers": 3}, "bad mlp_only_layers: got 3, expected a list of layers"),
    ({"moe_layers": [1, "2"]}, "bad moe_layers: got '2', expected"),
    ({"moe_layers_enum": "1," + "9" * 5000}, "bad moe_layers_enum: got '999999999999"),
    (
        {"mlp_layer_types": TYPES[:5]},
        r"bad mlp_layer_types: got .*, expected an entry for each of 6",
    ),
    (
        {"mlp_layer_types": ["spares"] * 6},
        "bad mlp_layer_types: got 'spares', expected one of sparse",
    ),
    (
        {"hybrid_override_pattern": "ME*E-X"},
        "bad hybrid_override_pattern: got 'X', expected one of E",
    ),
    ({"moe_layer_freq": [0, 1, 2, 1, 1, 1]}, "bad moe_layer_freq: got 2, expected one of 0, 1"),
    ({"moe_layer_freq": "([0]*1+[1]*5)"}, r"bad moe_layer_freq: got '\(\[0\]\*1"),
]


@pytest.mark.parametrize(("given", "line"), BAD)
def test_a_bad_config_is_refused_in_one_line(given, line):
    """A config that is dense, incomplete or nonsense raises a FormatError with the house's line."""
    with pytest.raises(FormatError, match=f"^run/config.json: {line}") as caught:
        facts_from_config({**BASE, **given}, "run/config.json")
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 300
    assert (caught.value.hint is not None) == ("no MoE layer" in message)


@pytest.mark.parametrize("document", [[], "qwen3_moe", None, 3])
def test_a_document_that_is_no_object_is_refused(document):
    """A config.json that holds no JSON object raises a FormatError."""
    with pytest.raises(FormatError, match=r"^c: not a config: got .*, expected a JSON object$"):
        facts_from_config(document, "c")
