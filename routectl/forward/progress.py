"""How far a whole run is, whatever the number of its passes."""

from collections.abc import Sequence
from dataclasses import dataclass

from .options import RunOptions, RunProgress
from .padded import PaddedBatch

__all__ = ["RunCounter"]


@dataclass(slots=True)
class RunCounter:
    """Counts what a run has done, and tells the options' on_progress."""

    options: RunOptions
    layers: int
    forwards: int = 0
    tokens: int = 0

    def after(self, layer: int, batches: Sequence[PaddedBatch], read_bytes: int) -> None:
        """So many layers are done of these batches; after the last one they are finished."""
        forwards = sum(len(batch.jobs) for batch in batches)
        tokens = sum(batch.num_positions for batch in batches)
        share, each = layer / self.layers, 2 if self.options.mode == "both" else 1
        if self.options.on_progress is not None:
            samples = (self.forwards + share * forwards) / each
            done = RunProgress(
                layer, self.layers, samples, self.tokens + share * tokens, read_bytes
            )
            self.options.on_progress(done)
        if layer == self.layers:
            self.forwards, self.tokens = self.forwards + forwards, self.tokens + tokens
