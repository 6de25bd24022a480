"""Contact sheets: queries beside the pictures that they retrieved."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

from mmkd_vision.image import rgb
from PIL import Image, ImageDraw, ImageFont

TILE, GAP, PAD, QUERY = 88, 16, 36, 210
INK, SOFT, LINE, HIT = "#1f2328", "#6e7781", "#d8dee4", "#1a7f37"
ROW = TILE + 2 * GAP

Pictures = Sequence[Sequence[Image.Image]]
"""For each query the pictures that it retrieved, best first."""


def sheet(
    queries: Sequence[str],
    columns: Mapping[str, Pictures],
    hits: Mapping[str, Sequence[Sequence[bool]]] | None = None,
) -> Image.Image:
    """Draw one row a query and one block of thumbnails a column, correct ones framed.

    Args:
        queries: what was asked.
        columns: what was retrieved, by the title of the column.
        hits: which of them are correct, by the same titles; None frames nothing.
    """
    widest = {title: max((len(row) for row in rows), default=0) for title, rows in columns.items()}
    widths = {title: max(count * (TILE + GAP) - GAP, TILE) for title, count in widest.items()}
    top = PAD + (34 if any(columns) else 0)
    size = (2 * PAD + QUERY + sum(widths.values()) + PAD * len(widths), top + len(queries) * ROW + PAD - GAP)
    page = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(page)
    for i, query in enumerate(queries):
        y = top + i * ROW
        pen.line([(PAD, y), (size[0] - PAD, y)], fill=LINE)
        lines = textwrap.shorten(query, 60, placeholder="…")
        wrapped = "\n".join(textwrap.wrap(lines, 20))
        pen.multiline_text((PAD, y + ROW / 2), wrapped, fill=INK, font=_font(18), anchor="lm", spacing=5)
    x = PAD + QUERY + PAD
    for title, rows in columns.items():
        pen.text((x, PAD), title, fill=SOFT, font=_font(18))
        for i, row in enumerate(rows):
            for j, image in enumerate(row):
                corner = (x + j * (TILE + GAP), top + i * ROW + (ROW - TILE) // 2)
                page.paste(_thumbnail(image), corner)
                if hits and hits[title][i][j]:
                    box = (corner[0] - 5, corner[1] - 5, corner[0] + TILE + 4, corner[1] + TILE + 4)
                    pen.rounded_rectangle(box, 9, outline=HIT, width=3)
        x += widths[title] + PAD
    return page


def _thumbnail(image: Image.Image) -> Image.Image:
    """The picture, whole, on a white square."""
    picture = rgb(image)
    scale = TILE / max(picture.size)
    small = picture.resize(
        (max(1, round(picture.width * scale)), max(1, round(picture.height * scale))), Image.Resampling.BICUBIC
    )
    square = Image.new("RGB", (TILE, TILE), "white")
    square.paste(small, ((TILE - small.width) // 2, (TILE - small.height) // 2))
    return square


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
