"""Which transformer layers each pipeline stage and virtual chunk holds, as Megatron cuts them.

Source: Megatron-Core 0.16.1, transformer_block.get_num_layers_to_build,
transformer_layer.get_transformer_layer_offset and pipeline_parallel_layer_layout.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Pipeline", "moe_layers"]

_MAX_LAYERS = 4096
_MAX_CHUNKS = 1 << 16
_REPEATS = (re.compile(r"\(([^()]+)\)\*(\d{1,4})"), re.compile(r"(.)\*(\d{1,4})"))


def moe_layers(
    num_layers: int, freq: int | Sequence[int], *, last: bool = False
) -> tuple[int, ...]:
    """The 0-based MoE layers that a moe_layer_freq names.

    An int N makes the first of each N layers MoE, as Megatron does, or with ``last`` the last of
    them, as AReaL does; a list says 1 (MoE) or 0 (dense) for each layer. Raises ValueError when
    the list is of another length or holds something else.
    """
    if isinstance(freq, int):
        if freq < 1:
            raise ValueError(f"moe_layer_freq must be at least 1, got {freq}")
        return tuple(range(freq - 1 if last else 0, num_layers, freq))
    if len(freq) != num_layers or not set(freq) <= {0, 1}:
        raise ValueError(
            f"moe_layer_freq has {len(freq)} entries, expected a 0 or 1 for each of {num_layers} "
            "layers"
        )
    return tuple(layer for layer, moe in enumerate(freq) if moe)


@dataclass(frozen=True, slots=True)
class Pipeline:
    """A cut of num_layers decoder layers into pp stages of vpp chunks each.

    first, last        layers of the first and last stage, where they are unlike the others
    embedding, loss    the embedding, the loss count as a layer (account_for_*_in_pipeline_split)
    layout             pipeline_model_parallel_layout, such as "Et*3|(tt|)*29,mL": it alone decides;
                       MTP layers ("m") are no decoder layers and never replayed

    Raises ValueError, with both numbers, where the layers do not divide.
    """

    num_layers: int
    pp: int = 1
    vpp: int = 1
    first: int | None = None
    last: int | None = None
    embedding: bool = False
    loss: bool = False
    layout: str | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.num_layers <= _MAX_LAYERS or self.pp < 1 or self.vpp < 1:
            raise ValueError(f"no cut of {self.num_layers} layers into {self.pp} x {self.vpp}")
        if self.pp * self.vpp > _MAX_CHUNKS or len(self.layout or "") > _MAX_LAYERS:
            raise ValueError(
                f"more than {_MAX_CHUNKS} chunks, or a layout of {_MAX_LAYERS} letters"
            )
        total = sum(self._chunk_sizes())
        if total != self.num_layers:
            raise ValueError(f"the stages hold {total} layers, the model has {self.num_layers}")

    def stage_layers(self, pp_rank: int) -> tuple[tuple[int, ...], ...]:
        """The 0-based layers of a stage, one tuple a virtual chunk, in order."""
        if not 0 <= pp_rank < self.pp:
            raise ValueError(f"no stage {pp_rank} among {self.pp}")
        sizes = self._chunk_sizes()
        chunks = []
        for v in range(self.vpp):
            k = v * self.pp + pp_rank
            begin = sum(sizes[:k])
            chunks.append(tuple(range(begin, begin + sizes[k])))
        return tuple(chunks)

    def _chunk_sizes(self) -> list[int]:
        """Decoder layers of every chunk, in layer order: chunk v of stage p is entry v * pp + p."""
        if self.layout is not None:
            return self._sizes_of_layout(self.layout)
        per_stage = self._stage_sizes()
        for stage, size in enumerate(per_stage):
            if size % self.vpp:
                raise ValueError(
                    f"stage {stage} has {size} layers, not divisible by vpp {self.vpp}"
                )
        sizes = [size // self.vpp for _ in range(self.vpp) for size in per_stage]
        sizes[0] -= self.embedding
        sizes[-1] -= self.loss
        if min(sizes) < 0:
            raise ValueError(f"too few layers: {self.num_layers} for pp {self.pp} x vpp {self.vpp}")
        return sizes

    def _stage_sizes(self) -> list[int]:
        """Layers of every stage, embedding and loss counted where they take a place."""
        ends = (self.first is not None) + (self.last is not None)
        if ends and (self.embedding or self.loss):
            raise ValueError("first or last layer counts exclude accounting for embedding and loss")
        left = self.num_layers + self.embedding + self.loss - (self.first or 0) - (self.last or 0)
        middle = self.pp - ends
        if middle < 0 or left < 0 or (left and not middle) or (middle and left % middle):
            raise ValueError(f"{left} layers do not divide among {middle} pipeline stages")
        sizes = [left // middle] * middle if middle else []
        sizes = sizes if self.first is None else [self.first, *sizes]
        return sizes if self.last is None else [*sizes, self.last]

    def _sizes_of_layout(self, layout: str) -> list[int]:
        """Decoder layers of every chunk of a layout string, repeats written out."""
        text = layout.replace(",", "")
        for pattern in _REPEATS:
            text = pattern.sub(lambda m: (m[1] * int(m[2]))[: 4 * _MAX_LAYERS], text)
        stages = text.split("|")
        if set(text) - set("EtmL|") or text.count("E") != 1 or text.count("L") != 1:
            raise ValueError(f"layout {layout!r}: expected one E, one L, t, m and | between stages")
        if len(stages) != self.pp * self.vpp:
            raise ValueError(
                f"layout {layout!r} has {len(stages)} stages, expected {self.pp} x {self.vpp}"
            )
        return [stage.count("t") for stage in stages]
