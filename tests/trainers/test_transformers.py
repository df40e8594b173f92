"""RoutesCallback in transformers' Trainer and TRL's GRPOTrainer, on rollouts that vLLM recorded."""

import importlib.util
import re
import shutil
import threading
import warnings
from pathlib import Path

import pytest
import torch

from routectl import Dump, Sample, diff, open_dump, write
from routectl.errors import MismatchError
from support.forwards import quiet
from support.tiny_rl import ENGINE, TINY

pytestmark = pytest.mark.models

PAGE = Path(__file__).parent.parent.parent / "docs" / "trainers" / "trl.md"
HAVE_TRL = importlib.util.find_spec("trl") is not None
TRUTH = TINY / "routes_v0.fp32.npz"  # transformers' own routes of the same tokens at v0


def recorded(*groups):
    """What vLLM recorded of some groups, and what transformers had of the same."""
    engine, truth = open_dump(ENGINE), open_dump(TRUTH, model=TINY / "config.json")
    places = [i for i, sample in enumerate(engine) if sample.group_id in groups]
    return engine.select(samples=places), truth.select(samples=places)


@pytest.fixture
def trainer_of(tiny_checkpoints, tmp_path):
    """A function that makes a Trainer of the model at v0 on sequences, two a step."""
    from transformers import AutoModelForCausalLM, Trainer, TrainerCallback, TrainingArguments

    class Told(TrainerCallback):
        """A logger: the scalars it is told and the step that the state then has."""

        def __init__(self):
            self.logs = []

        def on_log(self, args, state, control, logs=None, **kwargs):
            self.logs.append((state.global_step, logs))

    class Scoring(Trainer):
        """A Trainer that runs the model without gradients first, as for old log-probs."""

        def compute_loss(self, model, inputs, *args, **kwargs):
            with torch.no_grad():
                model(**inputs)
            return super().compute_loss(model, inputs, *args, **kwargs)

    def make(sequences, steps):
        with quiet():
            model = AutoModelForCausalLM.from_pretrained(
                tiny_checkpoints["v0"], dtype=torch.float32
            )
        rows = [{"input_ids": ids, "labels": ids} for ids in map(torch.as_tensor, sequences)]
        args = TrainingArguments(
            output_dir=tmp_path / "out",
            per_device_train_batch_size=1,
            gradient_accumulation_steps=2,
            max_steps=steps,
            learning_rate=0.0,
            use_cpu=True,
            bf16=False,
            report_to=[],
            save_strategy="no",
            disable_tqdm=True,
            logging_steps=1,
            train_sampling_strategy="sequential",
        )
        told = Told()
        return Scoring(model=model, args=args, train_dataset=rows, callbacks=[told]), told

    return make


def ids_of(dump):
    """All token ids of each sample."""
    return [[*s.prompt_ids.tolist(), *s.response_ids.tolist()] for s in dump]


def train(trainer):
    """Train without what the Trainer prints."""
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        trainer.train()


def test_steps_are_compared_with_their_rollouts(trainer_of, tmp_path):
    """Each step's figures are those of its sequences' own routes, told under its step, once."""
    from routectl.trainers.transformers import RoutesCallback

    engine, truth = recorded("0", "1")
    rollout = tmp_path / "rollout.parquet"
    write(engine, rollout)
    order = [3, 9, 0, 12]
    trainer, told = trainer_of([ids_of(engine)[i] for i in order], 2)
    trainer.add_callback(RoutesCallback(trainer, rollout, layers=True))
    train(trainer)
    entries = [e for e in trainer.state.log_history if "routectl/mismatch" in e]
    assert [entry["step"] for entry in entries] == [1, 2]
    for entry, part in zip(entries, (order[:2], order[2:]), strict=True):
        wanted = diff(engine.select(samples=part), truth.select(samples=part))
        assert entry["routectl/rows"] == wanted.rows
        assert entry["routectl/rows_mismatched"] == wanted.rows_mismatched > 0
        assert entry["routectl/tokens"] == wanted.num_tokens
        assert (entry["routectl/rows_missing"], entry["routectl/unmatched"]) == (0, 0)
        layers = [entry[f"routectl/mismatch/layer_{n:03}"] for n in range(6)]
        assert entry["routectl/mismatch/worst_layer"] == max(layers) > entry["routectl/mismatch"]
        assert (entry["step"], {k: v for k, v in entry.items() if k != "step"}) in told.logs


def test_samples_that_repeat_and_that_are_missing(trainer_of):
    """Of rollouts with the same tokens each is used in turn; a sequence of none is counted."""
    from routectl.trainers.transformers import RoutesCallback

    engine, truth = recorded("0")
    ids = ids_of(engine)
    trainer, _ = trainer_of([ids[0], ids[1], ids[0], ids[0]], 2)
    routes = RoutesCallback(trainer)
    routes.rollout([engine[0], truth[0]])
    trainer.add_callback(routes)
    train(trainer)
    first, second = (e for e in trainer.state.log_history if "routectl/mismatch" in e)
    one = diff(engine.select(samples=[0]), truth.select(samples=[0]))
    assert (first["routectl/unmatched"], second["routectl/unmatched"]) == (1, 0)
    assert (first["routectl/rows"], second["routectl/rows"]) == (one.rows, 2 * one.rows)
    assert first["routectl/rows_mismatched"] == one.rows_mismatched
    assert second["routectl/rows_mismatched"] == one.rows_mismatched  # truth[0] is the trainer's


def test_training_does_not_wait_for_comparisons(trainer_of):
    """While a comparison hangs, steps go on; its figures come at the end, under its own step."""
    from transformers import TrainerCallback

    from routectl.trainers.transformers import RoutesCallback

    engine, _ = recorded("0")
    hangs, steps = threading.Event(), []

    def load(place):
        assert hangs.wait(60)
        return engine[place]

    class End(TrainerCallback):
        """Lets the comparisons go on when all steps are done."""

        def on_step_end(self, args, state, control, **kwargs):
            steps.append(state.global_step)

        def on_epoch_end(self, args, state, control, **kwargs):
            assert not [e for e in state.log_history if "routectl/mismatch" in e]
            hangs.set()

    trainer, _ = trainer_of(ids_of(engine)[:6], 3)
    trainer.add_callback(End())
    trainer.add_callback(RoutesCallback(trainer, Dump(engine.meta, engine.keys, load)))
    train(trainer)
    found = [e["step"] for e in trainer.state.log_history if "routectl/mismatch" in e]
    assert (steps, found) == ([1, 2, 3], [1, 2, 3])


@pytest.mark.parametrize(
    ("rollout", "said"),
    [
        (None, "no rollout was given: RoutesCallback"),
        (1, "step 1: none of its 2 sequences has the tokens of a rollout"),
    ],
)
def test_nothing_compared_is_trouble(trainer_of, rollout, said):
    """A step with nothing to compare, when no step before it had, ends the training in a line."""
    from routectl.trainers.transformers import RoutesCallback

    engine, _ = recorded("0")
    trainer, _ = trainer_of(ids_of(engine)[:2], 1)
    given = None if rollout is None else recorded(str(rollout))[0]
    trainer.add_callback(RoutesCallback(trainer, given))
    with pytest.raises(MismatchError, match=re.escape(said)):
        train(trainer)


def test_what_is_no_rollout(trainer_of):
    """Samples without token ids or routes, and an interval below 1, are refused at the door."""
    from routectl.trainers.transformers import RoutesCallback

    engine, _ = recorded("0")
    trainer, _ = trainer_of(ids_of(engine)[:2], 1)
    with pytest.raises(MismatchError, match="sample 0 has no token ids"):
        RoutesCallback(trainer, [Sample(engine[0].routes)])
    with pytest.raises(TypeError, match=r"rollout\[1\]: got str, expected a Sample with routes"):
        RoutesCallback(trainer, [engine[0], "text"])
    with pytest.raises(ValueError, match="every must be at least 1, got 0"):
        RoutesCallback(trainer, every=0)


@pytest.mark.trainers
@pytest.mark.skipif(not HAVE_TRL, reason="pip install trl")
def test_the_loop_of_the_page_runs(tiny_checkpoints, tmp_path, monkeypatch, capsys):
    """The page's GRPO loop runs as it stands, and at the first step prints what the page shows."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    shutil.copytree(tiny_checkpoints["v0"], "tiny")
    words = Tokenizer(WordLevel({f"t{i}": i for i in range(1024)}, unk_token="t0"))
    PreTrainedTokenizerFast(tokenizer_object=words, pad_token="t0", eos_token="t1").save_pretrained(
        "tiny"
    )
    write(recorded("0", "1")[0], "rollout.parquet")
    text = PAGE.read_text("utf-8")
    (program,) = (p for p in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "trl" in p)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(compile(program, "trl.md", "exec"), {})
    printed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("step ")]
    shown = re.findall(r"^step \d .*$", text, re.MULTILINE)
    assert printed[0] == shown[0]
    assert [line.split()[1] for line in printed] == ["1", "2"]
