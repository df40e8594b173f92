"""Push the tokens of samples through a checkpoint and read what every router selects."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

import torch

from ..checkpoints import open_checkpoint
from ..dump import Sample
from ..errors import UnsupportedError
from .batches import PaddedBatch, pad_together
from .devices import free_memory
from .head import body_of, head_name, response_logprobs
from .job import make_jobs
from .options import Forwarded, RunOptions, RunProgress
from .probe import Probe
from .routers import RouterAt
from .skeleton import build_skeleton, config_of, errors_told, fill_buffers, unverified
from .weights import Store

__all__ = ["Prepared", "prepare", "run_forward"]

FITS = 0.75  # of the free memory, for all weights at once
AHEAD = 0.4  # of it, for one layer, where the next is read ahead
WAITS = 0.2  # of it, for hidden states, above which they wait in host memory


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """An opened checkpoint whose weights are not read yet, and how it will be run.

    provenance names what the results depend on: not whether it is streamed, which may be decided by
    the memory that is free now: ``free_bytes``, None where it was asked for. unverified says that
    transformers is newer than the verified ones: then its routers are to be held against their
    recipes, or nothing of the run is to be used.
    """

    options: RunOptions
    store: Store
    streamed: bool
    free_bytes: int | None
    provenance: Mapping[str, str | int | float | bool]
    unverified: str = ""

    @property
    def routers(self) -> tuple[RouterAt, ...]:
        """The routers, ascending by layer; modules are on the meta device."""
        return self.store.skeleton.routers

    @property
    def layers(self) -> tuple[int, ...]:
        """0-based number of each MoE layer."""
        return tuple(at.layer for at in self.routers)


def prepare(options: RunOptions) -> Prepared:
    """Open a checkpoint by its headers, build its model without weights and decide how to run it.

    Raises UnsupportedError for a family or quantization that cannot be run, FormatError for a
    damaged or incomplete checkpoint.
    """
    device = torch.device(options.device)
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)  # kernels are launched there
    checkpoint, newer = open_checkpoint(options.checkpoint), unverified()
    with errors_told(options.checkpoint, newer) if newer else nullcontext():
        skeleton = build_skeleton(config_of(checkpoint, options), options)
        store = Store(skeleton, checkpoint, options.device)
        fill_buffers(skeleton, options)
    if options.want_logprobs and head_name(skeleton.model) is None:
        what = f"{type(skeleton.model).__name__} makes no logits"
        raise UnsupportedError(f"{what}: it gives no log-probabilities")
    free, size = free_memory(options.device) // options.sharing, store.total_bytes()
    judged = options.streaming == "auto"
    streamed = size > FITS * free if judged else options.streaming == "stream"
    provenance = _provenance(store, options)
    return Prepared(options, store, streamed, free if judged else None, provenance, newer)


def run_forward(prepared: Prepared, samples: Iterable[Sample]) -> Iterator[Forwarded]:
    """A result for each sample, in order; in mode "both" two, free and then forced.

    Samples run alone and unpadded (or ``options.batch`` together), without cache, in eval mode.
    Weights are read when the first result is asked for. Raises MismatchError for a sample that the
    model cannot run.
    """
    options, model = prepared.options, prepared.store.skeleton.model
    vocab = model.get_input_embeddings().weight.shape[0]
    jobs = chain.from_iterable(
        make_jobs(sample, index, prepared.routers, options, vocab)
        for index, sample in enumerate(samples)
    )
    batches = pad_together(jobs, options.batch)
    counter = _Counter(options, prepared.store.skeleton.num_layers)
    if not prepared.streamed:
        yield from _run_resident(prepared, batches, counter)
        return
    for together in _passes(batches, options.max_tokens_per_pass):
        yield from _run_pass(prepared, together, counter)


@dataclass(slots=True)
class _Counter:
    """Counts what a run has done, and tells the options' on_progress."""

    options: RunOptions
    layers: int
    forwards: int = 0
    tokens: int = 0

    def after(self, layer: int, batches: Sequence[PaddedBatch], read_bytes: int) -> None:
        """So many layers are done of these batches; after the last one they are finished."""
        forwards = sum(len(batch.jobs) for batch in batches)
        tokens = sum(batch.num_positions for batch in batches)
        share, each = layer / self.layers, 2 if self.options.mode == "both" else 1
        if self.options.on_progress is not None:
            samples = (self.forwards + share * forwards) / each
            done = RunProgress(
                layer, self.layers, samples, self.tokens + share * tokens, read_bytes
            )
            self.options.on_progress(done)
        if layer == self.layers:
            self.forwards, self.tokens = self.forwards + forwards, self.tokens + tokens


def _run_resident(
    prepared: Prepared, batches: Iterable[PaddedBatch], counter: _Counter
) -> Iterator[Forwarded]:
    """All weights in memory, one batch after the other."""
    from .streaming import place

    store = prepared.store
    model = store.skeleton.model
    with place(model, store.whole()), Probe(prepared.routers) as probe:
        for batch in batches:
            with torch.no_grad(), _exact_float32():
                done = _forward(model, probe, prepared, batch)
            counter.after(counter.layers, [batch], store.total_bytes())
            yield from done


def _run_pass(
    prepared: Prepared, batches: Sequence[PaddedBatch], counter: _Counter
) -> list[Forwarded]:
    """The batches of a pass, layer by layer, over weights read once."""
    from .streaming import Conductor, layer_weights, place

    options, store = prepared.options, prepared.store
    model, tokens = store.skeleton.model, sum(batch.num_positions for batch in batches)
    layers = model.get_submodule(store.skeleton.layers)
    ahead, offload = _plan(store, tokens, options.sharing)
    conductor = Conductor(layers, options.device, offload=offload)
    head = None if options.want_logprobs else head_name(model)  # it need not be read
    with (
        torch.no_grad(),
        _exact_float32(),
        Probe(prepared.routers) as probe,
        place(model, store.rest(head)),
        closing(layer_weights(store, ahead=ahead)) as weights,
        closing(
            conductor.steps([partial(_forward, model, probe, prepared, each) for each in batches])
        ) as steps,
    ):
        number = next(steps, None)
        while number is not None:
            with place(model, next(weights)):
                number = next(steps, None)
            done = counter.layers if number is None else number
            counter.after(done, batches, store.read_bytes)
    return list(chain.from_iterable(conductor.results))


def _forward(model: Any, probe: Probe, prepared: Prepared, batch: PaddedBatch) -> list[Forwarded]:
    """A batch through the body of the model, and through its head where that is asked for."""
    with probe.on(batch.tape):
        out = body_of(model)(
            input_ids=batch.tokens_BS, attention_mask=batch.mask_BS, use_cache=False
        )
    batch.share()
    done = []
    for b, job in enumerate(batch.jobs):
        logprobs_G = None
        if prepared.options.want_logprobs:
            own = type(out)(**{**out, "last_hidden_state": out.last_hidden_state[b : b + 1]})
            logprobs_G = response_logprobs(model, own, job.tokens_T, job.prompt_length)
        done.append(job.finish(prepared.routers, logprobs_G))
    return done


def _passes(batches: Iterable[PaddedBatch], most: int | None) -> Iterator[list[PaddedBatch]]:
    """Batches in order, so many that their tokens stay within ``most``; at least one a pass."""
    together: list[PaddedBatch] = []
    tokens = 0
    for batch in batches:
        if together and most is not None and tokens + batch.num_positions > most:
            yield together
            together, tokens = [], 0
        together.append(batch)
        tokens += batch.num_positions
    if together:
        yield together


def _plan(store: Store, tokens: int, sharing: int) -> tuple[bool, bool]:
    """Whether two layers are held, one of them read ahead, and whether hidden states wait in host
    memory. Both only on a device of its own.
    """
    if store.device.type == "cpu":
        return False, False
    free, skeleton = free_memory(str(store.device)) // sharing, store.skeleton
    largest = max(store.layer_bytes(number) for number in range(skeleton.num_layers))
    width = skeleton.model.config.get_text_config().hidden_size * skeleton.dtype.itemsize
    return largest <= AHEAD * free, tokens * width > WAITS * free


def _provenance(store: Store, options: RunOptions) -> dict[str, str | int | float | bool]:
    """What the results depend on."""
    import transformers

    model = store.skeleton.model
    experts = model.get_experts_implementation()
    device = torch.device(options.device)
    return {
        "model_type": str(model.config.model_type),
        "dtype": str(store.skeleton.dtype).removeprefix("torch."),
        "attention": str(model.config._attn_implementation),
        "experts": str(experts.get("", experts) if isinstance(experts, dict) else experts),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "tf32": False,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "dequantized": store.dequantized or False,
        "mode": options.mode,
        "batch": options.batch,
    }


@contextmanager
def _exact_float32() -> Iterator[None]:
    """float32 products are float32: no TF32."""
    before = torch.get_float32_matmul_precision()
    convolutions = torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
        torch.backends.cudnn.allow_tf32 = convolutions
