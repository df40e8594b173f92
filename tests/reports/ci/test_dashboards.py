"""Scalars: what metrics gives, and what TensorBoard's and W&B's own readers find of it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import routectl
from routectl.reports.ci.dashboards import write_events
from routectl.visible import visible
from support.poison import POISON, faults_of
from support.shell import complaint, detailed, document, run, written
from support.tiny_rl import ENGINE, TINY

ROOT = Path(__file__).parent.parent.parent.parent
V0, V1, V2 = (
    TINY / name
    for name in ("routes_v0.margins.parquet", "transformers_v1.fp32.npz", "routes_v2.fp32.npz")
)
AT = [f"--at=v0={V0}", f"--at=v1={V1}", f"--at=v2={V2}"]
TRUTH = json.loads((TINY / "truth.json").read_text("utf-8"))


def events(folder):
    """Scalars of a folder by TensorBoard's own reader: (step, value) by name."""
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator"
    ).EventAccumulator(str(folder), size_guidance={"scalars": 0})
    accumulator.Reload()
    names = accumulator.Tags()["scalars"]
    return {name: [(e.step, e.value) for e in accumulator.Scalars(name)] for name in names}


def history(folder):
    """Records of an offline run by W&B's own reader: values by name, and the kinds of records."""
    pytest.importorskip("wandb")
    from wandb.proto.wandb_internal_pb2 import Record
    from wandb.sdk.internal.datastore import DataStore

    (file,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    store = DataStore()
    store.open_for_scan(str(file))
    values, kinds = {}, set()
    while (data := store.scan_data()) is not None:
        record = Record()
        record.ParseFromString(data)
        kinds.add(record.WhichOneof("record_type"))
        for item in record.history.item:
            values["/".join(item.nested_key) or item.key] = json.loads(item.value_json)
    store.close()
    return values, kinds


class TestMetrics:
    """routectl.metrics."""

    def test_of_a_diff(self):
        """The scalars of a diff are the recorded truth, of all layers and of each; those of the
        result are those of its document, saved and read again.
        """
        result = routectl.diff(routectl.open_dump(ENGINE), routectl.open_dump(V0))
        found = routectl.metrics(result)
        truth = TRUTH["mismatch: engine bf16 at v0 / transformers fp32 at v0"]
        assert found["routectl/mismatch"] == truth["rows_mismatched"] / truth["rows"]
        assert found["routectl/token_mismatch"] == truth["tokens_mismatched"] / truth["tokens"]
        for layer, rows in enumerate(truth["per_layer_mismatched"]):
            assert found[f"routectl/rows_mismatched/layer_{layer:03d}"] == rows
        assert {"routectl/clear", "routectl/clear/layer_005"} <= set(found)
        assert all(type(value) is float for value in found.values())
        saved = json.loads(json.dumps(routectl.diff_document(result)))
        assert routectl.metrics(saved) == found

    def test_names_are_visible(self, tmp_path):
        """A check's name that is no name is text in what TensorBoard reads."""
        run_of = {"name": POISON, "metrics": {"routectl/mismatch": 0.5}}
        found = routectl.metrics({"schema": "routectl.ci/1", "runs": [run_of]})
        assert found == {f"{visible(POISON)}/routectl/mismatch": 0.5}
        write_events(tmp_path / "tb", found, 1)
        (name,) = events(tmp_path / "tb")
        assert (name, faults_of(name)) == (next(iter(found)), [])

    def test_undefined_figures_are_left_out(self):
        """Without margins and log-probs there is no scalar of either, and none is not finite."""
        routes = routectl.open_dump(TINY / "routes_v0.fp32.npz")
        found = routectl.metrics(routectl.diff(routes, routes))
        assert not {name for name in found if "k3" in name or "clear" in name}
        document = routectl.diff_document(routectl.diff(routes, routes))
        document["overlap_rate"], document["load_shift"] = float("nan"), None
        assert set(found) - set(routectl.metrics(document)) == {
            "routectl/overlap",
            "routectl/load_shift",
        }

    def test_of_a_staleness(self):
        """A staleness has the mismatch, each lag, and the total, as recorded; of the result too."""
        versions = [
            routectl.Version(name, routectl.open_dump(path))
            for name, path in (("v0", V0), ("v1", V1), ("v2", V2))
        ]
        result = routectl.staleness(routectl.open_dump(ENGINE), versions)
        found = routectl.metrics(result)
        assert found["routectl/mismatch"] == 2055 / 101_616
        assert found["routectl/staleness/lag_2"] == 12_565 / 101_616
        assert found["routectl/total"] == 12_780 / 101_616
        assert "routectl/staleness/lag_1/layer_005" in found
        assert "routectl/total/layer_005" in found

    def test_of_a_check(self):
        """A check has findings by severity, and the mismatch that it explains."""
        result = routectl.check(routectl.open_dump(V0), routectl.open_dump(ENGINE))
        found = routectl.metrics(result)
        assert found["routectl/findings/errors"] == result.count("error")
        assert found["routectl/mismatch"] == 2055 / 101_616
        assert found == routectl.metrics(routectl.check_document(result))

    @pytest.mark.slow
    def test_of_a_series(self, capsys, tmp_path):
        """A series of staleness reports has the figures of its last step."""
        for step in (1, 2):
            path = tmp_path / f"step-{step}.json"
            assert run(capsys, "staleness", ENGINE, *AT[: step + 1], "-o", path).code == 0
        doc = document(capsys, "staleness", "--series", tmp_path)
        assert routectl.metrics(doc)["routectl/staleness/lag_2"] == 12_565 / 101_616

    @pytest.mark.parametrize("other", [{}, {"schema": "routectl.show/1"}])
    def test_other_documents(self, other):
        """A document without figures to follow is refused, and so is what is no document."""
        with pytest.raises(ValueError, match="no metrics of"):
            routectl.metrics(other)
        with pytest.raises(TypeError, match="expected a result"):
            routectl.metrics(3)

    @pytest.mark.slow
    def test_every_name_is_documented(self, capsys):
        """docs/metrics.md names every scalar of a diff, a staleness and a check."""
        page = (ROOT / "docs" / "metrics.md").read_text("utf-8").split("## Scalars")[1]
        lines = (
            ["diff", ENGINE, V0, "--rerun", V0],
            ["staleness", ENGINE, *AT],
            ["check", V0, "--against", ENGINE],
        )
        for line in lines:
            found = routectl.metrics(json.loads(run(capsys, *line, "--json").out))
            for name in found:
                stem = name.split("/layer_")[0].removeprefix("routectl/")
                known = (
                    "total_METRIC"
                    if stem.startswith("total_")
                    else "staleness/lag_N"
                    if stem.startswith("staleness/")
                    else stem.rsplit("/", 1)[-1]
                )
                assert f"{known}`" in page, name


class TestTensorboard:
    """report --tensorboard, read back by TensorBoard."""

    @pytest.mark.slow
    def test_each_verb_writes_its_scalars(self, capsys, tmp_path):
        """Of a diff, a check, a staleness: what metrics gives for the document, at the step."""
        for verb, *line in (["diff", ENGINE, V0], ["check", V0], ["staleness", ENGINE, *AT]):
            saved = tmp_path / f"{verb}.json"
            assert run(capsys, verb, *line, "-o", saved, "--exit-zero").code == 0
            done = run(capsys, "report", saved, "--tensorboard", tmp_path / verb, "--step", "7")
            assert done.code == 0, done.err
            expected = routectl.metrics(json.loads(saved.read_text("utf-8")))
            assert f"{len(expected)} scalars of step 7" in done.err
            assert events(tmp_path / verb) == {
                name: [(7, float(np.float32(value)))] for name, value in expected.items()
            }

    def test_steps_make_a_curve(self, tmp_path):
        """Calls within one second each add a file; the reader sees one curve of all steps."""
        for step in range(5):
            write_events(tmp_path / "new", {"routectl/mismatch": step / 4}, step)
        assert len(written(tmp_path / "new")) == 5
        assert events(tmp_path / "new")["routectl/mismatch"] == [(n, n / 4) for n in range(5)]

    def test_runs_of_ci(self, capsys, tmp_path):
        """Of a ci the scalars of every run, the run's name before each."""
        words = {"verb": "diff", "old": str(V0), "new": str(TINY / "routes_{}.fp32.npz")}
        path = tmp_path / "ci.toml"
        lines = [f"{key} = {json.dumps(value)}" for key, value in words.items()]
        path.write_text("\n".join(["[checks.a]", *lines]), "utf-8")
        doc = detailed(capsys, tmp_path, "ci", path, "--no-github", code=1)
        flags = ("--tensorboard", tmp_path / "tb", "--step", "3")
        assert run(capsys, "report", tmp_path / "detailed.json", *flags).code == 0
        found = events(tmp_path / "tb")
        assert found["a[v2]/routectl/mismatch"][0][0] == 3
        assert set(found) == set(routectl.metrics(doc))
        assert {name.split("/")[0] for name in found} == {"a[v0]", "a[v1]", "a[v2]"}

    def test_refused_before_any_work(self, capsys, tmp_path):
        """A file in the place of the folder, and a step of nothing, are refused first."""
        path = tmp_path / "file"
        path.write_text("", "utf-8")
        for flag in ("--tensorboard", "--wandb-offline"):
            assert "expected a folder" in complaint(capsys, "report", "gone", flag, path)
        assert "got neither" in complaint(capsys, "report", "gone", "--step", "1")

    def test_not_installed(self, capsys, tmp_path, monkeypatch):
        """Without the library the extra that has it is named."""
        monkeypatch.setattr("routectl.cli.services.find_spec", lambda name: None)
        for flag, extra in (("--tensorboard", "tensorboard"), ("--wandb-offline", "wandb")):
            said = complaint(capsys, "report", "gone", flag, tmp_path)
            assert f"hint: pip install 'routectl[{extra}]'" in said


@pytest.mark.slow
class TestWandb:
    """--wandb-offline, read back by W&B."""

    def test_an_offline_run(self, capsys, tmp_path):
        """A process without any network, told to be online, writes an offline run with every scalar
        at its step, and nothing of the machine.
        """
        pytest.importorskip("wandb")
        saved = tmp_path / "diff.json"
        assert run(capsys, "diff", ENGINE, V0, "-o", saved).code == 1
        isolated = ["unshare", "-rn"] if can_unshare() else []
        line = [
            "-m",
            "routectl",
            "report",
            saved,
            "--wandb-offline",
            tmp_path,
            "--step",
            "7",
        ]
        kept = {k: v for k, v in os.environ.items() if not k.startswith("WANDB_")}
        done = subprocess.run(
            [*isolated, sys.executable, *map(str, line)],
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
            env={**kept, "WANDB_MODE": "online", "PYTHONPATH": str(ROOT)},
        )
        assert done.returncode == 0, done.stderr
        values, kinds = history(tmp_path)
        expected = routectl.metrics(json.loads(saved.read_text("utf-8")))
        assert {name: values[name] for name in expected} == expected
        assert values["_step"] == 7
        assert kinds >= {"run", "history", "exit"}
        assert not kinds & {"stats", "output", "output_raw"}
        assert [name for name in written(tmp_path) if "wandb-metadata" in name] == []


def can_unshare():
    """Whether a process can be given a network of its own, with nothing in it."""
    tool = shutil.which("unshare")
    return (
        tool is not None
        and not subprocess.run([tool, "-rn", "true"], capture_output=True, check=False).returncode
    )
