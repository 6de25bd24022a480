"""Kernel machines that teach their successors, each fitted in closed form."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

import mmkd
from mmkd.errors import GraphError, RecipeError
from mmkd.library.encoders.kernel_machine import KernelMachine

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mmkd import TrainingGraph


class KernelRidge(mmkd.Procedure):
    """Self-distillation of kernel ridge regression in closed form (Borup and Andersen, 2021).

    Generation t is the kernel machine that fits `a y + (1 - a) f_{t-1}(X)` best under `ridge` times its squared norm,
    the first one `y`: with `K = V D V'` and `A = D (D + ridge)^-1`, `f_t(X) = V B_t V' y`, `B_1 = A` and
    `B_t = A (a + (1 - a) B_{t-1})`. At `a = 0` each generation shrinks the last one again, `B_t = A^t`, up to nothing;
    with ground truth in its target it ends at ridge regression with the penalty `ridge / a`.

    `alpha: optimal` takes at every step the weight that is best on a share of the samples held out of all fits:
    `f_t = a f_y + (1 - a) f_p` is linear in it, where `f_y` fits y and `f_p` the machine before, so that
    `a = <y - f_p, f_y - f_p> / |f_y - f_p|^2` over those. It may be below 0 or above 1. All this follows from the
    definition; that samples are held out, and which, is ours.

    The recipe has one loss, between the student's `logits` and `y`, which nothing descends. For deep networks the same
    is `core.generations` with the mixer `core.label_mix` as target.

    Args:
        generations: how many machines are fitted, one after the other.
        alpha: weight of the ground truth, or `optimal`.
        ridge: factor of the penalty.
        held_out: share of the training samples that `optimal` compares on.
        teacher: name of the node that the machine before stands in for.
        student: name of the machine.

    Raises:
        RecipeError: there is not one loss alone, or nothing is left to fit.
        GraphError: the student is no kernel machine, or the target has another shape than its output.
    """

    conformance: ClassVar[dict[str, Any]] = {
        "recipe": {"teacher": None, "losses": {"distill": None}},
        "inert": ("alpha", "ridge", "held_out", "student"),  # they matter to the fit, which takes no step
    }

    def __init__(
        self,
        generations: Annotated[int, Field(ge=1)] = 5,
        alpha: float | Literal["optimal"] = "optimal",
        ridge: Annotated[float, Field(gt=0)] = 1e-3,
        held_out: Annotated[float, Field(gt=0, lt=1)] = 0.2,
        teacher: str = "teacher",
        student: str = "student",
    ) -> None:
        self.generations, self.alpha, self.ridge, self.held_out = generations, alpha, ridge, held_out
        self.teacher, self.student = teacher, student

    def stages(self, recipe: mmkd.Recipe) -> list[mmkd.Stage]:
        if len(recipe.losses) != 1:
            raise RecipeError("a fit has one loss, which says what is fitted to what", where="losses")
        if self.generations == 1:
            return [mmkd.Stage("main", recipe)]
        own = {name: getattr(self, name) for name in ("alpha", "ridge", "held_out", "teacher", "student")}
        made = []
        for k in range(1, self.generations + 1):
            patch: dict[str, Any] = {"procedure": {"use": "core.kernel_ridge", "generations": 1, **own}}
            if k > 1:
                before = {"stage": f"generation_{k - 1}.{self.student}"}
                patch |= {"teacher": before} if self.teacher == "teacher" else {"teachers": {self.teacher: before}}
            made.append(mmkd.Stage(f"generation_{k}", recipe.patched(patch)))
        return made

    def fit(self, graph: TrainingGraph, read: Callable[[Sequence[str]], dict[str, Tensor]]) -> None:
        machine = graph.roles[self.student].encoder
        if not isinstance(machine, KernelMachine):
            raise GraphError(
                f"'{self.student}' is {type(machine).__name__}, no kernel machine", where=self.student,
                next="use: core.kernel_machine",
            )  # fmt: skip
        (term,) = graph.terms
        (target,) = [address.key for address, _ in term.binding.readers() if address.node != self.student]
        before = f"{self.teacher}.logits" if self.teacher in graph.roles else None
        x, y, *known = read([f"{self.student}/argument", target, *([before] if before else [])]).values()
        if list(y.shape) != [len(x), machine.coefficients.shape[1]]:
            raise GraphError(
                f"'{target}' is {list(y.shape)}, the machine gives {machine.coefficients.shape[1]} numbers a sample",
                where=term.binding.where, next=f"{self.student}.outputs={y.shape[-1]}",
            )  # fmt: skip
        kept, held = self._split(len(x)) if self.alpha == "optimal" else (slice(None), slice(0))
        machine.fit(x[kept], y[kept], self.ridge)
        if not known:
            return
        (f,) = known
        alpha = self.alpha
        if alpha == "optimal":
            of_y = machine.at(x[held])
            machine.fit(x[kept], f[kept], self.ridge)
            alpha = optimal(y[held], of_y, machine.at(x[held]))
        machine.fit(x[kept], alpha * y[kept].double() + (1 - alpha) * f[kept].double(), self.ridge)

    def _split(self, size: int) -> tuple[Tensor, Tensor]:
        """Samples to fit, and those held out: the same ones in every generation."""
        order = torch.from_numpy(np.random.default_rng(0).permutation(size))
        count = max(1, round(self.held_out * size))
        if count >= size:
            raise RecipeError(f"of {size} samples none is left to fit", where="procedure.held_out")
        return order[count:], order[:count]


def optimal(target: Tensor, of_target: Tensor, of_before: Tensor) -> float:
    """The a for which `a of_target + (1 - a) of_before` is nearest to the target; 1 where the two are the same.

    Shape: all of one shape.
    """
    way = of_target.double() - of_before.double()
    length = way.square().sum()
    return ((target.double() - of_before.double()) * way).sum().div(length).item() if length > 0 else 1.0
