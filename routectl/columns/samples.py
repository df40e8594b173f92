"""Samples that lie together in a file, as columns: no object a sample.

Shape suffixes: S samples, R rows of all of them (a token in all layers), N values, L MoE layers,
K top_k.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..keys import Keys, Lists, Texts, run_places
from ..routes import Bools, Ids

__all__ = ["NONE", "SampleColumns", "sums_of"]

Ints = NDArray[np.int64]
NONE = -1  # a number that a sample does not say


@dataclass(frozen=True, slots=True, eq=False)
class SampleColumns:
    """Samples ``first``, ``first + 1``, ... of a dump; arrays are int64 or bool [S].

    ids_RLK     routes of all samples end to end; those of one begin at begins_S, num_rows_S of them
    routed_S    which have routes
    start_S     as in Routes; prompt_length_S, response_length_S, cached_S and retractions_S as
                cached_tokens and so on in Sample, NONE where the dump does not say
    missing_S, masked_S, scored_S   which have missing rows, a loss mask, log-probs
    spans_S     how many weight spans
    names, groups   sample_id and group_id
    """

    first: int
    ids_RLK: Ids | None
    begins_S: Ints
    num_rows_S: Ints
    routed_S: Bools
    start_S: Ints
    inferred_S: Bools
    prompt_length_S: Ints
    response_length_S: Ints
    cached_S: Ints
    retractions_S: Ints
    missing_S: Bools
    masked_S: Bools
    scored_S: Bools
    spans_S: Ints
    prompt: Lists
    response: Lists
    names: Texts
    groups: Texts

    def __len__(self) -> int:
        return len(self.begins_S)

    @property
    def num_tokens_S(self) -> Ints:  # noqa: N802
        """N, NONE where the length of prompt or response is not known."""
        both = (self.prompt_length_S >= 0) & (self.response_length_S >= 0)
        return np.where(both, self.prompt_length_S + self.response_length_S, NONE)

    @property
    def known_S(self) -> Bools:  # noqa: N802
        """Whose token ids are known, all of them."""
        return self.prompt.known_S & self.response.known_S

    def keys(self) -> Keys:
        """What the samples are joined by, prompts aside: it takes a microsecond of each."""
        return Keys.of_columns(self.names, self.prompt, self.response, prompts=False)

    def tokens(self, places_S: Ints) -> tuple[NDArray[np.int32], Ints]:
        """The token ids of some samples end to end, int32, and how many each has."""
        parts = self.prompt, self.response
        sizes_2 = np.stack([part.sizes_S[places_S] for part in parts], axis=1)
        begins_2 = np.stack([part.begins_S[places_S] for part in parts], axis=1)
        begins_2[:, 1] += len(self.prompt.values_N)
        values_N = np.concatenate([part.values_N for part in parts])
        return values_N[run_places(begins_2.ravel(), sizes_2.ravel())], sizes_2.sum(axis=1)


def sums_of(values_N: NDArray[Any], sizes_S: Ints) -> Ints:
    """The sum of each run of values, of runs end to end: int64 [S]."""
    total = np.concatenate([[0], np.cumsum(values_N, dtype=np.int64)])
    ends_S = np.cumsum(sizes_S)
    found: Ints = total[ends_S] - total[ends_S - sizes_S]
    return found
