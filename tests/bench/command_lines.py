"""The command lines that two trees are compared on: command_lines.txt, expanded.

``command_lines(fixtures, data)`` gives some thousands, each once.
"""

import re
from collections.abc import Iterator
from itertools import product
from pathlib import Path

from compared_inputs import FAULTS, HOSTILE

__all__ = ["NAMES", "command_lines"]

NAMES = "routectl.__all__"  # in place of a line: what the package promises to Python
_VLLM = "fixtures/recordings/vllm-0.32.0"
_SGLANG = "fixtures/recordings/sglang-0.5.23"
PLACES = {
    "tiny": "fixtures/tiny_rl/vllm.bf16/samples.jsonl",
    "v0": "fixtures/tiny_rl/routes_v0.fp32.npz",
    "v1": "fixtures/tiny_rl/routes_v1.fp32.npz",
    "v2": "fixtures/tiny_rl/routes_v2.fp32.npz",
    "t0": "fixtures/tiny_rl/transformers_v0.fp32.npz",
    "t1": "fixtures/tiny_rl/transformers_v1.fp32.npz",
    "margins": "fixtures/tiny_rl/routes_v0.margins.parquet",
    "ds": f"{_VLLM}/deepseek_v3.bf16.grpo/samples.jsonl",
    "ds32": f"{_VLLM}/deepseek_v3.fp32.grpo/samples.jsonl",
    "dsnative": "fixtures/golden/deepseek_v3.parquet",
    "dshf": "fixtures/hf/vllm.deepseek_v3.bf16.npz",
    "dshf32": "fixtures/hf/vllm.deepseek_v3.fp32.npz",
    "qw": f"{_VLLM}/qwen3_moe.bf16.grpo/samples.jsonl",
    "qw32": f"{_VLLM}/qwen3_moe.fp32.grpo/samples.jsonl",
    "qwhf": "fixtures/hf/vllm.qwen3_moe.bf16.npz",
    "qwhf32": "fixtures/hf/vllm.qwen3_moe.fp32.npz",
    "soft": f"{_VLLM}/qwen3_moe_soft.bf16.grpo/samples.jsonl",
    "softhf": "fixtures/hf/vllm.qwen3_moe_soft.bf16.npz",
    "chunked": f"{_VLLM}/qwen3_moe.bf16.chunked/samples.jsonl",
    "async": f"{_VLLM}/qwen3_moe.bf16.grpo.async/samples.jsonl",
    "start": f"{_VLLM}/qwen3_moe.bf16.start/samples.jsonl",
    "stops": f"{_VLLM}/qwen3_moe.bf16.stops/samples.jsonl",
    "sgl": f"{_SGLANG}/qwen3_moe.bf16.grpo/samples.jsonl.gz",
    "sgl32": f"{_SGLANG}/qwen3_moe.fp32.grpo/samples.jsonl.gz",
    "sglhf": "fixtures/hf/sglang.qwen3_moe.bf16.npz",
    "sglhf32": "fixtures/hf/sglang.qwen3_moe.fp32.npz",
    "sglsoft": f"{_SGLANG}/qwen3_moe_soft.bf16.grpo/samples.jsonl.gz",
    "sglsofthf": "fixtures/hf/sglang.qwen3_moe_soft.bf16.npz",
    "sglstart": f"{_SGLANG}/qwen3_moe.bf16.start/samples.jsonl.gz",
    "sglstops": f"{_SGLANG}/qwen3_moe.bf16.stops/samples.jsonl.gz",
    "outputs": f"{_SGLANG}/engine_outputs.qwen3_moe.bf16.json.gz",
    "vservers": "fixtures/servers/vllm-0.32.0/qwen3_moe.bf16",
    "sservers": "fixtures/servers/sglang-0.5.23/qwen3_moe.bf16",
    "qwcfg": "fixtures/configs/qwen3_moe.json",
    "dscfg": "fixtures/configs/deepseek_v3.json",
    "softcfg": "fixtures/configs/qwen3_moe_soft.json",
    "tinycfg": "fixtures/tiny_rl/config.json",
    "megatron": "fixtures/checkpoints/megatron-0.15.3",
    "few": "made/tiny/few.jsonl",
    "dsfew": "made/deepseek/few.jsonl",
    "startfew": "made/start/few.jsonl",
    "w0": "made/weights/v0",
    "w1": "made/weights/v1",
    "w2": "made/weights/v2",
    "wds": "made/weights/deepseek_v3",
}
LISTS = {
    "faulty": ",".join((*FAULTS, "swapped", "doubled", "versions", "without_routes")),
    "dumps": "@tiny,@v0,@v1,@v2,@t0,@t1,@margins,@ds,@ds32,@dsnative,@dshf,@dshf32,@qw,@qw32,@qwhf,"
    "@soft,@softhf,@chunked,@async,@start,@stops,@sgl,@sgl32,@sglhf,@sglsoft,@sglstart,@sglstops",
    "frameworks": "verl,verl-contiguous,skyrl,nemo-rl,roll,megatron,ms-swift,slime,relax,miles,"
    "slime-allgather,miles-allgather,relax-vl,prime-rl,ulysses",
    "commands": "show,diff,check,convert,recompute,staleness,predict,pack,verify,layout,unpack,"
    "report,ci,capture,watch",
    "codes": ",".join(  # the last of each hundred is none
        f"R{hundred}{number:02d}"
        for hundred, most in enumerate((10, 3, 8, 3, 4, 4, 2, 13))
        for number in range(1, most + 2)
    ),
    "two": "recompute @w0 @few --save r0.parquet --threads 1 --dtype float32 --router-inputs "
    "i0.safetensors ; recompute @w1 @few --save r1.parquet --threads 1 --dtype float32 "
    "--router-inputs i1.safetensors",
    "both": "--at v0=@w0 --at v1=@w1",
    "once": "--once --settle 0 --interval 0.01 --give-up 0",
}
TARGETS = {
    "native": "o.parquet",
    "npz": "o.npz",
    "safetensors": "o.safetensors",
    "jsonl": "o.jsonl",
    "jsonl-sglang": "o.jsonl",
    "verl": "o.pt",
    "verl-padded": "o.pt",
    "verl-dp": "o.dp",
    "slime": "o.pt",
    "slime-numpy": "o.pt",
    "miles": "o.pt",
    "skyrl": "o.pt",
    "skyrl-0.3": "o.pt",
    "skyrl-pkl": "o.pkl",
    "skyrl-0.3-pkl": "o.pkl",
    "skyrl-0.4": "o.pt",
    "skyrl-0.4-pkl": "o.pkl",
    "nemo-rl": "o.jsonl",
    "nemo-rl-tensor": "o.pt",
    "prime-rl": "o.bin",
    "roll": "o.pt",
    "roll-pkl": "o.pkl",
    "ms-swift": "o.pt",
    "art": "art",
    "megatron": "o.pt",
}
# a dump that the list has, or a folder of such: it takes long, and is read enough
READ = {*PLACES.values(), *(str(Path(place).parent) for place in PLACES.values())}
BESIDE = re.compile(r"\.(request\.json|py|md|txt)$")


def _paths(folder: Path, name: str) -> list[str]:
    """Every path below a folder, itself first, under another name."""
    found = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))
    return [name, *(f"{name}/{path}" for path in found if "__pycache__" not in path)]


def _named(line: str, names: dict[str, str]) -> str:
    return re.sub(r"@([a-z]\w*)", lambda m: names.get(m[1], m[0]), line)


def _expanded(line: str, paths: list[str]) -> Iterator[str]:
    """The lines that one of the list stands for."""
    if "@any" in line or "@path" in line:
        for path in paths:
            if "@any" in line or not (path in READ or BESIDE.search(path)):
                yield _named(line, {**PLACES, "any": path, "path": path})
        return
    if "@target" in line:
        for target, file in TARGETS.items():
            yield from _expanded(line.replace("@target", target).replace("@file", file), paths)
        return
    parts = re.split(r"\{([^{}]*,[^{}]*)\}", _named(_named(line, LISTS), PLACES))
    for chosen in product(*(p.split(",") if i % 2 else [p] for i, p in enumerate(parts))):
        yield re.sub(" +", " ", "".join(chosen)).strip()


def command_lines(fixtures: Path, data: Path | None = None) -> list[str]:
    """All lines for a folder of fixtures and perhaps one of more data."""
    paths = _paths(fixtures, "fixtures") + [f"made/hostile/{name}" for name in HOSTILE]
    paths += _paths(data, "data") if data else []
    text = Path(__file__).with_suffix(".txt").read_text("utf-8")
    lines = (line for line in text.splitlines() if line and not line.startswith("#"))
    expanded = (one for line in lines for one in _expanded(line, paths))
    return list(dict.fromkeys([NAMES, *expanded]))
