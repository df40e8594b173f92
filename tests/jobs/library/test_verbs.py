"""Verbs of the library: paths as well as dumps, and what the command of the name prints."""

import json
import shutil

import numpy as np
import pytest

import routectl
from routectl.errors import MismatchError, RoutectlError
from support.building import record, some_ids, write_lines
from support.recordings import DEEPSEEK, FIXTURES
from support.shell import document
from support.tiny_rl import ENGINE, TINY

V0, V1, V2 = (
    TINY / name
    for name in ("routes_v0.margins.parquet", "transformers_v1.fp32.npz", "routes_v2.fp32.npz")
)
DUMP = DEEPSEEK / "samples.jsonl"
CHECKPOINT = FIXTURES / "checkpoints" / "megatron-0.15.3"


def plain(found):
    """A document as --json has it, but for the words of the command line that asks the same."""
    return {name: part for name, part in json.loads(json.dumps(found)).items() if name != "asked"}


def printed(capsys, *line, code=0):
    """What a command line prints with --json, likewise."""
    return plain(document(capsys, *line, code=code))


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    """Files of 12 samples: the engine's, and their routes at v0 and at v1."""
    folder, found = tmp_path_factory.mktemp("library"), []
    for source in (ENGINE, V0, V1):
        found.append(folder / f"{source.name.split('.')[0]}.parquet")
        routectl.write(routectl.open_dump(source).select(samples=range(12)), found[-1])
    return tuple(found)


@pytest.fixture(scope="module")
def dumps(paths):
    """The first two of them, opened."""
    return routectl.open_dump(paths[0]), routectl.open_dump(paths[1])


class TestDiff:
    """routectl.diff."""

    def test_paths_are_what_their_dumps_are(self, capsys, dumps, paths):
        """Text, a Path and a Dump give one result: that of the command."""
        told = printed(capsys, "diff", paths[0], paths[1], code=1)
        for old, new in ((str(paths[0]), paths[1]), (paths[0], dumps[1]), dumps):
            found = routectl.diff(old, new)
            assert isinstance(found, routectl.DiffResult)
            assert plain(found.to_dict()) == told

    def test_a_page_says_what_was_asked(self, capsys, paths, dumps):
        """Of paths the whole document is the command's, the words that ask again too."""
        line = ("diff", paths[0], paths[1], "--layers", "0-2", "--fail-over", "mismatch:1%")
        found = routectl.diff(*paths[:2], layers=range(3), fail_over="mismatch:1%")
        assert found.to_dict() == document(capsys, *line, code=1)
        checked = routectl.check(paths[0], paths[1], ignore="R7")
        line = ("check", paths[0], "--against", paths[1], "--ignore", "R7")
        assert checked.to_dict() == document(capsys, *line)
        assert "asked" not in routectl.diff(*dumps).to_dict()
        assert "asked" not in (found + found).to_dict()

    def test_keywords_are_the_commands_options(self, capsys, dumps, paths):
        """Lists and ranges stand for a flag's text, one text for a flag that is repeatable."""
        line = ("--layers", "0-2", "--positions", "8-63", "--sample", "0/0", "--sample", "0/1")
        told = printed(
            capsys,
            "diff",
            paths[0],
            paths[1],
            *line,
            "--fail-over",
            "mismatch:1%",
            "--eps",
            0.01,
            code=1,
        )
        for layers, positions in (([0, 1, 2], "8-63"), (range(3), range(8, 64)), ("0-2", "8-63")):
            found = routectl.diff(
                *dumps,
                layers=layers,
                positions=positions,
                sample=["0/0", "0/1"],
                fail_over="mismatch:1%",
                eps=0.01,
            )
            assert plain(found.to_dict()) == told

    def test_the_verdict_is_held_and_nothing_is_raised(self, dumps):
        """Thresholds, unmatched samples and a rerun are judged as the command judges them."""
        found = routectl.diff(*dumps, fail_over=["mismatch:3%"], rerun=dumps[1])
        assert found.verdict.exit_code == 0
        assert found.to_dict()["noise"][0]["rows"] == found.rows
        fewer = dumps[0].select(samples=range(8))
        assert routectl.diff(*dumps).verdict.exit_code == 1
        lost = routectl.diff(fewer, dumps[1], fail_over="mismatch:3%")
        assert (lost.verdict.exit_code, lost.verdict.unmatched.samples) == (1, 4)
        kept = routectl.diff(fewer, dumps[1], fail_over="mismatch:3%", allow_unmatched=True)
        assert kept.verdict.exit_code == 0

    def test_a_glob_and_a_model(self, tmp_path):
        """A glob is a dump, and ``model`` is that of paths."""
        for part in ("a", "b"):
            shutil.copy(DUMP, tmp_path / f"{part}.jsonl")
        found = routectl.summarize(
            f"{tmp_path}/*.jsonl", model=FIXTURES / "configs/deepseek_v3.json"
        )
        assert found.samples == 2 * routectl.summarize(DUMP).samples
        assert found.meta.facts_source == str(FIXTURES / "configs/deepseek_v3.json")

    def test_options_behind_a_path_and_sizes_of_a_model(self, tmp_path, dumps):
        """``PATH::start=0`` is of one side; a model is its config, its sizes, or the facts."""
        ids_TLK = np.concatenate([sample.routes.ids_TLK for sample in dumps[0]])
        np.save(tmp_path / "bare.npy", ids_TLK)
        facts = routectl.ModelFacts(6, tuple(range(6)), 32, 4, None)
        for model in ("6,4,32", facts, TINY / "config.json", str(TINY / "config.json")):
            found = routectl.summarize(f"{tmp_path}/bare.npy::start=7", model=model)
            assert (found.samples, found.rows) == (1, ids_TLK.shape[0] * 6)
        assert found.starts == {"given": 1}
        bare = tmp_path / "bare.npy"
        for path in (f"{bare}::start=7,format=npy", f"{bare}::start=7"):
            assert routectl.open_dump(path, model=facts, start=3)[0].routes.start == 7
            assert routectl.RoutesDataset(path, model=facts)[0]["start"] == 7
        assert routectl.open_dump(bare, model=facts, start=3)[0].routes.start == 3
        with pytest.raises(RoutectlError, match="'strat=7' behind :: is not known: did you mean"):
            routectl.open_dump(f"{bare}::strat=7", model=facts)

    @pytest.mark.models
    def test_a_checkpoint_is_a_side(self, tmp_path, monkeypatch, tiny_checkpoints, dumps):
        """Weights are run on the other side's tokens, be that a dump in memory or a path; kept."""
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        part = dumps[0].select(samples=[0, 1, 2])
        routectl.write(part, tmp_path / "part.parquet")
        said = []
        asked = {
            "forward": {"dtype": "float32", "threads": 1},
            "progress": routectl.Progress(note=said.append),
        }
        held = routectl.diff(part, tiny_checkpoints["v1"], **asked)
        assert any("pushing" in line for line in said)
        said.clear()
        path = routectl.diff(str(tmp_path / "part.parquet"), str(tiny_checkpoints["v1"]), **asked)
        assert not any("pushing" in line for line in said)
        assert held.to_arrow("layers").equals(path.to_arrow("layers"))
        known = routectl.diff(part, routectl.open_dump(V1).select(samples=[0, 1, 2]))
        assert held.rows == known.rows
        assert abs(held.rows_mismatched - known.rows_mismatched) <= 2
        assert routectl.check(part, tiny_checkpoints["v1"], **asked).reference[1] == 3

    def test_what_is_no_option_is_refused(self, dumps):
        """Another keyword, another type, and what is neither dump nor path are TypeErrors."""
        with pytest.raises(
            TypeError, match="keyword 'fail_ovr' is not known: did you mean fail_over"
        ):
            routectl.diff(*dumps, fail_ovr="mismatch:1%")
        with pytest.raises(TypeError, match="examples: got str"):
            routectl.diff(*dumps, examples="ten")
        with pytest.raises(TypeError, match="check: 'against' is no keyword: the function's own"):
            routectl.check(dumps[0], against=dumps[1])
        with pytest.raises(TypeError, match="staleness: 'at' is no keyword"):
            routectl.staleness(dumps[0], {"v0": dumps[1]}, at=["v1=none"])
        for name, value in (("start", 5), ("format", "npz"), ("expert_map", "map.json")):
            with pytest.raises(TypeError, match=f"{name}: of paths: open_dump has it"):
                routectl.diff(*dumps, **{name: value})
        with pytest.raises(TypeError, match="got a mask, expected indices"):
            dumps[0].select(samples=np.array([True, False]))
        for verb, asked in (("check", dumps[:1]), ("show", dumps[:1]), ("diff", dumps)):
            with pytest.raises(TypeError, match=f"{verb}: partial writes a file"):
                getattr(routectl, verb)(*asked, shard="1/2", partial="part")
        with pytest.raises(TypeError, match="got list, expected a Dump, or the path"):
            routectl.diff([], dumps[1])
        with pytest.raises(RoutectlError, match="'every' is not known"):
            routectl.diff(*dumps, tokens="every")
        with pytest.raises(MismatchError, match="are not MoE layers of both"):
            routectl.diff(*dumps, layers=[90])

    def test_notes_go_to_who_listens(self, paths):
        """``progress`` is told what the command says on stderr."""
        said = []
        routectl.staleness(
            paths[0], {"v1": paths[2], "v0": paths[1]}, progress=routectl.Progress(note=said.append)
        )
        assert said
        assert "out of order" in said[0]


class TestCheck:
    """routectl.check."""

    def test_paths_are_what_their_dumps_are(self, capsys, dumps, paths):
        """A dump alone and one with its reference give what the command prints."""
        told = printed(capsys, "check", paths[0])
        assert plain(routectl.check(dumps[0]).to_dict()) == told
        told = printed(capsys, "check", paths[0], "--against", paths[1])
        for dump, reference in ((str(paths[0]), dumps[1]), dumps):
            found = routectl.check(dump, reference)
            assert isinstance(found, routectl.CheckResult)
            assert plain(found.to_dict()) == told

    def test_keywords_select(self, dumps):
        """Codes are selected and left out, and the least severity that fails is told."""
        assert [f.code for f in routectl.check(*dumps).findings] == ["R712"]
        assert routectl.check(*dumps, ignore="R7").findings == ()
        found = routectl.check(*dumps, select=["R712"], fail_on="note")
        assert found.to_dict()["verdict"]["exit_code"] == 1

    def test_options_of_the_model(self, dumps):
        """``options`` says what is known of the model."""
        options = routectl.CheckOptions(ep=4)
        assert routectl.check(dumps[0], options=options).samples == 12


class TestStaleness:
    """routectl.staleness."""

    def test_versions_by_name(self, capsys, dumps, paths):
        """Paths, dumps and Versions give one result: that of the command."""
        told = printed(capsys, "staleness", paths[0], f"--at=v0={paths[1]}", f"--at=v1={paths[2]}")
        opened = routectl.open_dump(paths[2])
        for versions in (
            {"v0": paths[1], "v1": str(paths[2])},
            {"v0": dumps[1], "v1": [opened]},
            {"v0": paths[1], "v1": opened},
            [routectl.Version("v0", dumps[1]), routectl.Version("v1", opened)],
        ):
            found = routectl.staleness(dumps[0], versions)
            assert isinstance(found, routectl.Staleness)
            assert plain(found.to_dict()) == told

    def test_options_stand_for_the_keywords(self, dumps, paths):
        """StalenessOptions, as the verb takes them, and keywords of the command."""
        versions = [
            routectl.Version("v0", dumps[1]),
            routectl.Version("v1", routectl.open_dump(paths[2])),
        ]
        options = routectl.StalenessOptions(layers=(0, 1), tokens="response")
        found = routectl.staleness(dumps[0], versions, options)
        same = routectl.staleness(
            paths[0], {"v0": paths[1], "v1": paths[2]}, layers=[0, 1], tokens="response"
        )
        assert found.to_arrow("layers").equals(same.to_arrow("layers"))

    def test_a_checkpoint_beside_a_dump_in_memory(self, tiny_checkpoints, dumps, paths):
        """A checkpoint is recomputed of paths alone, and the error says so."""
        with pytest.raises(MismatchError, match="beside versions that are paths"):
            routectl.staleness(paths[0], {"v0": dumps[1], "v1": tiny_checkpoints["v1"]})


class TestShow:
    """routectl.summarize and routectl.show."""

    def test_a_summary_is_what_show_prints(self, capsys):
        """Of a path and of a dump, by either name."""
        told = printed(capsys, "show", DUMP)
        for found in (routectl.summarize(DUMP), routectl.show(routectl.open_dump(DUMP))):
            assert isinstance(found, routectl.Summary)
            assert plain(found.to_dict()) == told

    def test_without_a_model(self, capsys, tmp_path):
        """``show`` of a dump whose model nothing tells is the command's outline, not an error."""
        write_lines(tmp_path / "x.jsonl", [record(some_ids(9))] * 2)
        (tmp_path / "config.json").unlink()
        found = routectl.show(tmp_path / "x.jsonl")
        assert plain(found.to_dict()) == printed(capsys, "show", tmp_path / "x.jsonl")
        assert found.to_dict()["schema"] == "routectl.outline/1"
        assert "2 samples, 18 tokens with routes" in repr(found)
        assert "num_experts" in found._repr_html_()

    def test_who_counts_is_told(self):
        """``on_read`` is told of tokens with routes and of samples."""
        told = []
        found = routectl.summarize(DUMP, lambda tokens, samples: told.append((tokens, samples)))
        assert [sum(column) for column in zip(*told, strict=True)] == [
            found.positions,
            found.samples,
        ]

    def test_a_checkpoint(self, capsys):
        """``show`` of weights is the checkpoint's facts, and the command's document."""
        found = routectl.show(CHECKPOINT)
        assert isinstance(found, routectl.CheckpointFacts)
        assert plain(found.to_dict()) == printed(capsys, "show", CHECKPOINT)
        assert repr(found).startswith("<CheckpointFacts of ")
