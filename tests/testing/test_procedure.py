"""Procedures that are wrong on purpose, each caught by the probe that is about its fault."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import mmkd
from mmkd.library.procedures.generations import Generations
from mmkd.library.procedures.stages import Stages
from mmkd.testing import ConformanceError, check_procedure

LABEL = {"losses": {"label": {"use": "core.cross_entropy", "student": "student.logits"}}}


class TwoMomenta(torch.optim.Optimizer):
    """A buffer for each group of gradients."""

    gradients: dict[str, list[Tensor | None]]

    def __init__(self, parameters: Sequence[nn.Parameter], lr: float, momenta: dict[str, float]) -> None:
        super().__init__(parameters, {"lr": lr})
        self.momenta = momenta

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for i, parameter in enumerate(group["params"]):
                for name, momentum in self.momenta.items():
                    gradient = self.gradients[name][i]
                    if gradient is not None:
                        buffer = self.state[parameter].setdefault(name, torch.zeros_like(parameter))
                        parameter -= group["lr"] * buffer.mul_(momentum).add_(gradient)


class Apart(mmkd.Procedure):
    """Sound: keeps two groups apart.

    Args:
        slow: momentum of what distils.
    """

    def __init__(self, slow: float = 0.9) -> None:
        self.slow = slow

    def groups(self, losses: Sequence[str]) -> dict[str, list[str]]:
        return {"distil": [n for n in losses if n == "distill"], "rest": [n for n in losses if n != "distill"]}

    def optimizer(self, parameters: Sequence[nn.Parameter], train: Any) -> torch.optim.Optimizer:
        return TwoMomenta(parameters, train.lr, {"distil": self.slow, "rest": 0.5})


class Forgetful(Apart):
    def groups(self, losses: Sequence[str]) -> dict[str, list[str]]:
        return {"distil": [n for n in losses if n == "distill"]}


class Double(Apart):
    def groups(self, losses: Sequence[str]) -> dict[str, list[str]]:
        return {"distil": list(losses), "rest": [n for n in losses if n != "distill"]}


class Partial(Apart):
    def optimizer(self, parameters: Sequence[nn.Parameter], train: Any) -> torch.optim.Optimizer:
        return TwoMomenta(parameters[:1], train.lr, {"distil": self.slow, "rest": 0.5})


class Amnesiac(Apart):
    def optimizer(self, parameters: Sequence[nn.Parameter], train: Any) -> torch.optim.Optimizer:
        made = super().optimizer(parameters, train)
        kept: dict[Any, Any] = {}

        def step(closure: Any = None) -> None:
            made.state.clear()
            made.state.update(kept)
            TwoMomenta.step(made)  # type: ignore[arg-type]
            kept.update(made.state)
            made.state.clear()

        made.step = step  # type: ignore[method-assign]
        return made


class NoOptimizer(Apart):
    def optimizer(self, parameters: Sequence[nn.Parameter], train: Any) -> Any:
        return object()


class Idle(Apart):
    """Keeps two groups apart.

    Args:
        slow: momentum of what distils.
        unused: nothing reads it.
    """

    def __init__(self, slow: float = 0.9, unused: float = 1.0) -> None:
        super().__init__(slow)


class Drawing(Generations):
    def stages(self, recipe: mmkd.Recipe) -> list[mmkd.Stage]:
        return super().stages(recipe.patched({"train": {"seed": random.randrange(1000)}}))


class Counting(Generations):
    made = 0

    def stages(self, recipe: mmkd.Recipe) -> list[mmkd.Stage]:
        Counting.made += 1
        return [mmkd.Stage(f"stage_{Counting.made}", recipe.patched({}))]


class Backwards(Generations):
    def stages(self, recipe: mmkd.Recipe) -> list[mmkd.Stage]:
        return super().stages(recipe)[::-1]


class Frozen(mmkd.Procedure):
    def stages(self, recipe: mmkd.Recipe) -> list[mmkd.Stage]:
        return [mmkd.Stage("nothing", recipe.patched({"student": {"frozen": True}}))]


class Nothing(mmkd.Procedure):
    def stages(self, recipe: mmkd.Recipe) -> list[mmkd.Stage]:
        return []


class Twins(mmkd.Procedure):
    def stages(self, recipe: mmkd.Recipe) -> list[mmkd.Stage]:
        return [mmkd.Stage("one", recipe.patched({})), mmkd.Stage("one", recipe.patched({}))]


CASES = [
    (Forgetful, "groups_cover"),
    (Double, "groups_cover"),
    (Partial, "optimizer_owns"),
    (NoOptimizer, "optimizer_owns"),
    (Amnesiac, "optimizer_resumes"),
    (Idle, "options_matter"),
    (Drawing, "pure"),
    (Counting, "pure"),
    (Backwards, "runs"),
    (Frozen, "stages_train"),
    (Nothing, "runs"),
    (Twins, "runs"),
]


@pytest.mark.parametrize(("cls", "probe"), CASES, ids=[cls.__name__ for cls, _ in CASES])
def test_caught(cls: type, probe: str) -> None:
    with pytest.raises(ConformanceError) as caught:
        check_procedure(cls)
    assert probe in [failure.probe for failure in caught.value.failures]


def test_no_false_alarm() -> None:
    assert {"groups_cover", "optimizer_owns", "optimizer_resumes", "options_matter"} <= set(check_procedure(Apart))
    assert "stages_train" in check_procedure(Generations)
    assert "pure" in check_procedure(Stages, options={"stages": {"labels": LABEL, "both": {}}})
