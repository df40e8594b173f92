"""Changes of a tree of values: lists, dicts and leaves, as JSON, msgpack or TOML give them."""

import base64
import binascii
import copy

__all__ = ["ODD", "changed_text", "changed_tree"]

ODD = (
    *(None, True, False, 0, 1, -1, 2, 7, 127, 128, 255, 256, 65535, 65536, 2**31 - 1, 2**31),
    *(-(2**31) - 1, 2**32, 2**53, 2**63 - 1, 2**63, 2**64, 10**30, -(10**400)),
    *(0.0, -0.0, 0.5, 1e-320, 1e308, float("inf"), float("-inf"), float("nan")),
    *("", "x", "0", "-1", "1e5", "null", "\x00", "\n", "a\r::error::b", "\x1b[31mred", "\x9b2J"),
    *("\ud800", "\u202eabc", "=1+1", "../../../etc/passwd", "/dev/zero", "a/b", "x" * 300, "é" * 9),
    *("delta/1", "set/9", "bfloat16", "<i8", "|O", "routectl.native/9"),
    *([], {}, [[]], [None], [0], [-1], ["x"], {"a": 1}, [[1, 2], [3]], [[[0]]], {"": None}),
)  # fmt: skip
DEEPEST = 300


def changed_text(rng, text):
    """A string with something else in it; what is base64 of bytes, of other bytes."""
    if len(text) > 24 and rng.random() < 0.7:
        try:
            data = bytearray(base64.b64decode(text, validate=True))
        except (ValueError, binascii.Error):
            data = bytearray()
        if data:
            for _ in range(rng.randint(1, 3)):
                place = rng.randrange(min(len(data), 160)) if rng.random() < 0.5 else -1
                data[place if place >= 0 else rng.randrange(len(data))] = rng.randrange(256)
            cut = rng.choice((0, 0, 0, 1, 8, len(data) // 2))
            return base64.b64encode(bytes(data[: len(data) - cut])).decode("ascii")
    at = rng.randint(0, len(text))
    odd = rng.choice([one for one in ODD if isinstance(one, str)])
    return rng.choice((text[:at], text[at:], text[:at] + odd + text[at:], text * 2, odd))


def _changed_leaf(rng, value):
    if isinstance(value, str) and rng.random() < 0.5:
        return changed_text(rng, value)
    if isinstance(value, bytes) and value and rng.random() < 0.8:
        data = bytearray(value)
        data[rng.randrange(len(data))] = rng.randrange(256)
        return bytes(data[: len(data) - rng.choice((0, 0, 1, 4))])
    if isinstance(value, int) and not isinstance(value, bool) and rng.random() < 0.5:
        return rng.choice((value + 1, value - 1, -value, value * 2, value * 1000, float(value)))
    return copy.deepcopy(rng.choice(ODD))


def _changed_dict(rng, parent, key):
    how = rng.randrange(4)
    if how == 0:
        del parent[key]
    elif how == 1:
        parent[rng.choice((f"{key}x", "", "schema", *(str(k) for k in parent)))] = parent.pop(key)
    elif how == 2:
        parent[key] = copy.deepcopy(rng.choice(list(parent.values())))
    else:
        parent[key] = _changed_leaf(rng, parent[key])


def _changed_list(rng, parent, at):
    how = rng.randrange(5)
    if how == 0:
        del parent[at]
    elif how == 1:
        parent.insert(at, copy.deepcopy(parent[at]))
    elif how == 2:
        parent[:] = parent * rng.choice((2, 3, 17)) if len(parent) < 5000 else parent[::-1]
    elif how == 3:
        other = rng.randrange(len(parent))
        parent[at], parent[other] = parent[other], parent[at]
    else:
        parent[at] = _changed_leaf(rng, parent[at])


def changed_tree(rng, tree):
    """The tree with one change, somewhere; it may be changed in place."""
    holder = [tree]
    parent, key = holder, 0
    while isinstance(parent[key], dict | list) and parent[key] and rng.random() > 0.15:
        parent = parent[key]
        key = rng.choice(list(parent)) if isinstance(parent, dict) else rng.randrange(len(parent))
    if rng.random() < 0.05:
        for _ in range(rng.choice((1, 2, DEEPEST))):
            parent[key] = [parent[key]] if rng.random() < 0.7 else {"a": parent[key]}
    elif isinstance(parent, dict):
        _changed_dict(rng, parent, key)
    elif parent is not holder:
        _changed_list(rng, parent, key)
    else:
        holder[0] = _changed_leaf(rng, tree)
    return holder[0]
