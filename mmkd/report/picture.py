"""A bound graph as a picture, in SVG or PNG."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from mmkd.errors import GraphError
from mmkd.graph.training_graph import TrainingGraph
from mmkd.report import facts
from mmkd.report.canvas import Box, Curve, Dot, Shape, Text, line, png, svg, text_width
from mmkd.report.diagram import Diagram, Titled
from mmkd.report.layout import Layout, Port

Writer = Callable[[Iterable[Shape], float, float, str], bytes]
WRITERS: dict[str, Writer] = {".svg": svg, ".png": png}
COLOURS = {
    "batch": ("#5f6368", "#f6f6f7"),
    "student": ("#2c7a4b", "#f0f8f3"),
    "teacher": ("#54708c", "#eff3f7"),
    "projector": ("#bf6516", "#fdf5ec"),
    "mixer": ("#0f766e", "#eff8f6"),
    "schedule": ("#9a3412", "#fdf3ec"),
    "loss": ("#6d4aa3", "#f6f2fb"),
    "unused": ("#b4b8bd", "#fafafa"),
}
"""Header and body of the cards of each role."""
INK, FAINT, WHITE = "#24292f", "#6b7280", "#ffffff"
TITLE, BODY, SMALL = 14, 12, 11
"""Sizes of text."""
HEADER, NOTE = 28, 17
"""Heights of a card's title and of a note below it."""
MARGIN, PADDING, GAP = 24, 12, 9
"""Around the picture, inside a card, and between a port's name and its shape."""
ENTRY = 46
"""What an entry of the legend takes beside its text."""


def draw(graph: TrainingGraph, path: str | Path) -> Path:
    """Draw a graph into an `.svg` or `.png` file.

    Raises:
        GraphError: the file's suffix is neither, or the graph has not been set up.
    """
    path = Path(path)
    write = WRITERS.get(path.suffix.lower())
    if write is None:
        raise GraphError(
            f"'{path.suffix}' is no format of a picture", where=str(path), name=path.suffix, exists=WRITERS,
            next=f"name the file {path.stem or 'graph'}.svg",
        )  # fmt: skip
    drawn = drawing(graph, write)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(drawn)
    return path


def drawing(graph: TrainingGraph, write: Writer = svg) -> bytes:
    """The picture of a graph itself.

    Raises:
        GraphError: the graph has not been set up.
    """
    picture = _Picture(graph)
    return write(list(picture.shapes()), *picture.size, f"Training graph of {', '.join(graph.roles)}")


class _Picture:
    def __init__(self, graph: TrainingGraph) -> None:
        diagram = Diagram(graph)
        self.cards = diagram.cards
        for card in self.cards:
            _measure(card)
        self.layout = Layout(diagram.cards, diagram.wires)
        self.legend, self.footer = list(self._legend()), facts.budget(graph)
        width, height = self.layout.size
        legend = sum(text_width(text, SMALL) + ENTRY for _, text in self.legend)
        self.size = (
            round(2 * MARGIN + max(width, legend, text_width(self.footer, SMALL))),
            round(2 * MARGIN + height + 66),
        )

    def shapes(self) -> Iterator[Shape]:
        """Wires first, then cards, then the legend."""
        yield from self._wires()
        for card in self.cards:
            yield from _card(card, card.x + MARGIN, card.y + MARGIN)
        x, below = float(MARGIN), MARGIN + self.layout.size[1] + 40
        for drawn, text in self.legend:
            yield from _sample(drawn, x, below)
            yield Text(x + 26, below, text, INK, SMALL)
            x += text_width(text, SMALL) + ENTRY
        yield Text(MARGIN, below + 24, self.footer, FAINT, SMALL)

    def _wires(self) -> Iterator[Shape]:
        """Wires that begin or end together as one bundle, set off from what it crosses by a white rim."""
        bundles: dict[Port, list[Curve]] = {}
        for wire, path in zip(self.layout.wires, self.layout.paths(), strict=True):
            points = tuple((x + MARGIN, y + MARGIN) for x, y in path)
            curve = Curve(points, COLOURS[wire.role][0], dashed=wire.detached)
            bundles.setdefault(wire.target if wire.role == "loss" else wire.source, []).append(curve)
        for bundle in bundles.values():
            yield from (replace(curve, stroke=WHITE, width=5, dashed=False) for curve in bundle)
            yield from bundle

    def _legend(self) -> Iterator[tuple[str, str]]:
        words = {
            "student": "student: trained", "teacher": "teacher: frozen", "projector": "projector", "mixer": "mixer",
            "schedule": "schedule", "loss": "loss",
        }  # fmt: skip
        roles = {card.role for card in self.cards}
        yield from ((role, text) for role, text in words.items() if role in roles)
        if any(port.hollow for card in self.cards for port in card.right):
            yield from (("value", "published value"), ("tap", "tap, read inside the network"))
        if any(wire.detached for wire in self.layout.wires):
            yield "detached", "detached: no gradient flows back"


def _measure(card: Titled) -> None:
    """The room that a card's text needs, in whatever order its rows will stand."""
    card.head = HEADER + (NOTE * len(card.notes) + 3 if card.notes else 0) + 4
    flake = 16 if card.mark == "frozen" else 0
    widths = [text_width(card.title, TITLE) + (text_width(card.mark, SMALL) + flake + 24 if card.mark else 0)]
    widths += [text_width(note, SMALL) for note in card.notes]
    sides = [max(map(_port_width, side)) for side in (card.left, card.right) if side]
    widths.append(sum(sides) + 22 * (len(sides) - 1))
    card.width = max(110, 2 * PADDING + 4 + max(widths))


def _port_width(port: Port) -> float:
    return text_width(port.name, BODY) + (text_width(port.detail, SMALL) + GAP if port.detail else 0)


def _card(card: Titled, x: float, y: float) -> Iterator[Shape]:
    dark, light = COLOURS[card.role]
    right = x + card.width - PADDING
    yield Box(x, y, card.width, card.height, light, dark)
    yield Box(x, y, card.width, HEADER, dark, flat=True)
    yield Text(x + PADDING, y + 19, card.title, WHITE, TITLE)
    if card.mark:
        yield Text(right, y + 18.5, card.mark, WHITE, SMALL, ends=True)
    if card.mark == "frozen":
        yield from _snowflake(right - 10 - text_width(card.mark, SMALL), y + 14.5, WHITE)
    for i, note in enumerate(card.notes):
        yield Text(x + PADDING, y + HEADER + NOTE * i + 15, note, FAINT, SMALL)
    for port in card.left:
        level = y + card.row(port)
        yield Dot(x, level, WHITE, INK, 3)
        yield Text(x + PADDING, level + 4, port.name, INK, BODY)
        if port.detail:
            yield Text(x + PADDING + text_width(port.name, BODY) + GAP, level + 4, port.detail, FAINT, SMALL)
    for port in card.right:
        level, end = y + card.row(port), right
        yield Dot(x + card.width, level, WHITE if port.hollow else dark, dark)
        if port.detail:
            yield Text(end, level + 4, port.detail, FAINT, SMALL, ends=True)
            end -= text_width(port.detail, SMALL) + GAP
        if port.name:
            yield Text(end, level + 4, port.name, INK, BODY, ends=True)


def _sample(drawn: str, x: float, y: float) -> Iterator[Shape]:
    """What an entry of the legend explains."""
    if drawn == "detached":
        yield Curve(line((x, y - 4), (x + 20, y - 4)), FAINT, dashed=True)
    elif drawn in ("value", "tap"):
        yield Dot(x + 12, y - 4, WHITE if drawn == "tap" else FAINT, FAINT)
    else:
        dark, light = COLOURS[drawn]
        yield Box(x, y - 10, 18, 12, light, dark, 3)
        yield Box(x, y - 10, 18, 5, dark, "", 3, flat=True)


def _snowflake(x: float, y: float, colour: str) -> Iterator[Shape]:
    """Six arms with barbs."""
    half = 3**0.5 / 2
    for dx, dy in ((0.0, 1.0), (half, 0.5), (half, -0.5), (0.0, -1.0), (-half, -0.5), (-half, 0.5)):
        yield Curve(line((x, y), (x + 5 * dx, y + 5 * dy)), colour, 1.1)
        left, right = (0.5 * dx - half * dy, half * dx + 0.5 * dy), (0.5 * dx + half * dy, 0.5 * dy - half * dx)
        barb, tips = (x + 3 * dx, y + 3 * dy), [(x + 3 * dx + 2 * u, y + 3 * dy + 2 * v) for u, v in (left, right)]
        yield Curve(line(tips[0], barb, tips[1]), colour, 0.9)
