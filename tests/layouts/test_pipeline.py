"""Pipeline stages: against what Megatron-Core built, and against themselves."""

import json
import warnings
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routectl.layouts.pipeline import Pipeline, moe_layers

FIXTURES = Path(__file__).parent.parent.parent / "fixtures"
SLOTS = json.loads((FIXTURES / "megatron_layouts.json").read_text("utf-8"))["slots"]


def is_moe(layer, frequency):
    """Megatron's moe_layer_freq: every n-th layer, or a flag a layer."""
    return frequency[layer] == 1 if isinstance(frequency, list) else layer % frequency == 0


@pytest.mark.parametrize("case", SLOTS, ids=lambda c: f"pp{c['pp']}-vp{c['vp']}-{c['pp_rank']}")
def test_replay_slots_of_real_models(case):
    """The decoder routers that real Megatron models registered are those of the stage's layers."""
    config = case["config"]
    pipeline = Pipeline(
        config["num_layers"],
        case["pp"],
        case["vp"] or 1,
        first=config.get("num_layers_in_first_pipeline_stage"),
        embedding=config.get("account_for_embedding_in_pipeline_split", False),
        loss=config.get("account_for_loss_in_pipeline_split", False),
        layout=case["layout"],
    )
    frequency = config.get("moe_layer_freq", 1)
    chunks = pipeline.stage_layers(case["pp_rank"])
    found = [layer for chunk in chunks for layer in chunk if is_moe(layer, frequency)]
    assert found == [layer for kind, layer in case["slots"] if kind == "decoder"]


@given(st.integers(1, 5), st.integers(1, 4), st.integers(1, 4), st.booleans(), st.booleans())
def test_even_cuts_hold_every_layer_once(pp, vpp, each, embedding, loss):
    """Chunks in order (virtual chunk, then stage) spell the layers 0..L-1."""
    num_layers = pp * vpp * each - embedding - loss
    if num_layers < 1 or (pp * vpp == 1 and each < embedding + loss):
        return
    pipeline = Pipeline(num_layers, pp, vpp, embedding=embedding, loss=loss)
    stages = [pipeline.stage_layers(rank) for rank in range(pp)]
    spelled = [layer for v in range(vpp) for stage in stages for layer in stage[v]]
    assert spelled == list(range(num_layers))


@pytest.mark.parametrize(
    ("layout", "pp", "vpp", "sizes"),
    [
        ("Et|tt|tt|ttL", 2, 2, [1, 2, 2, 2]),
        ("Ettt|(tt|)*3,m|L", 6, 1, [3, 2, 2, 2, 0, 0]),
        ("Et*3|tt*2|L", 3, 1, [3, 3, 0]),
        ("E|t*4|tttt|L", 2, 2, [0, 4, 4, 0]),
    ],
)
def test_layout_strings(layout, pp, vpp, sizes):
    """A layout string's t are decoder layers; repeats are written out; MTP layers are none."""
    pipeline = Pipeline(sum(sizes), pp, vpp, layout=layout)
    found = [len(pipeline.stage_layers(k % pp)[k // pp]) for k in range(pp * vpp)]
    assert found == sizes


def test_moe_layers():
    """moe_layer_freq N names the first of N layers, or the last; a list says it of each."""
    assert moe_layers(5, 1) == (0, 1, 2, 3, 4)
    assert moe_layers(5, 2) == (0, 2, 4)
    assert moe_layers(3, [0, 1, 1]) == (1, 2)
    assert moe_layers(5, 2, last=True) == (1, 3)
    assert moe_layers(6, 3, last=True) == (2, 5)
    assert moe_layers(2, 3, last=True) == ()
    assert moe_layers(3, [0, 1, 1], last=True) == (1, 2)
    with pytest.raises(ValueError, match="must be at least 1, got 0"):
        moe_layers(5, 0)
    for flags in ([1, 1], [1, 1, 2]):
        with pytest.raises(ValueError, match="expected a 0 or 1 for each of 3 layers"):
            moe_layers(3, flags)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"num_layers": 7, "pp": 2}, "7 layers do not divide among 2"),
        ({"num_layers": 8, "pp": 2, "vpp": 3}, "stage 0 has 4 layers, not divisible by vpp 3"),
        ({"num_layers": 8, "pp": 2, "first": 3, "last": 4}, "1 layers do not divide among 0"),
        ({"num_layers": 8, "pp": 2, "first": 9}, "-1 layers do not divide"),
        ({"num_layers": 8, "pp": 2, "first": 3, "loss": True}, "exclude accounting"),
        ({"num_layers": 3, "pp": 2, "layout": "Et|tL"}, "hold 2 layers, the model has 3"),
        ({"num_layers": 2, "pp": 3, "layout": "Et|tL"}, "has 2 stages, expected 3 x 1"),
        ({"num_layers": 2, "pp": 2, "layout": "Et|xL"}, "expected one E"),
        ({"num_layers": 0}, "no cut of 0 layers"),
        ({"num_layers": 4, "pp": 0}, "no cut of 4 layers into 0 x 1"),
        ({"num_layers": 4, "vpp": 0}, "no cut of 4 layers into 1 x 0"),
    ],
)
def test_bad_cuts(arguments, said):
    """Layers that do not divide, and layouts that do not fit, are refused with both numbers."""
    with pytest.raises(ValueError, match=said):
        Pipeline(**arguments)


def test_a_stage_that_is_not_there():
    """A pipeline rank outside the cut is refused."""
    with pytest.raises(ValueError, match="no stage 2 among 2"):
        Pipeline(4, 2).stage_layers(2)


@pytest.mark.trainers
def test_megatron_agrees_on_every_small_cut():
    """Megatron-Core's own functions give the same cut wherever both accept the sizes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns that Transformer Engine is absent
        from megatron.core.transformer.transformer_block import get_num_layers_to_build
        from megatron.core.transformer.transformer_layer import get_transformer_layer_offset
    agreed = 0
    for layers, pp, vpp, first, last, embedding, loss in product(
        range(1, 13), (2, 3, 4), (1, 2, 3), (None, 1, 2), (None, 1, 2), (False, True), (False, True)
    ):
        try:
            ours = Pipeline(layers, pp, vpp, first, last, embedding, loss)
        except ValueError:
            continue
        config = SimpleNamespace(
            num_layers=layers,
            pipeline_model_parallel_size=pp,
            virtual_pipeline_model_parallel_size=vpp if vpp > 1 else None,
            num_layers_in_first_pipeline_stage=first,
            num_layers_in_last_pipeline_stage=last,
            account_for_embedding_in_pipeline_split=embedding,
            account_for_loss_in_pipeline_split=loss,
            pipeline_model_parallel_layout=None,
        )
        if pp == 2 and vpp > 1 and first is not None and last is not None:
            continue  # Megatron 0.16.1 divides by zero there
        for rank, v in product(range(pp), range(vpp)):
            stage = {"vp_stage": v if vpp > 1 else None, "pp_rank": rank}
            size = get_num_layers_to_build(config, **stage)
            begin = get_transformer_layer_offset(config, **stage)
            assert ours.stage_layers(rank)[v] == tuple(range(begin, begin + size))
        agreed += 1
    assert agreed > 150
