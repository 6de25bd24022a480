"""What a schedule must be that reads values, or learns."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mmkd.testing.loss import LOSS
from mmkd.testing.loss_case import LossCase
from mmkd.testing.module import MODULE, TOLERANCE, gradients, nudged
from mmkd.testing.probe import NotApplicable, Probe, Probes, require
from mmkd.testing.sameness import difference, mapped

AS_A_LOSS = ("ports_matter", "updates_are_saved", "updates_matter", "options_matter")
"""Probes that such a schedule shares with losses."""


class WeightingCase(LossCase):
    """A schedule somewhere in a run, after a little training."""

    def prepare(self, module: Any) -> None:
        super().prepare(module)
        nudged(module)

    def arguments(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        return {**super().arguments(inputs), "step": 3, "total": 10}

    def behaviour(self, module: Any) -> Any:
        return super().behaviour(module), module.lr, module.interval


WEIGHTING = Probes()


@WEIGHTING("return a float, or a tensor [] or [B]")
def number_or_one_per_sample(case: WeightingCase) -> None:
    """It stands in front of a loss, or of the loss of each sample."""
    module = case.warm()
    made = case.run(module)
    if isinstance(made, Tensor):
        shapes = [[], [case.batch]] if case.inputs else [[]]
        require(list(made.shape) in shapes, f"returns {list(made.shape)}, not one of {shapes}")
        require(made.isfinite().all(), "not finite on an ordinary example")
    else:
        require(isinstance(made, int | float) and math.isfinite(made), f"returns {made!r}")


@WEIGHTING("treat samples alike: no sorting, no positions")
def sample_order(case: WeightingCase) -> None:
    """Batches are in random order, and ranks see parts of them."""
    if not case.inputs or case.random:
        raise NotApplicable
    module, order = case.warm(), torch.randperm(case.batch, generator=torch.Generator().manual_seed(1))
    whole, turned = case.run(module), case.run(module, case.taken(order))
    expected = whole[order] if isinstance(whole, Tensor) and whole.dim() else whole
    found = difference(expected, turned, tolerance=TOLERANCE)
    require(not found, f"the weights depend on the order of the samples: {found}")


@WEIGHTING("subtract the maximum (log_softmax, logsumexp)")
def large_values(case: WeightingCase) -> None:
    """Half-precision networks give values up to 6e4."""
    grown = {
        name: mapped(lambda t: t / t.abs().max() * 6e4 if t.is_floating_point() else t, value)
        for name, value in case.inputs.items()
    }
    made = case.run(case.warm(), grown)
    require(not torch.as_tensor(made).isnan().any(), "NaN where values are as large as float16 goes, 6e4")


@WEIGHTING("compute the weight from every parameter; lr at least 0, interval at least 1")
def parameters_learn(case: WeightingCase) -> None:
    """Its phase moves all of them, by what they do to the weights."""
    module = case.warm()
    require(module.lr >= 0 and module.interval >= 1, f"lr is {module.lr} and interval {module.interval}")
    names = {name: p for name, p in module.named_parameters() if p.requires_grad}
    if not names:
        raise NotApplicable
    reached = gradients(case.run(module), list(names.values()))
    idle = [name for name, gradient in zip(names, reached, strict=True) if gradient is None or not gradient.any()]
    require(not idle, f"no gradient reaches {', '.join(idle)}")


PROBES: list[Probe] = [*MODULE, *WEIGHTING, *(probe for probe in LOSS if probe.name in AS_A_LOSS)]
