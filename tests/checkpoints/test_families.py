"""Routers read off checkpoints that transformers saved, against the live modules."""

import json
from pathlib import Path

import pytest
import torch

from routectl.checkpoints import open_checkpoint
from routectl.checkpoints.facts import checkpoint_facts
from routectl.checkpoints.router_names import router_names
from routectl.checkpoints.routers import router_tensors
from routectl.errors import FormatError, UnsupportedError
from support.families import routers

pytestmark = [pytest.mark.models, pytest.mark.filterwarnings("ignore")]

SIZES = {  # of whatever a config has
    "hidden_size": 32,
    "intermediate_size": 32,
    "moe_intermediate_size": 16,
    "ffn_hidden_size": 32,
    "expert_ffn_hidden_size": 16,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 64,
    "max_position_embeddings": 64,
    "shared_expert_intermediate_size": 16,
    "q_lora_rank": 8,
    "kv_lora_rank": 8,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 4,
    "v_head_dim": 8,
    "head_dim": 8,
    "mamba_d_state": 8,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "n_group": 1,
    "topk_group": 1,
    "mamba_num_heads": 8,
    "mamba_head_dim": 8,
    "mlp_hidden_size": 32,
    "intermediate_size_mlp": 32,
    "o_lora_rank": 8,
    "index_head_dim": 8,
}
NAMED = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
K = ("num_experts_per_tok", "num_experts_per_token", "moe_k", "moe_topk")
# family: what its config is given, the tensors that hold a router behind "layers.N."
FAMILIES = {
    "qwen2_moe": ({"decoder_sparse_step": 2}, {"mlp.gate.weight"}),
    "mixtral": ({}, {"block_sparse_moe.gate.weight"}),
    "phimoe": ({}, {"block_sparse_moe.gate.weight"}),
    "gpt_oss": ({}, {"mlp.router.weight", "mlp.router.bias"}),
    "deepseek_v3": (
        {"first_k_dense_replace": 2},
        {"mlp.gate.weight", "mlp.gate.e_score_correction_bias"},
    ),
    "deepseek_v4": ({}, {"ffn.gate.weight", "ffn.gate.bias", "ffn.gate.tid2eid"}),
    "minimax_m2": (
        {},
        {"block_sparse_moe.gate.weight", "block_sparse_moe.e_score_correction_bias"},
    ),
    "ernie4_5_moe": (
        {"moe_layer_start_index": 1},
        {"mlp.gate.weight", "mlp.moe_statics.e_score_correction_bias"},
    ),
    "hunyuan_v1_moe": ({"head_dim": 128}, {"mlp.gate.wg.weight"}),
    "afmoe": ({"num_dense_layers": 1}, {"mlp.router.gate.weight", "mlp.expert_bias"}),
    "hy_v3": ({}, {"mlp.router.gate.weight", "mlp.expert_bias"}),
    "granitemoe": ({}, {"block_sparse_moe.router.layer.weight"}),
    "lfm2_moe": (
        {
            **{"num_dense_layers": 1, "num_hidden_layers": 4},
            "layer_types": ["conv", "full_attention"] * 2,
        },
        {"feed_forward.gate.weight", "feed_forward.expert_bias"},
    ),
    "nemotron_h": (
        {"hybrid_override_pattern": "ME*E", "num_hidden_layers": 4},
        {"mixer.gate.weight", "mixer.gate.e_score_correction_bias"},
    ),
    "longcat_flash": (
        {"num_layers": 2, "zero_expert_num": 4},
        {"mlp.router.classifier.weight", "mlp.router.e_score_correction_bias"},
    ),
    "kimi_linear": (
        {},
        {"block_sparse_moe.gate.weight", "block_sparse_moe.gate.e_score_correction_bias"},
    ),
    "exaone_moe": ({}, {"mlp.gate.weight", "mlp.e_score_correction_bias"}),
    "laguna": ({}, {"mlp.gate.weight", "mlp.experts.e_score_correction_bias"}),
    "bailing_hybrid": ({}, {"mlp.gate.weight", "mlp.gate.expert_bias"}),
    "llama4_text": ({"interleave_moe_layer_step": 2}, {"feed_forward.router.weight"}),
    "aria_text": ({}, {"mlp.router.weight"}),
    "gemma4_text": (
        {
            **{"enable_moe_block": True, "num_experts": 8, "top_k_experts": 2},
            "moe_intermediate_size": 16,
        },
        {"router.proj.weight", "router.scale", "router.per_expert_scale"},
    ),
    "zaya": (
        {"router_hidden_size": 16, "num_experts_per_tok": 1},
        {
            *(f"mlp.gate.down_proj.{part}" for part in ("weight", "bias")),
            *(f"mlp.gate.router_mlp.fc{n}.{part}" for n in (1, 2) for part in ("weight", "bias")),
            *("mlp.gate.balancing_biases", "mlp.gate.router_states_scale"),
            *(f"mlp.gate.router_mlp.{part}.weight" for part in ("norm", "out_proj")),
        },
    ),
}


def tiny(family: str, given: dict) -> torch.nn.Module:
    """A model of a family, 4 layers and 8 experts of which 2 are taken, on the CPU."""
    import transformers

    base = transformers.AutoConfig.for_model(family, **given).to_dict()
    sizes = {name: size for name, size in SIZES.items() if base.get(name) is not None}
    counts = {name: 8 for name in NAMED if base.get(name) is not None}
    counts |= {name: 2 for name in K if base.get(name) is not None}
    layers = {} if "num_layers" in given else {"num_hidden_layers": 4}
    config = transformers.AutoConfig.for_model(family, **{**sizes, **counts, **layers, **given})
    return transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)


def parts_of(model: torch.nn.Module) -> dict[int, list[torch.Tensor]]:
    """All that a layer's router is made of: the module's tensors, and a bias on its parent."""
    modules = dict(model.named_modules())
    names = {module: name for name, module in modules.items()}
    found = {}
    for layer, router in routers(model).items():
        parent = modules[names[router].rpartition(".")[0]]
        own = [*router.parameters(), *router.buffers()]
        beside = [*parent.parameters(recurse=False), *parent.buffers(recurse=False)]
        found[layer] = own + [tensor for tensor in beside if tensor.shape == (8,)]
    return found


def shake(parts: dict[int, list[torch.Tensor]]) -> None:
    """Make every router tensor unlike all others; biases become float32, as engines train them."""
    for own in parts.values():
        for tensor in own:
            wide = tensor.dim() == 2 and tensor.shape[0] > 1
            dtype = tensor.dtype if wide or not tensor.is_floating_point() else torch.float32
            if tensor.is_floating_point():
                tensor.data = torch.randn(tensor.shape).to(dtype)
            else:
                tensor.data = torch.randint(0, 8, tensor.shape, dtype=tensor.dtype)


def key(tensor: torch.Tensor) -> tuple[str, tuple[int, ...], bytes]:
    """A tensor as something that can be compared; [1, E] biases count as [E]."""
    shape = tuple(size for size in tensor.shape if size != 1)
    return str(tensor.dtype), shape, bytes(tensor.detach().clone().untyped_storage())


@pytest.mark.parametrize("family", FAMILIES)
def test_routers_are_those_of_the_live_model(family: str, tmp_path: Path) -> None:
    """Names are as the table says, and each tensor is the live one, bit for bit and dtype."""
    given, suffixes = FAMILIES[family]
    torch.manual_seed(0)
    from transformers import logging

    logging.set_verbosity_error()
    model = tiny(family, given)
    live = parts_of(model)
    shake(live)
    model.save_pretrained(tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    routers = router_tensors(checkpoint)
    assert sorted(routers) == sorted(live)
    names = set()
    for layer, router in routers.items():
        read = [router.weight, router.linear_bias, router.expert_bias, *router.extras.values()]
        tensors = [tensor for tensor in read if tensor is not None]
        assert sorted(map(key, tensors)) == sorted(map(key, live[layer]))
        assert router.weight.dim() == 2
        names |= {part.name.split(f"layers.{layer}.")[1] for part in router.names.parts}
    assert names == suffixes
    facts = checkpoint_facts(checkpoint)
    idle = {"longcat_flash": 4, "zaya": 1}.get(family, 0)
    assert (facts.num_experts, facts.top_k) == (8 + idle, given.get("num_experts_per_tok", 2))
    assert sum(len(own) for own in live.values()) == sum(
        len(router.names.parts) for router in routers.values()
    )


def test_of_two_routers_in_a_layer_that_of_the_mlp_is_shown(tmp_path: Path) -> None:
    """JetMoE's layers have the router of their MLP, bit for bit, not attention's; no recipe."""
    model = tiny("jetmoe", {"kv_channels": 8, "num_key_value_heads": 2})
    model.save_pretrained(tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    assert "model.layers.1.self_attention.experts.router.layer.weight" in checkpoint.tensors
    routers = router_tensors(checkpoint)
    assert list(routers) == [0, 1, 2, 3]
    for layer, router in routers.items():
        assert torch.equal(router.weight, model.model.layers[layer].mlp.router.layer.weight)
    facts = checkpoint_facts(checkpoint)
    assert (facts.num_experts, facts.top_k, facts.recipe) == (8, 2, None)


@pytest.fixture
def qwen(tmp_path: Path) -> Path:
    """A saved qwen2_moe, with shared experts and their gates."""
    tiny("qwen2_moe", {}).save_pretrained(tmp_path)
    return tmp_path


def rename(folder: Path, change) -> None:
    """Save a folder's tensors again under other names, as a dict to a dict."""
    from safetensors.torch import load_file, save_file

    path = folder / "model.safetensors"
    save_file(change(load_file(path)), path)


def configure(folder: Path, **fields: object) -> None:
    """Change a config.json."""
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


class TestClashes:
    """What looks like a router and is none."""

    def test_mtp_layers_are_left_out(self, qwen: Path) -> None:
        """Routers beyond num_hidden_layers, and those under mtp., are not counted."""
        rename(
            qwen,
            lambda t: (
                t
                | {
                    name.replace("model.layers.3.", prefix): tensor.clone()
                    for prefix in ("model.layers.4.", "mtp.layers.0.")
                    for name, tensor in t.items()
                    if "model.layers.3." in name
                }
            ),
        )
        checkpoint = open_checkpoint(qwen)
        assert "model.layers.4.mlp.gate.weight" in checkpoint.tensors
        assert "mtp.layers.0.mlp.gate.weight" in checkpoint.tensors
        assert list(router_names(checkpoint)) == [0, 1, 2, 3]

    @pytest.mark.parametrize(
        "prefix", ["model.language_model.", "language_model.model.", "thinker.model.", ""]
    )
    def test_prefixes_of_multimodal_models_are_read(self, qwen: Path, prefix: str) -> None:
        """The language model is found below any prefix, beside a talker with routers of its own."""
        rename(
            qwen,
            lambda t: {
                name.replace("model.", p, 1): tensor.clone()
                for p in (prefix, "talker.model.")
                for name, tensor in t.items()
            },
        )
        names = router_names(open_checkpoint(qwen))
        assert [n.weight.name for n in names.values()] == [
            f"{prefix}layers.{layer}.mlp.gate.weight" for layer in range(4)
        ]

    def test_two_language_models_are_refused(self, qwen: Path) -> None:
        """Where two sets of routers fit, neither is taken."""
        rename(
            qwen,
            lambda t: {
                name.replace("model.", p, 1): tensor.clone()
                for p in ("a.", "b.")
                for name, tensor in t.items()
            },
        )
        with pytest.raises(UnsupportedError, match=r"routers of 2 models: a\.layers, b\.layers"):
            router_names(open_checkpoint(qwen))

    def test_gates_of_shared_experts_are_no_routers(self, qwen: Path) -> None:
        """shared_expert_gate and gate_proj, which the model has, are in no router."""
        checkpoint = open_checkpoint(qwen)
        assert any("shared_expert_gate.weight" in name for name in checkpoint.tensors)
        for names in router_names(checkpoint).values():
            assert [part.name.split(".", 3)[3] for part in names.parts] == ["mlp.gate.weight"]


class TestRefused:
    """Checkpoints whose routers do not fit their config."""

    def test_an_absent_router_is_named_by_layer(self, qwen: Path) -> None:
        """A MoE layer without a router weight raises FormatError with its number."""
        rename(qwen, lambda t: {n: x for n, x in t.items() if "layers.2.mlp.gate.w" not in n})
        with pytest.raises(FormatError, match="layer 2 has no router weight, expected one in each"):
            router_names(open_checkpoint(qwen))

    def test_too_few_experts_are_refused(self, qwen: Path) -> None:
        """A weight of fewer rows than the config's experts raises FormatError."""
        configure(qwen, num_experts=9)
        with pytest.raises(FormatError, match=r"got \[8, 32\], expected \[9, D\]"):
            router_names(open_checkpoint(qwen))

    def test_quantised_router_weights_are_unsupported(self, qwen: Path) -> None:
        """A router in float8 would need its scales, and is refused."""
        f8 = torch.float8_e4m3fn
        rename(qwen, lambda t: {n: x.to(f8) if "mlp.gate.w" in n else x for n, x in t.items()})
        with pytest.raises(UnsupportedError, match=r"stored as F8_E4M3: a router weight"):
            router_names(open_checkpoint(qwen))

    def test_unknown_names_are_unsupported(self, qwen: Path) -> None:
        """Routers under names that no family has are not guessed."""
        rename(qwen, lambda t: {n.replace("mlp.gate.", "mlp.novel."): x for n, x in t.items()})
        with pytest.raises(UnsupportedError, match="no router among its tensors"):
            router_names(open_checkpoint(qwen))

    def test_sizes_need_a_config(self, qwen: Path) -> None:
        """Facts of an HF folder without config.json are refused; its tensors still open."""
        (qwen / "config.json").unlink()
        checkpoint = open_checkpoint(qwen)
        assert checkpoint.config is None
        with pytest.raises(FormatError, match=r"no config\.json beside the weights"):
            checkpoint_facts(checkpoint)
