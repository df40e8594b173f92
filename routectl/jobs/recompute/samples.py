"""What a recomputed file says: of each sample, of itself, and of the job that made it."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .gates import kept_gates

if TYPE_CHECKING:
    from ...dump import Dump, DumpMeta, Sample
    from ...forward import Forwarded, Prepared, RunOptions

__all__ = [
    "is_replay_of_own",
    "job_of",
    "meta_of",
    "modes_of",
    "recomputed_sample",
    "targets_of",
]

_ROUTES, _OWN = "routes", "recomputed"  # in what a forced recompute says of itself


def modes_of(options: "RunOptions") -> tuple[str, ...]:
    """The modes that are run, in the order in which a sample's results come."""
    return ("free", "forced") if options.mode == "both" else (options.mode,)


def targets_of(mode: str, output: Path) -> dict[str, Path]:
    """The file of each mode that is run."""
    if mode != "both":
        return {mode: output}
    return {"free": output, "forced": output.with_suffix(".forced.parquet")}


def recomputed_sample(sample: "Sample", result: "Forwarded", meta: "DumpMeta") -> "Sample":
    """The sample with the model's own choices; what only the engine knew is let go."""
    from ...margins import margins_to_float16
    from ...routes import Routes

    ids_TLK = result.ids_TLK if result.live_TLK is None else result.live_TLK
    both = (result.margins_TL, result.group_margins_TL)
    margins = [None if m is None else margins_to_float16(m) for m in both]
    routes = Routes(ids_TLK, meta.layers_L, meta.num_experts, 0, None, *margins)
    return dataclasses.replace(
        sample,
        routes=routes,
        logprobs=result.logprobs_G,
        weight_spans=(),
        finish_reason=None,
        cached_tokens=None,
        retractions=None,
        start_inferred=False,
        gates=kept_gates(sample, result),
    )


def meta_of(prepared: "Prepared", source: "Dump", mode: str) -> "DumpMeta":
    """What the written file says of itself; of a forced one, whether its routes were recomputed."""
    from ...dump import DumpMeta

    first = prepared.routers[0]
    about = {name: str(value) for name, value in prepared.provenance.items()}
    return DumpMeta(
        path=source.meta.path,
        format=source.meta.format,
        layers_L=prepared.layers,
        num_experts=first.num_choices,
        top_k=first.top_k,
        engine="transformers",
        engine_version=about["transformers"],
        model=about["model_type"],
        facts_source="the checkpoint",
        file_bytes=source.meta.file_bytes,
        order="score",
        margins=True,
        gates=prepared.options.gates is not None,
        provenance={**about, "mode": mode, **_routes_of(source, mode)},
    )


def _routes_of(source: "Dump", mode: str) -> dict[str, str]:
    """Whose routes were forced: a dump's, or those that a trainer's own router took."""
    if mode != "forced":
        return {}
    return {_ROUTES: _OWN if source.meta.provenance.get("mode") == "free" else "dump"}


def is_replay_of_own(meta: "DumpMeta") -> bool:
    """Whether a forced recompute was given routes that were recomputed, not an engine's: R2."""
    return meta.provenance.get("mode") == "forced" and meta.provenance.get(_ROUTES) == _OWN


def job_of(prepared: "Prepared", source: "Dump", *, tokens: bool = True) -> dict[str, Any]:
    """What must be the same for a run to go on from another's parts; ``tokens``: they have ids.

    Results of a GPU do not depend on the number of CPU threads.
    """
    aside = set() if prepared.provenance["device"] == "cpu" else {"threads"}
    about = {n: str(v) for n, v in prepared.provenance.items() if n not in aside}
    return {
        "checkpoint": str(prepared.options.checkpoint.resolve()),
        "dump": source.meta.path,
        "dump_bytes": source.meta.file_bytes,
        "samples": len(source),
        **about,
        "tokens": tokens,
        "logprobs": prepared.options.want_logprobs,
        "gate_logprobs": prepared.options.gates is not None,
    }
