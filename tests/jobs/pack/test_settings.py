"""A layout out of files, trainers' configs, KEY=VALUE pairs and flags, and what is refused."""

import json
from dataclasses import fields

import pytest

from routectl import LayoutOptions
from routectl.errors import RoutectlError
from routectl.jobs.pack.layout import Layout
from routectl.jobs.pack.settings import settled_layout
from routectl.jobs.progress import Progress
from support.recordings import FIXTURES
from support.shell import DUMPS, complaint, document, run, written

CONFIGS = FIXTURES / "trainer_configs"
SETTINGS = {one.name for one in fields(LayoutOptions)}


def settled(*settings, **flags):
    """The layout, its sources and the notes."""
    notes = []
    found = settled_layout(
        LayoutOptions(settings=tuple(map(str, settings)), **flags), Progress(note=notes.append)
    )
    return found.layout, found.sources, notes


class TestPairs:
    """KEY=VALUE pairs."""

    def test_every_key(self):
        """Each key is taken, with dashes or underscores; a comma goes on with a list."""
        text = (
            "framework=slime,tp=2,cp=3,pp=4,vpp=5,ep=6,dp=7,max-tokens-per-gpu=8,"
            "balance=karmarkar-karp,plan=p.json,form=bshd,seq_len=9,pad-multiplier=10,"
            "sample-multiple=11,min-local-rows=12,bucket=13,fp8=mxfp8,decoder-layers=14,"
            "first-stage-layers=0,last-stage-layers=15,account-embedding=true,account-loss=false,"
            "pipeline-layout=Et*3|(tt|)*2,L,moe-layer-freq=0,1,1,rows=n-1,context=16,"
            "micro-batch-size=17,pack-max-length=18"
        )
        layout, sources, notes = settled(text)
        assert (sources, notes) == ((), [])
        found = {one.name: getattr(layout, one.name) for one in fields(Layout)}
        assert str(found.pop("plan")) == "p.json"
        assert found == {
            **{"framework": "slime", "tp": 2, "cp": 3, "pp": 4, "vpp": 5, "ep": 6, "dp": 7},
            **{"max_tokens_per_gpu": 8, "balance": "karmarkar-karp", "form": "bshd", "seq_len": 9},
            **{"pad_multiplier": 10, "sample_multiple": 11, "min_local_rows": 12, "bucket": 13},
            **{"fp8": "mxfp8", "decoder_layers": 14, "first_stage_layers": 0},
            **{"last_stage_layers": 15, "account_embedding": True, "account_loss": False},
            **{"pipeline_layout": "Et*3|(tt|)*2,L", "moe_layer_freq": "0,1,1", "rows": "n-1"},
            **{"context": 16, "micro_batch_size": 17, "pack_max_length": 18},
        }

    def test_flags_are_keys(self):
        """Every flag of a layout is a key of it, and nothing else is a flag."""
        assert SETTINGS - {"settings"} <= {one.name for one in fields(Layout)}

    def test_the_later_wins_and_flags_win(self, tmp_path):
        """Of a key that is said again the last counts, a flag before all; 1 is said as 2 is."""
        (tmp_path / "l.toml").write_text("tp = 4\ncp = 4\nform = 'bshd'\n", "utf-8")
        layout, _, _ = settled("tp=2,cp=2,dp=2", tmp_path / "l.toml", "cp=8,cp=16", tp=1)
        assert (layout.tp, layout.cp, layout.dp, layout.form) == (1, 16, 2, "bshd")
        layout, _, _ = settled(tmp_path / "l.toml", "tp=2,cp=2,dp=2")
        assert (layout.tp, layout.cp, layout.dp, layout.form) == (2, 2, 2, "bshd")

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("tq=2", "'tq' is no key of a layout: framework, tp, cp, pp,"),
            (
                "framwork=verl",
                "'framwork' is no key of a layout: did you mean framework?",
            ),
            ("tp=2,7,form=thd", "tp: got '2,7', expected a number from 1 on"),
            ("tp=0", "tp: got 0, expected a number from 1 on"),
            ("tp=-1", "tp: got '-1', expected a number"),
            ("bucket=2147483648", "bucket: got 2147483648, expected a number below 2147483648"),
            ("tp=2.0", "tp: got '2.0', expected a number"),
            ("tp=", "tp: got '', expected a number"),
            ("account-loss=maybe", "account-loss: got 'maybe', expected true or false"),
            ("rows=m", "rows 'm' is not known: n-1, n"),
            ("framework=verk", "framework 'verk' is not known: did you mean verl?"),
            ("balance=none", "balance 'none' is not known: first-fit, karmarkar-karp, verl"),
            ("form=", "form: got '', expected text"),
        ],
    )
    def test_refused(self, text, said):
        """An unknown key and a value of another type are refused, with what there is."""
        with pytest.raises(RoutectlError, match=r"^--layout \S+: ") as error:
            settled(text)
        assert said in str(error.value)


def test_ranks_are_bounded(capsys):
    """More than a million ranks are refused at once, whoever says them."""
    for words in (("--tp", 2048, "--cp", 1024), ("--layout", "tp=1024,dp=2048")):
        said = complaint(capsys, "layout", "--lens", "3,4", *words)
        assert "2097152 ranks: expected at most 1048576" in said


class TestFiles:
    """Files of routectl's own keys."""

    @pytest.mark.parametrize("name", ["layout.toml", "layout.yaml", "layout.json"])
    def test_forms(self, tmp_path, name):
        """TOML, YAML and JSON say the same; a plan is where the file is."""
        about = {"framework": "miles", "pad-multiplier": 4, "account_loss": False}
        about |= {"moe-layer-freq": [0, 1, 1], "plan": "plan.json"}
        if name == "layout.toml":
            lines = "".join(f"{key} = {json.dumps(value)}\n" for key, value in about.items())
            (tmp_path / name).write_text(f"[layout]\n{lines}", "utf-8")
        else:
            (tmp_path / name).write_text(json.dumps(about), "utf-8")
        layout, (source,), notes = settled(tmp_path / name)
        assert (layout.framework, layout.pad_multiplier, layout.account_loss) == ("miles", 4, False)
        assert layout.moe_layer_freq.replace(" ", "") == "0,1,1"
        assert layout.plan == tmp_path / "plan.json"
        assert source.trainer is None
        assert set(source.keys) == {key.replace("_", "-") for key in about}
        assert notes[0].startswith(f"{tmp_path / name}: framework miles, pad-multiplier 4, ")

    @pytest.mark.parametrize(
        ("name", "text", "said"),
        [
            ("l.toml", "tp = 2\ntq = 2", "'tq' is no key of a layout: framework, tp,"),
            ("l.toml", "tp = true", "tp: got True, expected a number from 1 on"),
            ("l.toml", "tp = [2]", "tp: got [2], expected a number"),
            ("l.toml", "form = 3", "form: got 3, expected text"),
            ("l.toml", "account-loss = 1", "account-loss: got 1, expected true or false"),
            ("l.toml", "", "no key of a layout in it: framework,"),
            ("l.yaml", "tp: 2\ntq: 3", "'tq' is no key of a layout: framework, tp,"),
            ("l.yaml", "lr: 3", "says no layout: expected keys of one, or a config of verl, "),
            ("l.sh", "echo hello", "says no layout: expected keys of one, or a config of verl, "),
            ("l.json", "[1]", "not JSON of a config: got list, expected a table"),
            ("none.toml", None, "cannot be read: No such file or directory"),
        ],
    )
    def test_refused(self, capsys, tmp_path, name, text, said):
        """A file that is none, or says what no layout knows, is refused and nothing is written."""
        if text is not None:
            (tmp_path / name).write_text(text, "utf-8")
        options = ("--save", tmp_path / "r", "--layout", tmp_path / name)
        told = complaint(capsys, "pack", DUMPS["native"], *options)
        assert told.startswith(f"routectl: {tmp_path / name}: {said}")
        assert not (tmp_path / "r").exists()


class TestTrainers:
    """Configs of trainers."""

    def test_what_was_read_is_told(self, capsys, tmp_path):
        """A note says whose config it is and what it says; the manifest names its keys."""
        save, config = tmp_path / "r", CONFIGS / "slime.sh"
        options = ("--save", save, "--tp", 2, "--layout", config, "--layout", "pad-multiplier=4")
        done = run(capsys, "pack", DUMPS["native"], *options, "--json")
        assert done.code == 0, done.err
        lines = done.err.splitlines()
        sizes = "framework slime, cp 2, pp 1, ep 8, max-tokens-per-gpu 20480, dp 4"
        assert lines[:3] == [
            f"routectl: {config}: slime's config: {sizes}",
            f"routectl: {config}: not followed: balance_data",
            "routectl: samples form micro-batches in the dump's order; --plan says the trainer's "
            "own",
        ]
        (source,) = json.loads(done.out)["layout_from"]
        assert source == {
            "path": str(config),
            "trainer": "slime",
            "keys": {
                "framework": "options of slime",
                "cp": "context_parallel_size",
                "pp": "pipeline_model_parallel_size",
                "ep": "expert_model_parallel_size",
                "max-tokens-per-gpu": "max_tokens_per_gpu",
                "dp": "actor_num_nodes x actor_num_gpus_per_node",
            },
            "unread": ["balance_data"],
        }
        assert json.loads((save / "manifest.json").read_text("utf-8"))["layout_from"] == [source]
        assert document(capsys, "verify", save, "--against", DUMPS["native"])["ok"]

    @pytest.mark.parametrize(
        ("name", "more", "flags"),
        [
            (
                "slime.sh",
                "",
                "framework=slime,tp=4,cp=2,ep=8,dp=2,max-tokens-per-gpu=20480,pad-multiplier=4096",
            ),
            (
                "verl.sh",
                "moe-layer-freq=0,1,1,1,1",
                "framework=verl,tp=4,cp=2,dp=1,micro-batch-size=4,moe-layer-freq=0,1,1,1,1",
            ),
            (
                "verl.yaml",
                "decoder-layers=44",
                "framework=verl,tp=2,cp=2,pp=2,ep=4,dp=2,"
                "first-stage-layers=22,bucket=512,max-tokens-per-gpu=16384,balance=verl,"
                "decoder-layers=44",
            ),
            (
                "roll.yaml",
                "decoder-layers=48",
                "framework=roll,tp=4,pp=2,vpp=4,ep=8,dp=2,form=bshd,"
                "seq-len=10240,micro-batch-size=2,decoder-layers=48",
            ),
        ],
    )
    def test_as_flags(self, name, more, flags):
        """A config says what the same keys by hand say."""
        settings = [CONFIGS / name, *([more] if more else [])]
        assert settled(*settings)[0] == settled(flags)[0]

    def test_a_plan_says_micro_batches(self, tmp_path):
        """With --plan, micro-batches and dp of a config are not taken; what a user says stays."""
        (tmp_path / "p.json").write_text('{"micro_batches": [[[0], [1]]]}', "utf-8")
        layout, (source,), notes = settled(CONFIGS / "verl.yaml", plan=tmp_path / "p.json")
        assert (layout.dp, layout.max_tokens_per_gpu, layout.balance) == (1, None, "first-fit")
        assert not {"dp", "max-tokens-per-gpu", "balance"} & set(source.keys)
        assert len(notes) == 1
        layout, _, _ = settled(CONFIGS / "verl.yaml", "dp=2", plan=tmp_path / "p.json")
        assert layout.dp == 2

    def test_a_size_of_the_user(self):
        """A size of micro-batches takes the place of the other one that a config has."""
        layout, _, _ = settled(CONFIGS / "verl.sh", max_tokens_per_gpu=64)
        assert (layout.max_tokens_per_gpu, layout.micro_batch_size) == (64, None)
        layout, _, _ = settled(CONFIGS / "slime.sh", "micro-batch-size=3")
        assert (layout.max_tokens_per_gpu, layout.micro_batch_size) == (None, 3)

    def test_gpus_go_by_the_sizes_that_are_taken(self, capsys, tmp_path):
        """dp is the GPUs over tp x cp x pp as they are at the end, where these divide them."""
        assert settled(CONFIGS / "slime.sh", tp=1, cp=1)[0].dp == 16
        assert settled(CONFIGS / "slime.sh", tp=3, dp=1)[0].dp == 1
        options = ("--lens", "3,4", "--layout", CONFIGS / "slime.sh", "--tp", "3")
        said = complaint(capsys, "layout", *options)
        assert "16 GPUs do not divide by tp x cp x pp = 6\nhint: --dp N" in said

    def test_a_doubt_is_refused_until_it_is_settled(self, capsys, tmp_path):
        """What cannot be followed is refused in one line; the key after the file settles it."""
        path = tmp_path / "run.yaml"
        text = (CONFIGS / "verl.yaml").read_text("utf-8")
        path.write_text(text.replace("use_remove_padding: true", "use_remove_padding: false"))
        args = ("layout", "--lens", "3,4", "--layout", path, "--layout", "decoder-layers=44")
        said = complaint(capsys, *args)
        assert said.splitlines()[0].startswith(
            f"routectl: {path}: actor_rollout_ref.actor.megatron."
        )
        assert "hint: --layout seq-len=... after it settles that" in said
        before = ("layout", "--lens", "3,4", "--layout", "seq-len=64", *args[3:])
        assert complaint(capsys, *before) == said
        assert run(capsys, *args, "--layout", "seq-len=64").code == 0
        path.write_text(text.replace("strategy: megatron", "strategy: fsdp"), "utf-8")
        said = complaint(capsys, *args, "--layout", "seq-len=64")
        assert "hint: give the keys of a layout themselves" in said
        assert written(tmp_path) == ["run.yaml"]


def test_micro_batches_of_so_many_samples(capsys, tmp_path):
    """micro-batch-size samples in order form each micro-batch, dealt out to the ranks in turn."""
    keys = ("--layout", "micro-batch-size=8", "--dp", "2")
    packed = document(capsys, "pack", DUMPS["native"], "--save", tmp_path / "r", *keys)
    plan = packed["layout"]["plan"]["micro_batches"]
    assert [[len(group) for group in step] for step in plan] == [[8, 8], [8, 8], [8, 6]]
    assert [i for step in plan for group in step for i in group] == list(range(46))
    assert document(capsys, "verify", tmp_path / "r", "--against", DUMPS["native"])["ok"]
    keys = ("--layout", "micro-batch-size=8,max-tokens-per-gpu=64")
    said = complaint(capsys, "pack", DUMPS["native"], "--save", tmp_path / "x", *keys)
    assert "max_tokens_per_gpu and micro_batch_size cannot both be given" in said
