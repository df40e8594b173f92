"""``routectl show CHECKPOINT``: what it says, and what it takes to say it."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import routectl
from support.shell import complaint, document, run

ROOT = Path(__file__).parent.parent.parent
OLD_CORE = ROOT / "fixtures" / "checkpoints" / "megatron-0.15.3"
CONFIG = {
    "model_type": "qwen3_moe",
    "num_hidden_layers": 4,
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "mlp_only_layers": [1],
}
WATCH = """
import sys
from routectl.cli.main import main
before = int(open("/proc/self/io").readline().split()[1])
code = main(["show", sys.argv[1], "--json"])
read = int(open("/proc/self/io").readline().split()[1]) - before
heavy = {"torch", "transformers", "numba", "pyarrow", "safetensors", "megatron"} & set(sys.modules)
print(code, sorted(heavy), read, file=sys.stderr)
"""


def build(folder: Path, experts: int = 2) -> Path:
    """A sharded qwen3_moe of which layer 3's experts are the most, with an MTP layer and a head."""
    folder.mkdir()
    shards: list[dict[str, torch.Tensor]] = [{"model.embed_tokens.weight": torch.zeros(64, 16)}]
    for layer in range(5):
        prefix = f"model.layers.{layer}."
        shard = {f"{prefix}self_attn.q_proj.weight": torch.zeros(16, 16, dtype=torch.bfloat16)}
        if layer != 1:
            shard[f"{prefix}mlp.gate.weight"] = torch.ones(8, 16, dtype=torch.bfloat16)
        for expert in range(experts if layer != 3 else experts + 1):
            f8 = torch.zeros(16, 16).to(torch.float8_e4m3fn)
            shard[f"{prefix}mlp.experts.{expert}.up_proj.weight"] = f8
        shards.append(shard)
    places = {}
    for number, shard in enumerate(shards, 1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        save_file(shard, folder / name)
        places |= dict.fromkeys(shard, name)
    index = {"weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return folder


class TestDocument:
    """The figures, counted by hand."""

    def test_sizes_are_those_of_the_tensors(self, capsys, tmp_path: Path) -> None:
        """Bytes per dtype and layer, of routers, layers and the rest add up, without MTP."""
        folder = build(tmp_path / "model")
        doc = document(capsys, "show", folder)
        assert doc["schema"] == "routectl.checkpoint/1"
        assert (doc["format"], doc["model"], doc["iteration"]) == ("hf", "qwen3_moe", None)
        assert (doc["num_layers"], doc["layers"]) == (4, [0, 2, 3])
        assert (doc["num_experts"], doc["top_k"], doc["files"], doc["tensors"]) == (8, 2, 6, 21)
        assert doc["router"] == {
            "shape": [8, 16],
            "dtypes": ["BF16"],
            "linear_bias": False,
            "expert_bias_dtypes": [],
            "extras": [],
            "bytes": 3 * 8 * 16 * 2,
        }
        attention, gate, expert, embedding = 512, 256, 256, 4096
        sizes = [
            attention + gate + 2 * expert,
            attention + 2 * expert,
            attention + gate + 2 * expert,
            attention + gate + 3 * expert,
        ]
        coded = [2 * expert, 2 * expert, 2 * expert, 3 * expert]
        assert doc["layer_bytes"] == [
            {
                "layer": n,
                "moe": n != 1,
                "bytes": size,
                "dtypes": {"BF16": size - coded[n], "F8_E4M3": coded[n]},
            }
            for n, size in enumerate(sizes)
        ]
        assert doc["layer_routers"] == [
            {"layer": n, "dtype": "BF16", "expert_bias_dtype": None} for n in (0, 2, 3)
        ]
        assert doc["largest_layer"] == {"layer": 3, "bytes": sizes[3]}
        assert doc["streamed_bytes"] == sum(sizes)
        assert doc["other_bytes"] == embedding + sizes[0]  # the MTP layer is like layer 0
        assert doc["tensor_bytes"] == sum(sizes) + sizes[0] + embedding
        assert doc["file_bytes"] == sum(f.stat().st_size for f in folder.glob("*.safetensors"))
        assert doc["dtypes"] == [
            {"dtype": "BF16", "tensors": 9, "bytes": 5 * attention + 4 * gate},
            {"dtype": "F32", "tensors": 1, "bytes": embedding},
            {"dtype": "F8_E4M3", "tensors": 11, "bytes": 11 * expert},
        ]
        opened = routectl.open_checkpoint(folder)
        assert routectl.checkpoint_document(routectl.checkpoint_facts(opened)) == doc

    def test_megatron_core_0_15_is_shown_and_read(self, capsys) -> None:
        """A checkpoint that megatron-core 0.15.3 wrote gives its routers, bit for bit."""
        metadata = (OLD_CORE / "iter_0000007" / ".metadata").read_bytes()
        assert b"MCoreMetadata" in metadata
        doc = document(capsys, "show", OLD_CORE)
        assert (doc["format"], doc["iteration"], doc["layers"]) == ("torch_dist", 7, [1, 2])
        assert (doc["num_layers"], doc["num_experts"], doc["top_k"]) == (3, 8, 4)
        assert doc["router"]["expert_bias_dtypes"] == ["F32"]
        routers = [{"layer": n, "dtype": "BF16", "expert_bias_dtype": "F32"} for n in (1, 2)]
        assert doc["layer_routers"] == routers
        truth = load_file(OLD_CORE / "truth.safetensors")
        routers = routectl.router_tensors(routectl.open_checkpoint(OLD_CORE))
        assert len(truth) == 2 * len(routers)
        for layer, router in routers.items():
            assert torch.equal(router.weight, truth[f"{layer}.weight"])
            assert torch.equal(router.expert_bias, truth[f"{layer}.expert_bias"])


class TestCost:
    """Headers alone."""

    @pytest.mark.parametrize("kind", ["hf", "megatron"])
    def test_no_weight_is_read_and_no_torch_loaded(self, tmp_path: Path, kind: str) -> None:
        """show loads no heavy library and reads less than the headers and its own modules."""
        folder = OLD_CORE if kind == "megatron" else build(tmp_path / "model")
        if kind == "hf":  # 1 GB of experts, which take no room on disk
            path = folder / "model-00006-of-00006.safetensors"
            header = {
                "model.layers.4.self_attn.q_proj.weight": [16, 16],
                "model.layers.4.mlp.gate.weight": [8, 16],
                **{f"model.layers.4.mlp.experts.{n}.up_proj.weight": [1 << 28] for n in range(2)},
            }
            at, entries = 0, {}
            for name, shape in header.items():
                size = 2 * (shape[0] * shape[1] if len(shape) == 2 else shape[0])
                entries[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + size]}
                at += size
            text = json.dumps(entries).encode()
            with path.open("wb") as file:
                file.write(len(text).to_bytes(8, "little") + text)
                file.truncate(8 + len(text) + at)
        done = subprocess.run(
            [sys.executable, "-c", WATCH, str(folder)],
            capture_output=True,
            text=True,
            check=True,
            cwd=ROOT,
        )
        code, heavy, read = done.stderr.strip().rsplit("\n", 1)[-1].rsplit(" ", 2)
        assert (code, heavy) == ("0", "[]")
        assert int(read) < 20e6  # numpy's and rich's modules, which show imports, are counted
        assert json.loads(done.stdout)["tensor_bytes"] > (1e9 if kind == "hf" else 1e4)

    @pytest.mark.slow
    def test_many_tensors_take_seconds_at_most(self, tmp_path: Path) -> None:
        """46,000 tensors, as 60 layers of 256 experts have, take no more than linear time."""
        folder = build(tmp_path / "model", experts=1)
        header, at = {}, 0
        for name, size in [
            ("model.layers.4.self_attn.q_proj.weight", 512),
            ("model.layers.4.mlp.gate.weight", 256),
            ("model.layers.4.mlp.experts.0.up_proj.weight", 256),
            *(
                (f"model.layers.{4 + n // 768}.mlp.experts.{n}.down.weight", 2)
                for n in range(46080)
            ),
        ]:
            header[name] = {"dtype": "U8", "shape": [size], "data_offsets": [at, at + size]}
            at += size
        text = json.dumps(header).encode()
        data = len(text).to_bytes(8, "little") + text + bytes(at)
        (folder / "model-00006-of-00006.safetensors").write_bytes(data)
        (folder / "model.safetensors.index.json").unlink()
        begin = time.process_time()
        facts = routectl.checkpoint_facts(routectl.open_checkpoint(folder))
        assert time.process_time() - begin < 10  # 0.4 s measured; quadratic would be minutes
        assert len(facts.checkpoint.tensors) > 46000


class TestCommand:
    """What the command line accepts and refuses."""

    def test_options_of_dumps_are_refused(self, capsys, tmp_path: Path) -> None:
        """Options of dumps are no checkpoint's; with a format the folder is opened as a dump."""
        folder = build(tmp_path / "model")
        said = complaint(capsys, "show", f"{folder}::start=1")
        assert "a checkpoint says its own layers, K and E" in said
        assert f"hint: {folder}::format=npz" in said
        assert "no checkpoint" not in complaint(capsys, "show", f"{folder}::format=npz")

    def test_the_report_can_be_written(self, capsys, tmp_path: Path) -> None:
        """-o writes the text that is printed, and an existing file is refused."""
        folder, target = build(tmp_path / "model"), tmp_path / "report.txt"
        printed = run(capsys, "show", folder).out
        assert run(capsys, "show", folder, "-o", target).code == 0
        assert target.read_text() == printed
        assert "already exists" in complaint(capsys, "show", folder, "-o", target)

    def test_a_dense_model_is_refused(self, capsys, tmp_path: Path) -> None:
        """A config without experts is exit 2 with the house's line."""
        folder = build(tmp_path / "model")
        (folder / "config.json").write_text(json.dumps({"num_hidden_layers": 4}))
        assert "no MoE layer: got none of num_experts" in complaint(capsys, "show", folder)

    def test_damage_is_one_line(self, capsys, tmp_path: Path) -> None:
        """A shard that is cut is exit 2 and named."""
        folder = build(tmp_path / "model")
        shard = folder / "model-00003-of-00006.safetensors"
        shard.write_bytes(shard.read_bytes()[:-1])
        assert "model-00003-of-00006.safetensors: tensors end" in complaint(capsys, "show", folder)

    def test_folders_of_dumps_are_dumps_still(self, capsys) -> None:
        """A folder of recordings, with a config.json or not, is shown as a dump."""
        folder = ROOT / "fixtures" / "servers" / "vllm-0.32.0" / "qwen3_moe.bf16"
        config = ROOT / "fixtures" / "configs" / "qwen3_moe.json"
        doc = document(capsys, "show", folder, "--model", config)
        assert doc["schema"] == "routectl.show/1"
