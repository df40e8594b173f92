"""The house read as text: its files, what each imports, circles.

Imports count wherever they stand, inside functions and for types too. ``python -m support.house``,
run in tests/, prints the counts.
"""

import ast
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

__all__ = [
    "FLOORS",
    "HOUSE",
    "arrows_of",
    "circles_of",
    "files_of_house",
    "floor_of",
    "foreign_of",
    "goes_up",
    "imports_of",
    "package_of",
    "tree_of",
]

HOUSE = Path(__file__).parent.parent.parent / "routectl"
FLOORS = {
    0: (
        "errors",
        "files",
        "gate_logprobs",
        "columns",
        "keys",
        "margins",
        "routes",
        "dump",
        "damage",
        "model",
        "version",
        "limits",
        "visible",
        "layouts",
        "pickled",
    ),
    1: ("kernels", "routers", "codecs"),
    2: ("formats", "checkpoints", "forward", "engines", "ops"),
    3: ("reports",),
    4: ("jobs", "trainers", "loading"),
    5: ("cli",),
    6: ("__init__", "__main__"),
}


@cache
def files_of_house() -> Mapping[str, Path]:
    """Every file by its name: ``ops.diff.counts``; a package's own is that of its ``__init__``."""
    found = {}
    for path in sorted(HOUSE.rglob("*.py")):
        parts = path.relative_to(HOUSE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" and parts[:-1] else parts)] = path
    return found


@cache
def tree_of(path: Path) -> ast.Module:
    """A file parsed."""
    return ast.parse(path.read_text("utf-8"))


def _base(path: Path, node: ast.ImportFrom) -> list[str]:
    """The package or module that a relative import starts from."""
    here = list(path.relative_to(HOUSE).parent.parts)
    return here[: len(here) - node.level + 1] + (node.module or "").split(".") * bool(node.module)


@cache
def imports_of(name: str) -> frozenset[str]:
    """The files of the house that a file imports."""
    files, path, found = files_of_house(), files_of_house()[name], set()
    for node in ast.walk(tree_of(path)):
        if not (isinstance(node, ast.ImportFrom) and node.level):
            continue
        base = ".".join(_base(path, node))
        for alias in node.names:
            whole = f"{base}.{alias.name}" if base else alias.name
            found.add(next(one for one in (whole, base, "__init__") if one in files))
    return frozenset(found - {name})


def foreign_of(path: Path) -> set[str]:
    """Packages from elsewhere that a file loads, anywhere; those for types alone are not loaded."""
    tree = tree_of(path)
    blocks = [
        n for n in tree.body if isinstance(n, ast.If) and "TYPE_CHECKING" in ast.unparse(n.test)
    ]
    unloaded = {node for block in blocks for part in block.body for node in ast.walk(part)}
    found = set()
    for node in set(ast.walk(tree)) - unloaded:
        if isinstance(node, ast.ImportFrom) and not node.level:
            found.add((node.module or "").split(".")[0])
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
    return found


def package_of(name: str) -> str:
    """The package that a file is in: ``ops.diff``; a file at the root is one of its own."""
    path = files_of_house()[name]
    return ".".join(path.relative_to(HOUSE).parent.parts) or name


def floor_of(package: str) -> int:
    """The floor of a package."""
    first = package.split(".")[0]
    return next(floor for floor, names in FLOORS.items() if first in names)


def arrows_of() -> dict[str, set[str]]:
    """Which packages each package imports."""
    found: dict[str, set[str]] = {package_of(name): set() for name in files_of_house()}
    for name in files_of_house():
        found[package_of(name)] |= {package_of(other) for other in imports_of(name)}
    return {package: others - {package} for package, others in found.items()}


def goes_up(package: str, other: str) -> bool:
    """Whether an arrow climbs: to a higher floor, or from verbs to doors or back."""
    own, floor = floor_of(package), floor_of(other)
    sides = {package.split(".")[0] == "ops", other.split(".")[0] == "ops"}
    return floor > own or (floor == own == 2 and len(sides) == 2)


def circles_of(edges: Mapping[str, Iterable[str]]) -> list[list[str]]:
    """Circles of a graph, each as the names along it; none where it has an order."""
    state: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        state[node] = 1
        stack.append(node)
        for other in sorted(edges[node]):
            if state.get(other) == 1:
                found.append([*stack[stack.index(other) :], other])
            elif other not in state:
                visit(other)
        stack.pop()
        state[node] = 2

    for node in sorted(edges):
        if node not in state:
            visit(node)
    return found


def report() -> str:
    """The house in one line: packages, arrows, circles, arrows up."""
    arrows = arrows_of()
    up = [(a, b) for a, others in arrows.items() for b in others if goes_up(a, b)]
    circles = circles_of({name: imports_of(name) for name in files_of_house()})
    circles += circles_of(arrows)
    return (
        f"{len(files_of_house())} files, {len(arrows)} packages, "
        f"{sum(map(len, arrows.values()))} arrows, {len(circles)} circles, {len(up)} arrows up"
    )


if __name__ == "__main__":
    print(report())
