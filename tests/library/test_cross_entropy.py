from __future__ import annotations

import math

import pytest
import torch

from mmkd.errors import GraphError
from mmkd.library.losses.cross_entropy import CrossEntropy

from . import oracle
from .test_losses import normal


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_equals_the_sum_over_classes(smoothing: float) -> None:
    student, label = normal(4, 3, 5), torch.randint(5, (4, 3), generator=torch.Generator().manual_seed(0))
    loss = CrossEntropy(smoothing)(student, label)
    truth = [
        [oracle.cross_entropy(student[b, t].tolist(), int(label[b, t]), smoothing) for t in range(3)] for b in range(4)
    ]
    torch.testing.assert_close(loss, torch.tensor(truth, dtype=torch.float64), rtol=1e-10, atol=0)


def test_ignored_positions_cost_nothing() -> None:
    student = normal(3, 5).requires_grad_()
    loss = CrossEntropy(label_smoothing=0.1, ignore_index=-1)(student, torch.tensor([2, -1, 0]))
    loss.sum().backward()
    assert student.grad is not None
    assert loss[1] == 0
    assert (student.grad[1] == 0).all()
    assert (student.grad[0] != 0).all()


def test_class_that_cannot_be() -> None:
    student = torch.tensor([[0.0, 1.0, -math.inf], [0.0, 1.0, -math.inf]], requires_grad=True)
    loss = CrossEntropy()(student, torch.tensor([0, 2]))
    assert loss[0].item() == pytest.approx(math.log(1 + math.e))
    assert loss[1] == math.inf
    loss[0].backward()
    assert student.grad is not None
    assert student.grad.isfinite().all()


def test_label_must_fit() -> None:
    with pytest.raises(GraphError, match=r"needs a label \[4\], not \[3\]"):
        CrossEntropy()(normal(4, 5), torch.zeros(3, dtype=torch.long))
