"""Where the cards of a picture stand and how the wires between them run: layers from left to right."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

ROW = 20
"""Height of a card's row."""
FOOT = 6
"""Space below the last row."""
BETWEEN = 30
"""Least space between two cards of a layer."""
LANE = 14
"""Height of the lane in which a wire passes through a layer."""

Point = tuple[float, float]


@dataclass(eq=False)
class Port:
    """A row of a card at which wires start (right) or end (left)."""

    name: str
    detail: str = ""
    hollow: bool = False


@dataclass(eq=False)
class Card:
    """A box with rows of ports."""

    layer: int
    left: list[Port] = field(default_factory=list)
    right: list[Port] = field(default_factory=list)
    width: float = 0
    """Of its text at first; all cards of a layer become as wide as the widest."""
    head: float = 0
    """Height of what stands above the rows."""
    x: float = 0
    y: float = 0

    @property
    def height(self) -> float:
        return self.head + ROW * max(len(self.left), len(self.right)) + FOOT

    def row(self, port: Port) -> float:
        """Height of a port above which its card's upper edge lies."""
        side = self.left if port in self.left else self.right
        return self.head + ROW * (side.index(port) + 0.5)


class Lane(Card):
    """Room for one wire through a layer that it does not stop at."""

    @property
    def height(self) -> float:
        return LANE

    def row(self, port: Port) -> float:
        return LANE / 2


@dataclass(frozen=True)
class Wire:
    """From a right-hand port to a left-hand one of a later layer."""

    source: Port
    target: Port
    role: str
    detached: bool = False


@dataclass(eq=False)
class _Hop:
    """The part of one or more wires between neighbouring layers."""

    start: Card
    source: Port
    end: Card
    target: Port

    @property
    def ends(self) -> tuple[float, float]:
        return self.start.y + self.start.row(self.source), self.end.y + self.end.row(self.target)


class Layout:
    """Places cards so that wires are short and cross little.

    Layers are ordered by sweeping to and fro, each card moving to the mean height of what it is wired to (Sugiyama
    et al., 1981); heights are the least-squares solution that keeps cards apart. Wires that skip a layer get a lane
    in it, shared by all wires from one port. Cards without a wire stand below the others.

    Args:
        cards: in the order in which they should stand where nothing else decides.
        wires: every wire's ports belong to `cards`.
    """

    def __init__(self, cards: Iterable[Card], wires: Iterable[Wire]) -> None:
        cards, self.wires = list(cards), list(wires)
        depth = 1 + max(card.layer for card in cards)
        self.layers: list[list[Card]] = [[card for card in cards if card.layer == i] for i in range(depth)]
        self._home = {id(port): card for card in cards for port in (*card.left, *card.right)}
        self._lanes: dict[tuple[int, bool, int], Lane] = {}
        self._hops: dict[tuple[int, int], _Hop] = {}
        self._chains = [list(self._chain(wire)) for wire in self.wires]
        wired = {id(self._home[id(port)]) for wire in self.wires for port in (wire.source, wire.target)}
        loose = [card for card in cards if id(card) not in wired]
        for card in loose:
            self.layers[card.layer].remove(card)
        self._stack()
        self._order()
        for card in loose:
            card.y = max((other.y + other.height + BETWEEN for other in self.layers[card.layer]), default=0)
            self.layers[card.layer].append(card)
        self._columns()

    def _chain(self, wire: Wire) -> Iterator[_Hop]:
        card, port, goal = self._home[id(wire.source)], wire.source, self._home[id(wire.target)]
        for layer in range(card.layer + 1, goal.layer):
            key = (id(wire.source), wire.detached, layer)
            if key not in self._lanes:
                self._lanes[key] = Lane(layer, [Port("")], [Port("")])
                self.layers[layer].append(self._lanes[key])
            lane = self._lanes[key]
            yield self._hops.setdefault((id(port), id(lane.left[0])), _Hop(card, port, lane, lane.left[0]))
            card, port = lane, lane.right[0]
        yield self._hops.setdefault((id(port), id(wire.target)), _Hop(card, port, goal, wire.target))

    # -- heights ------------------------------------------------------------------------------------------------

    def _stack(self) -> None:
        for layer in self.layers:
            self._settle(layer, dict.fromkeys(map(id, layer), 0.0))

    def _order(self) -> None:
        """Sweep to and fro, and keep the order with the fewest crossings, then the shortest wires."""
        best, orders = self._cost(), self._orders()
        for turn in range(24):
            forward = turn % 2 == 0
            for layer in self.layers if forward else reversed(self.layers):
                wanted = self._wanted(layer, before=forward, after=not forward)
                layer.sort(key=lambda card: wanted[id(card)] + card.height / 2)
                self._settle(layer, wanted)
            self._sort_rows()
            if (cost := self._cost()) < best:
                best, orders = cost, self._orders()
        for (cards, ports), layer in zip(orders, self.layers, strict=True):
            layer[:] = cards
            for card, right in zip(cards, ports, strict=True):
                card.right = right
        for _ in range(12):
            for layer in self.layers:
                self._settle(layer, self._wanted(layer, before=True, after=True))
        top = min(card.y for layer in self.layers for card in layer)
        for layer in self.layers:
            for card in layer:
                card.y -= top

    def _orders(self) -> list[tuple[list[Card], list[list[Port]]]]:
        return [(list(layer), [list(card.right) for card in layer]) for layer in self.layers]

    def _wanted(self, layer: Iterable[Card], *, before: bool, after: bool) -> dict[int, float]:
        """Where each card would make its wires level."""
        pulls: dict[int, list[float]] = {id(card): [] for card in layer}
        for hop in self._hops.values():
            source, target = hop.ends
            if before and id(hop.end) in pulls:
                pulls[id(hop.end)].append(hop.end.y + source - target)
            if after and id(hop.start) in pulls:
                pulls[id(hop.start)].append(hop.start.y + target - source)
        return {id(card): sum(p) / len(p) if (p := pulls[id(card)]) else card.y for card in layer}

    @staticmethod
    def _settle(layer: list[Card], wanted: Mapping[int, float]) -> None:
        """Nearest heights to the wanted ones that keep order and distance (pool adjacent violators)."""
        offset, offsets, pools = 0.0, [], list[tuple[float, int]]()
        for card, below in zip(layer, [*layer[1:], None], strict=True):
            offsets.append(offset)
            pools.append((wanted[id(card)] - offset, 1))
            while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
                (a, n), (b, m) = pools[-2:]
                pools[-2:] = [((a * n + b * m) / (n + m), n + m)]
            tight = isinstance(card, Lane) and isinstance(below, Lane)
            offset += card.height + (0 if tight else BETWEEN)
        heights = [height for height, size in pools for _ in range(size)]
        for card, height, shift in zip(layer, heights, offsets, strict=True):
            card.y = height + shift

    def _sort_rows(self) -> None:
        """Right-hand rows in the order of what they are wired to."""
        goals: dict[int, list[float]] = {}
        for hop in self._hops.values():
            goals.setdefault(id(hop.source), []).append(hop.ends[1])
        for layer in self.layers:
            for card in layer:
                card.right.sort(key=lambda port: sum(g) / len(g) if (g := goals.get(id(port))) else float("inf"))

    def _cost(self) -> tuple[int, float]:
        """Crossings, and how much wires climb and fall."""
        gaps: dict[int, list[tuple[float, float]]] = {}
        for hop in self._hops.values():
            gaps.setdefault(hop.start.layer, []).append(hop.ends)
        crossings = sum(
            (a[0] - b[0]) * (a[1] - b[1]) < 0 for gap in gaps.values() for i, a in enumerate(gap) for b in gap[:i]
        )
        return crossings, sum(abs(a - b) for gap in gaps.values() for a, b in gap)

    # -- columns and wires --------------------------------------------------------------------------------------

    def _columns(self) -> None:
        x = 0.0
        for i, layer in enumerate(self.layers):
            width = max((card.width for card in layer), default=0)
            for card in layer:
                card.x, card.width = x, width
            climbs = [abs(a - b) for hop in self._hops.values() if hop.start.layer == i for a, b in [hop.ends]]
            x += width + min(150, 60 + 0.12 * max(climbs, default=0) + 4 * len(climbs))

    def paths(self) -> list[list[Point]]:
        """Each wire as a chain of cubic curves: a first point, then three for each curve."""
        found = []
        for chain in self._chains:
            points: list[Point] = []
            for hop in chain:
                (y0, y1), x0, x1 = hop.ends, hop.start.x + hop.start.width, hop.end.x
                if points:  # along the lane
                    points += [points[-1], (x0, y0), (x0, y0)]
                middle = (x0 + x1) / 2
                points += [*([] if points else [(x0, y0)]), (middle, y0), (middle, y1), (x1, y1)]
            found.append(points)
        return found

    @property
    def size(self) -> tuple[float, float]:
        """Width and height of all cards."""
        cards = [card for layer in self.layers for card in layer]
        return max(c.x + c.width for c in cards), max(c.y + c.height for c in cards)
