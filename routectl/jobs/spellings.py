"""Old spellings of options, with what is written now: of the command line and of ci's config.

They are looked up where a line or a key is refused, so that none hides an option of today.
"""

from collections.abc import Mapping

__all__ = ["ALONE", "OLD", "POSITIONAL", "key_now"]

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
        ("rows", "n-1"),
        ("context", "N"),
    )
}
_VERIFIED = {
    f"--{name}": f"--layout {name}={value}"
    for name, value in (
        ("framework", "NAME"),
        *((name, "N") for name in ("tp", "cp", "pp", "vpp", "ep", "dp", "max-tokens-per-gpu")),
        ("balance", "HOW"),
        ("plan", "PLAN.json"),
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
    "convert": {
        **_MODEL,
        "--format": _READING["--format"],
        "--start": _READING["--start"],
        "--tokens-from": "SRC::tokens=FILE",
    },
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
    "verify": {**_READING, **_LAYOUT, **_VERIFIED},
    "layout": {**_READING, **_LAYOUT},
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
ALONE = {  # an option with which one argument too many is another one
    (
        "check",
        "--rules",
    ): "check --rules takes a finding's code and no dump: check --rules CODE",
}
POSITIONAL = {  # one argument too many: how many there are then, and what is typed now
    "check": (2, "check takes one dump; what it is held against is check DUMP --against REFERENCE"),
    "convert": (2, "convert SRC DST is now: convert SRC --save DST"),
}


def key_now(verb: str, key: str) -> str | None:
    """What stands in a config in place of an old key of a verb; None for another key."""
    new = OLD[verb].get(f"--{key}")
    if new is None or not new.startswith("--"):
        return new
    name, _, value = new.removeprefix("--").partition(" ")
    return f'{name} = "{value}"'
