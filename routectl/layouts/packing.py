"""Where each token of a packed micro-batch sits on each rank: index maps, integers only.

Samples laid end to end, each padded by its framework's rule, are the stream. Context parallelism
(CP) gives each rank pieces of it, sequence parallelism (SP) cuts a rank's rows into tp equal runs.
In BSHD every sample takes S places, and place s * B + b of the stream is position s of sample b.
Shape suffixes: R local rows, B samples.
"""

import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import rules
from .pipeline import Pipeline
from .plan import Plan
from .ranks import check_ranks
from .rules import FORMS, FRAMEWORKS, Rule, Sizes, rule_of
from .runs import Run, bshd_runs, cut, thd_runs, zigzag

__all__ = ["FORMS", "FRAMEWORKS", "Packing", "Share"]

Ints = NDArray[np.int64]
_SIZES = ("tp", "cp", "pad_multiplier", "sample_multiple", "min_local_rows", "bucket", "seq_len")
_PADS = ("sample_multiple", "min_local_rows", "bucket")
_THD_ONLY = (*_PADS, "padded_lens")


class Share(NamedTuple):
    """What a rank has of one micro-batch: its layout, its samples, the rank's place in its CP."""

    packing: "Packing"
    samples: tuple[int, ...]
    cp_rank: int


@dataclass(frozen=True)
class Packing:
    """The layout of a batch, or of one micro-batch, on its ranks.

    lens             tokens of each sample, in packed order, at least 1 each
    framework        one of FRAMEWORKS
    tp, cp           tensor (and sequence) parallel size, context parallel size
    pad_multiplier   of slime, miles and Relax, which pad a rank's rows to tp x this; 128 when None
    fp8              padding for an fp8 recipe: blockwise, mxfp8, tensorwise; None for none
    sample_multiple  samples are padded to a multiple of this, not of the rule's (NeMo-RL's
                     make_sequence_length_divisible_by, for one); must be a multiple of the rule's
    min_local_rows   the stream is padded until each CP rank has this many rows
    bucket           the stream is padded to a multiple of this (verl's pad_to_length_bucket)
    form             thd: samples end to end; bshd: each padded to S, S-major as Megatron flattens
                     them; bshd-b-major: the same places sample by sample, which is what some
                     trainers feed and no Megatron router expects (docs/layouts.md). A framework
                     that has one of these alone (NeMo-RL's Automodel) has it unasked
    seq_len          S of BSHD; None for the longest sample, rounded up
    plan             which samples form which micro-batch on which data-parallel rank; None when
                     ``lens`` is one micro-batch
    pipeline         which layers each pipeline stage holds; None for one stage
    padded_lens      places of each sample in the stream where a trainer says them, as in its
                     cu_seqlens_padded: they take the place of the framework's padding, and further
                     ones are padding after the samples. None where the framework's rule says them

    Raises ValueError, with both numbers, where sizes, options and lengths do not fit together.
    """

    lens: Sequence[int]
    framework: str = "verl"
    tp: int = 1
    cp: int = 1
    pad_multiplier: int | None = None
    fp8: str | None = None
    sample_multiple: int | None = None
    min_local_rows: int | None = None
    bucket: int | None = None
    form: str = "thd"
    seq_len: int | None = None
    plan: Plan | None = None
    pipeline: Pipeline | None = None
    padded_lens: Sequence[int] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "lens", tuple(int(n) for n in self.lens))
        if self.form == "thd" and self.framework in FRAMEWORKS:
            object.__setattr__(self, "form", self.rule.form)
        if self.padded_lens is not None:
            object.__setattr__(self, "padded_lens", tuple(int(n) for n in self.padded_lens))
        _check_options(self)
        if self.plan is not None:
            self.plan.check(len(self.lens), self.cp)
        else:
            _check_fit(self)

    def __repr__(self) -> str:
        sizes = {"dp": self.dp, **{name: getattr(self, name) for name in _SIZES}, "fp8": self.fp8}
        sizes |= {"pp": self.pp, "vpp": self.vpp}
        told = [f"{name} {size}" for name, size in sizes.items() if size not in (None, 1)]
        steps = "" if self.plan is None else f" in {self.num_micro_batches:,} micro-batches"
        return (
            f"<Packing {', '.join([self.framework, self.form, *told])}: {len(self.lens):,} "
            f"samples, {sum(self.lens):,} tokens{steps}>"
        )

    @property
    def rule(self) -> Rule:
        """How the framework pads and splits with this CP size."""
        return rule_of(self.framework, self.cp)

    @property
    def pp(self) -> int:
        """Pipeline stages."""
        return 1 if self.pipeline is None else self.pipeline.pp

    @property
    def vpp(self) -> int:
        """Virtual chunks of each stage."""
        return 1 if self.pipeline is None else self.pipeline.vpp

    @property
    def is_zigzag(self) -> bool:
        """Whether a rank has two pieces of each sample."""
        return self.rule.order == "zigzag" and self.cp > 1

    @property
    def alignment(self) -> int:
        """What every sample's length is padded to a multiple of."""
        own = rules.sample_multiple(self.rule, self.tp, self.cp, self.fp8)
        return own if self.sample_multiple is None else self.sample_multiple

    @property
    def fed(self) -> tuple[int, ...]:
        """Tokens of each sample that the model is fed, and that have a place: all, or N - 1."""
        return tuple(n - self.rule.unfed for n in self.lens)

    @property
    def padded_seq_len(self) -> int:
        """S of BSHD: ``seq_len``, or the longest sample rounded up to what tp and cp need."""
        return self.seq_len or rules.bshd_len(self.rule, self.fed, self.sizes)

    @property
    def sizes(self) -> Sizes:
        """What padding depends on."""
        return Sizes(
            *(self.tp, self.cp, self.pad_multiplier or rules.DEFAULT_PAD_MULTIPLIER, self.fp8),
            *(self.alignment, self.min_local_rows, self.bucket),
        )

    @cached_property
    def cu_seqlens(self) -> Ints:
        """Cumulative counts of the tokens that are fed, without padding, int64 [B + 1]."""
        return np.cumsum([0, *self.fed])

    @cached_property
    def cu_seqlens_padded(self) -> Ints:
        """Where each sample begins, int64; total padding of its own is one more sequence."""
        if self.form != "thd":
            return np.arange(len(self.lens) + 1) * self.padded_seq_len
        if self.padded_lens is not None:
            return np.cumsum([0, *self.padded_lens])
        return np.cumsum([0, *rules.padded_lens(self.rule, self.fed, self.sizes)])

    @property
    def num_local_rows(self) -> int:
        """Rows of a CP rank, before the SP split."""
        return int(self.cu_seqlens_padded[-1]) // self.cp

    def num_rows(self, tp_rank: int | None = None) -> int:
        """Rows of a rank: those of the CP rank when tp_rank is None, else a tp-th of them."""
        return self.num_local_rows if tp_rank is None else self.num_local_rows // self.tp

    def num_routes(self, sample: int) -> int:
        """Tokens of a sample that have a row of their own: all, or all but the last."""
        return self.lens[sample] - self.rule.last

    @property
    def dp(self) -> int:
        """Data-parallel size: 1 without a plan."""
        return 1 if self.plan is None else self.plan.dp

    @property
    def num_micro_batches(self) -> int:
        """Micro-batches of each data-parallel rank: 1 without a plan."""
        return 1 if self.plan is None else len(self.plan.micro_batches)

    def share(self, micro_batch: int = 0, dp_rank: int = 0, cp_rank: int = 0) -> Share:
        """What rank (dp_rank, cp_rank) has of a micro-batch.

        With a CP size c of its own (dynamic CP), the dp x cp ranks are regrouped in order: rank
        g = dp_rank x cp + cp_rank is rank g % c of group g // c.
        """
        check_ranks(
            micro_batch=(micro_batch, self.num_micro_batches),
            dp=(dp_rank, self.dp),
            cp=(cp_rank, self.cp),
        )
        if self.plan is None:
            return Share(self, tuple(range(len(self.lens))), cp_rank)
        part = self.plan.micro_batches[micro_batch]
        cp = part.cp or self.cp
        group, local = divmod(dp_rank * self.cp + cp_rank, cp)
        samples = part.groups[group]
        lens = tuple(self.lens[i] for i in samples)
        packing = dataclasses.replace(self, lens=lens, cp=cp, plan=None)
        return Share(packing, samples, local)

    def stage_layers(self, pp_rank: int, layers: Sequence[int]) -> tuple[tuple[int, ...], ...]:
        """Those of ``layers`` (0-based) that a pipeline stage holds, one tuple a virtual chunk."""
        if self.pipeline is None:
            check_ranks(pp=(pp_rank, 1))
            return (tuple(layers),)
        held = self.pipeline.stage_layers(pp_rank)
        return tuple(tuple(n for n in chunk if n in set(layers)) for chunk in held)

    def _held(self, cp_rank: int, tp_rank: int | None) -> list[tuple[int, int]]:
        """The pieces of a rank, after the SP split when tp_rank is given; checks the rank."""
        if self.plan is not None:
            raise ValueError("a plan has many micro-batches: ask share(...).packing for one's rows")
        check_ranks(cp=(cp_rank, self.cp), tp=(tp_rank or 0, self.tp))
        edges = self.cu_seqlens_padded.tolist()
        if not self.is_zigzag:
            rows = self.num_local_rows
            pieces = [(cp_rank * rows, rows)]
        elif self.form != "thd":
            pieces = zigzag([(0, edges[-1])], self.cp, cp_rank)
        else:
            samples = itertools.pairwise(edges[: len(self.lens) + 1])
            pieces = zigzag(samples, self.cp, cp_rank)
            rest = edges[-1] - edges[len(self.lens)]  # padding: which part of it is no matter
            pieces.append((edges[len(self.lens)] + cp_rank * rest // self.cp, rest // self.cp))
        if tp_rank is None:
            return pieces
        run = self.num_local_rows // self.tp
        return cut(pieces, tp_rank * run, run)

    def stream_positions(self, cp_rank: int = 0, tp_rank: int | None = None) -> Ints:
        """The places in the stream that a rank's rows are, int64 [R].

        With tp_rank None all rows of the CP rank, before the SP split; raises ValueError for a
        rank that is not there.
        """
        held = self._held(cp_rank, tp_rank)
        places = np.concatenate([np.arange(start, start + count) for start, count in held])
        if self.form != "bshd-b-major" or not self.lens:
            return places
        return places.reshape(-1, len(self.lens)).T.ravel()

    def runs(self, cp_rank: int = 0, tp_rank: int | None = None) -> list[Run]:
        """The rank's rows that hold tokens, as runs; the other rows are padding."""
        rows = [self.num_routes(i) for i in range(len(self.lens))]
        return self._runs(self._held(cp_rank, tp_rank), rows)

    def _runs(self, held: list[tuple[int, int]], rows: list[int]) -> list[Run]:
        if self.form == "thd":
            return thd_runs(held, self.cu_seqlens_padded, rows)
        return bshd_runs(held, rows, s_major=self.form == "bshd")

    def places(self, cp_rank: int = 0, tp_rank: int | None = None) -> list[Run]:
        """All of the rank's rows as runs: a sample's padding is positions behind its tokens, and
        padding behind all samples is more of the last one's.
        """
        widths = np.diff(self.cu_seqlens_padded)
        runs = self._runs(self._held(cp_rank, tp_rank), widths.tolist())
        last = len(self.lens) - 1
        beyond = int(widths[last]) if len(self.lens) else 0
        return [
            run if run.sample <= last else run._replace(sample=last, position=beyond + run.position)
            for run in runs
        ]

    def local_rows(self, cp_rank: int = 0, tp_rank: int | None = None) -> Ints:
        """(sample, position) of each local row, -1 -1 for padding; int64 [R, 2].

        With tp_rank None all rows of the CP rank, before the SP split. Where the framework's
        replay tensor has no row for a sample's last token (slime, miles), that row is -1 -1 too.
        """
        table = np.full((self.num_rows(tp_rank), 2), -1, np.int64)
        for run in self.runs(cp_rank, tp_rank):
            table[run.rows, 0] = run.sample
            table[run.rows, 1] = np.arange(run.position, run.position + run.size)
        return table

    def pack(
        self,
        samples: Sequence[NDArray[Any]],
        cp_rank: int = 0,
        tp_rank: int | None = None,
        *,
        fill: int = 0,
    ) -> NDArray[Any]:
        """A rank's rows out of per-sample arrays [>= rows, ...]; padding rows hold ``fill``.

        For any per-token array: log-probs, masks, ids. ``routectl.pack`` is the one for routes.
        """
        if len(samples) != len(self.lens):
            raise ValueError(f"got {len(samples)} samples, expected {len(self.lens)}")
        rows = self.num_rows(tp_rank)
        packed = np.full((rows, *samples[0].shape[1:]), fill, samples[0].dtype)
        for run in self.runs(cp_rank, tp_rank):
            packed[run.rows] = samples[run.sample][run.position : run.position + run.size]
        return packed

    def unpack(self, parts: Sequence[NDArray[Any]], *, fill: int = 0) -> list[NDArray[Any]]:
        """The per-sample arrays [N, ...] out of all ranks' rows; padding rows are dropped.

        parts are the CP ranks' rows in order, or those of all (cp, tp) ranks, tp fastest. Tokens
        without a row hold ``fill``. Raises ValueError when a part has another row count.
        """
        split = len(parts) == self.cp * self.tp and self.tp > 1
        tp_ranks = range(self.tp) if split else (None,)
        ranks = [(c, t) for c in range(self.cp) for t in tp_ranks]
        if len(parts) != len(ranks):
            raise ValueError(f"got {len(parts)} parts, expected {self.cp} or {self.cp * self.tp}")
        samples = [np.full((n, *parts[0].shape[1:]), fill, parts[0].dtype) for n in self.lens]
        for part, rank in zip(parts, ranks, strict=True):
            if len(part) != self.num_rows(rank[1]):
                raise ValueError(
                    f"rank {rank}: got {len(part)} rows, expected {self.num_rows(rank[1])}"
                )
            for run in self.runs(*rank):
                samples[run.sample][run.position : run.position + run.size] = part[run.rows]
        return samples


def _check_options(packing: Packing) -> None:
    """Raise ValueError on unknown names, sizes below 1, and options that have no effect."""
    rule = packing.rule
    sizes = {name: getattr(packing, name) for name in _SIZES}
    sizes |= {f"lens[{i}]": n for i, n in enumerate(packing.lens)}
    for name, size in sizes.items():
        if size is not None and size < 1:
            raise ValueError(f"{name} must be at least 1, got {size}")
    if packing.pad_multiplier is not None and "mult" not in rule.total:
        alone = " with CP" if "mult" in rule_of(packing.framework).total else ""
        raise ValueError(f"{packing.framework} has no pad_multiplier{alone}")
    rules.check_fp8(packing.framework, packing.fp8)
    rules.check_form(packing.framework, packing.form, packing.tp, packing.cp)
    if packing.form == "thd":
        if packing.seq_len is not None:
            raise ValueError(f"form thd has no seq_len, got {packing.seq_len}")
        _check_padded_lens(packing)
        return
    for name in _THD_ONLY:
        if getattr(packing, name) is not None:
            raise ValueError(f"form {packing.form} has no {name}: give seq_len")
    padded = rule.fp8 == "verl" or ((rule.fp8 or "").startswith("skyrl") and packing.cp == 1)
    if packing.fp8 is not None and not padded:
        alone = " with CP" if (rule.fp8 or "").startswith("skyrl") else ""
        raise ValueError(
            f"{packing.framework} has no fp8 padding in {packing.form}{alone}: give seq_len"
        )


def _check_padded_lens(packing: Packing) -> None:
    """Raise ValueError where places that a trainer says do not hold the samples, or are not all."""
    places = packing.padded_lens
    if places is None:
        return
    given = ("plan", "fp8", "pad_multiplier", *_PADS)
    beside = [name for name in given if getattr(packing, name) is not None]
    if beside:
        raise ValueError(f"padded_lens says the padding: {beside[0]} has no effect beside it")
    if len(places) < len(packing.lens):
        raise ValueError(f"padded_lens has {len(places)} places for {len(packing.lens)} samples")
    for i, (n, held) in enumerate(zip(places, packing.fed, strict=False)):
        if n < held:
            raise ValueError(f"sample {i}: {held} tokens in {n} places")
    if sum(places) % (packing.tp * packing.cp):
        raise ValueError(
            f"padded_lens are {sum(places)} places in all, not divisible by tp {packing.tp} x cp "
            f"{packing.cp}"
        )


def _check_fit(packing: Packing) -> None:
    """Raise ValueError unless the stream divides into the ranks' pieces."""
    tp, cp = packing.tp, packing.cp
    own = rules.sample_multiple(packing.rule, tp, cp, packing.fp8)
    if packing.alignment % own:
        raise ValueError(
            f"sample_multiple {packing.alignment} is not a multiple of {own}, which "
            f"{packing.framework} needs for tp {tp}, cp {cp}"
        )
    if packing.form != "thd":
        longest = max(packing.fed, default=0)
        rules.check_bshd(packing.padded_seq_len, packing.sizes, longest, packing.is_zigzag)
    elif packing.is_zigzag:
        places = np.diff(packing.cu_seqlens_padded).tolist()
        if "mult" in packing.rule.total and packing.padded_lens is None:
            # slime pads each rank's rows, after the split
            places = places[: len(packing.lens)]
        for i, n in enumerate(places):
            if n % (2 * cp):
                what = f"sample {i}" if i < len(packing.lens) else "padding after the samples"
                raise ValueError(f"{what} takes {n} places, not divisible by 2 x cp = {2 * cp}")
    if packing.num_local_rows % tp:
        raise ValueError(f"{packing.num_local_rows} rows of a CP rank do not divide by tp {tp}")
