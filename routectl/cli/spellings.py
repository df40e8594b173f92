"""Old spellings of the command line, each answered with the new one in one line.

They are looked up where a command line is refused, so that none hides an option of today.
"""

from collections.abc import Iterator, Mapping, Sequence

from .commands import COMMANDS, SHARED

__all__ = ["OLD", "POSITIONAL", "said_now"]

_MODEL = {
    "--num-layers": "--model LAYERS,K,E",
    "--top-k": "--model LAYERS,K,E",
    "--num-experts": "--model LAYERS,K,E",
}
_READING = {
    **_MODEL,
    "--format": "PATH::format=FORMAT, of each input",
    "--start": "PATH::start=N, of each input",
    "--base": "PATH::base=DUMP, of each input",
}
_SCALARS = {
    "--tensorboard": "routectl report RESULT.json --tensorboard DIR",
    "--wandb-offline": "routectl report RESULT.json --wandb-offline DIR",
    "--step": "routectl report RESULT.json --tensorboard DIR --step N",
}
_DETAIL = {"--detail": "-o NAME.json, which has it"}
_FORWARD = {
    f"--{name}": f"--forward {name}={value}"
    for name, value in (
        ("mode", "MODE"),
        ("device", "DEVICE"),
        ("dtype", "DTYPE"),
        ("streaming", "HOW"),
        ("threads", "N"),
        ("attention", "NAME"),
        ("experts", "NAME"),
        ("max-tokens-per-pass", "N"),
    )
}
_LAYOUT = {
    f"--{name}": f"--layout {name}={value}"
    for name, value in (
        ("form", "FORM"),
        ("seq-len", "N"),
        ("pad-multiplier", "N"),
        ("sample-multiple", "N"),
        ("min-local-rows", "N"),
        ("bucket", "N"),
        ("fp8", "RECIPE"),
        ("decoder-layers", "N"),
        ("first-stage-layers", "N"),
        ("last-stage-layers", "N"),
        ("account-embedding", "true"),
        ("account-loss", "true"),
        ("pipeline-layout", "LAYOUT"),
        ("moe-layer-freq", "FREQ"),
    )
}
_SAVE = {"-o": "--save DST", "--output": "--save DST"}

OLD: Mapping[str, Mapping[str, str]] = {  # by command, then by flag; what is typed now
    "show": {**_READING, **_DETAIL},
    "diff": {**_READING, **_DETAIL, **_SCALARS},
    "check": {
        **_READING,
        **_SCALARS,
        "--explain": "check --rules CODE",
        "--apply-fix": "--save FIXED.parquet",
    },
    "convert": _READING,
    "recompute": _READING,
    "staleness": {
        **_READING,
        **_DETAIL,
        **_SCALARS,
        **_FORWARD,
        "--logprobs": "--forward logprobs=true",
        "--no-logprobs": "--forward logprobs=false",
        "--gate-logprobs": "--forward gate-logprobs=true",
        "--no-gate-logprobs": "--forward gate-logprobs=false",
        "--cache": "the cache of the user: routectl cache",
        "--own": "--version-map =NAME",
        "--rows": "--method rows=WHICH",
        "--cached": "--method cached=HOW",
        "--clusters": "--method clusters=WHAT",
        "--level": "--method level=N",
        "--examples": "--method examples=N",
    },
    "predict": {
        **_READING,
        "--fit": "predict fit",
        "--eval": "predict judge",
        "--emit": "predict write",
    },
    "pack": {
        **_READING,
        **_LAYOUT,
        "-o": "--save DIR",
        "--output": "--save DIR",
        "--explain": "routectl layout DUMP",
        "--lens": "routectl layout --lens N,N",
        "--verify": "routectl verify DIR --against DUMP",
        "--against": "routectl verify DIR --against DUMP",
    },
    "unpack": _SAVE,
    "report": {},
    "ci": {**_SCALARS, "--badge": "routectl report RESULT.json --badge PATH"},
    "capture": {
        **_MODEL,
        **_SAVE,
        "--served-model": "--request model=NAME",
        "--backoff": "nothing: it is 0.5 s, doubled with each try",
    },
    "watch": _READING,
}
POSITIONAL = {"convert": ("DST", 2, "--save DST")}  # the word, how many there are now and more


def said_now(words: Sequence[str]) -> str | None:
    """What a refused command line should say: of an old spelling, or of an option of others.

    None where it has neither, or where the command has the option.
    """
    command = words[0] if words else ""
    if command not in COMMANDS:
        return None
    own = set(_own_flags(command))
    for flag in map(_flag, _before_dashes(words[1:])):
        if flag in own:
            continue
        new = OLD.get(command, {}).get(flag)
        if new is not None:
            return f"{command} {flag} is now: {new}"
        if flag in _shared_flags():
            return f"{command} has no use for {flag}"
    return _positional(command, words[1:])


def _positional(command: str, words: Sequence[str]) -> str | None:
    """The answer to one argument too many, where it once had a place."""
    if command not in POSITIONAL:
        return None
    name, count, new = POSITIONAL[command]
    given = [word for word in words if not word.startswith("-") or word == "-"]
    return f"{command} SRC {name} is now: {command} SRC {new}" if len(given) >= count else None


def _before_dashes(words: Sequence[str]) -> Sequence[str]:
    return words[: words.index("--")] if "--" in words else words


def _flag(word: str) -> str:
    """The option that a word names: --json of --json=1, -o of -oPATH."""
    return word.partition("=")[0] if word.startswith("--") else word[:2]


def _shared_flags() -> set[str]:
    """The names of shared options."""
    return {told.split()[0] for told in SHARED} | {"--output"}


def _own_flags(command: str) -> Iterator[str]:
    """The options that a command has today, those of its group."""
    from .commands import functions_of

    for function in functions_of(command).values():
        for one, about in function.options:
            yield f"--{about.flag}"
            if about.short is not None:
                yield f"-{about.short}"
            if one.type == bool | None:
                yield f"--no-{about.flag}"
