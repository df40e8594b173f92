"""The answer of partials of ``routectl diff``, added up."""

from typing import TYPE_CHECKING

from ..asked import asked_of
from ..compared.counted import CountedPairs
from ..shards.parting import Mergeable
from .request import DiffRequest, judge_counted

if TYPE_CHECKING:
    from ...reports.document import Document

__all__ = ["MERGEABLE"]


def _answer(counted: CountedPairs, request: DiffRequest) -> "Document":
    """The document that ``routectl diff`` gives for all parts at once."""
    document = judge_counted(request, counted).document
    document["asked"] = asked_of(request)
    return document


MERGEABLE = Mergeable(CountedPairs, DiffRequest, _answer)
