"""A decoder of ``token/1`` and dictionaries by docs/codecs/token.md, and what tokens tell at best.

Plain Python and numpy, nothing of routectl.
"""

import numpy as np

from support.codec_oracles import Bits, decode_set, token_of


def contexts_of_ranks(experts):
    """The context of each rank that comes before a gap."""
    return [1 + 15 * rank // experts for rank in range(experts)]


def legal_symbols(experts, top_k):
    """Which symbols the tables of a class have, and those of gaps: lists of lists."""
    listed, masks = min(24, experts), []
    chunks = [min(8, listed - at) for at in range(0, listed, 8)]
    for j, here in enumerate(chunks):
        for left in range(1, 5 if j else 2):
            most = left if j and left < 4 else top_k
            masks.append([m for m in range(2**here) if m.bit_count() <= most])
    gaps, contexts = [], contexts_of_ranks(experts)
    for left in range(1, min(top_k, 8) + 1):
        for q in range(16):
            before = next((r for r, c in enumerate(contexts) if c >= q), experts) if q else -1
            most = max(experts - 1 - before - left, 0)
            gaps.append(list(range(token_of(most)[0] + 1)))
    return masks, gaps


def read_frequencies(bits, legal):
    """A table of a dictionary: the frequency of each symbol."""
    table = {}
    for symbol in legal:
        n = 0
        while bits.take(1):
            n += 1
        table[symbol] = 2**n + bits.take(n)
    assert sum(table.values()) == 4096
    return table


def read_dictionary(data):
    """E, K, and of each layer its order, tables of masks and gaps, and entries by token."""
    assert data.startswith(b"routectl-dictionary/1\n")
    words = [int.from_bytes(data[i : i + 4], "little") for i in range(22, len(data) - 16, 4)]
    experts, top_k, layers, entries, classes = words[:5]
    numbers, tokens = words[5 : 5 + layers], words[5 + layers : 5 + layers + entries]
    sizes = words[5 + layers + entries : 5 + 2 * layers + entries]
    at, width, found = 22 + 4 * (5 + 2 * layers + entries), (experts - 1).bit_length(), {}
    for number, size in zip(numbers, sizes, strict=True):
        bits = Bits(data[at : at + size])
        order = [bits.take(width) for _ in range(experts)]
        legal_masks, legal_gaps = legal_symbols(experts, top_k)
        masks = [read_frequencies(bits, one) for one in legal_masks * (classes + 1)]
        gaps = [read_frequencies(bits, one) for one in legal_gaps]
        row_bits = 4 + min(24, experts) * width
        bits = Bits(data[at + size - -(-entries * row_bits // 8) : at + size])
        of_token = {}
        for token in tokens:
            of_token[token] = (
                bits.take(4),
                [bits.take(width) for _ in range(min(24, experts))],
            )
        found[number] = (order, masks, gaps, of_token)
        at += size
    assert at == len(data) - 16
    return experts, top_k, found


class Lanes:
    """The states of a cell, each symbol pulled from one of them."""

    def __init__(self, cell, ids):
        self.count = 4 if ids >= 2048 else 1
        words = [int.from_bytes(cell[i : i + 2], "little") for i in range(0, len(cell), 2)]
        self.states = [words[2 * i] | words[2 * i + 1] << 16 for i in range(self.count)]
        self.words = words[2 * self.count :][::-1]

    def settle(self, lane, x):
        """The state, with a word where it needs one."""
        self.states[lane] = x << 16 | self.words.pop() if x < 65536 else x

    def pull(self, i, table):
        """The symbol of a table, its symbols ascending."""
        lane = i % self.count
        x, start = self.states[lane], 0
        for symbol in sorted(table):
            if x % 4096 < start + table[symbol]:
                break
            start += table[symbol]
        self.settle(lane, table[symbol] * (x >> 12) + x % 4096 - start)
        return symbol

    def low(self, i, bits):
        """Bits as they are."""
        lane = i % self.count
        x = self.states[lane]
        self.settle(lane, x >> bits)
        return x % 2**bits


def decode_token(shared, cells, lens, experts, top_k, tokens, dictionary):
    """Rows of all samples of layer 0, by the bytes of a dictionary."""
    if not shared or shared[0] == 1:
        return decode_set(shared[1:], cells, lens, experts, top_k)
    assert shared == b"\0" + dictionary[-16:]
    *sizes, layers = read_dictionary(dictionary)
    assert sizes == [experts, top_k]
    order, masks, gaps, of_token = layers[0]
    listed, contexts, rows = min(24, experts), contexts_of_ranks(experts), []
    chunks = -(-listed // 8)
    tokens = iter(tokens)
    for cell, count in zip(cells, lens, strict=True):
        if not count:
            assert cell == b""
            continue
        entries = [of_token.get(next(tokens), (0, order[:listed])) for _ in range(count)]
        found, lanes = [[] for _ in range(count)], Lanes(cell, count * top_k)
        for j in range(chunks):
            alive = [r for r in range(count) if len(found[r]) < top_k]
            for i, r in enumerate(alive):
                number, experts_of = entries[r]
                table = number * (1 + 4 * (chunks - 1))
                table += 4 * (j - 1) + min(top_k - len(found[r]), 4) if j else 0
                mask = lanes.pull(i, masks[table])
                found[r] += [experts_of[8 * j + b] for b in range(8) if mask >> b & 1]
        alive = [r for r in range(count) if len(found[r]) < top_k]
        for i, r in enumerate(alive):
            rank = None
            for left in range(top_k - len(found[r]), 0, -1):
                q = 0 if rank is None else contexts[rank]
                gap = lanes.pull(i, gaps[16 * (min(left, 8) - 1) + q])
                if gap >= 128:
                    n = 7 + (gap - 128) // 8
                    gap = (8 + (gap - 128) % 8) << (n - 3) | lanes.low(i, n - 3)
                rank = gap if rank is None else rank + 1 + gap
                found[r].append(order[rank])
        assert lanes.states == [65536] * lanes.count
        assert lanes.words == []
        rows += [sorted(row) for row in found]
    return rows


def bound_bits(learn, coded, experts, prior):
    """Bits a set of the conditional Bernoulli distribution: odds of the token's frequencies.

    ``learn`` and ``coded`` are (ids [R, K], tokens [R]); a token begins as ``prior`` rows of the
    layer, None for the layer alone. All sets are summed by an elementary symmetric polynomial.
    """
    (ids, tokens), (rows, of) = learn, coded
    ids, rows, top_k = ids.astype(np.int64), rows.astype(np.int64), ids.shape[1]
    size = int(max(tokens.max(), of.max())) + 1
    counts, seen = np.zeros((size, experts)), np.zeros(size)
    if prior is not None:
        np.add.at(counts, (tokens[:, None], ids), 1)
        seen = np.bincount(tokens, minlength=size)
    weight = 1.0 if prior is None else prior
    load = np.bincount(ids.ravel(), minlength=experts) / len(ids)
    share = np.clip((counts + weight * load) / (seen[:, None] + weight), 1e-5, 1 - 1e-5)
    odds = share / (1 - share)
    odds /= np.exp(np.log(odds).mean(axis=1, keepdims=True))
    sums = np.zeros((size, top_k + 1))
    sums[:, 0] = 1
    for e in range(experts):
        sums[:, 1:] += odds[:, e : e + 1] * sums[:, :-1]
    taken = np.log2(odds[of[:, None], rows]).sum(axis=1)
    return float((np.log2(sums[of, top_k]) - taken).mean())
