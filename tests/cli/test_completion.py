"""Completion: what is offered, and that bash, zsh and fish themselves complete by it."""

import os
import pty
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from routectl.cli.words.commands import COMMANDS, command_lines
from routectl.cli.words.completion import completed
from routectl.cli.words.scripts import SCRIPTS
from routectl.codecs import CODECS
from routectl.formats.targets.table import TARGETS
from routectl.jobs.diff.request import DiffRequest
from routectl.jobs.options import options_of
from routectl.layouts.rules import FRAMEWORKS
from routectl.limits import Limits
from routectl.ops.check.book.findings import known_codes
from routectl.ops.diff.metrics import METRICS
from support.shell import complaint, run

ROOT = Path(__file__).parent.parent.parent


def offered(*words):
    """The words that are offered; None for files."""
    kind, *lines = completed("fish", words).splitlines()
    return [line.partition("\t")[0] for line in lines] if kind == "words" else None


def test_commands():
    """Every command is offered with what it is, and help; help X goes on as X."""
    assert offered("") == [*COMMANDS, "help"]
    assert offered("help", "sta") == ["staleness"]
    assert f"diff\t{COMMANDS['diff']}\n" in completed("zsh", ["di"])
    assert offered("--plain", "--limit", "cell=1GB", "di") == ["diff"]


@pytest.mark.parametrize("line", [line for line, _ in command_lines()])
def test_every_option_is_offered(line):
    """Each option of each command is offered after a dash, shared and global ones among them."""
    found = offered(*line.split(), "-")
    for one, about in dict(command_lines())[line].options:
        assert about.positional or f"--{about.flag}" in found
        assert one.type != bool | None or f"--no-{about.flag}" in found
    assert {"--plain", "--limit", "--help"} <= set(found)
    assert len(found) == len(set(found))


def test_values():
    """Choices, names for thresholds and budgets after their options; nothing for a number."""
    choices = {one.name: about.choices for one, about in options_of(DiffRequest)}
    assert offered("diff", "a", "b", "--match", "") == list(choices["match"])
    assert offered("diff", "--tokens", "re") == ["response"]
    assert offered("diff", "--tokens=re") == ["--tokens=response"]
    assert offered("diff", "--fail-over", "") == [f"{metric.name}:" for metric in METRICS]
    assert offered("check", "x", "--select", "R001,R7")[:2] == ["R001,R701", "R001,R702"]
    assert offered("--limit", "") == [f"{name}=" for name in Limits.__dataclass_fields__]
    assert offered("diff", "--eps", "") == []
    assert offered("pack", "x", "--layout", "tp=2,mo") == ["tp=2,moe-layer-freq="]
    assert offered("layout", "--layout", "mic") == ["micro-batch-size="]
    assert offered("pack", "x", "--layout", "") is offered("pack", "x", "--layout", "run.y") is None
    assert offered("--completion", "") == ["bash", "zsh", "fish"]


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (("convert", "x", "--codec"), (*CODECS, "auto")),
        (("convert", "x", "--to"), [target.name for target in TARGETS]),
        (("pack", "x", "--framework"), FRAMEWORKS),
        (("layout", "--framework"), FRAMEWORKS),
        (("check", "x", "--select"), known_codes()),
        (("check", "x", "--ignore"), known_codes()),
        (("diff", "x", "y", "--fail-under"), [f"{metric.name}:" for metric in METRICS]),
        (("staleness", "x", "--fail-over"), ["staleness:", "total_f2:", "mismatch:"]),
        (("staleness", "x", "--method"), ["rows=dump", "clusters=prompt", "level="]),
        (("diff", "x", "y", "--forward"), ["mode=forced", "device=", "streaming=stream"]),
    ],
)
def test_names(words, names):
    """Names of codecs, targets, frameworks, codes, metrics and keys come after their options."""
    assert set(names) <= set(offered(*words, ""))


def test_files():
    """Files where a path is to come, and nothing after the last argument."""
    assert offered("diff", "") is None
    assert offered("diff", "a", "--html", "x") is None
    assert offered("diff", "a", "b", "") == []
    assert offered("report", "a", "b", "c", "") is None
    assert offered("diff", "--", "--m") is None
    assert offered("nothing", "x") == []


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        ("routectl di", "diff"),
        ("routectl diff --tokens=re", "response"),  # bash keeps what is before =
        ("routectl diff --fail-over mism", "mismatch:"),
        ("routectl 'di", "diff"),
        ('routectl "di', "diff"),
    ],
)
def test_the_line_of_bash(line, answer):
    """bash hands over its line, quotes that are open too, and replaces what is after = or :."""
    kind, *lines = completed("bash", [line]).splitlines()
    assert (kind, [one.partition("\t")[0] for one in lines]) == ("words", [answer])


def test_scripts(capsys):
    """--completion prints the script of a shell; another one is refused with the list."""
    for shell, script in SCRIPTS.items():
        assert run(capsys, "--completion", shell).out == script
    assert "is not known: bash, zsh, fish" in complaint(capsys, "--completion", "tcsh")


def test_it_is_fast():
    """Names of commands load no numpy; options load nothing that compiles or draws."""
    code = (
        "import sys\n"
        "from routectl.cli.main import main\n"
        "main(['--complete', 'fish', 'di'])\n"
        "print('numpy' in sys.modules, file=sys.stderr)\n"
        "for words in (['diff', '--'], ['pack', '--framework', 've'], ['check', 'x']):\n"
        "    main(['--complete', 'fish', *words])\n"
        "print({'numba', 'torch', 'pyarrow', 'rich'} & set(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.split() == ["False", "set()"]


TYPED = (  # keys, and the command line that is run then
    ("di\t a b --matc\tto\t", "diff a b --match tokens"),
    ("diff a b --fail-over mism\t3%", "diff a b --fail-over mismatch:3%"),
    ("show so\t", "show some.jsonl"),
    ("show x --html=so\t", "show x --html=some.jsonl"),
    ("--limit ce\t1GB show x", "--limit cell=1GB show x"),
    ("help stale\t", "help staleness"),
)
START = {
    "bash": (["--norc", "--noprofile", "-i"], 'eval "$(routectl --completion bash)"'),
    "zsh": (
        ["-f", "-i"],
        'autoload compinit; compinit -uD; eval "$(routectl --completion zsh)"',
    ),
    "fish": (["--no-config", "-i"], "routectl --completion fish | source"),
}


@pytest.mark.slow
@pytest.mark.parametrize("shell", START)
def test_a_shell_completes(tmp_path, shell):
    """Keys with tabs, typed into the shell itself, run the whole command lines."""
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"{shell} is not installed")
    log = tmp_path / "log"
    command = tmp_path / "bin" / "routectl"
    command.parent.mkdir()
    command.write_text(
        "#!/bin/sh\n"
        f'case "$1" in --complet*) exec "{sys.executable}" -m routectl "$@";; esac\n'
        f'echo "$*" >> "{log}"\n',
        "utf-8",
    )
    command.chmod(0o755)
    (tmp_path / "some.jsonl").write_text("", "utf-8")
    words, begin = START[shell]
    environment = {
        "PATH": f"{command.parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "HOME": str(tmp_path),
        "TERM": "xterm",
        "LC_ALL": "C.UTF-8",
    }
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(tmp_path)
        os.execve(program, [shell, *words], environment)
    try:
        for keys in (begin, *(f"routectl {keys}" for keys, _ in TYPED)):
            before = lines_of(log)
            os.write(terminal, f"{keys}\r".encode())
            deadline = time.monotonic() + 30
            while keys is not begin and lines_of(log) == before and time.monotonic() < deadline:
                time.sleep(0.05)
                drain(terminal)
    finally:
        os.write(terminal, b"exit\r")
        os.close(terminal)
        os.waitpid(pid, 0)
    assert lines_of(log) == [line for _, line in TYPED]


def lines_of(path):
    """The lines of a file that may not be there yet."""
    return path.read_text("utf-8").splitlines() if path.exists() else []


def drain(terminal):
    """Read what is there, so that the shell can go on writing."""
    import select

    while select.select([terminal], [], [], 0)[0]:
        os.read(terminal, 65536)
