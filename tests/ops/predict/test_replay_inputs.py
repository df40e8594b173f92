"""Routes from router inputs, against the router modules of tiny models as they ran."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from routectl.errors import FormatError, MismatchError, UnsupportedError
from routectl.ops.predict import replay_inputs as module
from routectl.ops.predict.replay_inputs import LayerRouter, replay_inputs
from routectl.routers.from_config import recipe_from_config
from support.families import config_of_family, expert_bias, routers, tiny, tokens
from support.modules import tensors_of

pytestmark = pytest.mark.models

NAMES = ("qwen3_moe", "deepseek_v3", "gpt_oss", "deepseek_v4", "longcat_flash", "ernie4_5_moe")


def recorded(name, dtype):
    """A model's run: recipe, tensors, router inputs by layer, ids by layer, and token ids."""
    model, ids = tiny(name, dtype), tokens(batch=3, length=17)
    inputs, outputs, hooks = {}, {}, []

    def record(layer):
        def hook(_module, args, output):
            inputs[layer] = args[0].reshape(-1, args[0].shape[-1]).clone()
            outputs[layer] = output[2]

        return hook

    for layer, router in routers(model).items():
        hooks.append(router.register_forward_hook(record(layer)))
    with torch.no_grad():
        model(input_ids=ids, use_cache=False)
    given = {}
    for layer in routers(model):
        tensors = tensors_of(model, layer)
        given[layer] = LayerRouter(
            tensors.weight, tensors.linear_bias, expert_bias(model, layer), tensors.table
        )
    recipe = recipe_from_config(config_of_family(name).to_dict(), name)
    return recipe, given, inputs, outputs, ids.reshape(-1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_equals_the_run(name, dtype, monkeypatch):
    """Every sample's routes are those of the model that ran, in chunks of any size; ties aside."""
    recipe, given, inputs, outputs, ids = recorded(name, dtype)
    whole = replay_inputs(recipe, given, inputs, lens=[17] * 3, token_ids_T=ids, starts=[0, 4, 0])
    assert [sample.routes.start for sample in whole] == [0, 4, 0]
    for column, layer in enumerate(sorted(outputs)):
        theirs = outputs[layer].sort(-1).values.numpy()
        ours = np.concatenate([np.sort(one.routes.ids_TLK[:, column]) for one in whole])
        clear = np.concatenate([one.margin_TL[:, column] > 0 for one in whole])
        if whole[0].group_margin_TL is not None:
            clear &= np.concatenate([one.group_margin_TL[:, column] > 0 for one in whole])
        assert clear.mean() > 0.8
        assert (theirs == ours)[clear].all()
    monkeypatch.setattr(module, "CHUNK_BYTES", 7 * 4 * 8 * recipe.columns)
    (chunked,) = replay_inputs(recipe, given, inputs, token_ids_T=ids)
    margin = np.concatenate([one.margin_TL for one in whole])
    near = 1e-4 if dtype == torch.float32 else 0.1  # a product of fewer rows may round otherwise
    clear = margin > near
    if recipe.grouped:
        clear &= np.concatenate([one.group_margin_TL for one in whole]) > near
    sets = [
        np.sort(np.concatenate([one.routes.ids_TLK for one in whole])),
        np.sort(chunked.routes.ids_TLK),
    ]
    assert (sets[0] == sets[1])[clear].all()
    assert np.allclose(chunked.margin_TL[clear], margin[clear], atol=near)


def test_a_lazy_mapping_is_read_layer_by_layer():
    """Each layer is fetched once, in ascending order."""
    recipe, given, inputs, _, _ = recorded("qwen3_moe", torch.float32)
    fetched = []

    class Lazy(dict):
        def __getitem__(self, layer):
            fetched.append(layer)
            return super().__getitem__(layer)

    replay_inputs(recipe, given, Lazy(inputs))
    assert fetched == sorted(inputs)


def test_refused():
    """Layers, sizes, lengths and numbers that do not fit are refused in one line."""
    recipe, given, inputs, _, _ = recorded("qwen3_moe", torch.float32)
    broken = {1: inputs[1].clone(), 2: inputs[2]}
    broken[1][5, 3] = torch.nan
    weight, biased = given[1].weight_ED, replace(recipe, expert_bias=True)
    hash_recipe, hash_given, hash_inputs, *_ = recorded("deepseek_v4", torch.float32)
    zaya = recipe_from_config(config_of_family("zaya").to_dict(), "zaya")
    for arguments, kind, words in (
        ((recipe, given, {}), MismatchError, "no layer"),
        ((recipe, given, {7: inputs[1]}), MismatchError, "no router of layer 7: got layers 1, 2"),
        ((recipe, {}, inputs), MismatchError, "no router of layer 1: got no routers"),
        ((recipe, given, {1: inputs[1][:, :9]}), MismatchError, r"layer 1: sizes do not fit: got"),
        ((recipe, given, {1: inputs[1], 2: inputs[2][:5]}), MismatchError, "layer 2: .* 51 tokens"),
        ((recipe, given, {1: inputs[1][:0]}), MismatchError, "1 tokens"),
        ((recipe, {1: LayerRouter(torch.zeros(9, 32))}, {1: inputs[1]}), MismatchError, "16 rows"),
        (
            (recipe, {1: LayerRouter(weight, torch.zeros(16))}, {1: inputs[1]}),
            MismatchError,
            "layer 1: linear bias does not fit: got .16., expected none",
        ),
        (
            (biased, {1: LayerRouter(weight)}, {1: inputs[1]}),
            MismatchError,
            "layer 1: expert bias does not fit: got none, expected .16.",
        ),
        ((recipe, given, broken), FormatError, "layer 1, row 5: not finite: got NaN"),
        ((hash_recipe, hash_given, hash_inputs), MismatchError, "no token ids or no table"),
        ((zaya, given, inputs), UnsupportedError, "no logits of zaya: the router is a network"),
    ):
        with pytest.raises(kind, match=words) as caught:
            replay_inputs(*arguments)
        assert "\n" not in str(caught.value)
    for lens in ([17, 17], [51, 0], []):
        with pytest.raises(MismatchError, match="expected 51 tokens"):
            replay_inputs(recipe, given, inputs, lens=lens)
