"""Packed layouts against the frameworks' own functions, and against their formulas written out.

A token carries (sample + 1, position + 1), so that rows of padding are 0, 0.
"""

import dataclasses
import json
import math
import warnings
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

from routectl.layouts.packing import Packing
from routectl.layouts.plan import MicroBatch, Plan
from support import foreign

FIXTURES = Path(__file__).parent.parent.parent / "fixtures"
MEGATRON = json.loads((FIXTURES / "megatron_layouts.json").read_text("utf-8"))["layout"]
BLOCKS = {None: 1, "blockwise": 128, "mxfp8": 32, "tensorwise": 16}  # rows an fp8 scale is for
verl = pytest.mark.skipif(not foreign.HAVE_VERL, reason="pip install --no-deps verl==0.9.1")
bridge = "pip install --no-deps mcore_bridge==1.6.5"
swift = pytest.mark.skipif(not foreign.HAVE_MCORE_BRIDGE, reason=bridge)
skyrl = pytest.mark.skipif(not foreign.HAVE_SKYRL, reason="pip install --no-deps skyrl==0.3.0")
sizes = pytest.mark.parametrize(("tp", "cp"), list(product((1, 2, 3, 4), repeat=2)))
NAMES = {"zigzag": "verl", "contiguous": "verl-contiguous"}
THEIRS = {"fp8": "use_fp8_padding", "bucket": "pad_to_length_bucket"}
OPTIONS = [
    {},
    {"fp8": "blockwise"},
    {"min_local_rows": 7},
    {"min_local_rows": 96},
    {"bucket": 10},
    {"bucket": 192},
    {"min_local_rows": 50, "bucket": 48},
    {"fp8": "blockwise", "min_local_rows": 600},
    {"fp8": "blockwise", "bucket": 96},
    {"fp8": "blockwise", "min_local_rows": 601, "bucket": 80},
]


def token_rows(lens):
    """The rows of each sample's tokens, int64 [N, 2]."""
    ids = [(torch.full((n,), i + 1), torch.arange(1, n + 1)) for i, n in enumerate(lens)]
    return [torch.stack(pair, 1) for pair in ids]


def batches(*seed):
    """A few lists of sample lengths; 1-token samples first, last and alone among them."""
    rng = np.random.default_rng(seed)
    one, other = (rng.integers(1, 40, rng.integers(1, 7)).tolist() for _ in range(2))
    return [[1], [*one, 1], [1, *other]]


def nested(lens):
    """The samples as a jagged nested tensor, as verl feeds them."""
    return torch.nested.nested_tensor(token_rows(lens), layout=torch.jagged)


def padded_to(rows, multiple):
    """Rows with padding behind them, up to a multiple."""
    return torch.nn.functional.pad(rows, (0, 0, 0, -len(rows) % multiple))


def check(packing, cp_rank, rows):
    """A CP rank's rows are these, and its SP ranks have equal runs of them."""
    expected = rows.numpy() - 1
    np.testing.assert_array_equal(packing.local_rows(cp_rank), expected)
    for tp_rank, part in enumerate(np.split(expected, packing.tp)):
        np.testing.assert_array_equal(packing.local_rows(cp_rank, tp_rank), part)


def check_bshd(packing, cp_rank, rows_BS):
    """A CP rank's places are these: flattened S-major, and sample by sample without a split."""
    check(packing, cp_rank, rows_BS.transpose(0, 1).flatten(0, 1))
    b_major = dataclasses.replace(packing, form="bshd-b-major")
    np.testing.assert_array_equal(b_major.local_rows(cp_rank), rows_BS.flatten(0, 1).numpy() - 1)


def verl_thd(lens, tp, cp, cp_rank, **options):
    """verl's rows of a CP rank, and its cu_seqlens_padded."""
    with foreign.on_rank(tp, cp, cp_rank):
        rows, params, _ = foreign.verl_util().preprocess_thd_engine(nested(lens), **options)
    return rows[0], params.cu_seqlens_q_padded.tolist()


@pytest.mark.trainers
@pytest.mark.skipif(not foreign.HAVE_VERL_0_9_1, reason="verl 0.9.0 cannot pad a short sample")
@sizes
@pytest.mark.parametrize("layout", NAMES)
def test_verl_thd(layout, tp, cp):
    """With all options verl's rows are ours; where verl would lose rows, ours is refused."""
    for options, lens in product(OPTIONS, batches(tp, cp)):
        theirs = {THEIRS.get(name, name): value for name, value in options.items()}
        ranks = [verl_thd(lens, tp, cp, rank, cp_layout=layout, **theirs) for rank in range(cp)]
        edges = ranks[0][1]
        pieces = 2 * cp if layout == "zigzag" and cp > 1 else 1
        if (edges[-1] - edges[-2]) % pieces or len(ranks[0][0]) % tp:
            with pytest.raises(ValueError, match="divi"):
                Packing(lens, NAMES[layout], tp, cp, **options)
            continue
        packing = Packing(lens, NAMES[layout], tp, cp, **options)
        assert packing.cu_seqlens_padded.tolist() == edges
        for rank, (rows, _) in enumerate(ranks):
            check(packing, rank, rows)


@pytest.mark.trainers
@verl
def test_verl_loses_rows_that_we_refuse_to_place():
    """A bucket that no 2 x cp pieces fit makes verl drop the middle of the last sample."""
    ranks = [verl_thd([12], 1, 2, rank, pad_to_length_bucket=14)[0].tolist() for rank in (0, 1)]
    kept = {position - 1 for rows in ranks for sample, position in rows if sample}
    assert kept == set(range(12)) - {6, 7}
    with pytest.raises(ValueError, match="sample 0 takes 14 places, not divisible by 2 x cp = 4"):
        Packing([12], "verl", cp=2, bucket=14)


@pytest.mark.trainers
@verl
@pytest.mark.parametrize("layout", NAMES)
@pytest.mark.parametrize("tp", [1, 2, 3])
@pytest.mark.parametrize("own", [1, 2, 4, None])
def test_verl_dynamic_cp(layout, tp, own):
    """A micro-batch with a CP size of its own has the rows that verl gives with local_cp_size."""
    dp, cp = 2, 2
    groups = ((4, 1), (0,), (3, 5), (2,))[: dp * cp // (own or cp)]
    plan = Plan(dp, (MicroBatch(groups, own),))
    lens = [9, 17, 1, 30, 5, 2]
    packing = Packing(lens, NAMES[layout], tp, cp, plan=plan)
    for dp_rank, cp_rank in product(range(dp), range(cp)):
        group, rank = divmod(dp_rank * cp + cp_rank, own or cp)
        share = packing.share(0, dp_rank, cp_rank)
        assert (share.samples, share.cp_rank) == (groups[group], rank)
        mine = [lens[i] for i in groups[group]]
        assert share.packing == Packing(mine, NAMES[layout], tp, own or cp)
        rows, edges = verl_thd(mine, tp, cp, rank, local_cp_size=own, cp_layout=layout)
        assert share.packing.cu_seqlens_padded.tolist() == edges
        check(share.packing, share.cp_rank, rows)


@pytest.mark.trainers
@verl
@sizes
@pytest.mark.parametrize("fp8", [None, "blockwise"])
def test_verl_packed_batches(tp, cp, fp8):
    """verl's preprocess_packed_seqs, of padded prompts and responses, gives the same rows."""
    rng = np.random.default_rng((tp, cp))
    for lens in batches(tp, cp, 1):
        width = max(lens) + 5
        tokens, mask = torch.zeros(len(lens), width, 2, dtype=torch.int64), []
        for tokens_S, rows in zip(tokens, token_rows(lens), strict=True):
            begin = int(rng.integers(0, width - len(rows) + 1))
            tokens_S[begin : begin + len(rows)] = rows
            mask.append([begin <= k < begin + len(rows) for k in range(width)])
        packing = Packing(lens, "verl", tp, cp, fp8=fp8)
        for rank in range(cp):
            with foreign.on_rank(tp, cp, rank):
                rows, params = foreign.verl_util().preprocess_packed_seqs(
                    tokens, torch.tensor(mask), use_fp8_padding=fp8 is not None
                )
            assert packing.cu_seqlens_padded.tolist() == params.cu_seqlens_q_padded.tolist()
            check(packing, rank, rows[0])


@pytest.mark.trainers
@verl
@sizes
@pytest.mark.parametrize("fp8", [None, "blockwise"])
@pytest.mark.parametrize("forced", [False, True])
def test_verl_bshd(tp, cp, fp8, forced):
    """verl's padded batches, flattened S-major and sample by sample, are the two BSHD forms."""
    for lens in batches(tp, cp, 2):
        longest = max(lens) + 30 if forced else None
        for rank in range(cp):
            with foreign.on_rank(tp, cp, rank):
                rows_BS, _, _ = foreign.verl_util().preprocess_bshd_engine(
                    nested(lens), use_fp8_padding=fp8 is not None, forced_max_seqlen=longest
                )
            seq_len = rows_BS.shape[1] * cp
            options = {"fp8": fp8, "seq_len": seq_len if forced else None}
            packing = Packing(lens, "verl", tp, cp, form="bshd", **options)
            assert packing.padded_seq_len == seq_len
            check_bshd(packing, rank, rows_BS)


@pytest.mark.trainers
@swift
@pytest.mark.parametrize(("tp", "cp"), list(product((1, 2, 4), (1, 2, 3, 4))))
@pytest.mark.parametrize("fp8", BLOCKS)
def test_ms_swift(tp, cp, fp8):
    """ms-swift's padding, split by mcore_bridge's own function, gives our rows."""
    own = 2 * cp if cp > 1 else 1
    for lens in batches(tp, cp, 3):
        padded = [padded_to(rows, own) for rows in token_rows(lens)]
        ends = np.cumsum([0, *map(len, padded)]).tolist()
        stream = padded_to(torch.cat(padded), tp * cp * BLOCKS[fp8])
        segments = ends + list(range(ends[-1] + own, len(stream) + 1, own))
        packing = Packing(lens, "ms-swift", tp, cp, fp8=fp8)
        assert packing.cu_seqlens_padded.tolist() == sorted({*ends, len(stream)})
        for rank in range(cp):
            rows = stream
            if cp > 1:
                with foreign.on_rank(tp, cp, rank):
                    rows = foreign.split_cp_inputs()(stream, torch.tensor(segments), 0)
            check(packing, rank, rows)


@pytest.mark.trainers
@swift
@pytest.mark.parametrize(("tp", "cp"), list(product((1, 2, 4), (1, 2, 3, 4))))
@pytest.mark.parametrize("fp8", BLOCKS)
def test_ms_swift_contiguous(tp, cp, fp8):
    """With cp_partition_mode contiguous, ms-swift pads as ever and a CP rank has a run of it."""
    own = 2 * cp if cp > 1 else 1
    for lens in batches(tp, cp, 9):
        padded = torch.cat([padded_to(rows, own) for rows in token_rows(lens)])
        stream = padded_to(padded, tp * cp * BLOCKS[fp8])
        packing = Packing(lens, "ms-swift-contiguous", tp, cp, fp8=fp8)
        for rank in range(cp):
            rows = stream
            if cp > 1:
                with foreign.on_rank(tp, cp, rank):
                    rows = foreign.split_cp_inputs()(stream, None, 0, "contiguous")
            check(packing, rank, rows)


@pytest.mark.trainers
@skyrl
@sizes
def test_skyrl_0_3(tp, cp):
    """SkyRL 0.3.0's own function, with fp8 and without, gives the rows of its name."""
    for lens, fp8 in product(batches(tp, cp, 10), (None, "mxfp8", "blockwise")):
        wide = max(lens)
        grid = torch.zeros(len(lens), wide, 1, 2, dtype=torch.int64)
        mask = torch.zeros(len(lens), wide, dtype=torch.int64)
        for i, rows in enumerate(token_rows(lens)):
            grid[i, wide - len(rows) :, 0] = rows
            mask[i, wide - len(rows) :] = 1
        packing = Packing(lens, "skyrl-0.3", tp, cp, fp8=fp8)
        for rank in range(cp):
            with foreign.on_rank(tp, cp, rank):
                rows = foreign.skyrl_packed(grid, mask, fp8=fp8 is not None)
            check(packing, rank, rows[:, 0])


@pytest.mark.parametrize("run", MEGATRON, ids=lambda r: f"tp{r['tp']}-cp{r['cp']}")
def test_megatron_sbhd_runs(run):
    """Real Megatron ranks held the tokens that the S-major layout says, in that order."""
    packing = Packing([run["S"]] * run["B"], "megatron", run["tp"], run["cp"], form="bshd")
    samples, positions = packing.local_rows(run["cp_rank"], run["tp_rank"]).T
    assert (samples * run["S"] + positions).tolist() == run["sbhd_token_ids"]


@pytest.mark.trainers
@sizes
def test_megatron_batch_on_a_cp_rank(monkeypatch, tp, cp):
    """Megatron-Core's own get_batch_on_this_cp_rank cuts S-major and B-major batches as we do."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns that Transformer Engine is absent
        from megatron.core import utils
    monkeypatch.setattr(utils, "parallel_state", foreign.MPU)
    lens = [5, 2 * cp * tp * 3, 1]
    full = torch.stack([padded_to(rows, max(lens)) for rows in token_rows(lens)])
    for rank in range(cp):
        with foreign.on_rank(tp, cp, rank):
            rows_BS = utils.get_batch_on_this_cp_rank({"tokens": full})["tokens"]
        check_bshd(Packing(lens, "megatron", tp, cp, form="bshd"), rank, rows_BS)


def zigzag(samples, cp, rank):
    """The rank-th and the rank-th last of 2 cp chunks of every sample; all of it without CP."""
    if cp == 1:
        return torch.cat(samples)
    chunks = [sample.chunk(2 * cp) for sample in samples]
    return torch.cat([part for c in chunks for part in (c[rank], c[2 * cp - 1 - rank])])


def routed(lens):
    """slime's rows: N - 1 routes and one row of padding in the last token's place."""
    return [torch.cat([rows[:-1], torch.zeros(1, 2).long()]) for rows in token_rows(lens)]


def slime(lens, tp, cp, rank, multiplier):
    """slime's slice_with_cp of each sample, then the rank's own tail of padding."""
    samples = [padded_to(rows, 2 * cp if cp > 1 else 1) for rows in routed(lens)]
    return padded_to(zigzag(samples, cp, rank), tp * multiplier)


def slime_allgather(lens, tp, cp, rank, multiplier):
    """slime's allgather CP: the stream, padded, in cp chunks."""
    return padded_to(torch.cat(routed(lens)), cp * tp * multiplier).chunk(cp)[rank]


def whole_stream(lens, tp, cp, rank):
    """prime-rl's and Ulysses' chunk of the stream, padded for all ranks."""
    return padded_to(torch.cat(token_rows(lens)), tp * cp).chunk(cp)[rank]


def aligned(samples, cp, rank, multiple, total=1):
    """Samples padded to ``multiple``, the last on to a ``total`` multiple, then zigzag."""
    samples = [padded_to(rows, multiple) for rows in samples]
    extra = -sum(map(len, samples)) % total
    samples[-1] = torch.nn.functional.pad(samples[-1], (0, 0, 0, extra))
    return zigzag(samples, cp, rank)


@sizes
@pytest.mark.parametrize("multiplier", [1, 8, None])
def test_slime_and_its_descendants(tp, cp, multiplier):
    """slime, miles and Relax put a padding row in the last token's place, cut, and pad the tail."""
    for lens, rank in product(batches(tp, cp, 4), range(cp)):
        names = ("slime", "miles", "relax", "vime")
        for name in (*names, "slime-allgather", "miles-allgather", "vime-allgather"):
            oracle = slime_allgather if name.endswith("allgather") else slime
            packing = Packing(lens, name, tp, cp, multiplier)
            check(packing, rank, oracle(lens, tp, cp, rank, multiplier or 128))


@sizes
def test_rules_without_a_function_to_call(tp, cp):
    """prime-rl and Ulysses chunk the stream; the others align each sample and cut it zigzag."""
    own = tp * cp * 2 if cp > 1 else tp
    for lens, rank in product(batches(tp, cp, 5), range(cp)):
        for name in ("prime-rl", "ulysses"):
            check(Packing(lens, name, tp, cp), rank, whole_stream(lens, tp, cp, rank))
        rows = aligned(token_rows(lens), cp, rank, own)
        for name in ("verl", "skyrl", "nemo-rl", "roll", "megatron"):
            check(Packing(lens, name, tp, cp), rank, rows)
        bridge = aligned(routed(lens), cp, rank, own)  # which pads so under CP alone
        alone = slime(lens, tp, cp, rank, 128)
        check(Packing(lens, "relax-vl", tp, cp), rank, bridge if cp > 1 else alone)


@pytest.mark.parametrize("sp", [1, 2, 3, 4])
def test_xtuner(sp):
    """xtuner packs N - 1 tokens of each sample to pack_max_length, then to whole runs of sp."""
    for lens, longest, rank in product(batches(sp, 7), (1, 17, 96), range(sp)):
        rows = torch.cat([rows[:-1] for rows in token_rows(lens)])
        rows = torch.nn.functional.pad(rows, (0, 0, 0, max(longest - len(rows), 0)))
        packing = Packing(lens, "xtuner", cp=sp, min_local_rows=-(-longest // sp))
        check(packing, rank, padded_to(rows, sp).chunk(sp)[rank])


@sizes
def test_skyrl_and_nemo_rl_fp8(tp, cp):
    """SkyRL's fp8 pads each sample for tiles of a rank, NeMo-RL's the last to a block a rank."""
    own = tp * cp * 2 if cp > 1 else tp
    for lens, rank, fp8 in product(batches(tp, cp, 6), range(cp), BLOCKS):
        samples = token_rows(lens)
        tiles = 128 * tp * cp if tp > 1 else 16 * cp  # of _fp8_token_align, SkyRL 0.4
        tiles = 32 * tp * cp if fp8 == "mxfp8" else tiles if fp8 else 1
        rows = aligned(samples, cp, rank, math.lcm(own, tiles))
        check(Packing(lens, "skyrl", tp, cp, fp8=fp8), rank, rows)
        for multiple in (own, 3 * own, 8 * own):  # make_sequence_length_divisible_by
            nemo = aligned(samples, cp, rank, multiple, BLOCKS[fp8] * own)
            packing = Packing(lens, "nemo-rl", tp, cp, fp8=fp8, sample_multiple=multiple)
            check(packing, rank, nemo)
