"""What there is to say about the parts of a bound graph, whether in words or in a picture."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch import nn

from mmkd.components import Schedule, kind_of
from mmkd.graph.average import Average
from mmkd.graph.binding import Binding
from mmkd.graph.node import Node, NodeRun
from mmkd.graph.phase import Phase
from mmkd.graph.term import Term
from mmkd.graph.training_graph import TrainingGraph
from mmkd.graph.value import Address, parse
from mmkd.graph.weighting import Share
from mmkd.report.notation import count, counted, over_run

OWNERS = ("student", "auxiliary", "critic", "teacher")
"""Owners of parameters, as `TrainingGraph.owner` names them."""


def runs_of(graph: TrainingGraph, node: Node) -> list[NodeRun]:
    """The forward passes of a node: none where no loss reads it, one per view otherwise."""
    return [run for run in graph.plan.runs if run.node is node]


def reads(run: NodeRun) -> list[str]:
    """Addresses that somebody reads from a pass: published values, taps, parameters."""
    return [*run.published, *(tap.key for tap in run.recorder.taps), *run.constants]


def is_tap(key: str) -> bool:
    """Whether an address goes inside a network by module path."""
    return bool(parse(key).path)


def skipped(node: Node, runs: Iterable[NodeRun]) -> list[str]:
    """Names that a node publishes and nobody reads."""
    read = {node.published(address.name, "") for run in runs for address in map(parse, reads(run)) if address.name}
    return [name for name in node.encoder.values() if name not in read]


def stops(run: NodeRun) -> bool:
    """Whether a pass ends at its deepest tap while the graph is trained."""
    return bool(run.recorder.taps) and not run.published and not (run.node.trained and run.batch_norm)


def form(node: Node) -> str:
    """The form that a network's passes have, and what its weights take in it."""
    assert node.form is not None
    parameters = list(node.encoder.parameters())
    size, wide = sum(p.nbytes for p in parameters), sum(p.numel() * max(4, p.element_size()) for p in parameters)
    weights = f"; weights {size / 2**20:.1f} MiB instead of {wide / 2**20:.1f}" if size < wide else ""
    return f"{node.form}{weights}"


def role(node: Node) -> str:
    """Who a network is, and what happens to its weights."""
    if node.average is not None:
        return f"teacher, average of {node.average.of}"
    return "student, trained" if node.trained else "teacher, frozen"


def rule(average: Average) -> str:
    """How a network follows another one: `ema, momentum 0.99, from step 100`."""
    said: list[str] = [average.kind]
    said += [f"momentum {average.momentum:.4g}"] if average.kind == "ema" else []
    said += [f"from step {average.start}"] if average.start else []
    said += [f"every {counted(average.every, 'step')}"] if average.every > 1 else []
    if average.batch_norm == "refresh":
        said.append(f"BatchNorm refreshed over {counted(average.refresh_batches, 'batch')}")
    return ", ".join(said)


def kind(binding: Binding) -> str:
    """Whether something bound is a projector, a mixer or a schedule."""
    return kind_of(type(binding.module)) or "component"


def network(node: Node) -> str:
    """Class name of the network itself."""
    return type(node.encoder.network).__name__


def parameters(module: nn.Module) -> tuple[int, int]:
    """How many parameters are trained, and how many there are."""
    sizes = [(p.numel(), p.requires_grad) for p in module.parameters()]
    return sum(size for size, trained in sizes if trained), sum(size for size, _ in sizes)


def moved(phase: Phase) -> int:
    """How many parameters a phase moves."""
    return sum(parameter.numel() for parameter in phase.parameters)


def totals(graph: TrainingGraph) -> dict[str, tuple[int, int]]:
    """Trained and all parameters by owner."""
    found = dict.fromkeys(OWNERS, (0, 0))
    for name, parameter in graph.named_parameters():
        trained, total = found[owner := graph.owner(name)]
        size = parameter.numel()
        found[owner] = (trained + size * parameter.requires_grad, total + size)
    return found


def budget(graph: TrainingGraph) -> str:
    """One line: trained parameters by owner, and frozen ones."""
    sums = totals(graph)
    parts = [f"{owner} {count(sums[owner][0])}" for owner in OWNERS if sums[owner][0]]
    trained, total = (sum(column) for column in zip(*sums.values(), strict=True))
    frozen = f", {count(total - trained)} frozen" if total > trained else ""
    return f"{counted(trained, 'parameter')} trained ({', '.join(parts)}){frozen}"


def weight(term: Term, total: int) -> str:
    """The weight of a loss: a number, where its schedule starts and ends, or the schedule's name."""
    if isinstance(term.weight, Share):
        return str(term.weight)
    return over_run(term.weight, total) if isinstance(term.weight, Schedule) else f"{term.weight:.4g}"


def followed(graph: TrainingGraph, module: nn.Module) -> Iterator[tuple[str, Schedule]]:
    """Options of a component, or of what is nested in it, that follow a schedule."""
    paths = {id(inner): path for path, inner in module.named_modules()}
    for item in graph.scheduled:
        if id(item.module) in paths:
            place = "" if item.item is None else str(item.item)
            yield ".".join(part for part in (paths[id(item.module)], item.option, place) if part), item.schedule


def each_port(binding: Binding) -> Iterator[tuple[str, Address]]:
    """Every value that a component reads, with its port; the items of a list are numbered."""
    for port, bound in binding.ports.items():
        if isinstance(bound, list):
            yield from ((f"{port}.{i}" if len(bound) > 1 else port, address) for i, address in enumerate(bound))
        else:
            yield port, bound
