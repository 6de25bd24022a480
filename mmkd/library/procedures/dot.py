"""Two momenta: one for what the teacher says, one for the task."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.sgd import sgd

import mmkd
from mmkd.errors import RecipeError, TrainingError

if TYPE_CHECKING:
    from mmkd import Train

TASK, DISTILL = "task", "distill"
"""Groups of losses."""


class TwoMomenta(mmkd.Procedure):
    """Let distillation dominate the optimisation through a larger momentum, DOT (Zhao et al., 2023).

        v_task <- (mu - delta) v_task + g_task + lambda theta
        v_kd   <- (mu + delta) v_kd + g_kd
        theta  <- theta - lr (v_task + v_kd)

    `g_kd` is the gradient of the losses named in `distill`, `g_task` that of all others, mu, lambda and lr are
    `train.momentum`, `train.weight_decay` and `train.lr`. A parameter that only one of the two reaches (a projector, a
    head) has momentum mu. With `delta: 0` it is SGD with momentum. As everywhere, only parameters of two dimensions or
    more are decayed. The authors leave the very first weight decay of a parameter out that the task does not reach.

    Args:
        distill: names of the losses that distil.
        delta: how far the two momenta are from mu; 0.075 on CIFAR-100 and 0.09 on ImageNet in the paper.

    Raises:
        RecipeError: a loss is unknown, all losses distil, momentum and delta do not go together, or the optimiser is
            another.
    """

    conformance: ClassVar[dict[str, Any]] = {"options": {"distill": ["distill"]}}

    def __init__(
        self, distill: Annotated[list[str], Field(min_length=1)], delta: Annotated[float, Field(ge=0, lt=1)] = 0.075
    ) -> None:
        self.distill, self.delta = distill, delta

    def stages(self, recipe: mmkd.Recipe) -> list[mmkd.Stage]:
        for i, name in enumerate(self.distill):
            if name not in recipe.losses:
                where = f"procedure.distill.{i}"
                raise RecipeError(f"there is no loss '{name}'", where=where, name=name, exists=recipe.losses)
        if not self.groups(list(recipe.losses))[TASK]:
            raise RecipeError(
                "every loss distils, so that there is nothing to keep apart", where="procedure.distill",
                next="name the losses that read a teacher, and have one that reads labels",
            )  # fmt: skip
        return [mmkd.Stage("main", recipe)]

    def groups(self, losses: Sequence[str]) -> dict[str, list[str]]:
        return {
            TASK: [name for name in losses if name not in self.distill],
            DISTILL: [name for name in losses if name in self.distill],
        }

    def optimizer(self, parameters: Sequence[nn.Parameter], train: Train) -> Optimizer:
        if train.optimizer != "sgd":
            raise RecipeError(
                f"two momenta are those of sgd, not of {train.optimizer}", where="train.optimizer",
                next="train.optimizer=sgd",
            )  # fmt: skip
        if not self.delta <= train.momentum < 1 - self.delta:
            raise RecipeError(
                f"{train.momentum:g} - {self.delta:g} and {train.momentum:g} + {self.delta:g} are not both from 0 to 1",
                where="procedure.delta", next=f"less than {min(train.momentum, 1 - train.momentum):.3g}",
            )  # fmt: skip
        decayed = [p for p in parameters if p.dim() >= 2]
        plain = [p for p in parameters if p.dim() < 2]
        groups = [{"params": decayed, "weight_decay": train.weight_decay}, {"params": plain, "weight_decay": 0.0}]
        held = [group for group in groups if group["params"]]
        return DotOptimizer(held, parameters, train.lr, train.momentum, self.delta)


class DotOptimizer(Optimizer):
    """SGD with a momentum for each of two gradients, which it is handed in its attribute `gradients`.

    Args:
        groups: parameters to be optimised, as torch's optimisers take them.
        order: the same parameters in the order of the gradients.
        lr: learning rate.
        momentum: the mean of the two momenta.
        delta: half of their difference.
        weight_decay: L2 penalty, part of the task.
    """

    gradients: dict[str, Sequence[Tensor | None]] | None = None
    """Of the groups `task` and `distill`, one per parameter in `order`; None where a group does not reach it."""

    def __init__(
        self,
        groups: Any,
        order: Sequence[nn.Parameter],
        lr: float,
        momentum: float = 0.9,
        delta: float = 0.075,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(groups, {"lr": lr, "momentum": momentum, "delta": delta, "weight_decay": weight_decay})
        self._place = {id(parameter): i for i, parameter in enumerate(order)}
        self._step_supports_amp_scaling = True  # the kernel skips the step by itself where something is not finite
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter] = {name: torch.zeros_like(parameter) for name in (TASK, DISTILL)}

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Take one step.

        Raises:
            TrainingError: no gradients were handed in.
        """
        if self.gradients is None:
            raise TrainingError(
                "the optimiser was handed no gradients by group", where="procedure",
                next="call graph.step(batch, optimizers)",
            )  # fmt: skip
        for group in self.param_groups:
            momentum, delta, decay = group["momentum"], group["delta"], group["weight_decay"]
            task, distill, both = self._reached(group["params"])
            self._move(TASK, both, group["lr"], momentum - delta, decay)
            self._move(TASK, task, group["lr"], momentum, decay)
            self._move(DISTILL, both, group["lr"], momentum + delta, 0.0)
            self._move(DISTILL, distill, group["lr"], momentum, decay)

    def _reached(self, parameters: Sequence[nn.Parameter]) -> tuple[list[nn.Parameter], ...]:
        """Parameters that the task alone reaches, distillation alone, and both."""
        found: dict[tuple[bool, bool], list[nn.Parameter]] = {}
        for parameter in parameters:
            key = self._gradient(TASK, parameter) is not None, self._gradient(DISTILL, parameter) is not None
            found.setdefault(key, []).append(parameter)
        return found.get((True, False), []), found.get((False, True), []), found.get((True, True), [])

    def _gradient(self, group: str, parameter: nn.Parameter) -> Tensor | None:
        assert self.gradients is not None
        own = self.gradients.get(group)
        return None if own is None else own[self._place[id(parameter)]]

    def _move(self, group: str, parameters: list[nn.Parameter], lr: float, momentum: float, decay: float) -> None:
        """One step of SGD along the gradient of a group, with its own buffer."""
        if not parameters:
            return
        sgd(
            [*parameters],
            [gradient for p in parameters if (gradient := self._gradient(group, p)) is not None],
            [self.state[p][group] for p in parameters],
            fused=True, found_inf=getattr(self, "found_inf", None),
            weight_decay=decay, momentum=momentum, lr=lr, dampening=0.0, nesterov=False, maximize=False,
        )  # fmt: skip
