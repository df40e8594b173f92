"""RouterTracer of Megatron-Core 0.19 on its own TopKRouter, and what routectl reads of it.

Skipped where router_trace.py is not there: tests/trainers/environments.py megatron-core-0.19 puts
it first. Its Python is 3.12; router, tracer and replay are plain Python, and run where torch is.
"""

import contextlib
import importlib
import json
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import torch

from routectl.formats import open_dump
from routectl.formats.trainers.router_traces import open_router_trace
from routectl.model import ModelFacts

pytestmark = [pytest.mark.trainers, pytest.mark.filterwarnings("ignore")]
FACTS = ModelFacts(3, (1, 2), 8, 2, None)


@pytest.fixture(scope="module")
def core():
    """Router, config and tracer of the Megatron-Core that is there; its package asks for Triton."""
    names = {"trace": "router_trace", "router": "router", "replay": "router_replay"}
    with contextlib.suppress(ImportError):
        importlib.import_module("megatron.core")
    try:
        found = {
            short: importlib.import_module(f"megatron.core.transformer.moe.{name}")
            for short, name in names.items()
        }
    except ImportError:
        pytest.skip("no router_trace.py: python tests/trainers/environments.py megatron-core-0.19")
    config = importlib.import_module("megatron.core.transformer.transformer_config")
    found["Config"] = config.TransformerConfig
    cuda = {"current_device": lambda: torch.device("cpu"), "is_current_stream_capturing": bool}
    with mock.patch.multiple(torch.cuda, **cuda):
        yield SimpleNamespace(**found)


class _Model(torch.nn.Module):
    """Two MoE layers' routers, named as a GPTModel names them."""

    def __init__(self, core, **options):
        super().__init__()
        torch.manual_seed(3)
        config = core.Config(
            num_layers=3,
            hidden_size=16,
            num_attention_heads=2,
            num_moe_experts=8,
            moe_router_topk=2,
            moe_router_load_balancing_type="none",
            add_bias_linear=False,
            use_cpu_initialization=True,
            bf16=True,
            params_dtype=torch.bfloat16,
            **options,
        )
        groups = SimpleNamespace(tp=None, cp=None, tp_cp=None, tp_dp_cp=None)
        layers = [torch.nn.Module() for _ in range(3)]
        for layer in layers[1:]:
            layer.mlp = torch.nn.Module()
            layer.mlp.router = core.router.TopKRouter(config, groups)
            layer.mlp.router.weight.data.normal_(0, 0.5)
        self.decoder = torch.nn.Module()
        self.decoder.layers = torch.nn.ModuleList(layers)

    def forward(self, states):
        """The routing map of each layer."""
        return [layer.mlp.router(states)[1] for layer in self.decoder.layers[1:]]


SCORES = {
    "softmax": {"moe_router_score_function": "softmax"},
    "fp32": {"moe_router_dtype": "fp32"},
    "sigmoid": {"moe_router_score_function": "sigmoid", "moe_router_enable_expert_bias": True},
    "sqrtsoftplus": {
        "moe_router_score_function": "sqrtsoftplus",
        "moe_router_enable_expert_bias": True,
    },
}


@pytest.mark.parametrize("name", SCORES)
def test_a_trace_is_what_the_routers_returned(name, core, tmp_path):
    """Rows of a hooked trace are the sets of the routing maps, and each has a margin."""
    model = _Model(core, **SCORES[name])
    tracer = core.trace.RouterTracer(str(tmp_path), 9, 0, True, True, True, True)
    tracer.register_hooks(model)
    steps = [model(torch.randn(32, 1, 16).bfloat16()) for _ in range(2)]
    tracer.advance_step(4)
    tracer.flush()
    dump = open_dump(tmp_path)
    assert (dump.meta.layers_L, dump.meta.num_experts, dump.meta.top_k) == ((1, 2), 8, 2)
    for sample, maps in zip(dump, steps, strict=True):
        for i, expected in enumerate(maps):
            got = [set(ids) for ids in sample.routes.ids_TLK[:, i].tolist()]
            assert got == [set(np.flatnonzero(row)) for row in expected.numpy()]
        assert np.isfinite(sample.routes.margin_TL).all()


def test_what_an_engine_hands_over_is_read(core, tmp_path):
    """record_indices with layer_number, as inference calls it, is layers 1 and 2, 0-based."""
    tracer = core.trace.RouterTracer(str(tmp_path), 9, 0)
    ids = torch.rand(20, 2, 8).topk(2).indices
    tracer.record_indices(ids.to(torch.int16), layer_ids=[2, 3])
    tracer.advance_step()
    tracer.flush()
    (sample,) = open_router_trace(tmp_path / "router_trace_rank0.jsonl", FACTS, None, None)
    assert sample.routes.layers_L == (1, 2)
    assert sample.routes.ids_TLK.tolist() == ids.tolist()


def test_its_own_loaders_read_the_same_tensors(core, tmp_path):
    """Logits by load_logits_for_record are those that the margins are made of."""
    model = _Model(core)
    tracer = core.trace.RouterTracer(str(tmp_path), 9, 0, True, False, True, True)
    tracer.register_hooks(model)
    model(torch.randn(16, 1, 16).bfloat16())
    tracer.advance_step(0)
    tracer.flush()
    (sample,) = open_dump(tmp_path)
    lines = (tmp_path / "router_trace_rank0.jsonl").read_text().splitlines()
    for i, line in enumerate(lines):
        logits = core.trace.load_logits_for_record(json.loads(line), str(tmp_path)).float()
        best = logits.sort(dim=-1, descending=True).values
        expected = (best[:, 1] - best[:, 2]).numpy()
        assert np.abs(sample.routes.margin_TL[:, i] - expected).max() < 1e-2
