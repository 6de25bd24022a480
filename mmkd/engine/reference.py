"""The teacher's own score: a metric of the students, its ports rebound to what the teacher says."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace

from mmkd.components import Sample
from mmkd.errors import GraphError, MmkdError
from mmkd.graph.binding import Binding, bind
from mmkd.graph.collate import to_device
from mmkd.graph.training_graph import TrainingGraph
from mmkd.graph.value import Address, parse


def teachers(graph: TrainingGraph) -> list[str]:
    """Networks with scores of their own: those that are not trained."""
    return [name for name, node in graph.roles.items() if not node.trained]


def rebound(
    binding: Binding, graph: TrainingGraph, teacher: str, written: Mapping[str, str] | None = None
) -> Binding | None:
    """The metric as it would score this teacher, or None where that means nothing.

    A port that reads `student.x` reads `teacher.x` instead, a projector with `like: teacher.x` stands for that value,
    and what reads no student stays. It means nothing where a value has no such counterpart, where no port reads a
    student, or where the metric would compare a value of the teacher with itself.

    Args:
        written: the recipe's own ports for it, which are taken as they are.

    Raises:
        GraphError: `written` names no port of the metric.
    """
    own = dict(written or {})
    ports: dict[str, str | list[str]] = {}
    said, kept = [], set()
    for port, bound in binding.ports.items():
        if port in own:
            continue
        addresses = []
        for address in bound if isinstance(bound, list) else [bound]:
            found = _counterpart(address, graph, teacher)
            if found is None:
                return None
            addresses.append(str(found))
            if found == address:
                kept.add(_stem(found))
            else:
                said.append(_stem(found))
        ports[port] = addresses if isinstance(bound, list) else addresses[0]
    if not own and (not said or len({*said}) < len(said) or kept.intersection(said)):
        return None
    made = bind(binding.name, copy.deepcopy(binding.module), {**ports, **own}, f"{binding.where}.teacher_score")
    made.use = binding.use
    return made


def comparable(students: Binding, teachers: Binding, graph: TrainingGraph, sample: Sample) -> bool:
    """Whether the data has what the teacher takes, and `logits` are over as many classes on both sides."""
    keys = {str(address) for binding in (students, teachers) for address, _ in binding.readers()}
    try:
        batch = to_device(graph.collate([sample], keys), graph.device)
        values = graph.values(batch, keys)
    except MmkdError:
        return False
    sides = zip(students.readers(), teachers.readers(), strict=True)
    pairs = [(values[str(a)], values[str(b)]) for (a, _), (b, _) in sides if a.name.rpartition(".")[2] == "logits"]
    return all(a.shape[-1] == b.shape[-1] for a, b in pairs)


def owner(written: Mapping[str, str], graph: TrainingGraph, where: str) -> str:
    """The teacher whose values are written in a recipe's `teacher_score`.

    Raises:
        GraphError: they are of no teacher, or of several.
    """
    named = {parse(value, f"{where}.teacher_score.{port}").node for port, value in written.items()}
    found = [name for name in teachers(graph) if name in named]
    if len(found) != 1:
        raise GraphError(
            f"must read values of one teacher, not of {len(found)}", where=f"{where}.teacher_score",
            exists=teachers(graph), next="teacher_score: {<port>: teacher.<value>}",
        )  # fmt: skip
    return found[0]


def _counterpart(address: Address, graph: TrainingGraph, teacher: str) -> Address | None:
    """What the teacher has where a student has this value; the address itself where it is no student's."""
    if not any(graph.roles[head].trained for head in _stands_on(address, graph)):
        return address
    if address.node in graph.bound:
        like = graph.bound[address.node].like
        return like if isinstance(like, Address) and like.node == teacher else None
    if address.path or not _publishes(graph, teacher, address.name):
        return None
    return replace(address, node=teacher)


def _stands_on(address: Address, graph: TrainingGraph) -> Iterator[str]:
    """Networks that a value is made from."""
    if address.node in graph.roles:
        yield address.node
    elif address.node in graph.bound:
        for inner, _ in graph.bound[address.node].readers():
            yield from _stands_on(inner, graph)


def _publishes(graph: TrainingGraph, node: str, name: str) -> bool:
    try:
        graph.roles[node].published(name, "")
    except GraphError:
        return False
    return True


def _stem(address: Address) -> tuple[str, str]:
    """The value without its index: `hidden.3` beside `hidden.6` is no score of the teacher's either."""
    return address.run, re.sub(r"\.-?\d+(?=\.|\Z)", "", address.name or f"/{address.path}")
