"""Router traces of Megatron-Core 0.19 as dumps: rows, layers, tokens, margins, what is refused."""

import json

import numpy as np
import pytest
import torch

from routectl.checkpoints.router_trace import read_trace
from routectl.errors import FormatError, MismatchError, UnsupportedError
from routectl.formats import open_dump
from routectl.model import ModelFacts
from support.shell import document, run
from support.traces import TRACES, copied, records, rollout, states, truth

FACTS = ModelFacts(3, (1, 2), 8, 2, None)


def rewritten(name, folder, change):
    """A trace whose records were changed, without what is beside it."""
    path = folder / "router_trace_rank0.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in change(records(name))))
    return path


def bare(found):
    """Records without fields of sidecars, as they are where none was asked for."""
    return [{k: v for k, v in one.items() if k[:3] not in ("hs_", "log")} for one in found]


def sets_of(sample):
    """The sets of each row, by token and layer."""
    return [[set(ids) for ids in row] for row in sample.routes.ids_TLK.tolist()]


@pytest.mark.parametrize("name", ["v0", "v1", "sigmoid"])
def test_rows_are_what_the_routers_returned(name):
    """A sample a micro-batch has, in every row, the set that Megatron's router returned."""
    dump, maps = open_dump(TRACES / name), truth(name)
    assert (dump.meta.layers_L, dump.meta.num_experts, dump.meta.top_k) == ((1, 2), 8, 2)
    assert (dump.meta.format, dump.meta.engine) == ("trace, 1 file", "megatron")
    for m, sample in enumerate(dump):
        for i, layer in enumerate((1, 2)):
            assert [row[i] for row in sets_of(sample)] == maps[m, layer]


def test_ids_name_rank_step_and_micro_batch():
    """Samples without tokens are named by rank, step and micro-batch."""
    assert [s.sample_id for s in open_dump(TRACES / "v0")] == ["rank0/10/0", "rank0/10/1"]


def test_an_engines_layers_count_from_one():
    """What inference hands to the trace has layer_number 2 and 3, which are layers 1 and 2."""
    (first, second), hooked = open_dump(TRACES / "sink", model=FACTS), open_dump(TRACES / "v0")
    assert first.routes.layers_L == (1, 2)
    assert [sets_of(one) for one in (first, second)] == [sets_of(one) for one in hooked]
    assert first.routes.margin_TL is None


def test_tokens_of_a_second_file_cut_micro_batches_into_samples(tmp_path):
    """With tokens each sample has its own N - 1 rows, and they are those of the engine's answer."""
    path = rollout(tmp_path)
    engine = list(open_dump(path, model=FACTS))
    traced = list(open_dump(TRACES / "v0", tokens=path))
    assert [s.sample_id for s in traced] == [s.sample_id for s in engine]
    assert [s.token_ids.tolist() for s in traced] == [s.token_ids.tolist() for s in engine]
    assert [sets_of(s) for s in traced] == [sets_of(s) for s in engine]


def test_margins_are_of_the_scores_that_were_selected_on(tmp_path):
    """A margin is the least selected score less the best other one, of states and weights."""
    for name in ("v0", "sigmoid"):
        state = torch.load(TRACES / name / "router_state_rank0.pt")
        samples, rows = list(open_dump(TRACES / name)), records(name)
        for n, record in enumerate(rows):
            held = state["decoder", None, record["layer"]]
            scores = states(name, record).double() @ held["weight"].double().T
            if held["expert_bias"] is not None:
                scores = scores.sigmoid() + held["expert_bias"]
            got = samples[n // 2].routes.margin_TL[:, n % 2]
            for row, ids, margin in zip(scores.tolist(), record["top_indices"], got, strict=True):
                least = min(row[i] for i in ids)
                best = max(s for i, s in enumerate(row) if i not in ids)
                assert abs(float(margin) - max(least - best, 0)) < 2e-3 * max(1, abs(least))


def test_margins_of_logits_alone(tmp_path):
    """Without hidden states margins are of the traced logits, and are as far as bfloat16 tells."""
    folder = copied("v0", tmp_path)
    (folder / "router_trace_rank0.jsonl").unlink()
    drop = ("hs_offset", "hs_bytes", "hs_shape")
    found = [{k: v for k, v in one.items() if k not in drop} for one in records("v0")]
    rewritten("v0", folder, lambda _: found)
    for coarse, fine in zip(open_dump(folder), open_dump(TRACES / "v0"), strict=True):
        assert np.abs(coarse.routes.margin_TL - fine.routes.margin_TL).max() < 0.05


def test_a_row_that_its_scores_do_not_explain_has_no_margin(tmp_path):
    """Where replay or groups selected other experts than the best, the margin is not known."""
    folder = copied("v0", tmp_path)
    found = records("v0")
    scores = (
        states("v0", found[0]).float()
        @ torch.load(folder / "router_state_rank0.pt")["decoder", None, 1]["weight"].T
    )
    found[0]["top_indices"][3] = sorted(scores[3].argsort()[:2].tolist())
    rewritten("v0", folder, lambda _: found)
    margin_T = open_dump(folder)[0].routes.margin_TL[:, 0]
    assert np.isnan(margin_T).tolist() == [i == 3 for i in range(len(margin_T))]


def test_hidden_states_that_are_not_finite_have_no_margin(tmp_path):
    """Where a hidden state is infinite or no number, the row's margin is not known, in silence."""
    folder = copied("v0", tmp_path)
    side = folder / "hidden_states_rank0.bin"
    data = bytearray(side.read_bytes())
    data[0:4] = b"\x80\x7f\xc0\x7f"  # inf and NaN in row 0, bfloat16
    data[32:34] = data[64:66] = b"\x7f\x7f"  # the greatest number in rows 1 and 2
    side.write_bytes(data)
    margin_T = open_dump(folder)[0].routes.margin_TL[:, 0]
    assert np.isnan(margin_T[0])
    assert np.isfinite(margin_T[3:]).all()


def test_recomputed_forwards_are_left_out(tmp_path):
    """A forward that has the ids of an earlier one of its step is a recomputation, and is named."""
    path = rewritten("v0", tmp_path, lambda found: bare(found[:2] + found[2:] + found[1::-1]))
    trace = read_trace(path)
    assert len(trace.batches) == 2
    assert trace.skipped == (f"{path}: step 10: forward 2 is 0 again (recomputed)",)


def test_records_of_mtp_are_left_out(tmp_path):
    """MTP's records are counted and left out, and do not collide with the decoder's layers."""
    mtp = {"block": "mtp", "mtp_idx": 0}
    path = rewritten("v0", tmp_path, lambda found: bare([*found, *({**r, **mtp} for r in found)]))
    trace = read_trace(path)
    assert trace.layers == (1, 2)
    assert trace.skipped == (f"{path}: 4 records of MTP",)


def test_a_pipeline_stage_is_refused(tmp_path):
    """A hook's layers that are not all of the model's may be a stage's own numbers: refused."""
    model = ModelFacts(6, (1, 2, 3, 4), 8, 2, None)
    with pytest.raises(UnsupportedError, match="a pipeline stage numbers its own from 0"):
        open_dump(TRACES / "v0" / "router_trace_rank0.jsonl", model=model)
    assert open_dump(TRACES / "sink", model=model)[0].routes.layers_L == (1, 2)


def test_one_id_a_row_needs_the_model(tmp_path):
    """With K = 1 and no sidecars the model tells whether layers count from 0, or it is refused."""

    def one(found):
        first = [[row[:1] for row in r["top_indices"]] for r in found]
        return [
            {**r, "topk": 1, "top_indices": rows}
            for r, rows in zip(bare(found), first, strict=True)
        ]

    path = rewritten("v0", tmp_path, one)
    with pytest.raises(UnsupportedError, match="top_k is 1"):
        read_trace(path)
    assert read_trace(path, (1, 2, 5)).layers == (1, 2)
    assert read_trace(path, (0, 1)).layers == (0, 1)


DAMAGE = {
    "rows": (lambda r: r[0].update(num_tokens=18), "not 18 rows of 2 ids"),
    "cut": (lambda r: r.pop(), "expected one number: cut short?"),
    "ranks": (lambda r: r.append({**bare(r[:1])[0], "rank": 1}), "expected one of each"),
    "past": (lambda r: r[3].update(hs_offset=2000), "a sidecar ends at byte 2432"),
    "shape": (lambda r: r[0].update(hs_shape=[19, 15]), "a sidecar's shape"),
    "block": (lambda r: r[0].update(block="encoder"), "block 'encoder'"),
    "layer": (lambda r: r[0].update(layer=-1), "layer -1"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_refused(name, tmp_path):
    """A record that does not hold what it says is refused in one line."""
    folder, (change, message) = copied("v0", tmp_path), DAMAGE[name]
    found = records("v0")
    change(found)
    rewritten("v0", folder, lambda _: found)
    with pytest.raises(FormatError, match=message):
        open_dump(folder)


def test_a_router_state_that_would_run_code_is_refused(tmp_path):
    """A pickle in place of the router state is looked at, and never run."""
    folder = copied("v0", tmp_path)
    state = folder / "router_state_rank0.pt"
    torch.save({("decoder", None, 1): print}, state)
    with pytest.raises(FormatError, match=r"router_state_rank0\.pt"):
        open_dump(folder)
    torch.save([1], state)
    with pytest.raises(FormatError, match="got list, expected routers"):
        open_dump(folder)


def test_a_sidecar_that_was_cut_is_refused(tmp_path):
    """A sidecar that is shorter than its records say is refused before a row is read."""
    folder = copied("v0", tmp_path)
    side = folder / "hidden_states_rank0.bin"
    side.write_bytes(side.read_bytes()[:-1])
    with pytest.raises(FormatError, match="a sidecar ends at byte 2431, expected 2432"):
        open_dump(folder)


def test_tokens_have_to_fit(tmp_path):
    """Tokens of other samples are refused with how many rows are left."""
    path = rollout(tmp_path)
    path.write_text("".join(path.read_text().splitlines(True)[:-1]))
    with pytest.raises(MismatchError, match="micro-batch 1: 6 rows are left, but no more samples"):
        open_dump(TRACES / "v0", tokens=path)


def test_another_model_is_refused():
    """A trace of 8 experts is none of a model with 16."""
    with pytest.raises(MismatchError, match="top-2 of 8 experts, the model"):
        open_dump(TRACES / "v0", model=ModelFacts(3, (1, 2), 16, 2, None))


def test_experts_have_to_be_known(capsys):
    """A trace without logits and state does not say E, and the message names --model."""
    asked = run(capsys, "show", TRACES / "sink")
    assert (asked.code, asked.out) == (2, "")
    assert "does not say E" in asked.err
    assert "--model" in asked.err


def test_diff_tells_near_ties_from_clear_flips(capsys):
    """diff of two versions' traces says how near each flipped row was to another selection."""
    pair = (TRACES / "v0", TRACES / "v1", "--match", "order")
    changed = sum(
        one != other
        for key, rows in truth("v0").items()
        for one, other in zip(rows, truth("v1")[key], strict=True)
    )
    for eps, near in (("0.001", 0), ("10", changed)):
        asked = document(capsys, "diff", *pair, "--eps", eps, code=1)
        assert asked["rows_mismatched"] == changed > 0
        assert asked["margins"]["near_ties"] == near
        assert asked["margins"]["clear_flips"] == changed - near
