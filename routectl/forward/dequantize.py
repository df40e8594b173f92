"""Quantised weights turned back into plain ones: the stored number times its scale, in float32."""

import math

import torch

from ..checkpoints.scales import StoredScale

__all__ = ["dequantized"]

# E2M1: a sign, two bits of exponent, one of mantissa (OCP Microscaling Formats 1.0, table 5)
_E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
_ELEMENTS = 1 << 26  # at once: a fused tensor of all experts is not held in float32


def dequantized(
    weight: torch.Tensor, factor: torch.Tensor, stored: StoredScale, dtype: torch.dtype
) -> torch.Tensor:
    """A stored weight times its scale, on its device: float32 products, rounded once to ``dtype``.

    ``weight`` is as stored, any shape; ``factor`` is the tensor of ``stored.scale``.
    """
    shape = (*weight.shape[:-1], weight.shape[-1] * (2 if stored.packed else 1))
    blocks = [-(-size // edge) for size, edge in zip(shape, stored.edges, strict=True)]
    grid = _factors(factor).reshape(blocks)
    if weight.ndim > 2 and weight.numel() > _ELEMENTS:
        made = torch.empty(shape, dtype=dtype, device=weight.device)
        for place in range(len(weight)):
            own = grid[place // stored.edges[0]]
            made[place] = _times(weight[place], own, stored.edges[1:], stored)
        return made
    return _times(weight, grid, stored.edges, stored).to(dtype)


def _factors(factor: torch.Tensor) -> torch.Tensor:
    """Scales in float32; bytes are exponents of two."""
    if factor.dtype == torch.uint8:
        return (factor.float() - 127.0).exp2()
    return factor.float()


def _times(
    weight: torch.Tensor, grid: torch.Tensor, edges: tuple[int, ...], stored: StoredScale
) -> torch.Tensor:
    """float32: the numbers of a weight times a grid of factors, each for a block of ``edges``."""
    numbers = _unpacked(weight) if stored.packed else weight.float()
    if math.prod(grid.shape) == 1:
        return numbers * grid.reshape(())
    for axis, (size, edge) in enumerate(zip(numbers.shape, edges, strict=True)):
        if 1 < edge < size:
            grid = grid.repeat_interleave(edge, axis).narrow(axis, 0, size)
    return numbers * grid


def _unpacked(weight: torch.Tensor) -> torch.Tensor:
    """float32, twice as long: two numbers of each byte, the lower half first."""
    table = torch.tensor((*_E2M1, *(-value for value in _E2M1)), device=weight.device)
    raw = weight.contiguous().view(torch.uint8)
    halves = torch.stack([raw & 15, raw >> 4], dim=-1)
    return table[halves.long()].flatten(-2)
