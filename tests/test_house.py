"""The structure itself: floors, sizes, imports, names."""

import ast
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

HOUSE = Path(__file__).parent.parent / "routectl"
MODULES = sorted(HOUSE.rglob("*.py"))
FLOORS = {
    "errors": 0,
    "gate_logprobs": 0,
    "margins": 0,
    "routes": 0,
    "dump": 0,
    "model": 0,
    "files": 0,
    "layouts": 0,
    "pickled": 0,
    "kernels": 1,
    "routers": 1,
    "codecs": 1,
    "formats": 2,
    "checkpoints": 2,
    "forward": 3,
    "engines": 3,
    "ops": 3,
    "loading": 3,
    "reports": 4,
    "jobs": 5,
    "cli": 5,
    "__init__": 6,
    "__main__": 6,
}
TYPES = "TYPE_CHECKING"
HOMES = {
    "numba": (
        "kernels/rows.py",
        "kernels/check.py",
        "kernels/margins.py",
        "kernels/replay.py",
        "routers/top_k.py",
        "codecs/packed_kernels.py",
        "codecs/delta_kernels.py",
        "codecs/range_kernels.py",
        "codecs/row_kernels.py",
        "codecs/set_kernels.py",
        "codecs/set_tables.py",
        "codecs/slot_kernels.py",
        "codecs/context_kernels.py",
    ),
    "pyarrow": (
        "formats/native/container.py",
        "formats/native/schema.py",
        "formats/native/groups.py",
    ),
    "safetensors": ("formats/arrays/files.py", "checkpoints/", "forward/"),
    "typer": ("cli/",),
    "rich": (
        "cli/",
        "reports/text/tables.py",
        "reports/page/markup.py",
        "reports/text/pictures.py",
        "reports/diff/text.py",
        "reports/pack/text.py",
        "reports/show/text.py",
        "reports/pack/drawing.py",
        "reports/check/text.py",
        "reports/show/checkpoint_text.py",
        "reports/staleness/text.py",
        "reports/staleness/series_text.py",
        "reports/predict/text.py",
        "reports/ci/text.py",
    ),
    "torch": (
        "forward/live.py",
        "loading.py",
        "routers/maths.py",
        "forward/",
        "checkpoints/reading.py",
        "checkpoints/router_inputs.py",
        "formats/targets/jagged.py",
        "formats/trainers/torch_files.py",
        "formats/trainers/torch_dumps.py",
        "ops/predict/replay_inputs.py",
        "ops/predict/predict.py",
    ),
    "transformers": ("forward/",),
    "greenlet": ("forward/streaming.py",),
    "tensordict": ("formats/targets/jagged.py", "formats/trainers/torch_files.py"),
    "msgpack": ("formats/trainers/micro_batches.py",),
    "tensorboardX": ("reports/ci/tensorboard.py",),
    "wandb": ("reports/ci/wandb.py",),
    "tokenizers": ("formats/tokenizer.py",),
    "zstandard": ("codecs/", "formats/wire/fireworks.py"),
}


def room(path: Path) -> str:
    """The top-level room that a module is in."""
    part = path.relative_to(HOUSE).parts[0]
    return part.removesuffix(".py")


def for_types_alone(tree: ast.Module) -> set[ast.AST]:
    """The nodes below ``if TYPE_CHECKING``, which load nothing."""
    blocks = [n for n in tree.body if isinstance(n, ast.If) and ast.unparse(n.test) == TYPES]
    return {node for block in blocks for part in block.body for node in ast.walk(part)}


def imports(path: Path) -> list[tuple[str, str]]:
    """Rooms of routectl, for types too, and foreign packages that a module loads, anywhere."""
    found = []
    depth = len(path.relative_to(HOUSE).parts)
    tree = ast.parse(path.read_text("utf-8"))
    unloaded = for_types_alone(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            if node.level == depth:
                names = [node.module] if node.module else [a.name for a in node.names]
                found += [("house", (name or "").split(".")[0]) for name in names]
            elif node.level == 0 and node not in unloaded:
                found.append(("foreign", (node.module or "").split(".")[0]))
        elif isinstance(node, ast.Import) and node not in unloaded:
            found += [("foreign", alias.name.split(".")[0]) for alias in node.names]
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(HOUSE)))
class TestModule:
    """Rules that every module keeps."""

    def test_imports_go_down(self, path: Path) -> None:
        """A module imports only floors below its own, or its own room."""
        own = room(path)
        for kind, name in imports(path):
            if kind == "house" and name in FLOORS and name != own and not own.startswith("__"):
                nouns = FLOORS[own] == FLOORS[name] == 0  # nouns are made of nouns
                assert nouns or FLOORS[name] < FLOORS[own], f"{own} imports {name}"

    def test_heavy_libraries_stay_at_home(self, path: Path) -> None:
        """Each heavy library is imported only in its declared home files."""
        place = path.relative_to(HOUSE).as_posix()
        for kind, name in imports(path):
            if kind == "foreign" and name in HOMES:
                assert place.startswith(HOMES[name]), f"{place} imports {name}"
            assert name != "click", "typer brings its own click"

    def test_sizes(self, path: Path) -> None:
        """A module has at most 300 lines, a function 60, and six parameters (commands aside)."""
        text = path.read_text("utf-8")
        assert len(text.splitlines()) <= 300
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                assert (node.end_lineno or 0) - node.body[0].lineno < 60, node.name
                arguments = node.args.posonlyargs + node.args.args + node.args.kwonlyargs
                count = len([a for a in arguments if a.arg not in ("self", "cls")])
                kernel = any("njit" in ast.unparse(d) for d in node.decorator_list)
                assert count <= 6 or kernel or node.name.endswith("_command"), node.name

    def test_all_is_true(self, path: Path) -> None:
        """A module with public names lists exactly them in __all__, sorted."""
        tree = ast.parse(path.read_text("utf-8"))
        listed = next(
            (
                ast.literal_eval(node.value)
                for node in tree.body
                if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
            ),
            None,
        )
        if path.name in ("__init__.py", "__main__.py"):
            return
        assert listed is not None
        assert len(listed) == len(set(listed))
        public = {
            node.name
            for node in tree.body
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
        }
        assert public <= set(listed)


def test_scripts_are_small() -> None:
    """A script of the page keeps to the lines of a module, and no name is defined in two."""
    names: Counter[str] = Counter()
    for path in sorted((HOUSE / "reports" / "page" / "assets").glob("*.js")):
        lines = path.read_text("utf-8").splitlines()
        assert len(lines) <= 300, path.name
        for line in lines:
            names.update(re.findall(r"^(?:function|const|let|class) (\w+)", line))
    assert [name for name, count in names.items() if count > 1] == []


def test_no_name_is_defined_twice() -> None:
    """No public top-level function or class name is defined in two modules."""
    names = Counter(
        node.name
        for path in MODULES
        for node in ast.parse(path.read_text("utf-8")).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
    )
    assert [name for name, count in names.items() if count > 1] == []


def test_one_broad_except() -> None:
    """One boundary catches Exception, and one door of a library that raises nothing narrower."""
    broad = [
        path.name
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or ast.unparse(node.type) == "Exception")
    ]
    assert sorted(broad) == ["main.py", "tokenizer.py"]


def test_no_drawer_rooms() -> None:
    """No module is a drawer for what has no place: utils, common, helpers."""
    assert not {"utils", "common", "helpers"} & {path.stem for path in MODULES}


@pytest.mark.parametrize(
    "code", ["import routectl", "from routectl.cli.main import main; main([])"]
)
def test_nothing_heavy_is_loaded_at_start(code: str) -> None:
    """``import routectl`` and ``routectl --help`` load no heavy library."""
    heavy = ["numpy", "numba", "torch", "pyarrow", "rich", "safetensors", "transformers", "wandb"]
    check = f"{code}\nimport sys\nprint([m for m in {heavy} if m in sys.modules], file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


def test_help_loads_no_command() -> None:
    """``routectl --help`` loads the room of no command, and each is there under its name."""
    code = (
        "import sys, importlib\n"
        "from routectl.cli.main import app, main, _COMMANDS\n"
        "main(['--help'])\n"
        "print([n for n in _COMMANDS if f'routectl.cli.{n}' in sys.modules], file=sys.stderr)\n"
        "rooms = {n: importlib.import_module(f'routectl.cli.{n}') for n in _COMMANDS}\n"
        "print(all(hasattr(room, f'{n}_command') for n, room in rooms.items()), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.split() == ["[]", "True"]


def test_public_names_resolve() -> None:
    """Every name in routectl.__all__ can be fetched, and an unknown one is an AttributeError."""
    import routectl

    for name in routectl.__all__:
        assert getattr(routectl, name) is not None
    assert set(routectl.__all__) <= set(dir(routectl))
    with pytest.raises(AttributeError, match="nothing_here"):
        _ = routectl.nothing_here
