"""``routectl check DUMP``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import RoutectlError
from .check_model import options_of_dump
from .options import (
    ExitZero,
    Force,
    Format,
    Html,
    Json,
    Model,
    NumExperts,
    NumLayers,
    Output,
    Start,
    TopK,
    model_from,
    open_input,
)
from .output import check_output, emit, note, watching
from .pages import page_at

if TYPE_CHECKING:
    from ..dump import Dump
    from ..ops.explained import Explanation

__all__ = ["check_command"]

_DUMP = typer.Argument(
    metavar="[DUMP]", show_default=False, help="A file, a folder or a glob; - is stdin."
)
_EXPLAIN = typer.Option(metavar="CODE", help="Print what a finding means, and read no dump.")
_FAIL_ON = typer.Option(help="The least severity to exit 1 for: error, warning or note.")
_EP = typer.Option(min=1, help="Count what filler adds to each expert-parallel rank of so many.")
_AGAINST = typer.Option(
    "--against", metavar="REFERENCE",
    help="A dump of the same tokens that is right: another engine's, or recomputed routes.",
)  # fmt: skip
_APPLY = typer.Option(
    "--apply-fix", help="With --against: write the dump with renumbered experts restored to -o."
)
_CODES = "Finding codes or their beginnings, as R2 or R102; repeatable, or with commas."


def check_command(
    dump: Annotated[str | None, _DUMP] = None,
    explain: Annotated[str | None, _EXPLAIN] = None,
    fail_on: Annotated[str, _FAIL_ON] = "error",
    select: Annotated[
        list[str] | None, typer.Option(metavar="CODE", help=f"Only these. {_CODES}")
    ] = None,
    ignore: Annotated[list[str] | None, typer.Option(metavar="CODE", help="Not these.")] = None,
    ep: Annotated[int, _EP] = 1,
    against: Annotated[str | None, _AGAINST] = None,
    apply_fix: Annotated[bool, _APPLY] = False,
    exit_zero: ExitZero = False,
    as_json: Json = False,
    html: Html = None,
    output: Output = None,
    force: Force = False,
    model: Model = None,
    num_layers: NumLayers = None,
    top_k: TopK = None,
    num_experts: NumExperts = None,
    form: Format = None,
    start: Start = None,
) -> int:
    """Say what is wrong with a dump: which bug, where, and what to do.

    From the dump alone: counts, ids, filler by position, constant layers, repeats, weight
    versions, groups. Against a reference: why the two differ, by what each hypothesis would leave
    of the mismatch. docs/checks.md lists every finding. Exit status: 0 no finding of the severity
    of --fail-on, 1 at least one, 2 trouble (the dump cannot be opened at all).
    """
    if explain is not None:
        return _explain(explain)
    if dump is None:
        raise RoutectlError("no dump is named", hint="routectl check --help")
    from ..findings import SEVERITIES
    from ..ops.check import check
    from ..reports.check import check_document
    from ..reports.check_terminal import render_check

    if fail_on not in SEVERITIES:
        raise RoutectlError(f"--fail-on {fail_on!r} is not known: {', '.join(SEVERITIES)}")
    wanted, left_out = _codes("--select", select), _codes("--ignore", ignore)
    target = check_output(output, force)
    page = page_at(html, force)
    if apply_fix and (target is None or against is None):
        raise RoutectlError("--apply-fix needs --against REFERENCE and -o DST.parquet")
    facts = model_from(model, num_layers, top_k, num_experts)
    opened = open_input(dump, facts, form, start)
    if opened.meta.num_experts % ep:
        raise RoutectlError(f"--ep {ep}: {opened.meta.num_experts} experts do not divide by it")
    options = options_of_dump(opened, facts, lambda wide: open_input(dump, wide, form, start), ep)
    reference = None if against is None else open_input(against, facts, form, start)
    with watching(opened, "checking") as watched:
        result = check(watched, reference, options=options).selected(wanted, left_out)
    other = None if reference is None else (reference.meta, len(reference))
    document = check_document(result, other, fail_on=fail_on)
    report = None if apply_fix else target
    page.write(document)
    emit(document, render_check, as_json=as_json, output=report, force=force)
    if apply_fix and target is not None and result.explanation is not None:
        _write_fixed(opened, result.explanation, target, force)
    return 0 if exit_zero else int(document["verdict"]["exit_code"])


def _write_fixed(dump: "Dump", found: "Explanation", target: Path, force: bool) -> None:
    """Write the dump with its experts renumbered as the reference has them."""
    from ..formats.native import write_native
    from ..ops.renumber import renumbered_dump

    if target.suffix != ".parquet":
        raise RoutectlError(f"{target}: --apply-fix writes native files: expected NAME.parquet")
    fixed = renumbered_dump(dump, found)
    count = write_native(fixed, fixed.meta, target, force=force)
    layers = ", ".join(str(layer) for layer, _ in found.permutations)
    note(f"wrote {target}: {count} samples, experts of layers {layers} renumbered")


def _explain(code: str) -> int:
    from ..findings import kind_of, known_codes
    from ..reports.check import explain_page

    if code not in known_codes():
        raise RoutectlError(f"--explain {code}: expected one of {', '.join(known_codes())}")
    print(explain_page(kind_of(code)))
    return 0


def _codes(flag: str, given: list[str] | None) -> list[str]:
    """Codes or their beginnings; RoutectlError for one that no code begins with."""
    from ..findings import known_codes

    words = [word.strip() for text in given or () for word in text.split(",") if word.strip()]
    for word in words:
        if not any(code.startswith(word) for code in known_codes()):
            raise RoutectlError(f"{flag} {word}: no finding's code begins so",
                                hint="docs/checks.md lists them")  # fmt: skip
    return words
