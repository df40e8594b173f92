"""routectl recompute: its files, its refusals, resuming, and router inputs."""

import json
from dataclasses import asdict, replace

import msgspec
import numpy as np
import pytest

from routectl import Dump, Routes, diff, open_dump, router_shift
from routectl.dump import DumpMeta, Sample
from routectl.formats.native.container import write_native
from routectl.gate_logprobs import digest_routes
from support import families
from support.pages import Parsed
from support.permissions import modes_in, umask
from support.schemas import TYPES
from support.shell import complaint, document, run, written

pytestmark = pytest.mark.models

LENS = (3, 9, 1, 14, 6)
MODEL = "deepseek_v3"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny checkpoint, and a dump of random tokens with routes that are not its own."""
    place = tmp_path_factory.mktemp("recompute")
    model = families.tiny(MODEL)
    model.save_pretrained(place / "checkpoint")
    rng = np.random.default_rng(2)
    layers = tuple(families.routers(model))
    samples = []
    for i, n in enumerate(LENS):
        ids = rng.integers(3, 100, n).astype(np.int32)
        chosen = [[rng.permutation(16)[:4] for _ in layers] for _ in range(n - 1)]
        held = np.array(chosen, np.uint8).reshape(n - 1, len(layers), 4)
        samples.append(
            Sample(
                Routes(held, layers, 16),
                sample_id=f"s{i}",
                prompt_ids=ids[: n // 2],
                response_ids=ids[n // 2 :],
                prompt_length=n // 2,
                response_length=n - n // 2,
            )
        )
    meta = DumpMeta("-", "native", layers, 16, 4, engine="vllm")
    write_native(samples, meta, place / "dump.parquet", force=False)
    return place


def words(folder, output, *more):
    """The words of a command line on the tiny checkpoint."""
    return ("recompute", folder / "checkpoint", folder / "dump.parquet", "--save", output, *more)


def recompute(capsys, folder, output, *more):
    """The command on the tiny checkpoint; it must succeed."""
    done = run(capsys, *words(folder, output, "--threads", "1", *more))
    assert done.code == 0, done.err
    return done


def by_hooks(folder, sample):
    """Ids [T, L, K] of a sample from hooks on a model that transformers loaded."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder / "checkpoint").eval()
    seen = {}
    for layer, router in families.routers(model).items():
        router.register_forward_hook(lambda m, a, out, layer=layer: seen.update({layer: out[2]}))
    with torch.no_grad():
        model(input_ids=torch.from_numpy(sample.token_ids.astype(np.int64))[None], use_cache=False)
    return np.stack([np.sort(seen[layer].numpy(), -1) for layer in sorted(seen)], 1)


@pytest.mark.parametrize("how", [(), ("--streaming", "stream", "--max-tokens-per-pass", "10")])
def test_routes_are_the_models(capsys, tmp_path, folder, how):
    """A row for each token, equal as sets to hooks; margins, order and provenance are said."""
    done = recompute(capsys, folder, tmp_path / "r.parquet", *how)
    assert done.out.startswith("MEASURED  the dump differs in ")
    assert done.err.endswith(f"routectl: wrote {tmp_path / 'r.parquet'}: 5 samples\n")
    assert written(tmp_path) == ["r.parquet"]
    found = open_dump(tmp_path / "r.parquet")
    assert (found.meta.order, found.meta.margins) == ("score", True)
    assert found.meta.provenance["mode"] == "free"
    for sample, n in zip(found, LENS, strict=True):
        assert (sample.routes.num_tokens, sample.num_tokens) == (n, n)
        assert np.array_equal(np.sort(sample.routes.ids_TLK, -1), by_hooks(folder, sample))
        assert (sample.routes.margin_TL > 0).any()
    assert [s.sample_id for s in found] == [s.sample_id for s in open_dump(folder / "dump.parquet")]


def test_how_weights_were_read_leaves_no_trace(capsys, tmp_path, folder):
    """A streamed run, in passes, and one with all weights in memory write the same bytes."""
    recompute(capsys, folder, tmp_path / "p.parquet", "--streaming", "plain")
    recompute(
        capsys, folder, tmp_path / "s.parquet", "--streaming", "stream", "--max-tokens-per-pass", 10
    )
    assert (tmp_path / "p.parquet").read_bytes() == (tmp_path / "s.parquet").read_bytes()


def test_the_dump_is_held_against_what_was_written(capsys, tmp_path, folder):
    """The report ends with the mismatch of each mode as diff has it, in --json, -o and --html."""
    output, page = tmp_path / "routes.parquet", tmp_path / "page.html"
    more = ("--mode", "both", "--threads", "1", "--dtype", "fp32", "--html", page)
    found = document(capsys, *words(folder, output, *more))
    assert found["schema"] == "routectl.recompute/1"
    assert msgspec.convert(found, TYPES["recompute"], strict=True) == found
    assert [(f["mode"], f["samples"], f["tokens"]) for f in found["files"]] == [
        (mode, len(LENS), sum(LENS)) for mode in ("free", "forced")
    ]
    for file, one in zip(found["files"], found["comparisons"], strict=True):
        own = document(capsys, "diff", folder / "dump.parquet", file["path"], code=1)
        assert own.pop("asked")["inputs"] == [str(folder / "dump.parquet"), file["path"]]
        assert one == {"mode": file["mode"], "diff": own}
    assert (found["verdict"], found["not_compared"]) == (
        {"thresholds": [], "failed": [], "exit_code": 0},
        None,
    )
    assert found["provenance"]["dtype"] == "float32"
    shown = Parsed(page.read_text("utf-8")).data
    assert shown.pop("detail")["schema"] == "routectl.detail/1"
    assert shown == found
    done = run(capsys, *words(folder, tmp_path / "other.parquet", "--html", page))
    assert (done.code, (tmp_path / "other.parquet").exists()) == (2, False)
    report = tmp_path / "report.json"
    recompute(capsys, folder, output, "--force", "-o", report)
    assert json.loads(report.read_text("utf-8"))["files"][0]["path"] == str(output)
    shown = run(capsys, "report", report)
    assert (shown.code, shown.out[:9]) == (0, "MEASURED ")


def test_thresholds_of_a_recompute(capsys, tmp_path, folder):
    """One that is crossed is exit 1, in which mode it was is told; --exit-zero reports alone."""
    line = words(folder, tmp_path / "r.parquet", "--force", "--fail-over", "mismatch:1%")
    found = document(capsys, *line, code=1)
    (crossed,) = found["verdict"]["failed"]
    assert (crossed["mode"], crossed["metric"]) == ("free", "mismatch")
    done = run(capsys, *line, "--exit-zero")
    assert (done.code, done.out[:36]) == (0, "OVER  1 of 1 threshold crossed; the ")
    assert document(capsys, *line[:-1], "mismatch:100%")["verdict"]["exit_code"] == 0


def test_tokens_without_routes(capsys, tmp_path, folder):
    """A dump of prompts and responses alone is run; there is nothing to compare, and that is said;
    with thresholds that is trouble.
    """
    dump = open_dump(folder / "dump.parquet")
    bare = [replace(sample, routes=None) for sample in dump]
    write_native(bare, dump.meta, tmp_path / "bare.parquet", force=False)
    lines = [
        {"prompt_token_ids": s.prompt_ids.tolist(), "token_ids": s.response_ids.tolist()}
        for s in dump
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "bare.jsonl").write_text(text, "utf-8")
    recompute(capsys, folder, tmp_path / "whole.parquet")
    whole = open_dump(tmp_path / "whole.parquet")
    for name in ("bare.parquet", "bare.jsonl"):
        output = tmp_path / f"of.{name}.parquet"
        line = ("recompute", folder / "checkpoint", tmp_path / name, "--save", output)
        done = run(capsys, *line, "--threads", "1")
        assert done.code == 0, done.err
        told = f"WRITTEN  nothing was compared: {tmp_path / name} has no routes\n"
        assert done.out.startswith(told)
        for one, other in zip(open_dump(output), whole, strict=True):
            assert np.array_equal(one.routes.ids_TLK, other.routes.ids_TLK)
        again = run(capsys, *line, "--force", "--fail-over", "mismatch:1%")
        assert again.code == 2


def test_both_modes(capsys, tmp_path, folder):
    """both writes the model's own routes, and its choices along the dump's path."""
    recompute(capsys, folder, tmp_path / "r.parquet", "--mode", "both", "--logprobs")
    assert written(tmp_path) == ["r.forced.parquet", "r.parquet"]
    free, forced = open_dump(tmp_path / "r.parquet"), open_dump(tmp_path / "r.forced.parquet")
    first = free.meta.layers_L[0]
    result = diff(free, forced)
    assert result.rows_mismatched > 0
    assert diff(free, forced, layers=[first]).rows_mismatched == 0  # nothing is forced before it
    recompute(capsys, folder, tmp_path / "f.parquet", "--mode", "forced")
    assert diff(forced, open_dump(tmp_path / "f.parquet")).rows_mismatched == 0
    for one, two in zip(free, forced, strict=True):
        assert len(one.logprobs) == one.response_length
        if one.prompt_length:
            assert (one.logprobs <= 0).all()
        else:
            assert np.isnan(one.logprobs[0])  # nothing foretells the first token
        assert len(two.logprobs) == two.response_length


def test_gate_logprobs(capsys, tmp_path, folder):
    """What routers think of the dump's experts is written in every mode, and kept by convert."""
    modes = ("--mode", "both", "--gate-logprobs")
    recompute(capsys, folder, tmp_path / "r.parquet", *modes)
    source = open_dump(folder / "dump.parquet")
    for name in ("r.parquet", "r.forced.parquet"):
        found = open_dump(tmp_path / name)
        assert found.meta.gates
        assert not open_dump(folder / "dump.parquet").meta.gates
        for sample, asked in zip(found, source, strict=True):
            values_TLK = sample.gates.logprobs_TLK
            assert sample.gates.of == digest_routes(asked.routes)
            assert values_TLK.shape == sample.routes.ids_TLK.shape
            assert np.isnan(values_TLK[-1]).all()  # the last token has no row in the dump
            assert (np.exp(values_TLK[:-1].astype(np.float64)).sum(axis=2) < 1).all()
    free, forced = (open_dump(tmp_path / name) for name in ("r.parquet", "r.forced.parquet"))
    shift = router_shift(free, forced)
    assert shift.mean_shift_L[0] == 0  # nothing is forced before the first MoE layer
    assert shift.mean_gamma < 1
    assert shift.tokens == sum(LENS) - len(LENS)
    done = run(capsys, "convert", tmp_path / "r.parquet", "--save", tmp_path / "c.parquet")
    assert done.code == 0, done.err
    assert router_shift(open_dump(tmp_path / "c.parquet"), free).mean_gamma == 1
    recompute(capsys, folder, tmp_path / "plain.parquet")
    assert diff(open_dump(tmp_path / "plain.parquet"), free).rows_mismatched == 0


def test_gate_logprobs_need_a_dump(capsys, tmp_path, folder):
    """Router inputs have no routes to ask about; a part without them is no part of a run with."""
    inputs = tmp_path / "inputs.safetensors"
    recompute(capsys, folder, tmp_path / "r.parquet", "--router-inputs", inputs)
    line = ("recompute", folder / "checkpoint", inputs, "--save", tmp_path / "i.parquet")
    assert "needs the routes of a dump" in complaint(capsys, *line, "--gate-logprobs")
    partial = tmp_path / "p.parquet.partial"
    partial.mkdir()
    (partial / "00000000-00000004.free.parquet").write_bytes(b"")
    job = {"gate_logprobs": False}
    more = ("--threads", "1", "--gate-logprobs", "--resume")
    line = words(folder, tmp_path / "p.parquet", *more)
    (partial / "job.json").write_text(json.dumps(job), "utf-8")
    assert "job of an earlier run" in complaint(capsys, *line)


def test_without_tokens_routes_are_the_same(capsys, tmp_path, folder, monkeypatch):
    """--no-tokens leaves ids out of the file, its page, and the parts of a run that was killed."""
    from routectl.jobs.recompute import share
    from routectl.jobs.recompute.parts import Parts

    def killed(*_, **__):
        raise KeyboardInterrupt

    recompute(capsys, folder, tmp_path / "whole.parquet")
    target, parts = tmp_path / "r.parquet", tmp_path / "r.parquet.partial"
    bare = ("--threads", "1", "--no-tokens", "--html", tmp_path / "r.html")
    with monkeypatch.context() as patch:
        patch.setattr(share, "_PART_TOKENS", 8)
        patch.setattr(Parts, "join", killed)
        assert run(capsys, *words(folder, target, *bare)).code == 130
    held = [sample for path in sorted(parts.glob("*.parquet")) for sample in open_dump(path)]
    assert [sample.num_tokens for sample in held] == list(LENS)
    assert all(sample.prompt_ids is None and sample.response_ids is None for sample in held)
    said = complaint(capsys, *words(folder, target, "--threads", "1", "--resume"))
    assert "parts of another run: tokens was False, is True" in said
    done = run(capsys, *words(folder, target, *bare, "--resume"))
    assert done.code == 0, done.err
    assert "without token ids: " in done.err
    made = open_dump(target)
    assert all(sample.token_ids is None for sample in made)
    assert diff(open_dump(tmp_path / "whole.parquet"), made).rows_mismatched == 0
    line = words(folder, tmp_path / "x.parquet", "--router-inputs", tmp_path / "i", "--no-tokens")
    assert "a file of --router-inputs has token ids" in complaint(capsys, *line)


def test_router_inputs_alone_give_the_same(capsys, tmp_path, folder):
    """Dumped router inputs and the routers alone give the same ids and margins to float16."""
    inputs = tmp_path / "inputs.safetensors"
    recompute(capsys, folder, tmp_path / "r.parquet", "--router-inputs", inputs)
    done = run(capsys, "recompute", folder / "checkpoint", inputs, "--save", tmp_path / "i.parquet")
    assert done.code == 0, done.err
    whole, alone = open_dump(tmp_path / "r.parquet"), open_dump(tmp_path / "i.parquet")
    assert alone.meta.provenance["recipe"].startswith("sigmoid + bias")
    line = ("recompute", folder / "checkpoint", inputs, "--save", tmp_path / "n.parquet")
    assert run(capsys, *line, "--no-tokens").code == 0
    assert all(sample.token_ids is None for sample in open_dump(tmp_path / "n.parquet"))
    for one, two in zip(whole, alone, strict=True):
        assert np.array_equal(one.token_ids, two.token_ids)
        assert np.array_equal(np.sort(one.routes.ids_TLK, -1), np.sort(two.routes.ids_TLK, -1))
        assert np.allclose(one.routes.margin_TL, two.routes.margin_TL, atol=1e-3)
        assert np.allclose(one.routes.group_margin_TL, two.routes.group_margin_TL, atol=2e-3)
    assert whole.meta.group_margins
    assert alone.meta.group_margins


def group_flip(folder, place):
    """For row after row, two checkpoints whose first routers' expert biases are 4e-6 apart, on both
    sides of a tie of two groups; the row's sample and token.
    """
    import torch

    model, dump = families.tiny(MODEL), open_dump(folder / "dump.parquet")
    layer, router = next(iter(families.routers(model).items()))
    bias_E = families.expert_bias(model, layer)
    start_E, seen = bias_E.clone(), []
    router.register_forward_hook(lambda m, a, out: seen.append(out[0].sigmoid().detach()))
    for number, sample in enumerate(dump):
        seen.clear()
        with torch.no_grad():
            model(input_ids=torch.from_numpy(sample.token_ids.astype(np.int64))[None])
        for token, scores_E in enumerate(seen[0] + start_E):
            best_GS = scores_E.view(4, -1).topk(2).values
            order_G = best_GS.sum(-1).argsort(descending=True)
            last, first = (int(g) for g in order_G[1:3])  # the groups at the boundary
            gap = float(best_GS[last].sum() - best_GS[first].sum())
            with torch.no_grad():
                for side, offset in (("kept", -2e-6), ("dropped", 2e-6)):
                    shift_E = torch.zeros(4, 4).index_fill(0, torch.tensor(first), gap / 2 + offset)
                    bias_E.copy_(start_E + shift_E.flatten())
                    model.save_pretrained(place / side)
            yield number, token


def test_a_flip_of_groups_is_a_near_tie(capsys, tmp_path, folder):
    """Two recomputes between which a near-tie flips a group: the flip is a near-tie, although by
    its boundary margin alone it would be a clear flip. Nor does the router check count it.
    """
    from routectl.forward import RunOptions, prepare, run_forward
    from routectl.jobs.recompute.router_check import check_routers
    from routectl.ops.diff.flips import flips_of

    for number, token in group_flip(folder, tmp_path):
        sides = []
        for side in ("kept", "dropped"):
            path = tmp_path / f"{side}.parquet"
            line = ("recompute", tmp_path / side, folder / "dump.parquet", "--save", path)
            assert run(capsys, *line, "--force", "--threads", "1").code == 0
            sides.append(open_dump(path))
        rows = [side[number].routes for side in sides]
        margins = [float(r.margin_TL[token, 0]) for r in rows]
        changed = len(set(rows[0].ids_TLK[token, 0]) ^ set(rows[1].ids_TLK[token, 0]))
        if changed and min(margins) > 0.01:
            break
    groups = [float(r.group_margin_TL[token, 0]) for r in rows]
    assert 0 < max(groups) < 1e-5
    result = document(
        capsys,
        "diff",
        tmp_path / "kept.parquet",
        tmp_path / "dropped.parquet",
        "--layers",
        "1",
        code=1,
    )
    assert result["old"]["group_margins"]
    counts = [result["margins"][name] for name in ("ties", "near_ties", "clear_flips")]
    assert (result["rows_mismatched"], counts) == (1, [0, 1, 0])
    assert result["examples"][0]["margin_old"] == pytest.approx(groups[0], abs=1e-8)
    bare = [
        Dump(
            side.meta,
            side.keys,
            lambda i, side=side: replace(
                side[i], routes=replace(side[i].routes, group_margin_TL=None)
            ),
        )
        for side in sides
    ]
    flips = flips_of(diff(*bare, layers=[1]).margins, 1e-3)
    assert (flips.ties, flips.near, flips.clear) == (0, 0, 1)
    kept, dropped = (
        prepare(RunOptions(checkpoint=tmp_path / side, check_tokens=64))
        for side in ("kept", "dropped")
    )
    assert check_routers(kept, *run_forward(dropped, [sides[1][number]])) == {}


def test_router_inputs_are_plain_safetensors(capsys, tmp_path, folder):
    """The file reads with the safetensors library, and holds what each router was given."""
    from safetensors.torch import load_file

    recompute(capsys, folder, tmp_path / "r.parquet", "--router-inputs", tmp_path / "i.safetensors")
    held = load_file(tmp_path / "i.safetensors")
    assert held["cu_seqlens"].tolist() == [0, *np.cumsum(LENS).tolist()]
    dump = open_dump(folder / "dump.parquet")
    assert held["token_ids"].tolist() == [t for s in dump for t in s.token_ids.tolist()]
    layers = [f"layer.{n}" for n in dump.meta.layers_L]
    assert set(held) == {*layers, "cu_seqlens", "token_ids"}
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder / "checkpoint").eval()
    seen = {}
    for layer, router in families.routers(model).items():
        router.register_forward_pre_hook(lambda m, a, layer=layer: seen.update({layer: a[0]}))
    with torch.no_grad():
        model(input_ids=torch.from_numpy(dump[1].token_ids.astype(np.int64))[None], use_cache=False)
    for layer, states in seen.items():
        rows = slice(LENS[0], LENS[0] + LENS[1])
        assert torch.equal(held[f"layer.{layer}"][rows], states.flatten(0, -2))


def test_a_killed_run_goes_on(capsys, tmp_path, monkeypatch, folder):
    """Finished parts are kept, --resume runs only the rest, and the result is the same file."""
    from routectl.jobs.recompute import share as command

    recompute(capsys, folder, tmp_path / "whole.parquet")
    monkeypatch.setattr(command, "_PART_TOKENS", 8)
    made = command.recomputed_sample
    seen = []

    def dies(sample, result, meta):
        seen.append(result.index)
        if len(seen) == 4:
            raise KeyboardInterrupt
        return made(sample, result, meta)

    target = tmp_path / "r.parquet"
    line = words(folder, target, "--threads", "1")
    monkeypatch.setattr(command, "recomputed_sample", dies)
    with umask(0):
        assert run(capsys, *line).code == 130
    assert modes_in(tmp_path / "r.parquet.partial") == ("700", {"600"})
    assert not target.exists()
    assert "00000000-00000001.free.parquet" in {
        p.name for p in (tmp_path / "r.parquet.partial").iterdir()
    }
    seen.clear()
    for path in (tmp_path / "r.parquet.partial", *(tmp_path / "r.parquet.partial").iterdir()):
        path.chmod(0o777)
    assert "--resume to go on" in complaint(capsys, *line)
    assert modes_in(tmp_path / "r.parquet.partial") == ("700", {"600"})
    other = complaint(capsys, *line, "--resume", "--dtype", "bfloat16")
    assert "parts of another run: dtype was float32, is bfloat16" in other
    done = run(capsys, *line, "--resume")
    assert done.code == 0, done.err
    assert "3 samples done before; going on" in done.err
    assert len(seen) == 2
    assert written(tmp_path) == ["r.parquet", "whole.parquet"]
    same = diff(open_dump(tmp_path / "whole.parquet"), open_dump(target))
    assert (same.rows, same.rows_mismatched) == (sum(LENS) * 2, 0)


def test_the_noise_floor(capsys, tmp_path, folder):
    """The same run again changes nothing; other implementations are named with their rows."""
    more = ("--noise-floor", "--dtype", "bfloat16")
    done = run(capsys, *words(folder, tmp_path / "r.parquet", *more))
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    first = next(n for n, line in enumerate(lines) if line.startswith("noise floor"))
    rows = 2 * sum(LENS)
    table = [line.split("  ")[0] for line in lines[first + 1 : first + 5]]
    assert table == ["the same again", "padded batches", "experts eager", "attention eager"]
    assert lines[first + 1].split()[3:] == [str(rows), "0", "0.00", "%"]
    assert f"noise floor, the same again: 0.00 % of {rows} rows change" in done.err


@pytest.mark.parametrize(("mode", "streaming"), [("free", "stream"), ("forced", "plain")])
def test_the_noise_floor_is_counts(capsys, tmp_path, folder, mode, streaming):
    """In Python the noise floor is plain counts, those of a diff with the same run made by hand."""
    import torch

    from routectl.forward import RunOptions, prepare
    from routectl.jobs.recompute.noise import NoiseRun, noise_floor

    torch.set_num_threads(1)
    how = ("--mode", mode, "--streaming", streaming, "--dtype", "bfloat16")
    recompute(capsys, folder, tmp_path / "r.parquet", *how)
    recompute(capsys, folder, tmp_path / "e.parquet", *how, "--attention", "eager")
    source, base = open_dump(folder / "dump.parquet"), open_dump(tmp_path / "r.parquet")
    options = RunOptions(
        checkpoint=folder / "checkpoint", mode=mode, streaming=streaming, dtype="bfloat16"
    )
    found = noise_floor(prepare(options), source, base)
    names = ["the same again", "padded batches", "experts eager", "attention eager"]
    assert [run.name for run in found] == names
    assert {run.rows for run in found} == {2 * sum(LENS)}
    assert found[0].rows_mismatched == 0
    by_hand = diff(base, open_dump(tmp_path / "e.parquet"))
    assert found[3].rows_mismatched == by_hand.rows_mismatched > 0
    assert found[3].mismatch_rate == by_hand.rows_mismatched / by_hand.rows
    assert NoiseRun(**json.loads(json.dumps(asdict(found[3])))) == found[3]


def test_a_noise_run_that_cannot_be_made_says_why(folder, tmp_path, capsys):
    """One sequence has no batch; another base and mode both are a programmer's error."""
    from routectl.forward import RunOptions, prepare
    from routectl.jobs.recompute.noise import noise_floor

    recompute(capsys, folder, tmp_path / "r.parquet")
    source, base = open_dump(folder / "dump.parquet"), open_dump(tmp_path / "r.parquet")
    prepared = prepare(RunOptions(checkpoint=folder / "checkpoint"))
    found = noise_floor(prepared, source.select(samples=[1]), base.select(samples=[1]))
    assert found[1].refused == "one sequence has none to run with"
    assert (found[1].rows, found[1].mismatch_rate) == (0, None)
    assert found[0].rows == 2 * LENS[1]
    with pytest.raises(ValueError, match="sample 0: the base is of another run"):
        noise_floor(prepared, source, source)
    both = prepare(RunOptions(checkpoint=folder / "checkpoint", mode="both"))
    with pytest.raises(ValueError, match="of one mode"):
        noise_floor(both, source, base)


def test_routers_are_checked_against_the_recipe(capsys, tmp_path, monkeypatch, folder):
    """A recipe that is not what the model does is reported by layer; the model's ids stay."""
    from routectl.checkpoints import routers as recipes

    plain = recompute(capsys, folder, tmp_path / "plain.parquet")
    assert "disagree" not in plain.err
    read = recipes.recipe_from_config
    monkeypatch.setattr(
        recipes,
        "recipe_from_config",
        lambda *of, **more: replace(read(*of, **more), n_group=1, topk_group=1),
    )
    told = recompute(capsys, folder, tmp_path / "told.parquet")
    assert "layer 1: the model's router and the recipe disagree in " in told.err
    assert " of 3 rows; the model's word is used" in told.err
    same = diff(open_dump(tmp_path / "plain.parquet"), open_dump(tmp_path / "told.parquet"))
    assert same.rows_mismatched == 0
    import transformers

    monkeypatch.setattr(transformers, "__version__", "5.99.0")
    done = run(capsys, *words(folder, tmp_path / "newer.parquet"))
    assert (done.code, done.out) == (2, "")
    assert "routectl: transformers 5.99.0 is newer than " in done.err
    assert ": layer 1: the model's router and the recipe disagree in " in done.err
    assert not {"newer.parquet", "newer.parquet.partial"} & {*written(tmp_path)}


def test_a_newer_transformers_runs_where_its_routers_are_the_recipes(
    capsys, tmp_path, monkeypatch, folder
):
    """It says so in one line, and gives the same routes; a family without a recipe is refused."""
    import transformers

    from routectl.routers import from_config

    recompute(capsys, folder, tmp_path / "known.parquet")
    monkeypatch.setattr(transformers, "__version__", "5.99.0")
    told = recompute(capsys, folder, tmp_path / "newer.parquet")
    newest = from_config.NEWEST
    assert (
        f"transformers 5.99.0 is newer than {newest}, the newest that is verified: on the first 3 "
        "tokens its routers equal their recipes"
    ) in told.err
    both = (open_dump(tmp_path / name) for name in ("known.parquet", "newer.parquet"))
    assert diff(*both).rows_mismatched == 0
    monkeypatch.setattr(from_config, "FAMILIES", {})
    done = run(capsys, *words(folder, tmp_path / "none.parquet"))
    assert (done.code, done.out) == (2, "")
    assert "routectl: transformers 5.99.0 is newer than " in done.err
    assert ": routers not checked: " in done.err
    assert "none.parquet" not in written(tmp_path)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--mode", "both", "--noise-floor"), "--noise-floor is of one mode"),
        (("--mode", "loose"), "--mode 'loose' is not known: free, forced, both"),
        (("--streaming", "sometimes"), "--streaming 'sometimes' is not known: auto, plain, stream"),
        (("--dtype", "int8"), "--dtype 'int8' is not known: auto, fp32, bf16, fp16"),
        (("--device", "cuda:7"), "device cuda:7"),
        (("--device", "abacus"), "device abacus"),
        (("--attention", "telepathy"), "telepathy"),
        (("--mode", "both", "--router-inputs", "x.safetensors"), "cannot be written with"),
        (("--save", "r.json"), "expected NAME.parquet"),
    ],
)
def test_refusals(capsys, tmp_path, monkeypatch, folder, more, said):
    """What cannot be run is one line, exit 2, and leaves nothing behind."""
    monkeypatch.chdir(tmp_path)
    output = () if "--save" in more else ("--save", "r.parquet")
    line = ("recompute", folder / "checkpoint", folder / "dump.parquet", *output, *more)
    assert said in complaint(capsys, *line)
    assert written(tmp_path) == []


def test_not_a_checkpoint(capsys, tmp_path, folder):
    """A folder that is not there, or has no config.json, is refused; nothing is fetched."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "bare").mkdir()
    weights = (folder / "checkpoint" / "model.safetensors").read_bytes()
    (tmp_path / "bare" / "model.safetensors").write_bytes(weights)
    for name, said in (
        ("absent", "no such folder"),
        ("org/model", "no such folder"),
        ("empty", "no checkpoint in it"),
        ("bare", "expected a Hugging Face folder"),
    ):
        line = (
            "recompute",
            tmp_path / name,
            folder / "dump.parquet",
            "--save",
            tmp_path / "r.parquet",
        )
        assert said in complaint(capsys, *line)
    assert written(tmp_path) == ["bare", "bare/model.safetensors", "empty"]


def test_a_failure_leaves_nothing_behind(capsys, tmp_path, folder):
    """A run that fails before a part is finished leaves no folder that a second run trips over."""
    bare = Sample(None, sample_id="bare", prompt_length=1, response_length=1)
    meta = open_dump(folder / "dump.parquet").meta
    write_native([bare], meta, tmp_path / "bare.parquet", force=False)
    line = (
        "recompute",
        folder / "checkpoint",
        tmp_path / "bare.parquet",
        "--save",
        tmp_path / "r.parquet",
    )
    for _ in range(2):
        done = run(capsys, *line)
        assert (done.code, "no token ids" in done.err) == (2, True), done.err
    assert written(tmp_path) == ["bare.parquet"]


def test_damaged_router_inputs(capsys, tmp_path, folder):
    """Router inputs whose lengths or sizes do not fit are refused with both numbers."""
    import torch
    from safetensors.torch import save_file

    layers = open_dump(folder / "dump.parquet").meta.layers_L
    good = {f"layer.{n}": torch.zeros(6, 32) for n in layers}
    cases = {
        "cu_seqlens do not cut 6 tokens": {**good, "cu_seqlens": torch.tensor([0, 2, 5])},
        "got [6, 16], expected [T, 32]": {f"layer.{n}": torch.zeros(6, 16) for n in layers},
        "token_ids: got [5], expected [6]": {**good, "token_ids": torch.zeros(5)},
        "no router of layer 9": {**good, "layer.9": torch.zeros(6, 32)},
        "not finite": {n: t.index_fill(0, torch.tensor(2), torch.nan) for n, t in good.items()},
    }
    for said, arrays in cases.items():
        save_file(arrays, tmp_path / "bad.safetensors")
        line = ("recompute", folder / "checkpoint", tmp_path / "bad.safetensors")
        assert said in complaint(capsys, *line, "--save", tmp_path / "r.parquet")
    assert written(tmp_path) == ["bad.safetensors"]


def test_show_says_what_was_run(capsys, tmp_path, folder):
    """show prints the provenance of a recomputed dump, and the recipe of the checkpoint."""
    recompute(capsys, folder, tmp_path / "r.parquet")
    about = document(capsys, "show", tmp_path / "r.parquet")
    assert "float32" in json.dumps(about)
    shown = document(capsys, "show", folder / "checkpoint")
    assert shown["recipe"].startswith("sigmoid + bias, top-2-sum of 4 groups keep 2")


def test_zero_experts_count_in_e(capsys, tmp_path):
    """Routes that LongCat's own modules took, zero experts among them, open with the model's
    config, and are those that its checkpoint gives."""
    import torch

    torch.manual_seed(0)
    model = families.tiny("longcat_flash").eval()
    model.save_pretrained(tmp_path / "checkpoint")
    taken = {}
    for layer, router in families.routers(model).items():
        router.register_forward_hook(
            lambda module, given, out, n=layer: taken.update(
                {n: next(o for o in out if o.dtype in (torch.int32, torch.int64))}
            )
        )
    rng, arrays = np.random.default_rng(4), {}
    for name, size in (("a", 40), ("b", 25)):
        tokens = rng.integers(3, 100, size).astype(np.int32)
        with torch.no_grad():
            model(torch.tensor(tokens[None].astype(np.int64)))
        ids = np.stack([taken[n].reshape(size, -1).numpy() for n in sorted(taken)], axis=1)
        arrays |= {f"{name}.routed_experts": ids, f"{name}.prompt_token_ids": tokens[:8]}
        arrays[f"{name}.token_ids"] = tokens[8:]
    path = tmp_path / "checkpoint" / "own.npz"
    np.savez(path, **arrays)
    routed = json.loads((tmp_path / "checkpoint" / "config.json").read_text())["n_routed_experts"]
    own = open_dump(path)
    assert own.meta.num_experts == routed + 4
    assert max(int(sample.routes.ids_TLK.max()) for sample in own) >= routed
    words = ("recompute", tmp_path / "checkpoint", path, "--save", tmp_path / "again.parquet")
    assert run(capsys, *words, "--dtype", "float32", "--threads", "1").code == 0
    compared = run(capsys, "diff", path, tmp_path / "again.parquet")
    assert compared.code == 0
    assert f"SAME  0 of {65 * len(taken)} rows differ" in compared.out
    assert run(capsys, "check", path).code == 0
