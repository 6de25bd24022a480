"""What a loss must be."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from mmkd.testing.loss_batch import BATCH
from mmkd.testing.loss_case import LossCase
from mmkd.testing.loss_graph import GRAPH
from mmkd.testing.loss_values import VALUES
from mmkd.testing.module import MODULE, kept, options_matter
from mmkd.testing.probe import NotApplicable, Probes, ask, require
from mmkd.testing.sameness import difference
from mmkd.testing.specimen import Specimen

LOSS = Probes([*BATCH, *VALUES])


@LOSS("keep queues, banks, centres and counters in buffers that setup() creates and update() changes in place")
def updates_are_saved(case: LossCase) -> None:
    """A run that is resumed must go on with the same queue, bank and counters."""
    if not case.updates:
        raise NotApplicable
    first, second = case.fresh(seed=0), case.fresh(seed=1)
    for turn in range(3):
        case.update(first, turn)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for after in ("loading its state_dict()", "one more update"):
        found = difference(case.run(first), case.run(second), tolerance=1e-6)
        require(not found, f"after {after} a fresh instance gives another loss: {found}")
        for module in (first, second):
            case.update(module, 3)


@LOSS("write what update() is given into state that forward() reads")
def updates_matter(case: LossCase) -> None:
    """State that nothing reads costs memory and promises what it does not do."""
    if not case.updates:
        raise NotApplicable
    module = case.fresh()
    states, outputs = [], []
    for turn in range(4):
        states.append(kept(module.state_dict()))
        outputs.append(case.run(module))
        case.update(module, turn)
    if not any(difference(states[0], later) for later in states[1:]):
        raise NotApplicable
    require(any(difference(outputs[0], later) for later in outputs[1:]), "three updates change state, and no loss")


LOSS("use it in __init__, setup or forward, or remove it")(options_matter)


def check_loss(
    target: Any,
    *,
    options: Mapping[str, Any] | None = None,
    inputs: Mapping[str, Any] | None = None,
    reference: Callable[..., Tensor] | None = None,
    divergence: bool = False,
    constant: tuple[str, ...] = (),
    shared: tuple[str, ...] = (),
    inert: tuple[str, ...] = (),
) -> list[str]:
    """Ask a loss everything that the contract promises; returns the names of the probes that ran.

    Args:
        target: a class, or an instance, of which copies are made before its `setup`.
        options: options of the class.
        inputs: values by port; the loss's `example()` otherwise. They need two samples or more.
        reference: a plain formula with the same ports, which value and gradient must equal in float64.
        divergence: the loss is zero exactly where student and teacher are equal, and carries the factor `T^2`.
        constant: ports through which the loss promises to pass no gradient.
        shared: ports that have no batch dimension though their length is that of the batch.
        inert: options that need not change anything on this example.

    Raises:
        ConformanceError: some probes failed; it names all of them.
    """
    specimen = Specimen(target, options)
    case = LossCase(
        specimen, inputs, reference=reference, divergence=divergence, constant=constant, shared=shared, inert=inert
    )
    return ask(f"loss {specimen.cls.__name__}", case, [*GRAPH, *MODULE, *LOSS])
