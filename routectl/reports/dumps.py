"""A dump that was written, as a JSON document."""

from typing import Literal, TypedDict

__all__ = ["WrittenDocument", "written_document"]


class WrittenDocument(TypedDict):
    """What unpack and predict write print with --json; source is what it was made of."""

    schema: Literal["routectl.written/1"]
    source: str
    saved: str
    samples: int


def written_document(source: str, saved: str, samples: int) -> WrittenDocument:
    """The document of a dump that was written, schema routectl.written/1."""
    return {"schema": "routectl.written/1", "source": source, "saved": saved, "samples": samples}
