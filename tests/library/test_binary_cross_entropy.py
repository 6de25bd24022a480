"""Labels of which a sample may carry several."""

from __future__ import annotations

import pytest
import torch

from mmkd.errors import GraphError
from mmkd.library.losses.binary_cross_entropy import BinaryCrossEntropy
from mmkd.library.losses.binary_kl import BinaryKL

from . import logit_oracle as oracle
from .test_losses import normal

student, label = normal(5, 6) * 2, (normal(5, 6, seed=1) > 0).double()
loss = BinaryCrossEntropy()


def test_equals_the_sum_over_classes() -> None:
    for row, target, found in zip(student.tolist(), label.tolist(), loss(student, label).tolist(), strict=True):
        assert found == pytest.approx(oracle.binary_cross_entropy(row, target), rel=1e-10)


def test_it_is_the_divergence_from_a_teacher_plus_its_entropy() -> None:
    teacher = normal(5, 6, seed=2)
    own = loss(teacher, teacher.sigmoid())
    torch.testing.assert_close(loss(student, teacher.sigmoid()), BinaryKL()(student, teacher) + own)


def test_gradient() -> None:
    s = student.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: loss(x, label), (s,))
    loss(s, label).sum().backward()
    torch.testing.assert_close(s.grad, student.sigmoid() - label)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_certain_logits_and_an_empty_batch_are_finite(dtype: torch.dtype) -> None:
    s = torch.tensor([[6e4, -6e4], [-6e4, 6e4]], dtype=dtype, requires_grad=True)
    found = loss(s, torch.tensor([[1, 0], [1, 0]]))
    assert found.dtype is torch.float32
    assert found[0] == 0 and found[1] > 1e5
    found.sum().backward()
    assert s.grad is not None and s.grad.isfinite().all()
    assert loss(student[:0], label[:0]).shape == (0,)


def test_sequences_and_class_numbers() -> None:
    both = loss(torch.stack([student, student], 1), torch.stack([label, label], 1))
    torch.testing.assert_close(both, loss(student, label)[:, None].expand(5, 2))
    with pytest.raises(GraphError, match=r"(?s)\[5, 6\] needs a label for each class.*core\.cross_entropy"):
        loss(student, torch.zeros(5))
