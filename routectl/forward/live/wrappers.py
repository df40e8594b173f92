"""What a trainer puts around a model: seen through, or refused by name before a forward.

Known are torch's DistributedDataParallel, FullyShardedDataParallel and fully_shard (which changes a
model in place), Megatron-Core's DistributedDataParallel and Float16Module, and peft's PeftModel.
Nothing of them is imported: they are known by the names of their classes.
"""

from dataclasses import dataclass

import torch

from ...errors import UnsupportedError
from ..routers import RouterAt, class_names, find_megatron_routers, find_routers

__all__ = ["Inside", "inside"]

_HELD = {  # wrappers that call what they hold as a module, with the arguments that they were given
    "DistributedDataParallel": "module",
    "FullyShardedDataParallel": "module",
    "Float16Module": "module",
}
_PEFT = ("PeftModel", "PeftMixedModel")
_COMPILED = (
    "compiled code goes around the hooks on its routers: pass the model as it was before "
    "torch.compile, and call that one in the block"
)
_REFUSED = {
    "OptimizedModule": f"is compiled: {_COMPILED}",
    "DataParallel": "copies the model for each call: use DistributedDataParallel",
    "ScriptModule": "is compiled by TorchScript, which runs no hooks: pass the model itself",
}


@dataclass(frozen=True, slots=True)
class Inside:
    """The model in its wrappers, and its routers.

    called are the modules of which a call is a forward of the model, the outermost first: the model
    itself, and what calls its ``forward`` without a call of it (peft before 0.19). s_major tells
    that routers see row s * B + b.
    """

    model: torch.nn.Module
    called: tuple[torch.nn.Module, ...]
    routers: tuple[RouterAt, ...]
    s_major: bool


def inside(model: torch.nn.Module) -> Inside:
    """The model that ``model`` is or holds.

    Raises TypeError for what is no module, and UnsupportedError for a wrapper that is not seen
    through, for compiled code around a router, and for a model of neither library.
    """
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"got {type(model).__name__}, expected a model: a torch.nn.Module")
    held, called = model, []
    while (within := _within(held)) is not None:
        if _is_peft(held):
            called.append(held)
        held = within
    routers = find_megatron_routers(held)
    s_major = bool(routers)
    if not routers:
        if not hasattr(held, "config"):
            kind = type(held).__name__
            more = ": pass the model inside it" if _holds_model(held) else ""
            raise UnsupportedError(
                f"{kind} has no router: expected a model of transformers, with its config, or one "
                f"of Megatron-Core with a TopKRouter{more}"
            )
        routers = find_routers(held)
    _refuse_compiled(held, routers)
    return Inside(held, (*called, held), routers, s_major)


def _within(model: torch.nn.Module) -> torch.nn.Module | None:
    """What a wrapper holds; None of a model. Raises UnsupportedError for one that is refused."""
    names = class_names(model)
    for name, why in _REFUSED.items():
        if name in names:
            raise UnsupportedError(f"{type(model).__name__} {why}")
    _refuse_call(model, type(model).__name__)
    if _is_peft(model):
        if any(config.is_prompt_learning for config in model.peft_config.values()):  # type: ignore[operator]
            raise UnsupportedError(
                f"{type(model).__name__} with learned prompts: its tokens are not those that the "
                "model is called with"
            )
        held = model.base_model.model  # type: ignore[union-attr]
    else:
        field = next((field for name, field in _HELD.items() if name in names), None)
        held = None if field is None else getattr(model, field, None)
    return held if isinstance(held, torch.nn.Module) else None


def _is_peft(model: torch.nn.Module) -> bool:
    return not class_names(model).isdisjoint(_PEFT)


def _holds_model(model: torch.nn.Module) -> bool:
    """Whether some model of transformers is somewhere inside."""
    return any(hasattr(part, "config") for part in model.modules())


def _refuse_compiled(model: torch.nn.Module, routers: tuple[RouterAt, ...]) -> None:
    """Raise UnsupportedError where a router, or a module on the way to one, is compiled."""
    parts = {id(model): (type(model).__name__, model)}
    for at in routers:
        part, names = model, at.name.split(".")
        for count, name in enumerate(names, 1):
            part = getattr(part, name)
            parts.setdefault(id(part), (".".join(names[:count]), part))
    for path, part in parts.values():
        if type(part).__name__ == "OptimizedModule":
            raise UnsupportedError(f"{path} is compiled: {_COMPILED}")
        _refuse_call(part, path)


def _refuse_call(module: torch.nn.Module, name: str) -> None:
    """Raise UnsupportedError where ``module.compile()`` was called, or its forward is compiled."""
    forward = vars(module).get("forward")
    if getattr(module, "_compiled_call_impl", None) is not None or hasattr(
        forward, "_torchdynamo_orig_callable"
    ):
        raise UnsupportedError(f"{name} is compiled: {_COMPILED}")
