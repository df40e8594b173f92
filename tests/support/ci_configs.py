"""Configs of routectl ci."""

import json

from support.tiny_rl import ENGINE, TINY

__all__ = ["CHECK", "DIFF", "EXACT", "V0", "V1", "V2", "config", "toml", "written"]

V0, V1, V2 = (
    TINY / name for name in ("routes_v0.fp32.npz", "transformers_v1.fp32.npz", "routes_v2.fp32.npz")
)
DIFF = {"verb": "diff", "old": str(ENGINE), "new": str(V0)}


CHECK = {"verb": "check", "dump": str(ENGINE)}


EXACT = {"verb": "diff", "old": str(V0), "new": str(V0)}


def written(value):
    """A value as TOML: JSON's numbers, lists and strings, but for characters beyond 16 bits."""
    if not isinstance(value, str) or max(value, default="") < "\U00010000":
        return json.dumps(value)
    codes = "".join(f"\\U{ord(c):08x}" for c in value)
    return f'"{codes}"'


def toml(table, prefix="checks"):
    """Checks as TOML."""
    lines = []
    for name, words in table.items():
        lines.append(f"[{prefix}.{written(name)}]")
        lines += [f"{key} = {written(value)}" for key, value in words.items()]
    return "\n".join(lines) + "\n"


def config(folder, name="ci.toml", **checks):
    """A config with checks."""
    path = folder / name
    path.write_text(toml(checks), "utf-8")
    return path
