"""A checkpoint and dumps that several processes run, and how a command line is run outside."""

import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np

from routectl import Routes
from routectl.cli.main import main
from routectl.dump import DumpMeta, Sample
from routectl.formats.native.container import write_native
from routectl.forward import RunOptions, prepare
from routectl.jobs.reading import open_input
from routectl.jobs.recompute.parts import open_parts
from routectl.jobs.recompute.samples import job_of, modes_of
from routectl.jobs.recompute.share import DeviceWork, do_work
from support import families

LENS = (3, 9, 5, 14, 6, 2, 2)
EXACT = ("--threads", "1", "--streaming", "plain", "--dtype", "float32")
BOTH = ("--mode", "both", "--logprobs")


def dump_of(path, lens, layers, *, bare=()):
    """A dump of random tokens with random routes; samples of these numbers have no token ids."""
    rng = np.random.default_rng(2)
    samples = []
    for i, n in enumerate(lens):
        ids = None if i in bare else rng.integers(3, 100, n).astype(np.int32)
        held = rng.random((n - 1, len(layers), 16)).argsort(-1)[..., :4].astype(np.uint8)
        samples.append(
            Sample(
                Routes(held, layers, 16),
                sample_id=f"s{i}",
                prompt_ids=None if ids is None else ids[:1],
                response_ids=None if ids is None else ids[1:],
                prompt_length=1,
                response_length=n - 1,
            )
        )
    write_native(samples, DumpMeta("-", "native", layers, 16, 4), path, force=False)
    return path


def make_folder(place, long=(400,) * 300):
    """A tiny checkpoint, dumps, and what one process writes of one of them in mode both; ``long``
    are the lengths of long.parquet.
    """
    model = families.tiny("deepseek_v3")
    model.save_pretrained(place / "checkpoint")
    layers = tuple(families.routers(model))
    dump_of(place / "dump.parquet", LENS, layers)
    dump_of(place / "long.parquet", long, layers)
    dump_of(place / "bare.parquet", LENS, layers, bare=(5,))
    assert main([str(word) for word in command(place, place / "one.parquet", *BOTH)]) == 0
    return place


def command(folder, output, *more, dump="dump.parquet"):
    """The words of a command line."""
    return ("recompute", folder / "checkpoint", folder / dump, "--save", output, *EXACT, *more)


def is_what_one_process_writes(folder, output):
    """Both files are byte for byte those of one process, and nothing else is left."""
    for mine, one in (
        (output, "one.parquet"),
        (output.with_suffix(".forced.parquet"), "one.forced.parquet"),
    ):
        assert mine.read_bytes() == (folder / one).read_bytes()
    assert not Path(f"{output}.partial").exists()


def outside(*words, launcher=("-m", "routectl")):
    """A command line as a process of its own, which hears Ctrl-C though the tests may not."""
    return subprocess.Popen(
        [sys.executable, *launcher, *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def finished(process):
    """Exit code and stderr of a process that ends by itself."""
    _, err = process.communicate(timeout=120)
    return process.returncode, err


def work_by_hand(folder, output):
    """What a process is told that does some samples of dump.parquet as ``BOTH`` says; its folder
    of parts is made.
    """
    options = RunOptions(
        checkpoint=folder / "checkpoint",
        dtype="float32",
        mode="both",
        streaming="plain",
        want_logprobs=True,
        check_tokens=64,
    )
    opened = partial(open_input, str(folder / "dump.parquet"), folder / "checkpoint")
    job = job_of(prepare(options), opened())
    open_parts(output, job, modes_of(options), resume=False)
    return DeviceWork(options=options, open_source=opened, indices=(), output=output)


def do_by_hand(folder, output, *shares):
    """What several processes leave that were killed when these samples were done."""
    work = work_by_hand(folder, output)
    for share in shares:
        do_work(work.given(share), print)


def opened_or_killed(log, opened):
    """A dump; the first process that asks for it is killed, and the log says so."""
    if not log.exists():
        log.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return opened()


def only_finished_parts_are_left(place):
    """A folder of parts, where one was finished before the failure; else nothing."""
    if not (place / "r.parquet.partial").exists():
        assert list(place.iterdir()) == []
        return
    names = [path.name for path in (place / "r.parquet.partial").iterdir()]
    assert any(name.endswith(".free.parquet") for name in names)
