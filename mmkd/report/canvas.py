"""Shapes of a picture, and the same shapes as SVG or PNG."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import pairwise
from xml.sax.saxutils import escape

from PIL import Image, ImageDraw, ImageFont
from PIL.ImageFont import FreeTypeFont

from mmkd.report.layout import Point

SCALE = 2
"""Pixels of a PNG per unit of the picture."""
FINER = 2
"""PNG is drawn this much larger still, then reduced: Pillow's lines have no smooth edges."""
DASH = (5.0, 4.0)
FONTS = "Aileron, 'Helvetica Neue', Helvetica, Arial, 'Liberation Sans', 'DejaVu Sans', sans-serif"


@dataclass(frozen=True)
class Box:
    """A rectangle with round corners; `flat` leaves the lower ones square."""

    x: float
    y: float
    width: float
    height: float
    fill: str
    stroke: str = ""
    radius: float = 7
    flat: bool = False


@dataclass(frozen=True)
class Text:
    """One line of text on the baseline `y`, starting at `x`, or ending there."""

    x: float
    y: float
    text: str
    fill: str
    size: float = 12
    ends: bool = False


@dataclass(frozen=True)
class Curve:
    """A chain of cubic curves: a first point, then three for each curve."""

    points: tuple[Point, ...]
    stroke: str
    width: float = 1.6
    dashed: bool = False


@dataclass(frozen=True)
class Dot:
    """A disc with an outline."""

    x: float
    y: float
    fill: str
    stroke: str
    radius: float = 4


Shape = Box | Text | Curve | Dot


@functools.cache
def _font(size: float) -> FreeTypeFont:
    font = ImageFont.load_default(size)
    assert isinstance(font, FreeTypeFont)
    return font


@functools.cache
def text_width(text: str, size: float = 12) -> float:
    """Width of a line of text."""
    return _font(64).getlength(text) * size / 64


def line(*points: Point) -> tuple[Point, ...]:
    """Straight lines through points, as a chain of curves."""
    return (points[0], *(p for a, b in pairwise(points) for p in (a, b, b)))


# -- SVG --------------------------------------------------------------------------------------------------------


def svg(shapes: Iterable[Shape], width: float, height: float, title: str) -> bytes:
    """A picture as a stand-alone SVG file."""
    size = f'width="{width:g}" height="{height:g}" viewBox="0 0 {width:g} {height:g}"'
    rows = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" font-family="{FONTS}">',
        f"<title>{escape(title)}</title>",
        '<rect width="100%" height="100%" fill="#ffffff"/>',
        *(_element(shape) for shape in shapes),
        "</svg>",
    ]
    return ("\n".join(rows) + "\n").encode()


def _element(shape: Shape) -> str:
    match shape:
        case Box(x, y, w, h, fill, stroke, r):
            paint = f'fill="{fill}"' + (f' stroke="{stroke}" stroke-width="1.2"' if stroke else "")
            if shape.flat:
                up, over, down = f"v{r - h:.1f}", f"h{w - 2 * r:.1f}", f"v{h - r:.1f}z"
                corners = f"a{r} {r} 0 0 1 {r} {-r}", f"a{r} {r} 0 0 1 {r} {r}"
                outline = f"M{x:.1f} {y + h:.1f}{up}{corners[0]}{over}{corners[1]}{down}"
                return f'<path d="{outline}" {paint}/>'
            return f'<rect x="{x:.1f}" y="{y:.1f}" width="{w:.1f}" height="{h:.1f}" rx="{r}" {paint}/>'
        case Text(x, y, text, fill, size, ends):
            place = f'x="{x:.1f}" y="{y:.1f}"' + (' text-anchor="end"' if ends else "")
            look = f'font-size="{size:g}" fill="{fill}"'
            fitted = f'textLength="{text_width(text, size):.1f}" lengthAdjust="spacingAndGlyphs"'
            return f"<text {place} {look} {fitted}>{escape(text)}</text>"
        case Curve(points, stroke, width, dashed):
            first, *rest = [f"{x:.1f} {y:.1f}" for x, y in points]
            curves = "".join("C" + " ".join(rest[i : i + 3]) for i in range(0, len(rest), 3))
            look = f'fill="none" stroke="{stroke}" stroke-width="{width:g}"'
            dashes = f' stroke-dasharray="{DASH[0]:g} {DASH[1]:g}"' if dashed else ""
            return f'<path d="M{first}{curves}" {look}{dashes}/>'
        case Dot(x, y, fill, stroke, r):
            return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{r:g}" fill="{fill}" stroke="{stroke}" stroke-width="1.6"/>'


# -- PNG --------------------------------------------------------------------------------------------------------


def png(shapes: Iterable[Shape], width: float, height: float, title: str) -> bytes:
    """A picture as a PNG file of `SCALE` pixels per unit."""
    k = SCALE * FINER
    image = Image.new("RGB", (round(width * k), round(height * k)), "#ffffff")
    pen = ImageDraw.Draw(image)
    for shape in shapes:
        _paint(pen, shape, k)
    out = BytesIO()
    image = image.resize((round(width * SCALE), round(height * SCALE)), Image.Resampling.LANCZOS)
    image.save(out, "PNG")
    return out.getvalue()


def _paint(pen: ImageDraw.ImageDraw, shape: Shape, k: int) -> None:
    match shape:
        case Box(x, y, w, h, fill, stroke, r):
            corners = (True, True, not shape.flat, not shape.flat)
            place = (x * k, y * k, (x + w) * k, (y + h) * k)
            pen.rounded_rectangle(place, r * k, fill, stroke or None, round(1.2 * k) if stroke else 0, corners=corners)
        case Text(x, y, text, fill, size, ends):
            pen.text((x * k, y * k), text, fill, _font(size * k), anchor="rs" if ends else "ls")
        case Curve(points, stroke, width, dashed):
            trail = list(_trail(points))
            for part in _dashes(trail) if dashed else [trail]:
                pen.line([(x * k, y * k) for x, y in part], stroke, round(width * k), joint="curve")
        case Dot(x, y, fill, stroke, r):
            pen.circle((x * k, y * k), (r + 0.8) * k, stroke)
            pen.circle((x * k, y * k), (r - 0.8) * k, fill)


def _trail(points: Sequence[Point], pieces: int = 32) -> Iterator[Point]:
    """Points along a chain of cubic curves."""
    yield points[0]
    for i in range(0, len(points) - 1, 3):
        corners = points[i : i + 4]
        for step in range(1, pieces + 1):
            t = step / pieces
            parts = ((1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t * t * (1 - t), t**3)
            x, y = (sum(part * corner[axis] for part, corner in zip(parts, corners, strict=True)) for axis in (0, 1))
            yield x, y


def _dashes(trail: Sequence[Point]) -> Iterator[list[Point]]:
    """The drawn parts of a dashed trail."""
    on, left, part = True, DASH[0], [trail[0]]
    for (x0, y0), (x1, y1) in pairwise(trail):
        length = ((x1 - x0) ** 2 + (y1 - y0) ** 2) ** 0.5
        gone = 0.0
        while length - gone > left:
            gone += left
            point = (x0 + (x1 - x0) * gone / length, y0 + (y1 - y0) * gone / length)
            if on:
                yield [*part, point]
            on, part = not on, [point]
            left = DASH[0] if on else DASH[1]
        left -= length - gone
        part.append((x1, y1))
    if on:
        yield part
