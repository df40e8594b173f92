"""--plan of what verl, SkyRL and NeMo-RL hold of their own micro-batches.

fixtures/trainer_plans.json has what their own functions gave for eight samples on two ranks, and
the samples of each micro-batch of each global batch of each rank, as these then cut them.
"""

import json
import math
import re
import sys
import typing
from itertools import zip_longest
from types import ModuleType, SimpleNamespace

import pytest

from routectl.formats.replay.plans import read_plan
from routectl.layouts.plan import verl_plan
from support import foreign
from support.recordings import FIXTURES
from support.shell import complaint, run

KEPT = json.loads((FIXTURES / "trainer_plans.json").read_text("utf-8"))
LENS = KEPT["lens"]
CASES = [(name, case) for name in ("verl", "skyrl", "nemo-rl") for case in KEPT[name]]


def steps_of(plan):
    """The samples of each rank in each micro-batch."""
    return [[list(group) for group in part.groups] for part in plan.micro_batches]


def wanted(ranks):
    """Global batch by global batch, the m-th micro-batches of all ranks."""
    batches = [zip_longest(*parts, fillvalue=[]) for parts in zip(*ranks, strict=True)]
    return [list(step) for batch in batches for step in batch]


def save(folder, content):
    """A plan's file."""
    path = folder / "plan.json"
    path.write_text(json.dumps(content), "utf-8")
    return path


@pytest.mark.parametrize(("name", "case"), CASES, ids=[f"{n}: {c['of']}" for n, c in CASES])
def test_what_trainers_hold(tmp_path, name, case):
    """The micro-batches are those that the trainer's own iterators gave, rank by rank."""
    plan = read_plan(save(tmp_path, case["document"]), 1)
    plan.check(len(LENS), 1)
    assert steps_of(plan) == wanted(case["micro_batches"])


def test_through_the_command(capsys, tmp_path):
    """What verl holds is a plan of a command, and --layout names it too."""
    plan = save(tmp_path, KEPT["verl"][0]["document"])
    lens = ("layout", "--lens", ",".join(map(str, LENS)))
    page = run(capsys, *lens, "--plan", plan).out
    assert "micro-batch 0, ranks from 0: a = sample 1, b = sample 2; " in page
    assert "micro-batch 1, ranks from 0: a = sample 3, b = sample 5; " in page
    assert page == run(capsys, *lens, "--layout", f"plan={plan}").out


def test_a_rank_alone(tmp_path):
    """A bare list of index lists is one rank's; ranks of SkyRL with fewer end in empty ones."""
    assert steps_of(read_plan(save(tmp_path, [[2, 0], [1]]), 1)) == [[[2, 0]], [[1]]]
    two = {"_microbatches": [[[1], [0]], [[0, 1]]]}
    assert steps_of(read_plan(save(tmp_path, two), 1)) == [[[1], [2, 3]], [[0], []]]


SHARD = {"micro_batch_indices": [[[0, 2], [2, 3]]]}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"batch_idx_list": [[[0], [2]]]}, "of rank 0 do not have each of its samples once"),
        ({"batch_idx_list": [[[0, 0]]]}, "of rank 0 do not have each of its samples once"),
        ({"batch_idx_list": [[[0], [1]], [[0, 1]]]}, "ranks have [1, 2] micro-batches, expected"),
        ({"batch_idx_list": []}, "batch_idx_list: Expected `array` of length >= 1"),
        ({"batch_idx_list": [[["a"]]]}, "batch_idx_list: Expected `int`, got `str` - at `$[0][0]"),
        ({"_microbatches": [[[0]]], "global_idx": [4, 5]}, "has 2 samples, _microbatches 1 in all"),
        ({"_microbatches": [[[0, 1]]], "global_idx": [4, 4]}, "sample 4 is in 2 micro-batches"),
        ({"batch_sorted_indices": [0]}, "expected shards with micro_batch_indices: Object missing"),
        ({"batch_sorted_indices": [0, 1], "shards": [SHARD]}, "has 2 samples, the shards 3"),
        (
            {"batch_sorted_indices": [0], "shards": [{"micro_batch_indices": [[[0, 0], [1, 1]]]}]},
            "shard 0: micro_batch_indices of global batch 0 do not follow each other up to 1",
        ),
        (
            {"batch_sorted_indices": [0, 1, 2], "shards": [SHARD, {"micro_batch_indices": []}]},
            "shards have other numbers of global batches than each other",
        ),
        (
            {"partitions": [[0]]},
            "not a plan: expected one of micro_batches, dp_shards (slime), batch_idx_list (verl), "
            "_microbatches (SkyRL), batch_sorted_indices (NeMo-RL)",
        ),
    ],
)
def test_refused(capsys, tmp_path, content, said):
    """What is not whole, or of no trainer that is known, is refused in a line."""
    plan = save(tmp_path, content)
    assert said in complaint(capsys, "layout", "--lens", "5,6,7,8,9", "--plan", plan)


@pytest.mark.trainers
@pytest.mark.skipif(not foreign.HAVE_VERL, reason="pip install --no-deps verl==0.9.1")
def test_verls_were_verls():
    """What is kept of verl is what its functions give now."""
    ranks = foreign.balanced_partitions(foreign.workload(LENS), 2, equal_size=True)
    lists = foreign.micro_batches([[LENS[i] for i in rank] for rank in ranks], 24)
    order = [i for rank in ranks for i in rank]
    assert KEPT["verl"][0]["document"] == {"batch_idx_list": lists, "global_idx": order}


@pytest.mark.trainers
@pytest.mark.skipif(not foreign.HAVE_SKYRL, reason="pip install --no-deps skyrl==0.3.0")
def test_skyrls_were_skyrls():
    """What is kept of SkyRL is what its TokenBasedBatchIterator holds now."""
    import torch

    packing = foreign.load_file("skyrl", "train/dataset/bin_packing.py", {})
    typed = {n: getattr(typing, n) for n in ("Any", "Dict", "Iterator", "List", "Optional")}
    names = {"torch": torch, "math": math, "dist": torch.distributed, **typed}
    names |= dict.fromkeys(("Experience", "TensorBatch", "TrainingInputBatch"), SimpleNamespace)
    names["make_seq_packer"] = packing.make_seq_packer
    path = "backends/skyrl_train/workers/worker_utils.py"
    wanted = ["BaseBatchIterator", "TokenBasedBatchIterator"]
    iterator = foreign.definitions("skyrl", path, wanted, names).TokenBasedBatchIterator
    places = torch.arange(max(LENS))
    held = [
        iterator({"attention_mask": places < torch.tensor(part)[:, None]}, 24)._microbatches
        for part in (LENS[:4], LENS[4:])
    ]
    assert KEPT["skyrl"][0]["document"] == {"_microbatches": held}


@pytest.fixture
def alone(tmp_path):
    """A process group of this process."""
    import torch.distributed as dist

    store = dist.FileStore(str(tmp_path / "store"), 1)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def line_of(page):
    """What a page says to add to a trainer, run."""
    text = (FIXTURES.parent / "docs" / "trainers" / page).read_text("utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names = {}
    exec(compile(block, page, "exec"), names)
    return names["keep"]


@pytest.mark.parametrize("case", KEPT["nemo-rl"], ids=lambda case: case["of"])
def test_the_line_for_nemo_rl(tmp_path, case):
    """What the page adds to NeMo-RL writes a plan of what shard_by_batch_size returned."""
    path, held = tmp_path / "plan.json", case["document"]
    lacking = {"elem_counts_per_gb": None}
    shards = [SimpleNamespace(**{**lacking, **shard}) for shard in held["shards"]]
    line_of("nemo-rl.md")(shards, held["batch_sorted_indices"], path)
    assert steps_of(read_plan(path, 1)) == wanted(case["micro_batches"])


def test_the_line_for_skyrl(tmp_path, alone):
    """What the page adds to SkyRL writes a plan of what a rank's iterator holds."""
    path = tmp_path / "plan.json"
    line_of("skyrl.md")(SimpleNamespace(_microbatches=[[1, 2], [3, 0]]), path)
    assert steps_of(read_plan(path, 1)) == [[[1, 2]], [[3, 0]]]


@pytest.mark.trainers
@pytest.mark.skipif(not foreign.HAVE_VERL, reason="pip install --no-deps verl==0.9.1")
def test_the_line_for_verl(tmp_path, monkeypatch, alone):
    """What the page adds to verl, around its own function, writes the plan that balance verl is."""
    import torch

    foreign.workload(LENS)  # verl's file is found while verl is what it is
    engine = ModuleType("verl.workers.engine")
    engine.utils = SimpleNamespace(rearrange_micro_batches=foreign.rearrange_micro_batches)
    for name in ("verl", "verl.workers"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, "verl.workers.engine", engine)
    monkeypatch.chdir(tmp_path)
    line_of("verl.md")
    ids = torch.nested.nested_tensor([torch.zeros(n) for n in LENS], layout=torch.jagged)
    engine.utils.rearrange_micro_batches({"input_ids": ids}, max_token_len=24, dp_group=None)
    assert read_plan(tmp_path / "plan.json", 1) == verl_plan(LENS, 1, 24)
