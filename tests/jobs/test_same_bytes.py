"""The same bytes twice: every writer, in two worlds that differ in all that must not matter.

``support.worlds`` says in what they differ: hash seed, clock and time zone, locale, umask, working
folder, order of listings, free memory; for writers that only move integers threads too.
"""

import json
import shutil
import socket
from dataclasses import replace

import numpy as np
import pytest

from routectl.cli.main import main
from routectl.formats import open_dump
from routectl.formats.native.container import write_native
from routectl.formats.targets.table import TARGETS
from routectl.routes import Routes
from support.engine_server import rollouts
from support.recordings import DEEPSEEK, DEEPSEEK_CONFIG, QWEN
from support.tiny_rl import ENGINE, TINY
from support.worlds import WORLDS, world

FLAT = "--dtype float32 --threads 1 --device cpu"  # floats: on one number of threads
AT = "--at v0=IN/tiny/w0 --at v1=IN/tiny/w1"
CODECS = ("plain", "packed", "set", "context")
INTEGERS = {
    "native": "convert IN/ds/few.jsonl --save OUT/o.parquet --verify",
    **{f"native.{codec}": f"convert IN/ds/few.jsonl --save OUT/o.parquet --codec {codec} --verify"
       for codec in CODECS},
    "native.kept": "convert IN/ds/few.jsonl --save OUT/o.parquet --codec set --keep-order",
    "native.delta": "convert IN/tiny/v1.parquet --save OUT/o.parquet --codec delta "
                    "--base IN/tiny/v0.parquet",
    "native.margins": "convert IN/tiny/v0.parquet --save OUT/o.parquet --codec packed",
    "folder": "convert IN/folder --save OUT/o.parquet",
    "glob": "convert IN/folder/*.jsonl --save OUT/o.parquet",
    "stdout": "convert IN/ds/few.jsonl --save -",
    **{f"to.{target.name}": f"convert IN/ds/few.jsonl --save OUT/o{target.suffix} "
                            f"--to {target.name} --missing arange --lossy"
       for target in TARGETS},
    "pack": "pack IN/tiny/v0.parquet --save OUT/r --cp 2 --tp 2 --pp 2 --max-tokens-per-gpu 300",
    "pack.bshd": "pack IN/ds/few.jsonl --save OUT/r --layout form=bshd --framework megatron",
    "layout": "layout IN/ds/few.jsonl --cp 2",
    "unpack": "unpack IN/packed --save OUT/o.parquet",
    "fix": "check IN/tiny/renumbered.parquet --against IN/tiny/v0.parquet "
    "--save OUT/o.parquet",
    "show": "show IN/ds/few.jsonl -o OUT/o.json",
    "show.page": "show IN/ds/few.jsonl --html OUT/o.html",
    "diff": "diff IN/tiny/few.jsonl IN/tiny/v0.parquet -o OUT/o.json",
    "diff.page": "diff IN/tiny/few.jsonl IN/tiny/v0.parquet --html OUT/o.html",
    "diff.text": "diff IN/tiny/few.jsonl IN/tiny/v1.parquet -o OUT/o.txt",
    "check": "check IN/tiny/few.jsonl --json",
    "check.against": "check IN/tiny/renumbered.parquet --against IN/tiny/v0.parquet --json",
    "staleness": "staleness IN/tiny/few.jsonl --at v0=IN/tiny/v0.parquet "
                 "--at v1=IN/tiny/v1.parquet --json",
    "verify": "verify IN/packed --against IN/tiny/v0.parquet --json",
    "report": "report IN/diff.json -o OUT/o.html",
    "ci.baseline": "ci OUT/ci.toml --update-baseline",
}  # fmt: skip
CONFIG = """
[checks.sound]
verb = "check"
dump = "../../in/tiny/few.jsonl"

[checks.mismatch]
verb = "diff"
old = "../../in/tiny/few.jsonl"
new = "../../in/tiny/v0.parquet"
fail-over = ["mismatch:5%", "mismatch@*:30%"]
"""
FLOATS = {
    "router.inputs": "recompute IN/tiny/w1 IN/tiny/inputs.safetensors --save OUT/o.parquet",
    "show.checkpoint": "show IN/tiny/w0 --json",
    "recompute": f"recompute IN/tiny/w0 IN/tiny/few.jsonl --save OUT/o.parquet {FLAT} --mode both "
                 "--logprobs --gate-logprobs",
    "recompute.inputs": f"recompute IN/tiny/w0 IN/tiny/few.jsonl --save OUT/o.parquet {FLAT} "
                        "--router-inputs OUT/i.safetensors",
    "recompute.two": "recompute IN/tiny/w0 IN/tiny/few.jsonl --save OUT/o.parquet --threads 2 "
                     "--device cpu",
    "recompute.halves": "recompute IN/tiny/w0 IN/tiny/few.jsonl --save OUT/o.parquet --threads 1 "
                        "--device cpu --dtype bfloat16",
    "predictor": "predict fit IN/tiny/inputs.safetensors --save OUT/p.safetensors "
                 f"{AT} --threads 1 --json",
    "staleness.run": f"staleness IN/tiny/few.jsonl {AT} --forward threads=1 -o OUT/s.json",
}  # fmt: skip


def _few(source, target, count=6):
    """The first lines of a recording."""
    target.parent.mkdir(parents=True, exist_ok=True)
    lines = source.read_text("utf-8").splitlines(keepends=True)[:count]
    target.write_text("".join(lines), "utf-8")


def _tiny(folder):
    """The trained model's rollout, few samples: as recorded, and natively at two versions."""
    _few(ENGINE, folder / "few.jsonl")
    shutil.copy(TINY / "config.json", folder)
    for version, source in (("v0", "routes_v0.margins.parquet"), ("v1", "routes_v1.fp32.npz")):
        dump = open_dump(TINY / source).select(samples=range(6))
        write_native(dump, dump.meta, folder / f"{version}.parquet", force=False)
    dump = open_dump(folder / "v0.parquet")
    other = np.roll(np.arange(32, dtype=np.uint8), 5)
    renumbered = [
        replace(s, routes=Routes(other[s.routes.ids_TLK], s.routes.layers_L, 32)) for s in dump
    ]
    meta = replace(dump.meta, margins=False, order="unknown")
    write_native(renumbered, meta, folder / "renumbered.parquet", force=False)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A folder of small inputs that all worlds read."""
    folder = tmp_path_factory.mktemp("inputs")
    _few(DEEPSEEK / "samples.jsonl", folder / "ds" / "few.jsonl")
    shutil.copy(DEEPSEEK_CONFIG, folder / "ds" / "config.json")
    _tiny(folder / "tiny")
    for name in ("b", "a", "d", "c"):
        _few(DEEPSEEK / "samples.jsonl", folder / "folder" / f"{name}.jsonl", ord(name) - 96)
        shutil.copy(DEEPSEEK_CONFIG, folder / "folder" / "config.json")
    few, v0 = folder / "tiny" / "few.jsonl", folder / "tiny" / "v0.parquet"
    assert main(["diff", str(few), str(v0), "--json", "-o", str(folder / "diff.json")]) == 1
    assert main(["pack", str(v0), "--save", str(folder / "packed"), "--cp", "2"]) == 0
    config = folder / "before" / "ci.baseline" / "ci.toml"
    config.parent.mkdir(parents=True)
    config.write_text(CONFIG, "utf-8")
    prompts = "".join(json.dumps({"input_ids": ids}) + "\n" for ids, _ in rollouts())
    (folder / "prompts.jsonl").write_text(prompts, "utf-8")
    shutil.copy(QWEN, folder / "qwen.json")
    return folder


def _same(lines, inputs, tmp_path):
    """Each line's files and output, the same in all worlds."""
    lines = {name: line.split() for name, line in lines.items()}
    found = [world(number, lines, inputs, tmp_path) for number in range(len(WORLDS))]
    for name in lines:
        assert found[0][name] == found[1][name], name
    return found[0]


@pytest.mark.slow
def test_writers_of_integers_write_the_same_bytes_on_any_threads(inputs, tmp_path):
    """What only moves integers is the same byte for byte, on one thread and on two."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ask = f"capture http://127.0.0.1:{port} --prompts IN/prompts.jsonl --save"
    more = {
        "capture": f"{ask} OUT/o.parquet --model IN/qwen.json --concurrency THREADS --n 1",
        "capture.lines": f"{ask} OUT/o.jsonl --model IN/qwen.json --concurrency THREADS --n 1",
    }
    found = _same(INTEGERS | more, inputs, tmp_path)
    assert len(found) == len(INTEGERS) + 2
    assert all(found.values())


@pytest.mark.slow
@pytest.mark.models
def test_writers_of_floats_write_the_same_bytes_on_as_many_threads(
    inputs, tiny_checkpoints, tmp_path
):
    """What a model computes is the same byte for byte on one number of threads, metadata too."""
    folder = inputs / "tiny"
    for version in ("v0", "v1"):
        (folder / version.replace("v", "w")).symlink_to(tiny_checkpoints[version])
    made = tmp_path / "made"
    made.mkdir()
    line = [
        "recompute",
        folder / "w0",
        folder / "few.jsonl",
        "--save",
        made / "o.parquet",
        "--threads",
    ]
    more = ["1", "--dtype", "float32", "--router-inputs", folder / "inputs.safetensors"]
    assert main([str(word) for word in (*line, *more)]) == 0
    found = _same(FLOATS, inputs, tmp_path)
    assert all(found.values())
