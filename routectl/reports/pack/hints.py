"""What to type after a verify that found something wrong: the key of a layout that is missing."""

from collections.abc import Iterator
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
_ALL = 6  # keys that may be assumed
_UNGIVEN = {"pad_multiplier": str(DEFAULT_PAD_MULTIPLIER)}  # what a key is when it is not given


def hint_of(found: "Verification") -> str | None:
    """The keys of --layout that would explain what is wrong; None where they are not to blame."""
    said = found.declared
    if found.ok or said is None or said.from_manifest or found.moves:
        return None
    typed, misfit = _sizes(said), bool(found.misfits) and not found.suspects
    own = said.packing.num_micro_batches
    more, fewer = said.named.micro_batches > own, said.named.micro_batches < own
    if "max-tokens-per-gpu" in said.assumed and (more or (misfit and not typed)):
        typed.append(_BATCHES)  # of sizes that are missing files misfit, too
    if typed:
        return f"files are named as of {_named(said)}: --layout {','.join(typed)}"
    if more or (fewer and misfit):
        return f"files are named as of {_named(said)}, and the layout has {own:,}: {_OTHERS}"
    for suspect in found.suspects:
        return _of_suspect(said, suspect)
    if misfit:
        return f"files have other rows or layers than the layout says: {_OTHERS}; {_LAYERS}"
    if len(said.assumed) == _ALL:
        return "--layout FILE, or KEY=VALUE,..., says the layout that the tensors have"
    return None


def _sizes(said: Declared) -> list[str]:
    """Sizes that are less than ranks are named."""
    named, own = said.named, said.packing
    return [f"{n}={size}" for n in _AXES if (size := getattr(named, n)) > getattr(own, n)]


def _named(said: Declared) -> str:
    """What the files' names say."""
    named = said.named
    sizes = [f"{n} {size}" for n in _AXES if (size := getattr(named, n)) > 1]
    return ", ".join([*sizes, plural(named.micro_batches, "micro-batch")])


def _of_suspect(said: Declared, suspect: Suspect) -> str | None:
    """The keys by which a layout that the tensors match is not as it was declared."""
    typed = list(_keys(said, suspect))
    return f"--layout {','.join(typed)}" if typed else None


def _keys(said: Declared, suspect: Suspect) -> Iterator[str]:
    if said.packing.framework not in suspect.frameworks:
        yield f"framework={suspect.frameworks[0]}"
    if said.packing.form != suspect.form:
        yield f"form={suspect.form}"
    for name, value in suspect.options:
        value = _UNGIVEN.get(name) if value is None else value
        if value is not None:
            yield f"{name.replace('_', '-')}={value}"
