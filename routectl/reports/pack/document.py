"""What verify found, as a JSON document."""

from ...dump import DumpMeta
from ...ops.pack.declared import Declared
from ...ops.pack.verify import Verification, WrongRow
from ...ops.pack.wrong import WrongLayer
from .hints import hint_of
from .schema import DeclaredEntry, SuspectPlace, VerifyDocument, WrongLayerEntry, WrongRowEntry

__all__ = ["verified_document"]

_MOST = 1000  # layers of files that are listed


def verified_document(found: Verification, folder: str, meta: DumpMeta) -> VerifyDocument:
    """The result of verify as one JSON document, schema routectl.verify/1."""
    tally, landed = found.tally, found.landed
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
        "unusable_files": found.unusable,
        "changed_files": list(found.changed),
        "rows": tally.rows,
        "rows_wrong": tally.wrong,
        "rows_reordered": tally.reordered,
        "routes": None if landed is None else landed.routes,
        "routes_absent": None if landed is None else landed.absent,
        "routes_repeated": None if landed is None else landed.repeated,
        "rows_masked": tally.masked,
        "rows_unmasked": tally.unmasked,
        "rows_missing": tally.missing,
        "rows_made_up": tally.made_up,
        "padding_rows": dict(sorted(tally.padding.items())),
        "ep": found.ep,
        "ep_imbalance": found.imbalance,
        "ep_imbalance_padding": found.imbalance_padding,
        "wrong": _wrong_layers(found),
        "examples": [_wrong_row(row, found.names.get(row.sample)) for row in tally.examples],
        "moves": [
            {
                "place": {axis: own for axis, own, _ in move.axes},
                "holds": {axis: other for axis, _, other in move.axes},
                "files": move.files,
            }
            for move in found.moves
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
        "suspects_of": _place(found),
        "layout": None if found.declared is None else _declared(found.declared),
        "hint": hint_of(found),
        "verdict": {"exit_code": int(not found.ok)},
    }


def _wrong_layers(found: Verification) -> list[WrongLayerEntry]:
    """The layers of files with wrong rows, those with most first."""
    wrong = [
        (name, layer, one)
        for name, layers in found.tally.wrong_at.items()
        for layer, one in layers.items()
        if one.wrong
    ]
    worst = sorted(wrong, key=lambda w: (-w[2].wrong, *w[:2]))[:_MOST]
    return [_wrong_layer(*one) for one in worst]


def _wrong_layer(name: str, layer: int, one: WrongLayer) -> WrongLayerEntry:
    """A layer of a file, and what explains its wrong rows."""
    ids = one.renamed
    by = set() if ids is None else {held - expert for expert, held in ids.items()}
    return {
        "file": name,
        "layer": layer,
        "rows": one.rows,
        "rows_wrong": one.wrong,
        "rows_shifted": 0 if one.shift is None else one.shifted[one.shift],
        "shift": one.shift,
        "holds": one.holds,
        "filled": None if one.filled is None else list(one.filled),
        "renamed": None if ids is None else sum(held != n for n, held in ids.items()),
        "renamed_by": by.pop() if len(by) == 1 else None,
    }


def _declared(said: Declared) -> DeclaredEntry:
    """The layout that the files were held against."""
    packing, named = said.packing, said.named
    return {
        "framework": packing.framework,
        "form": packing.form,
        "dp": packing.dp,
        "cp": packing.cp,
        "tp": packing.tp,
        "pp": packing.pp,
        "vpp": packing.vpp,
        "micro_batches": packing.num_micro_batches,
        "from_manifest": said.from_manifest,
        "assumed": list(said.assumed),
        "named": {
            "dp": named.dp,
            "cp": named.cp,
            "tp": named.tp,
            "pp": named.pp,
            "micro_batches": named.micro_batches,
        },
    }


def _wrong_row(row: WrongRow, sample_id: str | None) -> WrongRowEntry:
    return {
        "file": row.place,
        "layer": row.layer,
        "row": row.row,
        "sample": row.sample,
        "sample_id": sample_id,
        "position": row.position,
        "got": list(row.got),
        "expected": list(row.expected),
    }


def _place(found: Verification) -> SuspectPlace | None:
    """Where other layouts were tried."""
    if found.judged is None:
        return None
    micro_batch, pp, layer = found.judged
    return {"micro_batch": micro_batch, "pp": pp, "layer": layer}
