"""e2KD: the student's GradCAM against the teacher's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import mmkd
from mmkd.errors import GraphError
from mmkd.library.losses.explanation import ExplanationMatch, GivenExplanation, gradcam
from mmkd.testing import check_loss
from tests.library import feature_oracle as oracle
from tests.library.test_feature_losses import normal


def head(features: Tensor, weight: Tensor) -> Tensor:
    """Not linear in the features, so that the second derivative matters."""
    return features.square().mean((2, 3)) @ weight.T


def test_gradcam_is_that_of_the_slow_formula() -> None:
    features, weight, label = normal(2, 3, 2, 2).requires_grad_(), normal(4, 3, seed=1), torch.tensor([3, 1])
    cam = gradcam(head(features, weight), features, label, "features")
    for i in range(2):
        gradient = (2 * features[i] / 4 * weight[label[i]][:, None, None]).tolist()
        expected = oracle.gradcam(features[i].tolist(), gradient)
        assert cam[i].flatten().tolist() == pytest.approx(expected, rel=1e-9)


def test_gradient_of_the_gradient() -> None:
    weight, teacher, explanation = normal(4, 3, seed=1), normal(2, 4, seed=2), normal(2, 3, 3, seed=3).abs()

    def function(source: Tensor, weight: Tensor) -> Tensor:
        features = (source @ source.mT + source).tanh() + 1.5  # away from the corner of the ReLU
        value: Tensor = GivenExplanation()(head(features, weight), features, teacher, explanation)
        return value

    assert torch.autograd.gradcheck(function, (normal(2, 3, 3, 3).requires_grad_(), weight.requires_grad_()))


def test_the_teacher_is_explained_as_the_student_is() -> None:
    features, weight = normal(3, 5, 4, 4).requires_grad_(), normal(6, 5, seed=1)
    logits = head(features, weight)
    assert ExplanationMatch()(logits, features, logits, features).abs().max() < 1e-12
    other, own = normal(3, 7, 2, 2, seed=2).requires_grad_(), normal(6, 7, seed=3)
    teacher = head(other, own)
    label = teacher.argmax(1)
    explanation = gradcam(teacher, other, label, "").detach()
    given = GivenExplanation()(logits, features, teacher, 7 * explanation[:, None])
    value = ExplanationMatch()(logits, features, teacher, other)
    torch.testing.assert_close(value, given)
    assert given.max() > 0.1
    small = F.adaptive_avg_pool2d(gradcam(logits, features, label, ""), 2).flatten(1)
    torch.testing.assert_close(given, 1 - F.cosine_similarity(small, explanation.flatten(1)))
    value.sum().backward()
    assert other.grad is None and features.grad is not None


def test_a_linear_head_needs_no_derivative() -> None:
    """`g_c` is then a weight of the classifier: the closed form, up to a factor that the cosine does not see."""
    features, weight = normal(3, 5, 4, 4).requires_grad_(), normal(6, 5, seed=1)
    label = torch.tensor([0, 3, 5])
    cam = gradcam(features.mean((2, 3)) @ weight.T, features, label, "")
    torch.testing.assert_close(16 * cam, (weight[label][:, :, None, None] * features).sum(1).relu())


@pytest.mark.parametrize("size", [0, 1])
def test_small_batches_and_zeros(size: int) -> None:
    features = normal(size, 3, 2, 2).requires_grad_()
    logits = head(features, normal(4, 3, seed=1))
    value = GivenExplanation()(logits, features, normal(size, 4, seed=2), torch.zeros(size, 2, 2))
    assert value.tolist() == [1.0] * size
    value.sum().backward()
    assert features.grad is not None and features.grad.isfinite().all()


def test_samples_do_not_see_each_other() -> None:
    def loss(rows: slice) -> Tensor:
        features = normal(4, 3, 2, 2)[rows].requires_grad_()
        teacher, explanation = normal(4, 4, seed=2)[rows], normal(4, 2, 2, seed=3).abs()[rows]
        value: Tensor = GivenExplanation()(head(features, normal(4, 3, seed=1)), features, teacher, explanation)
        return value

    torch.testing.assert_close(torch.cat([loss(slice(0, 2)), loss(slice(2, 4))]), loss(slice(0, 4)))


def test_what_cannot_be_explained_is_an_error() -> None:
    features, teacher = normal(2, 3, 2, 2).requires_grad_(), normal(2, 4, seed=2)
    logits, explanation = head(features, normal(4, 3, seed=1)), torch.ones(2, 2, 2)
    loss = GivenExplanation()
    for student, tap in ((logits, features.clone()), (logits, features.detach()), (logits.detach(), features)):
        with pytest.raises(GraphError, match="features: the logits do not come from these features"):
            loss(student, tap, teacher, explanation)
    with pytest.raises(GraphError, match="teacher_features: the logits do not come from these features"):
        ExplanationMatch()(logits, features, logits.detach(), features)
    with pytest.raises(GraphError, match=r"\[B, H, W\]"):
        loss(logits, features, teacher, torch.ones(2, 4))
    with pytest.raises(GraphError, match=r"needs logits \[B, C\] twice"):
        loss(logits, features, teacher[:, :2], explanation)
    with pytest.raises(GraphError, match=r"needs a feature map \[B, E, G, V\]"):
        ExplanationMatch()(logits, features, logits, features.flatten(1))


@pytest.mark.parametrize("loss", [ExplanationMatch, GivenExplanation])
def test_the_kit_finds_nothing(loss: type[mmkd.Loss]) -> None:
    check_loss(loss)


class Net(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.stage = nn.Sequential(nn.Conv2d(2, width, 3, padding=1), nn.ReLU())
        self.fc = nn.Linear(width, 2)

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.stage(image).mean((2, 3)))
        return logits


def test_graph_trains_the_student_to_look_where_the_teacher_looks() -> None:
    """The label is told by a bar and by a spot: a teacher that sees the bar alone, and a student that sees both."""
    generator = torch.Generator().manual_seed(0)
    label = torch.randint(0, 2, (48,), generator=generator)
    image = 0.1 * torch.randn(48, 2, 8, 8, generator=generator)
    for x, y in zip(image, label, strict=True):
        (x[0, :, 5] if y else x[0, 5, :]).add_(1)
    plain = image.clone()
    image[:, 1, 0, 0] += 4.0 * label

    def fit(net: nn.Module, loss: Callable[[], Tensor]) -> None:
        optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
        for _ in range(40):
            optimizer.zero_grad()
            loss().backward()
            optimizer.step()

    torch.manual_seed(0)
    teacher = Net(8)
    fit(teacher, lambda: F.cross_entropy(teacher(plain), label))
    losses: dict[str, Any] = {
        "task": {"use": "core.cross_entropy", "student": "student.logits"},
        "why": {
            "use": "core.e2kd", "student": "student.logits", "features": "student/stage", "teacher": "teacher.logits",
            "teacher_features": "teacher/stage",
        },
    }  # fmt: skip
    batch, distance = {"image": image, "label": label}, {}
    for weight in (0.0, 1.0):
        torch.manual_seed(1)
        nets = {"teacher": teacher, "student": Net(8)}
        losses["why"]["weight"] = weight
        graph = mmkd.build(
            {"teacher": {"use": "local.net"}, "student": {"use": "local.net"}, "losses": losses},
            nodes={name: mmkd.wrap(net, inputs=["image"], outputs="logits") for name, net in nets.items()},
            example=batch,
        )
        fit(nets["student"], lambda graph=graph: graph(batch)["loss"])  # type: ignore[misc]
        out = graph(batch)
        distance[weight] = out["why_loss"].item()
        assert out["task_loss"] < 0.5
    assert distance[1.0] < 0.8 * distance[0.0]
