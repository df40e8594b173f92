"""The answer of partials of ``routectl staleness``, added up."""

from typing import TYPE_CHECKING

from ...ops.staleness.counting import StalenessCounts
from ..progress import SILENT
from ..shards.parting import Mergeable
from .request import StalenessRequest, question_of

if TYPE_CHECKING:
    from ...reports.document import Document

__all__ = ["MERGEABLE"]


def _answer(counted: StalenessCounts, request: StalenessRequest) -> "Document":
    """The document that ``routectl staleness`` gives for all parts at once."""
    return question_of(request, SILENT).judged(counted)[1]


MERGEABLE = Mergeable(StalenessCounts, StalenessRequest, _answer)
