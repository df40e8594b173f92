"""Who made the rows: as an entry of routectl.check/1, and in words."""

from rich.console import Console

from ...ops.check.candidates.made_by import CONFIDENCE, MadeBy, PartMaker
from ...ops.diff.measures import rate
from ..text.tables import Column, print_line, print_table
from ..text.wording import amount, percent, plural
from .schema import CandidatesEntry, MadePart

__all__ = ["candidates_entry", "candidates_sentence", "print_candidates"]

_PARTS = 4096
_ROUNDING = 1 / 3  # the share of clear flips up to which a mismatch is called rounding at once


def candidates_entry(found: MadeBy) -> CandidatesEntry:
    """The entry of a document."""
    samples, rows = found.samples, sum(part.rows for part in found.parts)
    wrong = [sum(p.rates[n] * p.rows for p in found.parts) for n in range(len(found.names))]
    told = sorted(found.parts, key=lambda part: part.maker is not None and not part.is_wrong)
    noise = found.noise
    return {
        "confidence": CONFIDENCE,
        "expected": found.expected,
        "candidates": [
            {"name": name, "samples": samples[name], "mismatch_rate": rate(round(wrong[n]), rows)}
            for n, name in enumerate(found.names)
        ],
        "samples": sum(samples.values()),
        "none": samples["none"],
        "undecided": samples["undecided"],
        "several": samples["several"],
        "lacking": len(found.lacking),
        "noise": None
        if noise is None
        else {
            "candidate": noise.of,
            "samples": noise.parts,
            "mismatch_rate": noise.rate,
            "clear_share": noise.clear,
        },
        "parts": [_part(part) for part in told[:_PARTS]],
    }


def _part(part: PartMaker) -> MadePart:
    return {
        "sample": part.sample,
        "version": part.said,
        "expected": part.expected,
        "made_by": part.maker,
        "none": part.is_none,
        "alike": list(part.alike),
        "z": part.z,
        "rows": part.rows,
        "mismatch_rates": list(part.rates),
    }


def candidates_sentence(entry: CandidatesEntry) -> str:
    """The verdict: which candidate the engine ran in how many samples."""
    made = [one for one in entry["candidates"] if one["samples"]]
    told = [(one["name"], one["samples"]) for one in sorted(made, key=lambda o: -o["samples"])]
    told += [
        ("none of the candidates", entry["none"]),
        ("several, each where the dump says" if _as_said(entry) else "several", entry["several"]),
    ]
    whole = plural(entry["samples"], "sample")
    parts = [f"{what} in {amount(samples)}" for what, samples in told if samples]
    verb = "ran" if _is_sure(entry) else "is nearest to"
    left = f"cannot tell in {amount(entry['undecided'])}" if entry["undecided"] else ""
    lacking = f"{amount(entry['lacking'])} not judged" if entry["lacking"] else ""
    if not parts:
        none = f"cannot tell in {amount(entry['undecided'])} of {whole} which one the engine ran"
        return ", ".join(filter(None, (none, lacking)))
    first, *more = parts
    rest = "".join(f", {part}" for part in [*more, left, lacking] if part)
    return f"the engine {verb} {first} of {whole}{rest}{_behind(entry)}"


def _is_sure(entry: CandidatesEntry) -> bool:
    """Whether what the nearest candidate differs by looks like rounding, and no other is named."""
    names, noise = [one["name"] for one in entry["candidates"]], entry["noise"]
    if noise is None:
        return True  # where none is far by margins
    others = any(part["version"] not in (None, *names) for part in entry["parts"])
    return not others and noise["clear_share"] is not None and noise["clear_share"] <= _ROUNDING


def _as_said(entry: CandidatesEntry) -> bool:
    """Whether every part is of the version that the dump names."""
    return all(part["made_by"] == part["version"] for part in entry["parts"])


def _behind(entry: CandidatesEntry) -> str:
    """What that says of updates, where it says one thing."""
    names = [one["name"] for one in entry["candidates"]]
    wrong = [
        p for p in entry["parts"] if p["made_by"] and p["expected"] not in (None, p["made_by"])
    ]
    apart = {names.index(p["expected"] or "") - names.index(p["made_by"] or "") for p in wrong}
    if not apart:
        return ""
    if min(apart) > 0:
        return ": it had not taken the last update" + ("" if max(apart) == 1 else "s")
    return ": newer weights than expected" if max(apart) < 0 else ""


def print_candidates(entry: CandidatesEntry, console: Console) -> None:
    """The candidates, and what they are told apart by."""
    noise = entry["noise"]
    told = f"each sample by a paired test, {100 * entry['confidence']:g} % sure"
    if noise is not None:
        told += (
            f"; where {noise['candidate']} made them, {percent(noise['mismatch_rate'])} of rows "
            f"differ (median of {plural(noise['samples'], 'sample')})"
        )
        clear = noise["clear_share"]
        told += (
            "; whether by rounding, margins would say"
            if clear is None
            else f", {percent(clear)} of these clear flips"
        )
    names = [one["name"] for one in entry["candidates"]]
    others = {part["version"] for part in entry["parts"]} - {None, *names}
    if others:
        told += f"; the dump names {', '.join(sorted(map(str, others)))}, no candidate"
    print_line(console, "told by", told)
    shown = entry["candidates"]
    console.print()
    print_table(
        console,
        [
            Column("candidate", [one["name"] for one in shown]),
            Column("made samples", [amount(one["samples"]) for one in shown]),
            Column("mismatch", [percent(one["mismatch_rate"]) for one in shown]),
            Column(
                "expected", ["yes" if one["name"] == entry["expected"] else "" for one in shown], 1
            ),
        ],
    )
