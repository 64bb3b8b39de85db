"""Small charts as SVG, drawn here: the browser gets a picture, no script."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Final

from markupsafe import Markup

#: A point of a chart: seconds, and the value, or None where nothing was known.
Point = tuple[float, "float | None"]

_PAD: Final = 2.0


def line(
    points: Sequence[Point],
    label: str,
    *,
    width: int = 120,
    height: int = 28,
    kind: str = "",
    top: float = 0.0,
) -> Markup:
    """A line over time, the area below it filled; gaps where values are None.

    ``label`` is read out by screen readers and shown by the pointer; ``kind`` is a class of the style sheet;
    ``top`` the least value that the chart reaches up to.
    """
    known = [value for _, value in points if value is not None]
    text = escape(f"{label}: {_said(known)}")
    head = (
        f'<svg class="chart {escape(kind)}" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'preserveAspectRatio="none" role="img" aria-label="{text.replace(chr(34), "&quot;")}"><title>{text}</title>'
    )
    if len(known) < 2:
        middle = height - _PAD
        return Markup(f'{head}<line class="none" x1="0" y1="{middle}" x2="{width}" y2="{middle}"/></svg>')  # noqa: S704  as below
    most = max(*known, top, 1e-9)
    first, last = points[0][0], points[-1][0]
    across = (width - 2 * _PAD) / max(last - first, 1e-9)
    up = (height - 2 * _PAD) / most
    parts = []
    for run in _runs(points):
        places = [(_PAD + (at - first) * across, height - _PAD - value * up) for at, value in run]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        base = f"{height - _PAD:.1f}"
        parts.append(
            f'<polygon points="{places[0][0]:.1f},{base} {path} {places[-1][0]:.1f},{base}"/>'
            f'<polyline points="{path}"/>'
        )
    return Markup(f"{head}{''.join(parts)}</svg>")  # noqa: S704  numbers, and texts escaped above


def _runs(points: Sequence[Point]) -> list[list[tuple[float, float]]]:
    """The stretches without a gap."""
    runs: list[list[tuple[float, float]]] = [[]]
    for at, value in points:
        if value is None:
            runs.append([])
        else:
            runs[-1].append((at, value))
    return [run for run in runs if len(run) > 1]


def _said(known: Sequence[float]) -> str:
    if not known:
        return "nothing known yet"
    return f"now {short(known[-1])}, at most {short(max(known))}"


def short(value: float) -> str:
    """A number for people: 12, 0.4, 1.2k, 3.4M."""
    for limit, divisor, unit in ((1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if abs(value) >= limit:
            return f"{value / divisor:.1f}".rstrip("0").rstrip(".") + unit
    if value == int(value):
        return f"{int(value):,}"
    return f"{value:.1f}" if abs(value) >= 0.1 else f"{value:.2f}"
