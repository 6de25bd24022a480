"""A bound graph as cards and wires: batch, networks, projectors, mixers, losses."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from mmkd.graph.binding import Binding
from mmkd.graph.node import Node, NodeRun
from mmkd.graph.term import Term
from mmkd.graph.training_graph import TrainingGraph
from mmkd.graph.value import Address
from mmkd.graph.weighting import Share
from mmkd.report import facts
from mmkd.report.layout import Card, Port, Wire
from mmkd.report.notation import Shapes, counted, over_run


@dataclass(eq=False)
class Titled(Card):
    """A card with its text. Roles are `batch student teacher projector mixer schedule loss unused`."""

    title: str = ""
    role: str = "batch"
    mark: str = ""
    """What stands at the right end of its title."""
    notes: list[str] = field(default_factory=list)


class Diagram:
    """The cards of a graph in layers, and a wire for every value that one card reads from another.

    Raises:
        GraphError: the graph has not been set up.
    """

    def __init__(self, graph: TrainingGraph) -> None:
        self.graph, self.shapes = graph, Shapes(graph)
        self.cards: list[Titled] = []
        self.wires: list[Wire] = []
        self._sources: dict[str, tuple[Port, str]] = {}  # by address: the port that gives a value, its card's role
        self._batch = self._card(0, "batch", "batch", f"B = {self.shapes.batch}" if self.shapes.batch else "")
        self._layers: dict[str, int] = {}  # by pass, projector and mixer
        for node in graph.roles.values():
            self._node(node)
        for step in graph.plan.steps:
            if isinstance(step, Binding):
                self._derived(step, self._after(address for _, address in facts.each_port(step)))
            elif step.inner:
                self._run(step, self._after(step.inner.values()))
        for name in (name for name in graph.bound if name not in graph.widths):
            self._card(2, name, "unused", "no loss reads it", [type(graph.bound[name].module).__name__])
        last = 1 + max([1, *self._layers.values(), 2 if graph.bound else 1])
        total = Titled(last + 1, [Port("sum")], title="loss", role="loss")
        for term in graph.terms:
            self._term(term, last, total.left[0])
        for lesson in (term for group in graph.lessons.values() for term in group):
            self._term(lesson, last, None)
        self.cards.append(total)

    def _card(self, layer: int, title: str, role: str, mark: str = "", notes: list[str] | None = None) -> Titled:
        card = Titled(layer, title=title, role=role, mark=mark, notes=notes or [])
        self.cards.append(card)
        return card

    def _give(self, card: Titled, key: str, port: Port) -> None:
        card.right.append(port)
        self._sources[key] = (port, card.role)

    def _take(self, card: Titled, port: str, key: str, *, detached: bool = False, shape: str = "") -> None:
        """Wire a value to a port of a card; a batch field joins the batch's card when it is first read."""
        if key not in self._sources:
            name = key.removeprefix("batch").removeprefix(".")
            self._give(self._batch, key, Port(name, shape or self.shapes.of(key)))
        source, role = self._sources[key]
        card.left.append(Port(port, "detached" if detached else ""))
        self.wires.append(Wire(source, card.left[-1], role, detached))

    # -- networks -----------------------------------------------------------------------------------------------

    def _node(self, node: Node) -> None:
        notes = [facts.network(node), counted(facts.parameters(node.encoder)[1], "parameter")]
        runs = facts.runs_of(self.graph, node)
        if not runs:
            self._card(1, node.name, "unused", "not run", notes)
        for run in runs:
            if not run.inner:
                self._run(run, 1)

    def _run(self, run: NodeRun, layer: int) -> None:
        node = run.node
        notes = [facts.network(node), counted(facts.parameters(node.encoder)[1], "parameter")]
        role, mark = ("student", "trained") if node.trained else ("teacher", "averaged" if node.average else "frozen")
        notes += [f"{node.average.of}: {facts.rule(node.average)}"] if node.average else []
        card = self._card(layer, run.id, role, mark, [*notes, *self._run_notes(run)])
        self._layers[run.id] = layer
        for name, (source, shape) in self.graph.sources[run.id].items():
            self._take(card, name, f"batch.{source}", shape=self.shapes.written(shape))
        for module, address in run.inner.items():
            self._take(card, module, address.key, detached=address.detached)
        for key in facts.reads(run):
            name = key.removeprefix(run.id).removeprefix(".")
            self._give(card, key, Port(name, self.shapes.of(key), facts.is_tap(key)))

    def _after(self, addresses: Iterable[Address]) -> int:
        """The layer after those of what is read."""
        return 1 + max((self._layers.get(a.run, 1) for a in addresses), default=1)

    def _run_notes(self, run: NodeRun) -> Iterator[str]:
        if facts.stops(run):
            yield "pass stops early"
        if run.node.form is not None:
            yield str(run.node.form)
        if unread := facts.skipped(run.node, facts.runs_of(self.graph, run.node)):
            yield f"{len(unread)} of {counted(len(run.node.encoder.values()), 'value')} skipped"
        if run.node.cache or run.node.tables:
            yield "outputs remembered"

    # -- projectors, mixers and losses --------------------------------------------------------------------------

    def _derived(self, binding: Binding, layer: int) -> None:
        kept = "exported" if binding.name in self.graph.exported else "train-only"
        total = counted(facts.parameters(binding.module)[1], "parameter")
        followed = [f"{o} {over_run(s, self.graph.total_steps)}" for o, s in facts.followed(self.graph, binding.module)]
        notes = [type(binding.module).__name__, total, *followed]
        card = self._card(layer, binding.name, facts.kind(binding), kept, notes)
        self._layers[binding.name] = layer
        for port, address in facts.each_port(binding):
            self._take(card, port, address.key, detached=address.detached)
        self._give(card, binding.name, Port("", self.shapes.of(binding.name)))

    def _term(self, term: Term, layer: int, total: Port | None) -> None:
        mark = f"phase {term.phase}" if term.phase else "coupled" if term.loss.coupled else ""
        card = self._card(layer, term.name, "loss", mark, list(self._term_notes(term)))
        for port, address in facts.each_port(term.binding):
            self._take(card, port, address.key, detached=address.detached)
        for port, optional in (("mask", term.mask), ("sample_weight", term.sample_weight)):
            if optional is not None and port not in term.binding.ports:
                self._take(card, port, optional.key, detached=optional.detached)
        if isinstance(term.weight, Share):
            self._take(card, "weight", term.weight.address.key, detached=True)
        card.right.append(Port("", f"x {facts.weight(term, self.graph.total_steps)}"))
        if total is not None:
            self.wires.append(Wire(card.right[-1], total, "loss"))

    def _term_notes(self, term: Term) -> Iterator[str]:
        yield type(term.loss).__name__
        critics = [phase for phase in self.graph.phases if phase.term == term.name]
        if own := facts.parameters(term.loss)[1] - sum(map(facts.moved, critics)):
            yield counted(own, "parameter")
        for option, schedule in facts.followed(self.graph, term.loss):
            yield f"{option} {over_run(schedule, self.graph.total_steps)}"
        for phase in critics:
            verb = "ascends" if phase.ascend else "descends"
            yield f"critic: {counted(facts.moved(phase), 'parameter')}"
            yield f"critic {verb}, {counted(phase.repeats, 'update')} per step"
