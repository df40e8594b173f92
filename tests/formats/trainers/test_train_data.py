"""slime's train data: what is in it, as a plan, and its log-probs beside a rollout's."""

import json

import numpy as np
import pytest
import torch

from routectl.cli.main import main
from routectl.errors import FormatError, MismatchError, UnsupportedError
from routectl.formats import open_dump
from routectl.formats.replay.plans import read_plan
from routectl.formats.trainers.train_data import read_train_data
from routectl.model import ModelFacts
from routectl.ops.pairs.logprobs import with_logprobs
from support.building import check_line
from support.slime_files import (
    CONFIG,
    save_rollout,
    shard,
    short_sample,
    slime_sample,
    train_data,
    train_sample,
)

FACTS = ModelFacts(2, (1,), 4, 2, None)


@pytest.fixture
def rollout(tmp_path):
    """The rollout dump of the same step, with its model's config beside it."""
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    return save_rollout(tmp_path / "rollout.pt", slime_sample(), short_sample())


def save(tmp_path, doc):
    """A train dump's file."""
    torch.save(doc, tmp_path / "train.pt")
    return tmp_path / "train.pt"


class TestRead:
    """What is in a dump."""

    def test_samples(self, tmp_path):
        """Samples have tokens, masks, the trainer's log-probs, and places in the rollout."""
        data = read_train_data(save(tmp_path, train_data()))
        a, b = data.samples
        assert (a.prompt_ids.tolist(), a.response_ids.tolist()) == ([5, 6], [7, 8])
        assert (a.logprobs.tolist(), b.logprobs.tolist()) == ([-0.25, -2.5], [-1.0])
        assert a.loss_mask.tolist() == [False, False, True, True]
        assert (a.sample_id, b.sample_id, data.positions) == ("12", "13", (0, 1))

    def test_as_a_dump(self, tmp_path, capsys):
        """Opened as a dump it says what it is, and which commands take it."""
        path = save(tmp_path, train_data())
        assert main(["show", str(path)]) == 2
        error = capsys.readouterr().err
        assert (
            "slime's train data: 2 samples of 6 tokens, 2 with log-probs; 2 micro-batches on 2 "
            "data-parallel ranks; no routes\nhint: diff --logprobs"
        ) in error

    def test_in_a_folder(self, tmp_path, rollout):
        """Beside a rollout dump, as --dump-details leaves it, it is skipped with that reason."""
        save(tmp_path, train_data())
        dump = open_dump(tmp_path, model=FACTS)
        assert len(dump) == 2
        assert any("slime's train data" in line for line in dump.meta.skipped)

    @pytest.mark.parametrize(
        ("doc", "error", "said"),
        [
            (train_data(format_version=3), UnsupportedError, "format_version 3, this .* reads"),
            (
                {"rollout_id": 0, "rank": 1, "rollout_data": {}, "cp_rank": 0},
                UnsupportedError,
                "format_version None",
            ),
            (train_data(samples=3), FormatError, "without a list of samples"),
            (train_data(dp_shards=[3]), FormatError, "a mapping for each data-parallel rank"),
            (train_data(samples=[3]), FormatError, "sample 0: got int, expected a sample"),
            (
                train_data(samples=[train_sample(0, 0, [1, 2], 3, [0.0])]),
                FormatError,
                "response_lengths: got 3, expected a count of 2 tokens",
            ),
            (
                train_data(samples=[train_sample(0, 0, [1, 2], 1, [0.0, 1.0])]),
                FormatError,
                r"log_probs: got \(2,\), expected one of 1 tokens",
            ),
            (
                train_data(samples=[train_sample(0, 0, [1.5, 2], 1, [0.0])]),
                FormatError,
                "expected token ids",
            ),
            ({"rollout_id": 0}, FormatError, "no dp_shards in it"),
        ],
    )
    def test_refused(self, tmp_path, doc, error, said):
        """Another version, and what is damaged, is refused in one line."""
        path = save(tmp_path, doc)
        with pytest.raises(error, match=said) as caught:
            read_train_data(path)
        check_line(caught.value, path)


class TestPlan:
    """Which samples were in which micro-batch."""

    def test_as_a_plan(self, tmp_path):
        """dp_shards are read as from plan.json: by data-parallel rank, then micro-batch."""
        plan = read_plan(save(tmp_path, train_data()), 1, lens=(4, 2))
        assert plan.dp == 2
        assert [step.groups for step in plan.micro_batches] == [((1,), (0,))]
        text = tmp_path / "plan.json"
        text.write_text(json.dumps(train_data()["dp_shards"]))
        assert read_plan(text, 1) == plan

    def test_pack(self, tmp_path, rollout, capsys):
        """pack --plan lays the samples out as the trainer did."""
        path = save(tmp_path, train_data())
        args = ["pack", str(rollout), "--save", str(tmp_path / "r"), "--framework", "slime"]
        assert main([*args, "--plan", str(path), "--json"]) == 0
        layout = json.loads(capsys.readouterr().out)["layout"]
        assert (layout["dp"], layout["plan"]["micro_batches"]) == (2, [[[1], [0]]])

    @pytest.mark.parametrize(
        ("lens", "said"),
        [
            ((4, 3), "its sample 1 has 2 tokens, the dump's 3"),
            ((4,), "its sample 1 has 2 tokens, the dump's is not there"),
        ],
    )
    def test_of_another_dump(self, tmp_path, lens, said):
        """Indices are of the rollout dump of that step: another one is noticed by its lengths."""
        path = save(tmp_path, train_data())
        with pytest.raises(MismatchError, match=said) as caught:
            read_plan(path, 1, lens=lens)
        check_line(caught.value, path)

    def test_without_places(self, tmp_path):
        """A dump without partitions has no plan in it."""
        path = save(tmp_path, train_data(dp_shards=[{**shard(0, [], []), "partition": None}]))
        with pytest.raises(FormatError, match="dp_shards: expected data_parallel_rank, partition"):
            read_plan(path, 1)


class TestLogprobs:
    """The trainer's log-probs on the rollout's routes."""

    def test_joined(self, tmp_path, rollout):
        """Samples are joined by their tokens, whatever their order; the routes stay as they are."""
        data = read_train_data(save(tmp_path, train_data(samples=train_data()["samples"][::-1])))
        dump, count = with_logprobs(open_dump(rollout, model=FACTS), data.samples)
        assert count == 2
        assert [s.logprobs.tolist() for s in dump] == [[-0.25, -2.5], [-1.0]]
        assert [s.routes.rows for s in dump.select(layers=[1])] == [3, 1]

    def test_some(self, tmp_path, rollout):
        """A sample that was not trained on has no log-probs then: two sources never mix."""
        data = read_train_data(save(tmp_path, train_data(samples=train_data()["samples"][:1])))
        dump, count = with_logprobs(open_dump(rollout, model=FACTS), data.samples)
        assert count == 1
        assert [s.logprobs is None for s in dump] == [False, True]

    def test_none(self, tmp_path, rollout):
        """Train data of other tokens is refused, and so is another prompt."""
        dump = open_dump(rollout, model=FACTS)
        other = read_train_data(
            save(tmp_path, train_data(samples=[train_sample(0, 0, [1, 2], 1, [0.0])]))
        )
        with pytest.raises(MismatchError, match="none of 2 samples of OLD and 1 of NEW match"):
            with_logprobs(dump, other.samples)
        longer = [train_sample(0, 0, [5, 6, 7, 8], 3, [0.0, 0.0, 0.0])]
        other = read_train_data(save(tmp_path, train_data(samples=longer)))
        with pytest.raises(MismatchError, match=r"got a prompt of 1 tokens .* expected 2"):
            with_logprobs(dump, other.samples)[0][0]

    def test_diff(self, tmp_path, rollout, capsys):
        """diff --logprobs gives the figures of rollout against trainer, the first token of which
        the rollout's loss mask leaves out.
        """
        path = save(tmp_path, train_data())
        args = ["diff", str(rollout), str(rollout), "--json", "--logprobs", str(path)]
        assert main(args) == 0
        out, err = capsys.readouterr()
        found = json.loads(out)["logprobs"]
        assert "2 of 2 samples" in err
        assert found["tokens"] == 2
        assert found["mean_abs_d"] == pytest.approx((0.5 + 0) / 2)

    def test_tokens_of_tools(self, tmp_path, rollout):
        """A token that the loss mask leaves out was not sampled, and has no log-prob."""
        samples = train_data()["samples"]
        samples[0]["loss_masks"] = torch.tensor([0, 1])
        data = read_train_data(save(tmp_path, train_data(samples=samples)))
        dump, _ = with_logprobs(open_dump(rollout, model=FACTS), data.samples)
        np.testing.assert_array_equal(dump[0].scored, [False, True])

    def test_diff_without(self, tmp_path, rollout, capsys):
        """Train data without log_probs, of a trainer that takes the rollout's, is trouble."""
        samples = train_data()["samples"]
        for sample in samples:
            del sample["log_probs"]
        path = save(tmp_path, train_data(samples=samples))
        assert main(["diff", str(rollout), str(rollout), "--logprobs", str(path)]) == 2
        assert "no log_probs in it" in capsys.readouterr().err
