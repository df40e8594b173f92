"""The tokens of a file of layers, out of a second file: a dump, train data or one sequence."""

import json
from collections.abc import Sequence
from pathlib import Path

from ..dump import Dump, Sample
from ..errors import FormatError
from ..model import ModelFacts
from .documents.fields import token_ids

__all__ = ["read_tokens"]

_MAX_BYTES = 256 << 20


def read_tokens(path: Path, model: ModelFacts | str | Path | None) -> Dump | Sequence[Sample]:
    """The samples of a file, for their tokens.

    A JSON list of token ids is one prompt (miles' run_megatron has it so, its token_ids_file);
    slime's train data has its samples; anything else is opened as a dump of ``model``.
    """
    with path.open("rb") as stream:
        head = stream.read(64)
    if head.lstrip()[:1] == b"[" and path.stat().st_size <= _MAX_BYTES:
        prompt = _prompt(path)
        if prompt is not None:
            return (prompt,)
    if head.startswith(b"PK") and b"/data.pkl" in head:
        from ..pickled.torch_files import load_torch
        from .trainers.train_data import is_train_data, train_data_of

        doc = load_torch(path)
        if is_train_data(doc):
            return train_data_of(doc, path).samples
    from . import open_dump

    return open_dump(path, model=model)


def _prompt(path: Path) -> Sample | None:
    """A JSON list of token ids as one sequence; None for any other JSON."""
    try:
        doc = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError):
        return None
    if not isinstance(doc, list) or not all(type(item) is int for item in doc):
        return None
    ids = token_ids(doc, str(path), "tokens")
    if ids is None or not len(ids):
        raise FormatError(f"{path}: an empty list, expected token ids")
    return Sample(
        routes=None,
        sample_id=path.stem,
        prompt_ids=ids,
        response_ids=ids[:0],
        prompt_length=len(ids),
        response_length=0,
    )
