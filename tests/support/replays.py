"""The trained model's log-probs without replay, with R2 and with R3, as versions of a dump."""

from dataclasses import replace
from itertools import accumulate

import numpy as np

from routectl.dump import Dump
from routectl.formats import open_dump
from routectl.ops.staleness.attribution import Version
from support.recordings import FIXTURES

__all__ = ["KEPT", "kept_versions"]

TINY = FIXTURES / "tiny_rl"
with np.load(TINY / "replay_logprobs.npz") as _kept:
    KEPT = {name: _kept[name] for name in _kept.files}
ROUTES = {n: TINY / f"routes_{n}.fp32.npz" for n in ("v0", "v1", "v2")}


def kept_versions(engine):
    """v0 to v8 as free, forced and R2 recomputes of the recording, or of its first samples.

    Routes of v4 and v8 are not kept: they have those of v2, and log-probs of their own.
    """
    sizes = [len(sample.logprobs) for sample in engine]
    begins = [0, *accumulate(sizes)]
    found = []
    for name in ("v0", "v1", "v2", "v4", "v8"):
        routes = open_dump(ROUTES.get(name, ROUTES["v2"])).held()

        def of(mode, routes=routes, name=name):
            logprobs = KEPT.get(f"{name}.{mode}")
            if logprobs is None:
                return None

            def load(n):
                part = logprobs[begins[n] : begins[n + 1]].astype(np.float64)
                return replace(routes[n], logprobs=part)

            about = {"mode": "free" if mode == "none" else "forced"}
            about |= {"routes": "recomputed"} if mode == "R2" else {}
            meta = replace(routes.meta, provenance=about)
            return Dump(meta, [routes.keys[n] for n in range(len(sizes))], load)

        found.append(Version(name, of("none"), of("R3"), of("R2")))
    return found
