"""Derivatives that a loss takes itself: what it must say of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mmkd.graph.binding import undeclared
from mmkd.signature import ports
from mmkd.testing.loss_case import LossCase
from mmkd.testing.probe import NotApplicable, ProbeFailure, Probes, require
from mmkd.testing.sameness import mapped
from mmkd.testing.specimen import seeded

GRAPH = Probes()


@GRAPH("declare the ports that forward differentiates, and in which: needs_graph = frozenset({...})", first=True)
def needs_graph(case: LossCase) -> None:
    """A frozen network has no graph, and half precision is copied, unless the loss says that it takes derivatives."""
    if case.specimen.lacking or not case.inputs:
        raise NotApplicable
    module = case.fresh()
    declared: frozenset[str] = module.needs_graph
    unknown = sorted(declared - ports(type(module)).keys())
    require(not unknown, f"needs_graph names {', '.join(unknown)}, which is no port")
    apart = {name: value if name in declared else mapped(_apart, value) for name, value in case.inputs.items()}
    fault = _fault(module, apart)
    if fault is not None and (said := undeclared(fault, module)):
        raise ProbeFailure(said)
    if fault is not None and _fault(module, case.inputs) is None:
        raise ProbeFailure(f"needs the graph of a port that needs_graph does not declare: {fault}")
    if declared and _fault(module, {name: mapped(_apart, value) for name, value in case.inputs.items()}) is None:
        raise ProbeFailure(f"needs_graph names {', '.join(sorted(declared))}, and forward takes no derivative there")


def _fault(module: torch.nn.Module, inputs: dict[str, Any]) -> Exception | None:
    """What goes wrong with these inputs."""
    try:
        with seeded(0):
            module(**inputs)
    except Exception as error:
        return error
    return None


def _apart(tensor: Tensor) -> Tensor:
    """The same numbers, made of nothing else."""
    return tensor.detach().clone().requires_grad_(tensor.requires_grad)
