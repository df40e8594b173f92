"""What every file of the house keeps: sizes, names, libraries at home."""

import ast
import re
from collections import Counter

from support.house import HOUSE, files_of_house, foreign_of, tree_of

HOMES = {  # the files and folders that may load a heavy library
    "numba": ("kernels/", "codecs/", "routers/top_k.py"),
    "fsspec": ("files/fsspec_store.py",),
    "botocore": ("files/parts.py",),
    "pyarrow": (
        *("files/arrow_store.py", "formats/native/", "reports/tables/", "jobs/shards/partials.py"),
    ),
    "safetensors": ("formats/arrays/files.py", "checkpoints/", "forward/"),
    "typer": ("cli/",),
    "rich": ("cli/", "reports/"),
    "torch": (
        "forward/",
        "loading.py",
        "routers/maths.py",
        "checkpoints/tensors.py",
        "checkpoints/router_inputs.py",
        "formats/targets/jagged.py",
        "ops/predict/",
        "trainers/",
    ),
    "transformers": ("forward/", "trainers/transformers.py"),
    "megatron": ("trainers/megatron.py", "trainers/micro_batches.py", "trainers/roll.py"),
    "greenlet": ("forward/streaming.py",),
    "tensordict": ("formats/targets/jagged.py",),
    "tensorboardX": ("reports/ci/dashboards.py",),
    "wandb": ("reports/ci/dashboards.py",),
    "tokenizers": ("formats/tokenizer.py",),
    "ray": ("jobs/cluster/",),
    "zstandard": ("codecs/", "formats/wire/fireworks.py", "formats/native/pages.py"),
}
FACADE = (  # named as the verbs that they ask
    *("check", "diff", "open_dump", "pack", "staleness", "summarize", "unpack"),
)
BROAD = [  # boundaries, and libraries that are vague
    *(
        "cli/main.py",
        "files/fsspec_store.py",
        "formats/tokenizer.py",
        "forward/skeleton.py",
        "jobs/ci/runs.py",
    ),
    "jobs/shards/worker.py",
]


def place(path):
    """A file as it is named here: ``ops/diff/counts.py``."""
    return path.relative_to(HOUSE).as_posix()


def nodes(*kinds):
    """Every node of some kinds in the house, with its file."""
    for path in files_of_house().values():
        for node in ast.walk(tree_of(path)):
            if isinstance(node, kinds):
                yield path, node


def public_names():
    """The public functions and classes of every file, one by one."""
    for path in files_of_house().values():
        for node in tree_of(path).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                yield path, node.name


def twice(names):
    """Names that are there more than once."""
    return sorted(name for name, count in Counter(names).items() if count > 1)


def test_heavy_libraries_stay_at_home():
    """Each heavy library is imported only in its declared homes, and click nowhere."""
    strays = [
        f"{place(path)} imports {name}"
        for path in files_of_house().values()
        for name in foreign_of(path)
        if name == "click" or (name in HOMES and not place(path).startswith(HOMES[name]))
    ]
    assert strays == []


def test_files_are_one_idea():
    """A file has at most 400 lines, and so has a script of the page."""
    paths = [*files_of_house().values(), *HOUSE.rglob("*.js")]
    lengths = {place(path): len(path.read_text("utf-8").splitlines()) for path in paths}
    assert {name: lines for name, lines in lengths.items() if lines > 400} == {}


def test_functions_are_short():
    """A function has at most 60 lines, and six parameters; compiled loops have more."""
    long, wide = [], []
    for path, node in nodes(ast.FunctionDef):
        where = f"{place(path)}: {node.name}"
        if (node.end_lineno or 0) - node.body[0].lineno >= 60:
            long.append(where)
        arguments = node.args.posonlyargs + node.args.args + node.args.kwonlyargs
        count = len([a for a in arguments if a.arg not in ("self", "cls")])
        if count > 6 and not any("njit" in ast.unparse(d) for d in node.decorator_list):
            wide.append(where)
    assert (long, wide) == ([], [])


def test_folders_are_walked_in_a_minute():
    """At most 14 files stand at the root, at most 25 in a folder, and the desk is thin."""
    folders = Counter(path.parent for path in HOUSE.rglob("*.py"))
    assert folders.pop(HOUSE) <= 14
    assert {place(folder): n for folder, n in folders.items() if n > 25} == {}
    desk = [path.read_text("utf-8").count("\n") for path in (HOUSE / "cli").rglob("*.py")]
    assert sum(desk) < 3000


def test_the_formatter_is_overridden_for_tables_alone():
    """``# fmt: skip`` stands under 40 times, each at the end of a literal table."""
    skips = [
        f"{place(path)}:{number}: {line}"
        for path in files_of_house().values()
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1)
        if "fmt: " in line
    ]
    assert len(skips) < 40
    assert [one for one in skips if not re.search(r": +[)}\]]  # fmt: skip$", one)] == []


def test_public_names_are_listed():
    """A file with public names lists them in ``__all__``, each once, and all of them."""
    listed = {}
    for path, node in nodes(ast.Assign):
        if ast.unparse(node.targets[0]) == "__all__":
            assert path not in listed, place(path)
            listed[path] = ast.literal_eval(node.value)
            assert twice(listed[path]) == [], place(path)
    bare = {"__init__.py", "__main__.py"}
    unlisted = [p for p in files_of_house().values() if p.name not in bare and p not in listed]
    assert unlisted == []
    assert [name for path, name in public_names() if name not in listed.get(path, [name])] == []


def test_no_name_is_defined_twice():
    """No public function or class has the name of another one, but for the facade of the verbs."""
    facade = HOUSE / "jobs" / "library"
    named = [(path.parent == facade, name) for path, name in public_names()]
    assert twice(name for ours, name in named if not ours) == []
    assert twice({(ours, name): name for ours, name in named}.values()) == sorted(FACADE)


def test_no_script_defines_a_name_twice():
    """Scripts of the page share one scope: no name is defined in two of them."""
    lines = [line for path in HOUSE.rglob("*.js") for line in path.read_text("utf-8").splitlines()]
    found = (re.match(r"(?:function|const|let|class) (\w+)", line) for line in lines)
    assert twice(match[1] for match in found if match) == []


def test_no_drawers():
    """No file is a drawer for what has no place, and no class a manager or a handler."""
    stems = {path.stem for path in files_of_house().values()}
    assert not {"utils", "common", "helpers", "misc"} & stems
    names = [node.name for _, node in nodes(ast.ClassDef)]
    assert [name for name in names if name.endswith(("Manager", "Handler"))] == []


def test_one_broad_except():
    """Three boundaries catch Exception, and three doors of libraries that raise all sorts."""
    broad = [
        place(path)
        for path, node in nodes(ast.ExceptHandler)
        if node.type is None or ast.unparse(node.type) == "Exception"
    ]
    assert sorted(broad) == BROAD
