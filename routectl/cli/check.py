"""``routectl check DUMP``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import RoutectlError
from ..jobs.check.request import CheckRequest, answer_check
from ..jobs.reading import Reading
from .dashboards import Step, Tensorboard, Wandb, dashboards_to
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
    Plain,
    Start,
    TopK,
)
from .output import check_output, emit, note, watching
from .pages import page_at

if TYPE_CHECKING:
    from ..dump import Dump
    from ..ops.check.results import Explanation

__all__ = ["check_command"]

_DUMP = typer.Argument(
    metavar="[DUMP]", show_default=False, help="A file, a folder or a glob; - is stdin."
)
_EXPLAIN = typer.Option(metavar="CODE", help="Print what a finding means, and read no dump.")
_FAIL_ON = typer.Option(help="The least severity to exit 1 for: error, warning or note.")
_EP = typer.Option(min=1, help="Count what filler adds to each expert-parallel rank of so many.")
_AGAINST = typer.Option(
    "--against",
    metavar="REFERENCE",
    help="A dump of the same tokens that is right: another engine's, or recomputed routes.",
)
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
    plain: Plain = False,
    html: Html = None,
    tensorboard: Tensorboard = None,
    wandb_offline: Wandb = None,
    step: Step = None,
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
    from ..reports.check.text import render_check

    request = CheckRequest(
        dump=dump,
        fail_on=fail_on,
        select=tuple(select or ()),
        ignore=tuple(ignore or ()),
        ep=ep,
        against=against,
        reading=Reading(
            model=model,
            num_layers=num_layers,
            top_k=top_k,
            num_experts=num_experts,
            format=form,
            start=start,
        ),
    )
    target = check_output(output, force)
    page = page_at(html, force)
    boards = dashboards_to(tensorboard, wandb_offline, step)
    if apply_fix and (target is None or against is None):
        raise RoutectlError("--apply-fix needs --against REFERENCE and -o DST.parquet")
    checked = answer_check(request)
    document = checked.document
    report = None if apply_fix else target
    page.write(document)
    boards.write(document)
    emit(document, render_check, as_json=as_json, plain=plain, output=report, force=force)
    if apply_fix and target is not None and checked.explanation is not None:
        _write_fixed(checked.dump, checked.explanation, target, force)
    return 0 if exit_zero else int(document["verdict"]["exit_code"])


def _write_fixed(dump: "Dump", found: "Explanation", target: Path, force: bool) -> None:
    """Write the dump with its experts renumbered as the reference has them."""
    from ..formats.native.container import write_native
    from ..ops.check.layers import renumbered_dump

    if target.suffix != ".parquet":
        raise RoutectlError(f"{target}: --apply-fix writes native files: expected NAME.parquet")
    fixed = renumbered_dump(dump, found)
    with watching(fixed, "writing") as watched:
        count = write_native(watched, fixed.meta, target, force=force)
    layers = ", ".join(str(layer) for layer, _ in found.permutations)
    note(f"wrote {target}: {count} samples, experts of layers {layers} renumbered")


def _explain(code: str) -> int:
    from ..ops.check.findings import kind_of, known_codes
    from ..reports.check.document import explain_page

    if code not in known_codes():
        raise RoutectlError(f"--explain {code}: expected one of {', '.join(known_codes())}")
    print(explain_page(kind_of(code)))
    return 0
