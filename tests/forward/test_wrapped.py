"""What trainers put around a model: seen through, or refused by name before a forward."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist

from routectl.errors import MismatchError, UnsupportedError
from routectl.forward.live import record, replay
from support import families
from support.wrapped import WRAPPED, check_wrapped, tokens_of, trained

pytestmark = [
    pytest.mark.models,
    pytest.mark.filterwarnings("ignore:`torch.jit.script_method`"),  # torch.compile's own import
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`"),  # read by peft
    pytest.mark.filterwarnings("ignore:FSDP is switching to use `NO_SHARD`"),
]

TESTS = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def alone():
    """A process group of one."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize("kind", WRAPPED)
@pytest.mark.usefixtures("alone")
def test_ddp_and_fsdp_are_seen_through(kind, checkpointed):
    """In DDP, FSDP and fully_shard routes are recorded, replayed and proven as without, and the
    gradients are the same."""
    check_wrapped(kind, checkpointed=checkpointed)


@pytest.mark.slow
def test_two_processes_have_their_own_routes():
    """On two ranks each has its own sequences' routes, and gradients are the mean of both."""
    launch = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    done = subprocess.run(
        [sys.executable, *launch, "-m", "support.wrapped"],
        capture_output=True,
        text=True,
        check=False,
        cwd=TESTS,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("of 2: ") == 2 * 2 * len(WRAPPED)


@pytest.mark.usefixtures("alone")
def test_the_model_inside_may_be_called_too():
    """A call of the model in a wrapper counts as one of the wrapper."""
    model = trained(WRAPPED["ddp"])
    with record(model) as recorder:
        model(input_ids=tokens_of(0), use_cache=False)
        model.module(input_ids=tokens_of(1), use_cache=False)
    assert len(recorder.routes()) == 4


def compiled_call(model):
    """model.compile() changes the call in place."""
    model.compile()
    return model


def compiled_layer(model):
    """A decoder layer is compiled in place."""
    model.model.layers[2].compile()
    return model


def compiled_forward(model):
    """The model's forward is a compiled function, as transformers' guide has it."""
    model.forward = torch.compile(model.forward)
    return model


REFUSED = {
    "OptimizedModule is compiled: compiled code goes around": torch.compile,
    "Qwen3MoeForCausalLM is compiled": compiled_call,
    "Qwen3MoeForCausalLM is compiled: ": compiled_forward,
    r"model\.layers\.2 is compiled": compiled_layer,
    "DataParallel copies the model": torch.nn.DataParallel,
    "Sequential has no router: .*: pass the model inside it": torch.nn.Sequential,
}


@pytest.mark.parametrize("said", REFUSED)
def test_what_goes_around_the_hooks_is_refused_by_name(said):
    """Compiled models, layers and blocks, and wrappers that are not known, are refused before a
    forward; nothing is left on the model."""
    model = families.tiny("qwen3_moe")
    for block in (record(REFUSED[said](model)), replay(REFUSED[said](model), [])):
        with pytest.raises(UnsupportedError, match=said):
            block.__enter__()
        model = families.tiny("qwen3_moe")
    assert not model._forward_hooks


@pytest.mark.filterwarnings("ignore:Dynamo does not know")
@pytest.mark.filterwarnings("ignore:Guards may run slower")  # torch, of Python 3.13.0
def test_a_compiled_function_is_never_wrong_in_silence():
    """A compiled function that calls the model is no wrapper that can be seen: it gives what an
    eager replay gives, or the proof tells that it went around."""
    model, ids = families.tiny("qwen3_moe"), tokens_of(0)
    compiled = torch.compile(lambda ids: model(input_ids=ids).logits, backend="eager")
    with torch.no_grad():
        compiled(ids)
        with record(model) as recorder:
            model(input_ids=ids)
        given = recorder.routes()[::-1]
        with replay(model, given):
            expected = model(input_ids=ids).logits
        try:
            with replay(model, given, prove=True):
                found = compiled(ids)
        except MismatchError as error:
            assert "went by unseen" in str(error) or "left over" in str(error)  # noqa: PT017
        else:
            assert torch.equal(found, expected)


class TestPeft:
    """Adapters of peft."""

    @pytest.fixture
    def peft(self):
        """peft, where it is installed."""
        return pytest.importorskip("peft")

    def lora(self, peft, model, **options):
        """A model with adapters on its attention."""
        return peft.get_peft_model(model, peft.LoraConfig(target_modules=["q_proj"], **options))

    def test_adapters_are_seen_through(self, peft):
        """With new adapters, which change nothing, routes are those of the model; positional
        arguments are peft's own; replay is proven and its gradients reach the adapters."""
        ids = tokens_of(0)
        plain = families.tiny("qwen3_moe")
        with record(plain) as live, torch.no_grad():
            plain(input_ids=ids)
        model = self.lora(peft, plain)
        with record(model) as recorder, torch.no_grad():
            model(ids, torch.ones_like(ids))
        for one, two in zip(recorder.routes(), live.routes(), strict=True):
            assert np.array_equal(one.ids_TLK, two.ids_TLK)
        with replay(model, live.routes()[::-1], prove=True) as proof:
            model(input_ids=ids).logits.square().mean().backward()
        assert proof.seen_L.tolist() == [14, 14]
        grads = [p.grad for name, p in model.named_parameters() if "lora_B" in name]
        assert all(grad is not None and grad.any() for grad in grads)

    def test_a_forward_that_peft_calls_without_hooks_counts(self, peft):
        """Before 0.19 peft calls the model's forward itself: its own call then counts, once."""
        model = self.lora(peft, families.tiny("qwen3_moe"))
        tuner = model.base_model
        tuner.forward = lambda *args, **kwargs: tuner.model.forward(*args, **kwargs)
        with record(model) as recorder, torch.no_grad():
            model(input_ids=tokens_of(0))
        assert len(recorder.routes()) == 2

    def test_adapters_on_a_router(self, peft):
        """Adapters on the routers' own weights change what is recorded and obey what is given."""
        options = {"target_parameters": ["gate.weight"], "init_lora_weights": False}
        model = self.lora(peft, families.tiny("qwen3_moe"), **options)
        with record(model) as recorder, torch.no_grad():
            model(input_ids=tokens_of(0))
        with model.disable_adapter(), record(model) as other, torch.no_grad():
            model(input_ids=tokens_of(0))
        one, two = recorder.routes(), other.routes()
        assert not np.array_equal(one[0].ids_TLK, two[0].ids_TLK)
        with replay(model, two, prove=True) as proof:
            model(input_ids=tokens_of(0))
        assert proof.seen_L.tolist() == [14, 14]

    def test_generate_of_adapters_is_recorded(self, peft):
        """generate of a model with adapters gives samples with prompt and response."""
        model = self.lora(peft, families.tiny("qwen3_moe"))
        options = {"max_new_tokens": 3, "do_sample": False, "pad_token_id": 0}
        with record(model) as recorder:
            model.generate(input_ids=tokens_of(0)[:1], **options)
        (sample,) = recorder.samples()
        assert (sample.prompt_length, sample.response_length) == (7, 3)

    def test_learned_prompts_are_refused(self, peft):
        """Learned prompts are rows that no token stands for: refused by name."""
        config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
        model = peft.get_peft_model(families.tiny("qwen3_moe"), config)
        with pytest.raises(UnsupportedError, match="PeftModelForCausalLM with learned prompts"):
            record(model).__enter__()

    @pytest.mark.usefixtures("alone")
    def test_adapters_in_ddp_and_fully_shard(self, peft):
        """Adapters in DDP and in fully_shard: both are seen through."""
        for model in (
            WRAPPED["ddp"](self.lora(peft, trained())),
            self.lora(peft, trained(WRAPPED["fsdp2"])),
        ):
            with record(model) as recorder:
                model(input_ids=tokens_of(0))
            with replay(model, recorder.routes(), prove=True) as proof:
                model(input_ids=tokens_of(0)).logits.square().mean().backward()
            assert proof.seen_L.tolist() == [14, 14]
