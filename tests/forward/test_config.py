"""A config.json of others, of which transformers is to make a model: a model, or one line."""

import json

import pytest

from fuzz import seeds
from fuzz.oracle import command, watched
from support.building import record, some_ids, write_lines

pytestmark = pytest.mark.models

CASES = {  # what is put into a sound config, and what the line says
    "of another type": ({"vocab_size": []}, "vocab_size"),
    "negative": ({"hidden_size": -1}, ""),
    "no heads": ({"num_attention_heads": 0}, ""),
    "no activation": ({"hidden_act": "x\n\x1b[31m"}, ""),
    "no dtype": ({"dtype": "Tensor"}, ""),
    "no rope": ({"rope_parameters": {"rope_type": 5}}, ""),
    "many layers": ({"num_hidden_layers": 10**9}, "num_hidden_layers: got 1000000000"),
    "many experts": ({"num_experts": 10**9}, "experts: got 1000000000"),
    "many labels": ({"num_labels": 2**63}, "num_labels: got 9223372036854775808"),
    "many layers inside": ({"text_config": {"n_layer": 10**9}}, "n_layer: got 1000000000"),
    "many heads": ({"num_attention_heads": 10**30}, ""),
    "long tables": ({"head_dim": 10**12}, ""),
    "tables of gigabytes": ({"hidden_size": 10**9}, ""),
}


@pytest.mark.parametrize(("changed", "said"), CASES.values(), ids=CASES)
def test_a_config_that_is_none_is_refused_in_one_line(changed, said, tmp_path):
    """Types, sizes and names that no model has: exit 2, at once, and the folder is named."""
    for name, body in seeds.hf_folder()[0].items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(body)
    config = tmp_path / "c" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text("utf-8")), **changed}), "utf-8")
    dump = write_lines(tmp_path / "x.jsonl", [record(some_ids(5))])

    def judge(folder):
        done = command("recompute", folder / "c", dump, "--save", folder / "o.parquet")
        assert done.code == 2
        assert done.err.startswith(f"routectl: {folder / 'c'}"), done.err
        assert said in done.err

    assert watched("model", judge, lambda: tmp_path, b"") is None
    assert not (tmp_path / "o.parquet").exists()
