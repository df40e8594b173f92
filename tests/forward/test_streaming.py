"""Streaming: what is read and held, what goes wrong, and checkpoints that need conversion."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from routectl import FormatError, MismatchError, UnsupportedError
from routectl.errors import extra_hint
from routectl.forward import RunOptions, prepare, run_forward
from routectl.forward import run as run_module
from routectl.forward import skeleton as skeleton_module
from routectl.forward.readahead import reading_ahead
from routectl.forward.skeleton import build_skeleton
from routectl.forward.streaming import Conductor, layer_weights
from support import families
from support.forwards import checkpoint_of, forward, quiet, samples
from support.quantized import edit_config

pytestmark = pytest.mark.models


@pytest.fixture(autouse=True)
def one_thread():
    """Sums in one order."""
    torch.set_num_threads(1)


def same(ones, others):
    """Two runs gave the same bits."""
    for one, other in zip(ones, others, strict=True):
        assert one.index == other.index
        assert np.array_equal(one.ids_TLK, other.ids_TLK)
        assert np.array_equal(one.margins_TL, other.margins_TL)
        assert np.array_equal(one.group_margins_TL, other.group_margins_TL)
        if one.logprobs_G is not None:
            assert np.array_equal(one.logprobs_G, other.logprobs_G)


@pytest.mark.parametrize("most", [1, 12, 1000])
def test_passes_give_the_same_and_read_weights_once_each(most, tmp_path):
    """However the samples are cut into passes, results are the same; bytes read are a pass's times
    the number of passes.
    """
    folder, inputs = checkpoint_of("deepseek_v3", tmp_path), samples(9, 5, 7, 4)
    whole, prepared = forward(folder, inputs, streaming="stream", want_logprobs=True)
    once = prepared.store.read_bytes
    assert once == sum(t.nbytes for t in load_file(folder / "model.safetensors").values())
    steps = []
    cut, prepared = forward(
        folder,
        inputs,
        streaming="stream",
        want_logprobs=True,
        max_tokens_per_pass=most,
        on_progress=steps.append,
    )
    same(whole, cut)
    passes = {1: 4, 12: 3, 1000: 1}[most]
    assert prepared.store.read_bytes == once * passes
    assert [step.layer for step in steps] == [1, 2, 3] * passes
    assert steps[-1].layers == 3
    done = [(step.samples, step.tokens) for step in steps]
    assert done == sorted(done)  # of the whole run: passes add up, a layer is a third of one
    assert done[-1] == (4, 25)
    first = {1: (1, 9), 12: (1, 9), 1000: (4, 25)}[most]
    assert done[0] == pytest.approx((first[0] / 3, first[1] / 3))


def test_only_one_layer_and_the_rest_is_in_memory(tmp_path):
    """While a layer runs, no other layer of the model has weights, and after the run none has."""
    folder, inputs = checkpoint_of("qwen3_moe", tmp_path), samples(5, 6)
    prepared = prepare(RunOptions(checkpoint=folder, streaming="stream"))
    model = prepared.store.skeleton.model
    layers, seen = model.model.layers, []

    def look(module, _args):
        seen.append([all(not p.is_meta for p in layer.parameters()) for layer in layers])

    for layer in layers:
        layer.register_forward_pre_hook(look)
    list(run_forward(prepared, inputs))
    # the pre-hook that looks was there first: it sees what the layer before it left
    assert all(sum(there) <= 1 for there in seen)
    assert all(parameter.is_meta for parameter in model.parameters())
    assert not any(layer._forward_hooks for layer in layers)


def test_the_head_is_not_read_without_logprobs(tmp_path):
    """lm_head is read only where log-probabilities are asked for; a tied one is the embedding."""
    folder = checkpoint_of("qwen3_moe", tmp_path)
    _, without = forward(folder, samples(5), streaming="stream")
    _, having = forward(folder, samples(5), streaming="stream", want_logprobs=True)
    assert having.store.read_bytes - without.store.read_bytes == families.VOCAB * 32 * 4


@pytest.mark.parametrize("name", ["gemma4", "llama4", "qwen3_moe", "cohere2_moe", "granitemoe"])
def test_logprobs_are_those_of_the_whole_logits(name, tmp_path, monkeypatch):
    """Some rows at a time, with a family's scale or soft cap; tied heads too."""
    from routectl.forward import head

    folder, inputs = checkpoint_of(name, tmp_path), samples(12, 5)
    monkeypatch.setattr(head, "CHUNK", 3 * families.VOCAB)  # three rows
    with quiet():
        model = families._class_of(name).from_pretrained(folder).eval()
    for streaming in ("plain", "stream"):
        found, _ = forward(folder, inputs, streaming=streaming, want_logprobs=True)
        for sample, result in zip(inputs, found, strict=True):
            tokens = torch.from_numpy(sample.token_ids.astype(np.int64))[None]
            with torch.no_grad():
                logits = model(input_ids=tokens, use_cache=False).logits[0, 3:-1].float()
            wanted = logits.log_softmax(1).gather(1, tokens[0, 4:, None])[:, 0]
            assert np.abs(result.logprobs_G - wanted.numpy()).max() < 2e-6
    assert "forward" not in vars(model.base_model)


def test_results_start_with_weights_and_a_run_can_be_left(tmp_path):
    """A run that is left in the middle ends its threads and gives the model back without hooks."""
    folder = checkpoint_of("qwen3_moe", tmp_path)
    prepared = prepare(RunOptions(checkpoint=folder, streaming="stream", max_tokens_per_pass=5))
    results = run_forward(prepared, samples(5, 5, 5))
    next(results)
    results.close()
    assert not any(at.module.__dict__.get("forward") for at in prepared.routers)


def test_an_error_in_one_sequence_ends_the_pass(tmp_path):
    """What a forward raises comes out of the run; the other threads end."""
    folder = checkpoint_of("qwen3_moe", tmp_path)
    prepared = prepare(RunOptions(checkpoint=folder, streaming="stream"))

    def fail(_module, args):
        if args[0].shape[1] == 6:
            raise ZeroDivisionError

    prepared.store.skeleton.model.model.layers[1].mlp.register_forward_pre_hook(fail)
    with pytest.raises(ZeroDivisionError):
        list(run_forward(prepared, samples(5, 6, 7)))


def test_reading_ahead_gives_the_same_layers(tmp_path):
    """Read ahead in a thread of its own, layers are the same and in order."""
    folder = checkpoint_of("mixtral", tmp_path)
    store = prepare(RunOptions(checkpoint=folder)).store
    pairs = zip(layer_weights(store, ahead=False), layer_weights(store, ahead=True), strict=True)
    count = 0
    for one, other in pairs:
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)
        count += 1
    assert count == 3


def test_hidden_states_that_wait_elsewhere_change_nothing(tmp_path, monkeypatch):
    """With the hooks that move what passes between layers, results are the same."""
    folder, inputs = checkpoint_of("glm_moe_dsa", tmp_path), samples(9, 5)
    before, _ = forward(folder, inputs, streaming="stream")
    monkeypatch.setattr(run_module, "_plan", lambda *_: (True, True))
    after, _ = forward(folder, inputs, streaming="stream")
    same(before, after)


def test_conductor_runs_works_layer_by_layer():
    """All works pass a layer, in order, before any enters the next."""
    layers = torch.nn.ModuleList(torch.nn.Identity() for _ in range(3))
    order = []
    for number, layer in enumerate(layers):
        layer.register_forward_hook(lambda _m, args, _o, n=number: order.append((n, args[0])))

    def work(name):
        for layer in layers:
            layer(name)
        return name

    conductor = Conductor(layers, "cpu", offload=False)
    steps = list(conductor.steps([lambda n=n: work(n) for n in "abc"]))
    assert steps == [0, 1, 2]
    assert order == [(n, name) for n in range(3) for name in "abc"]
    assert conductor.results == ["a", "b", "c"]


def test_shards_are_found_by_their_index(tmp_path):
    """A checkpoint in many files gives what the same in one file gives."""
    one, many = tmp_path / "one", tmp_path / "many"
    checkpoint_of("qwen3_moe", one)
    checkpoint_of("qwen3_moe", many, max_shard_size="20KB")
    assert len(list(many.glob("*.safetensors"))) > 3
    same(
        forward(one, samples(9), streaming="stream")[0],
        forward(many, samples(9), streaming="stream")[0],
    )


def test_auto_streams_what_does_not_fit(tmp_path, monkeypatch):
    """Plain where the weights fit in three quarters of the free memory; the reason is recorded."""
    folder = checkpoint_of("qwen3_moe", tmp_path)
    size = prepare(RunOptions(checkpoint=folder)).store.total_bytes()
    assert size == sum(t.nbytes for t in load_file(folder / "model.safetensors").values())
    for free, streamed in ((int(size / 0.75) - 8, True), (int(size / 0.75) + 8, False)):
        monkeypatch.setattr(run_module, "free_memory", lambda _device, free=free: free)
        prepared = prepare(RunOptions(checkpoint=folder))
        assert prepared.streamed is streamed
        assert prepared.free_bytes == free


def test_provenance_names_what_results_depend_on(tmp_path):
    """Implementations, dtype, device, versions: as asked for, or as transformers chose."""
    folder = checkpoint_of("qwen3_moe", tmp_path)
    chosen = prepare(RunOptions(checkpoint=folder)).provenance
    assert (chosen["attention"], chosen["experts"]) == ("sdpa", "grouped_mm")
    asked = RunOptions(checkpoint=folder, attention="eager", experts="eager", dtype="bfloat16")
    asked = prepare(asked).provenance
    assert (asked["attention"], asked["experts"], asked["dtype"]) == ("eager", "eager", "bfloat16")
    assert asked["tf32"] is False
    assert {"torch", "transformers", "device", "threads", "model_type"} <= set(asked)


def test_expert_biases_keep_their_stored_dtype(tmp_path):
    """transformers rounds MiniMax-M2's float32 bias in a bf16 load; here it is as stored."""
    folder = checkpoint_of("minimax_m2", tmp_path)
    with quiet():
        model = families._class_of("minimax_m2").from_pretrained(folder, dtype=torch.bfloat16)
    assert model.model.layers[0].mlp.e_score_correction_bias.dtype == torch.bfloat16
    store = prepare(RunOptions(checkpoint=folder, dtype="bfloat16")).store
    name = "model.layers.0.mlp.e_score_correction_bias"
    stored = next(
        t
        for k, t in load_file(folder / "model.safetensors").items()
        if k.endswith("layers.0.block_sparse_moe.e_score_correction_bias")
    )
    assert torch.equal(store.layer(0)[name], stored)
    assert store.layer(0)[name].dtype == torch.float32


def test_kimi_k2_is_read_as_deepseek_v3(tmp_path):
    """A folder that names remote code is read with transformers' own class; none of it is run."""
    folder = checkpoint_of("deepseek_v3", tmp_path)
    before, _ = forward(folder, samples(9), streaming="stream")
    edit_config(
        folder, model_type="kimi_k2", auto_map={"AutoConfig": "evil.Config"}, architectures=None
    )
    (folder / "evil.py").write_text("raise SystemExit", "utf-8")
    for streaming in ("plain", "stream"):
        same(before, forward(folder, samples(9), streaming=streaming)[0])


def test_mxfp4_streams_as_transformers_loads_it(tmp_path, monkeypatch):
    """gpt-oss's packed experts are dequantised layer by layer as from_pretrained does."""
    from transformers import Mxfp4Config

    wider = families._variant("gpt_oss", intermediate_size=32)
    monkeypatch.setitem(families.FAMILIES, "gpt_oss", wider)
    folder = checkpoint_of("gpt_oss", tmp_path)
    generator = torch.Generator().manual_seed(0)
    stored = {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        if not name.endswith(("experts.gate_up_proj", "experts.down_proj")):
            stored[name] = tensor
            continue
        experts, inner, outer = tensor.shape  # stored transposed, 32 values a block
        blocks = (experts, outer, -(-inner // 32), 16)
        stored[f"{name}_blocks"] = torch.randint(
            0, 256, blocks, dtype=torch.uint8, generator=generator
        )
        stored[f"{name}_scales"] = torch.randint(
            120, 124, blocks[:3], dtype=torch.uint8, generator=generator
        )
    save_file(stored, folder / "model.safetensors", {"format": "pt"})
    edit_config(folder, quantization_config={"quant_method": "mxfp4"})
    options = {"dtype": "bfloat16", "want_logprobs": True}
    plain, _ = forward(folder, samples(9), streaming="plain", **options)
    stream, prepared = forward(folder, samples(9), streaming="stream", **options)
    same(plain, stream)
    assert prepared.provenance["dequantized"] == "mxfp4"
    with quiet():
        model = families._class_of("gpt_oss").from_pretrained(
            folder, dtype=torch.bfloat16, quantization_config=Mxfp4Config(dequantize=True)
        )
    whole = prepared.store.whole()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor.to(whole[name].dtype), whole[name])


def test_mtp_layers_are_left_out(tmp_path):
    """Keys that the model has no place for are listed, not read."""
    folder = checkpoint_of("deepseek_v3", tmp_path)
    stored = load_file(folder / "model.safetensors")
    extra = {"model.layers.3.mlp.gate.weight": torch.ones(16, 32)}
    save_file({**stored, **extra}, folder / "model.safetensors", {"format": "pt"})
    _, prepared = forward(folder, samples(5), streaming="stream")
    assert prepared.store.left_out == tuple(extra)
    assert prepared.layers == (1, 2)


class TestRefused:
    """One line that names the folder and what is wrong."""

    def test_a_tensor_of_another_shape(self, tmp_path):
        """A tensor that does not fit its place is refused."""
        folder = checkpoint_of("qwen3_moe", tmp_path)
        stored = load_file(folder / "model.safetensors")
        stored["model.layers.1.mlp.gate.weight"] = torch.ones(15, 32)
        save_file(stored, folder / "model.safetensors", {"format": "pt"})
        with pytest.raises(FormatError, match=r"shape is \(15, 32\), expected \(16, 32\)"):
            forward(folder, samples(5), streaming="stream")

    @pytest.mark.parametrize("damage", ["gone", "cut", "empty"])
    def test_a_damaged_file(self, damage, tmp_path):
        """A file that is not there, or not whole, is refused."""
        folder = checkpoint_of("qwen3_moe", tmp_path)
        path = folder / "model.safetensors"
        data = path.read_bytes()
        path.unlink()
        if damage != "gone":
            path.write_bytes(data[:-100] if damage == "cut" else b"")
        with pytest.raises(FormatError, match=r"no checkpoint in it|tensors end at|bad header"):
            prepare(RunOptions(checkpoint=folder))

    @pytest.mark.parametrize("family", ["jetmoe", "nothing_known", "llama"])
    def test_a_family(self, family, tmp_path):
        """A refused, unknown or dense family is refused in one line."""
        folder = checkpoint_of("qwen3_moe", tmp_path)
        edit_config(folder, model_type=family)
        with pytest.raises(UnsupportedError, match=family):
            prepare(RunOptions(checkpoint=folder))

    def test_a_transformers_that_is_too_old(self, tmp_path, monkeypatch):
        """One before those that are verified is refused with the first of them."""
        import transformers

        folder = checkpoint_of("qwen3_moe", tmp_path)
        monkeypatch.setattr(transformers, "__version__", "5.20.2")
        with pytest.raises(UnsupportedError, match=r"5\.20\.2 is older .*: expected 5\.21\.0"):
            prepare(RunOptions(checkpoint=folder))

    def test_a_newer_transformers_that_makes_no_model(self, tmp_path, monkeypatch):
        """What it does otherwise is said in one line, with both versions; a known one raises it."""
        import transformers

        folder = checkpoint_of("qwen3_moe", tmp_path)
        monkeypatch.setattr(run_module, "fill_buffers", lambda *_: transformers.no_such_name)
        with pytest.raises(AttributeError):
            prepare(RunOptions(checkpoint=folder))
        monkeypatch.setattr(transformers, "__version__", "5.99.0.dev0")
        with pytest.raises(UnsupportedError, match=r"is newer than 5.*makes no model: Attr") as e:
            prepare(RunOptions(checkpoint=folder))
        assert "5.99.0.dev0" in str(e.value)
        assert e.value.hint == extra_hint("models")

    def test_libraries_that_are_not_installed(self, tmp_path, monkeypatch):
        """What the extra would install is named, with the command."""
        folder = checkpoint_of("qwen3_moe", tmp_path)
        monkeypatch.setattr(skeleton_module, "find_spec", lambda name: None)
        with pytest.raises(UnsupportedError, match="transformers and accelerate and greenlet") as e:
            prepare(RunOptions(checkpoint=folder))
        assert e.value.hint == extra_hint("models")

    def test_samples(self, tmp_path):
        """A sample without token ids, and one with ids that the model does not have."""
        folder = checkpoint_of("qwen3_moe", tmp_path)
        (sample,) = samples(5)
        with pytest.raises(MismatchError, match="no token ids"):
            forward(folder, [replace(sample, response_ids=None)])
        high = np.array([families.VOCAB], np.int32)
        with pytest.raises(MismatchError, match="token 128: expected ids below 128"):
            forward(folder, [replace(sample, response_ids=high)])

    def test_options(self, tmp_path):
        """A word that is not known is a ValueError."""
        for name in ("mode", "dtype", "streaming"):
            with pytest.raises(ValueError, match=rf"{name} .* is not known: "):
                RunOptions(checkpoint=tmp_path, **{name: "fast"})


def test_deepseek_v3_is_built_without_weights():
    """DeepSeek-V3's real sizes: 58 routers, layers 3 to 60, 256 experts top-8; under a gigabyte."""
    from transformers import DeepseekV3Config

    options = RunOptions(checkpoint=".")
    skeleton = build_skeleton(DeepseekV3Config(), options)
    assert [at.layer for at in skeleton.routers] == list(range(3, 61))
    assert {(at.num_experts, at.top_k) for at in skeleton.routers} == {(256, 8)}
    assert skeleton.num_layers == 61
    assert all(parameter.is_meta for parameter in skeleton.model.parameters())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", ["qwen3_moe", "deepseek_v3", "gpt_oss", "glm_moe_dsa", "zaya"])
def test_a_cuda_device_streams_what_it_runs_plain(name, tmp_path, monkeypatch):
    """On CUDA, weights read ahead and hidden states waiting in host memory change no bit."""
    folder, inputs = checkpoint_of(name, tmp_path), samples(12, 7)
    options = {"device": "cuda", "dtype": "bfloat16", "want_logprobs": True}
    plain, _ = forward(folder, inputs, streaming="plain", **options)
    for plan in ((True, True), (True, False), (False, False)):
        monkeypatch.setattr(run_module, "_plan", lambda *_, plan=plan: plan)
        same(plain, forward(folder, inputs, streaming="stream", **options)[0])


def test_spans_are_the_bytes_of_a_layer(tmp_path):
    """The ranges that are read ahead hold each layer's tensors, each once, and nothing else."""
    folder = checkpoint_of("mixtral", tmp_path)
    spans = prepare(RunOptions(checkpoint=folder)).store.spans()
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        for number, layer in enumerate(spans):
            names = [name for name in file.keys() if f"layers.{number}." in name]  # noqa: SIM118
            stored = sorted(
                bytes(file.get_tensor(name).view(torch.uint8).numpy()) for name in names
            )
            read = [path.read_bytes()[begin:end] for path, begin, end in layer]
            assert sorted(read) == stored


def test_reading_ahead_ends_with_what_needed_it():
    """What has not begun when the run ends is let go, and a file that is gone is no error."""
    with reading_ahead() as begin:
        begin([(Path("gone.safetensors"), 0, 10)] * 1000)
