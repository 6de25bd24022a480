"""Charts as SVG: lines over steps, heat maps, reliability diagrams. Colours are the page's, by class."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mmkd.report.canvas import text_width
from mmkd.report.markup import Html, tag

WIDTH, HEIGHT = 400, 220
SMALL = 12
"""Size of text in a chart; a chart is shown at about its own size on every screen."""
MOST = 400
"""Points of a line; longer ones keep the least and the greatest of each stretch."""


@dataclass(frozen=True)
class Series:
    """One line. `colour` is a class of the page: `student baseline teacher`, or `c0` to `c6`."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    colour: str = "student"
    dashed: bool = False
    raw: Sequence[float] | None = None
    """What `y` is a smoothed form of; drawn faintly behind it."""


def number(value: float, digits: int = 4) -> str:
    """A number in a few digits: `0.0123`, `12.5k`, `1.5e-06`."""
    if math.isfinite(value):
        for least, size, unit in ((1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k")):
            if abs(value) >= least:
                return f"{value / size:.{digits}g}{unit}"
    return f"{value:.{digits}g}"


def labels(values: Sequence[float]) -> list[str]:
    """Numbers in as few digits as tell them apart."""
    for digits in range(4, 12):
        written = [number(value, digits) for value in values]
        if len(set(written)) == len(set(values)) and all(
            math.isclose(float(f"{value:.{digits}g}"), value, abs_tol=1e-12) for value in values
        ):
            break
    return written


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers, 1, 2 or 5 times a power of ten apart, within a range."""
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten within a range, with 2 and 5 between them where there are few."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in ((1,), (1, 2, 5)):
        found = [m * 10.0**d for d in decades for m in steps if low * 0.999 <= m * 10.0**d <= high * 1.001]
        if len(found) >= 3:
            return found[:: math.ceil(len(found) / 6)]
    return found or [low, high]


def _bounds(values: Sequence[float], log: bool) -> tuple[float, float]:
    low, high = min(values), max(values)
    if log:
        return (low, high) if low < high else (low / 2, high * 2)
    if low == high:
        return low - (abs(low) or 1) * 0.5, high + (abs(high) or 1) * 0.5
    pad = (high - low) * 0.06
    return (0.0 if 0 <= low < 0.5 * high else low - pad), high + pad


def line_chart(
    title: str, series: Sequence[Series], *, total: int = 0, log: bool = False, note: str = "", named: bool = False
) -> Html:
    """Lines over steps 0 to `total` with axes and ticks, and a legend where `named` or where there are several.

    Numbers that are not finite leave gaps.
    """
    clean = [_thinned(s, log) for s in series]
    ys = [v for s in clean for v in [*s.y, *(s.raw or ())] if math.isfinite(v)]
    xs = [x for s in clean for x in s.x]
    if not ys:
        return tag("figure", tag("figcaption", title), tag("p", "no finite number", class_="faint"), class_="card")
    y0, y1 = _bounds(ys, log)
    x0, x1 = min(0, *xs), max(1, total, *xs)
    y_ticks = log_ticks(y0, y1) if log else ticks(y0, y1)
    y_labels = labels(y_ticks)
    left = max(text_width(label, SMALL) for label in y_labels) + 12
    right, top, bottom = WIDTH - 14, 8, HEIGHT - 24
    x_ticks = ticks(x0, x1)

    def across(x: float) -> float:
        return left + (x - x0) / (x1 - x0) * (right - left)

    def up(y: float) -> float:
        share = math.log(y / y0) / math.log(y1 / y0) if log else (y - y0) / (y1 - y0)
        return bottom - share * (bottom - top)

    parts = []
    for t, label in zip(y_ticks, y_labels, strict=True):
        parts.append(tag("line", x1=_(left), x2=_(right), y1=_(up(t)), y2=_(up(t)), class_="grid"))
        parts.append(tag("text", label, x=_(left - 7), y=_(up(t) + 4), text_anchor="end"))
    for t, label in zip(x_ticks, labels(x_ticks), strict=True):
        anchor = "end" if across(t) + text_width(label, SMALL) / 2 > WIDTH - 4 else "middle"
        parts.append(tag("line", x1=_(across(t)), x2=_(across(t)), y1=_(bottom), y2=_(bottom + 4), class_="axis"))
        parts.append(tag("text", label, x=_(across(t)), y=_(bottom + 18), text_anchor=anchor))
    parts.append(tag("line", x1=_(left), x2=_(right), y1=_(bottom), y2=_(bottom), class_="axis"))
    for kind in ("raw", "line"):
        for s in clean:
            values = s.raw if kind == "raw" else s.y
            for stretch in _stretches(s.x, values or (), log):
                points = [f"{_(across(x))} {_(up(y))}" for x, y in stretch]
                look = f"{kind} {s.colour}" + (" dashed" if s.dashed else "")
                if len(points) > 1:
                    name = s.name if kind == "line" else None
                    parts.append(tag("path", d=f"M{'L'.join(points)}", class_=look, data_name=name))
                elif kind == "line":
                    x, y = points[0].split()
                    parts.append(tag("circle", cx=x, cy=y, r="3", class_=f"dot {s.colour}"))
    scale = " ".join(f"{v:.6g}" for v in (left, right, top, bottom, x0, x1, y0, y1))
    parts.append(tag("desc", "; ".join(map(_said, series))))
    picture = tag(
        "svg", parts, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=f"{title}, by step", class_="chart lines",
        data_scale=scale, data_log=log,
    )  # fmt: skip
    hint = ", ".join(part for part in ("log scale" if log else "", note) if part)
    heading = tag("figcaption", title, tag("small", hint) if hint else None)
    return tag("figure", heading, legend(clean) if named or len(series) > 1 else None, picture, class_="card")


def legend(series: Sequence[Series]) -> Html:
    """Names of lines beside how they are drawn."""

    def key(s: Series) -> Html:
        stroke = tag("path", d="M1 5H21", class_=f"line {s.colour}" + (" dashed" if s.dashed else ""))
        return tag("li", tag("svg", stroke, viewBox="0 0 22 10", width="22", height="10", aria_hidden="true"), s.name)

    return tag("ul", [key(s) for s in series], class_="legend")


def _(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _said(series: Series) -> str:
    seen = [(x, y) for x, y in zip(series.x, series.y, strict=True) if math.isfinite(y)]
    if not seen:
        return f"{series.name}: no finite number"
    (first, begin), (last, end) = seen[0], seen[-1]
    return f"{series.name}: {number(begin)} at {number(first)}, {number(end)} at {number(last)}"


def _stretches(x: Sequence[float], y: Sequence[float], log: bool) -> list[list[tuple[float, float]]]:
    """Points between gaps: what is not finite, and on a log scale what is not positive."""
    found: list[list[tuple[float, float]]] = [[]]
    for place, value in zip(x, y, strict=False):
        if math.isfinite(value) and (value > 0 or not log):
            found[-1].append((place, value))
        elif found[-1]:
            found.append([])
    return [stretch for stretch in found if stretch]


def _thinned(series: Series, log: bool) -> Series:
    """At most `MOST` points: of each stretch the smoothed line keeps one, the raw one its least and its greatest."""
    if log:
        gap = [v if v > 0 else math.nan for v in series.y]
        raw = [v if v > 0 else math.nan for v in series.raw] if series.raw is not None else None
        series = Series(series.name, series.x, gap, series.colour, series.dashed, raw)
    if len(series.x) <= MOST:
        return series
    size = math.ceil(2 * len(series.x) / MOST)
    kept: list[int] = []
    shape = series.raw or series.y
    for start in range(0, len(series.x), size):
        stretch = range(start, min(start + size, len(series.x)))
        finite = [i for i in stretch if math.isfinite(shape[i])] or list(stretch)
        kept += sorted({min(finite, key=lambda i: shape[i]), max(finite, key=lambda i: shape[i])})
    kept[-1] = len(series.x) - 1
    x, y = ([column[i] for i in kept] for column in (series.x, series.y))
    raw = [series.raw[i] for i in kept] if series.raw is not None else None
    return Series(series.name, x, y, series.colour, series.dashed, raw)


def heatmap(
    title: str, matrix: Sequence[Sequence[float]], rows: Sequence[str], columns: Sequence[str],
    *, row_title: str, column_title: str, texts: Sequence[Sequence[str]] | None = None, note: str = "",
) -> Html:  # fmt: skip
    """A matrix of shares in shades, with its numbers (or `texts`) where there is room."""
    cell = min(44.0, max(14.0, 300 / len(columns)))
    row_names, column_names = ([_short(n, 20) for n in names] for names in (rows, columns))
    upright = 1.1 * max(text_width(n, SMALL) for n in column_names) > cell - 6
    left = max(text_width(n, SMALL) for n in row_names) + 32
    above = (max(text_width(n, SMALL) for n in column_names) if upright else 12) + 34
    width, height = left + cell * len(columns) + 8, above + cell * len(rows) + 8
    middle = above + cell * len(rows) / 2
    parts = [
        tag("text", column_title, x=_(left + cell * len(columns) / 2), y="14", text_anchor="middle", class_="title"),
        _upright(row_title, 13, middle, text_anchor="middle", class_="title"),
    ]
    for j, name in enumerate(column_names):
        x = left + cell * (j + 0.5)
        said = tag("title", columns[j])
        if upright:
            parts.append(_upright([name, said], x + 4, above - 6))
        else:
            parts.append(tag("text", name, said, x=_(x), y=_(above - 6), text_anchor="middle"))
    for i, row in enumerate(matrix):
        y = above + cell * i
        label = {"x": _(left - 6), "y": _(y + cell / 2 + 4), "text_anchor": "end"}
        parts.append(tag("text", row_names[i], tag("title", rows[i]), **label))
        for j, value in enumerate(row):
            share = min(1.0, max(0.0, value)) if math.isfinite(value) else 0.0
            text = texts[i][j] if texts else f"{value:.2f}".replace("0.", ".", 1) if value < 1 else "1"
            said = tag("title", f"{rows[i]}, {columns[j]}: {texts[i][j] if texts else f'{value:.3f}'}")
            place = {"x": _(left + cell * j), "y": _(y), "width": _(cell - 1), "height": _(cell - 1)}
            parts.append(tag("rect", said, class_="cell", fill_opacity=f"{0.04 + 0.96 * share:.2f}", **place))
            if cell >= text_width(text, 11) + 4 and math.isfinite(value):
                x = left + cell * (j + 0.5)
                look = "off" if share < 0.62 else "mid" if share < 0.8 else "on"
                parts.append(tag("text", text, x=_(x), y=_(y + cell / 2 + 4), text_anchor="middle", class_=look))
    size = {"viewBox": f"0 0 {_(width)} {_(height)}", "width": _(width), "height": _(height)}
    picture = tag("svg", parts, role="img", aria_label=title, class_="chart", **size)
    heading = tag("figcaption", title, tag("small", note) if note else None)
    return tag("figure", heading, tag("div", picture, class_="fit"), class_="card alone")


def _upright(content: Any, x: float, y: float, **attributes: str) -> Html:
    """Text that reads from below."""
    return tag("text", content, transform=f"translate({_(x)} {_(y)}) rotate(-90)", **attributes)


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def reliability(title: str, bins: Sequence[tuple[int, float, float]], colour: str, note: str) -> Html:
    """Accuracy over confidence in bins of equal width, the diagonal of perfect calibration, and the share of samples.

    Args:
        bins: (samples, mean confidence, accuracy) of each.
    """
    left, top, side, band = 40, 52, 240, 34
    total = sum(count for count, _c, _a in bins) or 1
    step = side / len(bins)
    parts = []
    for t in (0.0, 0.25, 0.5, 0.75, 1.0):
        y, x = top + side * (1 - t), left + side * t
        parts.append(tag("line", x1=left, x2=left + side, y1=_(y), y2=_(y), class_="grid"))
        parts.append(tag("text", f"{t:g}", x=left - 6, y=_(y + 4), text_anchor="end"))
        parts.append(tag("text", f"{t:g}", x=_(x), y=top + side + 17, text_anchor="middle"))
    for i, (count, confidence, accuracy) in enumerate(bins):
        if not count:
            continue
        said = f"confidence {confidence:.3f}, accuracy {accuracy:.3f}, {count} samples"
        at = {"x": _(left + i * step + 0.5), "width": _(step - 1)}
        tall = side * accuracy
        parts.append(
            tag("rect", tag("title", said), y=_(top + side - tall), height=_(tall), class_=f"bar {colour}", **at)
        )
        share = band * count / total
        parts.append(
            tag("rect", tag("title", said), y=_(top - 10 - share), height=_(max(share, 1)), class_="count", **at)
        )
    parts.append(tag("line", x1=left, y1=top + side, x2=left + side, y2=top, class_="diagonal"))
    parts.append(tag("text", "confidence", x=left + side / 2, y=top + side + 34, text_anchor="middle", class_="title"))
    parts.append(_upright("accuracy", 11, top + side / 2, text_anchor="middle", class_="title"))
    box = {"viewBox": f"0 0 {left + side + 14} {top + side + 40}", "width": left + side + 14, "height": top + side + 40}
    picture = tag("svg", parts, role="img", aria_label=f"Reliability of {title}", class_="chart", **box)
    return tag("figure", tag("figcaption", title, tag("small", note)), tag("div", picture, class_="fit"), class_="card")
