"""Configs of routectl ci."""

import json

from support.tiny_rl import ENGINE, TINY

__all__ = ["CHECK", "DIFF", "EXACT", "V0", "V1", "V2", "config", "toml"]

V0, V1, V2 = (
    TINY / name for name in ("routes_v0.fp32.npz", "transformers_v1.fp32.npz", "routes_v2.fp32.npz")
)
DIFF = {"verb": "diff", "old": str(ENGINE), "new": str(V0)}


CHECK = {"verb": "check", "dump": str(ENGINE)}


EXACT = {"verb": "diff", "old": str(V0), "new": str(V0)}


def toml(table, prefix="checks"):
    """Checks as TOML: JSON's strings, numbers and lists are those of TOML."""
    lines = []
    for name, words in table.items():
        lines.append(f"[{prefix}.{json.dumps(name)}]")
        lines += [f"{key} = {json.dumps(value)}" for key, value in words.items()]
    return "\n".join(lines) + "\n"


def config(folder, name="ci.toml", **checks):
    """A config with checks."""
    path = folder / name
    path.write_text(toml(checks), "utf-8")
    return path
