"""Dump and Sample: what an engine or a trainer wrote down, one sequence at a time.

Shape suffixes: P prompt tokens, G response (generated) tokens, N = P + G.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import cache
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from .columns.samples import SampleColumns
from .columns.stored_keys import StoredKeys, in_columns, sample_at, samples_at
from .errors import MismatchError
from .gate_logprobs import GateLogprobs
from .keys import Keys, SampleKey, digest_tokens, key_of
from .routes import Routes
from .visible import visible

__all__ = [
    "ORDERS",
    "ROW_FORMS",
    "Dump",
    "DumpMeta",
    "Keys",
    "Sample",
    "SampleBatch",
    "SampleKey",
    "Segment",
    "WeightSpan",
    "digest_tokens",
    "form_of",
    "key_of",
]

Tokens = NDArray[np.int32]
_Read = TypeVar("_Read")
_Narrow = Callable[[tuple[int, ...]], "Dump"]
ORDERS = ("unknown", "score")
ROW_FORMS = ("N", "N-1", "N-2", "P+G")


@dataclass(frozen=True, slots=True)
class Segment:
    """What one call brought to a sample of several: rows ``start`` up to (not including) ``stop``.

    shared counts the rows (a token in one layer) that an earlier call has too; differing those
    of them with other experts, apart those that have fewer than half in common. layers are those
    of the differing rows, first is the position and layer of the first. Earlier calls' rows stay.
    version is that of the weights, as the call says it.
    """

    start: int
    stop: int
    shared: int = 0
    differing: int = 0
    apart: int = 0
    layers: tuple[int, ...] = ()
    first: tuple[int, int] | None = None
    version: str | None = None


@dataclass(frozen=True, slots=True)
class WeightSpan:
    """Response tokens ``start`` up to (not including) ``end`` were sampled at ``version``."""

    version: str
    start: int
    end: int


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Sample:
    """One sequence of a dump: its routes and whatever else the dump knew.

    routes is None when the dump has the sequence but no routed_experts for it. None elsewhere
    means that the dump did not say. prompt_length and response_length can be known without ids.
    logprobs are of the response tokens, natural log, float64 [G], NaN where one is not known;
    scored, bool [G], is set by what leaves some of them out on purpose, and is in no file.
    loss_mask is bool [N].
    start_inferred tells that the start of the routes was computed from the row count. gates are
    of a recompute: what its routers think of the experts of the dump that was recomputed.
    row_form is one of ROW_FORMS where the file counts rows otherwise than the routes here do: a
    row for each of N tokens, or prompt and response rows apart. segments are of the calls that the
    sample was merged from, empty for one call.
    """

    routes: Routes | None
    sample_id: str | None = None
    group_id: str | None = None
    prompt_ids: Tokens | None = None
    response_ids: Tokens | None = None
    prompt_length: int | None = None
    response_length: int | None = None
    loss_mask: NDArray[np.bool_] | None = None
    logprobs: NDArray[np.float64] | None = None
    weight_spans: tuple[WeightSpan, ...] = ()
    finish_reason: str | None = None
    cached_tokens: int | None = None
    retractions: int | None = None
    start_inferred: bool = False
    gates: GateLogprobs | None = None
    row_form: str | None = None
    segments: tuple[Segment, ...] = ()
    scored: NDArray[np.bool_] | None = None

    def __repr__(self) -> str:
        name = "" if self.sample_id is None else f" {visible(self.sample_id, 60)}"
        known = "of unknown length" if self.num_tokens is None else f"{self.num_tokens:,} tokens"
        if self.num_tokens is not None:
            known += f" ({self.prompt_length:,} prompt, {self.response_length:,} response)"
        routes = "no routes" if self.routes is None else f"{self.routes!r}"
        return f"<Sample{name}: {known}; {routes}>"

    @property
    def row_count(self) -> str | None:
        """How its rows are counted: one of ROW_FORMS, "other", or None where N is not known."""
        if self.routes is None or self.num_tokens is None or self.row_form is not None:
            return self.row_form
        return form_of(self.num_tokens, self.routes.stop)

    @property
    def num_tokens(self) -> int | None:
        """N, or None when the dump does not tell the length of prompt or response."""
        if self.prompt_length is None or self.response_length is None:
            return None
        return self.prompt_length + self.response_length

    @property
    def token_ids(self) -> Tokens | None:
        """Prompt and response ids, int32 [N], or None when either is not known."""
        if self.prompt_ids is None or self.response_ids is None:
            return None
        return np.concatenate([self.prompt_ids, self.response_ids])

    def without_tokens(self) -> "Sample":
        """The same sample without its token ids; how many there are stays known."""
        counts = [
            count if ids is None else len(ids)
            for ids, count in (
                (self.prompt_ids, self.prompt_length),
                (self.response_ids, self.response_length),
            )
        ]
        return replace(
            self,
            prompt_ids=None,
            response_ids=None,
            prompt_length=counts[0],
            response_length=counts[1],
        )


def form_of(num_tokens: int, stop: int) -> str:
    """How rows up to position ``stop`` of a sample of N tokens are counted: Sample.row_count."""
    short = num_tokens - stop
    return ROW_FORMS[short] if 0 <= short <= 2 else "other"


@dataclass(frozen=True, slots=True, eq=False)
class SampleBatch:
    """Samples one after another, read together: lists as long as they are many.

    Entries are fields and properties of Sample; start is None, and row_count means nothing, without
    routes. routes are those of all samples end to end, their margins NaN where a sample has none;
    start means nothing there. None: no sample has any.
    """

    routes: Routes | None
    start: Sequence[int | None]
    start_inferred: Sequence[bool]
    row_count: Sequence[str | None]
    prompt_length: Sequence[int | None]
    response_length: Sequence[int | None]
    cached_tokens: Sequence[int | None]
    retractions: Sequence[int | None]
    finish_reason: Sequence[str | None]
    has_logprobs: Sequence[bool]
    weight_spans: Sequence[Sequence[WeightSpan]]
    segments: Sequence[Sequence[Segment]]

    def __len__(self) -> int:
        return len(self.start)


@dataclass(frozen=True, slots=True)
class DumpMeta:
    """What holds for every sample of a dump, and how it was found out.

    format is the one that was sniffed (or forced); facts_source says where the layers, E and K come
    from; skipped lists files of a folder that hold no samples, each with the reason. order is one
    of ORDERS: score when the ids of every row are in descending order of selection score. margins
    tells that routes may have margins, group_margins that they may have group margins beside them,
    gates that samples may have gate log-probabilities; where it is False none has. provenance is
    what a recompute says of its making. num_layers counts all decoder layers, dense ones too, None
    where those are not known. codec is how a file codes ids, trainer whose rollout dump it is.
    """

    path: str
    format: str
    layers_L: tuple[int, ...]
    num_experts: int
    top_k: int
    engine: str | None = None
    engine_version: str | None = None
    model: str | None = None
    id_space: str = "logical"
    wire_dtype: str | None = None
    facts_source: str | None = None
    file_bytes: int | None = None
    skipped: tuple[str, ...] = ()
    order: str = "unknown"
    margins: bool = False
    group_margins: bool = False
    gates: bool = False
    provenance: dict[str, str] = field(default_factory=dict)
    num_layers: int | None = None
    codec: str | None = None
    trainer: str | None = None


class Dump:
    """A lazy, sized, re-iterable collection of samples.

    ``keys`` are at hand for every sample; ``dump[i]``, ``dump["its id"]`` and iteration read one
    sample at a time.
    ``batch``, where a reader has it, reads what follows one of ``starts`` at once: it costs less.
    ``digests``, empty where the dump has none, are ``gate_logprobs.digest_routes`` of each sample's
    routes as written, None without. ``count`` gives ``rows``. ``layered`` gives the dump for who
    lets go of each sample: its ids may lie ``by_layer``, a part of what was read at once. Of some
    readers ``columns_at`` gives the samples beside one as columns, None to read it alone;
    ``elsewhere`` reads a run in another process, which need not open the dump.
    """

    def __init__(
        self,
        meta: DumpMeta,
        keys: Sequence[SampleKey],
        load: Callable[[int], Sample],
        narrow: _Narrow | None = None,
        batch: Callable[[int], SampleBatch | None] | None = None,
        count: Callable[[], NDArray[np.int64] | None] | None = None,
    ) -> None:
        self.meta = meta
        self.keys = keys
        self._load, self._narrow = load, narrow
        self.digests: Sequence[str | None] = ()
        self.starts: NDArray[np.int64] | None = None
        self.columns_at: Callable[[int], SampleColumns | None] | None = None
        self.elsewhere: Callable[[range], Callable[[], Iterable[Sample]]] | None = None
        self._batch, self._count = batch, count
        self.layered: Callable[[], Dump] = lambda: self

    def __len__(self) -> int:
        return len(self.keys)

    def __repr__(self) -> str:
        meta = self.meta
        engine = " ".join(filter(None, (meta.engine, meta.engine_version))) or "unknown engine"
        return (
            f"<Dump {visible(meta.path, 200, end=50)}: {len(self):,} samples, "
            f"{len(meta.layers_L)} MoE layers, K {meta.top_k}, E {meta.num_experts}; "
            f"{visible(engine, 60)}, {meta.format}>"
        )

    def __getitem__(self, index: int | str) -> Sample:
        return self._load(sample_at(self.keys, index))

    def batch(self, index: int) -> SampleBatch | None:
        """The sample of an index and some that follow; None where it, or one refused, is alone."""
        return None if self._batch is None else self._batch(index)

    def _like(self, changed: "Dump") -> "Dump":
        """A dump of the same routes, with what is known of them."""
        changed.digests, changed.starts, changed._count = self.digests, self.starts, self._count
        return changed

    def rows(self, samples: Sequence[int] | None = None) -> NDArray[np.int64] | None:
        """Rows of each sample, or of some, int64 [B]; None where they would have to be read."""
        rows_B = None if self._count is None else self._count()
        return rows_B if rows_B is None or samples is None else rows_B[np.array(samples, int)]

    def __iter__(self) -> Iterator[Sample]:
        return (self._load(i) for i in range(len(self.keys)))

    def select(
        self, *, layers: Iterable[int] | None = None, samples: Sequence[int | str] | None = None
    ) -> "Dump":
        """The same dump with some of its layers, or some of its samples.

        layers   0-based transformer layers, such as a pipeline stage's; those without routes are
                 passed over. A native file reads nothing else; others read whole samples.
        samples  indices or ids, in the order wanted.

        Raises MismatchError when the dump has none of the layers, NoIndexError or NoIdError when it
        has none of the samples.
        """
        if samples is not None:
            chosen = samples_at(self.keys, samples)
            keys, count = in_columns(self.keys).take(chosen), lambda: self.rows(chosen)
            narrow = self._narrowing(lambda narrowed: narrowed.select(samples=chosen))
            part = Dump(self.meta, keys, lambda n: self._load(chosen[n]), narrow, count=count)
            return part if layers is None else part.select(layers=layers)
        if layers is None:
            return self
        asked = set(layers)
        wanted = tuple(layer for layer in self.meta.layers_L if layer in asked)
        if not wanted:
            raise MismatchError(
                f"{self.meta.path}: got layers {sorted(asked)}, expected some of "
                f"{list(self.meta.layers_L)}"
            )
        return self if wanted == self.meta.layers_L else self._narrowed(wanted)

    def _narrowing(self, change: "Callable[[Dump], Dump]") -> _Narrow | None:
        """What narrows the changed dump; None where this one's reader cannot."""
        narrow = self._narrow
        return None if narrow is None else lambda layers: change(narrow(layers))

    def _narrowed(self, layers: tuple[int, ...]) -> "Dump":
        """The same samples with some of the layers, ascending, at least one."""
        if self._narrow is not None:
            return self._narrow(layers)
        columns = [self.meta.layers_L.index(layer) for layer in layers]
        meta = replace(self.meta, layers_L=layers)

        def load(index: int) -> Sample:
            sample = self._load(index)
            if sample.routes is None:
                return sample
            gates = None if sample.gates is None else sample.gates.columns(columns)
            return replace(sample, routes=sample.routes.columns(columns), gates=gates)

        return Dump(meta, self.keys, load)

    def renumbered(self, layers: tuple[int, ...]) -> "Dump":
        """The same samples with other layer numbers: of MoE ordinals, the layers themselves."""

        def load(index: int) -> Sample:
            sample = self._load(index)
            if sample.routes is None:
                return sample
            return replace(sample, routes=replace(sample.routes, layers_L=layers))

        def narrow(wanted: tuple[int, ...]) -> Dump:
            own = tuple(self.meta.layers_L[layers.index(layer)] for layer in wanted)
            return self.select(layers=own).renumbered(wanted)

        return Dump(replace(self.meta, layers_L=layers), self.keys, load, narrow)

    def held(self) -> "Dump":
        """The same dump with its samples read and kept in memory."""
        return Dump(self.meta, self.keys, list(self).__getitem__)

    def watched(self, on_sample: Callable[[Sample], None]) -> "Dump":
        """The same dump, telling ``on_sample`` of each sample as it is read."""

        def load(index: int) -> Sample:
            sample = self._load(index)
            on_sample(sample)
            return sample

        narrow = self._narrowing(lambda narrowed: narrowed.watched(on_sample))
        return self._like(Dump(self.meta, self.keys, load, narrow))

    def without_tokens(self) -> "Dump":
        """The same dump without token ids, digests of them, and reasons that may quote what it has.

        How many tokens there are stays known.
        """
        meta = replace(self.meta, skipped=())
        keys = Keys(replace(key, tokens=None, prompt=None) for key in self.keys)
        narrow = self._narrowing(Dump.without_tokens)
        return self._like(Dump(meta, keys, lambda i: self._load(i).without_tokens(), narrow))

    def read_within(self, context: Callable[[], AbstractContextManager[None]]) -> "Dump":
        """The same dump, its samples and stored keys read within a context."""

        def within(read: Callable[[int], _Read]) -> Callable[[int], _Read]:
            def reading(index: int) -> _Read:
                with context():
                    return read(index)

            return reading

        narrow = self._narrowing(lambda narrowed: narrowed.read_within(context))
        keys = self.keys.within(context) if isinstance(self.keys, StoredKeys) else self.keys
        found = self._like(Dump(self.meta, keys, within(self._load), narrow, within(self.batch)))
        found.columns_at = self.columns_at and within(self.columns_at)
        found.elsewhere = self.elsewhere
        found.layered = cache(lambda: self.layered().read_within(context))
        return found
