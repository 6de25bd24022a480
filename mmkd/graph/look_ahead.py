"""Learning a schedule: its lessons after the step that the students are about to take, as a function of the weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from mmkd.errors import GraphError
from mmkd.graph import ranks
from mmkd.graph.objective import Objective
from mmkd.graph.phase import Phase
from mmkd.graph.plan import preserved
from mmkd.graph.weighting import Share

if TYPE_CHECKING:
    from mmkd.graph.term import Term
    from mmkd.graph.training_graph import TrainingGraph


def train_schedule(
    graph: TrainingGraph,
    phase: Phase,
    batch: Mapping[str, Any],
    values: dict[str, Tensor],
    optimizers: Mapping[str, Optimizer],
    drawn: RandomState,
) -> dict[str, Tensor]:
    """Move a schedule by one step of its optimiser, then put its new weight among the values.

    Returns:
        Its lessons after the students' step, by `<name>_loss`, as they were before the schedule moved.
    """
    lr = optimizers["main"].param_groups[0]["lr"]
    lessons, gradients = gradient(graph, phase, batch, values, lr, drawn)
    for parameter, own in zip(phase.parameters, gradients, strict=True):
        parameter.grad = own
    phase.apply(optimizers[phase.name], lessons["loss"])
    values[phase.name] = graph.weightings[phase.name].value(values)
    return {name: loss for name, loss in lessons.items() if name != "loss"}


def gradient(
    graph: TrainingGraph,
    phase: Phase,
    batch: Mapping[str, Any],
    values: Mapping[str, Tensor],
    lr: float,
    drawn: RandomState,
) -> tuple[dict[str, Tensor], Sequence[Tensor]]:
    """The lessons `M` after a step of size `lr`, and their gradient on the parameters `phi` of the schedule.

    With the objective `L(theta, phi) = sum_i w_i(phi) l_i(theta) + ...` and `theta' = theta - lr dL/dtheta`, where the
    weights read values without gradient, the chain rule gives

        v = dM/dtheta at theta',   dM/dw_i = -lr <v, dl_i/dtheta>,   dM/dphi = sum_i dM/dw_i dw_i/dphi.

    All those inner products come from two forward passes: `<v, dl_i/dtheta> = (l_i(theta + e v) - l_i(theta - e v)) /
    2 e`, up to `O(e^2)`. The error of rounding is about `u / (e |v|)`, that of truncation `(e |v|)^2`, both relative;
    they balance at `e = u^(1/3) / |v|`, `u` being the machine's epsilon: 0.005 / |v| in float32, which is the
    0.01 / |v| of DARTS (Liu et al., 2019). The two passes draw the random numbers of the step's own pass and compute in
    full precision; afterwards no buffer, random state or parameter is other than before.
    """
    weighting = graph.weightings[phase.name]
    theta = graph.phases[-1].parameters
    inner = _gradient(graph.objective(values, note=False)["loss"], theta, retain_graph=True)
    with moved(theta, inner, -lr), preserved([graph]), torch.enable_grad():
        lessons = _lessons(graph, phase.name, batch)
        v = _gradient(lessons["loss"], theta)
    norm = torch.nn.utils.get_total_norm(v)
    size = torch.finfo(norm.dtype).eps ** (1 / 3)
    distance = size / norm.clamp(min=torch.finfo(norm.dtype).tiny)
    ahead, behind = (_losses(graph, phase.name, batch, theta, v, sign * distance, drawn) for sign in (1.0, -1.0))
    values = {**values, phase.name: weighting.weight(values)}
    slopes = []
    for term, up, down in zip(_weighed(graph, phase.name), ahead, behind, strict=True):
        read = _read(term, values)
        assert isinstance(term.weight, Share)
        slopes.append((term, term.weight.times((up - down) / (2 * distance), read, term.binding.where), read))
    if ranks.world() == 1:
        means = [term.reduce(slope, read) for term, slope, read in slopes]
    else:
        means = ranks.share([term.part(slope, read) for term, slope, read in slopes])
    effect = -lr * torch.stack(means).sum()
    return {name: loss.detach() for name, loss in lessons.items()}, _gradient(effect, phase.parameters)


def _weighed(graph: TrainingGraph, schedule: str) -> list[Term]:
    """The terms of the objective whose weight is this schedule."""
    return [t for t in graph.terms if isinstance(t.weight, Share) and t.weight.address.node == schedule]


def _read(term: Term, values: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """What a term reads: of the global batch where it needs all samples."""
    if ranks.world() == 1 or not term.loss.coupled:
        return values
    return ranks.whole(values, [address.key for address, _ in term.readers()])


def _lessons(graph: TrainingGraph, schedule: str, batch: Mapping[str, Any]) -> dict[str, Tensor]:
    """The losses that a schedule learns from, and their weighted sum as `loss`."""
    values = graph.compute(batch, schedule)
    whole = dict(values)
    for term in graph.lessons[schedule]:
        whole |= _read(term, values)
    return Objective(graph.lessons[schedule], values, whole, graph.steps, graph.total_steps).told


def _losses(
    graph: TrainingGraph,
    schedule: str,
    batch: Mapping[str, Any],
    theta: Sequence[nn.Parameter],
    direction: Sequence[Tensor],
    distance: Tensor,
    drawn: RandomState,
) -> list[Tensor]:
    """What the schedule weighs, as the losses are with the parameters moved."""
    with moved(theta, direction, distance), preserved([graph]):
        drawn.restore()
        values = graph.plans["main"].run(batch)
        return [term.unreduced(_read(term, values)) for term in _weighed(graph, schedule)]


def _gradient(loss: Tensor, parameters: Sequence[nn.Parameter], *, retain_graph: bool = False) -> Sequence[Tensor]:
    """Zero where there is none; the mean over ranks where there are several."""
    if not loss.requires_grad:
        raise GraphError(
            "no gradient reaches what a schedule learns through", next="mmkd explain RECIPE shows what is detached"
        )
    found = torch.autograd.grad(loss, parameters, retain_graph=retain_graph, allow_unused=True, materialize_grads=True)
    return [g for g in ranks.average(found, parameters) if g is not None] if ranks.world() > 1 else found


@contextlib.contextmanager
def moved(parameters: Sequence[nn.Parameter], direction: Sequence[Tensor], distance: float | Tensor) -> Iterator[None]:
    """Inside, the parameters are `distance * direction` away from where they are; afterwards they are bit for bit back.

    Other memory is put under them, not written into theirs, which a graph of the step's own pass still needs.
    """
    before = [parameter.data for parameter in parameters]
    after = torch._foreach_add(before, [way * distance for way in direction])
    try:
        for parameter, there in zip(parameters, after, strict=True):
            parameter.data = there
        yield
    finally:
        for parameter, here in zip(parameters, before, strict=True):
            parameter.data = here


class RandomState:
    """Torch's random state as it is now, to draw the same numbers again later."""

    def __init__(self, device: torch.device) -> None:
        self._cpu = torch.get_rng_state()
        self._device = device
        self._own = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
        if device.type == "mps":
            self._own = torch.mps.get_rng_state()

    def restore(self) -> None:
        """Draw from here on what was drawn then."""
        torch.set_rng_state(self._cpu)
        if self._own is not None and self._device.type == "cuda":
            torch.cuda.set_rng_state(self._own, self._device)
        elif self._own is not None:
            torch.mps.set_rng_state(self._own)
