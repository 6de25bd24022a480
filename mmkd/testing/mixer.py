"""What a mixer must be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mmkd.signature import ports
from mmkd.testing.loss import LOSS
from mmkd.testing.loss_case import LossCase
from mmkd.testing.module import MODULE, TOLERANCE
from mmkd.testing.probe import NotApplicable, Probes, ask, require
from mmkd.testing.sameness import difference, mapped
from mmkd.testing.specimen import Specimen

AS_A_LOSS = ("ports_matter", "updates_are_saved", "updates_matter", "options_matter")
"""Probes that a mixer shares with losses."""

MIXER = Probes()


@MIXER("return one tensor with a row for every sample: log-probabilities or features, not averaged over the batch")
def target_per_sample(case: LossCase) -> None:
    """What it makes stands where a teacher's value would."""
    made = case.run(case.warm())
    require(isinstance(made, Tensor), f"returns {type(made).__name__}, not a tensor")
    require(made.dim() > 1 and len(made) == case.batch, f"returns {list(made.shape)} for a batch of {case.batch}")
    require(made.isfinite().all(), "not finite on an ordinary example")


@MIXER("mix within a sample; norms and means over features, never over the batch")
def samples_apart(case: LossCase) -> None:
    """A target that depends on the rest of the batch cannot be remembered, nor the batch be cut up."""
    module = case.warm()
    if case.random:
        raise NotApplicable
    whole = case.run(module)
    for i in range(case.batch):
        alone = case.run(module, case.taken(torch.tensor([i])))
        found = difference(whole[i : i + 1], alone, tolerance=TOLERANCE)
        require(not found, f"sample {i} alone gives another target: {found}")


@MIXER("subtract the maximum (log_softmax, logsumexp)")
def large_values(case: LossCase) -> None:
    """Half-precision networks give values up to 6e4."""
    grown = {
        name: mapped(lambda t: t / t.abs().max() * 6e4 if t.is_floating_point() else t, value)
        for name, value in case.inputs.items()
    }
    made = case.run(case.warm(), grown)
    require(not made.isnan().any(), "NaN where values are as large as float16 goes, 6e4")


def check_mixer(
    target: Any,
    *,
    options: Mapping[str, Any] | None = None,
    inputs: Mapping[str, Any] | None = None,
    shared: tuple[str, ...] = (),
    inert: tuple[str, ...] = (),
) -> list[str]:
    """Ask a mixer everything that the contract promises; returns the names of the probes that ran.

    Args:
        target: a class, or an instance, of which copies are made before its `setup`.
        options: options of the class.
        inputs: values by port; otherwise logits of eight classes for four samples, two of them at a port that takes a
            list, and labels.
        shared: ports that have no batch dimension though their length is that of the batch.
        inert: options that need not change anything on this example.

    Raises:
        ConformanceError: some probes failed; it names all of them.
    """
    specimen = Specimen(target, options)
    case = LossCase(
        specimen, inputs or _inputs(specimen.cls), reference=None, divergence=False, constant=(), shared=shared,
        inert=inert,
    )  # fmt: skip
    common = [probe for probe in LOSS if probe.name in AS_A_LOSS]
    return ask(f"mixer {specimen.cls.__name__}", case, [*MODULE, *MIXER, *common])


def _inputs(cls: type) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    made: dict[str, Any] = {}
    for name, port in ports(cls).items():
        if name == "label":
            made[name] = torch.randint(0, 8, (4,), generator=generator)
        elif port.required:
            one, two = torch.randn(2, 4, 8, generator=generator)
            made[name] = [one, two] if port.many else one
    return made
