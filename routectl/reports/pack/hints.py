"""What to type after a verify that found something wrong: the key of a layout that is missing."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ...layouts.rules import DEFAULT_PAD_MULTIPLIER
from ...ops.pack.declared import Declared
from ...ops.pack.suspects import Suspect
from ..text.wording import plural

if TYPE_CHECKING:
    from ...ops.pack.verify import Verification

__all__ = ["hint_of"]

_AXES = ("dp", "cp", "tp", "pp")
_BATCHES = "max-tokens-per-gpu=N (or micro-batch-size=N, plan=PLAN.json)"
_OTHERS = "max-tokens-per-gpu, micro-batch-size, balance or plan says which samples form each"
_LAYERS = "decoder-layers, moe-layer-freq and pp say which layers"
_FRAMEWORK = "framework=NAME"
_DROPPED = (  # keys that a framework, or a form, may not have
    *("pad_multiplier", "fp8", "sample_multiple", "min_local_rows", "bucket", "seq_len"),
    *("pack_max_length", "moe_layer_freq"),
)
_ALL = 6  # keys that may be assumed
_UNGIVEN = {"pad_multiplier": str(DEFAULT_PAD_MULTIPLIER)}  # what a key is when it is not given


def hint_of(found: "Verification") -> str | None:
    """The keys of --layout that would explain what is wrong; None where they are not to blame.

    All of them at once: those that files tell, and by name those that nobody said. What is to be
    typed is a layout that is not refused.
    """
    said = found.declared
    if found.ok or said is None or said.from_manifest or found.moves:
        return None
    sizes, misfit = _sizes(said), bool(found.misfits) and not found.suspects
    own = said.packing.num_micro_batches
    more, fewer = said.named.micro_batches > own, said.named.micro_batches < own
    refused = said.refuses(sizes) if sizes else None
    if refused is not None:
        return f"files are named as of {_named(said)}, which the layout cannot be: {refused}"
    asked = []
    if "max-tokens-per-gpu" in said.assumed and (more or (misfit and not sizes)):
        asked.append(_BATCHES)  # of sizes that are missing files misfit, too
    unmatched = found.judged is not None or more or said.named.dp > said.packing.dp
    if "framework" in said.assumed and (sizes or asked) and not found.suspects and unmatched:
        asked.insert(0, _FRAMEWORK)
    if found.suspects and not asked:
        return _of_suspects(said, found.suspects, sizes)
    if sizes or asked:
        typed = ",".join([*(f"{name}={size}" for name, size in sizes.items()), *asked])
        return f"files are named as of {_named(said)}: --layout {typed}"
    if more or (fewer and misfit):
        return f"files are named as of {_named(said)}, and the layout has {own:,}: {_OTHERS}"
    if misfit:
        return f"files have other rows or layers than the layout says: {_OTHERS}; {_LAYERS}"
    if len(said.assumed) == _ALL:
        return "--layout FILE, or KEY=VALUE,..., says the layout that the tensors have"
    return None


def _sizes(said: Declared) -> dict[str, object]:
    """Sizes that are less than ranks are named."""
    named, own = said.named, said.packing
    return {n: size for n in _AXES if (size := getattr(named, n)) > getattr(own, n)}


def _named(said: Declared) -> str:
    """What the files' names say."""
    named = said.named
    sizes = [f"{n} {size}" for n in _AXES if (size := getattr(named, n)) > 1]
    return ", ".join([*sizes, plural(named.micro_batches, "micro-batch")])


def _of_suspects(
    said: Declared, suspects: Sequence[Suspect], sizes: dict[str, object]
) -> str | None:
    """The keys by which a layout that the tensors match is not as it was declared.

    Of such layouts that for which the fewest keys that were given must be left out.
    """
    least: tuple[dict[str, object], tuple[str, ...]] | None = None
    for suspect in suspects:
        own = said.packing.framework
        for framework in (own,) if own in suspect.frameworks else suspect.frameworks:
            typed = sizes | _keys(said, suspect, framework)
            dropped = _left_out(said, typed, suspect)
            if dropped is not None and (least is None or len(dropped) < len(least[1])):
                least = typed, dropped
    if least is None or not any(least):
        return None
    words = ",".join(f"{name.replace('_', '-')}={value}" for name, value in least[0].items())
    without = ", ".join(name.replace("_", "-") for name in least[1])
    return " ".join([f"--layout {words}"] * bool(words) + [f"without {without}"] * bool(without))


def _keys(said: Declared, suspect: Suspect, framework: str) -> dict[str, object]:
    """What is to be typed of a framework that lays samples out so."""
    typed: dict[str, object] = {}
    if said.packing.framework != framework:
        typed["framework"] = framework
    if said.packing.form != suspect.form:
        typed["form"] = suspect.form
    for name, value in suspect.options:
        value = _UNGIVEN.get(name) if value is None else value
        if value is not None:
            typed[name] = value
    return typed


def _left_out(said: Declared, typed: dict[str, object], suspect: Suspect) -> tuple[str, ...] | None:
    """Keys that were given, and must not be for the layout to be had; None where it cannot be."""
    without = [name for name, value in suspect.options if value is None and name not in typed]
    without += ["pack_max_length"] * ("min_local_rows" in without)
    gone = tuple(name for name in without if name in said.given)
    others = [n for n in _DROPPED if n in said.given and n not in {*gone, *typed}]
    for some in ((), *((name,) for name in others), tuple(others)):
        left_out = (*gone, *some)
        if said.refuses({**typed, **dict.fromkeys(left_out)}) is None:
            return left_out
    return None
