"""The gradient cache: losses that need a batch whole, over networks that are run on a part of it at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from mmkd.errors import GraphError
from mmkd.graph.apart import Apart
from mmkd.graph.binding import Binding
from mmkd.graph.look_ahead import RandomState
from mmkd.graph.node import NodeRun
from mmkd.graph.objective import Objective
from mmkd.graph.plan import Plan, makes, reads
from mmkd.graph.portion import portions
from mmkd.graph.twin import Twin
from mmkd.graph.value import with_graph
from mmkd.graph.weighting import Weighting

if TYPE_CHECKING:
    from mmkd.graph.term import Term
    from mmkd.graph.training_graph import TrainingGraph


class GradientCache:
    """One step over micro-batches with the gradient of the whole batch, in two passes (Gao et al., 2021).

    The first pass computes, without a graph, what coupled losses and critics read; joined to the whole batch, that
    gives these losses, the gradient of parameters that they own, and their gradient in each joined value, which is
    kept: the cache. The second pass computes each micro-batch again, with the random numbers and buffers of the first,
    and sends the kept gradients on, together with those of the losses that are means over samples. With `P` the cost of
    a forward pass of the student and twice that of its backward pass, a step costs `1 + (1 - k / K) / 3` of that of the
    whole batch, `k` of the `K` micro-batches keeping their graph from the first pass, and holds the graph of one
    micro-batch, or of `k`.

    What no gradient flows through (teachers, averages) is computed once, and what no such loss reads in the second pass
    alone. Values of a micro-batch that are numbers are averaged.

    Args:
        graph: the training graph.
        batches: the micro-batches of one step.
        kept: how many of them keep their graph.

    Raises:
        GraphError: more graphs are to be kept than there are micro-batches.
    """

    def __init__(self, graph: TrainingGraph, batches: Sequence[Mapping[str, Any]], kept: int) -> None:
        if not 0 <= kept <= len(batches):
            raise GraphError(
                f"{kept} graphs of {len(batches)} micro-batches cannot be kept", where="train.kept_graphs",
                next=f"train.kept_graphs={len(batches)}, or fewer",
            )  # fmt: skip
        self.graph, self.batches = graph, batches
        self._twice = range(len(batches) - kept)
        self._plan = plan = graph.plan
        joint = whole_terms(graph)
        self.terms = [term for term in graph.terms if any(term is other for other in joint)]
        """Those that see the whole batch."""
        self._others = [term for term in graph.terms if not any(term is other for other in joint)]
        moving = _moving(plan)
        read = {address.key for term in self.terms for address, _ in term.readers()}
        self._leaves = read & moving
        weights = {key: weight for run in plan.runs for key, weight in run.constants.items()}
        self._weights = {key: weights[key] for key in read & weights.keys()}
        self._told = {slot for key in graph.told for slot in (key, with_graph(key))}
        self._joined = (read | self._told) - weights.keys()
        counted = {mask.key for term in self._others if (mask := term.counted) is not None}
        before = plan.behind(read | counted | {*graph.told})
        after = plan.behind({a.key for t in self._others for a, _ in t.readers()} | self._leaves)
        once = {id(run) for run in plan.runs if not run.moving and not run.graph}
        self._first = [(step, id(step) not in once and any(step is other for other in after)) for step in before]
        """What runs before the losses of the whole batch, each with whether it runs again."""
        begun = {id(step): again for step, again in self._first}
        self._second = [(step, begun.get(id(step))) for step in after]
        """What stands below the rest, each with whether it runs again; None where this is the first time."""
        needed = {key for step, again in self._second if again is not False for key in reads(step)}
        needed |= {a.key for term in self._others for a, _ in term.readers()} | counted
        made = {key for step, again in self._first if not again for key in makes(step)}
        self._kept = needed & made
        """What is made once and read in the second pass."""
        self._masks = counted
        self._cells: list[dict[str, Tensor]] = []
        self._drawn: list[list[RandomState]] = []
        self._twins: dict[int, Twin] = {}
        self._parts: list[dict[str, Tensor]] = []
        self._counted: list[dict[str, Tensor]] = []

    def values(self) -> dict[str, Tensor]:
        """The first pass: what coupled losses, critics and `update` read, of all micro-batches."""
        again = [step for step, again in self._first if again] if self._twice else []
        self._twins = {id(module): Twin(module) for module in map(_module, again)}
        self.graph._apply_schedules()
        columns = []
        for i, batch in enumerate(self.batches):
            twice = i in self._twice
            with torch.set_grad_enabled(not twice), self._running():
                values = self._plan.read(batch)
                drawn = []
                for step, repeated in self._first:
                    if twice and repeated:
                        drawn.append(RandomState(self.graph.device))
                    self._plan.take(step, batch, values)
            self._drawn.append(drawn)
            self._counted.append({key: values[key].detach() for key in self._masks})
            columns.append({key: values[key].detach() for key in self._joined if key in values})
            floating = {key for key in self._leaves if columns[-1][key].is_floating_point()}
            self._cells.append({key: columns[-1][key].requires_grad_() for key in floating})
            self._parts.append({key: values[key] for key in self._kept} if twice else values)
        with self._running():
            joined = {key: weight.read() for key, weight in self._weights.items()}
        return joined | {key: _joined([column[key] for column in columns]) for key in columns[0]}

    def backward(self, objective: Objective | None, apart: Apart | None) -> dict[str, Tensor]:
        """The gradient of the objective of the whole batch, then the second pass; returns all losses, detached."""
        groups = apart.groups if apart is not None else {"": [term.name for term in self.graph.terms]}
        *_, last = groups
        found: dict[str, list[dict[str, Tensor]]] = {}
        told: list[dict[str, Tensor]] = []
        if objective is not None:
            told.append({name: loss.detach() for name, loss in objective.told.items()})
            for group, names in groups.items():
                own = [name for name in names if name in objective.weighted]
                if own and (loss := objective.total(own)).requires_grad:
                    with _into(apart, group):
                        loss.backward(retain_graph=group != last)  # type: ignore[no-untyped-call]
                found[group] = [_taken(cells) for cells in self._cells]
        shares = portions(self.graph, self._others, self.batches, self._counted)
        for i in (*range(len(self._twice), len(self.batches)), *self._twice):  # graphs that wait go first
            values = self._again(i)
            rest = self._rest(values) if self._others else None
            if rest is not None:
                rest.scale(shares[i])
                told.append({name: loss.detach() for name, loss in rest.told.items()})
            for group, names in groups.items():
                pairs = [(values[key], g) for key, g in found[group][i].items()] if found else []
                own = [name for name in names if rest is not None and name in rest.weighted]
                ends = [*pairs, *([(rest.total(own), None)] if rest is not None and own else [])]
                ends = [(end, gradient) for end, gradient in ends if end.requires_grad]
                if ends:
                    with _into(apart, group):
                        torch.autograd.backward(
                            [end for end, _ in ends], [g for _, g in ends], retain_graph=group != last
                        )
            del values, rest, ends, pairs
        names = [*(f"{term.name}_loss" for term in self.graph.terms), "loss"]
        return {name: torch.stack([own[name] for own in told if name in own]).sum(0) for name in names}

    def _again(self, i: int) -> dict[str, Tensor]:
        """The second pass over a micro-batch."""
        batch, twice = self.batches[i], i in self._twice
        values, self._parts[i] = self._parts[i], {}
        drawn = iter(self._drawn[i])
        with self._running():
            values = {**self._plan.read(batch), **values}
            for step, again in self._second:
                if again is None:
                    self._plan.take(step, batch, values)
                elif again and twice:
                    now = RandomState(self.graph.device)
                    next(drawn).restore()
                    with self._twins[id(_module(step))].inside():
                        self._plan.take(step, batch, values)
                    now.restore()
        return values

    def _rest(self, values: Mapping[str, Tensor]) -> Objective:
        return Objective(self._others, values, values, self.graph.steps, self.graph.total_steps)

    @contextlib.contextmanager
    def _running(self) -> Iterator[None]:
        """As the graph runs its networks; casts made with a gradient are no use without, and the reverse."""
        torch.clear_autocast_cache()
        with self.graph._autocast():
            yield
        torch.clear_autocast_cache()


def whole_terms(graph: TrainingGraph) -> list[Term]:
    """The losses that need all samples of a batch together: coupled ones, and those of critics."""
    critics = {phase.term for phase in graph.phases}
    return [term for term in graph.terms if term.loss.coupled or term.name in critics]


def due(graph: TrainingGraph) -> bool:
    """Whether something of the whole batch must be known before the gradient of its first part is: a loss that needs it
    whole, or a mask that is computed, whose valid elements are to be counted."""
    masks = [mask for term in graph.terms if (mask := term.counted) is not None]
    return bool(whole_terms(graph)) or any(mask.node != "batch" for mask in masks)


def check(graph: TrainingGraph, parts: int) -> None:
    """Raise where a step cannot be made of several micro-batches.

    Raises:
        GraphError: a schedule learns, or a loss that needs the batch whole needs the graph of networks too.
    """
    for phase in graph.phases:
        if phase.schedule:
            raise GraphError(
                f"schedule '{phase.name}' learns from the step of the whole batch at once, not of {parts} parts of it",
                where=graph.weightings[phase.name].where, next="train.gradient_accumulation_steps=1",
            )  # fmt: skip
    for term in whole_terms(graph):
        if term.binding.needs_graph:
            raise GraphError(
                f"{type(term.loss).__name__} needs the whole batch at once and its graph, not {parts} parts of it",
                where=term.binding.where, next="train.gradient_accumulation_steps=1",
            )  # fmt: skip


def describe(graph: TrainingGraph, parts: int, kept: int) -> str | None:
    """What is to be said of a step of so many micro-batches; None where it makes no two passes."""
    if parts == 1 or not due(graph):
        return None
    names = [term.name for term in whole_terms(graph)]
    read = f"{', '.join(names)} read the whole batch" if names else "masks are counted over the whole batch"
    said = f"{read}; what students give it is computed twice in {parts - kept} of {parts} micro-batches"
    normed = [n for n, node in graph.roles.items() if node.trained and any(map(_of_batches, node.encoder.modules()))]
    if normed:
        said += f"; BatchNorm of {', '.join(normed)} takes the statistics of each micro-batch, not of the batch"
    return said


def _of_batches(module: nn.Module) -> bool:
    return isinstance(module, _NormBase) and not isinstance(module, nn.modules.instancenorm._InstanceNorm)


def _moving(plan: Plan) -> set[str]:
    """Keys of the values through which a gradient may have to flow back."""
    moving: set[str] = set()
    for step in plan.steps:
        if isinstance(step, NodeRun):
            moving |= step.makes if step.moving else frozenset()
        elif not isinstance(step, Weighting):
            own = any(parameter.requires_grad for parameter in step.module.parameters())
            if own or any(not a.detached and a.key in moving for a, _ in step.readers()):
                moving.add(step.name)
    return moving


def _module(step: NodeRun | Binding) -> nn.Module:
    return step.node.encoder if isinstance(step, NodeRun) else step.module


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """The rows of all micro-batches, padded at the end to the longest; numbers are averaged."""
    first = parts[0]
    if not first.dim():
        return torch.stack(list(parts)).mean(0) if first.is_floating_point() else first
    widest = [max(sizes) for sizes in zip(*(part.shape[1:] for part in parts), strict=True)]
    return torch.cat([_padded(part, widest) for part in parts])


def _padded(part: Tensor, widest: Sequence[int]) -> Tensor:
    if list(part.shape[1:]) == widest:
        return part
    missing = [most - own for most, own in zip(widest, part.shape[1:], strict=True)]
    return F.pad(part, [n for size in reversed(missing) for n in (0, size)])


def _taken(cells: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The gradients that have reached the cells, which are left empty."""
    found = {key: cell.grad for key, cell in cells.items() if cell.grad is not None}
    for cell in cells.values():
        cell.grad = None
    return found


def _into(apart: Apart | None, group: str) -> contextlib.AbstractContextManager[None]:
    return contextlib.nullcontext() if apart is None else apart.into(group)
