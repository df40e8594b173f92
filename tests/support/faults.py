"""Faults that engines and trainers have had, put into clean recorded dumps.

A fault takes the samples of a dump, how much of it to spoil, and a random generator; it gives the
spoilt samples. Shape suffixes: T tokens, L MoE layers, K top_k, E experts.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from routectl.dump import Dump, WeightSpan
from routectl.formats import open_dump
from routectl.formats.responses.segments import merge_samples
from routectl.layouts.packing import Packing
from routectl.routes import Routes
from support.recordings import FIXTURES

__all__ = ["BASES", "FAULTS", "Base", "Fault", "clean_pairs", "spoilt"]

RECORDED = FIXTURES / "recordings"
LEAST = 8  # tokens of a run that a fault spoils, so that it is a run


@dataclass(frozen=True)
class Base:
    """A clean dump and its reference: other engine, other dtype or both."""

    name: str
    dump: str
    reference: str
    later: str | None = None


BASES = (
    Base(
        "deepseek_v3 vllm",
        "recordings/vllm-0.32.0/deepseek_v3.bf16.grpo/samples.jsonl",
        "hf/vllm.deepseek_v3.bf16.npz",
    ),
    Base(
        "qwen3_moe vllm",
        "recordings/vllm-0.32.0/qwen3_moe.bf16.grpo/samples.jsonl",
        "hf/vllm.qwen3_moe.bf16.npz",
    ),
    Base(
        "qwen3_moe_soft sglang",
        "recordings/sglang-0.5.23/qwen3_moe_soft.bf16.grpo/samples.jsonl.gz",
        "hf/sglang.qwen3_moe_soft.bf16.npz",
    ),
    Base(
        "tiny_rl vllm",
        "tiny_rl/vllm.bf16/samples.jsonl",
        "tiny_rl/routes_v0.fp32.npz",
        "tiny_rl/routes_v2.fp32.npz",
    ),
)


def clean_pairs():
    """Every pair of recordings of the same tokens and weights, as paths."""
    vllm, sglang, hf = RECORDED / "vllm-0.32.0", RECORDED / "sglang-0.5.23", FIXTURES / "hf"
    names = ("qwen3_moe.bf16", "qwen3_moe.fp32", "qwen3_moe_soft.bf16")
    pairs = [
        (vllm / f"{n}.grpo" / "samples.jsonl", hf / f"vllm.{n}.npz")
        for n in (*names, "deepseek_v3.bf16", "deepseek_v3.fp32")
    ]
    pairs += [(sglang / f"{n}.grpo" / "samples.jsonl.gz", hf / f"sglang.{n}.npz") for n in names]
    tiny = FIXTURES / "tiny_rl"
    pairs += [
        (tiny / "vllm.bf16" / "samples.jsonl", tiny / "routes_v0.fp32.npz"),
        (tiny / "routes_v0.margins.parquet", tiny / "routes_v0.fp32.npz"),
        (
            vllm / "qwen3_moe.bf16.chunked" / "samples.jsonl",
            vllm / "qwen3_moe.bf16.grpo.async" / "samples.jsonl",
        ),
    ]
    return pairs


@dataclass(frozen=True)
class Fault:
    """name; the code that check must give it; whether a reference is needed; how to make it.

    structural faults must be found in a single token, or in a single sample where they are of
    samples; others at 5 % of the rows. ``bases`` are the dumps in which it can be.
    """

    name: str
    code: str
    spoil: Callable
    against: bool = False
    structural: bool = False
    bases: tuple[str, ...] = ()
    also: tuple[str, ...] = ()


def with_ids(sample, ids_TLK, missing_TL=None, start=None):
    """The sample with other rows."""
    routes = sample.routes
    keep = routes.missing_TL if missing_TL is None else missing_TL
    made = Routes(
        np.ascontiguousarray(ids_TLK, routes.ids_TLK.dtype),
        routes.layers_L,
        routes.num_experts,
        routes.start if start is None else start,
        keep,
    )
    return replace(sample, routes=made)


def chosen(samples, share, rng, least=LEAST):
    """Indices of samples, and how many tokens to spoil in each, for a share of all tokens.

    share 0 is one token of one sample.
    """
    sizes = [0 if s.routes is None else s.routes.num_tokens for s in samples]
    order = [i for i in rng.permutation(len(samples)).tolist() if sizes[i] >= 2 * least]
    if share == 0:
        return {order[0]: 1}
    budget = share * sum(s.routes.num_tokens for s in samples if s.routes is not None)
    picked = {}
    for index in order:
        if budget <= 0:
            break
        size = samples[index].routes.num_tokens
        picked[index] = int(min(size, max(budget, least)))
        budget -= picked[index]
    return picked


def of_parts(change):
    """A fault of so many rows of some samples: ``change(sample, size, rng)`` is the sample then."""

    def spoil(samples, share, rng):
        out = list(samples)
        for index, size in chosen(samples, share, rng).items():
            out[index] = change(samples[index], size, rng)
        return out

    return spoil


def by_run(change, place="any"):
    """A fault of a run of tokens in some samples: ``change(ids_TLK, rng)`` on those rows."""

    def spoil(sample, size, rng):
        spare = sample.routes.num_tokens - size
        first = {"front": 0, "end": spare, "any": int(rng.integers(1, max(spare, 2)))}[place]
        first = min(first, spare)
        ids = sample.routes.ids_TLK.copy()
        ids[first : first + size] = change(ids[first : first + size], sample.routes, rng)
        return with_ids(sample, ids)

    return of_parts(spoil)


def missing(place):
    """Rows that the reader calls missing."""

    def spoil(sample, size, rng):
        routes = sample.routes
        size = min(size, routes.num_tokens - 3)
        last = routes.num_tokens - size
        first = {"front": 0, "end": last, "between": min(3, last - 1)}[place]
        mask = np.zeros(routes.ids_TLK.shape[:2], np.bool_)
        mask[first : first + size] = True
        return with_ids(sample, np.where(mask[:, :, None], 0, routes.ids_TLK), mask)

    return of_parts(spoil)


def last_row(samples, share, rng):
    """The last row of some samples is missing."""
    out = list(samples)
    for index in chosen(samples, share, rng):
        routes = samples[index].routes
        mask = np.zeros(routes.ids_TLK.shape[:2], np.bool_)
        mask[-1] = True
        out[index] = with_ids(samples[index], np.where(mask[:, :, None], 0, routes.ids_TLK), mask)
    return out


def turn_boundary(samples, share, rng):
    """The row of the last token of a turn is missing."""
    out = list(samples)
    for index in chosen(samples, share, rng):
        sample = samples[index]
        routes, tokens = sample.routes, sample.num_tokens
        end = routes.start + routes.num_tokens // 2
        mask = np.zeros(tokens, np.bool_)
        mask[end - 3 : end + 1] = True
        gone = np.zeros(routes.ids_TLK.shape[:2], np.bool_)
        gone[end - routes.start] = True
        ids = np.where(gone[:, :, None], 0, routes.ids_TLK)
        out[index] = replace(with_ids(sample, ids, gone), loss_mask=mask)
    return out


def random_rows(ids_TLK, routes, rng):
    """K distinct experts, evenly drawn."""
    noise = rng.random((*ids_TLK.shape[:2], routes.num_experts))
    return np.argpartition(noise, routes.top_k, axis=2)[:, :, : routes.top_k]


def twice(ids_TLK, routes, rng):
    """One expert in two slots of one layer."""
    out = ids_TLK.copy()
    out[:, 0, 1] = out[:, 0, 0]
    return out


def arange(ids_TLK, routes, rng):
    """Experts 0, 1, 2, ... in every layer."""
    return np.broadcast_to(np.arange(routes.top_k), ids_TLK.shape)


def constant(ids_TLK, routes, rng):
    """One fixed set in every layer."""
    return np.broadcast_to(rng.permutation(routes.num_experts)[: routes.top_k], ids_TLK.shape)


def stale(ids_TLK, routes, rng):
    """Every row a copy of the first."""
    return np.broadcast_to(ids_TLK[:1], ids_TLK.shape)


@of_parts
def repeated_block(sample, size, rng):
    """A resumed request: the rows begin again from the first one."""
    ids = sample.routes.ids_TLK.copy()
    size = min(size, len(ids) // 2)
    ids[-size:] = ids[:size]
    return with_ids(sample, ids)


def of_samples(change):
    """A fault of whole samples: ``change(sample, rng)``."""

    def spoil(samples, share, rng):
        out = list(samples)
        for index in chosen(samples, share, rng):
            out[index] = change(samples[index], rng)
        return out

    return spoil


def prompt_gone(samples, share, rng):
    """The prompts of some samples were never captured."""
    out = list(samples)
    for index in chosen(samples, share, rng):
        routes = samples[index].routes
        size = min(max(samples[index].prompt_length - routes.start, 1), routes.num_tokens - 3)
        mask = np.zeros(routes.ids_TLK.shape[:2], np.bool_)
        mask[:size] = True
        ids = np.where(mask[:, :, None], 0, routes.ids_TLK)
        out[index] = with_ids(samples[index], ids, mask)
    return out


def part_of_call(sample, tokens, prompt):
    """What a call had whose prompt is the first tokens of a sample and that ended at others."""
    ids = np.concatenate([sample.prompt_ids, sample.response_ids])[:tokens]
    routes = sample.routes
    held = Routes(
        np.ascontiguousarray(routes.ids_TLK[: tokens - 1]),
        routes.layers_L,
        routes.num_experts,
        routes.start,
    )
    return replace(
        sample,
        routes=held,
        prompt_ids=ids[:prompt],
        response_ids=ids[prompt:],
        prompt_length=prompt,
        response_length=tokens - prompt,
        logprobs=None,
        loss_mask=None,
        weight_spans=(),
        cached_tokens=None,
    )


def two_calls(change):
    """A sample of two calls; ``change(ids_TLK, routes, rng)`` spoils the second one's prefix."""

    def spoil(sample, rng):
        total, prompt = sample.num_tokens, sample.prompt_length
        middle = max(prompt + 1, total // 2)
        first, second = part_of_call(sample, middle, prompt), part_of_call(sample, total, middle)
        ids = second.routes.ids_TLK.copy()
        ids[: middle - 1] = change(ids[: middle - 1], second.routes, rng)
        return merge_samples([first, with_ids(second, ids)])

    return of_samples(spoil)


def rounded(ids_TLK, routes, rng):
    """One expert of one row in eight is another one."""
    out = ids_TLK.copy()
    for token, layer in np.argwhere(rng.random(out.shape[:2]) < 1 / 8):
        free = np.setdiff1d(np.arange(routes.num_experts), out[token, layer])
        out[token, layer, -1] = rng.choice(free)
    out[0, 0, -1] = np.setdiff1d(np.arange(routes.num_experts), out[0, 0])[0]
    return out


def all_rows(sample, rng):
    """A trainer's rows: one for the last token too."""
    ids = sample.routes.ids_TLK
    return with_ids(sample, np.concatenate([ids, ids[-1:, :, ::-1]]))


def step_missing(sample, rng):
    """The row of the last step was not captured."""
    return with_ids(sample, sample.routes.ids_TLK[:-1])


def one_less_everywhere(samples, share, rng):
    """N - 2 rows in every sample."""
    return [step_missing(s, rng) if s.routes is not None else s for s in samples]


def retracted(sample, rng):
    """The engine computed the rows of a sample again."""
    return replace(sample, retractions=2)


def layer_gone(sample, rng):
    """One MoE layer was never written."""
    ids, mask = sample.routes.ids_TLK.copy(), np.zeros(sample.routes.ids_TLK.shape[:2], np.bool_)
    ids[:, 1], mask[:, 1] = 0, True
    return with_ids(sample, ids, mask)


def layer_constant(sample, rng):
    """One MoE layer holds the same row for every token."""
    ids = sample.routes.ids_TLK.copy()
    ids[:, 1] = ids[:1, 1]
    return with_ids(sample, ids)


def transposed(sample, rng):
    """The buffer is [L, T, K]."""
    ids = sample.routes.ids_TLK
    return with_ids(sample, np.ascontiguousarray(ids.transpose(1, 0, 2)).reshape(ids.shape))


def rows_over(sample, rng):
    """The first rows follow the last ones."""
    ids = sample.routes.ids_TLK
    return with_ids(sample, np.concatenate([ids, ids[: max(8, len(ids) // 4)]]))


def rows_short(sample, rng):
    """The last two rows were cut."""
    return with_ids(sample, sample.routes.ids_TLK[:-2])


def without_routes(sample, rng):
    """No payload."""
    return replace(sample, routes=None)


def one_payload(samples, share, rng):
    """Of a group only the first sample has routes."""
    group = next(s.group_id or s.sample_id.rpartition("/")[0] for s in samples)
    own = [
        i for i, s in enumerate(samples) if (s.group_id or s.sample_id.rpartition("/")[0]) == group
    ]
    return [replace(s, routes=None) if i in own[1:] else s for i, s in enumerate(samples)]


def versions(more):
    """Some samples were generated under two weight versions."""

    def change(sample, rng):
        half = sample.response_length // 2
        spans = (WeightSpan("v0", 0, half), WeightSpan("v1", half, sample.response_length))
        return replace(sample, weight_spans=spans, **more)

    return of_samples(change)


def cached_across(samples, share, rng):
    """Later samples are of newer weights and take their prompt from the cache."""
    out = [replace(s, weight_spans=(WeightSpan("v0", 0, s.response_length or 1),)) for s in samples]
    index = len(out) - 1
    span = (WeightSpan("v1", 0, out[index].response_length or 1),)
    out[index] = replace(out[index], weight_spans=span, cached_tokens=8)
    return out


def sibling_prompt(samples, share, rng):
    """A sample's prompt rows are another prompt's."""
    groups = {}
    for i, s in enumerate(samples):
        groups.setdefault(s.prompt_ids.tobytes(), []).append(i)
    index = next(
        own[1] for own in groups.values() if len(own) > 1 and samples[own[1]].prompt_length >= 8
    )
    sample = samples[index]
    ids = sample.routes.ids_TLK.copy()
    ids[: sample.prompt_length] = ids[: sample.prompt_length][::-1]
    out = list(samples)
    out[index] = with_ids(sample, ids)
    return out


def lagged(lag):
    """Rows of later (lag > 0) or earlier tokens, to the end of the sample."""

    def spoil(sample, size, rng):
        routes = sample.routes
        first = routes.num_tokens - size
        source = np.arange(first, routes.num_tokens) + lag
        ids = routes.ids_TLK.copy()
        inside = (source >= 0) & (source < len(ids))
        ids[first:][inside] = routes.ids_TLK[source[inside]]
        return with_ids(sample, ids)

    return of_parts(spoil)


def layers_as(order):
    """Layers in another order, in runs of tokens: ``order(L)`` gives the source of each."""
    return by_run(lambda ids, routes, rng: ids[:, order(ids.shape[1])])


def rolled(layers):
    """Each layer has the next one's routes."""
    return np.roll(np.arange(layers), -1)


def two_swapped(layers):
    """Layers 0 and 2 have each other's routes."""
    order = np.arange(layers)
    order[[0, 2]] = order[[2, 0]]
    return order


def one_elsewhere(layers):
    """Layer 0 has layer 2's routes."""
    order = np.arange(layers)
    order[0] = 2
    return order


def draft_layer(ids_TLK, routes, rng):
    """Layer 0 has the routes of another router."""
    out = ids_TLK.copy()
    out[:, :1] = random_rows(ids_TLK[:, :1], routes, rng)
    return out


def renumbered(columns):
    """Physical ids in some layers (all for None), the same map in every sample."""

    def change(ids_TLK, routes, rng):
        out = ids_TLK.copy()
        for column in range(out.shape[1]) if columns is None else columns:
            to_E = np.random.default_rng(column + 1).permutation(routes.num_experts)
            out[:, column] = to_E[out[:, column]]
        return out

    return by_run(change)


def padding_side(sample, rng):
    """Left padding of 9 read as if it were on the right: the first rows are filler."""
    ids = sample.routes.ids_TLK
    pad = 9
    mask = np.zeros(ids.shape[:2], np.bool_)
    mask[:pad] = True
    moved = np.concatenate([np.zeros_like(ids[:pad]), ids[:-pad]])
    return with_ids(sample, moved, mask)


def cp_order(cp, *, undone=False):
    """Ranks one after the other, or a zigzag undone that was not there."""

    def change(sample, rng):
        ids = sample.routes.ids_TLK
        packing = Packing([len(ids)], framework="verl", cp=cp)
        order = np.concatenate([packing.local_rows(rank)[:, 1] for rank in range(cp)])
        order = order[order >= 0]
        return with_ids(sample, ids[np.argsort(order) if undone else order])

    return of_samples(change)


def swapped_from(first):
    """Pairs of samples of unlike tokens have each other's rows from ``first(size)`` on.

    As far as both have them: size is the rows of the shorter one.
    """

    def spoil(samples, share, rng):
        out = list(samples)
        left = list(chosen(samples, share, rng))
        left = left if len(left) > 1 else [left[0], (left[0] + len(samples) // 2) % len(samples)]
        for one, other in zip(left[::2], left[1::2], strict=False):
            a, b = samples[one].routes.ids_TLK.copy(), samples[other].routes.ids_TLK.copy()
            size = min(len(a), len(b))
            part = slice(first(size), size)
            a[part], b[part] = b[part].copy(), a[part].copy()
            out[one], out[other] = with_ids(samples[one], a), with_ids(samples[other], b)
        return out

    return spoil


def later_prefix(samples, share, rng, later):
    """The prompts of some samples have the routes of other weights."""
    out = list(samples)
    for index, size in chosen(samples, share, rng).items():
        ids = samples[index].routes.ids_TLK.copy()
        ids[:size] = later[index].routes.ids_TLK[:size]
        out[index] = with_ids(samples[index], ids)
    return out


FAULTS = (
    Fault("more rows than tokens", "R002", of_samples(rows_over), structural=True),
    Fault("rows cut short", "R003", of_samples(rows_short), structural=True),
    Fault("last step not captured", "R003", of_samples(step_missing), structural=True),
    Fault("a row for the last token", "R004", of_samples(all_rows), structural=True),
    Fault("N - 2 rows everywhere", "R009", one_less_everywhere),
    Fault(
        "no routes",
        "R005",
        of_samples(without_routes),
        structural=True,
        bases=("qwen3_moe_soft sglang", "tiny_rl vllm"),
    ),
    Fault("one payload for n choices", "R007", one_payload, structural=True),
    Fault("one expert twice", "R102", by_run(twice), structural=True),
    Fault("axes transposed", "R103", of_samples(transposed), structural=True),
    Fault("zeros at the front", "R201", missing("front"), structural=True),
    Fault("prompt never captured", "R201", prompt_gone, structural=True),
    Fault("zeros at the end", "R202", missing("end")),
    Fault("last row zero", "R203", last_row, structural=True),
    Fault("turn boundary zero", "R204", turn_boundary, structural=True),
    Fault("zeros in between", "R205", missing("between"), structural=True),
    Fault("experts 0, 1, 2, ...", "R206", by_run(arange), structural=True),
    Fault("random experts at the end", "R207", by_run(random_rows, "end")),
    Fault("random experts at the front", "R207", by_run(random_rows, "front")),
    Fault("random experts in between", "R207", by_run(random_rows)),
    Fault("one constant", "R208", by_run(constant), structural=True),
    Fault("one constant at the front", "R208", by_run(constant, "front"), structural=True),
    Fault("one constant at the end", "R208", by_run(constant, "end"), structural=True),
    Fault("layer never written", "R301", of_samples(layer_gone), structural=True),
    Fault("layer constant", "R302", of_samples(layer_constant), structural=True),
    Fault("stale rows copied", "R401", by_run(stale)),
    Fault("prefix repeated", "R402", repeated_block),
    Fault("calls of one sample disagree", "R403", two_calls(random_rows), structural=True),
    Fault("calls differ by rounding", "R404", two_calls(rounded), structural=True),
    Fault("several versions", "R501", versions({}), structural=True),
    Fault("retracted, two versions", "R502", versions({"retractions": 1}), structural=True),
    Fault("cached across an update", "R503", cached_across, structural=True),
    Fault("retracted", "R504", of_samples(retracted), structural=True),
    Fault("siblings' prompts differ", "R601", sibling_prompt, structural=True),
    *(Fault(f"rows shifted by {n:+d}", "R701", lagged(n), True) for n in (-3, -2, -1, 1, 2, 3)),
    Fault("layers shifted", "R702", layers_as(rolled), True),
    Fault("two layers swapped", "R703", layers_as(two_swapped), True),
    Fault("layer of another layer", "R705", layers_as(one_elsewhere), True),
    Fault("layer of a draft model", "R705", by_run(draft_layer), True),
    Fault("experts renumbered, all layers", "R706", renumbered(None), True),
    Fault("experts renumbered, one layer", "R706", renumbered([1]), True),
    Fault("padding side", "R707", of_samples(padding_side), True),
    Fault("CP 2 zigzag not undone", "R708", cp_order(2), True),
    Fault("CP 4 zigzag not undone", "R708", cp_order(4), True),
    Fault("CP 4 zigzag undone twice", "R708", cp_order(4, undone=True), True),
    Fault("prefix of other weights", "R709", later_prefix, True, bases=("tiny_rl vllm",)),
    Fault("samples swapped", "R710", swapped_from(lambda size: 0), True),
    Fault("random rows", "R713", by_run(random_rows), True),
)


def opened(path):
    """A fixture, its samples in memory."""
    return open_dump(FIXTURES / path).held()


def spoilt(fault, base, dump, share, seed=0):
    """The dump with the fault in a share of its rows; share 0 is the least there is."""
    rng = np.random.default_rng(seed)
    samples = [dump[i] for i in range(len(dump))]
    more = ()
    if fault.spoil.__name__.startswith("later_"):
        later = opened(base.later)
        places = {key.tokens: i for i, key in enumerate(later.keys)}
        more = ([later[places[key.tokens]] for key in dump.keys],)
    made = fault.spoil(samples, share, rng, *more)
    return Dump(dump.meta, dump.keys, made.__getitem__)
