"""What --verify found, as a JSON document."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...dump import DumpMeta
from ...ops.pack.verify import Verification

__all__ = ["verified_document"]


def _imbalance(load_LE: NDArray[np.int64], ep: int) -> float | None:
    """The most loaded EP rank's share over the mean, in the worst layer; None without load."""
    by_rank = load_LE.reshape(len(load_LE), ep, -1).sum(axis=2)
    there = by_rank[by_rank.sum(axis=1) > 0]
    return float((there.max(axis=1) * ep / there.sum(axis=1)).max()) if len(there) else None


def verified_document(found: Verification, folder: str, meta: DumpMeta) -> dict[str, Any]:
    """The result of --verify as one JSON document, schema routectl.verify/1."""
    tally, landed = found.tally, found.landed
    divides = tally.num_experts % found.ep == 0
    return {
        "schema": "routectl.verify/1",
        "ok": found.ok,
        "folder": folder,
        "dump": meta.path,
        "files": found.files,
        "absent_files": list(found.absent_files),
        "misfits": list(found.misfits),
        "extra_files": list(found.extra_files),
        "faults": list(found.faults),
        "changed_files": list(found.changed),
        "rows": tally.rows,
        "rows_wrong": tally.wrong,
        "rows_reordered": tally.reordered,
        "routes": None if landed is None else landed.routes,
        "routes_absent": None if landed is None else landed.absent,
        "routes_repeated": None if landed is None else landed.repeated,
        "rows_masked": tally.masked,
        "rows_unmasked": tally.unmasked,
        "padding_rows": dict(sorted(tally.padding.items())),
        "ep": found.ep,
        "ep_imbalance": _imbalance(tally.load_LE, found.ep) if divides else None,
        "ep_imbalance_padding": _imbalance(tally.filler_LE, found.ep) if divides else None,
        "examples": [
            {
                "file": e.place,
                "layer": e.layer,
                "row": e.row,
                "sample": e.sample,
                "position": e.position,
                "got": list(e.got),
                "expected": list(e.expected),
            }
            for e in tally.examples
        ],
        "suspects": [
            {
                "frameworks": list(s.frameworks),
                "form": s.form,
                "shift": s.shift,
                "layer_shift": s.layer_shift,
                "rate": s.rate,
                "options": dict(s.options),
            }
            for s in found.suspects
        ],
        "suspects_of": None
        if found.judged is None
        else dict(zip(("micro_batch", "pp", "layer"), found.judged, strict=True)),
    }
