"""Log-probabilities of the response from last hidden states, without [T, V] logits.

Shape suffixes: T tokens, D hidden, C tokens of a chunk, V vocabulary, G response tokens.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

__all__ = ["body_of", "head_name", "response_logprobs"]

CHUNK = 1 << 24  # logits at once


def head_name(model: Any) -> str | None:
    """The name of the module that makes logits; None for a model whose head has no name."""
    head = model.get_output_embeddings()
    named = model.named_modules() if head is not None else ()
    return next((str(name) for name, module in named if module is head), None)


def body_of(model: Any) -> Any:
    """The model without its head; a model that has none is its own body."""
    inner = model.base_model if model.base_model is not model else getattr(model, "model", model)
    return inner if isinstance(inner, torch.nn.Module) else model


@torch.no_grad()
def response_logprobs(
    model: Any, out: Any, tokens_T: torch.Tensor, prompt_length: int
) -> NDArray[np.float64]:
    """float64 [G]: log-softmax in float32 at temperature 1 of each token after the prompt.

    out is what the body gave for the whole sequence. Logits are what the model's own forward makes
    of it (scale and soft cap included), some rows at a time. NaN for a first token without one
    before it.
    """
    most = max(1, CHUNK // model.get_output_embeddings().weight.shape[0])
    first, last = max(prompt_length, 1), len(tokens_T)
    found = [torch.full((first - prompt_length,), torch.nan)]
    for begin in range(first, last, most):
        rows = slice(begin, min(last, begin + most))
        logits_CV = _logits(model, out, slice(rows.start - 1, rows.stop - 1), tokens_T[rows])
        taken_C = logits_CV.gather(1, tokens_T[rows, None])[:, 0]
        found.append((taken_C - logits_CV.logsumexp(dim=1)).cpu())
    return torch.cat(found).double().numpy()


def _logits(model: Any, out: Any, rows: slice, tokens_C: torch.Tensor) -> torch.Tensor:
    """float32 [C, V], by the model's forward with some rows of the body's output for the body."""
    part = type(out)(**{**out, "last_hidden_state": out.last_hidden_state[:, rows]})
    body = body_of(model)
    body.forward = lambda *_, **__: part
    try:
        logits: torch.Tensor = model(input_ids=tokens_C[None], use_cache=False).logits
    finally:
        del body.forward
    return logits[0].float()
