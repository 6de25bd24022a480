from __future__ import annotations

import pytest
import torch

from mmkd.errors import GraphError
from mmkd.library.losses.label_embedding import LabelEmbeddingDistance

from . import logit_oracle as truth
from .golden import agrees
from .test_losses import normal

student, teacher = normal(6, 4, 3), normal(6, 4, 5, seed=1)
label = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 0], [0, 0, 1, 0], [1, 0, 1, 0], [0, 0, 0, 0], [1, 1, 1, 1]])


@pytest.mark.parametrize("weights", [(1.0, 0.0), (0.0, 1.0), (100.0, 1000.0)])
def test_equals_the_sum_over_pairs(weights: tuple[float, float]) -> None:
    expected = truth.label_embedding(student.tolist(), teacher.tolist(), label.tolist(), *weights)
    assert LabelEmbeddingDistance(*weights)(student, teacher, label).tolist() == pytest.approx(expected, rel=1e-9)


def test_blind_to_the_space_that_embeddings_lie_in() -> None:
    turn = torch.linalg.qr(normal(5, 5, seed=2)).Q
    loss = LabelEmbeddingDistance()
    assert loss(3 * teacher @ turn + 1, teacher, label).abs().max() < 1e-8
    assert loss(student, teacher, label).max() > 1


def test_what_no_one_carries_does_not_matter() -> None:
    changed = student + 100 * (1 - label[..., None]) * normal(6, 4, 3, seed=3)
    loss = LabelEmbeddingDistance()
    torch.testing.assert_close(loss(changed, teacher, label), loss(student, teacher, label))
    assert loss(student, teacher, label)[4] == 0
    assert loss(student, teacher, torch.eye(6, 4)).abs().max() == 0


def test_embeddings_that_coincide_keep_the_gradient_finite() -> None:
    same = torch.zeros(6, 4, 3, requires_grad=True)
    LabelEmbeddingDistance()(same, teacher.float(), label).sum().backward()
    assert same.grad is not None
    assert same.grad.isfinite().all()


def test_shapes_must_fit() -> None:
    with pytest.raises(GraphError, match=r"\[6, 4, 3\], \[6, 4, 5\] and \[6, 3\]"):
        LabelEmbeddingDistance()(student, teacher, label[:, :3])


def test_agrees_with_its_authors() -> None:
    """They add up over the batch of six."""
    agrees("l2d_embeddings", lambda o: (LabelEmbeddingDistance(o["class_weight"], o["instance_weight"]), 6.0, 0.0))
