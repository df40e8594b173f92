"""Checkpoints that Megatron-Core wrote, read without Megatron-Core."""

import importlib
import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from routectl.checkpoints import is_checkpoint, open_checkpoint
from routectl.checkpoints.facts import checkpoint_facts
from routectl.checkpoints.routers import router_tensors
from routectl.errors import FormatError, UnsupportedError
from support.mcore_checkpoints import BIG, DENSE_FIRST, EXPERTS, HIDDEN, LEGACY

TESTS = Path(__file__).parent.parent
KINDS = {  # folder: format, MoE layers
    "stacked": ("torch_dist", [0, 1, 2]),
    "dense_first": ("torch_dist", [1, 2]),
    "mtp": ("torch_dist", [1, 2]),
    "big": ("torch_dist", [0, 1, 2, 3]),
    "dcp": ("torch_dcp", [1, 2]),
    **{
        f"legacy/{name}": ("torch", [i for i, moe in enumerate(row[3]) if moe])
        for name, row in LEGACY.items()
    },
}
READ = """
import sys
sys.modules["megatron"] = None  # any import of it is an ImportError
import torch
import routectl.checkpoints.tensors
from routectl.checkpoints import open_checkpoint
from routectl.checkpoints.routers import router_tensors

def rchar():
    return int(open("/proc/self/io").readline().split()[1])

for folder, output in zip(sys.argv[1::2], sys.argv[2::2]):
    before = rchar()
    checkpoint = open_checkpoint(folder)
    opened = rchar()
    routers = router_tensors(checkpoint)
    print(opened - before, rchar() - opened)
    parts = {f"{n}.weight": r.weight for n, r in routers.items()}
    torch.save(parts | {f"{n}.expert_bias": r.expert_bias for n, r in routers.items()}, output)
"""


def read_apart(*pairs: tuple[Path, Path]) -> list[tuple[int, int]]:
    """Routers of checkpoints written to torch files by a process without Megatron; of each the
    bytes that opening it and reading them took.
    """
    program = [sys.executable, "-c", READ, *(str(path) for pair in pairs for path in pair)]
    done = subprocess.run(program, capture_output=True, text=True, check=False, cwd=TESTS)
    assert done.returncode == 0, done.stderr[-2000:]
    counts = [line.split() for line in done.stdout.splitlines()]
    return [(int(opening), int(reading)) for opening, reading in counts]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything that mcore_checkpoints.py writes."""
    folder = tmp_path_factory.mktemp("megatron")
    program = [sys.executable, "-m", "support.mcore_checkpoints", str(folder)]
    done = subprocess.run(program, capture_output=True, text=True, check=False, cwd=TESTS)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


@pytest.fixture(scope="module")
def apart(written: Path, tmp_path_factory: pytest.TempPathFactory) -> dict:
    """By kind: the file of its routers read without Megatron, and the bytes that it took."""
    folder = tmp_path_factory.mktemp("apart")
    files = {name: folder / f"{n}.pt" for n, name in enumerate(["big", *KINDS])}
    taken = read_apart(*((written / name, file) for name, file in files.items()))
    return dict(zip(files, zip(files.values(), taken, strict=True), strict=True))


@pytest.fixture
def copied(written: Path, tmp_path: Path) -> Path:
    """A copy of dense_first's iteration folder, to be damaged."""
    return shutil.copytree(written / "dense_first" / "iter_0000007", tmp_path / "iter_0000007")


def dcp() -> ModuleType:
    """torch.distributed.checkpoint, which takes seconds to load."""
    return importlib.import_module("torch.distributed.checkpoint")


def flat(routers: dict) -> dict[str, torch.Tensor]:
    """Routers as the truth is stored."""
    parts = {f"{n}.weight": r.weight for n, r in routers.items()}
    return parts | {f"{n}.expert_bias": r.expert_bias for n, r in routers.items()}


def assert_same(got: dict, truth: dict) -> None:
    """Equal names, dtypes and every bit."""
    assert got.keys() == truth.keys()
    for name, tensor in truth.items():
        assert got[name].dtype == tensor.dtype
        assert torch.equal(got[name], tensor), name


@pytest.mark.trainers
class TestWritten:
    """Real checkpoints of each format."""

    @pytest.mark.parametrize("name", KINDS)
    def test_routers_are_those_of_the_model(self, written: Path, name: str) -> None:
        """Every router weight and expert bias is the model's, bit for bit, at its global layer."""
        kind, layers = KINDS[name]
        checkpoint = open_checkpoint(written / name)
        assert checkpoint.format == kind
        routers = router_tensors(checkpoint)
        assert list(routers) == layers
        assert_same(flat(routers), torch.load(written / name / "truth.pt"))
        assert {r.weight.dtype for r in routers.values()} == {torch.bfloat16}
        assert {r.expert_bias.dtype for r in routers.values()} == {torch.float32}

    @pytest.mark.parametrize("name", KINDS)
    def test_it_is_read_without_megatron(self, written: Path, name: str, apart: dict) -> None:
        """With megatron's import blocked, the same tensors are read."""
        assert_same(torch.load(apart[name][0]), torch.load(written / name / "truth.pt"))

    def test_only_the_routers_are_read(self, written: Path, apart: dict) -> None:
        """Of a checkpoint of over 60 MB, metadata and less than twice the routers are read."""
        folder = written / "big"
        opening, reading = apart["big"][1]
        checkpoint = open_checkpoint(folder)
        routers = 4 * BIG["num_moe_experts"] * (2 * BIG["hidden_size"] + 4)
        assert checkpoint.file_bytes > 60e6
        assert checkpoint_facts(checkpoint).router_bytes == routers
        assert reading < 2 * routers + 8 * 16384  # archives around eight blocks, and buffers
        assert opening < (folder / "iter_0000007" / ".metadata").stat().st_size + 65536
        assert opening + reading < checkpoint.file_bytes / 100

    @pytest.mark.parametrize("name", ["stacked", "dense_first", "mtp", "dcp"])
    def test_all_tensors_are_those_that_torch_reads(self, written: Path, name: str) -> None:
        """Each tensor is what torch.distributed.checkpoint loads; none of the model is absent."""
        checkpoint = open_checkpoint(written / name)
        metadata = dcp().FileSystemReader(checkpoint.path).read_metadata().state_dict_metadata
        wanted = {
            key: torch.empty(entry.size, dtype=entry.properties.dtype)
            for key, entry in metadata.items()
            if hasattr(entry, "size") and not key.startswith("optimizer")
        }
        reader = dcp().FileSystemReader(checkpoint.path)
        with pytest.warns(UserWarning, match="single process"):
            dcp().load(wanted, storage_reader=reader, no_dist=True)
        assert_same({name: checkpoint.read(name) for name in checkpoint.tensors}, wanted)

    def test_mtp_routers_are_there_and_not_counted(self, written: Path) -> None:
        """The checkpoint holds an MTP layer's router, and it is none of the model's layers."""
        checkpoint = open_checkpoint(written / "mtp")
        mtp = [name for name in checkpoint.tensors if "mtp" in name and "router" in name]
        assert any(name.endswith("mlp.router.weight") for name in mtp)
        assert list(router_tensors(checkpoint)) == [1, 2]
        assert DENSE_FIRST == [0, 1, 1]

    def test_iteration_and_arguments(self, written: Path) -> None:
        """Iteration, layers and K come from the folder and from the arguments of common.pt."""
        facts = checkpoint_facts(open_checkpoint(written / "stacked"))
        assert (facts.checkpoint.iteration, facts.num_layers, facts.top_k) == (7, 3, 4)
        assert (facts.num_experts, facts.hidden_size) == (EXPERTS, HIDDEN)
        legacy = checkpoint_facts(open_checkpoint(written / "legacy" / "vpp2"))
        assert (legacy.checkpoint.iteration, legacy.num_layers, legacy.top_k) == (12, 8, 4)

    def test_a_folder_of_an_iteration_opens_too(self, written: Path) -> None:
        """The root and the folder of its latest iteration are one checkpoint."""
        root, inner = written / "stacked", written / "stacked" / "iter_0000007"
        assert is_checkpoint(root)
        assert is_checkpoint(inner)
        assert open_checkpoint(root) == open_checkpoint(inner)


@pytest.mark.trainers
class TestRoots:
    """Which iteration of a root is opened."""

    def test_the_tracker_decides(self, written: Path, tmp_path: Path) -> None:
        """Of two iterations, the one in latest_checkpointed_iteration.txt is opened."""
        for number, name in ((7, "stacked"), (8, "dense_first")):
            shutil.copytree(written / name / "iter_0000007", tmp_path / f"iter_{number:07d}")
        tracker = tmp_path / "latest_checkpointed_iteration.txt"
        for number, layers in ((7, [0, 1, 2]), (8, [1, 2])):
            tracker.write_text(f"{number}\n")
            checkpoint = open_checkpoint(tmp_path)
            assert checkpoint.iteration == number
            assert list(router_tensors(checkpoint)) == layers
        tracker.write_text("9")
        with pytest.raises(FormatError, match="got '9', expected the number of an iter_"):
            open_checkpoint(tmp_path)
        tracker.unlink()
        with pytest.raises(FormatError, match="no checkpoint in it"):
            open_checkpoint(tmp_path)

    def test_a_release_has_no_iteration_in_its_name(self, written: Path, tmp_path: Path) -> None:
        """A converted checkpoint is in release/, and its iteration is that of common.pt."""
        shutil.copytree(written / "stacked" / "iter_0000007", tmp_path / "release")
        (tmp_path / "latest_checkpointed_iteration.txt").write_text("release")
        assert open_checkpoint(tmp_path).iteration == 7
        (tmp_path / "release" / "common.pt").unlink()
        checkpoint = open_checkpoint(tmp_path)
        assert (checkpoint.iteration, checkpoint.arguments) == (None, {})

    def test_zarr_is_unsupported(self, copied: Path) -> None:
        """A backend other than torch_dist is understood and refused."""
        (copied / "metadata.json").write_text(json.dumps({"sharded_backend": "zarr"}))
        with pytest.raises(UnsupportedError, match="sharded_backend 'zarr', not torch_dist"):
            open_checkpoint(copied)


def old_core(folder: Path) -> None:
    """Pickle .metadata again, in the class that megatron-core 0.15.3 writes."""
    path = "megatron.core.dist_checkpointing.strategies.torch"
    metadata = dcp().FileSystemReader(folder).read_metadata()
    module = ModuleType(path)
    # As in 0.15.3: a dataclass derived from Metadata with one more field.
    cls = type("MCoreMetadata", (type(metadata),), {"__module__": path, "mcore_data": None})
    module.MCoreMetadata = cls  # type: ignore[attr-defined]
    renewed = cls.__new__(cls)
    vars(renewed).update(vars(metadata))
    renewed.mcore_data = {"decoder.layers.1.mlp.router.weight": {"nd_reformulated": (1, 2)}}
    real = sys.modules.get(path)
    sys.modules[path] = module
    try:
        (folder / ".metadata").write_bytes(pickle.dumps(renewed))
    finally:
        del sys.modules[path]
        if real is not None:
            sys.modules[path] = real


class TestMetadata:
    """The pickle in which torch keeps what lies where."""

    @pytest.mark.trainers
    def test_core_0_15_is_read_without_megatron(
        self, written: Path, copied: Path, tmp_path: Path
    ) -> None:
        """Metadata in megatron-core 0.15's own class gives the same routers."""
        old_core(copied)
        assert b"MCoreMetadata" in (copied / ".metadata").read_bytes()
        read_apart((copied, tmp_path / "got.pt"))
        truth = torch.load(written / "dense_first" / "truth.pt")
        assert_same(torch.load(tmp_path / "got.pt"), truth)

    @pytest.mark.trainers
    def test_a_pickle_that_would_run_code_is_refused(self, copied: Path, tmp_path: Path) -> None:
        """A .metadata that calls os.system, alone or inside real metadata, raises and runs not."""
        mark = tmp_path / "ran"

        class Evil:
            def __reduce__(self):
                return os.system, (f"touch {mark}",)

        metadata = dcp().FileSystemReader(copied).read_metadata()
        metadata.planner_data = Evil()
        for evil in (Evil(), metadata):
            (copied / ".metadata").write_bytes(pickle.dumps(evil))
            with pytest.raises(
                FormatError, match=r"\.metadata: refused pickle: names posix.system"
            ):
                open_checkpoint(copied)
        assert not mark.exists()

    @pytest.mark.trainers
    def test_an_absent_or_short_file_is_refused(self, copied: Path) -> None:
        """A .distcp that is gone or cut is named when the folder is opened."""
        data = (copied / "__0_0.distcp").read_bytes()
        (copied / "__0_0.distcp").write_bytes(data[: len(data) // 2])
        with pytest.raises(FormatError, match=r"bytes \d+\+\d+ are beyond __0_0.distcp"):
            open_checkpoint(copied)
        (copied / "__0_0.distcp").unlink()
        with pytest.raises(FormatError, match=r"__0_0.distcp: not there, but .* names it"):
            open_checkpoint(copied)

    @pytest.mark.trainers
    def test_damaged_blocks_are_refused(self, copied: Path) -> None:
        """Blocks overwritten with zeros raise when they are read, and only then."""
        for file in copied.glob("*.distcp"):
            file.write_bytes(bytes(file.stat().st_size))
        checkpoint = open_checkpoint(copied)
        with pytest.raises(FormatError, match=r"router\.weight: damaged archive: it does not"):
            router_tensors(checkpoint)

    @pytest.mark.trainers
    def test_blocks_that_do_not_make_up_their_tensor_are_refused(self, copied: Path) -> None:
        """A tensor with a block taken away, moved out, or doubled raises FormatError."""
        from torch.distributed.checkpoint.metadata import ChunkStorageMetadata

        original = (copied / ".metadata").read_bytes()
        key = "decoder.layers.1.mlp.router.weight"

        def damaged(change) -> None:
            metadata = pickle.loads(original)
            change(metadata.state_dict_metadata[key])
            (copied / ".metadata").write_bytes(pickle.dumps(metadata))

        far = ChunkStorageMetadata(torch.Size([EXPERTS, 0]), torch.Size([EXPERTS, HIDDEN]))
        odd = ChunkStorageMetadata(torch.Size([0, 1]), torch.Size([EXPERTS, 1]))
        for change, said in (
            (lambda entry: entry.chunks.clear(), "its blocks do not make up"),
            (
                lambda entry: entry.chunks.append(far),
                r"block \[16, 64\] at \[16, 0\] of \[16, 64\]",
            ),
            (lambda entry: entry.chunks.append(odd), r"block at \[0, 1\] is in no file"),
            (lambda entry: entry.chunks.append(entry.chunks[0]), "its blocks do not make up"),
            (lambda entry: setattr(entry, "size", torch.Size([1 << 40])), "block"),
        ):
            damaged(change)
            with pytest.raises(FormatError, match=said):
                open_checkpoint(copied)

    @pytest.mark.trainers
    def test_files_outside_of_the_folder_are_refused(self, copied: Path) -> None:
        """A file name with a path in it is not followed."""
        metadata = dcp().FileSystemReader(copied).read_metadata()
        for info in metadata.storage_data.values():
            info.relative_path = f"../iter_0000007/{info.relative_path}"
        (copied / ".metadata").write_bytes(pickle.dumps(metadata))
        with pytest.raises(FormatError, match="expected one in the same folder"):
            open_checkpoint(copied)


class TestLegacy:
    """mp_rank_* folders."""

    @pytest.mark.trainers
    def test_an_absent_stage_is_named(self, written: Path, tmp_path: Path) -> None:
        """Of two pipeline stages the second is required, and its folder named."""
        root = shutil.copytree(written / "legacy" / "pp2", tmp_path / "pp2")
        shutil.rmtree(root / "iter_0000012" / "mp_rank_00_001")
        with pytest.raises(FormatError, match="no mp_rank_00_001 among 1 ranks, pipeline size 2"):
            open_checkpoint(root)

    @pytest.mark.trainers
    def test_one_suffix_is_the_expert_rank_without_a_pipeline(
        self, written: Path, tmp_path: Path
    ) -> None:
        """mp_rank_00_001 of a checkpoint with pipeline size 1 is an expert rank, and not read."""
        source = written / "legacy" / "pp1" / "iter_0000012" / "mp_rank_00"
        for rank in ("000", "001"):
            shutil.copytree(source, tmp_path / f"mp_rank_00_{rank}")
        (tmp_path / "mp_rank_00_001" / "model_optim_rng.pt").write_bytes(b"not looked at")
        truth = torch.load(written / "legacy" / "pp1" / "truth.pt")
        assert_same(flat(router_tensors(open_checkpoint(tmp_path))), truth)

    def test_a_program_in_it_is_refused(self, tmp_path: Path) -> None:
        """A state dict that names a function off the list raises FormatError."""
        (tmp_path / "mp_rank_00").mkdir()
        torch.save({"model": {}, "evil": os.getcwd}, tmp_path / "mp_rank_00" / "model_optim_rng.pt")
        with pytest.raises(FormatError, match=r"refused pickle: names posix\.getcwd"):
            open_checkpoint(tmp_path)

    def test_the_old_form_of_torch_save_is_unsupported(self, tmp_path: Path) -> None:
        """What torch before 1.6 wrote is refused with a hint."""
        (tmp_path / "mp_rank_00").mkdir()
        path = tmp_path / "mp_rank_00" / "model_optim_rng.pt"
        torch.save({"model": {}}, path, _use_new_zipfile_serialization=False)
        with pytest.raises(UnsupportedError, match=r"written by torch before 1\.6"):
            open_checkpoint(tmp_path)
