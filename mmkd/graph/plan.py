"""The plan: the least that has to run for a set of values, in order."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmkd.errors import GraphError, MmkdError
from mmkd.graph.binding import Binding
from mmkd.graph.formed import FormedRun
from mmkd.graph.node import Node, NodeRun
from mmkd.graph.value import Address, with_graph


class Plan:
    """One forward per (network, view), and the projectors and mixers that the wanted values stand on.

    All networks run first, then projectors and mixers in order; where a network takes inner inputs, what these stand
    on runs before it.

    Args:
        nodes: every network by name.
        bound: every projector and mixer by name, as bound.
        readers: addresses that somebody wants, each with its place in the recipe.
        inner: networks take their inner inputs, in their pass over the batch itself.
        probing: also run what a projector's `like` names, of networks without inner inputs.

    Raises:
        GraphError: a value does not exist (with the nearest that does), or values form a cycle.
    """

    def __init__(
        self,
        nodes: Mapping[str, Node],
        bound: Mapping[str, Binding],
        readers: Iterable[tuple[Address, str]],
        *,
        inner: bool = False,
        probing: bool = False,
    ) -> None:
        self.fields: dict[str, Address] = {}
        self.where: dict[str, str] = {}
        """Place in the recipe of each address that is read."""
        where = self.where
        by_run: dict[str, dict[str, Address]] = {}
        depths: dict[str, int] = {}  # by pass, projector and mixer: the length of the chain of networks below it
        derived: list[Binding] = []
        path: list[str] = []

        def need(address: Address, place: str) -> int:
            where.setdefault(address.key, place)
            if address.node == "batch":
                if not address.name:
                    raise GraphError("'batch' needs a field", where=place, next="write batch.<field>")
                self.fields[address.key] = address
                return 0
            if address.node in nodes:
                group = by_run.setdefault(address.run, {})
                group[address.key] = address
                takes = inner and not address.view and not address.plain
                return once(address.run, partial(enter, nodes[address.node], takes), place)
            if address.node in bound and not (address.name or address.path or address.view):
                binding = bound[address.node]
                return once(binding.name, partial(derive, binding), binding.where)
            raise GraphError(
                f"nothing is called '{address.key}'", where=place, name=address.node, exists=[*nodes, *bound, "batch"]
            )

        def once(name: str, visit: Callable[[], int], place: str) -> int:
            if name in path:
                raise GraphError(f"cycle: {' -> '.join([*path[path.index(name) :], name])}", where=place)
            if name not in depths:
                path.append(name)
                depths[name] = visit()
                path.pop()
            return depths[name]

        def enter(node: Node, takes: bool) -> int:
            places = {f"{node.name}.inputs./{module}": address for module, address in node.inner.items() if takes}
            return max((1 + need(address, place) for place, address in places.items()), default=0)

        def derive(binding: Binding) -> int:
            models = binding.models() if probing else ()
            alike = [(replace(a, plain=inner and a.node in nodes and bool(nodes[a.node].inner)), p) for a, p in models]
            depth = max((need(address, place) for address, place in [*binding.readers(), *alike]), default=0)
            derived.append(binding)
            return depth

        wanted = list(readers)
        for address, place in wanted:
            need(address, place)
        inside = [address for binding in derived for address, _ in binding.readers()]
        graph = _behind([a for a in (*(address for address, _ in wanted), *inside) if a.graph], bound)
        runs = {
            id: (FormedRun if nodes[a.node].form else NodeRun)(
                nodes[a.node], a.view, list(group.values()), where,
                fed=inner and not a.plain and not a.view, graph=frozenset(graph & group.keys()),
            )
            for id, group in by_run.items()
            for a in [next(iter(group.values()))]
        }  # fmt: skip
        self._graphed = frozenset(graph & bound.keys())
        self.steps: list[NodeRun | Binding] = []
        """Networks, projectors and mixers, each after those that it reads."""
        for depth in sorted(set(depths.values())):
            self.steps += [run for id, run in runs.items() if depths[id] == depth]
            self.steps += [binding for binding in derived if depths[binding.name] == depth]
        self.runs = [step for step in self.steps if isinstance(step, NodeRun)]
        """The passes of networks."""
        self.derived = [step for step in self.steps if isinstance(step, Binding)]
        """Projectors and mixers."""

    @property
    def nodes(self) -> dict[str, list[Node]]:
        """By stream or view that is read, "" being the batch itself: the networks that run on it."""
        nodes: dict[str, list[Node]] = {"": [], **{address.view: [] for address in self.fields.values()}}
        for run in self.runs:
            nodes.setdefault(run.view, []).append(run.node)
        return nodes

    @property
    def wanted(self) -> dict[str, frozenset[str]]:
        """What is read of each network, all its views together."""
        wanted: dict[str, frozenset[str]] = {}
        for run in self.runs:
            wanted[run.node.name] = wanted.get(run.node.name, frozenset()) | run.wanted
        return wanted

    def read(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """The wanted fields of the batch."""
        values: dict[str, Tensor] = {}
        for key, address in self.fields.items():
            source = batch.get(f"@{address.view}") if address.view else batch
            if source is None or address.name not in source:
                raise GraphError(
                    f"the batch has no '{key}'", name=address.name, exists=[str(k) for k in source or batch]
                )
            values[key] = source[address.name]
        return values

    def run(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """All wanted values, by address."""
        values = self.read(batch)
        for step in self.steps:
            self.take(step, batch, values)
        return values

    def take(self, step: NodeRun | Binding, batch: Mapping[str, Any], values: dict[str, Tensor]) -> None:
        """Add to the values what one step makes."""
        if isinstance(step, NodeRun):
            step(batch, values)
        else:
            self._derive(step, values)

    def _derive(self, binding: Binding, values: dict[str, Tensor]) -> None:
        if binding.name not in self._graphed:
            values[binding.name] = binding.value(values)
            return
        graphs = {a.key: values[slot] for a, _ in binding.readers() if (slot := with_graph(a.key)) in values}
        with torch.enable_grad():
            made = values[with_graph(binding.name)] = binding.value({**values, **graphs})
        values[binding.name] = made if torch.is_grad_enabled() else made.detach()

    def behind(self, keys: Iterable[str]) -> list[NodeRun | Binding]:
        """The steps that these values stand on, in order."""
        wanted = set(keys)
        found: list[NodeRun | Binding] = []
        for step in reversed(self.steps):
            if not wanted.isdisjoint(makes(step)):
                found.append(step)
                wanted |= reads(step)
        return found[::-1]

    def learn(self, batch: Mapping[str, Any]) -> None:
        """Full pass of each network that finds taps overwritten in place and modules that run twice."""
        if all(run.recorder.learned for run in self.runs):
            return
        fed = any(run.inner for run in self.runs)
        values = self.read(batch) if fed else {}
        for step in self.steps:
            if isinstance(step, NodeRun):
                if fed or not step.recorder.learned:
                    with preserved([step.node.encoder]), located(step.id):
                        step(batch, values)
            elif fed:
                with preserved([step.module]), located(step.where):
                    self._derive(step, values)

    def probe(
        self, batch: Mapping[str, Any], setup: Callable[[Binding, Mapping[str, Tensor]], None]
    ) -> dict[str, Tensor]:
        """Run once to learn shapes, calling `setup` on what is derived before its first forward. Moves no state."""
        values = self.read(batch)
        for step in self.steps:
            if isinstance(step, NodeRun):
                with preserved([step.node.encoder]), located(step.id):
                    step(batch, values)
            else:
                with located(step.where):
                    setup(step, values)
                    with preserved([step.module]):
                        self._derive(step, values)
        for run in self.runs:  # shapes are the same with and without inner inputs
            values.update({a.key: values[p] for p, a in run.plain.items() if a.key not in values})
        return values

    def close(self) -> None:
        """Take the hooks off the networks."""
        for run in self.runs:
            run.recorder.close()


def makes(step: NodeRun | Binding) -> set[str]:
    """Keys of the values that a step gives."""
    return {*step.makes, *step.constants} if isinstance(step, NodeRun) else {step.name}


def reads(step: NodeRun | Binding) -> set[str]:
    """Keys of the values that a step takes; fields of the batch that a network takes are no values."""
    return {a.key for a in step.inner.values()} if isinstance(step, NodeRun) else {a.key for a, _ in step.readers()}


def _behind(addresses: Iterable[Address], bound: Mapping[str, Binding]) -> set[str]:
    """Keys of the values that these stand on, themselves included, through projectors and mixers."""
    found: set[str] = set()
    for address in addresses:
        found.add(address.key)
        if address.node in bound:
            found |= _behind([a for a, _ in bound[address.node].readers() if not a.detached], bound)
    return found


@contextlib.contextmanager
def preserved(modules: Iterable[nn.Module]) -> Iterator[None]:
    """No gradient inside; buffers and every random generator are as before afterwards."""
    owners = [(m._buffers, dict(m._buffers)) for module in modules for m in module.modules()]
    copies = {id(b): (b, b.clone()) for _, buffers in owners for b in buffers.values() if b is not None}
    for owner, buffers in owners:  # the pass moves copies, which graphs that outlive it may still need as it left them
        owner.update({name: copies[id(b)][1] for name, b in buffers.items() if b is not None})
    python, numpy = random.getstate(), np.random.get_state()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_available() else []
    torch.clear_autocast_cache()  # casts made with a gradient are no use without, and the reverse
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=list(devices)):
            yield
    finally:
        torch.clear_autocast_cache()
        for owner, buffers in owners:
            owner.clear()
            owner.update(buffers)
        random.setstate(python)
        np.random.set_state(numpy)


@contextlib.contextmanager
def located(where: str) -> Iterator[None]:
    """Put `where` in front of any error, and turn foreign ones into a `GraphError` that names the place."""
    try:
        yield
    except MmkdError as error:
        if where not in str(error):
            error.at(where)
        raise
    except Exception as error:
        raise GraphError(f"{type(error).__name__}: {error}", where=where) from error
