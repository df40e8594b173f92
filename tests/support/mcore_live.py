"""Routes set in the loop of Megatron's own schedules, seen at every token of every router.

``python -m support.mcore_live NAME ...``, run in tests/, runs cases of CASES on four ranks and
prints what each saw, as JSON; it is a program since it forks. Each token is told by its embedding:
its number is a channel of the hidden state that no layer writes to, so a misplaced row shows.
"""

import contextlib
import itertools
import json
import sys

import numpy as np
import torch

from routectl import Routes
from routectl.forward.routers import find_megatron_routers
from routectl.trainers.megatron import set_replay
from support.mcore_ranks import VOCAB, build_chunks, config_of_ranks, megatron, on_ranks, topology

__all__ = ["CASES"]

E, K = 8, 2
FULL = {
    "recompute_granularity": "full",
    "recompute_method": "uniform",
    "recompute_num_layers": 1,
}
BLOCK = {**FULL, "recompute_method": "block"}
MOE = {"recompute_granularity": "selective", "recompute_modules": ["moe"]}
CASES = {  # name: sizes, form, moe_layer_freq, options
    "tp2cp2-thd": ({"tp": 2, "cp": 2}, "thd", [0, 1, 1], {}),
    "tp2cp2-bshd": ({"tp": 2, "cp": 2}, "bshd", [0, 1, 1], FULL),
    "tp2cp2-thd-full": ({"tp": 2, "cp": 2}, "thd", [0, 1, 1], FULL),
    "pp2vpp2-thd": ({"pp": 2, "vpp": 2}, "thd", [0, 1] * 4, FULL),
    "pp2vpp2-bshd": ({"pp": 2, "vpp": 2}, "bshd", [1] * 8, BLOCK),
    "pp2cp2-thd": ({"pp": 2, "cp": 2}, "thd", [0, 1, 1, 1], MOE),
    "ep4-thd": ({"ep": 4}, "thd", [0, 1, 1], MOE),
    "ep4-bshd": ({"ep": 4}, "bshd", [0, 1, 1], FULL),
    "cp4-thd": ({"cp": 4}, "thd", [1, 1], FULL),
    "tp4-thd": ({"tp": 4}, "thd", [1, 1], {}),
    "control": ({"tp": 2, "cp": 2}, "thd", [0, 1, 1], FULL),  # each route is the next token's
}
MICRO_BATCHES = 4
PLACES = 96  # of a packed micro-batch; a padded one is 3 x 32


class Batch:
    """A micro-batch of one data-parallel rank: lengths, tokens that are all different, routes."""

    def __init__(self, seed, form, align, layers):
        rng = np.random.default_rng(seed)
        self.form, self.lens = form, rng.integers(2, 30, 3).tolist()
        numbers = iter((rng.permutation(VOCAB - 1) + 1).tolist())
        self.tokens = [[next(numbers) for _ in range(n)] for n in self.lens]
        self.places = [-(-n // align) * align for n in self.lens]
        self.routes = [
            np.argsort(rng.random((n - 1, len(layers), E)), axis=2)[:, :, :K] for n in self.lens
        ]
        self.expected = {
            (token, layer): set(ids[position, i].tolist())
            for tokens, ids in zip(self.tokens, self.routes, strict=True)
            for position, token in enumerate(tokens[:-1])
            for i, layer in enumerate(layers)
        }
        self.given = [Routes(ids.astype(np.uint8), tuple(layers), E) for ids in self.routes]

    def model_inputs(self):
        """What get_batch gives a model: tokens, labels, places in the sequence, packing."""
        from megatron.core.utils import get_batch_on_this_cp_rank, get_thd_batch_on_this_cp_rank

        if self.form == "bshd":
            rows = [tokens + [0] * (32 - len(tokens)) for tokens in self.tokens]
            batch = {"tokens": torch.tensor(rows), "position_ids": torch.arange(32).repeat(3, 1)}
            return get_batch_on_this_cp_rank(batch), None
        padded = zip(self.tokens, self.places, strict=True)
        rows = [tokens + [0] * (places - len(tokens)) for tokens, places in padded]
        tail = PLACES - sum(self.places)
        rows.append([0] * tail)  # up to one size, which ranks and stages share
        batch = {
            "tokens": torch.tensor([[*itertools.chain(*rows)]]),
            "position_ids": torch.cat([torch.arange(len(row)) for row in rows])[None],
        }
        true = torch.tensor([0, *np.cumsum([*self.lens, tail]).tolist()], dtype=torch.int32)
        ends = torch.tensor([0, *np.cumsum([*self.places, tail]).tolist()], dtype=torch.int32)
        return get_thd_batch_on_this_cp_rank(batch, true, ends, torch.tensor([PLACES]))


def mark(chunk):
    """Leave channel 0 of the residual stream to the number of the token."""
    with torch.no_grad():
        for name, weight in chunk.named_parameters():
            if "word_embeddings" in name:
                first = dist_rank() * len(weight)
                weight[:, 0] = torch.arange(first, first + len(weight))
            elif "position_embeddings" in name:
                weight[:, 0] = 0
            elif "linear_proj" in name or "linear_fc2" in name:
                weight[0] = 0


def dist_rank():
    """This process's tensor parallel rank."""
    from megatron.core import parallel_state

    return parallel_state.get_tensor_model_parallel_rank()


class Seen:
    """What routers selected, compared with what each token's routes say."""

    def __init__(self):
        self.counts = {"right": 0, "wrong": 0, "filler": 0, "recomputed": 0}
        self.expected = {}

    def watch(self, chunk):
        """Look at the routers of a chunk, and the hidden states that come to their layers."""
        for at in find_megatron_routers(chunk):
            layer = chunk.get_submodule(at.name.removesuffix(".mlp.router"))
            layer.pre_mlp_layernorm.register_forward_pre_hook(self._hold)
            at.module.register_forward_hook(self._look(at.layer))

    def comes_back(self, output, batch):
        """What the backward of an output computes again is of these rows of this batch."""
        tokens = self.tokens

        def back(_gradient):
            self.tokens, self.expected = tokens, batch.expected

        if output.requires_grad:
            output.register_hook(back)

    def _hold(self, _module, args):
        self.tokens = args[0][..., 0].detach().flatten().tolist()

    def _look(self, layer):
        def look(_module, _args, output):
            again = torch._C._current_graph_task_id() != -1
            for token, row in zip(self.tokens, output[1], strict=True):
                experts = set(row.nonzero().flatten().tolist())
                wanted = self.expected.get((round(token), layer))
                if wanted is None:
                    kind = "filler" if len(experts) == K else "wrong"
                else:
                    kind = "right" if experts == wanted else "wrong"
                self.counts[kind] += 1
                self.counts["recomputed"] += again

        return look


def run_case(core, name):
    """One case on one rank: counts, and what is left in the routers after the step."""
    sizes, form, freq, options = CASES[name]
    layers = [i for i, moe in enumerate(freq) if moe]
    with topology(core, **sizes):
        torch.manual_seed(0)
        config = config_of_ranks(core, len(freq), freq, **sizes, **options)
        chunks = build_chunks(core, config)
        seen = Seen()
        for chunk in chunks:
            mark(chunk)
            seen.watch(chunk.train())
        dp = core.state.get_data_parallel_rank()
        tp, cp = sizes.get("tp", 1), sizes.get("cp", 1)
        align = 2 * cp * tp if cp > 1 else tp
        batches = [Batch(100 * dp + m, form, align, layers) for m in range(MICRO_BATCHES)]
        if name == "control":
            for batch in batches:
                rolled = [np.roll(ids, -1, axis=0) for ids in batch.routes]
                batch.given = [Routes(ids.astype(np.uint8), tuple(layers), E) for ids in rolled]
        step(chunks, batches, seen)
        left = [len(one.replay_backward_list) for one in core.Replay.global_router_replay_instances]
        actions = [one.router_replay_action for one in core.Replay.global_router_replay_instances]
        expected = sum(len(b.expected) for b in batches)
        left = sum(left)
        return {
            **seen.counts,
            "dp": dp,
            "routes": expected,
            "left": left,
            "native": not any(actions),
        }


def step(chunks, batches, seen):
    """Forward and backward of all micro-batches by Megatron's own schedule."""
    from megatron.core.pipeline_parallel import get_forward_backward_func

    def forward_step(batch_iterator, model):
        batch = next(batch_iterator)
        inputs, packed_seq_params = batch.model_inputs()
        seen.expected = batch.expected
        set_replay(model, batch.given, packed_seq_params, seq_length=32)
        output = model(
            inputs["tokens"], inputs["position_ids"], None, packed_seq_params=packed_seq_params
        )
        seen.comes_back(output, batch)
        return output, lambda out: (out.square().mean(), {})

    rows = PLACES if batches[0].form == "thd" else 32
    get_forward_backward_func()(
        forward_step_func=forward_step,
        data_iterator=[iter(batches) for _ in chunks],
        model=chunks,
        num_microbatches=len(batches),
        seq_length=rows,
        micro_batch_size=1 if batches[0].form == "thd" else 3,
        forward_only=False,
    )


def main(names):
    """Each case in turn; a line of JSON for each."""
    with megatron() as core:
        results = on_ranks(4, lambda rank: [run_case(core, name) for name in names])
    for i, name in enumerate(names):
        parts = [rank[i] for rank in results]
        print(json.dumps({"case": name, **{k: [part[k] for part in parts] for k in parts[0]}}))


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        main(sys.argv[1:] or list(CASES))
