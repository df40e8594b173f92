"""Keys in stores, and native files of small row groups, as large files have them."""

import dataclasses
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from routectl.columns.stored_keys import StoredKeys
from routectl.dump import DumpMeta, Keys, Sample, WeightSpan
from routectl.formats.native.row_groups import grouped, native_form
from routectl.routes import Routes

__all__ = ["LAYERS", "Store", "small_samples", "stored", "write_small_groups"]

LAYERS, EXPERTS, TOP_K = (1, 2, 4), 8, 2


@dataclass
class Store:
    """Keys in runs of some size, that says what it was asked for."""

    keys: list
    run: int

    def __post_init__(self):
        self.asked = []

    @property
    def sizes(self):
        """Samples of each run."""
        starts = range(0, len(self.keys), self.run)
        return [min(self.run, len(self.keys) - start) for start in starts]

    def read_keys(self, runs, fields, hashing=None):
        """The keys of some runs, with the wanted fields alone."""
        ends = list(accumulate(self.sizes))
        for n in runs:
            self.asked.append((n, tuple(fields)))
            part = self.keys[ends[n] - self.sizes[n] : ends[n]]
            others = {f: None for f in ("sample_id", "tokens", "prompt") if f not in fields}
            yield Keys(dataclasses.replace(key, **others) for key in part)


def stored(keys, run):
    """Keys that are read so many at a time, of two stores."""
    half = len(keys) // 2
    return StoredKeys([Store(keys[:half], run), Store(keys[half:], run)])


def small_samples(rng, count, odd=0.3, *, lengths=False):
    """Samples of few rows, some with whatever a native file can tell of one.

    odd is how often something rare is; ``lengths`` says that every prompt's length is known.
    """
    table = np.argsort(rng.random((40, len(LAYERS), EXPERTS)), axis=2)[:, :, :TOP_K]
    prompts = [rng.integers(0, 40, rng.integers(0, 14)).astype(np.int32) for _ in range(count // 3)]

    def rarely(value=True, otherwise=None):
        return value if rng.random() < odd / 6 else otherwise

    for i in range(count):
        prompt = prompts[i // 4 % len(prompts)]
        response = rng.integers(0, 40, rarely(71, rng.integers(1, 10))).astype(np.int32)
        tokens = np.concatenate([prompt, response])
        start = min(len(prompt), 3) if rng.random() < 0.2 else 0
        yield Sample(
            rarely(None, _routes(rng, table, tokens, start, rarely)),
            rarely(None, rarely("twice", f"group-{i // 4}/{i % 4}")),
            None if rng.random() < 0.5 else f"group-{i // 4}",
            *rarely((None, None), (prompt, response)),
            len(prompt) if lengths else rarely(None, len(prompt)),
            len(response),
            rarely(rng.random(len(tokens)) < 0.8),
            rng.normal(-1, 1, len(response)) if rng.random() < odd / 3 else None,
            tuple(WeightSpan(f"v{n}", 0, 1) for n in range(rarely(rng.integers(3), 1))),
            cached_tokens=rarely(min(len(prompt), 2), start or None),
            retractions=rarely(1),
            start_inferred=rarely(True, False),
        )


def _routes(rng, table, tokens, start, rarely):
    """Those of tokens by a table, now and then with a row twice, an expert twice, rows missing."""
    ids = table[tokens[:-1]].astype(np.uint8)
    if rarely() and len(ids):
        ids[int(rng.integers(len(ids))), 1] = 3
    if rarely() and len(ids) > 1:
        ids[1] = ids[0]
    missing = rarely(rng.random(ids.shape[:2]) < 0.2)
    rows = slice(start, rarely(-1))
    if missing is not None:
        ids[missing] = 0
        missing = missing[rows]
    return Routes(np.ascontiguousarray(ids[rows]), LAYERS, EXPERTS, start, missing)


def write_small_groups(path, samples, group_bytes):
    """A native file whose row groups have about so many bytes of ids."""
    meta = DumpMeta(str(path), "made", LAYERS, EXPERTS, TOP_K)
    form = dataclasses.replace(native_form(meta, None), group_bytes=group_bytes)
    with path.open("wb") as stream, form.writer(stream) as writer:
        for group in grouped(samples, form.group_bytes):
            writer.write_table(form.table(group)[0], len(group))
