from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from mmkd import Loss
from mmkd.errors import GraphError
from mmkd.library.losses.norm_direction import NormDirection

from . import logit_oracle as truth
from .golden import agrees
from .test_losses import normal

label = torch.tensor([0, 1, 2, 2, 1, 0])


def ready(classes: int = 3, width: int = 4) -> NormDirection:
    loss = NormDirection(classes)
    loss.setup(student=torch.Size((6, width)), teacher=torch.Size((6, width)), label=torch.Size((6,)))
    return loss


def taught(features: Tensor, labels: Tensor) -> NormDirection:
    loss = ready().double()
    loss.update(teacher=features, label=labels)
    return loss


def test_equals_the_projection() -> None:
    student, teacher = normal(6, 4), normal(6, 4, seed=1)
    loss = taught(teacher, label)
    for i, value in enumerate(loss(student, teacher, label).tolist()):
        mean = teacher[label == label[i]].mean(0).tolist()
        assert value == pytest.approx(truth.nd(student[i].tolist(), teacher[i].tolist(), mean), rel=1e-9)


def test_means_are_those_of_all_features_seen_however_they_were_split() -> None:
    features, labels = normal(40, 4) * 100, torch.arange(40) % 3
    whole, parts = taught(features, labels), ready().double()
    for i in range(0, 40, 7):
        parts.update(teacher=features[i : i + 7], label=labels[i : i + 7])
    torch.testing.assert_close(parts.means, whole.means)
    torch.testing.assert_close(whole.means[1], features[labels == 1].mean(0))
    assert parts.counts.tolist() == [14, 13, 13]


def test_zero_only_along_the_mean_and_no_shorter_than_the_teacher() -> None:
    teacher = normal(6, 4)
    loss = taught(teacher, label)
    along = torch.nn.functional.normalize(loss.means[label], dim=1) * teacher.norm(dim=1, keepdim=True)
    assert loss(along, teacher, label).abs().max() < 1e-12
    assert loss(5 * along, teacher, label).abs().max() < 1e-12
    torch.testing.assert_close(loss(0.25 * along, teacher, label), torch.full((6,), 0.75, dtype=torch.float64))
    assert (loss(along + normal(6, 4, seed=2), teacher, label) > 1e-3).all()


def test_a_long_feature_is_turned_and_not_stretched() -> None:
    teacher = normal(6, 4)
    loss = taught(teacher, label)
    for factor, stretched in ((0.1, True), (100.0, False)):
        student = (normal(6, 4, seed=2) * factor).requires_grad_()
        loss(student, teacher, label).sum().backward()
        assert student.grad is not None
        radial = (student.grad * student).sum(1).abs() / student.norm(dim=1)
        assert bool((radial > 1e-4).all()) == stretched


def test_a_class_that_was_never_seen_costs_nothing() -> None:
    student, teacher = normal(6, 4).requires_grad_(), normal(6, 4, seed=1)
    loss = taught(teacher[label == 1], label[label == 1])
    value = loss(student, teacher, label)
    assert value[label != 1].abs().max() == 0 and (value[label == 1] > 0).all()
    value.sum().backward()
    assert student.grad is not None
    assert student.grad[label != 1].abs().max() == 0


def test_forward_changes_nothing_and_state_is_saved() -> None:
    teacher = normal(6, 4)
    loss = taught(teacher, label)
    before = {name: value.clone() for name, value in loss.state_dict().items()}
    loss(normal(6, 4, seed=1), teacher, label)
    assert set(before) == {"means", "counts"}
    assert all(torch.equal(value, loss.state_dict()[name]) for name, value in before.items())


def test_setup_comes_first() -> None:
    with pytest.raises(GraphError, match="has no class means"):
        NormDirection()(normal(2, 4), normal(2, 4), torch.tensor([0, 1]))


def test_agrees_with_its_authors() -> None:
    def make(o: dict[str, Any]) -> tuple[Loss, float, float]:
        return taught(torch.tensor(o["means"], dtype=torch.float64), torch.arange(3)), 1.0, 0.0

    agrees("nd", make)
