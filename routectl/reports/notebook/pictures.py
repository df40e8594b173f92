"""Pictures of a notebook's answer: SVG and PNG inside the HTML, no script, nothing to fetch."""

import base64
import html
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Bar", "bars", "heat"]

_WIDTH, _HEIGHT, _LEFT, _TOP, _BOTTOM = 640, 120, 56, 20, 18
_FILL = "#4c78a8"
_LABELS = 12  # that fit below an axis
_CELL, _LOWEST, _HIGHEST = 8, 60, 320  # of a heat map, in pixels: a row, and all of them
_SCALE = ((244, 247, 251), (255, 214, 102), (214, 69, 65), (74, 20, 70))  # none, least .. most


@dataclass(frozen=True, slots=True)
class Bar:
    """A figure and what it is of; None where it is not defined. low and high are its interval."""

    label: str
    value: float | None
    low: float | None = None
    high: float | None = None


def _told(value: float, percent: bool) -> str:
    return f"{value:.3%}" if percent else f"{value:.3g}"


def bars(title: str, figures: Sequence[Bar], *, percent: bool = True) -> str:
    """Figures as bars from 0, each with its number in a tooltip; nothing where none is defined."""
    known = [f for f in figures if f.value is not None]
    if not known:
        return ""
    most = max(max(f.value or 0.0, f.high or 0.0) for f in known) or 1.0
    step = (_WIDTH - _LEFT) / len(figures)
    room = _HEIGHT - _TOP - _BOTTOM
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        f'width="{_WIDTH}" height="{_HEIGHT}" role="img" '
        'style="display:block;max-width:100%;height:auto">',
        f'<g font-size="11" font-family="sans-serif" fill="currentColor"><text x="0" y="12">'
        f"{html.escape(title)}</text>",
        f'<text x="{_LEFT - 4}" y="{_TOP + 8}" text-anchor="end">{_told(most, percent)}</text>',
        f'<text x="{_LEFT - 4}" y="{_TOP + room}" text-anchor="end">0</text>',
    ]
    every = -(-len(figures) // _LABELS)
    for i, figure in enumerate(figures):
        x = _LEFT + i * step
        if i % every == 0:
            middle = x + step / 2
            label = html.escape(figure.label)
            parts.append(
                f'<text x="{middle:.1f}" y="{_HEIGHT - 5}" text-anchor="middle">{label}</text>'
            )
        parts.append(_bar(figure, x, step, most, percent))
    line = f"M{_LEFT} {_TOP + room}H{_WIDTH}"
    parts.append(f'</g><path d="{line}" stroke="currentColor" stroke-width="0.5"/></svg>')
    return "".join(parts)


def _bar(figure: Bar, x: float, step: float, most: float, percent: bool) -> str:
    """One bar, and the line of its interval."""
    if figure.value is None:
        return ""
    room = _HEIGHT - _TOP - _BOTTOM
    high = room * max(figure.value, 0.0) / most
    told = html.escape(f"{figure.label}: {_told(figure.value, percent)}")
    drawn = (
        f'<rect x="{x + step * 0.1:.1f}" y="{_TOP + room - high:.1f}" width="{step * 0.8:.1f}" '
        f'height="{high:.1f}" fill="{_FILL}"><title>{told}</title></rect>'
    )
    if figure.low is None or figure.high is None:
        return drawn
    ends = [_TOP + room - room * max(end, 0.0) / most for end in (figure.low, figure.high)]
    line = f"M{x + step / 2:.1f} {ends[0]:.1f}V{ends[1]:.1f}"
    return f'{drawn}<path d="{line}" stroke="currentColor" stroke-width="1.5"/>'


def heat(title: str, rates: NDArray[np.float64], foot: str) -> str:
    """A grid of figures as a picture, the first row at the top; NaN cells are see-through."""
    known = rates[np.isfinite(rates)]
    if not known.size:
        return ""
    most = float(known.max()) or 1.0
    with np.errstate(invalid="ignore"):
        place = np.nan_to_num(rates / most) * (len(_SCALE) - 1)
    lower = np.clip(place.astype(np.int64), 0, len(_SCALE) - 2)
    scale, part = np.array(_SCALE, np.float64), (place - lower)[..., None]
    rgb = scale[lower] * (1 - part) + scale[lower + 1] * part
    alpha = np.where(np.isfinite(rates), 255, 0)[..., None]
    image = base64.b64encode(_png(np.concatenate([rgb, alpha], axis=2).astype(np.uint8))).decode()
    height = min(max(_CELL * len(rates), _LOWEST), _HIGHEST)
    return (
        f'<div style="font:11px sans-serif">{html.escape(title)}, most {most:.3%}<br>'
        f'<img alt="{html.escape(title)}" src="data:image/png;base64,{image}" '
        f'style="width:{_WIDTH}px;max-width:100%;height:{height}px;image-rendering:pixelated">'
        f"<br>{html.escape(foot)}</div>"
    )


def _png(pixels: NDArray[np.uint8]) -> bytes:
    """RGBA pixels [rows, columns, 4] as a PNG file (W3C, PNG third edition)."""
    rows, columns, _ = pixels.shape
    head = struct.pack(">IIBBBBB", columns, rows, 8, 6, 0, 0, 0)
    lines = np.zeros((rows, 1 + 4 * columns), np.uint8)  # a filter byte, 0, then the line
    lines[:, 1:] = pixels.reshape(rows, -1)
    parts = ((b"IHDR", head), (b"IDAT", zlib.compress(lines.tobytes(), 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in parts
    )
