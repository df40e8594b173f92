"""Every document that a command writes with -o has a text, and so every form."""

import re

from routectl.reports.page.page import VIEWED
from support.house import HOUSE

PARTS = {  # documents, or parts of them, that -o never writes
    "routectl.detail/1",
    "routectl.baseline/1",
    "routectl.watch/1",  # lines
    "routectl.pack/1",  # the manifest of a folder
    "routectl.written/1",  # of what --save wrote, as --json prints it
}


def test_every_document_has_a_view():
    """Each schema of reports/ is viewed, but for the parts and lines named here."""
    found = set()
    for path in (HOUSE / "reports").rglob("schema.py"):
        found |= set(re.findall(r'Literal\["(routectl\.\w+/\d+)"\]', path.read_text("utf-8")))
    assert len(found) > 9
    assert found - PARTS == set(VIEWED)
