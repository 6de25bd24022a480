"""A bound graph as a picture: batch, networks, projectors, losses, from left to right."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from mmkd.errors import GraphError
from mmkd.graph.binding import Binding
from mmkd.graph.node import Node, NodeRun
from mmkd.graph.term import Term
from mmkd.graph.training_graph import TrainingGraph
from mmkd.graph.value import Address
from mmkd.report import facts
from mmkd.report.canvas import Box, Curve, Dot, Shape, Text, line, png, svg, text_width
from mmkd.report.layout import ROW, Card, Layout, Port, Wire
from mmkd.report.notation import Shapes, counted, over_run

WRITERS = {".svg": svg, ".png": png}
COLOURS = {
    "batch": ("#5f6368", "#f6f6f7"),
    "student": ("#2c7a4b", "#f0f8f3"),
    "teacher": ("#54708c", "#eff3f7"),
    "projector": ("#bf6516", "#fdf5ec"),
    "loss": ("#6d4aa3", "#f6f2fb"),
    "unused": ("#b4b8bd", "#fafafa"),
}
"""Header and body of the cards of each role."""
INK, FAINT, WHITE = "#24292f", "#6b7280", "#ffffff"
HEADER, NOTE = 28, 17
MARGIN = 24


def draw(graph: TrainingGraph, path: str | Path) -> Path:
    """Draw a graph into an `.svg` or `.png` file.

    Raises:
        GraphError: the file's suffix is neither, or the graph has not been set up.
    """
    path = Path(path)
    if path.suffix.lower() not in WRITERS:
        raise GraphError(
            f"'{path.suffix}' is no format of a picture", where=str(path), name=path.suffix, exists=WRITERS,
            next=f"name the file {path.stem or 'graph'}.svg",
        )  # fmt: skip
    picture = _Picture(graph)
    shapes = list(picture.shapes())
    path.parent.mkdir(parents=True, exist_ok=True)
    title = f"Training graph of {', '.join(graph.roles)}"
    path.write_bytes(WRITERS[path.suffix.lower()](shapes, *picture.size, title))
    return path


@dataclass(eq=False)
class _Titled(Card):
    """A card with its text."""

    title: str = ""
    role: str = "batch"
    mark: str = ""
    notes: list[str] = field(default_factory=list)

    def measure(self) -> None:
        """Find the room that the text needs."""
        self.head = HEADER + (NOTE * len(self.notes) + 3 if self.notes else 0) + 4
        rows = max(len(self.left), len(self.right))
        widths = [text_width(self.title, 14) + (text_width(self.mark, 11) + 40 if self.mark else 0)]
        widths += [text_width(note, 11) for note in self.notes]
        for i in range(rows):
            sides = [_row_width(side[i]) for side in (self.left, self.right) if i < len(side)]
            widths.append(sum(sides) + 22 * (len(sides) - 1))
        self.width = max(110.0, 28 + max(widths))


def _row_width(port: Port) -> float:
    return text_width(port.name) + (text_width(port.detail, 11) + 7 if port.detail else 0)


class _Picture:
    def __init__(self, graph: TrainingGraph) -> None:
        self.graph, self.written = graph, Shapes(graph)
        self.cards: list[_Titled] = []
        self.wires: list[Wire] = []
        self.sources: dict[str, tuple[Port, str]] = {}
        """By address: the port that gives a value, and the role of its card."""
        self.batch = self._card(0, "batch", "batch", mark=f"B = {self.written.batch}" if self.written.batch else "")
        for node in graph.roles.values():
            self._node(node)
        depths: dict[str, int] = {}
        for binding in graph.plan.projectors:
            below = [depths.get(address.node, 0) for _, address in facts.each_port(binding)]
            depths[binding.name] = 1 + max(below, default=0)
            self._projector(binding, 1 + depths[binding.name])
        last = 2 + max(depths.values(), default=0)
        for name in graph.bound.keys() - graph.widths.keys():
            self._card(2, name, "unused", "no loss reads it", [type(graph.bound[name].module).__name__])
        self._losses(last)
        for card in self.cards:
            card.measure()
        self.layout = Layout(self.cards, self.wires)
        self.legend = list(self._legend())
        width, height = self.layout.size
        entries = [text_width(text, 11) + 46 for _, text in self.legend]
        self.footer = facts.trained(graph)
        self.size = (
            round(2 * MARGIN + max(width, sum(entries), text_width(self.footer, 11))),
            round(2 * MARGIN + height + 66),
        )

    # -- cards and wires ----------------------------------------------------------------------------------------

    def _card(self, layer: int, title: str, role: str, mark: str = "", notes: list[str] | None = None) -> _Titled:
        card = _Titled(layer, title=title, role=role, mark=mark, notes=notes or [])
        self.cards.append(card)
        return card

    def _give(self, card: _Titled, key: str, port: Port) -> None:
        card.right.append(port)
        self.sources[key] = (port, card.role)

    def _take(self, card: _Titled, port: str, key: str, *, detached: bool = False) -> None:
        """Wire a value to a port of a card; batch fields appear in the batch's card when they are first read."""
        if key not in self.sources:
            self._give(self.batch, key, Port(key.removeprefix("batch").lstrip("."), self.written.of(key)))
        source, role = self.sources[key]
        card.left.append(Port(port, "detached" if detached else ""))
        self.wires.append(Wire(source, card.left[-1], role, detached))

    def _node(self, node: Node) -> None:
        role = "student" if node.trained else "teacher"
        total = counted(facts.parameters(node.encoder)[1], "parameter")
        runs = facts.runs_of(self.graph, node)
        if not runs:
            self._card(1, node.name, "unused", "not run", [facts.network(node), total])
        for run in runs:
            notes = [facts.network(node), total, *self._notes(run)]
            card = self._card(1, run.id, role, "trained" if node.trained else "frozen", notes)
            for name, (source, shape) in self.graph.sources[run.id].items():
                key = f"batch.{source}"
                if key not in self.sources:
                    self._give(self.batch, key, Port(source, self.written.written(shape)))
                self._take(card, name, key)
            for key in facts.reads(run):
                port = Port(key.removeprefix(run.id).removeprefix("."), self.written.of(key), facts.is_tap(key))
                self._give(card, key, port)

    def _notes(self, run: NodeRun) -> Iterator[str]:
        if facts.stops(run):
            yield "pass stops early"
        if unread := facts.skipped(run.node, facts.runs_of(self.graph, run.node)):
            yield f"{len(unread)} of {counted(len(run.node.encoder.values()), 'value')} skipped"
        if run.node.cache or run.node.table:
            yield "outputs remembered"

    def _projector(self, binding: Binding, layer: int) -> None:
        kept = "exported" if binding.name in self.graph.exported else "train-only"
        total = counted(facts.parameters(binding.module)[1], "parameter")
        card = self._card(layer, binding.name, "projector", kept, [type(binding.module).__name__, total])
        for port, address in facts.each_port(binding):
            self._take(card, port, address.key, detached=address.detached)
        self._give(card, binding.name, Port("", self.written.of(binding.name)))

    def _losses(self, layer: int) -> None:
        total = _Titled(layer + 1, [Port("sum")], title="loss", role="loss")
        for term in self.graph.terms:
            card = self._card(layer, term.name, "loss", "coupled" if term.loss.coupled else "", [*self._loss_notes(term)])
            extra = [(name, a) for name, a in (("mask", term.mask), ("sample_weight", term.sample_weight)) if a is not None]
            ports: list[tuple[str, Address]] = [*facts.each_port(term.binding), *extra]
            for port, address in ports:
                self._take(card, port, address.key, detached=address.detached)
            self._give(card, f"{term.name}_loss", Port("", f"x {facts.weight(term, self.graph.total_steps)}"))
            self.wires.append(Wire(card.right[-1], total.left[0], "loss"))
        self.cards.append(total)

    def _loss_notes(self, term: Term) -> Iterator[str]:
        yield type(term.loss).__name__
        critics = [phase for phase in self.graph.phases if phase.term == term.name]
        own = facts.parameters(term.loss)[1] - sum(map(facts.moved, critics))
        if own:
            yield counted(own, "parameter")
        for option, schedule in facts.followed(self.graph, term.loss):
            yield f"{option} {over_run(schedule, self.graph.total_steps)}"
        for phase in critics:
            verb = "ascends" if phase.ascend else "descends"
            yield f"critic: {counted(facts.moved(phase), 'parameter')}"
            yield f"critic {verb}, {counted(phase.repeats, 'update')} per step"

    # -- shapes -------------------------------------------------------------------------------------------------

    def shapes(self) -> Iterator[Shape]:
        """Wires first, then cards, then the legend."""
        paths = self.layout.paths()
        for wire, path in zip(self.layout.wires, paths, strict=True):
            points = tuple((x + MARGIN, y + MARGIN) for x, y in path)
            yield Curve(points, WHITE, 5)
            yield Curve(points, COLOURS[wire.role][0], dashed=wire.detached)
        for card in self.cards:
            yield from self._card_shapes(card, card.x + MARGIN, card.y + MARGIN)
        below = MARGIN + self.layout.size[1] + 40
        x: float = MARGIN
        for drawn, text in self.legend:
            yield from _sample(drawn, x, below)
            yield Text(x + 26, below, text, INK, 11)
            x += text_width(text, 11) + 46
        yield Text(MARGIN, below + 24, self.footer, FAINT, 11)

    def _card_shapes(self, card: _Titled, x: float, y: float) -> Iterator[Shape]:
        dark, light = COLOURS[card.role]
        yield Box(x, y, card.width, card.height, light, dark)
        yield Box(x, y, card.width, HEADER, dark, flat=True)
        yield Text(x + 12, y + 19, card.title, WHITE, 14)
        if card.mark:
            yield Text(x + card.width - 12, y + 18.5, card.mark, WHITE, 11, ends=True)
        if card.mark == "frozen":
            yield from _snowflake(x + card.width - 22 - text_width("frozen", 11), y + 14.5, WHITE)
        for i, note in enumerate(card.notes):
            yield Text(x + 12, y + HEADER + NOTE * i + 15, note, FAINT, 11)
        for port in card.left:
            level = y + card.row(port)
            yield Dot(x, level, WHITE, INK, 3)
            yield Text(x + 12, level + 4, port.name, INK)
            if port.detail:
                yield Text(x + 19 + text_width(port.name), level + 4, port.detail, FAINT, 11)
        for port in card.right:
            level, end = y + card.row(port), x + card.width - 12
            yield Dot(x + card.width, level, WHITE if port.hollow else dark, dark)
            if port.detail:
                yield Text(end, level + 4, port.detail, FAINT, 11, ends=True)
                end -= text_width(port.detail, 11) + 7
            if port.name:
                yield Text(end, level + 4, port.name, INK, ends=True)

    def _legend(self) -> Iterator[tuple[str, str]]:
        words = {"student": "student: trained", "teacher": "teacher: frozen", "projector": "projector", "loss": "loss"}
        roles = {card.role for card in self.cards}
        yield from ((role, text) for role, text in words.items() if role in roles)
        ports = [port for card in self.cards for port in card.right]
        if any(port.hollow for port in ports):
            yield from (("value", "published value"), ("tap", "tap, read inside the network"))
        if any(wire.detached for wire in self.wires):
            yield "detached", "detached: no gradient flows back"


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
    for dx, dy in ((0.0, 1.0), (half, 0.5), (half, -0.5)):
        yield Curve(line((x - 5 * dx, y - 5 * dy), (x + 5 * dx, y + 5 * dy)), colour, 1.1)
    for dx, dy in ((0.0, 1.0), (half, 0.5), (half, -0.5), (0.0, -1.0), (-half, -0.5), (-half, 0.5)):
        tips = [(0.5 * dx - half * dy, half * dx + 0.5 * dy), (0.5 * dx + half * dy, -half * dx + 0.5 * dy)]
        ends = [(x + 3 * dx + 2 * tx, y + 3 * dy + 2 * ty) for tx, ty in tips]
        yield Curve(line(ends[0], (x + 3 * dx, y + 3 * dy), ends[1]), colour, 0.9)
