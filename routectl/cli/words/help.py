"""Help as it is printed: words stay whole, shared options are named in the last line."""

from collections.abc import Mapping
from dataclasses import MISSING, Field
from typing import Any

import typer
from typer.core import TyperCommand

from ...errors import RoutectlError
from ...jobs.options import Option

__all__ = ["HELP", "SHARED", "HelpedCommand", "Wording"]

SHARED = {  # options that many commands have: told here once, and by name in each command's help
    "--json": "Print the report as one JSON document.",
    "-o PATH": "Write the report there: NAME.json (all of it: routectl report makes the others "
    "of it), .html, .txt, .md or .csv; - is stdout. Of diff, NAME.parquet: a row a compared "
    "sample, beside the report.",
    "--html PATH": "Write the report as one HTML page there, too.",
    "--summary": "Print ten lines: the verdict, and what is behind it.",
    "--exit-zero": "Exit 0, not 1, for what differs or is over a threshold.",
    "--expert-map FILE": "The ids of all dumps are of physical experts: FILE (JSON, .npy or .pt) "
    "has the logical expert of each. Of one dump alone, as an engine's beside a trainer's, "
    "PATH::expert_map=FILE. docs/how/physical-ids.md.",
    "--no-tokens": "Leave token ids, their texts, and sample names that read as text out of "
    "what is written.",
    "--force": "Replace files that exist.",
    "--jobs N": "Use so many processes; not given, one for each processor that this one may use.",
    "--ray auto|ADDRESS|local": "Use a Ray cluster: the one that runs here or RAY_ADDRESS names, "
    "another, or one started here for this command; docs/scale.md.",
    "--shard I/N": "Do the I-th of N parts, from 1, alone: of a SLURM array, say.",
    "--partial PATH": "Write what was counted there, for routectl merge, in place of the report.",
    "--plain": "Print to a terminal as to a pipe: no colours, no pictures.",
    "--limit NAME=SIZE": "Let a file ask for more work: cell=1GB, ratio=1000. docs/formats.md has "
    "the names.",
    "-h, --help": "Say what a command does, and its options.",
}
HELP: Mapping[str, Any] = {"help_option_names": ["-h", "--help"]}
_GLOBAL = ("--plain", "--limit NAME=SIZE", "-h")
_HYPHEN, _SPACE = "\ue000\ue001"  # stand for these where no line is to be broken


class _Formatter(typer.Context.formatter_class):  # type: ignore[misc, valid-type]
    """Help that is broken between words alone."""

    def write_usage(self, prog: str, args: str = "", prefix: str | None = None) -> None:
        super().write_usage(prog, args.replace("-", _HYPHEN), prefix)

    def write_text(self, text: str) -> None:
        super().write_text(text.replace("-", _HYPHEN))

    def write_dl(self, rows: Any, col_max: int = 30, col_spacing: int = 2) -> None:
        whole = [(first, second.replace("-", _HYPHEN)) for first, second in rows]
        super().write_dl(whole, col_max, col_spacing)

    def getvalue(self) -> str:
        return str(super().getvalue()).replace(_HYPHEN, "-").replace(_SPACE, " ")


class Wording(typer.Context):
    """A context whose help is written by our formatter."""

    formatter_class = _Formatter


class HelpedCommand(TyperCommand):
    """A command whose help is made of its options, ``options`` of the function that it calls."""

    context_class = Wording
    options: tuple[tuple["Field[Any]", Option], ...] = ()

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read a command line. Raises RoutectlError for an option of one value that is there twice:
        typer takes the last, in silence.
        """
        given = [one.name for one in self.make_parser(ctx).parse_args([*args])[2]]
        for one, about in self.options:
            single = not about.positional and one.type not in (bool, tuple[str, ...])
            if single and given.count(one.name) > 1 and "help" not in given:
                raise RoutectlError(f"{about.named} is given twice: it takes one value")
        rest: list[str] = super().parse_args(ctx, args)
        return rest

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Its arguments, in brackets what may be left out."""
        needed = {one.name: one.required for one in self.params}
        pieces = ["[OPTIONS]"]
        for one, about in self.options:
            if about.positional:
                name = f"{about.named}..." if one.type == tuple[str, ...] else about.named
                pieces.append(name if needed[one.name] else f"[{name}]")
        return pieces

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Its arguments and its own options, a row each."""
        needed = {one.name: one.required for one in self.params}
        places = [(about.named, about.told or "") for _, about in self.options if about.positional]
        own = [
            (_names(one, about), _told(one, about, needed[one.name]))
            for one, about in self.options
            if not (about.positional or about.shared)
        ]
        for title, rows in (("Arguments", places), ("Options", own)):
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """The shared options that it takes."""
        own = {f"--{about.flag}" for _, about in self.options if about.shared}
        own |= {f"-{about.short}" for _, about in self.options if about.shared and about.short}
        taken = [told for told in SHARED if told.split()[0] in own]
        formatter.write_paragraph()
        formatter.write_text(
            f"Also: {', '.join(told.replace(' ', _SPACE) for told in [*taken, *_GLOBAL])} "
            "(see routectl --help)."
        )


def _names(one: "Field[Any]", about: Option) -> str:
    """An option's flags, and what stands for its value."""
    flags = f"--{about.flag}" if about.short is None else f"-{about.short}, --{about.flag}"
    if one.type == bool | None:
        return f"{flags} / --no-{about.flag}"
    return flags if one.type is bool else f"{flags} {about.placeholder_of(one.type)}"


def _told(one: "Field[Any]", about: Option, needed: bool) -> str:
    """An option's help, its default where that is no absence, a range."""
    notes = []
    if one.default not in (None, False, (), MISSING):
        notes.append(f"default: {one.default}")
    if about.most is not None:
        notes.append(f"{about.least} to {about.most}")
    if needed:
        notes.append("required")
    told = f"[{'; '.join(notes)}]".replace(" ", _SPACE) if notes else ""
    return f"{about.told or ''}  {told}".strip()
