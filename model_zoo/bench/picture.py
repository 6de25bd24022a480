"""Every row with a goal as a picture: how far it is from its goal, with its quartiles, its anchor and its memory."""

from __future__ import annotations

import math
from collections.abc import Sequence

from mmkd.report.canvas import Box, Curve, Dot, Shape, Text, line, svg, text_width
from model_zoo.bench.anchors import anchor
from model_zoo.bench.results import Entry, titled
from model_zoo.bench.table import number

INK, FAINT, GOOD, BAD, PEER, SHADE = "#1f2937", "#e5e7eb", "#0f766e", "#c2410c", "#9ca3af", "#f0fdfa"
LEFT, PLOT, RIGHT, TOP, ROW = 400, 380, 210, 72, 18
LOW, HIGH = 0.1, 5.0
"""Shares of the goal at the ends of the axis; what lies beyond stands at the end."""
TICKS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
TITLE = "Measured over its goal: left of the line is met"


def across(share: float) -> float:
    """Place of a share of the goal on the logarithmic axis."""
    kept = min(max(share, LOW), HIGH)
    return LEFT + math.log(kept / LOW) / math.log(HIGH / LOW) * PLOT


def drawn(entries: Sequence[Entry]) -> bytes:
    """The picture as SVG."""
    shapes: list[Shape] = [Text(12, 22, TITLE, INK, 14)]
    marks: list[Shape] = []
    y = float(TOP)
    for title, entry in titled(entries):
        judged = [row for row in entry.rows if row.met is not None]
        if not judged:
            continue
        marks.append(Text(12, y + 14, title, INK, 12))
        y += 22
        for row in judged:
            name = row.name if text_width(row.name, 11) < LEFT - 34 else f"{row.name[:60]}…"
            marks.append(Text(24, y + 13, name, INK, 11))
            middle = y + ROW / 2
            said = []
            if row.ratio and row.goal:
                shares = [value / row.goal for value in row.ratio]
                colour = GOOD if shares[0] <= 1 else BAD
                marks.append(Curve(line((across(shares[1]), middle), (across(shares[2]), middle)), colour, 3.0))
                if entry.device == "cpu" and (known := anchor(entry.group, row.name)):
                    marks.append(Dot(across(known.value / row.goal), middle, "#ffffff", PEER, 4))
                marks.append(Dot(across(shares[0]), middle, colour, "#ffffff", 4.5))
                said.append(f"{number(row.ratio.median, row.unit)} of {number(row.goal, row.unit)}")
            if row.memory_ratio is not None and row.memory_goal:
                share = row.memory_ratio / row.memory_goal
                colour = GOOD if share <= 1 else BAD
                marks.append(Box(across(share) - 4, middle - 4, 8, 8, colour, "#ffffff", 0))
                said.append(f"memory {number(row.memory_ratio)} of {number(row.memory_goal)}")
            marks.append(Text(LEFT + PLOT + 12, y + 13, ", ".join(said), INK, 10))
            y += ROW
        y += 8
    height, width = y + 34, LEFT + PLOT + 12 + RIGHT
    shapes.append(Box(LEFT, TOP, across(1.0) - LEFT, y - TOP, SHADE, radius=0))
    for tick in TICKS:
        x, label = across(tick), f"{tick:g}"
        shapes.append(Curve(line((x, TOP), (x, y)), INK if tick == 1 else FAINT, 1.0))
        shapes.append(Text(x - text_width(label, 10) / 2, y + 16, label, INK, 10))
    return svg([*shapes, *_legend(), *marks], width, height, TITLE)


def _legend() -> list[Shape]:
    shapes: list[Shape] = []
    x, y = 16.0, 45.0
    for text, colour, mark in (
        ("time, with quartiles: met", GOOD, "dot"), ("missed", BAD, "dot"), ("memory", GOOD, "box"),
        ("anchor: a peer, or by hand", PEER, "ring"),
    ):  # fmt: skip
        if mark == "box":
            shapes.append(Box(x - 4, y - 4, 8, 8, colour, "#ffffff", 0))
        else:
            shapes.append(
                Dot(x, y, "#ffffff" if mark == "ring" else colour, PEER if mark == "ring" else "#ffffff", 4.5)
            )
        shapes.append(Text(x + 10, y + 4, text, INK, 11))
        x += text_width(text, 11) + 36
    return shapes
