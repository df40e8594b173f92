"""Routes of a GPTModel of Megatron-Core 0.19, through its tracer and its inference's own code.

Its package asks for Python 3.12 and Triton, which torch with CUDA brings: run by
``tests/trainers/environments.py FOLDER megatron-core-0.19 --python python3.12``, skipped elsewhere.
"""

import importlib
import json
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import torch

from routectl.formats import open_dump
from routectl.model import ModelFacts
from support.mcore_live import E, K
from support.mcore_one import LAYERS, model_of, thd

pytestmark = [pytest.mark.trainers, pytest.mark.filterwarnings("ignore")]
LENS = (7, 12, 5)
BLOCK = 4  # tokens of a block of inference's cache
FACTS = ModelFacts(3, LAYERS, E, K, None)


@pytest.fixture(scope="module")
def theirs():
    """What of Megatron-Core 0.19 records, keeps and hands over routes. Comes before ``core``."""
    names = {
        "trace": "transformer.moe.router_trace",
        "metadata": "inference.contexts.routing_metadata",
        "blocks": "inference.contexts.kv_block_allocator",
        "requests": "inference.inference_request",
        "params": "inference.sampling_params",
    }
    try:
        found = {
            short: importlib.import_module(f"megatron.core.{name}") for short, name in names.items()
        }
    except ImportError as error:
        pytest.skip(f"no Megatron-Core 0.19 that can be imported: {error}")
    return SimpleNamespace(**found)


def run(core, model):
    """Forward of packed sequences; their tokens, each with its own."""
    tokens = [torch.arange(n) + 20 * i for i, n in enumerate(LENS)]
    places = torch.cat([torch.arange(n) for n in LENS])[None]
    with torch.no_grad():
        model(torch.cat(tokens)[None], places, None, packed_seq_params=thd(core, LENS))
    return [one.tolist() for one in tokens]


def sets_of(seen):
    """What the routers returned: a list of sets by layer."""
    return {layer: rows for layer, _, rows in seen}


def agree(sample, rows_of, begin):
    """Whether a sample's rows are the sets from that row of the forward on."""
    ids = sample.routes.ids_TLK
    return all(
        set(ids[t, i].tolist()) == rows_of[layer][begin + t]
        for i, layer in enumerate(sample.routes.layers_L)
        for t in range(len(ids))
    )


def test_a_trace_of_a_model(theirs, core, tmp_path):
    """Hooks of RouterTracer on a GPTModel write what its routers returned, row by row."""
    model, seen = model_of(core)
    tracer = theirs.trace.RouterTracer(str(tmp_path), 9, 0, training_mode=True)
    with mock.patch.object(torch.cuda, "is_current_stream_capturing", bool):
        tracer.register_hooks(model)
        run(core, model)
        tracer.advance_step(1)
        tracer.flush()
    (sample,) = open_dump(tmp_path, model=FACTS)
    assert sample.routes.layers_L == LAYERS
    assert sample.routes.num_tokens == sum(LENS)
    assert agree(sample, sets_of(seen), 0)


def test_what_inference_keeps_and_answers(theirs, core, tmp_path):
    """Rows recorded, kept by block of the cache, put together and serialised are the routers'.

    Of its engine the loop is left out, which wants CUDA: what records, keeps and puts together is
    called as it calls them, for a step that prefills all requests at once.
    """
    model, seen = model_of(core)
    core.Replay.set_global_router_replay_action(core.Action.RECORD)
    tokens = run(core, model)
    total = sum(LENS)
    wanted = [-(-n // BLOCK) for n in LENS]
    first = np.cumsum([0, *wanted])
    context = SimpleNamespace(
        max_tokens=total,
        active_token_count=total,
        block_size_tokens=BLOCK,
        using_cuda_graph_this_step=lambda: False,
        token_to_block_idx=torch.tensor(
            [first[i] + t // BLOCK for i, n in enumerate(LENS) for t in range(n)]
        ),
        token_to_local_position_within_kv_block=torch.tensor(
            [t % BLOCK for n in LENS for t in range(n)]
        ),
    )
    recorded = theirs.metadata.RoutingMetadata(context, K).get_routing_indices()
    kept = theirs.blocks.KVBlockAllocator(context, 32, 2)
    kept.store_routing_per_block(recorded.numpy().astype(np.int16))
    path = tmp_path / "requests.jsonl"
    with path.open("w") as file:
        for i, own in enumerate(tokens):
            rows = kept.reconstruct_routing_from_blocks(
                list(range(first[i], first[i + 1])), len(own) - 1
            )
            request = theirs.requests.DynamicInferenceRequest(
                request_id=i,
                prompt_tokens=torch.tensor(own[:3]),
                sampling_params=theirs.params.SamplingParams(return_prompt_tokens=True),
                generated_tokens=own[3:],
                status=theirs.requests.Status.COMPLETED,
                routing_indices=rows,
                generated_length=len(own) - 3,
            )
            file.write(json.dumps(request.serialize()) + "\n")
    dump = open_dump(path, model=FACTS)
    assert [sample.token_ids.tolist() for sample in dump] == tokens
    begins = np.cumsum([0, *LENS])
    for sample, begin, length in zip(dump, begins, LENS, strict=False):
        assert sample.routes.num_tokens == length - 1
        assert agree(sample, sets_of(seen), begin)
