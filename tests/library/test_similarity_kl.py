from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from mmkd.errors import GraphError, RecipeError
from mmkd.library.losses.similarity_kl import SimilarityKL, off_diagonal

from . import oracle
from .test_losses import normal, pairs


@pytest.mark.parametrize("symmetric", [True, False])
def test_pairs_equal_the_divergence_written_out(symmetric: bool) -> None:
    values = pairs(5)
    loss = SimilarityKL(0.2, teacher_temperature=0.1, symmetric=symmetric)(values[:2], values[2:])
    s, t, u, v = (x.tolist() for x in values)
    truth = oracle.similarity_kl((s, t), (u, v), (0.2, 0.1), itself=True)
    if symmetric:
        back = oracle.similarity_kl((t, s), (v, u), (0.2, 0.1), itself=True)
        truth = [(there + back) / 2 for there, back in zip(truth, back, strict=True)]
    assert loss.tolist() == pytest.approx(truth, rel=1e-10)


def test_single_values_leave_out_the_sample_itself() -> None:
    student, teacher = normal(5, 6), normal(5, 4, seed=1)
    truth = oracle.similarity_kl(
        (student.tolist(), student.tolist()), (teacher.tolist(), teacher.tolist()), (0.2, 0.2), itself=False
    )
    assert SimilarityKL(0.2)([student], [teacher]).tolist() == pytest.approx(truth, rel=1e-10)
    assert SimilarityKL(0.2)(student, teacher).tolist() == pytest.approx(truth, rel=1e-10)


def test_gradient_is_that_of_the_published_cross_entropy() -> None:
    """open_clip's and TinyCLIP's loss is this one plus the teacher's entropy."""
    image, text, teacher_image, teacher_text = pairs(5)
    image.requires_grad_()
    a = 50 * F.normalize(teacher_image) @ F.normalize(teacher_text).T
    b = 10 * F.normalize(image) @ F.normalize(text).T
    published = (F.cross_entropy(b, a.softmax(1)) + F.cross_entropy(b.T, a.T.softmax(1))) / 2
    ours = SimilarityKL(0.1, teacher_temperature=0.02)([image, text], [teacher_image, teacher_text]).mean()
    torch.testing.assert_close(*(torch.autograd.grad(loss, image)[0] for loss in (ours, published)))


def test_zero_at_equality_and_blind_to_scale_and_rotation() -> None:
    student = normal(5, 6)
    turn, _ = torch.linalg.qr(normal(6, 6, seed=2))
    assert SimilarityKL()([student], [1e3 * student @ turn]).abs().max() < 1e-10
    assert SimilarityKL()([student, student], [student @ turn, 9 * student @ turn]).abs().max() < 1e-10


def test_diagonal_goes() -> None:
    matrix = torch.arange(9).view(3, 3)
    assert off_diagonal(matrix).tolist() == [[1, 2], [3, 5], [6, 7]]
    assert off_diagonal(matrix[:1, :1]).shape == (1, 0)


def test_ports_must_fit() -> None:
    a, b = normal(4, 6), normal(3, 6)
    with pytest.raises(GraphError, match="a pair each, not 2 and 1"):
        SimilarityKL()([a, a], [a])
    with pytest.raises(GraphError, match="4 samples, teacher 3"):
        SimilarityKL()([a], [b])
    with pytest.raises(GraphError, match="4 and 3 samples"):
        SimilarityKL()([a, b], [a, b])
    with pytest.raises(GraphError, match="one width"):
        SimilarityKL()([a, normal(4, 5)], [a, a])
    with pytest.raises(RecipeError, match="teacher_temperature must be greater than 0"):
        SimilarityKL(teacher_temperature=0.0)
