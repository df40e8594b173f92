"""Where and how a checkpoint is run: flags of ``recompute``, keys of ``--forward`` elsewhere."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import RoutectlError
from ..keyed import key_names, keyed, keys_text
from ..options import check_bounds, option, threads_option
from .router_check import CHECKED_TOKENS

if TYPE_CHECKING:
    from ...forward import RunOptions
    from .crew import DeviceCrew

__all__ = ["Forwarding", "forward_option", "forwarding_of", "run_options"]

_DTYPES = ("auto", "fp32", "bf16", "fp16", "float32", "bfloat16", "float16")


@dataclass(frozen=True, slots=True, kw_only=True)
class Forwarding:
    """How a dump's tokens are pushed through a checkpoint.

    logprobs and gate_logprobs are None where nobody said: ``recompute`` leaves them out, whoever
    compares takes the log-probs that the dump has, and ``staleness`` the gates of every family that
    allows them. Raises RoutectlError for words that are not known.
    """

    mode: str = option(
        "free",
        metavar="MODE",
        choices=("free", "forced", "both"),
        help="free: the model's own routes; forced: its choices while every layer is given the "
        "dump's routes; both.",
    )
    device: str = option(
        "auto",
        help="cpu, cuda (all of one kind), cuda:0,cuda:1: a process each. auto: cuda, else cpu.",
    )
    dtype: str = option(
        "auto", choices=_DTYPES, metavar="TYPE", help="auto (as stored), fp32, bf16 or fp16."
    )
    streaming: str = option(
        "auto",
        metavar="HOW",
        choices=("auto", "plain", "stream"),
        help="plain: all weights in memory; stream: layer by layer; auto: plain where they fit.",
    )
    threads: int | None = threads_option()
    attention: str | None = option(None, help="transformers' attention: eager, sdpa, ...")
    experts: str | None = option(None, help="transformers' experts: eager, grouped_mm, ...")
    max_tokens_per_pass: int | None = option(
        None, least=1, help="Tokens for which weights are read once."
    )
    logprobs: bool | None = option(None, help="Log-probabilities of the response tokens too.")
    gate_logprobs: bool | None = option(
        None, help="How probable this router finds the dump's experts, for router shift."
    )

    def __post_init__(self) -> None:
        check_bounds(self)

    @property
    def modes(self) -> tuple[str, ...]:
        """The modes that are run, in order."""
        return ("free", "forced") if self.mode == "both" else (self.mode,)


def forward_option() -> Any:
    """--forward of whatever runs a checkpoint on the way to its answer."""
    return option(
        (),
        metavar="KEY=VALUE,...",
        suggests=partial(key_names, Forwarding),
        help=f"How a checkpoint is run: {keys_text(Forwarding)}, as flags of recompute; "
        "repeatable.",
    )


def forwarding_of(texts: Sequence[str]) -> Forwarding:
    """What --forward said. Raises RoutectlError."""
    return keyed(Forwarding, "--forward", texts)


def run_options(checkpoint: Path, how: Forwarding, crew: "DeviceCrew", **more: Any) -> "RunOptions":
    """The options of a run on the first of a crew's devices, ``more`` in place of what ``how``
    says. Raises RoutectlError.
    """
    from ...forward import RunOptions

    asked: dict[str, Any] = {
        "mode": how.mode,
        "dtype": how.dtype,
        "streaming": how.streaming,
        "max_tokens_per_pass": how.max_tokens_per_pass,
        "attention": how.attention,
        "experts": how.experts,
        "want_logprobs": how.logprobs is True,
        "check_tokens": CHECKED_TOKENS,
    }
    try:
        return RunOptions(
            checkpoint=checkpoint, device=crew.devices[0], sharing=crew.sharing, **asked | more
        )
    except ValueError as error:
        raise RoutectlError(str(error)) from None
