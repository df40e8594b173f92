"""Where the model of a dump comes from: --model, the dump, the other side, a config beside it."""

import json

import numpy as np
import pytest

from routectl.errors import FormatError
from routectl.formats import open_dump
from routectl.formats.documents.facts import find_model, read_model
from routectl.formats.documents.hub import hub_folder
from routectl.formats.native.container import write_native
from routectl.model import facts_from_sizes
from support.building import CONFIG, record, some_ids, write_lines
from support.shell import complaint, document, run

IDS = some_ids(9)


@pytest.fixture
def sides(tmp_path):
    """A dump that knows its model and one that does not, each alone in a folder."""
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        folder.mkdir()
    bare = write_lines(there / "bare.jsonl", [record(IDS)])
    dump = open_dump(bare)
    write_native(dump, dump.meta, here / "knows.parquet", force=False)
    (there / "config.json").unlink()
    return here / "knows.parquet", bare


def cached(hub, name, config=CONFIG, revision="abc", main="abc"):
    """A model in a hub's cache, as huggingface_hub lays it out."""
    folder = hub / f"models--{name.replace('/', '--')}"
    (folder / "snapshots" / revision).mkdir(parents=True)
    (folder / "snapshots" / revision / "config.json").write_text(json.dumps(config))
    if main is not None:
        (folder / "refs").mkdir(exist_ok=True)
        (folder / "refs" / "main").write_text(main)
    return folder / "snapshots" / revision / "config.json"


class TestSizes:
    """LAYERS,K,E."""

    def test_are_facts(self):
        """Three numbers are layers, all MoE, K and E; any other text is none."""
        facts = facts_from_sizes("48,8,128")
        assert facts.layers == tuple(range(48)) == tuple(range(facts.num_layers))
        assert (facts.top_k, facts.num_experts) == (8, 128)
        assert facts_from_sizes("1,1,1") is not None
        for text in ("48,8", "48,8,128,1", "a,b,c", "org/name", "-1,2,4", " 1,1,1", ""):
            assert facts_from_sizes(text) is None

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("0,2,4", "got LAYERS 0, expected 1 to 4096"),
            ("4097,2,4", "got LAYERS 4097, expected 1 to 4096"),
            ("2,5,4", "got K 5, expected 1 to 4"),
            ("2,0,4", "got K 0, expected 1 to 4"),
            ("2,1,0", "got E 0, expected 1 to 65536"),
            ("2,1,65537", "got E 65537, expected 1 to 65536"),
        ],
    )
    def test_have_bounds(self, text, said, capsys, sides):
        """A size out of its bounds is refused with them."""
        assert said in complaint(capsys, "show", sides[1], "--model", text)

    def test_name_themselves(self, capsys, sides):
        """show says that sizes were given."""
        assert (
            "(facts from the sizes 3,2,8)" in run(capsys, "show", sides[1], "--model", "3,2,8").out
        )


class TestHub:
    """ORG/NAME in the local cache of Hugging Face's hub."""

    def test_is_found(self, capsys, sides, tmp_path, monkeypatch):
        """refs/main says the revision; the report names the file that was read."""
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
        config = cached(tmp_path / "hub", "org/tiny-moe")
        cached(tmp_path / "hub", "org/tiny-moe", {**CONFIG, "num_experts": 4}, "old", "abc")
        doc = document(capsys, "show", sides[1], "--model", "org/tiny-moe")
        assert (doc["dump"]["facts_source"], doc["dump"]["num_experts"]) == (str(config), 8)
        assert open_dump(sides[1], model="org/tiny-moe").meta.num_experts == 8

    def test_a_lone_revision_needs_no_ref(self, tmp_path, monkeypatch):
        """Where no branch is named, one snapshot is it, and of two none is."""
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
        config = cached(tmp_path, "org/a", main=None)
        assert find_model("org/a") == config
        cached(tmp_path, "org/a", revision="def", main=None)
        with pytest.raises(FormatError, match=r"org/a: no config\.json in .*, where it is cached"):
            find_model("org/a")

    @pytest.mark.parametrize("name", ["org/none", "../x", "a/b/c", "org/..", "x" * 300, "a b/c"])
    def test_what_is_not_there(self, capsys, sides, tmp_path, monkeypatch, name):
        """A name that is no file and in no cache is one line, which says where was looked."""
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
        said = complaint(capsys, "show", sides[1], "--model", name)
        assert f"{name}: no such file or folder, and no model of that name in {tmp_path}" in said

    def test_a_ref_leaves_the_cache_nowhere(self, tmp_path, monkeypatch):
        """A ref that is a path is not followed."""
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
        cached(tmp_path / "hub", "org/a", main="../../../x")
        cached(tmp_path / "hub", "org/a", revision="def", main="../../../x")
        with pytest.raises(FormatError, match="where it is cached"):
            find_model("org/a")

    @pytest.mark.parametrize(
        ("variables", "folder"),
        [
            ({"HF_HUB_CACHE": "/a"}, "/a"),
            ({"HUGGINGFACE_HUB_CACHE": "/b", "HF_HOME": "/c"}, "/b"),
            ({"HF_HOME": "/c"}, "/c/hub"),
            ({"XDG_CACHE_HOME": "/d"}, "/d/huggingface/hub"),
            ({"HOME": "/home/u"}, "/home/u/.cache/huggingface/hub"),
            ({"HF_HOME": "$BASE/c", "BASE": "/e"}, "/e/c/hub"),
        ],
    )
    def test_the_folder_is_the_librarys(self, monkeypatch, variables, folder):
        """The variables are read as huggingface_hub 2.4 reads them."""
        for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        assert str(hub_folder()) == folder

    @pytest.mark.models
    def test_the_library_finds_the_same(self, tmp_path, monkeypatch):
        """huggingface_hub finds the same config in such a cache."""
        from huggingface_hub import try_to_load_from_cache

        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
        config = cached(tmp_path, "org/tiny-moe")
        assert try_to_load_from_cache("org/tiny-moe", "config.json", tmp_path) == str(config)
        assert find_model("org/tiny-moe") == config


class TestOtherSide:
    """What one dump says holds for the other, which does not say its own."""

    def test_either_way(self, capsys, sides):
        """NEW is read by the model of OLD, and OLD by that of NEW; a note says so."""
        knows, bare = sides
        for old, new, name, donor in ((knows, bare, "NEW", "OLD"), (bare, knows, "OLD", "NEW")):
            done = run(capsys, "diff", old, new, "--json")
            assert (done.code, done.err) == (0, f"routectl: model of {name} from {donor}\n")
            side = json.loads(done.out)[name.lower()]
            assert side["facts_source"] == f"{donor}, {knows}"
            assert side["num_experts"] == 8

    def test_before_a_config_beside_it(self, capsys, sides):
        """A stray config.json does not stand between a dump and what the other side knows."""
        knows, bare = sides
        (bare.parent / "config.json").write_text(json.dumps({**CONFIG, "num_experts": 4}))
        assert run(capsys, "diff", knows, bare).code == 0
        said = run(capsys, "check", bare).err
        assert f"routectl: model of {bare} from {bare.parent / 'config.json'}\n" in said

    def test_after_the_dump_itself(self, capsys, sides):
        """Two dumps that say other models are not read by each other's: they cannot be compared."""
        knows, bare = sides
        config = {"hf_config": {**CONFIG, "num_experts": 16}}
        (bare.parent / "meta.json").write_text(json.dumps(config))
        assert "num_experts is 8 in OLD" in complaint(capsys, "diff", knows, bare)

    def test_nobody_knows(self, capsys, sides, tmp_path):
        """Where neither side says it, the first is named, and every way to say it."""
        bare = sides[1]
        said = complaint(capsys, "diff", bare, bare)
        assert f"{bare}: the model is not known" in said
        assert (
            "--model CONFIG.json, a folder with one, ORG/NAME of the HF cache, or LAYERS,K,E"
            in said
        )

    @pytest.mark.parametrize("reverse", [False, True])
    def test_of_a_reference(self, capsys, sides, reverse):
        """check reads a dump by its reference's model, and a reference by its dump's."""
        dump, against = sides[::-1] if reverse else sides
        assert run(capsys, "check", dump, "--against", against).code == 0

    def test_of_a_rerun(self, capsys, sides):
        """A third dump is read by the first that knows."""
        knows, bare = sides
        done = run(capsys, "diff", knows, bare, "--rerun", bare)
        assert done.code == 0
        assert "model of the rerun from OLD\n" in done.err


def test_a_message_names_the_source(capsys, sides):
    """Routes that do not fit name the file that the model was read from, though nobody gave it."""
    bare = sides[1]
    (bare.parent / "meta.json").write_text(json.dumps({"hf_config": {**CONFIG, "num_experts": 4}}))
    said = complaint(capsys, "show", bare)
    assert f"hint: the model is that of {bare.parent / 'meta.json'}: --model names" in said


def test_facts_of_python_are_facts(sides):
    """ModelFacts, a path, a name and sizes are all models; facts compare without their source."""
    facts = read_model("3,2,8")
    assert read_model(facts) == facts == facts_from_sizes("3,2,8")
    dump = open_dump(sides[1], model=facts)
    assert dump.meta.facts_source == "the sizes 3,2,8"
    np.testing.assert_array_equal(dump[0].routes.ids_TLK, IDS)
