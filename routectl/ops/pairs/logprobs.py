"""Log-probs of the same tokens on several sides, and those of one file on the routes of another.

Shape suffix: G response tokens.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ...dump import Dump, Sample, key_of
from ...errors import MismatchError
from .join import join_keys

__all__ = ["laid_logprobs", "with_logprobs"]


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


def laid_logprobs(
    sides: Sequence[Sample], most: int | None = None
) -> list[NDArray[np.float64]] | None:
    """Log-probs of the response tokens that every side sampled and scored, at most the first so
    many: float64 [G] of each side, nan where one is not known.

    Tokens that a side's loss mask leaves out are not among them: nobody sampled those of tools,
    and rollouts have 0 there (verl, slime and miles average by that mask too).

    None where a side has no log-probs, or the prompts have other lengths or an unknown one.
    """
    prompt = sides[0].prompt_length
    logprobs = [side.logprobs for side in sides]
    if prompt is None or any(side.prompt_length != prompt for side in sides):
        return None
    known = [found for found in logprobs if found is not None]
    if len(known) < len(sides):
        return None
    size = min(map(len, known))
    size = size if most is None else min(size, most)
    scored_G = np.ones(size, np.bool_)
    for side in sides:
        for given_G in (side.scored, _trained(side)):
            if given_G is not None:
                scored_G[: len(given_G)] &= given_G[:size]
    return [found[:size][scored_G] for found in known]


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
