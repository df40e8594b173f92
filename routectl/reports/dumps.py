"""A dump that was written, as a JSON document."""

from typing import Literal, TypedDict, Unpack

__all__ = ["WrittenDocument", "WrittenExtras", "written_document"]


class WrittenExtras(TypedDict, total=False):
    """What convert and capture say beside it.

    format is native, jsonl, a trainer's form, or dictionary. dropped counts samples that are not in
    it: their rows are missing, or the server refused them. left_out is what samples had and the
    form has no place for. bytes are those of the file, or of the files in the folder; None of a
    stream.
    """

    format: str
    dropped: int
    left_out: list[str]
    bytes: int | None


class WrittenDocument(WrittenExtras):
    """What commands with --save print with --json; source is what the dump was made of."""

    schema: Literal["routectl.written/1"]
    source: str
    saved: str
    samples: int


def written_document(
    source: str, saved: str, samples: int, **more: Unpack[WrittenExtras]
) -> WrittenDocument:
    """The document of a dump that was written, schema routectl.written/1."""
    document: WrittenDocument = {
        "schema": "routectl.written/1",
        "source": source,
        "saved": saved,
        "samples": samples,
    }
    document.update(more)  # type: ignore[typeddict-item]
    return document
