"""The comparisons of staleness the slow way: a dump of other rows for each, compared by itself."""

from dataclasses import replace

import numpy as np

from routectl.dump import Dump, Keys, WeightSpan
from routectl.errors import MismatchError
from routectl.ops.diff.diff import diff_as
from routectl.ops.diff.options import DiffOptions
from routectl.ops.staleness.attribution import Attributor, BoundaryRule, Version
from routectl.routes import Routes
from support.drifting import EXPERTS, TOP_K
from support.dumps import make_dump, make_sample

LAYERS, TOKENS, PROMPT = 3, 12, 3


def random_run(rng, num_samples=6, num_versions=3):
    """A dump whose rows are of several versions, and versions that lack some of its samples."""
    names = [f"v{n}" for n in range(num_versions)]
    shape = (num_samples, TOKENS, LAYERS)
    ids = rng.permuted(np.broadcast_to(np.arange(EXPERTS), (*shape, EXPERTS)), axis=3)[..., :TOP_K]
    moved = [ids]
    for _ in names[1:]:
        moved.append(np.where(rng.random((*shape, 1)) < 0.2, (moved[-1] + 1) % EXPERTS, moved[-1]))

    def sample(b, ids_TLK, **more):
        routes = Routes(np.ascontiguousarray(ids_TLK, np.uint8), tuple(range(LAYERS)), EXPERTS)
        tokens = [b, *range(TOKENS - 1)]
        logprobs = rng.normal(-1, 1, TOKENS - PROMPT) if rng.random() < 0.7 else None
        return make_sample(
            routes, f"s{b}", tokens[:PROMPT], tokens[PROMPT:], logprobs=logprobs, **more
        )

    samples = []
    for b in range(num_samples):
        cut, at, spans = int(rng.integers(PROMPT, TOKENS)), 0, []
        while at < TOKENS - PROMPT and rng.random() < 0.8:
            end = int(rng.integers(at, TOKENS - PROMPT + 1))
            spans.append(WeightSpan(str(rng.choice([*names, "other"])), at, end))
            at = end
        made = sample(
            b,
            np.concatenate([moved[0][b, :cut], moved[min(1, num_versions - 1)][b, cut:]]),
            weight_spans=tuple(spans),
            cached_tokens=int(rng.integers(0, 6)) if rng.random() < 0.4 else None,
            retractions=1 if rng.random() < 0.1 else None,
        )
        routes = made.routes.between(int(rng.integers(0, 3)), int(rng.integers(8, TOKENS + 1)))
        if rng.random() < 0.3:
            routes = routes.only(rng.random((routes.num_tokens, LAYERS)) < 0.8)
        name = None if rng.random() < 0.2 else "twin" if rng.random() < 0.2 else made.sample_id
        routes = None if rng.random() < 0.05 else routes
        samples.append(replace(made, routes=routes, sample_id=name))
    layers, engine = tuple(range(LAYERS)), rng.choice(["vllm", "sglang"])
    dump = make_dump(samples, layers, EXPERTS, TOP_K, engine=str(engine))

    def routes_at(n):
        order = rng.permutation(num_samples)[: num_samples - int(rng.random() < 0.4)]
        return make_dump([sample(b, moved[n][b]) for b in order], layers, EXPERTS, TOP_K)

    versions = [
        Version(name, routes_at(n), routes_at(max(n - 1, 0)) if rng.random() < 0.3 else None)
        for n, name in enumerate(names)
    ]
    replayed = [routes_at(n) if rng.random() < 0.6 else None for n in range(num_versions)]
    return dump, [replace(v, replayed=r) for v, r in zip(versions, replayed, strict=True)]


class SlowStaleness:
    """Every comparison of a run, each from dumps of its own that are read again."""

    def __init__(self, dump, versions, options):
        self.dump, self.options = dump, options
        names = tuple(version.name for version in versions)
        rule = BoundaryRule.of(dump.meta.engine)
        self.by = Attributor(names, options.version_map, options.own, rule.exact)
        self.names = [
            f"#{i}" if key.sample_id is None else f"{key.sample_id} #{i}"
            for i, key in enumerate(dump.keys)
        ]
        self.versions = {v.name: v for v in versions}

    def _renamed(self, dump, places):
        keys = Keys(
            replace(key, sample_id=self.names[i]) for key, i in zip(dump.keys, places, strict=True)
        )
        return Dump(dump.meta, keys, lambda n: replace(dump[n], sample_id=self.names[places[n]]))

    def _routes(self, version, mode):
        found = self.versions[version].routes(mode)
        by_tokens = {key.tokens: j for j, key in enumerate(found.keys)}
        places = [i for i, key in enumerate(self.dump.keys) if key.tokens in by_tokens]
        part = found.select(samples=[by_tokens[self.dump.keys[i].tokens] for i in places])
        return self._renamed(part, places), places

    def _diff(self, old, new, part):
        options = self.options
        asked = DiffOptions("id", options.tokens, options.layers, 0, part=part)
        try:
            return diff_as(old, new, asked)
        except MismatchError:
            return None

    def own_rows(self, version, against, mode, groups):
        """The dump's rows of a version and some groups against a version; None: nothing met."""
        code = self.by.names.index(version)
        whole = self._renamed(self.dump, range(len(self.dump)))

        def load(n):
            labels = self.by.labels(whole[n])
            return whole[n] if labels is None else labels.rows_of(whole[n], code, groups)

        rows = Dump(whole.meta, whole.keys, load)
        return self._diff(rows, self._routes(against, mode)[0], True)

    def total(self, version, mode):
        """The dump against a version."""
        whole = self._renamed(self.dump, range(len(self.dump)))
        return self._diff(whole, self._routes(version, mode)[0], True)

    def pair(self, older, newer, mode):
        """A version's rows, those of the dump or all, against a newer one's."""
        (old, places), (new, _) = self._routes(older, mode), self._routes(newer, mode)
        if self.options.rows == "all":
            return self._diff(old, new, False)

        def load(n):
            labels = self.by.labels(self.dump[places[n]])
            none = np.zeros(old[n].routes.num_tokens, bool)
            if labels is None:
                return replace(old[n], routes=old[n].routes.only(none))
            return labels.covered(old[n])

        return self._diff(Dump(old.meta, old.keys, load), new, True)


def figures(result):
    """What two results that are equal have in common, floats rounded."""
    counts, sums = result.counts, result.logprobs
    return {
        "arrays": {
            name: getattr(counts, name).tolist()
            for name in (
                *("swaps_LS", "order_L", "load_old_LE", "load_new_LE", "missing_L", "depth_N"),
                *("first_L", "places_P4", "bins_B4"),
            )
        },
        "rows": [
            getattr(counts, f"{kind}_{side}")
            for kind in ("only", "lost", "alone")
            for side in ("old", "new")
        ],
        "samples": result.samples,
        "match": result.match,
        "logprobs": (
            sums.tokens,
            sums.over_tau,
            round(sums.sum_of("d"), 9),
            round(sums.sum_of("k3"), 9),
        ),
        "sequences": (result.sequences.rates.count, result.sequences.rates.mean),
    }
