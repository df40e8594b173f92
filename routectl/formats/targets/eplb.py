"""What SGLang's ``--init-expert-location`` takes: how often each logical expert was taken.

Source: SGLang 0.5.23 (eplb/expert_location.py: compute_initial_expert_location_metadata,
ExpertLocationMetadata.init_by_eplb): ``{"logical_count": [layers, experts]}`` as JSON, or as a
torch file; by it SGLang places its physical experts. Shape suffixes: W decoder layers, E experts.
"""

import json
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ...pickled.archive_writer import torch_archive

__all__ = ["SUFFIXES", "write_counts"]

SUFFIXES = (".json", ".pt")
_KEY = "logical_count"


def write_counts(load_WE: NDArray[np.integer[Any]], stream: IO[bytes], suffix: str) -> None:
    """Write counts of all decoder layers, zeros in dense ones, as JSON or as a torch file."""
    if suffix == ".json":
        stream.write(json.dumps({_KEY: load_WE.tolist()}, separators=(",", ":")).encode() + b"\n")
        return
    with torch_archive(stream) as archive:
        archive.finish({_KEY: archive.tensor(np.ascontiguousarray(load_WE, "<i8"))})
