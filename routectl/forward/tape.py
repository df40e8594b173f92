"""What the routers of one sequence selected, and what they are made to select.

Shape suffixes: T tokens, K top_k, E experts that the router chooses among, D hidden.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields

import torch

__all__ = ["Asked", "Forced", "LayerRows", "Tape", "read_selection", "steer"]


@dataclass(frozen=True, slots=True, eq=False)
class Forced:
    """The experts that a layer's rows are given: ids_TK integers; rows of missing_T stay live."""

    ids_TK: torch.Tensor
    missing_T: torch.Tensor | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """What a layer's router is asked: how probable it finds the experts of ``rows``.

    gate gives the log-probabilities, float32 [T, E], that it has for hidden states [T, D].
    """

    gate: Callable[[torch.Tensor], torch.Tensor]
    rows: Forced

    @torch.no_grad()
    def read(self, hidden_TD: torch.Tensor) -> torch.Tensor:
        """float32 [T, K], NaN in missing rows."""
        found_TK = self.gate(hidden_TD).gather(1, self.rows.ids_TK)
        missing_T = self.rows.missing_T
        return (
            found_TK if missing_T is None else found_TK.masked_fill(missing_T[:, None], torch.nan)
        )


@dataclass(frozen=True, slots=True, eq=False)
class LayerRows:
    """One layer's selection for the T tokens of a forward.

    ids_TK      int64, the experts that were used, by falling selection score
    live_TK     int64, the router's own top-k by falling score; None where it is ids_TK
    margin_T    float32, k-th minus (k+1)-th selection score of the router's own top-k; inf where
                there is no (k+1)-th: K = E, all others masked out, or a table; NaN where a score is
    group_margin_T  float32, the same of the groups that it kept; None where it drops no groups.
                No margin is there where none was asked for
    inputs_TD   the router's input, in its dtype; None unless asked for
    gate_TK     float32, what the tape asks of the layer's router; None where it asks nothing
    """

    ids_TK: torch.Tensor
    live_TK: torch.Tensor | None
    margin_T: torch.Tensor | None = None
    group_margin_T: torch.Tensor | None = None
    inputs_TD: torch.Tensor | None = None
    gate_TK: torch.Tensor | None = None

    @property
    def tie_T(self) -> torch.Tensor | None:  # noqa: N802
        """Bool, True where the selection hangs on the order of equal scores or equal groups."""
        if self.margin_T is None or self.group_margin_T is None:
            return None if self.margin_T is None else self.margin_T == 0
        return (self.margin_T == 0) | (self.group_margin_T == 0)

    def each(self, change: Callable[[torch.Tensor], torch.Tensor]) -> "LayerRows":
        """The same with each tensor that is there changed."""
        parts = [getattr(self, part.name) for part in fields(self)]
        return LayerRows(*(None if part is None else change(part) for part in parts))  # type: ignore[arg-type]

    def part(self, rows: slice) -> "LayerRows":
        """Some of its rows, in memory of their own."""
        return self.each(lambda part: part[rows].clone())


@dataclass(slots=True)
class Tape:
    """The rows of one sequence by layer, as its forward makes them; ``forced`` steers it.

    input_rows is how many rows of each router's input are kept. Without margins, rows have ids
    alone, in the order in which the router took them. asked is what routers are asked beside that;
    proven has, by layer, what a proof counted of the forced rows: int64 [seen, with other experts].
    """

    forced: Mapping[int, Forced] = field(default_factory=dict)
    input_rows: int = 0
    want_margins: bool = True
    asked: Mapping[int, Asked] = field(default_factory=dict)
    rows: dict[int, LayerRows] = field(default_factory=dict)
    proven: dict[int, torch.Tensor] = field(default_factory=dict)

    def to_host(self) -> None:
        """Move the rows written so far to host memory."""
        self.rows = {
            layer: row if row.ids_TK.device.type == "cpu" else row.each(torch.Tensor.cpu)
            for layer, row in self.rows.items()
        }


@torch.no_grad()
def read_selection(
    scores_TE: torch.Tensor,
    live_TK: torch.Tensor,
    used_TK: torch.Tensor | None = None,
    *,
    groups: tuple[torch.Tensor, torch.Tensor] | None = None,
    margins: bool = True,
) -> LayerRows:
    """The LayerRows of a selection, from the scores that the final top-k saw.

    live_TK is what that top-k gave, in any order; used_TK is what was used instead, if anything;
    groups are the scores of the groups and those that were kept.
    """
    live_TK = live_TK.reshape(-1, live_TK.shape[-1])
    if not margins:
        return LayerRows(live_TK if used_TK is None else used_TK.reshape(live_TK.shape), None)
    scores_TE = scores_TE.reshape(-1, scores_TE.shape[-1]).detach()
    live_TK, margin_T = _boundary(scores_TE, live_TK)
    group_margin_T = None if groups is None else _boundary(*(g.flatten(0, -2) for g in groups))[1]
    if used_TK is None:
        return LayerRows(live_TK, None, margin_T, group_margin_T)
    used_TK, _ = _by_score(scores_TE, used_TK.reshape(live_TK.shape))
    return LayerRows(used_TK, live_TK, margin_T, group_margin_T)


@torch.no_grad()
def steer(scores_TE: torch.Tensor, live_TK: torch.Tensor, forced: Forced) -> torch.Tensor:
    """The ids to use, in the shape of live_TK.

    A missing row, and a row whose forced set is the router's own, keep the router's ids and their
    order, so that replaying a model's own routes changes no bit; any other row is put in falling
    order of score, so that the order in which a dump has them has no effect.
    """
    shape = live_TK.shape
    live_TK = live_TK.reshape(-1, shape[-1])
    scores_TE = scores_TE.reshape(-1, scores_TE.shape[-1])
    given_TK, _ = _by_score(scores_TE, forced.ids_TK.long())
    given_TE = torch.zeros_like(scores_TE, dtype=torch.bool).scatter_(1, given_TK, True)
    keep_T = given_TE.gather(1, live_TK).all(dim=1)
    if forced.missing_T is not None:
        keep_T = keep_T | forced.missing_T
    return torch.where(keep_T[:, None], live_TK, given_TK).reshape(shape)


def _boundary(scores_TE: torch.Tensor, ids_TK: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The taken ids by falling score, and the least taken minus the best other score, float32.

    NaN where one score is: a top-k takes those first.
    """
    ids_TK, values_TK = _by_score(scores_TE, ids_TK)
    others_TE = scores_TE.scatter(1, ids_TK, float("-inf"))
    last_T, next_T = values_TK[:, -1].float(), others_TE.amax(dim=1).float()
    margin_T = torch.where(last_T == next_T, 0.0, last_T - next_T)
    return ids_TK, margin_T.masked_fill(values_TK[:, 0].isnan(), torch.nan)


def _by_score(scores_TE: torch.Tensor, ids_TK: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and their scores by falling score; equal scores keep their order."""
    values_TK, order_TK = scores_TE.gather(1, ids_TK).sort(dim=1, descending=True, stable=True)
    return ids_TK.gather(1, order_TK), values_TK
