"""How files are opened: in one place, so that a FIFO or a device is met nowhere else."""

import ast

from support.house import HOUSE, files_of_house, tree_of

READS = {  # what opens a path by itself, and where it may: after a look at it, or its own files
    "safe_open": ("formats/arrays/files.py", "checkpoints/predictor.py", "forward/weights.py"),
    "open": (
        "files/reading.py",
        "files/writing.py",
        "files/streams.py",
        "files/private.py",
        "cli/services.py",
    ),
    ".open": ("files/streams.py", "engines/journal.py", "jobs/pack/spool.py"),
    ".read_text": ("forward/devices.py", "reports/page/page.py", "files/temporaries.py"),
    ".read_bytes": (),
    ".OSFile": (),
    ".memory_map": (),
    ".load": (),
}


def _opens(call):
    """What a call opens a path with, of READS; None for another call."""
    if isinstance(call.func, ast.Name):
        return call.func.id if call.func.id in READS else None
    if not isinstance(call.func, ast.Attribute) or f".{call.func.attr}" not in READS:
        return None
    modes = [a.value for a in call.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
    if call.func.attr == "open" and not any(set(mode) <= set("rwabx+t") for mode in modes):
        return None
    if call.func.attr == "load" and ast.unparse(call.func.value) not in ("np", "numpy", "torch"):
        return None
    return f".{call.func.attr}"


def test_paths_are_opened_in_one_place():
    """No file of the house opens a path to read it but through files/reading.py."""
    strays = []
    for file in files_of_house().values():
        place = file.relative_to(HOUSE).as_posix()
        for call in ast.walk(tree_of(file)):
            kind = _opens(call) if isinstance(call, ast.Call) else None
            if kind is not None and place not in READS[kind] and not _writes(call):
                strays.append(f"{place}:{call.lineno}: {ast.unparse(call)[:60]}")
    assert strays == []


def _writes(call):
    """Whether a call opens a file to write it anew."""
    modes = [a.value for a in call.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
    return any(set(mode) & set("wx") for mode in modes)
