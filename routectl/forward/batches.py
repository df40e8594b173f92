"""Several sequences in one forward: right-padded, with a mask, their rows taken apart again.

What follows a row has no part in it, so that padding behind a sequence changes its rows by rounding
alone: the products that make them have another shape.

Shape suffixes: B sequences, S positions of the longest, T tokens of one, K top_k.
"""

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch.nn.utils.rnn import pad_sequence

from .job import ForwardJob
from .tape import Asked, Forced, Tape

__all__ = ["PaddedBatch", "pad_together"]


@dataclass(frozen=True, slots=True, eq=False)
class PaddedBatch:
    """The jobs of one forward, and a tape for the B * S rows of its routers, row b * S + s.

    A job that is alone is not padded: mask_BS, int64, is None, and the tape is its own.
    """

    jobs: tuple[ForwardJob, ...]
    tokens_BS: torch.Tensor
    mask_BS: torch.Tensor | None
    tape: Tape

    @property
    def num_positions(self) -> int:
        """B * S: tokens that are run, padding included."""
        return self.tokens_BS.numel()

    def share(self) -> None:
        """Move its rows to each job's tape; those of padding are dropped."""
        if self.mask_BS is None:
            return
        size_S = self.tokens_BS.shape[1]
        for layer in list(self.tape.rows):
            row = self.tape.rows.pop(layer)
            for b, job in enumerate(self.jobs):
                own = row.part(slice(b * size_S, b * size_S + len(job.tokens_T)))
                if own.inputs_TD is not None:
                    most = job.tape.input_rows
                    own = replace(own, inputs_TD=own.inputs_TD[:most] if most else None)
                job.tape.rows[layer] = own


def pad_together(jobs: Iterable[ForwardJob], size: int) -> Iterator[PaddedBatch]:
    """Jobs in order, ``size`` a batch; where the last would be alone, it joins those before it."""
    held: list[ForwardJob] = []
    for job in jobs:
        held.append(job)
        if size == 1 or len(held) == size + 2:
            yield _padded(held[:size])
            held = held[size:]
    if held:
        yield _padded(held)


def _padded(jobs: Sequence[ForwardJob]) -> PaddedBatch:
    """The batch of these jobs, padded with token 0."""
    tokens_BS = pad_sequence([job.tokens_T for job in jobs], batch_first=True)
    if len(jobs) == 1:
        return PaddedBatch(tuple(jobs), tokens_BS, None, jobs[0].tape)
    mask_BS = pad_sequence([torch.ones_like(job.tokens_T) for job in jobs], batch_first=True)
    size_S = tokens_BS.shape[1]
    layers = sorted({layer for job in jobs for layer in job.tape.forced})
    gates = {layer: asked.gate for job in jobs for layer, asked in job.tape.asked.items()}
    tape = Tape(
        {n: _together([job.tape.forced.get(n) for job in jobs], size_S) for n in layers},
        sys.maxsize if any(job.tape.input_rows for job in jobs) else 0,
        asked={n: Asked(gate, _asked(jobs, n, size_S)) for n, gate in gates.items()},
    )
    return PaddedBatch(tuple(jobs), tokens_BS, mask_BS, tape)


def _asked(jobs: Sequence[ForwardJob], layer: int, size_S: int) -> Forced:
    """The rows that a layer's router is asked about; padding, and other jobs, are missing."""
    asked = [job.tape.asked.get(layer) for job in jobs]
    return _together([None if one is None else one.rows for one in asked], size_S)


def _together(given: Sequence[Forced | None], size_S: int) -> Forced:
    """The rows of a layer in all jobs; padding, and jobs that have none, are missing."""
    like_TK = next(one.ids_TK for one in given if one is not None)
    ids_BSK = like_TK.new_zeros(len(given), size_S, like_TK.shape[1])
    missing_BS = torch.ones(len(given), size_S, dtype=torch.bool, device=like_TK.device)
    for b, one in enumerate(given):
        if one is not None:
            assert one.missing_T is not None
            ids_BSK[b, : len(one.ids_TK)] = one.ids_TK
            missing_BS[b, : len(one.ids_TK)] = one.missing_T
    return Forced(ids_BSK.flatten(0, 1), missing_BS.flatten())
