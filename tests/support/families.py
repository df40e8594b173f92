"""Tiny random models of every decoder MoE family of transformers 5.24, and where their routers are.

Nothing of routectl is used here, so that it can be an oracle. A family is data: the class that
transformers builds and the settings that differ from SIZES. Names with a dot are variants. Those
that an older transformers does not have are left out where that is installed.

``tiny(name)`` builds a model, ``routers(model)`` finds its routers by layer.
"""

import re
import warnings
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import torch

__all__ = [
    "EXPERTS", "FAMILIES", "TOP_K", "UNBUILT", "VOCAB", "Family", "config_of_family", "expert_bias",
    "routers", "tiny", "tokens",
]  # fmt: skip

EXPERTS, TOP_K, VOCAB = 16, 4, 128
SIZES = {
    "vocab_size": VOCAB, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "intermediate_size": 24, "moe_intermediate_size": 16,
    "max_position_embeddings": 256, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    "num_experts_per_tok": TOP_K,
}  # fmt: skip
MLA = {
    "num_key_value_heads": 4, "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8, "v_head_dim": 8, "head_dim": 8,
}  # fmt: skip
INDEXER = {"index_topk": 8, "index_head_dim": 16, "index_n_heads": 2}
GROUPS = {"n_group": 4, "topk_group": 2}
V3 = {
    "n_routed_experts": EXPERTS, "n_shared_experts": 1, **GROUPS, "norm_topk_prob": True,
    "routed_scaling_factor": 2.5, "first_k_dense_replace": 1,
}  # fmt: skip
E_A, E_B, E_C = (
    {name: EXPERTS} for name in ("num_experts", "num_local_experts", "n_routed_experts")
)
SPARSE = {"mlp_layer_types": ["dense", "sparse", "sparse"]}
LINEAR = {
    "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8,
    "linear_value_head_dim": 8, "full_attention_interval": 3, "shared_expert_intermediate_size": 16,
}  # fmt: skip
SHARED = {"shared_expert_intermediate_size": 16}


@dataclass(frozen=True)
class Family:
    """What transformers builds: ``models.module.modeling_module.name``, and its settings.

    config is (module, class) where a family has a config of its own alone.
    """

    module: str
    name: str
    settings: dict = field(default_factory=dict)
    layers: tuple[int, ...] = (0, 1, 2)  # the layers that have routers
    config: tuple[str, str] | None = None

    @property
    def is_there(self):
        """Whether the installed transformers has it."""
        found = find_spec("transformers")
        models = None if found is None else Path(found.origin).parent / "models"
        return models is None or (models / (self.config or (self.module,))[0]).is_dir()


def _variant(name, **settings):
    base = FAMILIES[name]
    settings = {**base.settings, **settings}
    return Family(base.module, base.name, settings, base.layers, base.config)


ALL, LATE = (0, 1, 2), (1, 2)
FAMILIES = {
    "qwen2_moe": Family("qwen2_moe", "Qwen2MoeForCausalLM",
                        {**E_A, **SHARED, "mlp_only_layers": [0]}, LATE),
    "qwen3_moe": Family("qwen3_moe", "Qwen3MoeForCausalLM",
                        {**E_A, "norm_topk_prob": True, "mlp_only_layers": [0]}, LATE),
    "qwen3_next": Family("qwen3_next", "Qwen3NextForCausalLM",
                         {**E_A, **LINEAR, "mlp_only_layers": [0]}, LATE),
    "qwen3_5_moe": Family("qwen3_5_moe", "Qwen3_5MoeForCausalLM", {**E_A, **LINEAR}),
    "qwen3_vl_moe": Family("qwen3_vl_moe", "Qwen3VLMoeTextModel",
                           {**E_A, "mlp_only_layers": [0]}, LATE),
    "qwen3_omni_moe": Family("qwen3_omni_moe", "Qwen3OmniMoeThinkerTextModel",
                             {**E_A, "mlp_only_layers": [0]}, LATE),
    "qwen4_exp": Family("qwen4_exp", "Qwen4ExpForCausalLM",
                        {**E_A, **LINEAR, "hc_count": 2, "hc_lowrank": 8, "indexer_n_heads": 2,
                         "indexer_kv_heads": 1, "indexer_head_dim": 8, "indexer_budget": 8,
                         "indexer_compress_ratio": 2}),
    "olmoe": Family("olmoe", "OlmoeForCausalLM", E_A),
    "flex_olmo": Family("flex_olmo", "FlexOlmoForCausalLM", E_A),
    "mellum": Family("mellum", "MellumForCausalLM", {**E_A, **SPARSE}, LATE),
    "mixtral": Family("mixtral", "MixtralForCausalLM", E_B),
    "minimax": Family("minimax", "MiniMaxForCausalLM", {**E_B, "block_size": 8}),
    "jamba": Family("jamba", "JambaForCausalLM",
                    {**E_A, "attn_layer_period": 3, "attn_layer_offset": 1, "mamba_d_state": 4,
                     "use_mamba_kernels": False}, (1,)),
    "gpt_oss": Family("gpt_oss", "GptOssForCausalLM", E_B),
    "openai_privacy_filter": Family("openai_privacy_filter", "OpenAIPrivacyFilterModel", E_B),
    "granitemoe": Family("granitemoe", "GraniteMoeForCausalLM", E_B),
    "granitemoe_swa": Family("granitemoe_swa", "GraniteMoeSWAForCausalLM",
                             {**E_B, "shared_intermediate_size": 16}),
    "granitemoeshared": Family("granitemoeshared", "GraniteMoeSharedForCausalLM",
                               {**E_B, "shared_intermediate_size": 16}),
    "granitemoehybrid": Family("granitemoehybrid", "GraniteMoeHybridForCausalLM",
                               {**E_B, "shared_intermediate_size": 16, "mamba_n_heads": 4,
                                "mamba_d_state": 8, "mamba_chunk_size": 16,
                                "layer_types": ["linear_attention", "full_attention",
                                                "linear_attention"]}),
    "aria_text": Family("aria", "AriaTextForCausalLM",
                        {"moe_num_experts": EXPERTS, "moe_topk": TOP_K}),
    "cohere2_moe": Family("cohere2_moe", "Cohere2MoeForCausalLM", {**E_A, **SPARSE}, LATE),
    "deepseek_v2": Family("deepseek_v2", "DeepseekV2ForCausalLM",
                          {**MLA, **V3, "topk_method": "group_limited_greedy"}, LATE),
    "deepseek_ocr2": Family("deepseek_ocr2", "DeepseekOcr2TextModel",
                            {**V3, **SPARSE, "topk_method": "greedy"}, LATE),
    "unlimited_ocr": Family("unlimited_ocr", "UnlimitedOcrTextModel",
                            {**V3, **SPARSE, "topk_method": "group_limited_greedy"}, LATE),
    "deepseek_v3": Family("deepseek_v3", "DeepseekV3ForCausalLM", {**MLA, **V3}, LATE),
    "deepseek_v32": Family("deepseek_v32", "DeepseekV32ForCausalLM",
                           {**MLA, **INDEXER, **V3}, LATE),
    "axk1": Family("axk1", "AXK1ForCausalLM", {**MLA, **V3}, LATE),
    "axk2": Family("axk2", "AXK2ForCausalLM",
                   {**MLA, **INDEXER, **V3, "gated_norm_rank": 4}, LATE),
    "bailing_hybrid": Family("bailing_hybrid", "BailingHybridForCausalLM",
                             {**MLA, **V3, "num_local_experts": EXPERTS, "layer_group_size": 3,
                              "q_lora_rank": None}, LATE),
    "beam": Family("beam", "BeamForCausalLM", {**E_A, **V3, **SPARSE}, LATE),
    "dots1": Family("dots1", "Dots1ForCausalLM", V3, LATE),
    "dots3_note": Family("dots3_note", "Dots3NoteForCausalLM",
                         {**MLA, **INDEXER, **V3, "head_dim": 16, "use_sliding_window": False,
                          "shared_experts_intermediate_size": 16}, LATE),
    "glm4_moe": Family("glm4_moe", "Glm4MoeForCausalLM", V3, LATE),
    "glm4_moe_lite": Family("glm4_moe_lite", "Glm4MoeLiteForCausalLM",
                            {**MLA, **V3, **SPARSE}, LATE),
    "glm4v_moe": Family("glm4v_moe", "Glm4vMoeTextModel",
                        {**V3, "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0,
                                                   "mrope_section": [1, 1, 0]}}, LATE),
    "glm_moe_dsa": Family("glm_moe_dsa", "GlmMoeDsaForCausalLM", {**MLA, **INDEXER, **V3}, LATE),
    "glm5_next": Family("glm5_next", "Glm5NextTextModel",
                        {**MLA, **INDEXER, **V3, **SPARSE, "qk_rope_head_dim": 0, "hc_mult": 2,
                         "linear_head_dim": 8, "linear_num_heads": 4, "index_kpool": 4}, LATE),
    "kimi_linear": Family("kimi_linear", "KimiLinearForCausalLM",
                          {**MLA, **V3, "num_local_experts": EXPERTS, "linear_head_dim": 8,
                           "linear_num_heads": 4, "q_lora_rank": None}, LATE),
    "mimo_v2_flash": Family("mimo_v2_flash", "MiMoV2FlashForCausalLM",
                            {**V3, **SPARSE, "v_head_dim": 8}, LATE),
    "nemotron_h": Family("nemotron_h", "NemotronHForCausalLM",
                         {**V3, "layers_block_type": ["linear_attention", "moe", "full_attention",
                                                      "moe"],
                          "num_hidden_layers": 4, "ssm_state_size": 8, "mamba_num_heads": 4,
                          "mamba_head_dim": 16, "n_groups": 2, "chunk_size": 16,
                          "moe_shared_expert_intermediate_size": 16, "use_mamba_kernels": False},
                         (1, 3)),
    "exaone_moe": Family("exaone_moe", "ExaoneMoeForCausalLM",
                         {**E_A, **V3, "sliding_window": 16}, LATE),
    "solar_open": Family("solar_open", "SolarOpenForCausalLM", V3),
    "hy_v3": Family("hy_v3", "HYV3ForCausalLM", E_A, LATE),
    "hy_v4": Family("hy_v4", "HYV4ForCausalLM", {**MLA, **INDEXER, **V3, "hc_mult": 2}, LATE),
    "hy_v4_vl": Family("hy_v4_vl", "HYV4VLTextModel",
                       {**MLA, **INDEXER, **V3, **SPARSE, "hc_mult": 2,
                        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0,
                                            "mrope_section": [2, 1, 1]}}, LATE),
    "lara_mini": Family("lara_mini", "LaraMiniForCausalLM",
                        {**E_A, **SHARED, **LINEAR, "sliding_window": 16,
                         "layer_types": ["linear_attention", "sliding_attention",
                                         "full_attention"]}),
    "sarvam_mla": Family("deepseek_v3", "DeepseekV3ForCausalLM", {**MLA, **V3}, LATE,
                         ("sarvam_mla", "SarvamMLAConfig")),
    "sarvam_moe": Family("glm4_moe", "Glm4MoeForCausalLM", V3, LATE,
                         ("sarvam_moe", "SarvamMoEConfig")),
    "deepseek_v4": Family("deepseek_v4", "DeepseekV4ForCausalLM",
                          {**E_C, "n_shared_experts": 1, "head_dim": 16, "q_lora_rank": 16,
                           "num_key_value_heads": 1, "num_hash_layers": 1, "hc_mult": 2,
                           "o_groups": 2, "o_lora_rank": 8, "index_n_heads": 2,
                           "index_head_dim": 16, "index_topk": 4, "sliding_window": 16,
                           "partial_rotary_factor": 0.5}),
    "minimax_m2": Family("minimax_m2", "MiniMaxM2ForCausalLM", E_B),
    "minimax_m3_vl": Family("minimax_m3_vl", "MiniMaxM3VLForCausalLM",
                            {**E_B, "moe_layer_freq": [0, 1, 1], "dense_intermediate_size": 24,
                             "shared_intermediate_size": 16, "rotary_dim": 4}, LATE),
    "step3p7": Family("step3p7", "Step3p7TextModel",
                      {**E_C, **SPARSE, "layer_types": ["full_attention"] * 3, "sliding_window": 16,
                       "share_expert_dim": 16, "moe_router_scaling_factor": 3.0}, LATE),
    "afmoe": Family("afmoe", "AfmoeForCausalLM",
                    {**E_A, "num_shared_experts": 1, "route_scale": 2.5}, LATE),
    "laguna": Family("laguna", "LagunaForCausalLM",
                     {**E_A, **SHARED, "moe_routed_scaling_factor": 2.5}, LATE),
    "lfm2_moe": Family("lfm2_moe", "Lfm2MoeForCausalLM",
                       {**E_A, "num_dense_layers": 1, "routed_scaling_factor": 2.5,
                        "layer_types": ["conv", "full_attention", "conv"]}, LATE),
    "ernie4_5_moe": Family("ernie4_5_moe", "Ernie4_5_MoeForCausalLM",
                           {"moe_num_experts": EXPERTS, "moe_k": TOP_K}, LATE),
    "hunyuan_v1_moe": Family("hunyuan_v1_moe", "HunYuanMoEV1ForCausalLM",
                             {**E_A, "moe_topk": TOP_K}),
    "llama4": Family("llama4", "Llama4ForCausalLM",
                     {**E_B, "num_experts_per_tok": 1, "interleave_moe_layer_step": 2,
                      "intermediate_size_mlp": 24}, (1,)),
    "phimoe": Family("phimoe", "PhimoeForCausalLM",
                     {**E_B, "num_experts_per_tok": 2, "router_jitter_noise": 0.5}),
    "longcat_flash": Family("longcat_flash", "LongcatFlashForCausalLM",
                            {**MLA, "num_layers": 2, "num_hidden_layers": 4, "n_routed_experts": 12,
                             "zero_expert_num": 4, "moe_topk": TOP_K, "ffn_hidden_size": 24,
                             "expert_ffn_hidden_size": 16, "routed_scaling_factor": 6.0}, (0, 1)),
    "mistral4": Family("mistral4", "Mistral4ForCausalLM",
                       {**MLA, **V3, "rope_parameters": {"rope_type": "default",
                                                         "rope_theta": 10000.0,
                                                         "partial_rotary_factor": 0.5,
                                                         "llama_4_scaling_beta": 0.1,
                                                         "original_max_position_embeddings": 256}},
                       LATE),
    "mistral_large4": Family("mistral_large4", "MistralLarge4TextModel",
                             {**MLA, **INDEXER, **V3}, LATE),
    "gemma4": Family("gemma4", "Gemma4ForCausalLM",
                     {**E_A, "top_k_experts": TOP_K, "enable_moe_block": True,
                      "vocab_size_per_layer_input": VOCAB, "hidden_size_per_layer_input": 8,
                      "global_head_dim": 8}),
    "zaya": Family("zaya", "ZayaForCausalLM",
                   {**E_A, "num_experts_per_tok": 1, "router_hidden_size": 16}),
    "inkling": Family("inkling", "InklingForCausalLM",
                      {**E_C, "dense_mlp_idx": 1, "swa_num_attention_heads": 4,
                       "swa_num_key_value_heads": 2, "swa_head_dim": 8, "d_rel": 4,
                       "rel_extent": 16, "sliding_window_size": 16}, LATE),
    "inkling2": Family("inkling2", "Inkling2ForCausalLM",
                       {**E_C, "swa_num_attention_heads": 4, "swa_num_key_value_heads": 2,
                        "swa_head_dim": 8, "d_rel": 4, "rel_extent": 16,
                        "unpadded_vocab_size": VOCAB,
                        "sliding_window_size": 16, "n_layers_per_attn_res_block": 2}),
    "kolibri1": Family("kolibri1", "Kolibri1ForCausalLM",
                       {**E_A, **SHARED, "sliding_window": 16}),
    "flint": Family("flint", "FlintForCausalLM", {**E_A, **SHARED, "mlp_only_layers": [0]}, LATE),
    "muse_spark": Family("muse_spark", "MuseSparkTextModel",
                         {**E_B, **SPARSE, "moe_hidden_size": 16, "routed_scaling_factor": 2.5},
                         LATE),
}  # fmt: skip
FAMILIES |= {
    "qwen3_moe.soft": _variant("qwen3_moe", norm_topk_prob=False),
    "qwen2_moe.norm": _variant("qwen2_moe", norm_topk_prob=True),
    "olmoe.norm": _variant("olmoe", norm_topk_prob=True),
    "cohere2_moe.sigmoid": _variant("cohere2_moe", expert_selection_fn="sigmoid"),
    "cohere2_moe.sigmoid_soft": _variant(
        "cohere2_moe", expert_selection_fn="sigmoid", norm_topk_prob=False
    ),
    "deepseek_v2.greedy": _variant("deepseek_v2", topk_method="greedy"),
    "deepseek_v3.one_group": _variant("deepseek_v3", n_group=1, topk_group=1),
    "deepseek_v3.soft": _variant("deepseek_v3", norm_topk_prob=False),
    "axk2.no_group": _variant("axk2", n_group=None, topk_group=None),
    "lfm2_moe.no_bias": _variant("lfm2_moe", use_expert_bias=False),
    "laguna.capped": _variant("laguna", moe_router_logit_softcapping=2.0),
    "kolibri1.norm": _variant("kolibri1", norm_topk_prob=True),
    "flint.soft": _variant("flint", norm_topk_prob=False),
    "mistral4.soft": _variant("mistral4", norm_topk_prob=False),
    "inkling2.softplus": _variant("inkling2", scoring_func="sqrtsoftplus"),
    "sarvam_moe.one_group": _variant("sarvam_moe", n_group=1, topk_group=1),
}
FAMILIES = {name: family for name, family in FAMILIES.items() if family.is_there}
UNBUILT = {
    "dbrx": "its router module returns logits only, the selection is inside the experts' block",
    "diffusion_gemma": "an encoder and a diffusion decoder around the routers of gemma4",
    "doge": "product-key experts without a router module",
    "ernie4_5_vl_moe": "two routers a layer, one for text and one for image tokens",
    "inkling2_loop": "layers that run several times a forward",
    "jetmoe": "two routers a layer, one of them of attention; no weights or ids are returned",
    "nllb_moe": "encoder-decoder with capacities",
    "switch_transformers": "encoder-decoder with capacities",
}
# Classes that _can_record_outputs does not name.
OTHERS = ("DeepseekV4HashRouter",)


def _class_of(name):
    family = FAMILIES[name]
    return getattr(
        import_module(f"transformers.models.{family.module}.modeling_{family.module}"), family.name
    )


def config_of_family(name):
    """The config that transformers makes of a family's settings."""
    family, made = FAMILIES[name], _class_of(name).config_class
    if family.config is not None:
        module, kind = family.config
        made = getattr(import_module(f"transformers.models.{module}.configuration_{module}"), kind)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return made(**{**SIZES, **family.settings})


def tiny(name, dtype=torch.float32, seed=0):
    """A random model in eval mode; router logits have a spread of about 2, biases are not zero.

    A model in bf16 keeps in float32 what ``from_pretrained`` would keep there.
    """
    model = _build(name, torch.float32, seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.normal_(0.0, 0.2, generator=generator)
        for module in routers(model).values():
            for key, parameter in module.named_parameters():
                if parameter.ndim == 1 and not key.startswith("norm"):
                    parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.3)
                elif parameter.ndim == 2 and parameter.shape[-1] == 32:
                    parameter.normal_(0.0, 0.4, generator=generator)
            if hasattr(module, "tid2eid"):
                table = torch.rand(VOCAB, EXPERTS, generator=generator).argsort(-1)
                module.tid2eid.copy_(table[:, : module.tid2eid.shape[1]])
        for bias in {id(b): b for _, b in _biases(model)}.values():
            bias.copy_(torch.randn(bias.shape, generator=generator) * 0.2)
    return model if dtype == torch.float32 else _as_loaded(name, model, dtype)


def _biases(model):
    """Every expert bias: a buffer or parameter of one of these names, anywhere."""
    names = ("e_score_correction_bias", "expert_bias", "balancing_biases")
    for key, tensor in (*model.named_buffers(), *model.named_parameters()):
        if key.rsplit(".", 1)[-1] in names:
            yield key, tensor


def _build(name, dtype, seed):
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        return _class_of(name)._from_config(config_of_family(name), dtype=dtype).eval()


def _as_loaded(name, model, dtype):
    """The model as ``from_pretrained(dtype=...)`` makes it: what a class holds in float32 stays."""
    loaded = _build(name, dtype, 0)
    kept = [re.compile(pattern) for pattern in loaded._get_dtype_plan(dtype)]
    for key, tensor in (*loaded.named_parameters(), *loaded.named_buffers()):
        if any(pattern.search(key) for pattern in kept):
            tensor.data = tensor.data.float()
    loaded.load_state_dict(model.state_dict())
    return loaded


def routers(model):
    """{layer: router module} by transformers' own _can_record_outputs; layers are 0-based."""
    targets = []
    for module in model.modules():
        specs = getattr(module, "_can_record_outputs", None) or {}
        spec = specs.get("router_logits", ())
        specs = spec if isinstance(spec, list) else [spec]
        targets += [one.target_class for one in specs if hasattr(one, "target_class")]
    found = {}
    for key, module in model.named_modules():
        if isinstance(module, tuple(targets)) or type(module).__name__ in OTHERS:
            layer = int(re.search(r"layers\.(\d+)\.", key)[1])
            assert layer not in found, f"two routers in layer {layer}"
            found[layer] = module
    return found


def expert_bias(model, layer):
    """The expert bias of a layer as the model holds it, or None; it may lie beside the router."""
    for key, tensor in _biases(model):
        if re.search(r"layers\.(\d+)\.", key)[1] == str(layer):
            return tensor.detach().reshape(-1)
    return None


def tokens(batch=2, length=12, seed=0):
    """Random token ids [batch, length], none of them special."""
    return torch.randint(3, VOCAB, (batch, length), generator=torch.Generator().manual_seed(seed))
