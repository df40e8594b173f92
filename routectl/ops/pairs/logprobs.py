"""Log-probs of one file on the routes of another: a rollout's routes, its trainer's log-probs."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ...dump import Dump, Sample, key_of
from ...errors import MismatchError
from .join import join_keys

__all__ = ["with_logprobs"]


def with_logprobs(dump: Dump, scored: Sequence[Sample]) -> tuple[Dump, int]:
    """The dump with the log-probs of ``scored`` in place of its own, and how many samples got some.

    Samples are joined by equal token ids, repeats in order. One without a partner, or whose
    partner has none, is left without log-probs, so that those of two sources never mix. Tokens
    that the partner's loss mask leaves out, such as those of tools, are not scored: nobody sampled
    them, and rollouts have 0 there. Raises MismatchError when no sample is joined, and when a pair
    has another prompt.
    """
    keys = [key_of(s.sample_id, s.prompt_ids, s.response_ids) for s in scored]
    partner = dict(join_keys(dump.keys, keys, "tokens").pairs)
    return _scored(dump, scored, partner), sum(
        scored[j].logprobs is not None for j in partner.values()
    )


def _trained(sample: Sample) -> NDArray[np.bool_] | None:
    """Which response tokens were trained on; None for all."""
    return None if sample.loss_mask is None else sample.loss_mask[sample.prompt_length or 0 :]


def _scored(dump: Dump, scored: Sequence[Sample], partner: dict[int, int]) -> Dump:
    def load(index: int) -> Sample:
        sample = dump[index]
        if index not in partner:
            return replace(sample, logprobs=None)
        other = scored[partner[index]]
        if other.prompt_length != sample.prompt_length:
            raise MismatchError(
                f"{dump.meta.path}: sample {index}: got a prompt of {other.prompt_length} tokens "
                f"with the log-probs, expected {sample.prompt_length}"
            )
        return replace(sample, logprobs=other.logprobs, scored=_trained(other))

    return Dump(
        dump.meta,
        dump.keys,
        load,
        lambda layers: _scored(dump.select(layers=layers), scored, partner),
    )
