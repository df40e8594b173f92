"""check on engines that compute something else: models run wrongly, all rows in their place."""

import json

import numpy as np
import pytest
import torch

from routectl import open_dump
from routectl.cli.main import main
from routectl.formats.native.container import write_native
from routectl.ops.check.check import CheckOptions, check
from support.building import as_npy
from support.forwards import quiet, real_checkpoint
from support.recordings import DEEPSEEK

pytestmark = pytest.mark.models

NAME = "deepseek_v3"
SAMPLES = 16


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """The checkpoint that the recording was made with: layer 0 is dense."""
    torch.set_num_threads(1)
    return real_checkpoint(NAME, tmp_path_factory)


@pytest.fixture(scope="module")
def recorded():
    """Responses of a real engine; their tokens are run again."""
    text = (DEEPSEEK / "samples.jsonl").read_text("utf-8")
    return [json.loads(line) for line in text.splitlines()[:SAMPLES]]


@pytest.fixture(scope="module")
def reference(checkpoint, recorded, tmp_path_factory):
    """What the checkpoint's routers select, with margins: ``routectl recompute``."""
    folder = tmp_path_factory.mktemp("reference")
    (folder / "tokens.jsonl").write_text("".join(json.dumps(r) + "\n" for r in recorded), "utf-8")
    target = folder / "reference.parquet"
    code = main(
        [
            "recompute",
            str(checkpoint),
            str(folder / "tokens.jsonl"),
            "--save",
            str(target),
            "--dtype",
            "float32",
            "--threads",
            "1",
        ]
    )
    assert code == 0
    return target


def engine(checkpoint, dtype=torch.float32, **settings):
    """A model of the checkpoint, with other settings."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    with quiet():
        return AutoModelForCausalLM.from_pretrained(
            checkpoint, dtype=dtype, attn_implementation="eager", **settings
        ).eval()


@torch.no_grad()
def dumped(model, recorded, path):
    """The responses with the routes that this model takes, all layers, as vLLM writes them."""
    taken = {}
    for number, layer in enumerate(model.model.layers):
        gate = getattr(layer.mlp, "gate", None)
        if gate is not None:
            gate.register_forward_hook(
                lambda m, a, out, n=number: taken.update(
                    {n: next(o for o in out if o.dtype in (torch.int32, torch.int64))}
                )
            )
    lines = []
    for record in recorded:
        tokens = (record["prompt_token_ids"] + record["token_ids"])[:-1]
        model(torch.tensor([tokens]))
        ids_TWK = np.zeros((len(tokens), len(model.model.layers), 4), np.uint8)
        for n, ids in taken.items():
            ids_TWK[:, n] = ids.reshape(len(tokens), -1).numpy()
        lines.append(json.dumps({**record, "routed_experts": as_npy(ids_TWK)}) + "\n")
    path.write_text("".join(lines), "utf-8")
    return path


def found(dump, checkpoint, against=None):
    """The findings that are no notes, by code."""
    from routectl.jobs.check.model import options_of_dump
    from routectl.jobs.reading import open_input

    model = checkpoint / "config.json"
    opened = open_input(str(dump), model)
    options = options_of_dump(opened, model, 1)
    other = None if against is None else open_dump(against)
    result = check(opened, other, options=options)
    return {f.code: f for f in result.findings if f.kind.severity != "note"}


def test_the_same_model_is_clean(checkpoint, recorded, reference, tmp_path):
    """A dump of the model as it is has no finding, alone and against its recompute."""
    dump = dumped(engine(checkpoint), recorded, tmp_path / "dump.jsonl")
    assert found(dump, checkpoint) == {}
    assert found(dump, checkpoint, reference) == {}


def test_half_precision_is_numerics_only(checkpoint, recorded, reference, tmp_path):
    """The model in bfloat16 against itself in float32: a tenth of the rows and more differ, at
    margins above eps; that is no error, and by an eps as large as its noise it is numerics."""
    dump = dumped(engine(checkpoint, torch.bfloat16), recorded, tmp_path / "dump.jsonl")
    opened, other = open_dump(dump, model=checkpoint / "config.json"), open_dump(reference)
    result = check(opened, other)
    assert [(f.code, f.kind.severity) for f in result.findings] == [("R716", "warning")]
    result = check(opened, other, options=CheckOptions(eps=0.1))
    assert [f.code for f in result.findings] == ["R712"]
    assert result.explanation.mismatched > 0.1 * result.explanation.rows


def test_a_dense_layer_run_as_moe_is_named_from_the_dump_alone(checkpoint, recorded, tmp_path):
    """An engine that ignores first_k_dense_replace has routes in a layer that the config says
    is dense."""
    wrong = engine(checkpoint, first_k_dense_replace=0)
    dump = dumped(wrong, recorded, tmp_path / "dump.jsonl")
    (finding,) = found(dump, checkpoint).values()
    assert (finding.code, finding.layers) == ("R303", (0,))
    assert finding.samples == SAMPLES


def scaled(model):
    """Scores of the attention are half as large again."""
    for layer in model.model.layers:
        layer.self_attn.scaling *= 1.5


@pytest.mark.parametrize(
    ("spoil", "settings"),
    [
        (scaled, {}),
        (lambda model: None, {"rope_interleave": False}),
    ],
    ids=["attention scaled", "rotary halves not interleaved"],
)
def test_wrong_numerics_at_perfect_alignment(
    checkpoint, recorded, reference, tmp_path, spoil, settings
):
    """Attention that is wrong is no misalignment: one finding says so, from which layer on, and
    that margins are large."""
    wrong = engine(checkpoint, **settings)
    spoil(wrong)
    dump = dumped(wrong, recorded, tmp_path / "dump.jsonl")
    assert found(dump, checkpoint) == {}
    (finding,) = found(dump, checkpoint, reference).values()
    assert finding.code == "R711"
    assert finding.kind.title == "no misalignment explains the mismatch"
    assert finding.detail.startswith("wrong from layer 1 on; ")
    assert finding.detail.endswith("are clear flips, at margins beyond 0.001")


def test_without_margins_nothing_is_said_of_them(checkpoint, recorded, reference, tmp_path):
    """A reference of ids alone gives the same finding without a word on margins."""
    from dataclasses import replace

    whole = open_dump(reference)
    bare = [
        replace(s, routes=replace(s.routes, margin_TL=None, group_margin_TL=None)) for s in whole
    ]
    meta = replace(whole.meta, margins=False, group_margins=False)
    write_native(bare, meta, tmp_path / "bare.parquet", force=False)
    wrong = engine(checkpoint)
    scaled(wrong)
    dump = dumped(wrong, recorded, tmp_path / "dump.jsonl")
    (finding,) = found(dump, checkpoint, tmp_path / "bare.parquet").values()
    assert (finding.code, finding.detail) == ("R711", "wrong from layer 1 on")
