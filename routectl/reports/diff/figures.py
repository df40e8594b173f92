"""The types of figures of expert load and of log-probs in a routectl.diff/1 document."""

from typing import NotRequired, TypedDict

__all__ = ["BeyondTau", "LogprobFigures", "Violations"]


class Violations(TypedDict):
    """How far experts are from the even share: the busiest, the idlest, and all on average."""

    max_vio_old: float | None
    max_vio_new: float | None
    min_vio_old: float | None
    min_vio_new: float | None
    avg_vio_old: float | None
    avg_vio_new: float | None


class BeyondTau(TypedDict):
    """F(tau): tokens whose ratio of probabilities is over tau, or under 1 / tau."""

    tau: float
    f_tau: float | None


class LogprobFigures(TypedDict):
    """Log-probs of the response tokens that both sides scored.

    A figure that is not finite is null; not_finite, there where one is, says which and what.
    tokens_of_one_side, there where it is not 0, counts tokens that were trained on and have a
    log-prob on one side alone: they are in no figure, and every threshold on one is crossed.
    """

    tokens: int
    k1: float | None
    k3: float | None
    mean_abs_d: float | None
    max_abs_d: float | None
    tau: float
    f_tau: float | None
    k3_stable: float | None
    token_mult_prob_error: float | None
    chi2: float | None
    js: float | None
    pearson: float | None
    pearson_probs: float | None
    equal_rate: float | None
    f_taus: list[BeyondTau]
    tokens_of_one_side: NotRequired[int]
    not_finite: NotRequired[dict[str, str]]
