"""prime-rl's packed bins, built as its trainer packs and pads them, split back into samples.

Source: prime-rl 559b4477 (trainer/batch.py: prepare_sample, _materialize_bin, pad_micro_batch;
transports/rollouts/types.py), written here with msgpack alone.
"""

import json

import msgpack
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from routectl.errors import FormatError
from routectl.formats import open_dump
from support.building import CONFIG, FACTS, check_line, some_ids
from support.shell import complaint, run


def sample(size, prompt, seed):
    """Tokens, mask, log-probs and rows N - 1 of one sample."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, 9, size)  # 1, the padding's token, among them
    mask = np.arange(size) >= prompt
    return tokens, mask, np.where(mask, -rng.random(size), 0.0), some_ids(size - 1, seed=seed)


def bin_of(samples, *, multiple=1, dtype="uint8", appended=False, fields=16):
    """A MicroBatch of samples end to end, padded to a multiple of tokens."""
    tokens, mask, scores, rows, positions, lens = [], [], [], [], [], []
    for ids, own, logprobs, routes in samples:
        tokens += ids.tolist()
        mask += own.tolist()
        scores += logprobs.tolist()
        rows += [routes, np.zeros((1, 3, 2), int)]  # a zero tail row
        positions += range(len(ids))
        lens.append(len(ids))
    pad = -len(tokens) % multiple
    tokens += [1] * pad
    mask += [False] * pad
    scores += [0.0] * pad
    positions += range(pad)
    rows.append(np.zeros((pad, 3, 2), int))
    if appended and pad:
        lens.append(pad)  # before 559b4477
    else:
        lens[-1] += pad
    array = np.concatenate(rows).astype(dtype)
    size = len(tokens)
    batch = [
        tokens,
        mask,
        [0.5] * size,
        scores,
        positions,
        lens,
        [1.0] * size,
        ["env"] * size,
        list(lens),
        None,
        [array.tobytes(), list(array.shape), dtype],
    ]
    return [*batch, *[None] * (fields - len(batch))]


def write_bin(path, bins):
    """A rank's file, with the model's config two folders up or beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgpack.packb(bins))
    (path.parent / "config.json").write_text(json.dumps(CONFIG), "utf-8")
    return path


def assert_samples(dump, samples):
    """The dump has these samples, to the last row."""
    assert len(dump) == len(samples)
    for got, (tokens, mask, scores, routes) in zip(dump, samples, strict=True):
        assert got.token_ids.tolist() == tokens.tolist()
        assert got.loss_mask.tolist() == mask.tolist()
        assert got.logprobs.tolist() == scores[got.prompt_length :].tolist()
        np.testing.assert_array_equal(got.routes.ids_TLK, routes)
        assert (got.routes.start, got.routes.missing_TL) == (0, None)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32"])
@pytest.mark.parametrize("appended", [False, True], ids=["in the last", "one of its own"])
@pytest.mark.parametrize("multiple", [1, 8, 64])
def test_padded_bins_are_split_back(tmp_path, dtype, appended, multiple):
    """Samples of packed bins come back without the padding, which sequence_lengths counts."""
    samples = [sample(9, 3, 0), sample(5, 2, 1), sample(12, 4, 2)]
    bins = [
        bin_of(part, multiple=multiple, dtype=dtype, appended=appended)
        for part in (samples[:2], samples[2:])
    ]
    assert_samples(open_dump(write_bin(tmp_path / "rank_0.bin", bins)), samples)


def test_rollouts_of_several_steps_and_ranks(tmp_path):
    """rollouts/step_N/rank_r.bin of several steps and ranks open as one dump through a glob."""
    samples = [sample(6 + n, 3, n) for n in range(8)]
    for n in range(4):
        bins = [bin_of(samples[2 * n : 2 * n + 2], multiple=8)]
        write_bin(tmp_path / "rollouts" / f"step_{n // 2}" / f"rank_{n % 2}.bin", bins)
    for glob in ("*/*.bin", "**/*.bin", "step_*/rank_[01].bin"):
        dump = open_dump(f"{tmp_path}/rollouts/{glob}")
        assert dump.meta.format == "msgpack, 4 files"
        assert_samples(dump, samples)
    assert_samples(open_dump(tmp_path / "rollouts" / "step_1"), samples[4:])


@settings(max_examples=30, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_packing_splits_back(tmp_path_factory, data):
    """Whatever the lengths, prompts and the multiple: each sample comes back exactly."""
    sizes = data.draw(st.lists(st.integers(2, 20), min_size=1, max_size=6))
    samples = [sample(n, data.draw(st.integers(1, n - 1)), i) for i, n in enumerate(sizes)]
    multiple, appended = data.draw(st.integers(1, 32)), data.draw(st.booleans())
    place = tmp_path_factory.getbasetemp() / "bins"
    bins = [bin_of(samples, multiple=multiple, appended=appended)]
    assert_samples(open_dump(write_bin(place / "rank_0.bin", bins)), samples)


@settings(max_examples=60, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_changed_bins_are_read_or_refused(tmp_path_factory, data):
    """Any field of another type or size gives samples or one clear line."""
    batch = bin_of([sample(9, 3, 0), sample(5, 2, 1)], multiple=8)
    wrong = st.sampled_from(
        [
            None,
            True,
            -1,
            2**31,
            [],
            [1],
            [None],
            [[1]],
            "x",
            b"\x00",
            [2**40],
            [b"", [16, 3, 2], "uint8"],
            [b"\x00" * 96, [2**40, 3, 2], "uint8"],
            [b"\x00" * 96, [16, -1, -1], "uint8"],
            [0.5] * 16,
            [-1] * 16,
            [0] * 16,
            [16],
            [2**30, 2**30],
        ]
    )
    for _ in range(data.draw(st.integers(1, 2))):
        batch[data.draw(st.integers(0, 10))] = data.draw(wrong)
    path = write_bin(tmp_path_factory.getbasetemp() / "fuzz" / "rank_0.bin", [batch])
    try:
        for got in open_dump(path, model=FACTS):
            assert got.routes is None or got.routes.num_tokens >= 0
    except FormatError as error:
        check_line(error, path)


class TestTotalRouterRecall:
    """Rows int32 [N, W, 2K]: ids, then the bits of their float32 weights (prime-rl #3523)."""

    def make(self, folder, weights=None, dtype="<i4"):
        """Two samples in a bin padded to 16 tokens; their ids, and their weights [N - 1, W, K]."""
        samples = [sample(5, 2, 3), sample(6, 3, 4)]
        batch = bin_of(samples, multiple=16, dtype="int32")
        ids = np.frombuffer(batch[10][0], "<i4").reshape(batch[10][1])
        drawn = np.random.default_rng(5).random(ids.shape).astype(np.float32)
        drawn /= drawn.sum(-1, keepdims=True)
        drawn[~ids.any(-1)] = 0  # fillers
        drawn = drawn if weights is None else np.full_like(drawn, weights)
        both = np.concatenate([ids, drawn.view(np.int32)], axis=-1)
        batch[10] = [both.astype(dtype).tobytes(), list(both.shape), np.dtype(dtype).name]
        path = folder / "rank_0.bin"
        path.write_bytes(msgpack.packb([batch]))
        return path, samples, [drawn[:4], drawn[5:10]]

    def test_is_read(self, tmp_path):
        """Ids are routes of top-k K, weights are gates of those routes."""
        path, samples, weights = self.make(tmp_path)
        dump = open_dump(path, model=FACTS)
        assert len(dump) == 2
        assert dump.meta.gates
        for own, theirs, wanted in zip(dump, samples, weights, strict=True):
            np.testing.assert_array_equal(own.routes.ids_TLK, theirs[3])
            kept = np.exp(own.gates.logprobs_TLK.astype(np.float64))
            np.testing.assert_allclose(kept, wanted, rtol=1 / 8000)
            assert own.gates.of.startswith("weights:")

    def test_commands(self, capsys, tmp_path):
        """show, check, diff and convert take it; a native file keeps the weights."""
        path, _, _ = self.make(tmp_path)
        model = ("--model", "3,2,16")
        saved = tmp_path / "x.parquet"
        assert run(capsys, "show", path, *model).code == 0
        assert run(capsys, "convert", path, "--save", saved, *model).code == 0
        assert run(capsys, "diff", path, saved, *model).code == 0
        for one, two in zip(open_dump(path, model="3,2,16"), open_dump(saved), strict=True):
            np.testing.assert_array_equal(one.gates.logprobs_TLK, two.gates.logprobs_TLK)

    def test_plain_ids(self, tmp_path):
        """int32 rows of ids alone are as they were, however many there are."""
        path = tmp_path / "rank_0.bin"
        path.write_bytes(msgpack.packb([bin_of([sample(5, 2, 3)], dtype="int32")]))
        dump = open_dump(path, model=FACTS)
        assert (dump.meta.gates, dump[0].gates) == (False, None)

    @pytest.mark.parametrize("weight", [1.5, np.nan, np.inf, 3e38])
    def test_no_weights(self, capsys, tmp_path, weight):
        """Bits beside ids that are no weights in 0..1 are refused in one line."""
        path, _, _ = self.make(tmp_path, weight)
        told = complaint(capsys, "show", path, "--model", "3,2,16")
        assert "weights beyond 0 to 1" in told
        assert len(told.splitlines()) == 1
