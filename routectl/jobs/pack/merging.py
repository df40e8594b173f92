"""The answer of partials of ``routectl verify``, added up."""

from typing import TYPE_CHECKING

from ...ops.pack.partial import VerifyPartial
from ..progress import SILENT
from ..shards.parting import Mergeable
from .request import VerifyRequest, verify_work

if TYPE_CHECKING:
    from ...reports.document import Document

__all__ = ["MERGEABLE"]


def _answer(counted: VerifyPartial, request: VerifyRequest) -> "Document":
    """The document that ``routectl verify`` gives for all parts at once.

    The folder and the dump are opened again: what is wrong is looked at in both.
    """
    from ...reports.pack.document import verified_document

    here = verify_work(request, SILENT).folder()
    return verified_document(here.result(counted), str(request.folder), here.job.dump.meta)


MERGEABLE = Mergeable(VerifyPartial, VerifyRequest, _answer)
