"""What pack wrote and what verify found, as terminal text."""

from collections.abc import Iterator, Sequence

from rich.console import Console

from ..text.tables import Headline, print_lines, under_verdict
from ..text.wording import amount, bytes_text, layers_text, part_text, percent, plural
from .schema import (
    DeclaredEntry,
    LayoutEntry,
    MoveEntry,
    PackDocument,
    SuspectEntry,
    VerifyDocument,
    WrongLayerEntry,
)

__all__ = [
    "packed_headline",
    "packed_lines",
    "render_packed",
    "render_verified",
    "verified_firsts",
    "verified_headline",
    "verified_lines",
    "verified_short",
]

_SOME = 3  # files of a kind that are named
_NAMED = 1  # of those that are not wrong for it
_SHIFTED = {  # by how many positions later the token is whose routes rows hold
    1: "shifted by one row: they hold the routes of the next token",
    -1: "shifted by one row: they hold the routes of the token before",
    2: "shifted by two rows: they hold the routes of the token after the next",
    -2: "shifted by two rows: they hold the routes of the token before the last",
}


def _layout_line(layout: LayoutEntry, micro_batches: int) -> str:
    pipeline = layout["pipeline"]
    pp, vpp = (1, 1) if pipeline is None else (pipeline["pp"], pipeline["vpp"])
    sizes = {"dp": layout["dp"], "cp": layout["cp"], "tp": layout["tp"], "pp": pp, "vpp": vpp}
    return _told_layout(layout["framework"], layout["form"], sizes, micro_batches)


def _told_layout(framework: str, form: str, sizes: dict[str, int], micro_batches: int) -> str:
    parts = [f"{name} {size}" for name, size in sizes.items() if size > 1]
    return f"{', '.join([framework, form, *parts])}; {plural(micro_batches, 'micro-batch')}"


def _declared_line(layout: DeclaredEntry) -> str:
    """The layout that files were held against, and what of it nobody said."""
    sizes = {
        "dp": layout["dp"],
        "cp": layout["cp"],
        "tp": layout["tp"],
        "pp": layout["pp"],
        "vpp": layout["vpp"],
    }
    told = _told_layout(layout["framework"], layout["form"], sizes, layout["micro_batches"])
    assumed = layout["assumed"]
    if not {"framework", "max-tokens-per-gpu"} & {*assumed}:
        return told
    if {"framework", "tp", "cp", "pp", "dp"} <= {*assumed}:
        return f"{told}  (assumed: no manifest, and --layout does not say it)"
    parts = ["framework"] * ("framework" in assumed)
    parts += ["one micro-batch a rank"] * ("max-tokens-per-gpu" in assumed)
    return f"{told}  (assumed: {', '.join(parts)})"


def packed_lines(manifest: PackDocument) -> Iterator[tuple[str, str]]:
    """What was packed, in which layout, how much is padding, each with its label."""
    layout, tensors, source = manifest["layout"], manifest["tensors"], manifest["source"]
    steps = 1 + max((file["micro_batch"] for file in manifest["files"]), default=0)
    samples = f"{plural(len(layout['lens']), 'sample')}, {plural(sum(layout['lens']), 'token')}"
    shape = f"{layers_text(tensors['layers'])}, top-{tensors['top_k']} of {tensors['num_experts']}"
    yield "dump", f"{source['path']}  ({samples}, {shape})"
    yield "layout", _layout_line(layout, steps)
    skipped = manifest.get("skipped", [])
    if skipped:
        yield "skipped", f"{plural(len(skipped), 'damaged sample')}"
    share = percent(manifest["padding_rows"] / max(manifest["rows"], 1))
    padding = f"{amount(manifest['padding_rows'])} ({share}) without a route: {tensors['padding']}"
    yield "rows", f"{amount(manifest['rows'])} a layer, {padding}; {tensors['dtype']}"
    for warning in manifest.get("warnings", []):
        yield "warning", warning


def packed_headline(manifest: PackDocument) -> Headline:
    """What was written, as the first line."""
    size = f"{plural(len(manifest['files']), 'file')}, {bytes_text(manifest['bytes'])}"
    return Headline("PACKED", "bold green", size)


def render_packed(manifest: PackDocument, console: Console) -> None:
    """A manifest in a few lines."""
    with under_verdict(console, packed_headline(manifest)):
        print_lines(console, packed_lines(manifest))


def _suspect_line(suspect: SuspectEntry) -> str:
    options = [
        f"no {name}" if value is None else f"{name} {value}"
        for name, value in suspect["options"].items()
    ]
    parts = [f"{', '.join([*suspect['frameworks'], *options])} ({suspect['form']})"]
    if suspect["shift"]:
        parts.append(f"rows of the token {suspect['shift']:+d} away")
    if suspect["layer_shift"]:
        parts.append(f"of the MoE layer {suspect['layer_shift']:+d} away")
    return f"{percent(suspect['rate'])} of rows match {', '.join(parts)}"


def _suspect_lines(doc: VerifyDocument) -> Iterator[str]:
    """Layouts that tensors match; one line where that is the one that was said."""
    said, suspects = doc.get("layout"), doc["suspects"]
    for suspect in suspects:
        own = said is not None and (
            said["framework"] in suspect["frameworks"] and said["form"] == suspect["form"]
        )
        if own and not (suspect["shift"] or suspect["layer_shift"] or suspect["options"]):
            yield f"{percent(suspect['rate'])} of rows match the layout as it is, no other more"
            return
    yield from map(_suspect_line, suspects)


def _rank_text(place: dict[str, int]) -> str:
    return "-".join(f"{axis}{n}" for axis, n in place.items() if axis != "mb")


def _move_lines(moves: list[MoveEntry]) -> Iterator[str]:
    """Whose rows are where; micro-batches that are late by as many are told of together."""
    late: dict[int, dict[int, int]] = {}  # files by micro-batch
    for move in moves:
        place, holds, files = move["place"], move["holds"], plural(move["files"], "file")
        if set(place) == {"mb"}:
            late.setdefault(place["mb"] - holds["mb"], {})[place["mb"]] = move["files"]
        elif "mb" in place:
            own = f"rank {_rank_text(place)}, micro-batch {place['mb']}"
            yield f"{own} holds micro-batch {holds['mb']}'s rows of {_rank_text(holds)} ({files})"
        else:
            yield f"rank {_rank_text(place)} holds {_rank_text(holds)}'s rows ({files})"
    for by, which in sorted(late.items(), key=lambda entry: -len(entry[1])):
        files, steps = plural(sum(which.values()), "file"), [*which]
        if len(steps) == 1:
            yield f"micro-batch {steps[0]} holds {steps[0] - by}'s rows ({files})"
        else:
            listed = ", ".join(map(str, steps[:8])) + (", ..." if len(steps) > 8 else "")
            yield f"micro-batch i holds i{-by:+d}'s rows: i = {listed} ({files})"


def _checks(doc: VerifyDocument) -> Iterator[tuple[str, str]]:
    """The lines between the verdict and the examples, each with its label."""
    yield "tensors", f"{doc['folder']}  ({plural(doc['files'], 'file')})"
    yield "dump", doc["dump"]
    layout = doc.get("layout")
    if layout is not None:
        yield "layout", _declared_line(layout)
    yield from _file_lines(doc)
    routes, absent, repeated = doc["routes"], doc["routes_absent"], doc["routes_repeated"]
    if routes is None or absent is None or repeated is None:
        yield "once", "not checked: only some ranks were asked for"
    else:
        told = f"{amount(absent)} on no rank, {amount(repeated)} more than once"
        yield "once", f"{plural(routes, 'route')}: {told}"
    if doc["rows_reordered"]:
        yield "order", f"{plural(doc['rows_reordered'], 'row')} in another slot order"
    if doc["rows_masked"] or doc["rows_unmasked"]:
        masked, unmasked = amount(doc["rows_masked"]), amount(doc["rows_unmasked"])
        yield "mask", f"{masked} routes marked as padding, {unmasked} padding rows marked as real"
    if doc["rows_missing"]:
        made_up = doc["rows_made_up"]
        told = (
            f"{amount(made_up)} hold ids that a router would replay" if made_up else "none made up"
        )
        hint = "; --allow-missing if the trainer heeds the mask" if made_up else ""
        yield (
            "missing",
            f"{plural(doc['rows_missing'], 'row')} of tokens without a route: {told}{hint}",
        )
    kinds = (f"{amount(n)} {kind}" for kind, n in doc["padding_rows"].items())
    yield "padding", ", ".join(kinds) or "none"
    if doc["ep"] > 1 and doc["ep_imbalance"] is not None:
        filler = doc["ep_imbalance_padding"]
        alone = "" if filler is None else f", padding alone {filler:.3f} x"
        busiest = f"busiest of {doc['ep']} EP ranks, worst layer"
        yield "load", f"{busiest}: {doc['ep_imbalance']:.3f} x mean{alone}"


def _file_lines(doc: VerifyDocument) -> Iterator[tuple[str, str]]:
    """What is wrong with files, of each kind the first three."""
    kinds = (
        ("file", doc["absent_files"], ": not there", _SOME),
        ("file", doc["extra_files"], ": the layout has no such rank and micro-batch", _SOME),
        ("file", doc["misfits"], "", _SOME),
        ("file", doc["faults"], "", _SOME),
        ("changed", doc["changed_files"], ": its bytes are not those of the manifest", _NAMED),
    )
    for label, lines, what, some in kinds:
        for i, line in enumerate(lines[:some], 1):
            more = f" (and {len(lines) - some} more)" if i == some < len(lines) else ""
            yield label, f"{line}{what}{more}"


def _wrong_lines(doc: VerifyDocument) -> Iterator[tuple[str, str]]:
    """Where wrong rows are, a line a file, those with most first, and what explains them."""
    files: dict[str, list[WrongLayerEntry]] = {}
    for entry in doc["wrong"]:
        files.setdefault(entry["file"], []).append(entry)
    worst = sorted(files.items(), key=lambda f: -sum(e["rows_wrong"] for e in f[1]))
    for i, (name, layers) in enumerate(worst[:_SOME], 1):
        where = layers_text(sorted(e["layer"] for e in layers))
        wrong, rows = (sum(e[key] for e in layers) for key in ("rows_wrong", "rows"))
        told = f"{name}: {where}: {amount(wrong)} of {plural(rows, 'row')}"
        told += _shift_text(layers) or _holds_text(layers) or _content_text(layers)
        left = len(worst) - _SOME if i == _SOME else 0
        yield "wrong", told + (f" (and {plural(left, 'file')} more)" if left > 0 else "")


def _shift_text(layers: list[WrongLayerEntry]) -> str:
    """The shift that explains all of them, where one does."""
    shifts = {e["shift"] for e in layers}
    shift = shifts.pop() if len(shifts) == 1 else None
    return "" if shift is None else f", {_SHIFTED[shift]}"


def _content_text(layers: list[WrongLayerEntry]) -> str:
    """What is said of what wrong rows hold, where it is said of all layers."""
    filled = {tuple(e.get("filled") or ()) for e in layers}
    if len(filled) == 1 and () not in filled:
        return f", which all hold {list(filled.pop())}"
    if not all(e.get("renamed") for e in layers):
        return ""
    by = {e.get("renamed_by") for e in layers}
    how = by.pop() if len(by) == 1 else None
    if how is not None:
        return f", in which every id is the expert's {how:+d}"
    return ", in which experts have other ids, one for one: physical ids?"


def _holds_text(layers: list[WrongLayerEntry]) -> str:
    """Whose routes layers hold, the first of them."""
    held = [
        f"layer {e['layer']} holds layer {e['holds']}'s routes"
        for e in sorted(layers, key=lambda e: e["layer"])
        if e["holds"] is not None
    ]
    more = f" (and {plural(len(held) - _SOME, 'layer')} more)" if held[_SOME:] else ""
    return "".join(f", {one}" for one in held[:_SOME]) + more


def _wrong_files(doc: VerifyDocument) -> Iterator[str]:
    """What is wrong with files as such, each with how many."""
    unusable = doc.get("unusable_files", len(doc["misfits"]) + len(doc["faults"]))
    kinds = (
        (len(doc["absent_files"]), "not there"),
        (unusable, "that cannot be used"),
        (len(doc["extra_files"]), "too many"),
    )
    for count, how in kinds:
        if count:
            yield f"{plural(count, 'file')} {how}"


def _wrong_beside(doc: VerifyDocument) -> Iterator[str]:
    """What is wrong with routes where every row that is there is right."""
    kinds = (
        (doc["routes_absent"] or 0, "route", "on no rank"),
        (doc["routes_repeated"] or 0, "route", "more than once"),
        (doc["rows_masked"], "route", "marked as padding"),
        (doc["rows_unmasked"], "padding row", "marked as real"),
        (doc["rows_made_up"], "row", "made up"),
        (doc["padding_rows"].get("outside", 0), "padding row", "with ids that are no expert"),
    )
    for count, what, how in kinds:
        if count:
            yield f"{plural(count, what)} {how}"


def verified_headline(doc: VerifyDocument) -> Headline:
    """The verdict as a line."""
    word, style = ("VERIFIED", "bold green") if doc["ok"] else ("WRONG", "bold red")
    rows = f"{amount(doc['rows_wrong'])} of {plural(doc['rows'], 'row')} wrong{_where(doc)}"
    if not doc["rows"]:
        rows = "no route belongs on these ranks" if doc["ok"] else "no row could be compared"
    elif doc["ok"]:
        rows = f"{plural(doc['rows'], 'row')}, every one its token's route"
    elif not doc["rows_wrong"]:
        rows = ""
    rest = [] if doc["ok"] else [*_wrong_files(doc)]
    rest += [] if rows else _wrong_beside(doc)
    changed = len(doc["changed_files"])
    if changed and not doc["ok"]:
        rest.append(f"{plural(changed, 'file')} changed since written")
    return Headline(word, style, "; ".join(filter(None, [rows, ", ".join(rest)])) + part_text(doc))


def _where(doc: VerifyDocument) -> str:
    """In how many files, and in which layers, wrong rows are."""
    files = {entry["file"] for entry in doc["wrong"]}
    layers = {entry["layer"] for entry in doc["wrong"]}
    return f" in {plural(len(files), 'file')}, {layers_text(sorted(layers))}" if files else ""


def verified_lines(doc: VerifyDocument) -> Iterator[tuple[str, str]]:
    """What was checked, then what went wrong and what fits, each with its label."""
    yield from _checks(doc)
    yield from _wrong_lines(doc)
    for line in _move_lines(doc["moves"]):
        yield "holds", line
    yield from (("matches", line) for line in _suspect_lines(doc))
    explained = doc["wrong"] and all(
        any(entry.get(key) is not None for key in ("shift", "holds", "filled", "renamed"))
        for entry in doc["wrong"]
    )
    hint = doc.get("hint")
    if not doc["suspects"] and doc["suspects_of"] and not explained and hint is None:
        yield "matches", "no layout that is known"
    if hint is not None:
        yield "hint", hint
    for e in doc["examples"]:
        where = f"{e['file']} layer {e['layer']} row {e['row']}"
        name = e.get("sample_id") or f"#{e['sample']}"
        whose = f"sample {name} position {e['position']}"
        yield "row", f"{where}: got {e['got']}, {whose} has {e['expected']}"


def verified_firsts(doc: VerifyDocument, labels: Sequence[str]) -> Iterator[tuple[str, str]]:
    """The first line of each of some labels, where there is one."""
    first: dict[str, str] = {}
    for label, text in verified_lines(doc):
        first.setdefault(label, text)
    yield from ((label, first[label]) for label in labels if label in first)


def verified_short(doc: VerifyDocument) -> list[str]:
    """The verdict, the layout, and what is wrong: the first line of each kind."""
    labels = ("layout", "file", "wrong", "holds", "matches", "hint")
    told = (f"{label}: {text}" for label, text in verified_firsts(doc, labels))
    return [str(verified_headline(doc)), *told]


def render_verified(doc: VerifyDocument, console: Console) -> None:
    """The verdict first, then each thing that was checked, then what went wrong and what fits."""
    with under_verdict(console, verified_headline(doc)):
        print_lines(console, verified_lines(doc))
