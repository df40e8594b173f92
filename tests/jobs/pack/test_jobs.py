"""``routectl pack --jobs``: rank files written by several processes."""

from routectl.formats.native import row_groups
from routectl.jobs.convert import native
from routectl.jobs.pack import unpack, writing
from support.crewed import hired
from support.recordings import FIXTURES
from support.shell import run

DUMP = FIXTURES / "tiny_rl" / "routes_v0.fp32.npz"
LAYOUT = ("--cp", 2, "--tp", 2, "--dp", 2, "--max-tokens-per-gpu", 512)


def _content(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_folders_are_equal_whatever_the_processes(tmp_path, monkeypatch, capsys) -> None:
    """One, two and three processes write the same files, with the same bytes, and no others."""
    monkeypatch.setattr(writing, "_SHARD_BYTES", 1)
    started, folders = hired(monkeypatch), []
    for jobs in (1, 2, 3):
        folder = tmp_path / str(jobs)
        done = run(capsys, "pack", DUMP, "--save", folder, *LAYOUT, "--jobs", jobs)
        assert done.code == 0, done.err
        folders.append((_content(folder), done.out))
    assert started == [1, 2]
    assert len(folders[0][0]) == 82
    assert folders[0] == folders[1] == folders[2]


def test_a_dump_is_equal_whatever_the_processes(tmp_path, monkeypatch, capsys) -> None:
    """Unpacked by one process and by three, a folder gives the same file."""
    folder = tmp_path / "folder"
    assert run(capsys, "pack", DUMP, "--save", folder, *LAYOUT, "--jobs", 1).code == 0
    monkeypatch.setattr(unpack, "_SHARD_BYTES", 1)
    monkeypatch.setattr(native, "_SHARD_BYTES", 1)
    monkeypatch.setattr(row_groups, "_GROUP_ROWS", 8)
    started, files = hired(monkeypatch), []
    for jobs in (1, 3):
        path = tmp_path / f"{jobs}.parquet"
        done = run(capsys, "unpack", folder, "--save", path, "--jobs", jobs)
        assert done.code == 0, done.err
        files.append(path.read_bytes())
    assert started == [2, 3]
    assert files[0] == files[1]
    assert run(capsys, "diff", DUMP, path).code == 0


def test_an_error_leaves_no_folder(tmp_path, monkeypatch, capsys) -> None:
    """Padding that would make routes up is refused alike by one process and by two."""
    monkeypatch.setattr(writing, "_SHARD_BYTES", 1)
    hired(monkeypatch)
    said = set()
    for jobs in (1, 2):
        folder = tmp_path / str(jobs)
        more = ("--padding", "spread", "--layout", "ep=3", "--jobs", jobs)
        done = run(capsys, "pack", DUMP, "--save", folder, *LAYOUT, *more)
        assert done.code == 2
        assert not folder.exists()
        said.add(done.err)
    assert len(said) == 1
