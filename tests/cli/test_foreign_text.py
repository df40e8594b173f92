"""Text of others in every field and option: printed, it is text. Bytes are judged, not calls."""

import contextlib
import copy
import json
import os
import pickle
import pty
import random
import subprocess
import sys
import threading
import zipfile

import numpy as np
import pytest
from safetensors.numpy import save_file

from routectl.cli.main import main
from routectl.cli.words.commands import COMMANDS, command_lines
from routectl.dump import DumpMeta, Sample, WeightSpan
from routectl.formats.native.container import write_native
from routectl.routes import Routes
from support.building import CONFIG, record, some_ids, write_json, write_lines
from support.ci_configs import toml, written
from support.engine_server import EngineServer, error, reply
from support.poison import LONG, POISON, POISONS, faults_of, poisoned
from support.recordings import FIXTURES, QWEN, SGLANG, VLLM, request_of, response_of
from support.shell import on_terminal, run

GOLDEN = FIXTURES / "golden"
ANSWERS = [
    *((SGLANG, n) for n in ("generate_batch_n2", "chat", "chat_meta_info_n2", "completion_batch")),
    *((VLLM, n) for n in ("completion_batch", "completion_echo", "chat_n2")),
]
REPORTS = sorted(p for p in GOLDEN.glob("*.json") if p.name != "codecs.json")
TYPED = POISON.replace("\0", "")  # as an argument can be
# Names that a file cannot have: / and NUL, and more than 255 bytes
FILE_NAME = POISON.replace("/", "").replace("\0", "").encode()[:180].decode("utf-8", "ignore")


@pytest.fixture(autouse=True)
def _no_github(monkeypatch):
    """These tests may run on GitHub themselves."""
    for name in ("GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY"):
        monkeypatch.delenv(name, raising=False)


def judged(capsys, *args, codes=(0, 1, 2), own=()):
    """A command line whose two streams hold no fault; its exit code, stdout and stderr."""
    done = run(capsys, *args)
    assert done.code in codes, done.err
    assert "Traceback" not in done.err, done.err
    longest = {"longest": 1 << 20} if "--json" in args else {}  # JSON holds what it is told
    assert faults_of(done.out, **longest) == []
    assert faults_of(done.err, own=own) == []
    return done


def judged_on_terminals(monkeypatch, capsys, *args):
    """The same on a narrow terminal and on a wide one."""
    for columns in (24, 60, 250):
        _, text = on_terminal(monkeypatch, columns, *args)
        assert faults_of(text) == []
        assert faults_of(capsys.readouterr().err) == []


def samples(poison, changed=0):
    """Three samples each text of which is poison; in the first some ids are others."""
    ids = some_ids(8).astype(np.uint8)
    version = poison.replace("=", "")  # as an option NAME=PATH can name it
    for i in range(3):
        own = ids.copy()
        if i == 0 and changed:
            own[:changed] = (own[:changed] + 1) % 8
        yield Sample(
            Routes(own, (0, 1, 2), 8),
            f"{poison}{i}",
            f"{poison}g",
            np.arange(3, dtype=np.int32),
            np.arange(6, dtype=np.int32) + i,
            3,
            6,
            logprobs=np.full(6, -1.0),
            weight_spans=(WeightSpan(f"{version}1", 0, 3), WeightSpan(f"{version}2", 3, 6)),
            finish_reason=poison,
        )


def native(path, poison, changed=0):
    """A native file each text of which is poison, where Parquet's UTF-8 can hold that."""
    about = {"engine": poison, "engine_version": poison, "model": poison, "wire_dtype": poison}
    meta = DumpMeta(
        poison, poison, (0, 1, 2), 8, 2, facts_source=poison, provenance={poison: poison}, **about
    )
    write_native(samples(poison, changed), meta, path, force=True)
    return path


@pytest.fixture(scope="module")
def dumps(tmp_path_factory):
    """Two native files in a folder whose name is poison too, in some rows different."""
    folder = tmp_path_factory.mktemp("dumps") / FILE_NAME
    folder.mkdir()
    for name, shift in (("old", 0), ("new", 4)):
        native(folder / f"typed-{name}.parquet", TYPED, shift)
    return native(folder / "old.parquet", POISON), native(folder / "new.parquet", POISON, 4)


def verbs(old, new, folder):
    """A command line of every verb that reads dumps."""
    at = TYPED.replace("=", "")
    typed = [old.with_name(f"typed-{name}.parquet") for name in ("old", "new")]
    return {
        "show": ["show", old],
        "show -o": ["show", old, "-o", folder / "show.json", "--force"],
        "diff": ["diff", old, new, "--match", "id", "--examples", "9", "--fail-over", "mismatch:0"],
        "diff --rerun": ["diff", old, new, "--rerun", new],
        "diff of a sample": ["diff", *typed, "--sample", f"{TYPED}0"],
        "diff of no sample": ["diff", old, new, "--sample", TYPED],
        "check": ["check", new, "--against", old],
        "check alone": ["check", new],
        "staleness": [
            *("staleness", typed[0], "--at", f"{at}1={typed[0]}", "--at", f"{at}2={typed[1]}")
        ],
        "convert": ["convert", old, "--save", folder / f"{FILE_NAME}.parquet", "--force"],
        "convert to npz": ["convert", old, "--save", folder / "x.npz", "--force"],
        "pack": ["pack", old, "--save", folder / FILE_NAME, "--force"],
        "layout": ["layout", old],
        "watch": ["watch", old.parent, "--once", "--settle", "0", "--interval", "0.01"],
    }


def few(names, quick):
    """Parameters of which some are in the loop, and all are run."""
    return [n if n in quick else pytest.param(n, marks=pytest.mark.slow) for n in names]


def crossed(places):
    """(place, poison): all poison at once in each place, and each other in some, which go round."""
    found = [(place, "all") for place in places]
    for i, poison in enumerate(name for name in POISONS if name != "all"):
        found += [
            pytest.param(p, poison, marks=pytest.mark.slow) for p in places[i :: len(POISONS)]
        ]
    return found


VERBS = list(verbs(GOLDEN, GOLDEN, GOLDEN))
REFUSED = ("diff of no sample", "convert to npz")


class TestDumps:
    """Every field of a dump is poison, its folder's name and the output's too."""

    @pytest.mark.parametrize("verb", VERBS)
    def test_every_verb_prints_text(self, capsys, tmp_path, dumps, verb):
        """In a pipe, as text and as JSON, no field of a dump is more than text."""
        words = verbs(*dumps, tmp_path)[verb]
        judged(capsys, *words, codes=(2,) if verb in REFUSED else (0, 1))
        if verb.split()[0] in ("show", "diff", "check", "staleness", "watch"):
            done = judged(capsys, *words, "--json")
            for line in done.out.splitlines() if verb == "watch" else [done.out]:
                assert line == "" or json.loads(line)

    @pytest.mark.parametrize("verb", few(VERBS[:-1], ("show", "diff", "check", "staleness")))
    def test_on_a_terminal(self, monkeypatch, capsys, tmp_path, dumps, verb):
        """On a terminal, narrow or wide, no control but our colours is printed."""
        judged_on_terminals(monkeypatch, capsys, *verbs(*dumps, tmp_path)[verb])

    @pytest.mark.parametrize("poison", few(POISONS, ("long",)))
    def test_other_poisons(self, capsys, monkeypatch, tmp_path, poison):
        """Ids of 10,000 characters, formulas, a command at the very start: text as well."""
        text = POISONS[poison].encode("utf-8", "replace").decode("utf-8")
        old, new = native(tmp_path / "o.parquet", text), native(tmp_path / "n.parquet", text, 3)
        for words in (["show", old], ["diff", old, new, "--match", "id"], ["check", new]):
            judged(capsys, *words)
            judged_on_terminals(monkeypatch, capsys, *words)

    def test_a_name_is_cut(self, capsys, tmp_path):
        """A name of 10,000 characters is shown with an ellipsis; --json has the whole."""
        path = native(tmp_path / "long.parquet", LONG)
        shown = judged(capsys, "show", path).out
        assert "x…" in shown
        assert "x" * 2000 not in shown
        assert json.loads(judged(capsys, "show", path, "--json").out)["dump"]["model"] == LONG

    def test_many_names_are_a_bounded_line(self, capsys, tmp_path):
        """Thousands of finish reasons and of versions are no endless line, and say how it ends."""
        lines = [
            record(some_ids(5), finish_reason=f"{POISON}{i}", weight_version=f"{i}{'x' * 300}")
            for i in range(400)
        ]
        done = judged(capsys, "show", write_lines(tmp_path / "x.jsonl", lines), codes=(0,))
        assert "…" in done.out
        assert max(map(len, done.out.splitlines())) < 8_100

    @pytest.mark.parametrize(("answer", "poison"), crossed(ANSWERS), ids=lambda v: str(v)[-20:])
    def test_answers_of_engines(self, capsys, tmp_path, answer, poison):
        """Every text of a recorded answer is poison: read or refused, it is text."""
        folder, name = answer
        for keep in (("object", "type", "role"), ()):
            document = poisoned(response_of(folder, name), POISONS[poison], keep)
            path, request = tmp_path / "x.response.json", request_of(folder, name)
            write_json(path, document, config=None, request=request)
            judged(capsys, "show", path, "--model", QWEN)

    @pytest.mark.parametrize("poison", few(POISONS, ("all", "surrogate")))
    def test_records(self, capsys, tmp_path, poison):
        """Flat records: each text and a key are poison, one after another."""
        text = POISONS[poison]
        names = ("id", "sample_id", "group_id", "finish_reason", "model", "weight_version", "error")
        for name in (*names, "routed_experts", "start", "prompt_token_ids", "logprobs", text):
            path = write_lines(tmp_path / "x.jsonl", [record(some_ids(5), **{name: text})] * 2)
            judged(capsys, "show", path)
        spans = [{"version": text, "start": 0, "end": 3}]
        for value in (spans, [{text: text}], text, [text]):
            lines = [record(some_ids(5), weight_versions=value)]
            judged(capsys, "show", write_lines(tmp_path / "x.jsonl", lines))
        (tmp_path / "x.jsonl").write_text(POISON, "utf-8")
        judged(capsys, "show", tmp_path / "x.jsonl", codes=(2,))

    @pytest.mark.parametrize("kind", ["npz", "safetensors"])
    def test_arrays(self, capsys, tmp_path, kind):
        """Names of arrays and metadata of array files."""
        for poison in (POISON, LONG):
            path = tmp_path / f"x.{kind}"
            arrays = {"routed_experts": some_ids(5).astype(np.uint8), poison[:900]: np.zeros(3)}
            for held in (arrays, dict(list(arrays.items())[1:])):
                if kind == "npz":
                    with zipfile.ZipFile(path, "w") as file:
                        for name, array in held.items():
                            with file.open(f"{name}.npy", "w") as stream:
                                np.lib.format.write_array(stream, array)
                else:
                    save_file(held, path, {"engine": poison, "model": poison, poison: poison})
                judged(capsys, "show", path, "--model", write_json(tmp_path / "c.json", CONFIG))

    def test_pickles(self, capsys, tmp_path):
        """Names of classes and texts in a pickle, a torch file and what is none."""
        name = "os\n::error::x\x1b[31m"
        called = (
            b"\x80\x04" + b"\x8c" + bytes([len(name)]) + name.encode() + b"\x8c\x06system\x93)R."
        )
        for data in (called, pickle.dumps({POISON: POISON}), pickle.dumps([10**5000])):
            for end in ("pkl", "pt"):
                (tmp_path / f"x.{end}").write_bytes(data)
                judged(capsys, "show", tmp_path / f"x.{end}", codes=(2,))

    def test_msgpack(self, capsys, tmp_path):
        """Texts and keys of a msgpack file."""
        msgspec = pytest.importorskip("msgspec")
        for held in ({POISON: POISON}, [{"version": POISON}], POISON):
            (tmp_path / "x.msgpack").write_bytes(msgspec.msgpack.encode(held))
            judged(capsys, "show", tmp_path / "x.msgpack", codes=(2,))


class TestRecorded:
    """fixtures/hostile: what wrote to terminals before it was text."""

    @pytest.mark.parametrize("name", ["finish_reason_nl", "sample_id_nl", "weight_version_ansi"])
    def test_records(self, capsys, monkeypatch, name):
        """Line breaks in reasons and ids, colours in a version: shown, escaped."""
        file = FIXTURES / "hostile" / f"inject_{name}.jsonl"
        model = QWEN if name == "sample_id_nl" else FIXTURES / "hostile" / "ds.json"
        for words in (
            ("show", file, "--model", model),
            ("check", file, "--model", model),
            ("diff", file, file, "--model", model, "--examples", "3"),
        ):
            judged(capsys, *words, codes=(0, 1))
            judged_on_terminals(monkeypatch, capsys, *words)

    def test_a_native_file(self, capsys, monkeypatch):
        """Metadata of a native file."""
        file = FIXTURES / "hostile" / "inject_native_source.parquet"
        assert "\\x1b" in judged(capsys, "show", file, codes=(0,)).out
        judged_on_terminals(monkeypatch, capsys, "show", file)


class TestFolders:
    """Names of files, checkpoints, manifests, configs."""

    def test_names_of_files(self, capsys, tmp_path):
        """A folder whose files have names of poison."""
        folder = tmp_path / "dumps"
        folder.mkdir()
        write_lines(folder / f"{FILE_NAME}.jsonl", [record(some_ids(5))])
        for name in (
            f"{FILE_NAME}.txt",
            f"{FILE_NAME}.npz",
            b"\xff\x1b[31m.jsonl".decode("utf-8", "surrogateescape"),
        ):
            (folder / name).write_text("not a dump")
        judged(capsys, "show", folder)
        judged(capsys, "show", folder, "--json")
        judged(capsys, "watch", folder, "--once", "--settle", "0", "--give-up", "0")

    @pytest.mark.parametrize("poison", few(POISONS, ("all", "surrogate")))
    def test_checkpoints(self, capsys, tmp_path, poison):
        """config.json, an index and tensors' names of a checkpoint."""
        text = POISONS[poison]
        config = {**CONFIG, "model_type": text, "architectures": [text], "torch_dtype": text}
        tensors = {
            f"{text[:50]}.gate.weight".encode("utf-8", "replace").decode(): np.zeros(
                (8, 4), np.float32
            )
        }
        tensors |= {
            f"model.layers.{i}.mlp.gate.weight": np.zeros((8, 4), np.float32) for i in range(3)
        }
        save_file(tensors, tmp_path / "model.safetensors")
        index = {"metadata": {text: text}, "weight_map": {text: text, "a": text}}
        for about in (config, {**config, "model_type": "qwen3_moe"}, {text: text}, text, [text]):
            (tmp_path / "config.json").write_text(json.dumps(about))
            judged(capsys, "show", tmp_path)
            judged(capsys, "show", tmp_path, "--json")
        (tmp_path / "model.safetensors").unlink()
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
        (tmp_path / "config.json").write_text(json.dumps(config))
        judged(capsys, "show", tmp_path, codes=(2,))

    @pytest.mark.slow
    def test_manifests(self, capsys, tmp_path, dumps):
        """Each text of a manifest is poison, one after another: unpack and verify print text."""
        folder = tmp_path / "packed"
        assert main(["pack", str(dumps[0]), "--save", str(folder)]) == 0
        manifest = json.loads((folder / "manifest.json").read_text())
        capsys.readouterr()
        for key in (*manifest, POISON):
            for value in (POISON, [POISON], {POISON: POISON}):
                (folder / "manifest.json").write_text(json.dumps({**manifest, key: value}))
                done = run(capsys, "verify", folder, "--against", dumps[0])
                assert faults_of(done.out) == [], key
                assert faults_of(done.err) == [], key


def _leaves(value, at=()):
    """The path of each text in a document; long lists by their first entries."""
    if isinstance(value, str):
        yield at
    elif isinstance(value, dict | list):
        pairs = value.items() if isinstance(value, dict) else enumerate(value[:2])
        for step, inner in pairs:
            yield from _leaves(inner, (*at, step))


def _with(document, at, text):
    document = copy.deepcopy(document)
    inner = document
    for step in at[:-1]:
        inner = inner[step]
    inner[at[-1]] = text
    return document


class TestReports:
    """Reports that were saved, by hand or by others."""

    @pytest.mark.parametrize(("path", "poison"), crossed(REPORTS), ids=lambda v: str(v)[-20:])
    def test_a_saved_report(self, capsys, monkeypatch, tmp_path, path, poison):
        """Each text of a report is poison, all at once: text on a pipe, a terminal, a page, as
        Markdown, CSV and JUnit.
        """
        keep = ("schema", "differs", "old", "new_mismatched", "missing")
        more = ("severity", "status", "word", "mode", "kind", "id_space")
        file, page = tmp_path / "saved.json", tmp_path / "page.html"
        for kept in (keep, (*keep, *more)):
            document = poisoned(json.loads(path.read_text("utf-8")), POISONS[poison], kept)
            file.write_text(json.dumps(document))
            judged(capsys, "report", file)
        judged_on_terminals(monkeypatch, capsys, "report", file)
        if judged(capsys, "report", file, "-o", page).code == 0:
            body = page.read_text("utf-8").partition("<script")[0]
            assert faults_of(body, longest=1 << 20) == []
        for flags in (("-o", tmp_path / "x.md"), ("-o", tmp_path / "x.csv"), ("--junit", page)):
            if judged(capsys, "report", file, *flags, "--force").code == 0:
                text = flags[1].read_bytes().decode().replace("\r\n", "\n")  # the ends of CSV
                assert faults_of(text, longest=1 << 20) == []

    @pytest.mark.slow
    @pytest.mark.parametrize("path", REPORTS, ids=lambda p: p.name)
    def test_each_text_of_a_saved_report(self, capsys, tmp_path, path):
        """Each text of a report is poison, one at a time; of the longest reports some are drawn."""
        saved = json.loads(path.read_text("utf-8"))
        leaves = list(_leaves(saved))
        for at in random.Random(path.name).sample(leaves, min(len(leaves), 30)):
            file = tmp_path / "saved.json"
            file.write_text(json.dumps(_with(saved, at, POISON)))
            judged(capsys, "report", file)


def _words():
    """Each command with each of its options."""
    for command, function in command_lines():
        for _, about in function.options:
            if not about.positional:
                yield command, about.flag


class TestOptions:
    """Words of a command line."""

    @pytest.mark.parametrize("command", COMMANDS)
    @pytest.mark.parametrize("poison", few(POISONS, ("all",)))
    def test_words(self, capsys, command, poison):
        """A word, an option that there is none, and its value: the complaint is text."""
        text = POISONS[poison].replace("\0", "").replace("\ud800", "\udc80")  # as bytes can be
        for words in ([text], [f"--{text}"], [f"--json={text}"], [f"-{text}"], ["--force", text]):
            judged(capsys, command, *words, codes=(2,))
        judged(capsys, text, codes=(2,))

    @pytest.mark.slow
    @pytest.mark.parametrize(("command", "name"), [*_words()])
    def test_values(self, capsys, tmp_path, monkeypatch, command, name):
        """Each option's value is poison: the complaint is text."""
        monkeypatch.chdir(tmp_path)
        text = POISON.replace("\0", "")
        old = GOLDEN / "deepseek_v3.parquet"
        places = {
            "show": [old],
            "diff": [old, old],
            "check": [old],
            "convert": [old, "--save", tmp_path / "x.parquet"],
            "pack": [old, "--save", tmp_path / "r"],
            "layout": [old],
            "report": [GOLDEN / "diff.json"],
        }.get(command, [])
        judged(capsys, *command.split(), *places, f"--{name}", text)


class TestVoices:
    """What is written for others."""

    def test_ci(self, capsys, tmp_path, monkeypatch, dumps):
        """Names of checks and paths in a config; annotations, summary, JUnit, badge, scalars."""
        old, new = map(str, dumps)
        summary = tmp_path / "summary.md"
        monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
        checks = {
            "a|b `x` <b> @all ::error::x": {"verb": "diff", "old": old, "new": new, "match": "id"},
            "=cmd()": {"verb": "check", "dump": new, "against": old},
            "gone": {"verb": "check", "dump": POISON},
        }
        for name, check in checks.items():
            (tmp_path / f"{FILE_NAME}.toml").write_text(toml({name: check}), "utf-8")
            words = ["ci", tmp_path / f"{FILE_NAME}.toml", "--github", "--junit"]
            words += [tmp_path / "j.xml", "-o", tmp_path / "r.json", "--force"]
            judged(capsys, *words, own=("::error title=",))
            badge = ("--badge", tmp_path / "b.json", "--force")
            judged(capsys, "report", tmp_path / "r.json", *badge)
            for told in ("j.xml", "b.json", "summary.md"):
                text = (tmp_path / told).read_text("utf-8").replace("⚠️", "")  # ours
                assert faults_of(text) == []
            judged(capsys, *words, own=("::error title=",))

    @pytest.mark.parametrize("text", [POISON, LONG])
    def test_configs(self, capsys, tmp_path, text):
        """Tables, keys and values of a config."""
        path = tmp_path / "ci.toml"
        for held in (
            toml({text: {"verb": "check", "dump": "x"}}),
            toml({"a": {"verb": text}}),
            toml({"a": {"verb": "diff", "old": text, "new": text, "fail-over": [text]}}),
            f"{written(text)} = 1\n",
            text,
        ):
            path.write_text(held, "utf-8")
            judged(capsys, "ci", path, codes=(2,))


class TestServers:
    """What a server says."""

    @pytest.mark.parametrize("status", [200, 302, 400, 404, 500])
    def test_answers(self, capsys, tmp_path, status):
        """Bodies, messages and headers of a server are text in what capture prints."""
        (tmp_path / "p.jsonl").write_text('{"prompt": "x"}\n')
        head = {"Location": "http://x/\x1b[31m\x9b::error::x", "Server": "\x1b[31m"}
        for answer in (error(status, POISON), reply(POISON.encode(), status, "text/html", **head)):
            with EngineServer("vllm", answer) as server:
                judged(
                    capsys,
                    "capture",
                    server.url,
                    "--prompts",
                    tmp_path / "p.jsonl",
                    "-o",
                    tmp_path / "x.parquet",
                    "--model",
                    QWEN,
                    "--retries",
                    "0",
                    "--patience",
                    "0",
                )


def on_pty(columns, *words):
    """What a process prints on a real terminal, bytes, and what it prints on stderr."""
    master, slave = pty.openpty()
    printed = []

    def read():
        with contextlib.suppress(OSError):
            while data := os.read(master, 65536):
                printed.append(data)

    reader = threading.Thread(target=read)
    reader.start()
    environment = {**os.environ, "COLUMNS": str(columns), "TERM": "xterm-256color"}
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE"):
        environment.pop(name, None)
    done = subprocess.run(
        [sys.executable, *words], stdout=slave, stderr=subprocess.PIPE, env=environment, check=False
    )
    os.close(slave)
    reader.join()
    os.close(master)
    return b"".join(printed), done.stderr


class TestProcess:
    """A process of its own."""

    def test_a_real_terminal(self, dumps):
        """On a real terminal the bytes of a diff are colours of ours and text."""
        words = ("-m", "routectl", "diff", *map(str, dumps), "--match", "id")
        printed, said = on_pty(60, *words)
        assert b"\x1b[" in printed
        assert faults_of(printed) == []
        assert faults_of(said) == []

    def test_libraries(self):
        """Warnings and logs of libraries, and the traceback of a bug, are text."""
        code = (
            "import logging, sys, warnings\n"
            "import routectl.cli.main as main\n"
            f"poison = {POISON!r}\n"
            "def app(*_, **__):\n"
            "    warnings.warn(poison)\n"
            "    logging.getLogger('x').warning('%s', poison)\n"
            "    logging.basicConfig()\n"
            "    logging.getLogger('y').error(poison)\n"
            "    raise KeyError(poison)\n"
            "main.app = app\n"
            "main.script()\n"
        )
        printed, said = on_pty(60, "-c", code)
        assert printed == b""
        assert faults_of(said) == []
        assert said.count(b"\\x1b[2J") == 4
        assert b"this is a bug in routectl" in said
