"""The answer of partials of ``routectl check``, added up."""

from typing import TYPE_CHECKING

from ...ops.check.check import CheckPartial
from ..progress import SILENT
from ..shards.parting import Mergeable
from .request import CheckRequest, judged_check, opened_work

if TYPE_CHECKING:
    from ...reports.document import Document

__all__ = ["MERGEABLE"]


def _answer(counted: CheckPartial, request: CheckRequest) -> "Document":
    """The document that ``routectl check`` gives for all parts at once.

    The dump is opened again: what some samples teach, and rows that nothing explained, are read.
    """
    return judged_check(request, opened_work(request, SILENT), counted).document


MERGEABLE = Mergeable(CheckPartial, CheckRequest, _answer)
