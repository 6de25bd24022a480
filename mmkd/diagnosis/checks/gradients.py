"""Do the losses reach what they should train, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from mmkd.diagnosis.examination import Examination
from mmkd.diagnosis.finding import Finding
from mmkd.graph.collate import to_device
from mmkd.graph.node import Node


def check(exam: Examination) -> Iterator[Finding]:
    for node in exam.students():
        if not any(p.requires_grad for p in node.encoder.parameters()):
            what = f"'{node.name}' is a student, and every parameter of it is frozen"
            yield Finding("error", what, exam.place(node.name), "network.requires_grad_(True), or make it a teacher")
    if exam.failed or len(exam.gradients) < len(exam.graph.terms):
        return
    reached: set[str] = set()
    for term in exam.graph.terms:
        held = [name for name, g in zip(exam.parameters, exam.gradients[term.name], strict=True) if g is not None]
        reached.update(held)
        if not held:
            what = f"loss '{term.name}' stands on no trained parameter, so it teaches nothing"
            yield Finding("error", what, term.binding.where, "bind a port to a value of a student, without detach(...)")
        elif exam.weight(term) == 0:
            yield Finding("warning", f"loss '{term.name}' has weight 0 all along", f"{term.binding.where}.weight")
    silent = [name for name in exam.parameters if name not in reached]
    for node in exam.students():
        yield from _student(exam, node, silent)
    if rest := [name for name in silent if not name.startswith("nodes.")]:
        yield Finding("note", f"no loss reaches {_listed(rest)}", rest[0].rpartition(".")[0])


def _student(exam: Examination, node: Node, silent: Sequence[str]) -> Iterator[Finding]:
    """What of a student no loss reaches: all of it, what its scores stand on, or what nobody reads."""
    prefix, where = f"nodes.{node.name}.", exam.place(node.name)
    own = [name for name in exam.parameters if name.startswith(prefix)]
    mine = [name for name in own if name in silent]
    if own and len(mine) == len(own):
        what = f"no loss reaches '{node.name}': it is detached, or its network runs without gradient"
        yield Finding("error", what, where, "remove detach(...), torch.no_grad() and .detach() from its path")
    elif mine:
        scored = _scored(exam, mine)
        names = _listed([name.removeprefix(prefix) for name in scored or mine])
        if scored:
            what = f"'{node.name}' is scored by what no loss trains: {names}"
            yield Finding("warning", what, where, "add a loss on the value that `evaluate` reads, or score another")
        else:
            yield Finding("note", f"no loss reaches {names} of '{node.name}': exported as it is now", where)


def _scored(exam: Examination, names: Sequence[str]) -> list[str]:
    """Those of the parameters that a metric's values stand on."""
    read = [str(address) for address in exam.scored if exam.origins(address) & {n.name for n in exam.students()}]
    if not read:
        return []
    batch = to_device(exam.graph.collate(exam.samples, read), exam.graph.device)
    values = [v for v in exam.graph.values(batch, read).values() if v.requires_grad]
    if not values:
        return []
    wanted = [exam.parameters[name] for name in names]
    total = torch.stack([v.float().sum() for v in values]).sum()
    return [name for name, g in zip(names, exam.gradient(total, wanted), strict=True) if g is not None]


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:3])
    return f"{len(names)} parameters ({shown}, ...)" if len(names) > 3 else shown
