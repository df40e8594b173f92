"""Who writes files: ``files/`` alone, which does it whole or not at all; the others are listed."""

import ast

from support.house import HOUSE, files_of_house, tree_of

WRITERS = {  # what writes, or makes or removes a name, and stands outside files/
    "cli/words/help.py": {"write_text"},  # of a help's formatter, and no file
    "cli/main.py": {"os.open"},  # stdout, led to the null device
    "cli/start.py": {"os.open"},  # streams that are closed, led there too
    "cli/services.py": {"open"},  # adds to GitHub's summary of a step, which is its own
    "engines/journal.py": {"unlink"},  # the side file of a capture, which grows
    "formats/arrays/files.py": {"save_file"},  # a file of a folder that is not there yet
    "formats/replay/folder.py": {"mkdir", "write_text"},  # as above
    "formats/targets/bundle.py": {"open", "write_text"},  # as above
    "jobs/pack/spool.py": {"open"},  # a file of a scratch folder
    "jobs/pack/writing.py": {"unlink"},  # what killed workers left in a folder of ours
    "jobs/recompute/cache.py": {"os.open", "rmtree", "unlink"},  # entries that are let go of
    "jobs/recompute/parts.py": {"os.open", "rmdir", "unlink"},  # the parts'
    "reports/ci/dashboards.py": {"mkdir"},  # the dashboards' folders
    "formats/responses/records.py": {"SpooledTemporaryFile"},
}
MAKING = {
    *("write_text", "write_bytes", "save_file", "mkdir", "makedirs", "mkdtemp", "mkstemp"),
    *("TemporaryFile", "NamedTemporaryFile", "TemporaryDirectory", "SpooledTemporaryFile"),
    *("unlink", "rmtree", "rmdir", "touch", "symlink_to", "hardlink_to", "tofile", "savez"),
}
OF_OS = {"open", "replace", "rename", "remove", "truncate", "umask", "link", "symlink", "chmod"}


def mode_of(call):
    """What a call of open asks for: "r" when it says nothing."""
    at = 1 if isinstance(call.func, ast.Name) else 0
    given = [*call.args[at : at + 1], *(k.value for k in call.keywords if k.arg == "mode")]
    return next((a.value for a in given if isinstance(a, ast.Constant)), "r")


def writes_of(tree):
    """The calls in a file that write, or make or remove a name."""
    found = set()
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        name = call.func.attr if isinstance(call.func, ast.Attribute) else ""
        name = call.func.id if isinstance(call.func, ast.Name) else name
        if name in MAKING:
            found.add(name)
        elif ast.unparse(call.func) in {f"os.{of_os}" for of_os in OF_OS}:
            found.add(ast.unparse(call.func))
        elif name == "open" and set(str(mode_of(call))) & set("wax+"):
            of_member = ast.unparse(call.func) in ("archive.open", "self._archive.open")
            found |= set() if of_member else {name}
    return found


def test_files_are_written_in_one_room():
    """No file outside ``files/`` opens for writing, makes or removes a name, but those listed."""
    found = {}
    for path in files_of_house().values():
        place = path.relative_to(HOUSE).as_posix()
        writes = writes_of(tree_of(path))
        if writes and not place.startswith("files/"):
            found[place] = writes
    assert found == WRITERS


def test_the_umask_is_asked_of_nobody():
    """The umask is the process's, and reading it sets it: no file does."""
    assert [p for p in files_of_house().values() if "umask(" in p.read_text("utf-8")] == []


def test_a_writer_is_seen():
    """Each way to write is seen: by name, by mode, by module."""
    for text in ("open(p, 'w')", "p.open('ab+')", "os.open(p, 1)", "p.write_text('')"):
        assert writes_of(ast.parse(text))
    assert writes_of(ast.parse("open(p); p.open('rb'); s.replace('a', 'b')")) == set()
