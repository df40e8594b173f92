"""The layout that each trainer's config says, and what it says that no layout follows."""

import ast
import dataclasses
from importlib.util import find_spec
from pathlib import Path

import pytest

from routectl.formats.configs.flat import read_flat
from routectl.formats.configs.trainers import trainer_layout
from support.recordings import FIXTURES

CONFIGS = FIXTURES / "trainer_configs"
FREQ = [0, *[1] * 26]
WANTED = {  # by hand, by what the files say
    "verl.yaml": (
        "verl",
        {
            **{"framework": "verl", "tp": 2, "cp": 2, "pp": 2, "ep": 4, "first_stage_layers": 22},
            **{"bucket": 512, "max_tokens_per_gpu": 16384, "balance": "verl"},
        },
        16,
    ),
    "verl.sh": (
        "verl",
        {"framework": "verl", "tp": 4, "cp": 2, "moe_layer_freq": 1, "micro_batch_size": 4},
        8,
    ),
    "slime.sh": (
        "slime",
        {
            **{"framework": "slime", "tp": 4, "cp": 2, "pp": 1, "ep": 8},
            **{"max_tokens_per_gpu": 20480, "pad_multiplier": 4096},
        },
        16,
    ),
    "roll.yaml": (
        "ROLL",
        {
            **{"framework": "roll", "tp": 4, "cp": 1, "pp": 2, "vpp": 4, "ep": 8},
            **{"form": "bshd", "seq_len": 10240, "micro_batch_size": 2},
        },
        16,
    ),
    "megatron.yaml": (
        "Megatron",
        {
            **{"framework": "megatron", "tp": 2, "cp": 1, "pp": 4, "ep": 8},
            **{"decoder_layers": 27, "first_stage_layers": 6, "moe_layer_freq": FREQ},
        },
        None,
    ),
    "megatron.json": (
        "Megatron",
        {
            **{"framework": "megatron", "tp": 1, "cp": 2, "pp": 16, "vpp": 2, "ep": 64, "dp": 4},
            **{"decoder_layers": 61, "moe_layer_freq": "([0]*3+[1]*58)"},
            "pipeline_layout": "Et*3|(tt|)*29,mL",
        },
        None,
    ),
    "ms-swift.json": (
        "ms-swift",
        {
            **{"framework": "ms-swift-contiguous", "tp": 2, "cp": 4, "pp": 2, "ep": 4},
            **{"account_embedding": True, "account_loss": True, "fp8": "blockwise"},
            "micro_batch_size": 1,
        },
        None,
    ),
}


@pytest.mark.parametrize("name", WANTED)
def test_configs(name):
    """Sizes, stages, micro-batches and the framework are those that the file says."""
    trainer, values, gpus = WANTED[name]
    found = trainer_layout(read_flat(CONFIGS / name))
    assert (found.trainer, found.values, found.gpus) == (trainer, values, gpus)
    assert found.doubts == []
    assert found.origins.keys() - values.keys() <= {"dp"}
    assert found.unread == (["balance_data"] if name == "slime.sh" else [])


def changed(name, **settings):
    """The layout of a config with settings changed, dots as two underscores."""
    flat = read_flat(CONFIGS / name)
    flat |= {key.replace("__", "."): value for key, value in settings.items()}
    return trainer_layout(flat)


VERL, ROLL = "actor_rollout_ref__actor__", "actor_train__"


@pytest.mark.parametrize(
    ("name", "settings", "said", "settled_by"),
    [
        ("verl.yaml", {f"{VERL}strategy": "fsdp2"}, "strategy is 'fsdp2'", ()),
        ("verl.yaml", {f"{VERL}megatron__dynamic_context_parallel": True}, "a CP size", ("plan",)),
        ("verl.yaml", {f"{VERL}megatron__sequence_parallel": False}, "every tp rank", ("tp",)),
        ("verl.yaml", {f"{VERL}megatron__use_remove_padding": False}, "S is the", ("seq_len",)),
        (
            "verl.yaml",
            {f"{VERL}megatron__tensor_model_parallel_size": "${oc.env:TP}"},
            "no number",
            ("tp",),
        ),
        (
            "verl.yaml",
            {f"{VERL}megatron__override_transformer_config__fp8": "hybrid"},
            "fp8_recipe is 'delayed'",
            ("fp8",),
        ),
        ("verl.yaml", {f"{VERL}use_dynamic_bsz": "maybe"}, "neither true nor false", ()),
        ("slime.sh", {"sequence_parallel": False}, "every tp rank", ("tp",)),
        ("slime.sh", {"num_layers_per_virtual_pipeline_stage": 2}, "needs num_layers", ("vpp",)),
        ("roll.yaml", {f"{ROLL}use_sequence_packing": True}, "no routes with packing", ()),
        ("roll.yaml", {f"{ROLL}use_dynamic_batching_in_train": True}, "an S of its own", ()),
        ("roll.yaml", {f"{ROLL}strategy_args__strategy_name": "fsdp2_train"}, "'fsdp2_train'", ()),
        (
            "roll.yaml",
            {f"{ROLL}strategy_args__strategy_config__context_parallel_size": 2},
            "no routes with CP",
            ("cp",),
        ),
        ("megatron.json", {"hierarchical_context_parallel_sizes": [2, 2]}, "no layout of it", ()),
        (
            "megatron.json",
            {"pipeline_model_parallel_layout": [["t"]]},
            "no text",
            ("pipeline_layout",),
        ),
        (
            "ms-swift.json",
            {"packing": True},
            "its own way",
            ("plan", "max_tokens_per_gpu", "micro_batch_size"),
        ),
    ],
)
def test_what_cannot_be_followed(name, settings, said, settled_by):
    """What would make another layout is told, with the keys that settle it."""
    found = changed(name, **settings)
    assert [doubt.settled_by for doubt in found.doubts] == [settled_by]
    assert said in found.doubts[0].what


@pytest.mark.parametrize(
    ("name", "settings", "values"),
    [
        ("slime.sh", {"allgather_cp": True}, {"framework": "slime-allgather"}),
        ("slime.sh", {"use_dynamic_batch_size": False}, {"micro_batch_size": 1}),
        (
            "slime.sh",
            {"num_layers": 48, "pipeline_model_parallel_size": 2}
            | {"num_layers_per_virtual_pipeline_stage": 6},
            {"pp": 2, "vpp": 4, "decoder_layers": 48},
        ),
        ("ms-swift.json", {"cp_partition_mode": "zigzag"}, {"framework": "ms-swift"}),
        ("ms-swift.json", {"padding_free": False}, {"form": "bshd-b-major"}),
        ("roll.yaml", {"sequence_length": 4096}, {"seq_len": 4096}),
        (
            "verl.yaml",
            {f"{VERL}strategy": "veomni", f"{VERL}veomni__ulysses_parallel_size": 4},
            {"framework": "ulysses", "cp": 4},
        ),
        (
            "verl.yaml",
            {f"{VERL}ppo_max_token_len_per_gpu": "${x.y}", "x__y": 99},
            {"max_tokens_per_gpu": 99},
        ),
    ],
)
def test_other_settings(name, settings, values):
    """Switches choose among rules, and sizes follow from others."""
    found = changed(name, **settings)
    assert found.doubts == []
    assert values.items() <= found.values.items()


def test_of_no_trainer(tmp_path):
    """A config without a size of any trainer is of none."""
    assert trainer_layout({"a.b": 1, "policy.megatron_cfg.tensor_model_parallel_size": 2}) is None
    assert trainer_layout({}) is None


def at(package, *parts):
    """A file of an installed package, which is not imported; the test is skipped without it."""
    spec = find_spec(package)
    if spec is None:
        pytest.skip(f"{package} is not installed")
    path = Path(spec.submodule_search_locations[0]).joinpath(*parts)
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    return path


def fields_of(path, *names):
    """The annotated fields of classes in a file."""
    tree = ast.parse(path.read_text("utf-8"))
    return {
        line.target.id
        for node in tree.body
        if isinstance(node, ast.ClassDef) and (not names or node.name in names)
        for line in node.body
        if isinstance(line, ast.AnnAssign)
    }


@pytest.mark.trainers
class TestNames:
    """The names are those of the programs that are installed."""

    def test_verl(self):
        """verl's own default config has every key that is read, and says its own defaults."""
        flat = read_flat(at("verl", "trainer", "config", "_generated_ppo_megatron_trainer.yaml"))
        mine = read_flat(CONFIGS / "verl.yaml")
        free = "override_transformer_config."  # keys of Megatron's TransformerConfig
        assert {key for key in mine if free not in key and key not in flat} == set()
        found = trainer_layout(flat)
        assert (found.trainer, found.gpus, found.doubts) == ("verl", 8, [])
        sizes = {"framework": "verl", "tp": 1, "cp": 1, "pp": 1, "ep": 1}
        assert found.values == sizes

    def test_verl_with_veomni(self):
        """The keys that are read with strategy veomni are there too."""
        flat = read_flat(at("verl", "trainer", "config", "_generated_ppo_veomni_trainer.yaml"))
        found = trainer_layout(flat)
        assert (found.values["framework"], found.values["cp"], found.doubts) == ("ulysses", 1, [])

    def test_megatron(self):
        """ModelParallelConfig and TransformerConfig have every key of the config of Megatron."""
        config = pytest.importorskip("megatron.core.transformer.transformer_config")
        fields = {field.name for field in dataclasses.fields(config.TransformerConfig)}
        mine = read_flat(CONFIGS / "megatron.yaml")
        model = {key.removeprefix("model.") for key in mine if key.startswith("model.")}
        assert model - fields == set()
        ours = {
            key.rsplit(".", 1)[1] for key in read_flat(CONFIGS / "verl.yaml") if "override_" in key
        }
        assert ours - fields == set()

    def test_swift(self):
        """ms-swift's arguments have every key of its config, and its cp_partition_mode's values."""
        path = at("swift", "megatron", "arguments", "megatron_args.py")
        base = at("swift", "arguments", "base_args", "base_args.py").parent
        fields = fields_of(path).union(*(fields_of(file) for file in base.glob("*.py")))
        missing = set(read_flat(CONFIGS / "ms-swift.json")) - fields
        assert missing == set()
        assert "cp_partition_mode: Literal['zigzag', 'contiguous']" in path.read_text("utf-8")
