"""A target a door: sound cases to begin with, and what is done with a changed one.

``TARGETS`` names them. A judge is given a folder with the case's files; what it may raise, and what
is a finding, ``oracle.py`` says.
"""

import json
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from routectl.codecs import codec_named
from routectl.codecs.block import About, Coded
from routectl.codecs.dictionary import TokenDictionary
from routectl.errors import FormatError, MismatchError, RoutectlError
from routectl.formats import open_dump
from support.engine_server import EngineServer, recorded
from support.recordings import QWEN, SGLANG, request_of

from . import seeds
from .oracle import WrongError, command, opened_whole, read_again

__all__ = ["TARGETS", "Target"]

Case = dict[str, bytes]


@dataclass(frozen=True, slots=True)
class Target:
    """A door: ``cases`` that it takes, and ``judge`` of a folder with the files of one.

    ``weights``: how much oftener a file is changed than others, by the end of its name.
    """

    about: str
    cases: Callable[[], Sequence[Case]]
    judge: Callable[[Path], None]
    weights: tuple[tuple[str, float], ...] = ()


def _refused_constant(name):
    raise WrongError("no JSON", f"a report holds {name}")


def _dump(file, *model):
    """A judge: shown, checked, written natively, read again."""
    options = {"model": model[1]} if model else {}

    def judge(folder):
        path = folder / file
        shown = command("show", path, "--json", *model)
        if shown.code == 2:
            return
        json.loads(shown.out, parse_constant=_refused_constant)
        also = (
            zlib.crc32(shown.out.replace(str(folder), "").encode()) % 4
        )  # one more thing a case: the same one each time
        if also == 0:
            command("show", path, *model)
        elif also == 1:
            command("check", path, "--json", *model)
        code = command("convert", path, "--save", folder / "out.parquet", *model).code
        whole = opened_whole(path, **options)
        if code == 0 and whole is None:
            raise WrongError("no harm", "what convert reads, the library does not")
        if code == 0:
            read_again(whole, open_dump(folder / "out.parquet"))
        if also != 2:
            return
        set_code = command(
            "convert", path, "--save", folder / "s.parquet", "--codec", "set", *model
        ).code
        if set_code != code:
            raise WrongError("other codec", f"plain exits {code}, set {set_code}")
        if code == 0:
            read_again(whole, open_dump(folder / "s.parquet"), sort=True)

    return judge


def _any_dump(folder):
    """Whatever file is there beside the config, as a dump."""
    name = next((p.name for p in sorted(folder.iterdir()) if p.name[:2] == "x."), "x.none")
    _dump(name)(folder)


def _recording(folder):
    """A dump of SGLang's recorder, by the map in it and by that beside it; its load."""
    _any_dump(folder)
    path, map_ = folder / "x.pt", folder / "map.json"
    command("show", path, "--json", "--expert-map", map_)
    command("diff", path, path, "--json", "--expert-map", map_)
    command("convert", path, "--save", folder / "e.json", "--to", "eplb", "--expert-map", map_)


def _bundle(folder):
    _dump("x")(folder)


def _native(folder):
    _dump("x.parquet")(folder)
    command("convert", folder / "x.parquet", "--save", folder / "v.parquet", "--verify")
    command("diff", folder / "x.parquet", folder / "x.parquet", "--json")


def _pair(folder):
    """A changed dump beside a sound one: compared in every way, thresholds and all."""
    old, new = folder / "x.parquet", next(iter(sorted(folder.glob("y.*"))), folder / "y.none")
    over = [word for one in ("mismatch:1%", "k3:0.1", "k1:0.1") for word in ("--fail-over", one)]
    for words in (
        ("diff", old, new, "--match", "prefix", *over),
        ("diff", old, new, "--match", "tokens"),
        ("check", new, "--against", old),
        ("staleness", old, "--version-map", "=v0", "--at", f"v0={new}", "--at", f"v1={old}"),
    ):
        done = command(*words, "--json")
        if done.code < 2:
            json.loads(done.out, parse_constant=_refused_constant)
            if words[0] != "check":
                command(*words)


def _replay(folder):
    command("verify", folder / "r", "--against", folder / "x.parquet")
    code = command("unpack", folder / "r", "--save", folder / "out.parquet").code
    if code == 0:
        opened_whole(folder / "out.parquet")
        command("verify", folder / "r", "--against", folder / "out.parquet")


def _plan(folder):
    plan = ("--plan", folder / "plan.json")
    code = command("pack", folder / "x.parquet", "--save", folder / "r", *plan).code
    if code == 0:
        code = command("verify", folder / "r", "--against", folder / "x.parquet").code
        if code != 0:
            raise WrongError("unsound", "what was packed by a plan does not verify")
    command("layout", folder / "x.parquet", *plan)


def _layout(folder):
    for path in folder.glob("x.*"):
        command("layout", "--lens", "9,17,3", "--layout", path)


def _checkpoint(folder):
    command("show", folder / "c", "--json")
    command("show", folder / "c")


def _megatron(folder):
    command("show", folder)
    command("show", folder, "--json")


def _config(folder):
    _dump("x.npy")(folder)
    from routectl.checkpoints.hf import read_config
    from routectl.routers.from_config import recipe_from_config

    recipe_from_config(read_config(folder), "config.json")


def _router_inputs(folder):
    command("recompute", folder / "c", folder / "i.safetensors", "--save", folder / "out.parquet")


def _router_trace(folder):
    command("show", folder / "t", "--json")
    command("convert", folder / "t", "--save", folder / "out.parquet")
    command("recompute", folder / "t", folder / "t", "--save", folder / "r.parquet")


def _predictor(folder):
    from routectl.checkpoints.predictor import open_predictor

    open_predictor(folder / "p.safetensors")
    at = ("--at", f"v0={folder / 'c'}", "--at", f"v1={folder / 'c'}")
    more = ("--predictor", folder / "p.safetensors", "--frozen-inputs", "--threads", 1)
    command("predict", "judge", folder / "i.safetensors", *at, *more)


def _report(folder):
    command("report", folder / "x.json")
    for suffix in ("html", "md", "csv"):
        command("report", folder / "x.json", "-o", folder / f"x.{suffix}", "--force")
    for flag in ("--junit", "--badge"):
        command("report", folder / "x.json", flag, folder / "x.out", "--force")


def _ci(folder):
    done = command("ci", folder / "ci.toml", "--json")
    if done.code < 2:
        json.loads(done.out, parse_constant=_refused_constant)
    command("ci", folder / "ci.toml", "--junit", folder / "j.xml")


def _answer(folder):
    """A server's answers: of samples, and of itself."""
    from http.client import HTTPMessage

    from routectl.engines.answers import read_answer
    from routectl.engines.http import Reply, parse_address
    from routectl.engines.requests import Request
    from routectl.engines.server import find_server
    from routectl.formats.documents.facts import read_model

    address = parse_address("http://127.0.0.1:1")
    pages = {"/model_info": "info.json", "/version": "version.json", "/v1/models": "models.json"}

    def ask(path):
        file = folder / pages.get(path, "none")
        known = file.is_file()
        return Reply(200 if known else 404, HTTPMessage(), file.read_bytes() if known else b"")

    server = find_server(address, ask, None, None)
    body = request_of(SGLANG, "generate_ids")
    request = Request("0", "0", "generate", body)
    facts = read_model(QWEN)
    file = folder / "answer.json"
    answer = read_answer(file.read_bytes() if file.is_file() else b"", request, server, facts)
    if answer.line.count(b"\n") != 1:
        raise WrongError("lines", "a journal's line is not one line")
    (folder / "kept.jsonl").write_bytes(answer.line)
    if opened_whole(folder / "kept.jsonl", model=QWEN) is None:
        raise WrongError("unsound", "what capture kept cannot be read")


@cache
def _engine():
    """A server that answers all with one recorded sample, until the process ends."""
    return EngineServer("sglang", recorded(SGLANG, "generate_ids")).__enter__()


def _prompts(folder):
    """Prompts of a capture, asked of a server."""
    flags = ("--max-tokens", 24, "--retries", 0, "--patience", 0, "--timeout", 5, "--model", QWEN)
    out = folder / "out.jsonl"
    done = command("capture", _engine().url, "--prompts", folder / "x.jsonl", "--save", out, *flags)
    if done.code == 0 and opened_whole(out, model=QWEN) is None:
        raise WrongError("unsound", "what capture wrote cannot be read")


def _journal(folder):
    """The side file of a capture that was killed, gone on with; nobody answers."""
    from routectl.engines.answers import judge_answer
    from routectl.engines.http import parse_address
    from routectl.engines.journal import Journal
    from routectl.engines.requests import Request
    from routectl.engines.server import Server

    body = request_of(SGLANG, "generate_ids")
    requests = [Request(str(i), "0", "generate", body) for i in range(2)]
    server = Server(parse_address("http://127.0.0.1:1"), "sglang")
    journal = Journal(
        folder / "side.jsonl",
        lambda request, doc: judge_answer(doc, request, server, None).sample_id,
    )
    try:
        journal.load(requests)
        list(journal.said_of(server))
    finally:
        journal.close()


def _codec(folder):
    """Any bytes as a layer's, to the decoder of each codec: legal ids of the shape, or refused."""
    try:
        about = json.loads((folder / "about.json").read_bytes())
        lens = tuple(int(n) for n in about["lens"])
        experts, top_k = int(about["experts"]), int(about["top_k"])
        codec = codec_named(str(about["codec"]))
        if sum(lens) > 10**5 or top_k > 64 or experts > 65536 or len(lens) > 100:
            return
        tokens_R = np.arange(sum(lens), dtype=np.int32) % 7
        needs_base = "base" in codec.needs
        told = About(experts, top_k, lens, tokens_R)
        base_RK = np.zeros(told.shape, told.dtype) if needs_base else None
        learnt = None
        if "dictionary" in codec.needs:
            learnt = TokenDictionary((folder / "dictionary.raw").read_bytes()).layer(0)
        told = About(experts, top_k, lens, tokens_R, base_RK, learnt)
    except RoutectlError:
        return
    except (ValueError, KeyError, TypeError, OverflowError, OSError):
        return
    files = [folder / f"cell{i}.raw" for i in range(len(lens))]
    cells = tuple(file.read_bytes() if file.is_file() else b"" for file in files)
    shared = folder / "shared.raw"
    coded = Coded(shared.read_bytes() if shared.is_file() else b"", cells)
    try:
        ids_RK = codec.decode(coded, told)
    except (ValueError, FormatError, MismatchError):
        return
    if ids_RK.shape != told.shape or ids_RK.dtype != told.dtype:
        raise WrongError("other shape", f"{about['codec']}: {ids_RK.dtype} {ids_RK.shape}")


def _tokenizer(folder):
    from routectl.formats.tokenizer import open_tokenizer

    decode = open_tokenizer(folder / "tokenizer.json")
    texts = decode([0, 1, 2, 3, 7, 10**6, -1])
    if len(texts) != 7:
        raise WrongError("other shape", f"{len(texts)} texts of 7 tokens")


def _answers():
    """Answers of SGLang, with what the server says of itself."""
    told = {"info.json": (SGLANG / "model_info.response.json").read_bytes()}
    names = ("generate_ids",)
    return [
        {**told, "answer.json": (SGLANG / f"{name}.response.json").read_bytes()} for name in names
    ]


def _sides():
    """A side file of two answers."""
    body = request_of(SGLANG, "generate_ids")
    response = json.loads((SGLANG / "generate_ids.response.json").read_bytes())
    docs = []
    for i in range(2):
        answer = {**response, "meta_info": {**response["meta_info"], "id": f"r{i}"}}
        docs.append({"sample_id": str(i), "request": body, "response": answer})
    return [{"side.jsonl": "".join(json.dumps(doc) + "\n" for doc in docs).encode()}]


def _tokenizers():
    model = {"type": "WordLevel", "vocab": {"a": 0, "b": 1, "c": 2, "é": 3}, "unk_token": "a"}
    document = {"version": "1.0", "model": model, "added_tokens": [], "decoder": None}
    return [{"tokenizer.json": json.dumps(document).encode()}]


_SMALL = (("config.json", 0.3), ("base.parquet", 0.3))
TARGETS = {
    "json": Target(
        "responses and requests of both engines",
        seeds.responses,
        _dump("x.response.json", "--model", QWEN),
        (("request.json", 0.3),),
    ),
    "sse": Target("streams of events", seeds.streams, _dump("x.response.sse", "--model", QWEN)),
    "jsonl": Target("JSON lines", seeds.lines, _any_dump, _SMALL),
    "gz": Target("JSON lines, gzipped", seeds.zipped, _dump("x.jsonl.gz"), _SMALL),
    "npy": Target(".npy", lambda: seeds.arrays("npy"), _dump("x.npy"), _SMALL),
    "npz": Target(".npz", lambda: seeds.arrays("npz"), _dump("x.npz"), _SMALL),
    "safetensors": Target(
        ".safetensors", lambda: seeds.arrays("safetensors"), _dump("x.safetensors"), _SMALL
    ),
    "torch": Target(
        "torch archives of trainers",
        lambda: seeds.dumps(
            *("slime", "slime-numpy", "miles", "verl", "verl-padded", "skyrl", "ms-swift"),
            *("skyrl-0.4", "nemo-rl-tensor", "roll", "megatron"),
        ),
        _any_dump,
        _SMALL,
    ),
    "pickle": Target(
        "pickled batches of trainers",
        lambda: seeds.dumps("verl-dp", "roll-pkl", "skyrl-pkl", "skyrl-0.3-pkl", "skyrl-0.4-pkl"),
        _any_dump,
        _SMALL,
    ),
    "recorder": Target(
        "dumps of SGLang's recorder, maps of experts",
        seeds.recordings,
        _recording,
        (("map.json", 0.4),),
    ),
    "straw": Target("archives of rollouts", seeds.straw, _any_dump, _SMALL),
    "msgpack": Target("micro-batches", lambda: seeds.dumps("prime-rl"), _any_dump, _SMALL),
    "native": Target("native files of every codec", seeds.native, _native, _SMALL),
    "codecs": Target("bytes of each codec", seeds.codec_cells, _codec, (("about.json", 0.2),)),
    "pair": Target(
        "a dump beside another", seeds.pairs, _pair, (("x.parquet", 0.1), ("config.json", 0.1))
    ),
    "replay": Target(
        "replay folders", seeds.replay_folder, _replay, (("json", 8.0), ("x.parquet", 0.3))
    ),
    "plans": Target("plans", seeds.plans, _plan, (("x.parquet", 0.1),)),
    "layouts": Target("layouts in files, trainers' configs", seeds.layouts, _layout),
    "bundle": Target(
        "ART bundles", lambda: [*seeds.bundle(), *seeds.weighed()], _bundle, (("json", 3.0),)
    ),
    "checkpoint": Target("Hugging Face folders", seeds.hf_folder, _checkpoint),
    "megatron": Target("Megatron's checkpoints", seeds.megatron_folder, _megatron),
    "config": Target("config.json", seeds.configs, _config, (("x.npy", 0.05),)),
    "inputs": Target(
        "router inputs", seeds.router_inputs, _router_inputs, (("i.safetensors", 5.0),)
    ),
    "trace": Target("router traces", seeds.router_trace, _router_trace),
    "predictor": Target("predictors", seeds.predictor, _predictor, (("p.safetensors", 20.0),)),
    "report": Target("saved reports", seeds.reports, _report),
    "ci": Target("configs and baselines of ci", seeds.ci, _ci, (("x.jsonl", 0.2),)),
    "answer": Target("answers of servers", _answers, _answer),
    "prompts": Target("prompts of capture", seeds.prompts, _prompts),
    "journal": Target("side files of capture", _sides, _journal),
    "tokenizer": Target("tokenizer.json", _tokenizers, _tokenizer),
}
