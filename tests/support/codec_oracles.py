"""Decoders of ``set/1`` and ``context/1`` by docs/codecs/: plain Python, nothing of routectl.

Ids come back as lists of rows; ``lens`` are the rows of each sample.
"""

from decimal import Decimal, localcontext
from math import comb, floor


class Bits:
    """Numbers out of bytes, from the lowest bit up."""

    def __init__(self, data):
        self.number = int.from_bytes(data, "little")

    def take(self, width):
        """The next number of so many bits."""
        value = self.number & ((1 << width) - 1)
        self.number >>= width
        return value


def token_of(gap):
    """(token, how many bits follow)."""
    if gap < 128:
        return gap, 0
    n = gap.bit_length() - 1
    return 128 + 8 * (n - 7) + ((gap >> (n - 3)) & 7), n - 3


def frequencies(counts):
    """Counts of tokens to parts of 4096."""
    total, some = sum(counts), sum(c > 0 for c in counts)
    if not total:
        return [4096] + [0] * (len(counts) - 1)
    small = sum(0 < c * (4096 - some) < total for c in counts)
    parts = [max(1, c * (4096 - small) // total) if c else 0 for c in counts]
    parts[counts.index(max(counts))] += 4096 - sum(parts)
    return parts


def read_table(bits, tokens):
    """The counts of one table."""
    counts, length = [0] * tokens, 0
    for token in range(bits.take(8)):
        if token == 0:
            length = bits.take(6)
        else:
            ones = 0
            while bits.take(1):
                ones += 1
            length += (ones + 1) // 2 if ones % 2 else -(ones // 2)
        if length == 0:
            continue
        kept = min(length - 1, 2)
        top = (1 << kept) | bits.take(kept)
        if length > 3:
            counts[token] = top * 2 ** (length - 3) + 2 ** (length - 4)
        else:
            counts[token] = top
    return counts


def even_model(experts, top_k):
    """Order, context of (slot, rank), tables of (slot, context): of even routes."""
    tokens = token_of(experts - 1)[0] + 1
    contexts, tables = {}, {}
    for k in range(top_k):
        below = 0
        for p in range(experts if k else 0):
            contexts[k, p] = min(16 * below // comb(experts, top_k), 15)
            below += comb(p, k - 1) * comb(experts - 1 - p, top_k - k)
        for c in range(16):
            counts = [0] * tokens
            if k == 0:
                for g in range(experts):
                    counts[token_of(g)[0]] += comb(experts - 1 - g, top_k - 1)
            for p in range(experts if k else 0):
                for g in range(experts - 1 - p if contexts[k, p] == c else 0):
                    ways = comb(p, k - 1) * comb(experts - 2 - p - g, top_k - 1 - k)
                    counts[token_of(g)[0]] += ways
            tables[k, c] = frequencies(counts)
    return list(range(experts)), contexts, tables


def set_model(shared, experts, top_k):
    """The model that shared bytes hold."""
    if shared[0] == 5:
        return even_model(experts, top_k)
    bits, num_contexts = Bits(shared[1:]), 2 ** shared[0]
    used, width = bits.take(17), (experts - 1).bit_length()
    order = [bits.take(width) for _ in range(used)]
    order += [e for e in range(experts) if e not in order]
    contexts, tables = {}, {}
    for k in range(1, top_k):
        firsts = [bits.take(width + 1) for _ in range(num_contexts - 1)]
        for p in range(experts):
            contexts[k, p] = sum(first <= p for first in firsts)
    tokens = token_of(experts - 1)[0] + 1
    for k in range(top_k):
        for c in range(num_contexts if k else 1):
            tables[k, c] = frequencies(read_table(bits, tokens))
    return order, contexts, tables


def decode_set(shared, cells, lens, experts, top_k):
    """Rows of all samples."""
    rows = []
    for cell, count in zip(cells, lens, strict=True):
        if count == 0:
            assert cell == b""
            continue
        order, contexts, tables = set_model(shared, experts, top_k)
        lanes = 4 if count * top_k >= 2048 else 1
        states = [int.from_bytes(cell[4 * i : 4 * i + 4], "little") for i in range(lanes)]
        words = [int.from_bytes(cell[i : i + 2], "little") for i in range(4 * lanes, len(cell), 2)]
        words.reverse()
        ranks = [[] for _ in range(count)]
        for k in range(top_k):
            for i, row in enumerate(ranks):
                table = tables[k, contexts[k, row[-1]] if k else 0]
                x = states[i % lanes]
                token, start = 0, 0
                while x % 4096 >= start + table[token]:
                    start += table[token]
                    token += 1
                x = table[token] * (x >> 12) + x % 4096 - start
                x = x << 16 | words.pop() if x < 65536 else x
                gap = token
                if token >= 128:
                    n = 7 + (token - 128) // 8
                    gap = (8 + (token - 128) % 8) << (n - 3) | x % 2 ** (n - 3)
                    x >>= n - 3
                    x = x << 16 | words.pop() if x < 65536 else x
                states[i % lanes] = x
                row.append(gap + (row[-1] + 1 if k else 0))
        assert states == [65536] * lanes
        assert words == []
        rows += [sorted(order[rank] for rank in row) for row in ranks]
    return rows


def _logistic():
    with localcontext() as exact:
        exact.prec = 40
        values = [Decimal(65536) / (1 + (Decimal(-x) / 256).exp()) for x in range(-2047, 2048)]
        squash = [int(value.to_integral_value()) for value in values]
        logs = [0] + [floor(256 * Decimal(n).ln()) for n in range(1, 4096)]
    squash = dict(zip(range(-2047, 2048), squash, strict=True))
    squash[-2048] = squash[-2047]
    reach, stretch = -2047, []
    for i in range(4096):
        while reach < 2047 and squash[reach] < 16 * i + 8:
            reach += 1
        stretch.append(reach)
    return squash, stretch, logs


SQUASH, STRETCH, LOGS = _logistic()
TOP = (1 << 64) - 1


class RangeCoder:
    """Bits out of a cell."""

    def __init__(self, cell):
        self.cell, self.at = cell, 8
        self.low, self.range = 0, TOP
        self.code = int.from_bytes(cell[:8].ljust(8, b"\0"), "big")

    def bit(self, share):
        """1 with a probability of ``share`` of 65536."""
        unit = self.range // 65536
        bit = ((self.code - self.low) & TOP) // unit < share
        if bit:
            self.range = unit * share
        else:
            self.low, self.range = (self.low + unit * share) & TOP, unit * (65536 - share)
        while True:
            if self.low >> 56 != ((self.low + self.range) & TOP) >> 56:
                if self.range >= 1 << 48:
                    return int(bit)
                self.range = -self.low % (1 << 48)
            byte = self.cell[self.at] if self.at < len(self.cell) else 0
            self.at += 1
            self.low = self.low << 8 & TOP
            self.range = self.range << 8 & TOP
            self.code = (self.code << 8 & TOP) | byte


def clip(x):
    """Within what a logit may be."""
    return max(-2047, min(2047, x))


def rate(n):
    """How far shares move the n-th time."""
    return 131072 // (4 * min(n, 255) + 5)


def places_of(tokens, lens, experts):
    """The place of each row's contexts: (order, number), or that of a shorter order."""
    keys, at = [], 0
    for count in lens:
        for i in range(count):
            own = [tokens[at + i - o] if i >= o else -1 for o in range(3)]
            keys.append([(o, *own[:o]) for o in (1, 2, 3)])
        at += count
    seen = {}
    for row in keys:
        for key in row:
            seen[key] = seen.get(key, 0) + 1
    limit = max(1, 2**22 // experts)
    kept = {o: [key for key, n in seen.items() if key[0] == o and n > 1][:limit] for o in (1, 2, 3)}
    kept = {key for some in kept.values() for key in some}
    places = []
    for row in keys:
        place = [(0,)]
        for key in row:
            place.append(key if key in kept else place[-1])
        places.append(place)
    return places


def decode_context(shared, cells, lens, experts, top_k, tokens):
    """Rows of all samples."""
    if sum(lens) == 0:
        return []
    if shared[0] == 1:
        return decode_set(shared[1:], cells, lens, experts, top_k)
    assert shared == b"\0"
    start = min(65536 * top_k // experts, 65535)
    shares, seen = {(0,): [start] * experts}, {(0,): 0}
    after = [[start] * experts, [start] * experts]
    weights = [[0, 2**19, 2**19, 3 * 2**16, 5 * 2**16, 0] for _ in range(64)]
    second = [[SQUASH[min(128 * j, 4095) - 2048] for j in range(33)] for _ in range(9)]
    places, rows = places_of(tokens, lens, experts), []
    for cell, count in zip(cells, lens, strict=True):
        coder, before = RangeCoder(cell), [0] * experts
        for _ in range(count):
            taken = _row(
                places[len(rows)], shares, seen, after, weights, second, before, coder, top_k
            )
            rows.append([e for e in range(experts) if taken[e]])
            before = taken
    return rows


def _row(place, shares, seen, after, weights, second, before, coder, top_k):
    experts = len(before)
    choice = 0
    own = [o for o in (1, 2, 3) if place[o] != place[o - 1]]
    for o in (1, 2, 3):
        few, many = (4, 24) if o == 1 else (2, 8)
        level = 0
        if o in own:
            n = seen.setdefault(place[o], 0)
            if n == 0:
                shares[place[o]] = list(shares[place[o - 1]])
            level = 0 if n == 0 else 1 if n < few else 2 if n < many else 3
        choice = 4 * choice + level
    weight, inputs, logits = weights[choice], [], []
    for e in range(experts):
        s = [STRETCH[shares[place[o]][e] >> 4] for o in range(4)]
        s += [STRETCH[after[before[e]][e] >> 4] - s[0], 256]
        inputs.append(s)
        logits.append(clip(sum((w >> 6) * x for w, x in zip(weight, s, strict=True)) >> 14))
    p = [SQUASH[x] for x in logits]
    taken = _decide(p, logits, second, coder, top_k)
    for i in range(6):
        slope = sum((65536 * taken[e] - p[e]) * inputs[e][i] for e in range(experts))
        weight[i] = max(-(2**22), min(2**22, weight[i] + (slope * 200 >> 20)))
    _move(shares[(0,)], taken, rate(seen[(0,)]))
    seen[(0,)] += 1
    for e in range(experts):
        u = after[before[e]][e]
        after[before[e]][e] = u + ((65535 * taken[e] - u) * 150 >> 15)
    for o in own:
        seen[place[o]] += 1
        _move(shares[place[o]], taken, rate(seen[place[o]]))
    return taken


def _move(share, taken, r):
    for e, a in enumerate(taken):
        share[e] += (65535 * a - share[e]) * r >> 15


def _decide(p, logits, second, coder, top_k):
    experts, left, total = len(p), top_k, sum(p)
    taken = [0] * experts
    visits = sorted(range(experts), key=lambda e: ((2047 - logits[e]) >> 5, e))
    for n, e in enumerate(visits):
        if left in (0, experts - n):
            taken[e] = int(left > 0)
            left -= taken[e]
            continue
        odds = max(1, min(4095, (left << 18) // (total + 1)))
        y = clip(logits[e] + LOGS[odds] - 354) + 2048
        z, j, f = second[min(left, 8)], y >> 7, y & 127
        h = (z[j] * (128 - f) + z[j + 1] * f) >> 7
        h = max(32, min(65504, (h + SQUASH[y - 2048]) >> 1))
        taken[e] = coder.bit(h)
        for i in (j, j + 1):
            z[i] += (65535 * taken[e] - z[i]) >> 6
        left -= taken[e]
        total -= p[e]
    return taken
