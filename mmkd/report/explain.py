"""A bound graph in words."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from torch import nn

from mmkd.components import Schedule
from mmkd.graph.binding import Binding
from mmkd.graph.node import Node, NodeRun
from mmkd.graph.phase import Phase
from mmkd.graph.term import Term
from mmkd.graph.training_graph import TrainingGraph
from mmkd.report import facts
from mmkd.report.notation import Shapes, count, counted, over_run, some
from mmkd.report.work import skipped_work

WIDTH = 96
Fact = tuple[str, str]
"""A label and what it says."""


def explain(graph: TrainingGraph, example: Mapping[str, Any] | None = None) -> str:
    """Say what a graph runs, reads, skips, trains and freezes: networks, projectors, losses, phases, totals.

    Args:
        graph: one that has been set up.
        example: a batch on its device, on which it is counted how much work early stops save.

    Raises:
        GraphError: the graph has not been set up.
    """
    return "\n".join(_Explanation(graph, skipped_work(graph, example) if example is not None else {}).lines())


class _Explanation:
    def __init__(self, graph: TrainingGraph, saved: Mapping[str, float]) -> None:
        self.graph, self.shapes, self._saved = graph, Shapes(graph), saved

    def lines(self) -> Iterator[str]:
        graph = self.graph
        sizes = {
            "network": len(graph.roles), "projector": len(graph.projectors), "mixer": len(graph.mixers),
            "loss": len(graph.terms), "phase": len(graph.phases),
        }  # fmt: skip
        yield "Training graph: " + ", ".join(counted(size, noun) for noun, size in sizes.items() if size)
        if self.shapes.batch:
            yield f"B = {self.shapes.batch} in the example batch"
        yield from self._section("Networks", (self._node(node) for node in graph.roles.values()))
        named = {"Projectors": [*graph.projectors], "Mixers": [*graph.mixers], "Schedules": [*graph.weightings]}
        for kind, modules in named.items():
            used = [binding for binding in graph.plan.derived if binding.name in modules]
            unused = [(name, [("unused", "no loss reads it")]) for name in modules if name not in graph.widths]
            yield from self._section(kind, [*map(self._derived, used), *unused])
        lessons = [term for group in graph.lessons.values() for term in group]
        yield from self._section("Losses", map(self._term, [*graph.terms, *lessons]))
        yield from self._section("Phases of a step, in order", map(self._phase, graph.phases))
        yield from self._section("Totals", [("", self._totals())])
        yield from self._section("Decided for this machine", [("", list(graph.decided.items()))] * bool(graph.decided))

    @staticmethod
    def _section(title: str, entries: Iterable[tuple[str, Sequence[Fact]]]) -> Iterator[str]:
        written = list(entries)
        if written:
            yield from ("", title, "-" * len(title))
        for i, (heading, said) in enumerate(written):
            if heading:
                yield from ([""] if i else [])
                yield heading
            label_width = max([10, *(len(label) for label, _ in said)])
            for label, text in said:
                lead = f"  {label:<{label_width}}  "
                yield from textwrap.wrap(
                    text, WIDTH, initial_indent=lead, subsequent_indent=" " * len(lead),
                    break_long_words=False, break_on_hyphens=False,
                )  # fmt: skip

    # -- networks -----------------------------------------------------------------------------------------------

    def _node(self, node: Node) -> tuple[str, list[Fact]]:
        trained, total = facts.parameters(node.encoder)
        runs = facts.runs_of(self.graph, node)
        share = "all" if trained == total else count(trained)
        some_trained = f"{share} trained" if trained else "none trained"
        origin = node.use or ("of an earlier stage" if node.changed else "handed in")
        said = [
            ("network", f"{facts.network(node)} ({origin})"),
            ("parameters", f"{count(total)}, {some_trained}"),
        ]
        if node.average is not None:
            said.append(("average", facts.rule(node.average)))
            said += self._followed(node.average)
        said += self._followed(node.encoder)
        for run in runs:
            said += self._run(run)
        if not runs:
            said.append(("pass", "none: no loss reads this network"))
        if node.form is not None:
            said.append(("form", facts.form(node)))
        said += self._cache(node)
        if unread := facts.skipped(node, runs):
            published = counted(len(node.encoder.values()), "published value")
            said.append(("skipped", f"{len(unread)} of {published}: {some(unread)}"))
        return f"{node.name}: {facts.role(node)}{', exported' if node.name in self.graph.exported else ''}", said

    def _run(self, run: NodeRun) -> Iterator[Fact]:
        if run.view:
            yield "view", run.view
        for name, (source, shape) in self.graph.sources[run.id].items():
            renamed = "" if source in (name, f"{run.id}.{name}") else f", from batch.{source}"
            yield "input", f"{name} {self.shapes.written(shape)}".rstrip() + renamed
        for module, address in run.inner.items():
            note = "  detached: no gradient flows back" if address.detached else ""
            yield "inner input", f"{module} <- {address} {self.shapes.of(address.key)}".rstrip() + note
        taps = {tap.key: tap for tap in run.recorder.taps}
        for key in facts.reads(run):
            notes = []
            if key in run.constants:
                notes.append("parameter")
            elif key in taps:
                notes.append("tap" if facts.is_tap(key) else f"at {taps[key].path}")
                notes += ["copied, since the network writes into it afterwards"] if taps[key].clone else []
            yield "read", f"{key} {self.shapes.of(key)}" + (f" ({', '.join(notes)})" if notes else "")
        yield "pass", self._pass(run) + self._gradient(run)

    @staticmethod
    def _gradient(run: NodeRun) -> str:
        if run.graph:
            return "; graph kept for the derivatives of a loss"
        if run.moving:
            return "" if run.node.trained else "; gradient flows through to its inner inputs"
        return "; under no_grad"

    def _pass(self, run: NodeRun) -> str:
        taps = [tap.key for tap in run.recorder.taps]
        if facts.stops(run):
            share = self._saved.get(run.id)
            saved = "" if share is None else f"; {share:.0%} of its arithmetic is left out"
            return f"stops early, as soon as {taps[0] if len(taps) == 1 else 'the deepest of these'} is there{saved}"
        if run.published:
            return f"full, since the whole network makes {some(list(run.published), 2)}"
        return "full, since BatchNorm in training needs all of it" if taps else "none: only parameters are read"

    @staticmethod
    def _cache(node: Node) -> Iterator[Fact]:
        if node.cache:
            yield "cache", f"{node.cache}: run over the training data before step 0, then looked up: no step runs it"

    # -- projectors, mixers and losses --------------------------------------------------------------------------

    def _derived(self, binding: Binding) -> tuple[str, list[Fact]]:
        kept = "exported" if binding.name in self.graph.exported else "train-only"
        said = [self._component(binding), ("parameters", self._parameters(binding))]
        said += self._ports(binding)
        said += [("like", f"{address.key} {self.shapes.of(address.key)}") for address, _ in binding.models()]
        said += [("output", f"{binding.name} {self.shapes.of(binding.name)}"), *self._followed(binding.module)]
        return f"{binding.name}: {facts.kind(binding)}, {kept}", said

    def _term(self, term: Term) -> tuple[str, list[Fact]]:
        said = [self._component(term.binding)]
        if facts.parameters(term.loss)[1]:
            said.append(("parameters", self._parameters(term.binding)))
        said += self._ports(term.binding)
        for label, address in (("mask", term.mask), ("sample_weight", term.sample_weight)):
            if address is not None and label not in term.binding.ports:
                said.append((label, f"<- {address} {self.shapes.of(address.key)}"))
        if isinstance(term.weight, Schedule):
            said.append(("weight", self._schedule(term.weight)))
        else:
            said.append(("weight", facts.weight(term, self.graph.total_steps)))
        said += self._followed(term.loss)
        if term.loss.coupled:
            least = f"; at least {term.loss.min_batch}" if term.loss.min_batch > 1 else ""
            said.append(("coupled", f"compares the samples of a batch with each other{least}"))
        return f"{term.name}: loss" + (f" of phase {term.phase}" if term.phase else ""), said

    @staticmethod
    def _component(binding: Binding) -> Fact:
        return "component", type(binding.module).__name__ + (f" ({binding.use})" if binding.use else "")

    @staticmethod
    def _parameters(binding: Binding) -> str:
        trained, total = facts.parameters(binding.module)
        return count(total) + ("" if trained == total else f", {count(trained)} trained")

    def _ports(self, binding: Binding) -> Iterator[Fact]:
        for port, address in facts.each_port(binding):
            note = "  detached: no gradient flows back" if address.detached else ""
            yield port, f"<- {address} {self.shapes.of(address.key)}".rstrip() + note

    def _followed(self, module: nn.Module) -> Iterator[Fact]:
        for option, schedule in facts.followed(self.graph, module):
            yield option, self._schedule(schedule)

    def _schedule(self, schedule: Schedule) -> str:
        total = self.graph.total_steps
        return f"{over_run(schedule, total)} over {counted(total, 'step')} ({type(schedule).__name__})"

    # -- training -----------------------------------------------------------------------------------------------

    def _phase(self, phase: Phase) -> tuple[str, list[Fact]]:
        moved = counted(facts.moved(phase), "parameter")
        if phase.schedule:
            lessons = some([term.name for term in self.graph.lessons[phase.name]])
            every = self.graph.weightings[phase.name].schedule.interval
            often = "once per step" if every == 1 else f"once in {every} steps"
            said = [("moves", f"{moved}, {often}"), ("optimizer", f"Adam, lr {phase.lr:g}")]
            return f"{phase.name}: descends {lessons} as it is after the students' next step", said
        if phase.term is None:
            return f"{phase.name}: descends the weighted sum of all losses", [("moves", f"{moved}, once per step")]
        heading = f"{phase.name}: {'ascends' if phase.ascend else 'descends'} {phase.term} alone"
        updates = f"{moved}, {counted(phase.repeats, 'update')} per step with everything else held fixed"
        return heading, [("moves", updates), ("optimizer", f"Adam, lr {phase.lr:g}")]

    def _totals(self) -> list[Fact]:
        said = []
        for owner, (trained, total) in facts.totals(self.graph).items():
            if total:
                said.append((owner, f"{count(trained)} trained" if owner != "teacher" else f"{count(total)} frozen"))
        return said
