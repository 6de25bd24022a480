from __future__ import annotations

import math

import pytest
import torch

from mmkd.library.losses.cross_entropy import CrossEntropy
from mmkd.library.losses.virtual_teacher import VirtualTeacherKL

from . import logit_oracle as truth
from .golden import agrees
from .test_losses import normal

student, label = normal(5, 6) * 2, torch.tensor([0, 5, 2, 2, 3])


@pytest.mark.parametrize("logarithms", [False, True])
@pytest.mark.parametrize(("confidence", "temperature"), [(0.99, 20.0), (0.8, 1.0)])
def test_equals_the_sum_over_classes(confidence: float, temperature: float, logarithms: bool) -> None:
    loss = VirtualTeacherKL(confidence, temperature, "logarithms" if logarithms else "probabilities")(student, label)
    for i, y in enumerate(label.tolist()):
        teacher = truth.peaked(confidence, y, 6)
        softened = truth.soft([math.log(x) for x in teacher] if logarithms else teacher, temperature)
        expected = truth.divergence(softened, truth.soft(student[i].tolist()))
        assert loss[i].item() == pytest.approx(expected, rel=1e-9)


def test_unsoftened_it_is_label_smoothing_but_for_a_constant() -> None:
    smooth = CrossEntropy(label_smoothing=0.1 * 6 / 5)(student, label)
    gap = smooth - VirtualTeacherKL(0.9, 1.0, "logarithms")(student, label)
    torch.testing.assert_close(gap, torch.full_like(gap, truth.entropy(truth.peaked(0.9, 0, 6))))


def test_hot_limit_knows_no_label() -> None:
    loss = VirtualTeacherKL(temperature=1e9)
    torch.testing.assert_close(loss(student, label), loss(student, (label + 1) % 6))
    assert not torch.allclose(VirtualTeacherKL()(student, label), VirtualTeacherKL()(student, (label + 1) % 6))


def test_agrees_with_its_authors() -> None:
    """They average over the six classes too."""
    agrees("tf_kd", lambda o: (VirtualTeacherKL(temperature=o["temperature"]), 1 / 6, 0.0))
