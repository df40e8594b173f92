"""The documents' types, and the JSON Schema that msgspec makes of one."""

from inspect import cleandoc
from typing import Any

import msgspec

from routectl.reports.beside.schema import BesideDocument
from routectl.reports.cache.schema import CacheDocument
from routectl.reports.check.schema import CheckDocument, WatchDocument
from routectl.reports.ci.schema import BaselineDocument, CiDocument
from routectl.reports.diff.schema import DetailDocument, DiffDocument
from routectl.reports.dumps import WrittenDocument
from routectl.reports.pack.schema import PackDocument, VerifyDocument
from routectl.reports.predict.schema import PredictDocument
from routectl.reports.recompute.schema import RecomputeDocument
from routectl.reports.show.schema import (
    CheckpointDocument,
    LoadsDocument,
    OutlineDocument,
    ShowDocument,
)
from routectl.reports.staleness.schema import SeriesDocument, StalenessDocument

__all__ = ["TYPES", "json_schema"]

TYPES: dict[str, Any] = {
    "baseline": BaselineDocument,
    "beside": BesideDocument,
    "cache": CacheDocument,
    "check": CheckDocument,
    "checkpoint": CheckpointDocument,
    "ci": CiDocument,
    "detail": DetailDocument,
    "diff": DiffDocument,
    "loads": LoadsDocument,
    "outline": OutlineDocument,
    "pack": PackDocument,
    "predict": PredictDocument,
    "recompute": RecomputeDocument,
    "show": ShowDocument,
    "staleness": StalenessDocument,
    "staleness_series": SeriesDocument,
    "verify": VerifyDocument,
    "watch": WatchDocument,
    "written": WrittenDocument,
}


def json_schema(name: str) -> dict[str, Any]:
    """The JSON Schema of a document; open, since keys are added within a number."""
    made = msgspec.json.schema(TYPES[name])
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"routectl.{name}/1",
        **_without_indents(made),
    }


def _without_indents(node: Any) -> Any:
    """Descriptions without the indents of docstrings, which Python 3.13 takes away itself."""
    if isinstance(node, list):
        return [_without_indents(one) for one in node]
    if not isinstance(node, dict):
        return node
    return {
        key: cleandoc(value)
        if key == "description" and isinstance(value, str)
        else _without_indents(value)
        for key, value in node.items()
    }
