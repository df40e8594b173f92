"""Tensors of a checkpoint that may be left out: each kind by its name, and why no route needs it.

What is in no kind and not taken by the model is an error. Names are those of published
checkpoints; transformers 5.23 leaves the same out (``_keys_to_ignore_on_load_unexpected`` of its
models), engines' scales aside, which it does not know.
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

from .checkpoint import Checkpoint

__all__ = ["LEFT_OUT", "LeftOut", "left_out"]


class LeftOut(NamedTuple):
    """Names of tensors, as a pattern that is searched for and in words (Markdown), and why no route
    depends on them.
    """

    pattern: str
    names: str
    reason: str


_OUTSIDE = r"^(?:(?!layers\.|blocks\.)[^.]+\.)*"  # outside of any list of layers
LEFT_OUT = (
    LeftOut(
        _OUTSIDE + r"(mtp|nextn)[^.]*(\.|$)",
        "`mtp...`, `nextn...`; layers behind the last that the config "
        "counts, or that have `eh_proj`, `enorm`, `hnorm`, `shared_head`",
        "multi-token prediction: drafts from what the last layer gives",
    ),
    LeftOut(
        _OUTSIDE + r"(visual|vision|embed_vision|image_newline|view_sep[a-z]*)[^.]*(\.|$)",
        "`visual`, `vision...`, `embed_vision`, ...",
        "a tower for pictures: a dump has token ids alone",
    ),
    LeftOut(
        _OUTSIDE + r"(audio|embed_audio)[^.]*(\.|$)",
        "`audio...`, `embed_audio`",
        "a tower for sounds: a dump has token ids alone",
    ),
    LeftOut(
        _OUTSIDE + r"(multi_modal_projector|mm_projector|connector)\.",
        "`multi_modal_projector`, `mm_projector`, `connector`",
        "turns what towers see into embeddings: a dump has token ids alone",
    ),
    LeftOut(
        _OUTSIDE + r"(talker|code_predictor|code2wav|token2wav)\.",
        "`talker`, `code_predictor`, `code2wav`, `token2wav`",
        "speaks what the language model wrote",
    ),
    LeftOut(
        _OUTSIDE + r"(lm_head|score|v_head|value_head)\.",
        "`lm_head`, `score`, `v_head`, `value_head`, of a model run without",
        "comes after the last router",
    ),
    LeftOut(
        r"\.([qkv]|kv|prob)_scale$",
        "`k_scale`, `v_scale`, `q_scale`, `kv_scale`, `prob_scale`",
        "scale of an engine's 8-bit attention or cache, which the model's own forward has not",
    ),
    LeftOut(
        r"\.(input|activation|act|output)_scale(_ub)?$|\.qscale_act$|\.input_global_scale$",
        "`input_scale`, `activation_scale`, `output_scale`, ...",
        "scale by which an engine rounds activations: here weights alone are quantised",
    ),
    LeftOut(
        r"\.rotary_emb\.(original_)?(inv_freq|cos_cached|sin_cached)$",
        "`rotary_emb.inv_freq` and its like",
        "table of rotary embeddings, computed from the config",
    ),
)
_LAYER = re.compile(r"(?:^|\.)layers\.(\d{1,5})\.")
_DRAFTS = ("num_nextn_predict_layers", "num_mtp_layers", "mtp_num_layers")
_DRAFTING = re.compile(r"\.(eh_proj|enorm|hnorm|shared_head)\.")
_KINDS = tuple((re.compile(kind.pattern), kind.reason) for kind in LEFT_OUT)


def left_out(
    checkpoint: Checkpoint, names: Iterable[str], num_layers: int
) -> dict[str, str | None]:
    """Why each of these tensors, which the model does not take, is left out; None: it must not be.

    Layers behind the model's ``num_layers`` decoder layers are of multi-token prediction where the
    config counts them, or where they hold what only such layers have.
    """
    names = list(names)
    if not names:
        return {}
    drafting = {
        name[: match.end()]
        for name in checkpoint.tensors
        if _DRAFTING.search(name) and (match := _LAYER.search(name))
    }
    last = num_layers + _drafts(checkpoint)

    def reason(name: str) -> str | None:
        for pattern, why in _KINDS:
            if pattern.search(name):
                return why
        match = _LAYER.search(name)
        if match is None or int(match[1]) < num_layers:
            return None
        own = int(match[1]) < last or name[: match.end()] in drafting
        return LEFT_OUT[0].reason if own else None

    return {name: reason(name) for name in names}


def _drafts(checkpoint: Checkpoint) -> int:
    """How many layers of multi-token prediction a config counts."""
    config = checkpoint.config or {}
    text = config.get("text_config")
    documents = [config, text] if isinstance(text, dict) else [config]
    counts = [document.get(name) for document in documents for name in _DRAFTS]
    return max((count for count in counts if type(count) is int), default=0)
