"""Lists of layers, Megatron's and miles', and the tokens that a second file gives them."""

import json

import pytest
import torch

from routectl.cli.main import main
from routectl.errors import FormatError, MismatchError
from routectl.formats import open_dump
from routectl.model import ModelFacts
from support.building import check_line
from support.slime_files import (
    A_IDS,
    B_IDS,
    CONFIG,
    save_rollout,
    short_sample,
    slime_sample,
    train_data,
)

FACTS = ModelFacts(3, (1, 2), 4, 2, None)
ONE_MOE = ("--model", "1,2,4")
LAST = [[0, 3]]  # the last token's row, which only a trainer has
A, B = [row[0] for row in A_IDS] + LAST, [row[0] for row in B_IDS] + LAST


def layer(*rows):
    """A layer's int64 [N, K]."""
    return torch.tensor([row for part in rows for row in part])


def flipped(rows):
    """The same rows with other ids, for a second layer."""
    return [[3 - i for i in row] for row in rows]


def save(path, doc):
    """A file of torch.save."""
    torch.save(doc, path)
    return path


def two_batches():
    """miles' file: two MoE layers, a micro-batch for each of the two samples."""
    return [[layer(A), layer(B)], [layer(flipped(A)), layer(flipped(B))]]


@pytest.fixture
def rollout(tmp_path):
    """The dump that has the tokens."""
    return save_rollout(tmp_path / "rollout.pt", slime_sample(), short_sample())


def read(path, tokens=None, facts=FACTS):
    """All samples of a file of layers."""
    return list(open_dump(path, model=facts, tokens=tokens))


ONE = ModelFacts(2, (1,), 4, 2, None)


class TestMiles:
    """rank0_routing_replay.pt."""

    @pytest.mark.parametrize("wrap", [lambda d: d, lambda d: {"version": 1, "replays": d}])
    def test_with_tokens(self, tmp_path, wrap):
        """A sample gets its micro-batch's rows in every layer, all but the last token's."""
        doc = [[part] for part in two_batches()[0]]
        path = save(tmp_path / "rank0_routing_replay.pt", wrap([[a] for [a] in doc[:1]]))
        tokens = tmp_path / "ids.json"
        tokens.write_text(json.dumps([5, 6, 7, 8]))
        (sample,) = read(path, tokens, ONE)
        assert sample.routes.ids_TLK.tolist() == A_IDS
        assert (sample.prompt_ids.tolist(), sample.response_length) == ([5, 6, 7, 8], 0)
        assert (sample.sample_id, sample.routes.start) == ("ids", 0)

    def test_of_a_dump(self, tmp_path, rollout):
        """A rollout dump tells ids, prompts, groups and masks; its log-probs stay behind."""
        path = save(tmp_path / "rank0_routing_replay.pt", [two_batches()[0]])
        a, b = read(path, rollout, ONE)
        assert (a.routes.ids_TLK.tolist(), b.routes.ids_TLK.tolist()) == (A_IDS, B_IDS)
        assert (a.sample_id, a.group_id, a.prompt_length) == ("12", "3", 2)
        assert a.loss_mask.tolist() == [False, False, False, True]
        assert a.logprobs is None

    def test_of_train_data(self, tmp_path):
        """So does slime's train data."""
        path = save(tmp_path / "rank0_routing_replay.pt", two_batches())
        tokens = save(tmp_path / "train.pt", train_data())
        a, b = read(path, tokens)
        assert a.routes.ids_TLK[:, 1].tolist() == flipped(A)[:3]
        assert (b.token_ids.tolist(), b.sample_id) == ([9, 4], "13")

    def test_packed(self, tmp_path, rollout):
        """Samples that one micro-batch holds end to end are told apart by their lengths."""
        path = save(tmp_path / "r.pt", [layer(A, B)])
        a, b = read(path, rollout, ONE)
        assert (a.routes.ids_TLK.tolist(), b.routes.ids_TLK.tolist()) == (A_IDS, B_IDS)

    def test_without_tokens(self, tmp_path):
        """Without tokens a micro-batch is one sequence, and only bounds that were told are used."""
        a, b = read(save(tmp_path / "r.pt", two_batches()))
        assert (a.sample_id, b.sample_id) == ("r/0", "r/1")
        assert a.routes.ids_TLK.shape == (4, 2, 2)
        assert a.num_tokens is None

    @pytest.mark.parametrize(
        ("doc", "said"),
        [
            ([[layer(A), layer(B), layer(B)]], "micro-batch 2: 2 rows are left, but no more sam"),
            ([[layer(A)]], "has rows of 1 samples, the tokens are of 2"),
            ([[layer(A), layer(A)]], "micro-batch 1: 2 rows are left, but no more samples"),
            ([[layer(A, A, B), layer(B)]], "micro-batch 0: 4 rows are left, but no more"),
            ([[layer(B), layer(A)]], "micro-batch 0: 2 of 2 rows are left, sample 0 has 4 tokens"),
        ],
    )
    def test_tokens_that_do_not_fit(self, tmp_path, rollout, doc, said):
        """Micro-batches have to be made up of whole samples, in order, and of all of them."""
        path = save(tmp_path / "r.pt", doc)
        with pytest.raises(MismatchError, match=said) as caught:
            read(path, rollout, ONE)
        check_line(caught.value, path)

    @pytest.mark.parametrize(
        ("doc", "said"),
        [
            ([[layer(A)], [layer(A), layer(B)]], r"layers of \[1, 2\] micro-batches"),
            ([[layer(A)], [layer(B)]], "got layers of shapes"),
            ([[layer(A)[None]]], "got layers of shapes"),
            ([[layer(A).float()]], "got float32 .*, expected integers"),
            ([[layer(A)], []], "a torch file without routes"),
            ([[layer(A)], ["x"]], "a torch file without routes"),
        ],
    )
    def test_damaged(self, tmp_path, doc, said):
        """Layers of several counts, shapes or kinds are refused."""
        path = save(tmp_path / "r.pt", doc)
        with pytest.raises(FormatError, match=said) as caught:
            read(path)
        check_line(caught.value, path)

    def test_tokens_of_their_own(self, tmp_path, rollout):
        """A dump that has tokens takes no second file."""
        with pytest.raises(MismatchError, match="its samples have their own tokens"):
            read(rollout, rollout, ONE)
        with pytest.raises(MismatchError, match="its samples have their own tokens"):
            open_dump("fixtures/golden/deepseek_v3.parquet", tokens=rollout)

    @pytest.mark.parametrize("text", ["[]", "[1, -2]", "[1"])
    def test_no_tokens(self, tmp_path, text):
        """A list that holds no token ids is refused by its own name."""
        (tmp_path / "ids.json").write_text(text)
        path = save(tmp_path / "r.pt", [[layer(A)]])
        with pytest.raises(FormatError) as caught:
            read(path, tmp_path / "ids.json", ONE)
        check_line(caught.value, tmp_path / "ids.json")


def test_convert_and_diff(tmp_path, rollout, capsys):
    """SRC::tokens=FILE makes a native dump of them, which the rollout is then compared with."""
    path = save(tmp_path / "r.pt", [[layer(A), layer([[2, 1], LAST[0]])]])
    out = tmp_path / "r.parquet"
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    assert main(["convert", f"{path}::tokens={rollout}", "--save", str(out)]) == 0
    assert main(["diff", str(rollout), str(out), "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert (report["rows"], report["rows_mismatched"]) == (4, 1)
