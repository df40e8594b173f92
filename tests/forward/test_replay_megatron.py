"""Routes from router inputs and Megatron's checkpoints, against the routers that ran."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from routectl import open_dump
from routectl.checkpoints import open_checkpoint
from routectl.checkpoints.facts import checkpoint_facts
from routectl.checkpoints.routers import router_recipe, router_tensors
from routectl.errors import FormatError, MismatchError, UnsupportedError
from routectl.jobs.recompute.router_inputs import recompute_from_inputs
from support.mcore_checkpoints import EXPERTS, TOP_K
from support.mcore_replay import LENGTH, SAMPLES, VARIANTS
from support.shell import complaint, run

pytestmark = pytest.mark.trainers

TESTS = Path(__file__).parent.parent
RECOMPUTE = """
import sys
sys.modules["megatron"] = None  # any import of it is an ImportError
from routectl.cli.main import main
for folder in sys.argv[1:]:
    inputs, output = f"{folder}/inputs.safetensors", f"{folder}/routes.parquet"
    assert main(["recompute", folder, inputs, "--save", output]) == 0
"""
MIXTRAL = {
    "model_type": "mixtral",
    "num_hidden_layers": 3,
    "num_local_experts": EXPERTS,
    "num_experts_per_tok": TOP_K,
}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What mcore_replay.py writes, and routes.parquet beside it, made without Megatron."""
    folder = tmp_path_factory.mktemp("megatron")
    for program in (
        ["-m", "support.mcore_replay", str(folder)],
        ["-c", RECOMPUTE, *(str(folder / name) for name in VARIANTS)],
    ):
        done = subprocess.run(
            [sys.executable, *program], capture_output=True, text=True, check=False, cwd=TESTS
        )
        assert done.returncode == 0, done.stderr[-2000:]
    return folder


@pytest.fixture
def bare(written: Path, tmp_path: Path) -> Path:
    """The checkpoint of softmax routers, its arguments taken away."""
    folder = shutil.copytree(written / "post_softmax", tmp_path / "bare")
    (folder / "iter_0000005" / "common.pt").unlink()
    return folder


def differing(routes: Path, truth: Path) -> tuple[int, int]:
    """Rows whose set is not that of the routing maps, ties aside; and rows that are no tie."""
    dump, ids = open_dump(routes), torch.load(truth)
    assert [len(sample.routes.ids_TLK) for sample in dump] == [LENGTH] * SAMPLES
    assert list(dump.meta.layers_L) == sorted(map(int, ids))
    ours_TLK = np.sort(np.concatenate([sample.routes.ids_TLK for sample in dump]), axis=2)
    margin_TL = np.concatenate([sample.routes.margin_TL for sample in dump])
    theirs_TLK = np.stack([ids[str(layer)].numpy() for layer in dump.meta.layers_L], axis=1)
    clear_TL = margin_TL > 0
    return int((clear_TL & (ours_TLK != theirs_TLK).any(axis=2)).sum()), int(clear_TL.sum())


class TestArguments:
    """The checkpoint's own argument list."""

    @pytest.mark.parametrize("name", VARIANTS)
    def test_ids_are_those_of_the_routing_map(self, written: Path, name: str) -> None:
        """Every row that is no tie has the experts that TopKRouter selected in its GPTModel."""
        folder = written / name
        wrong, clear = differing(folder / "routes.parquet", folder / "ids.pt")
        rows = SAMPLES * LENGTH * len(torch.load(folder / "ids.pt"))
        assert wrong == 0
        assert clear > 0.9 * rows

    def test_the_recipe_is_the_models(self, written: Path) -> None:
        """Provenance and show say the recipe that the options of each variant make."""
        said = {
            "post_softmax": "logits, top-4 of 16, softmax of those",
            "pre_softmax": "softmax, top-4 of 16",
            "groups": "sigmoid + bias, top-2-sum of 4 groups keep 2, top-4 of 16, normalised, "
            "x 2.5",
        }
        for name, words in said.items():
            about = open_dump(written / name / "routes.parquet").meta.provenance
            assert about["recipe"] == words
            assert about["source"] == "Megatron-Core 0.16.1 TopKRouter"
            assert checkpoint_facts(open_checkpoint(written / name)).recipe == words

    def test_arguments_among_the_tensors_are_of_later_versions(self, written: Path) -> None:
        """Where 0.19 and later keep them, scores are those of 0.19; a torch_dcp tells no version.

        The same writer, told to store the same entry, stands for 0.19, which is not at hand.
        """
        opened = open_checkpoint(written / "common_state")
        assert (opened.core, opened.iteration) == ("0.19.0", 5)
        assert router_recipe(opened).score_dtype == "float32"
        opened = open_checkpoint(written / "torch_dcp")
        assert (opened.core, opened.arguments["moe_router_topk"]) == (None, TOP_K)
        assert router_recipe(opened).score_dtype == "rounded"

    def test_what_decides_must_be_there(self, written: Path) -> None:
        """Without K, E or the score function nothing is assumed; the absent ones are named."""
        opened = open_checkpoint(written / "groups")
        for name in ("num_experts", "moe_router_topk", "moe_router_score_function"):
            rest = {key: value for key, value in opened.arguments.items() if key != name}
            with pytest.raises(FormatError, match=f"got no {name}, expected config"):
                router_recipe(dataclasses.replace(opened, arguments=rest))

    def test_a_bias_that_would_be_left_out_is_refused(self, written: Path) -> None:
        """Arguments without an expert bias do not fit routers with one; show says no recipe."""
        opened = open_checkpoint(written / "common_state")
        arguments = {**opened.arguments, "moe_router_enable_expert_bias": False}
        changed = dataclasses.replace(opened, arguments=arguments)
        with pytest.raises(MismatchError, match=r"layer 1: .*router\.expert_bias, expected none"):
            router_recipe(changed)
        assert checkpoint_facts(changed).recipe is None

    def test_quantile_balancing_is_refused(self, written: Path) -> None:
        """Routing that is no top-k of scores is refused by its argument."""
        opened = open_checkpoint(written / "groups")
        arguments = {**opened.arguments, "moe_router_load_balancing_type": "quantile_balancing"}
        with pytest.raises(UnsupportedError, match="quantile_balancing"):
            router_recipe(dataclasses.replace(opened, arguments=arguments))

    def test_refused_arguments_among_the_tensors_count_as_absent(self, tmp_path: Path) -> None:
        """Arguments that name a function off the list are not made; the model's tensors open."""
        from torch.distributed import checkpoint as dcp  # takes seconds to load

        weight = torch.randn(EXPERTS, 8)
        state = {"model": {"decoder.layers.0.mlp.router.weight": weight}, "args": os.getcwd}
        writer = dcp.FileSystemWriter(tmp_path / "iter_0000001")
        with pytest.warns(UserWarning, match="single process"):
            dcp.save(state, storage_writer=writer, no_dist=True)
        opened = open_checkpoint(tmp_path)
        assert opened.arguments == {}
        assert torch.equal(router_tensors(opened)[0].weight, weight)


class TestModel:
    """A config.json in place of arguments."""

    def test_without_either_it_is_refused(self, capsys, bare: Path, tmp_path: Path) -> None:
        """One line names what is absent and the flag; nothing is written."""
        line = ("recompute", bare, bare / "inputs.safetensors", "--save", tmp_path / "r.parquet")
        said = complaint(capsys, *line)
        assert "torch_dist: nothing in it says how its routers select" in said
        assert "hint: --model CONFIG" in said
        assert not (tmp_path / "r.parquet").exists()

    def test_a_config_says_how_they_select(self, bare: Path, tmp_path: Path) -> None:
        """A config.json, or its folder, gives the rows that the model selected, ties aside."""
        (tmp_path / "config.json").write_text(json.dumps(MIXTRAL))
        for model in (tmp_path / "config.json", tmp_path):
            count = recompute_from_inputs(
                bare, bare / "inputs.safetensors", tmp_path / "r.parquet", force=True, model=model
            )
            assert count == SAMPLES
            wrong, clear = differing(tmp_path / "r.parquet", bare / "ids.pt")
            assert (wrong, clear > 0.9 * SAMPLES * LENGTH * 3) == (0, True)
        about = open_dump(tmp_path / "r.parquet").meta.provenance
        assert about["source"].endswith("MixtralTopKRouter")

    def test_the_flag_is_heard(self, capsys, bare: Path, tmp_path: Path) -> None:
        """--model of the command says it too."""
        (tmp_path / "config.json").write_text(json.dumps(MIXTRAL))
        done = run(
            capsys,
            "recompute",
            bare,
            bare / "inputs.safetensors",
            "--save",
            tmp_path / "r.parquet",
            "--model",
            tmp_path,
        )
        assert done.code == 0, done.err
        assert differing(tmp_path / "r.parquet", bare / "ids.pt")[0] == 0

    def test_a_config_of_another_model_is_refused(self, written: Path, tmp_path: Path) -> None:
        """Other experts, and routers with a bias that the config's family has not, do not fit."""
        config, output = tmp_path / "config.json", tmp_path / "r.parquet"
        for folder, change, said in (
            ("post_softmax", {"num_local_experts": 8}, "got .16., expected 8 rows"),
            ("groups", {}, "expert_bias, expected none"),
        ):
            config.write_text(json.dumps({**MIXTRAL, **change}))
            place = written / folder
            with pytest.raises(MismatchError, match=said):
                recompute_from_inputs(
                    place, place / "inputs.safetensors", output, force=False, model=config
                )
        with pytest.raises(FormatError, match="cannot be read"):
            router_recipe(open_checkpoint(written / "groups"), tmp_path / "absent")
        assert not output.exists()
