"""The answer of partials of ``routectl show``, added up."""

from typing import TYPE_CHECKING

from ..shards.parting import Mergeable
from .request import ShowRequest
from .work import CountedDump

if TYPE_CHECKING:
    from ...reports.document import Document

__all__ = ["MERGEABLE"]


def _answer(counted: CountedDump, _: ShowRequest) -> "Document":
    """The document that ``routectl show`` gives for all parts at once, with what a page shows."""
    from ...reports.show.document import summary_document

    summary, lift = counted.result()
    return summary_document(summary, lift=lift, detail=True)


MERGEABLE = Mergeable(CountedDump, ShowRequest, _answer)
