"""Tiny checkpoints on disk, and what their routers do by plain hooks.

Shape suffixes: T tokens, L MoE layers, K top_k, E experts.
The oracle uses nothing of routectl: transformers' from_pretrained, ``torch.topk`` and ``max``
replaced by functions that note what they are given while a router runs, and a sort.
"""

import contextlib
import lzma
import os
import warnings
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from safetensors.torch import load_file

from routectl.dump import Sample
from routectl.forward import RunOptions, prepare, run_forward
from support import families
from support.recordings import FIXTURES

__all__ = [
    "checkpoint_of",
    "checkpointing",
    "forward",
    "hooked",
    "load",
    "quiet",
    "real_checkpoint",
    "sample_of",
    "samples",
]

BIASES = ("e_score_correction_bias", "expert_bias", "balancing_biases")


@contextlib.contextmanager
def quiet():
    """transformers warns of things that are of no account here, and draws progress bars."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    logging.set_verbosity(level)


def checkpoint_of(name, folder, **settings):
    """A folder with a tiny random model of a family, as save_pretrained writes it."""
    with quiet():
        families.tiny(name).save_pretrained(folder, **settings)
    return Path(folder)


def checkpointing(model, options):
    """Switch gradient checkpointing on; transformers has another name for it since 5.23."""
    names = ("activation_checkpointing_enable", "gradient_checkpointing_enable")
    getattr(model, next(name for name in names if hasattr(model, name)))(options)


def real_checkpoint(name, factory):
    """The folder of a checkpoint that recordings were made with, or None.

    deepseek_v3 is in the fixtures; the others are too large for them, and are looked for in the
    folder that ROUTECTL_CHECKPOINTS names.
    """
    elsewhere = Path(os.environ.get("ROUTECTL_CHECKPOINTS", "nowhere")) / name
    if (elsewhere / "model.safetensors").exists():
        return elsewhere
    packed = FIXTURES / "checkpoints" / name
    if not packed.exists():
        return None
    folder = factory.mktemp(name)
    (folder / "config.json").write_bytes((packed / "config.json").read_bytes())
    weights = lzma.decompress((packed / "model.safetensors.xz").read_bytes())
    (folder / "model.safetensors").write_bytes(weights)
    return folder


def load(folder, dtype, name, **settings):
    """The model by from_pretrained, but with the expert biases as they are stored."""
    with quiet():
        model = families._class_of(name).from_pretrained(folder, dtype=dtype, **settings).eval()
    stored = load_file(Path(folder) / "model.safetensors")
    for key, bias in families._biases(model):
        assert key.rsplit(".", 1)[-1] in BIASES
        if key in stored:  # Zaya's last one is overwritten by from_pretrained
            bias.data = stored[key]
            continue
        same = [v.reshape(bias.shape) for v in stored.values() if v.numel() == bias.numel()]
        (bias.data,) = (v for v in same if torch.equal(v.to(bias.dtype), bias))
    return model


def sample_of(ids, prompt=4, routes=None):
    """A sample of these token ids."""
    ids = np.asarray(ids, np.int32)
    return Sample(routes, prompt_ids=ids[:prompt], response_ids=ids[prompt:], prompt_length=prompt)


def samples(*lengths, vocab=families.VOCAB):
    """Samples of random tokens, of these lengths."""
    rng = np.random.default_rng(0)
    return [sample_of(rng.integers(3, vocab, length)) for length in lengths]


def forward(folder, inputs, **options):
    """The results of a run, and what it was prepared to."""
    with quiet():
        prepared = prepare(RunOptions(checkpoint=folder, **options))
        return list(run_forward(prepared, inputs)), prepared


@torch.no_grad()
def hooked(model, inputs, *, padded=False):
    """By sample: ids_TLK by falling score, margins_TL, and the ids that the modules gave, or None.

    Only the routers' own calls are noted, and their last top-k is taken. padded: all samples in one
    call, right-padded with token 0, with a mask.
    """
    calls, made = [], {}
    real = {"topk": torch.topk, "max": torch.max}

    def noting(name):
        def call(scores, *args, **kwargs):
            out = real[name](scores, *args, **kwargs)
            if isinstance(out, tuple):
                calls.append((name, scores.clone(), out.indices.clone()))
            return out

        return call

    def before(*_):
        calls.clear()

    def after(layer):
        return lambda _module, _args, out: made.__setitem__(layer, (list(calls), out))

    handles = []
    for layer, router in families.routers(model).items():
        handles.append(router.register_forward_pre_hook(before))
        handles.append(router.register_forward_hook(after(layer)))
    patches = [
        mock.patch.object(place, name, noting(name))
        for name in real
        for place in (torch, torch.Tensor)
    ]
    found = []
    with contextlib.ExitStack() as stack:
        for patch in patches:
            stack.enter_context(patch)
        for fed in _batches(inputs, padded=padded):
            made.clear()
            model(**fed, use_cache=False)
            found.append(_read(made))
    for handle in handles:
        handle.remove()
    if padded:
        (whole,) = found
        width = max(len(sample.token_ids) for sample in inputs)
        starts = range(0, width * len(inputs), width)
        rows = [slice(at, at + len(s.token_ids)) for at, s in zip(starts, inputs, strict=True)]
        found = [(whole[0][part], whole[1][part], _rows(whole[2], part)) for part in rows]
    return found


def _rows(given_L, part):
    """Some rows of what the modules gave."""
    return [None if given_TK is None else given_TK[part] for given_TK in given_L]


def _batches(inputs, *, padded):
    """What the model is called with, for each sample or for all."""
    sequences = [torch.from_numpy(sample.token_ids.astype(np.int64)) for sample in inputs]
    if not padded:
        yield from ({"input_ids": tokens[None]} for tokens in sequences)
        return
    width = max(map(len, sequences))
    ids, mask = torch.zeros(2, len(inputs), width, dtype=torch.int64)
    for row, tokens in enumerate(sequences):
        ids[row, : len(tokens)], mask[row, : len(tokens)] = tokens, 1
    yield {"input_ids": ids, "attention_mask": mask}


def _read(made):
    """Ids, margins and module ids of one sequence, layers ascending."""
    ids_L, margins_L, given_L = [], [], []
    for layer in sorted(made):
        seen, out = made[layer]
        given = [o for o in out if torch.is_tensor(o) and o.dtype == torch.int64]
        given_L.append(given[0].reshape(len(given[0].flatten(0, -2)), -1) if given else None)
        if not seen:  # a table
            ids_L.append(given_L[-1])
            margins_L.append(torch.full(given_L[-1].shape[:1], torch.inf))
            continue
        if seen[-1][0] == "max":
            scores_TE, ids_TK = seen[0][1], torch.cat([ids for _, _, ids in seen], dim=1)
        else:
            _, scores, ids = seen[-1]
            scores_TE, ids_TK = scores.flatten(0, -2), ids.flatten(0, -2)
        ranked_TE = scores_TE.float().sort(dim=1, descending=True).values
        top_k = ids_TK.shape[1]
        values_TK = scores_TE.float().gather(1, ids_TK)
        ids_L.append(ids_TK.gather(1, values_TK.argsort(dim=1, descending=True, stable=True)))
        margin_T = ranked_TE[:, top_k - 1] - ranked_TE[:, top_k]
        margins_L.append(margin_T)
    return torch.stack(ids_L, 1).numpy(), torch.stack(margins_L, 1).numpy(), given_L
