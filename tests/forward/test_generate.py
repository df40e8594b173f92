"""record around generate: each sequence is one sample, as a forward on all of its tokens has it.

The oracle knows nothing of caches: a plain forward on each finished sequence alone, hooked.
"""

from importlib.metadata import version

import numpy as np
import pytest
import torch
from transformers import GenerationConfig, StoppingCriteria
from transformers.cache_utils import DynamicCache, StaticCache

from routectl import open_dump
from routectl.errors import MismatchError, UnsupportedError
from routectl.forward.live import record, replay
from routectl.routers.families import minor_of
from support import families
from support.forwards import hooked, quiet, sample_of
from support.shell import run

pytestmark = pytest.mark.models

END, PAD = 2, 0
CACHE = "cache" if minor_of(version("transformers")) >= (5, 24) else "past_key_values"
NAMES = ["qwen3_moe", "deepseek_v3", "gpt_oss", "mixtral", "qwen3_next", "deepseek_v4"]


def prompts(rows=3, tokens=6, seed=1):
    """Token ids [B, S]."""
    return torch.randint(3, 100, (rows, tokens), generator=torch.Generator().manual_seed(seed))


def generated(model, ids, seed=0, **options):
    """What generate gives, sampling, 9 new tokens at most."""
    torch.manual_seed(seed)
    options = {"do_sample": True, "max_new_tokens": 9, "pad_token_id": PAD, **options}
    with quiet():
        return model.generate(ids, **options)


def whole(model, samples):
    """The sets of experts of a plain forward on each sample's tokens, sorted."""
    alone = [sample_of(sample.token_ids) for sample in samples]
    return [np.sort(ids_TLK) for ids_TLK, *_ in hooked(model, alone)]


def holds(model, recorder, expected, prompt_lengths):
    """The samples are the expected token ids, with a row for each but the last."""
    samples = list(recorder.samples())
    assert [sample.prompt_length for sample in samples] == list(prompt_lengths)
    for sample, ids in zip(samples, expected, strict=True):
        assert np.array_equal(sample.token_ids, ids)
        assert len(sample.routes.ids_TLK) == len(ids) - 1
    for sample, ids_TLK in zip(samples, whole(model, samples), strict=True):
        assert np.array_equal(np.sort(sample.routes.ids_TLK), ids_TLK[:-1])
    return samples


def cut(row):
    """A generated row up to its end."""
    row = row.tolist()
    return row[: row.index(END) + 1] if END in row else row


@pytest.mark.parametrize("name", NAMES)
def test_steps_join_their_sequence(name):
    """Every family: one sample a sequence, N tokens, N - 1 rows, those of a plain forward."""
    model = families.tiny(name)
    with record(model) as recorder:
        out = generated(model, prompts(), eos_token_id=None)
    assert out.shape == (3, 15)
    holds(model, recorder, out.tolist(), [6] * 3)
    assert "generate" not in vars(model)


@pytest.mark.parametrize("name", ["qwen3_moe", "deepseek_v3", "gpt_oss"])
def test_left_padding_and_ends(name):
    """Padding before a prompt and after an end is no row, and an end that was fed because others
    of the batch went on has none either."""
    model, ids = families.tiny(name), prompts(4)
    mask = torch.ones_like(ids)
    for row, padding in enumerate((0, 3, 1, 5)):
        ids[row, :padding], mask[row, :padding] = PAD, 0
    ends = list(range(3, 40))
    with record(model) as recorder:
        out = generated(model, ids, attention_mask=mask, eos_token_id=ends, max_new_tokens=12)
    expected, lengths = [], []
    for row, kept in zip(out.tolist(), mask.tolist(), strict=True):
        made = row[6:]
        stop = next((n for n, token in enumerate(made) if token in ends), len(made))
        expected.append([token for token, keep in zip(row, kept, strict=False) if keep])
        expected[-1] += made[: stop + 1]
        lengths.append(sum(kept))
    assert len({len(row) for row in expected}) > 1
    assert out[:, 6:].eq(PAD).any()
    holds(model, recorder, expected, lengths)


def test_several_of_a_prompt_and_several_calls():
    """num_return_sequences gives a sample each, and another call of generate other samples."""
    model = families.tiny("qwen3_moe")
    with record(model) as recorder:
        one = generated(model, prompts(2), num_return_sequences=3, eos_token_id=None)
        two = generated(
            model, prompts(1, 4), seed=5, eos_token_id=None, return_dict_in_generate=True
        )
        with torch.no_grad():
            model(input_ids=prompts(1, 5))
    expected = [*one.tolist(), *two.sequences.tolist()]
    samples = list(recorder.samples())
    assert [len(sample.routes.ids_TLK) for sample in samples] == [14] * 6 + [12] + [5]
    recorder._streams.pop()
    holds(model, recorder, expected, [6] * 6 + [4])


@pytest.mark.parametrize(
    "options",
    [
        {"use_cache": False},
        {"cache_implementation": "static"},
        {"prefill_chunk_size": 2},
        {"max_new_tokens": 1},
    ],
    ids=lambda options: next(iter(options)),
)
def test_ways_to_generate(options):
    """Without a cache, with a static one, a prompt in chunks, and a single new token: the samples
    are the same."""
    model, ids = families.tiny("qwen3_moe"), prompts(3, 12)
    with record(model) as recorder:
        out = generated(model, ids, eos_token_id=None, **options)
    holds(model, recorder, out.tolist(), [12] * len(ids))


@pytest.mark.parametrize("name", ["qwen3_moe", "gpt_oss", "mixtral"])
def test_guesses_that_are_taken_back(name):
    """Where several tokens are guessed and some cropped again, sliding windows included."""
    model, ids = families.tiny(name), prompts(1, 12)
    ids[0, 6:] = ids[0, :6]
    options = {"prompt_lookup_num_tokens": 3, "do_sample": False, "max_new_tokens": 30}
    with record(model) as recorder:
        out = generated(model, ids, eos_token_id=None, **options)
    steps = recorder._streams[0].steps[1:]
    assert any(step.parts[0].get().shape[1] > 1 for step in steps)
    holds(model, recorder, out.tolist(), [12])


def test_static_cache_with_padding():
    """Where forwards are given masks of 4 dimensions, padding is what generate was given."""
    model, ids = families.tiny("qwen3_moe"), prompts(2)
    mask = torch.ones_like(ids)
    ids[0, :2], mask[0, :2] = PAD, 0
    options = {"cache_implementation": "static", "eos_token_id": None}
    with record(model) as recorder:
        out = generated(model, ids, attention_mask=mask, **options)
    holds(model, recorder, [out[0, 2:].tolist(), out[1].tolist()], [4, 6])
    with record(model) as recorder:  # transformers finds the padding by itself
        out = generated(model, ids, num_return_sequences=2, **options)
    expected = [*out[:2, 2:].tolist(), *out[2:].tolist()]
    holds(model, recorder, expected, [4, 4, 6, 6])


def test_going_on_with_a_past():
    """A second generate on the cache of the first goes on with its sequences."""
    model, cache = families.tiny("qwen3_moe"), DynamicCache()
    with record(model) as recorder:
        one = generated(model, prompts(), **{CACHE: cache}, eos_token_id=None)
        longer = torch.cat([one, prompts(3, 4, seed=2)], dim=1)
        two = generated(model, longer, **{CACHE: cache}, eos_token_id=None)
    holds(model, recorder, two.tolist(), [19] * 3)


def test_a_past_that_was_not_recorded_is_refused():
    """What a cache held before the block has no tokens and no routes here."""
    model, cache = families.tiny("qwen3_moe"), DynamicCache()
    one = generated(model, prompts(), **{CACHE: cache}, eos_token_id=None)
    with record(model), pytest.raises(UnsupportedError, match="holds 14 tokens that were not"):
        generated(model, torch.cat([one, one], dim=1), **{CACHE: cache})


def test_a_loop_of_ones_own():
    """Forwards on a cache without generate are joined too: a row for every token that was fed."""
    model, ids = families.tiny("qwen3_moe"), prompts(2, 9)
    with record(model) as recorder, torch.no_grad():
        out = model(input_ids=ids[:, :4], use_cache=True)
        for at in range(4, 9):
            model(input_ids=ids[:, at : at + 1], **{CACHE: getattr(out, CACHE)})
    samples = list(recorder.samples())
    for sample, row, ids_TLK in zip(samples, ids, whole(model, samples), strict=True):
        assert np.array_equal(sample.prompt_ids, row)
        assert np.array_equal(np.sort(sample.routes.ids_TLK), ids_TLK)


def test_a_cache_that_is_cropped():
    """What was cropped is gone, and what came after is in its place."""
    model, ids, other = families.tiny("qwen3_moe"), prompts(2, 9), prompts(2, 3, seed=4)
    with record(model) as recorder, torch.no_grad():
        out = model(input_ids=ids, use_cache=True)
        getattr(out, CACHE).crop(-4)
        model(input_ids=other, **{CACHE: getattr(out, CACHE)})
    joined = torch.cat([ids[:, :5], other], dim=1)
    samples = list(recorder.samples())
    for sample, row, ids_TLK in zip(samples, joined, whole(model, samples), strict=True):
        assert np.array_equal(sample.prompt_ids, row)
        assert np.array_equal(np.sort(sample.routes.ids_TLK), ids_TLK)


@pytest.mark.parametrize("kind", [DynamicCache, StaticCache])
def test_a_cache_that_is_rearranged_is_refused(kind):
    """Whose rows are whose is not known after that; beam search is refused before it begins."""
    model, ids = families.tiny("qwen3_moe"), prompts(2, 9)
    cache = kind(config=model.config, max_cache_len=20) if kind is StaticCache else kind()
    with record(model), torch.no_grad():
        model(input_ids=ids, **{CACHE: cache})
        cache.reorder_cache(torch.tensor([1, 0]))
        with pytest.raises(UnsupportedError, match="rearranged"):
            model(input_ids=ids[:, :1], **{CACHE: cache})
        for options in ({"num_beams": 2}, {"generation_config": GenerationConfig(num_beams=2)}):
            with pytest.raises(UnsupportedError, match="num_beams 2"):
                generated(model, ids, **options)
        with pytest.raises(UnsupportedError, match="guidance_scale"):
            generated(model, ids[:1], guidance_scale=1.5)


def test_a_sequence_that_something_else_ends():
    """What a stopping criterion of one's own ends is padded by transformers: no rows."""

    class Second(StoppingCriteria):
        """Ends the second sequence after its 9th token."""

        def __call__(self, input_ids, scores, **kwargs):
            done = torch.zeros(len(input_ids), dtype=torch.bool)
            done[1] = input_ids.shape[1] >= 9
            return done

    model = families.tiny("qwen3_moe")
    with record(model) as recorder:
        out = generated(model, prompts(), stopping_criteria=[Second()], eos_token_id=127)
    rows = [cut(row) for row in out]
    rows[1] = rows[1][:9]
    assert out[1, 9:].eq(PAD).all()
    holds(model, recorder, rows, [6] * 3)


def test_the_dump_is_clean(capsys, tmp_path):
    """check finds nothing in what is written, and its samples are the sequences."""
    model = families.tiny("qwen3_moe")
    with record(model) as recorder:
        out = generated(model, prompts(8, 12), eos_token_id=None, max_new_tokens=40)
    assert recorder.write(tmp_path / "r.parquet") == 8
    dump = open_dump(tmp_path / "r.parquet")
    assert [sample.token_ids.tolist() for sample in dump] == out.tolist()
    done = run(capsys, "check", tmp_path / "r.parquet")
    assert (done.code, done.out.split()[0]) == (0, "CLEAN"), done.out


def test_replay_of_steps_is_refused():
    """Routes of whole sequences cannot be given to a step."""
    model = families.tiny("qwen3_moe")
    with record(model) as recorder:
        generated(model, prompts(1), eos_token_id=None)
    routes = recorder.routes()
    with pytest.raises((UnsupportedError, MismatchError)), replay(model, [*routes, *routes]):
        generated(model, prompts(1), eos_token_id=None)
