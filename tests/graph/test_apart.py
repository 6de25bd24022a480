"""Gradients of groups of losses reach the optimiser apart, for any procedure that asks for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from graph.nets import KD, batch, build
from torch import Tensor, nn

import mmkd
from mmkd.errors import GraphError
from mmkd.graph.training_graph import TrainingGraph

LOSSES = {
    **KD,
    "label": {"use": "core.cross_entropy", "student": "student.logits", "weight": 0.5},
    "hint": {"use": "core.mse", "student": "up", "teacher": "teacher/1"},
}
PROJECTORS = {"up": {"use": "core.linear", "input": "detach(student/1)", "like": "teacher/1"}}


class Noting(torch.optim.SGD):
    """Keeps what it is handed."""

    gradients: Mapping[str, Sequence[Tensor | None]]

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        self.seen = {group: [None if g is None else g.clone() for g in own] for group, own in self.gradients.items()}
        super().step(closure)


class Apart(mmkd.Procedure):
    """Teacher and label apart, the hint a third."""

    def __init__(self, groups: Mapping[str, Sequence[str]]) -> None:
        self.own = groups

    def groups(self, losses: Sequence[str]) -> Mapping[str, Sequence[str]]:
        return self.own

    def optimizer(self, parameters: Sequence[nn.Parameter], train: mmkd.Train) -> torch.optim.Optimizer:
        return Noting(parameters, lr=train.lr)


GROUPS = {"teacher": ["kd"], "label": ["label"], "hint": ["hint"]}


def apart(groups: Mapping[str, Sequence[str]] = GROUPS) -> TrainingGraph:
    torch.manual_seed(0)
    graph = build(LOSSES, projectors=PROJECTORS)
    graph.procedure = Apart(groups)
    return graph.setup(batch())


def test_any_optimiser_finds_each_groups_gradients_and_their_sum() -> None:
    graph = apart()
    train = mmkd.Train(steps=10, lr=0.1)
    optimizers = mmkd.optimizers(graph, train)
    optimizer = optimizers["main"]
    assert isinstance(optimizer, Noting)
    parameters = graph.phases[-1].parameters
    out = graph(batch())
    weighted = {"teacher": out["kd_loss"], "label": 0.5 * out["label_loss"], "hint": out["hint_loss"]}
    expected = {
        name: torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
        for name, loss in weighted.items()
    }
    out = graph.step(batch(), optimizers)
    assert list(optimizer.seen) == list(GROUPS)
    for name, own in expected.items():
        for found, right in zip(optimizer.seen[name], own, strict=True):
            assert (found is None) == (right is None)
            if found is not None:
                torch.testing.assert_close(found, right)
    assert [g is None for g in optimizer.seen["hint"]] == [g is not None for g in optimizer.seen["teacher"]]
    for parameter, *own in zip(parameters, *expected.values(), strict=True):
        torch.testing.assert_close(parameter.grad, torch.stack([g for g in own if g is not None]).sum(0))
    assert not hasattr(optimizer, "gradients")
    torch.testing.assert_close(out["loss"], torch.stack([*weighted.values()]).sum())


def test_the_step_is_that_of_the_sum() -> None:
    plain = build(LOSSES, projectors=PROJECTORS)
    graph = apart()
    graph.load_state_dict(plain.state_dict())
    plain.step(batch(), {"main": torch.optim.SGD(plain.phases[-1].parameters, lr=0.1)}, max_grad_norm=0.01)
    graph.step(batch(), mmkd.optimizers(graph, mmkd.Train(steps=10, lr=0.1)), max_grad_norm=0.01)
    for a, b in zip(plain.parameters(), graph.parameters(), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    ("groups", "said"),
    [
        ({"a": ["kd", "label"]}, "loss 'hint' is in 0 groups of gradients"),
        ({"a": ["kd", "label"], "b": ["hint", "kd"]}, "loss 'kd' is in 2 groups of gradients"),
        ({"a": ["kd", "label", "hints"]}, "there is no loss 'hints'; did you mean 'hint'"),
    ],
)
def test_every_loss_is_in_one_group(groups: Mapping[str, Sequence[str]], said: str) -> None:
    with pytest.raises(GraphError, match=said):
        apart(groups)


def test_a_group_without_a_gradient_is_none() -> None:
    torch.manual_seed(0)
    losses = {**KD, "fixed": {"use": "core.mse", "student": "teacher.logits", "teacher": "teacher.logits"}}
    graph = build(losses)
    graph.procedure = Apart({"empty": ["fixed"], "teacher": ["kd"], "nothing": []})
    graph.setup(batch())
    optimizers = mmkd.optimizers(graph, mmkd.Train(steps=10, lr=0.1))
    graph.step(batch(), optimizers)
    optimizer: Any = optimizers["main"]
    assert list(optimizer.seen) == ["empty", "teacher"] and optimizer.seen["empty"] == [None] * 4
