"""Histograms as SVG: drawn here rather than by a plotting library, which would be the largest dependency of all for two
kinds of picture. A browser shows them sharp at any size and in the reader's own colours, light or dark.

Only numbers and texts of ours go in; a stranger's text is escaped all the same.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

_WIDTH, _HEIGHT = 560, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 50, 14, 30, 46

STYLE = """
.chart text { font: 13px system-ui, sans-serif; fill: var(--ink, #1c2430); }
.chart .axis { stroke: var(--line, #8b95a1); }
.chart .grid { stroke: var(--line, #8b95a1); opacity: .35; }
.chart .expected { stroke: var(--ink, #1c2430); stroke-dasharray: 2 4; }
.chart .mark { stroke: var(--ink, #1c2430); stroke-width: 2; }
.chart .dotted { stroke-dasharray: 2 4; }
.chart .calibration { fill: var(--muted, #7d8794); }
.chart .likely_ai { fill: var(--ai, #b3261e); }
.chart .uncertain { fill: var(--uncertain, #c98a00); }
.chart .likely_real { fill: var(--real, #2b7a78); }
"""
"""Of the bars by class; a page sets the colours, a file of its own has them as they stand."""

_DARK = "@media (prefers-color-scheme: dark) { svg { background: #14181f; --ink: #e8ecf1; --line: #5c6672; } }"


@dataclass(frozen=True)
class Mark:
    """An upright line with a text, at a value."""

    value: float
    text: str
    dotted: bool = False


def histogram(
    edges: Sequence[float],
    counts: Mapping[str, Sequence[int]],
    *,
    title: str,
    x_label: str,
    marks: Sequence[Mark] = (),
    expected: float | None = None,
    standalone: bool = False,
) -> str:
    """Draws stacked bars.

    Args:
        edges: (n + 1,) ascending borders of the bars.
        counts: by class of `STYLE`, bottom first, (n,) each.
        title: what a reader who cannot see it is told.
        marks: lines across the plot.
        expected: level of a dotted line over all bars.
        standalone: whether it is a file of its own, with its own colours, and not a part of a page.

    Returns:
        An `<svg>` element.
    """
    low, high = float(edges[0]), float(edges[-1])
    top = max([*np.sum([list(c) for c in counts.values()], axis=0), expected or 0, 1]) * 1.05
    plot_width, plot_height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM

    def x(value: float) -> float:
        return round(_LEFT + (value - low) / (high - low) * plot_width, 2)

    def y(count: float) -> float:
        return round(_TOP + (1 - count / top) * plot_height, 2)

    parts = []
    for tick in ticks(0, top, 4):
        if tick == int(tick):
            parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y(tick)}" y2="{y(tick)}"/>')
            parts.append(f'<text x="{_LEFT - 6}" y="{y(tick) + 4}" text-anchor="end">{_brief(int(tick))}</text>')
    below = np.zeros(len(edges) - 1)
    for name, values in counts.items():
        for i, count in enumerate(values):
            if count:
                left, width = x(edges[i]), x(edges[i + 1]) - x(edges[i])
                bar_top, bar_bottom = y(below[i] + count), y(below[i])
                tip = f"{edges[i]:.3g} to {edges[i + 1]:.3g}: {count:,} {name.replace('_', ' ')}"
                parts.append(
                    f'<rect class="{name}" x="{left}" y="{bar_top}" width="{max(width - 1, 1):.2f}"'
                    f' height="{bar_bottom - bar_top:.2f}"><title>{escape(tip)}</title></rect>'
                )
        below += np.asarray(values)
    if expected is not None:
        level = y(expected)
        parts.append(f'<line class="expected" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{level}" y2="{level}"/>')
    base = y(0)
    parts.append(f'<line class="axis" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{base}" y2="{base}"/>')
    for tick in ticks(low, high, 6):
        parts.append(f'<text x="{x(tick)}" y="{base + 18}" text-anchor="middle">{tick:g}</text>')
    parts.append(f'<text x="{_LEFT + plot_width / 2}" y="{_HEIGHT - 8}" text-anchor="middle">{escape(x_label)}</text>')
    parts += [_mark(x(min(max(mark.value, low), high)), base, mark, level) for level, mark in enumerate(marks)]
    own = f"<style>{STYLE}{_DARK}</style>" if standalone else ""
    names = ' xmlns="http://www.w3.org/2000/svg" width="840"' if standalone else ""
    return (
        f'<svg class="chart" role="img" viewBox="0 0 {_WIDTH} {_HEIGHT}"{names}>'
        f"<title>{escape(title)}</title>{own}{''.join(parts)}</svg>"
    )


def _mark(place: float, base: float, mark: Mark, level: int) -> str:
    """A line and its text, on the side where there is room; each one's text is a line lower than the one before."""
    right = place > _WIDTH / 2
    anchor, shift = ("end", -6) if right else ("start", 6)
    height = 12 + 16 * level
    return (
        f'<line class="mark{" dotted" * mark.dotted}" x1="{place}" x2="{place}" y1="{height - 8}" y2="{base}"/>'
        f'<text x="{place + shift}" y="{height + 2}" text-anchor="{anchor}">{escape(mark.text)}</text>'
    )


def _brief(count: int) -> str:
    """A round count, as short as the margin at its left."""
    if count < 10_000:
        return f"{count:,}"
    letter, unit = next((letter, unit) for letter, unit in (("G", 1e9), ("M", 1e6), ("k", 1e3)) if count >= unit)
    return f"{count / unit:g} {letter}"


def ticks(low: float, high: float, about: int) -> list[float]:
    """Round numbers from `low` to `high`, about as many as wanted."""
    raw = (high - low) / about
    power = 10 ** np.floor(np.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw)
    first = np.ceil(low / step - 1e-9)
    return [float(np.round(i * step, 10)) + 0.0 for i in np.arange(first, np.floor(high / step + 1e-9) + 1)]
