"""The slow, obvious truth: sets, loops and math; nothing from routectl, no array library.

Ids are nested lists [T][L][K]. A sample is a plain dict: ``ids``, ``start``, ``missing`` (a set of
(row, layer index)), ``layers``, ``prompt`` and ``response`` (lists of token ids, or None),
``prompt_length`` (or None), ``cached``; ``ids`` is None when it has no routes.
"""

import math
import struct
from bisect import bisect_left


def swap_count(old_row, new_row):
    """How many ids differ: max(|A|, |B|) - |A ∩ B| of the two sets."""
    a, b = set(old_row), set(new_row)
    return max(len(a), len(b)) - len(a & b)


def compare_rows(old, new, num_experts, skip=None):
    """Every count of ``diff_rows`` as lists, in a dict by the names of RowCounts."""
    layers = len(old[0]) if old else 0
    width = len(old[0][0]) if old else 0
    truth = {
        "swaps_LS": [[0] * (width + 1) for _ in range(layers)],
        "order_L": [0] * layers,
        "load_old_LE": [[0] * num_experts for _ in range(layers)],
        "load_new_LE": [[0] * num_experts for _ in range(layers)],
        "differing_T": [],
        "first_T": [],
    }
    for t in range(len(old)):
        differing = []
        for layer in range(layers):
            if skip is not None and skip[t][layer]:
                continue
            a, b = old[t][layer], new[t][layer]
            swap = swap_count(a, b)
            truth["swaps_LS"][layer][swap] += 1
            if swap == 0 and a != b:
                truth["order_L"][layer] += 1
            for expert in a:
                truth["load_old_LE"][layer][expert] += 1
            for expert in b:
                truth["load_new_LE"][layer][expert] += 1
            if set(a) != set(b):
                differing.append(layer)
        truth["differing_T"].append(len(differing))
        truth["first_T"].append(differing[0] if differing else -1)
    return truth


def is_filler(row, num_experts, greatest):
    """K equal values that are no route: -1, the greatest, or 0; one legal id (K = 1) is a route."""
    if len(set(row)) != 1:
        return False
    value = row[0]
    if len(row) == 1 and 0 <= value < num_experts:
        return False
    return value in (-1, greatest, 0)


def scan(ids, num_experts, greatest):
    """(missing [T][L] or None, row, layer) as ``scan_rows`` gives them."""
    missing = [[is_filler(row, num_experts, greatest) for row in token] for token in ids]
    bad = (-1, -1)
    for t, token in enumerate(ids):
        for layer, row in enumerate(token):
            legal = all(0 <= expert < num_experts for expert in row)
            if not legal and not missing[t][layer] and bad == (-1, -1):
                bad = (t, layer)
    return (missing if any(any(token) for token in missing) else None), *bad


def count_load(ids, layers, num_experts, missing=None):
    """How often each expert was taken in each layer, [L][E]."""
    load = [[0] * num_experts for _ in range(layers)]
    for t, token in enumerate(ids):
        for layer, row in enumerate(token):
            if missing is None or not missing[t][layer]:
                for expert in row:
                    load[layer][expert] += 1
    return load


def join(old, new, rule):
    """Pairs (i, j) of keys, each (id, tokens, prompt) with None for what is not known.

    None when the rule is broken: a pair by id or by order whose token ids differ.
    """

    def once(name):
        return name is not None and all(sum(k[0] == name for k in side) == 1 for side in (old, new))

    def agree(i, j):
        return None in (old[i][1], new[j][1]) or old[i][1] == new[j][1]

    def equal(part, pairs):
        pairs = list(pairs)
        for i in range(len(old)):
            for j in range(len(new)):
                free = all(i != a and j != b for a, b in pairs)
                if free and old[i][part] is not None and old[i][part] == new[j][part]:
                    pairs.append((i, j))
        return sorted(pairs)

    by_id = [
        (i, j)
        for i in range(len(old))
        for j in range(len(new))
        if old[i][0] == new[j][0] and once(old[i][0])
    ]
    by_order = list(zip(range(len(old)), range(len(new)), strict=False))
    if rule in ("id", "order"):
        pairs = by_id if rule == "id" else by_order
        return pairs if all(agree(i, j) for i, j in pairs) else None
    if rule == "auto":
        return equal(1, [(i, j) for i, j in by_id if agree(i, j)])
    return equal({"tokens": 1, "prefix": 2}[rule], [])


def logprob_figures(old, new, tau=2.0):
    """k1, k3, F(tau), mean and greatest |d| with d = new - old; None entries are left out."""
    d = [b - a for a, b in zip(old, new, strict=False) if a is not None and b is not None]
    ratios = [math.exp(x) for x in d]
    return {
        "tokens": len(d),
        "k1": sum(-x for x in d) / len(d),
        "k3": sum(r - 1 - x for r, x in zip(ratios, d, strict=True)) / len(d),
        "f": sum(max(r, 1 / r) > tau for r in ratios) / len(d),
        "abs": sum(abs(x) for x in d) / len(d),
        "max": max(abs(x) for x in d),
    }


def logged_figures(old, new, taus):
    """What trainers log of the same tokens, by the names of thresholds; pairs without a None.

    The mixture's log-prob is formed as NeMo-RL does; correlations by their definition.
    """
    pairs = [(a, b) for a, b in zip(old, new, strict=True) if a is not None and b is not None]
    n, d = len(pairs), [b - a for a, b in pairs]
    mixed = [math.log((math.exp(a) + math.exp(b)) / 2) for a, b in pairs]
    held = [max(-20.0, min(20.0, x)) for x in d]

    def k3(x):
        return math.expm1(x) - x

    found = {
        "k3_stable": sum(min(k3(x), 10.0) for x in held) / n,
        "token_mult_prob_error": sum(math.exp(abs(x)) for x in d) / n,
        "chi2": sum(math.exp(x) ** 2 for x in d) / n - 1,
        "js": sum((k3(a - m) + k3(b - m)) / 2 for (a, b), m in zip(pairs, mixed, strict=True)) / n,
        "equal_logprobs": sum(struct.pack("f", a) == struct.pack("f", b) for a, b in pairs) / n,
        "pearson": correlation(pairs),
        "pearson_probs": correlation([(math.exp(a), math.exp(b)) for a, b in pairs]),
    }
    for tau in taus:
        beyond = [max(math.exp(x), math.exp(-x)) > tau for x in d]
        found[f"f{tau:g}"] = sum(beyond) / n
    return found


def correlation(pairs):
    """Pearson's correlation by its definition; None where a side is constant."""
    means = [math.fsum(p[i] for p in pairs) / len(pairs) for i in (0, 1)]
    off = [(a - means[0], b - means[1]) for a, b in pairs]
    wide = [math.fsum(p[i] ** 2 for p in off) for i in (0, 1)]
    if min(len({p[i] for p in pairs}) for i in (0, 1)) == 1:
        return None
    return math.fsum(a * b for a, b in off) / math.sqrt(wide[0] * wide[1])


def row_of(sample, position, layer):
    """The ids of a row, or None when the sample has no route there."""
    if sample["ids"] is None:
        return None
    t, index = position - sample["start"], sample["layers"].index(layer)
    if not 0 <= t < len(sample["ids"]) or (t, index) in sample["missing"]:
        return None
    return sample["ids"][t][index]


def covers(sample, position):
    """Position is inside the sample's routes, whether or not rows are missing there."""
    return sample["ids"] is not None and 0 <= position - sample["start"] < len(sample["ids"])


def same_token(old, new, position, by_prompt):
    """The tokens up to this position are the same; not known is trusted, except by prompt alone."""
    if all(s["prompt"] is not None and s["response"] is not None for s in (old, new)):
        a, b = (s["prompt"] + s["response"] for s in (old, new))
    elif by_prompt:
        a, b = old["prompt"], new["prompt"]
    else:
        return True
    return position < min(len(a), len(b)) and a[: position + 1] == b[: position + 1]


def last_token(old, new):
    """The position of the last token, whose row no engine has; as far as the rows go, if unsaid."""
    sides = [s for s in (old, new) if s["prompt_length"] is not None and s["response"] is not None]
    lengths = [s["prompt_length"] + len(s["response"]) for s in sides]
    ends = [s["start"] + len(s["ids"]) for s in (old, new) if s["ids"] is not None]
    return max(lengths or ends, default=1) - 1


def position_bin(position):
    """0 for position 0, else one more than the highest power of two in it."""
    index = 0
    while position >= 1 << index:
        index += 1
    return index


def diff_pairs(pairs, layers, num_experts, top_k, *, tokens="all", by_prompt=False):
    """Every tally of a diff over pairs of samples, in a dict by the names of Counts."""
    count = len(layers)
    truth = {
        "swaps_LS": [[0] * (top_k + 1) for _ in layers],
        "order_L": [0] * count,
        "load_old_LE": [[0] * num_experts for _ in layers],
        "load_new_LE": [[0] * num_experts for _ in layers],
        "missing_L": [0] * count,
        "depth_N": [0] * (count + 1),
        "first_L": [0] * count,
        "places_P4": [[0] * 4 for _ in range(3)],
        "bins_B4": [[0] * 4 for _ in range(33)],
        "only_old": 0,
        "only_new": 0,
        "lost_old": 0,
        "lost_new": 0,
        "alone_old": 0,
        "alone_new": 0,
    }
    examples, sequences = [], []
    for number, (old, new) in enumerate(pairs):
        lengths = [s["prompt_length"] for s in (old, new) if s["prompt_length"] is not None]
        split = lengths[0] if lengths else None
        one = [0, 0, 0, 0]
        stop = max(s["start"] + len(s["ids"] or []) for s in (old, new))
        for position in range(stop):
            if tokens == "prompt" and position >= split:
                continue
            if tokens == "response" and position < split:
                continue
            inside = covers(old, position) and covers(new, position)
            same = same_token(old, new, position, by_prompt)
            common = inside and same
            for side, one_side, other in (("old", old, new), ("new", new, old)):
                for layer in set(one_side["layers"]) - set(other["layers"]):
                    truth[f"alone_{side}"] += row_of(one_side, position, layer) is not None
                for layer in layers:
                    has = row_of(one_side, position, layer) is not None
                    lacks = row_of(other, position, layer) is None
                    if has and lacks and same and position < last_token(old, new):
                        declared = other["ids"] is not None and position < other["start"]
                        truth[f"lost_{side}"] += not declared
            seen = differing = 0
            for index, layer in enumerate(layers):
                a, b = row_of(old, position, layer), row_of(new, position, layer)
                if not common or a is None or b is None:
                    truth["missing_L"][index] += common
                    truth["only_old"] += a is not None
                    truth["only_new"] += b is not None
                    continue
                seen += 1
                swap = swap_count(a, b)
                truth["swaps_LS"][index][swap] += 1
                truth["order_L"][index] += swap == 0 and a != b
                for expert in a:
                    truth["load_old_LE"][index][expert] += 1
                for expert in b:
                    truth["load_new_LE"][index][expert] += 1
                if swap:
                    truth["first_L"][index] += differing == 0
                    differing += 1
                    sides = tuple(sorted(set(a))), tuple(sorted(set(b)))
                    examples.append((number, position, layer, *sides))
            if not seen:
                continue
            truth["depth_N"][differing] += 1
            tallies = [one, truth["bins_B4"][position_bin(position)]]
            if split is not None and position < split:
                tallies.append(truth["places_P4"][0])
                if position < max(old["cached"], new["cached"]):
                    tallies.append(truth["places_P4"][1])
            elif split is not None:
                tallies.append(truth["places_P4"][2])
            for tally in tallies:
                for i, more in enumerate((1, differing > 0, seen, differing)):
                    tally[i] += more
        if one[0]:
            sequences.append((number, *one))
    return truth, examples, sequences


FLOAT16 = [struct.unpack("<e", struct.pack("<H", p))[0] for p in range(0x7C01)]  # 0 .. inf
EDGES = (0, 1e-6, 3e-6, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1)


def float16_above(margin):
    """The least float16 that is not below a margin; nan stays."""
    return margin if math.isnan(margin) else FLOAT16[bisect_left(FLOAT16, margin)]


def margin_bin(margin):
    """0 for a tie, then the number of edges that the margin is above."""
    return sum(margin > edge for edge in EDGES)


def compared_margins(pairs, layers, *, tokens="all", by_prompt=False):
    """(layer index, margin of old, of new, mismatched) of every compared row; None: not known.

    A side's margin is the least that it knows: of experts, of groups.
    """

    def margin(sample, position, layer):
        t = position - sample["start"]
        column = sample["layers"].index(layer)
        both = [sample[name][t][column] for name in ("margins", "group_margins") if name in sample]
        return min((m for m in both if m is not None), default=None)

    for old, new in pairs:
        lengths = [s["prompt_length"] for s in (old, new) if s["prompt_length"] is not None]
        for position in range(max(s["start"] + len(s["ids"] or []) for s in (old, new))):
            if tokens != "all" and (position < lengths[0]) != (tokens == "prompt"):
                continue
            if not covers(old, position) or not covers(new, position):
                continue
            if not same_token(old, new, position, by_prompt):
                continue
            for index, layer in enumerate(layers):
                a, b = row_of(old, position, layer), row_of(new, position, layer)
                if a is not None and b is not None:
                    sides = margin(old, position, layer), margin(new, position, layer)
                    yield index, *sides, set(a) != set(b)


def flip_classes(rows, eps):
    """Rows with a margin, ties, near-ties and clear flips among compared_margins, and their lower
    margins in order."""
    known = [
        (min(m for m in (a, b) if m is not None), flip)
        for _, a, b, flip in rows
        if (a, b) != (None, None)
    ]
    lower = sorted(margin for margin, flip in known if flip)
    ties = sum(m == 0 for m in lower)
    near = sum(0 < m <= eps for m in lower)
    clear = sum(m > eps for m in lower)
    return (len(known), ties, near, clear), lower
