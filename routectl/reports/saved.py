"""What a command wrote with --save, as a JSON document, routectl.saved/1."""

from typing import Literal, TypedDict

__all__ = ["SavedDocument", "saved_document"]


class SavedDocument(TypedDict):
    """routectl.saved/1.

    path      what was written; - is stdout
    format    native, or the name of a trainer's form
    samples   that are in it
    dropped   samples that are not: their rows are missing, or the server refused them
    left_out  what samples had and the form has no place for, in words
    bytes     of the file, or of the files in the folder; None of a stream
    """

    schema: Literal["routectl.saved/1"]
    path: str
    format: str
    samples: int
    dropped: int
    left_out: list[str]
    bytes: int | None


def saved_document(
    path: str,
    form: str,
    samples: int,
    size: int | None,
    *,
    dropped: int = 0,
    left_out: tuple[str, ...] = (),
) -> SavedDocument:
    """The document of a file of ``size`` bytes with so many samples."""
    return {
        "schema": "routectl.saved/1",
        "path": path,
        "format": form,
        "samples": samples,
        "dropped": dropped,
        "left_out": list(left_out),
        "bytes": size,
    }
