"""Small dumps of every family, and what each command makes of them.

Shape suffixes: T tokens, L MoE layers, K top_k, E experts.
"""

import gzip
import itertools
import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from routectl.cli.main import main
from routectl.dump import Sample, WeightSpan
from routectl.formats.native.container import write_native
from routectl.formats.targets.table import TARGETS
from routectl.routes import Routes
from support.dumps import make_dump, make_sample
from support.recordings import DEEPSEEK, DEEPSEEK_CONFIG, FIXTURES, QWEN, SGLANG, VLLM
from support.tiny_rl import TINY

__all__ = ["File", "families", "made_of"]

INPLACE = TINY / "sglang.inplace"
RECORDINGS = FIXTURES / "recordings"
LAYERS, EXPERTS, TOP_K = (1, 2, 4), 8, 2
PROMPT, TOKENS, SAMPLES = 3, 9, 3
FEW = 3  # lines of a recording


class File(SimpleNamespace):
    """A file: its path, what says its model (flags), and what it is: a word for messages."""

    def __str__(self):
        return self.what


def _lines(source, target):
    opened = gzip.open if source.suffix == ".gz" else open
    with opened(source, "rt", encoding="utf-8") as lines:
        target.write_text("".join(itertools.islice(lines, FEW)), "utf-8")
    return target


def _routes(seed, rows, *, margins, missing=0.0):
    """Random routes [T, L, K]; margins of experts, or of groups too, NaN where a row is missing."""
    rng = np.random.default_rng(seed)
    ids_TLK = rng.random((rows, len(LAYERS), EXPERTS)).argsort(axis=-1)[..., :TOP_K]
    missing_TL = rng.random(ids_TLK.shape[:2]) < missing if missing else None
    both = []
    for wanted in (margins > 0, margins > 1):
        margin_TL = rng.random(ids_TLK.shape[:2]).astype(np.float16) if wanted else None
        if wanted and missing_TL is not None:
            margin_TL[missing_TL] = np.nan
        both.append(margin_TL)
    ids_TLK = np.ascontiguousarray(ids_TLK.astype(np.uint8))
    if missing_TL is not None:
        ids_TLK[missing_TL] = 0
    return Routes(ids_TLK, LAYERS, EXPERTS, 0, missing_TL, *both)


def _sample(number, routes, **more):
    tokens = [number, *range(1, TOKENS)]
    return make_sample(routes, f"s{number}", tokens[:PROMPT], tokens[PROMPT:], **more)


def _native(path, samples, **about):
    dump = make_dump(samples, LAYERS, EXPERTS, TOP_K, num_layers=5, **about)
    write_native(dump, dump.meta, path, force=True)
    return path


def _grouped(folder):
    """A group-limited model: a dump of two versions without the last row, and both recomputes."""
    response = TOKENS - PROMPT
    spans = (WeightSpan("v0", 0, 2), WeightSpan("v1", 2, response))
    about = {"margins": True, "group_margins": True}
    engine = [
        _sample(n, _routes(n, TOKENS - 1, margins=2), weight_spans=spans) for n in range(SAMPLES)
    ]
    yield "grouped.engine", _native(folder / "grouped.engine.parquet", engine, **about)
    for version in (0, 1):
        whole = [_sample(n, _routes(10 * version + n, TOKENS, margins=2)) for n in range(SAMPLES)]
        name = f"grouped.v{version}"
        yield name, _native(folder / f"{name}.parquet", whole, **about)


def _odd(folder):
    """Samples with missing rows, without routes, without rows, with all that may be known."""
    response = TOKENS - PROMPT
    gone = _routes(1, TOKENS - 1, margins=1, missing=0.4)
    samples = [
        _sample(0, gone, loss_mask=np.arange(TOKENS) >= PROMPT, retractions=1, cached_tokens=2),
        _sample(1, None),
        _sample(2, _routes(2, 0, margins=1)),
        _sample(3, replace(_routes(3, TOKENS - 3, margins=0), start=2), group_id="g"),
        _sample(4, _routes(4, TOKENS, margins=1), logprobs=-np.ones(response), group_id="g"),
        Sample(_routes(5, TOKENS, margins=1), None),
    ]
    yield "odd", _native(folder / "odd.parquet", samples, margins=True)


def families(folder: Path) -> dict[str, File]:
    """A dump of each family, few samples of few tokens."""
    vllm, sglang = RECORDINGS / "vllm-0.32.0", RECORDINGS / "sglang-0.5.23"
    qwen, deepseek = ("--model", QWEN), ("--model", DEEPSEEK_CONFIG)
    tiny = ("--model", TINY / "config.json")
    found = {
        "deepseek": (_lines(DEEPSEEK / "samples.jsonl", folder / "deepseek.jsonl"), deepseek),
        "start": (_lines(vllm / "qwen3_moe.bf16.start/samples.jsonl", folder / "s.jsonl"), qwen),
        "sglang": (
            _lines(sglang / "qwen3_moe.bf16.stops/samples.jsonl.gz", folder / "g.jsonl"),
            qwen,
        ),
        "inplace": (_lines(INPLACE / "samples.jsonl", folder / "inplace.jsonl"), tiny),
        "trainer": (INPLACE / "transformers_v0.npz", ()),
        "response": (VLLM / "completion_ids.response.json", qwen),
        "chat": (SGLANG / "chat.response.json", qwen),
    }
    found |= {name: (path, ()) for name, path in (*_grouped(folder), *_odd(folder))}
    return {name: File(path=path, model=model, what=name) for name, (path, model) in found.items()}


def _kept(path, *args):
    """What a command writes, where it does: a refusal is another test's."""
    main([str(arg) for arg in args])
    return path if path.exists() else None


def made_of(file: File, folder: Path, targets: tuple[str, ...], capsys) -> dict[str, File]:
    """What the commands make of one dump: converted, packed, unpacked, reports, their lines."""
    made: dict[str, Path | None] = {}
    stem, source = file.what, (file.path, *file.model)
    endings = {spec.name: spec.suffix for spec in TARGETS}
    for target in targets:
        path = folder / f"{stem}.{target}{endings.get(target, '.parquet')}"
        made[target] = _kept(
            path, "convert", *source, "--save", path, "--to", target, "--lossy", "--force"
        )
    packed = folder / f"{stem}.packed"
    flags = ("--framework", "slime", "--cp", 2, "--force", "-o", packed)
    made["packed"] = _kept(packed, "pack", *source, *flags)
    unpacked = folder / f"{stem}.unpacked.parquet"
    made["unpacked"] = _kept(unpacked, "unpack", packed, "-o", unpacked, "--force")
    own = (*source, "--version-map", "=v0", f"--at=v0={file.path}", f"--at=v1={file.path}")
    for verb, args in (
        ("show", source),
        ("check", source),
        ("diff", (file.path, *source)),
        ("staleness", own),
    ):
        path = folder / f"{stem}.{verb}.json"
        main([verb, *map(str, args), "-o", str(path)])
        capsys.readouterr()
        made[f"{verb} -o"] = path if path.exists() else None
    watched = folder / f"{stem}.watched"
    watched.mkdir()
    if file.path.is_file():
        shutil.copy(file.path, watched)
    capsys.readouterr()
    flags = ("--once", "--settle", "0", "--interval", "0.01", "--give-up", "0", "--json")
    main(["watch", str(watched), *map(str, file.model), *flags])
    lines = folder / f"{stem}.watch.jsonl"
    lines.write_text(capsys.readouterr().out, "utf-8")
    made["watch --json"] = lines
    config = folder / f"{stem}.ci.toml"
    entry = {"verb": "check", "dump": str(file.path)}
    entry |= {"model": str(file.model[1])} if file.model else {}
    pairs = "".join(f"{key} = {json.dumps(value)}\n" for key, value in entry.items())
    config.write_text(f"[checks.a]\n{pairs}", "utf-8")
    main(["ci", str(config), "--json"])
    answer = folder / f"{stem}.ci.json"
    answer.write_text(capsys.readouterr().out, "utf-8")
    made["config"], made["ci --json"] = config, answer
    return {
        f"{stem}, {name}": File(path=path, model=file.model, what=f"{stem}, {name}")
        for name, path in made.items()
        if path is not None
    }
