from __future__ import annotations

import pytest
import torch

from mmkd.errors import GraphError
from mmkd.library.losses.decoupled import DecoupledKL
from mmkd.library.losses.kl import KLDivergence

from . import logit_oracle as truth
from .golden import agrees
from .test_losses import normal

student, teacher, label = normal(5, 6) * 3, normal(5, 6, seed=1) * 3, torch.tensor([0, 5, 2, 2, 3])


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_equals_the_two_sums(temperature: float) -> None:
    loss = DecoupledKL(0.7, 3.0, temperature)(student, teacher, label)
    for i in range(5):
        value = truth.dkd(student[i].tolist(), teacher[i].tolist(), int(label[i]), 0.7, 3.0, temperature)
        assert loss[i].item() == pytest.approx(value, rel=1e-9)


def test_kl_is_the_first_part_and_what_the_teacher_leaves_of_the_second() -> None:
    """The paper's identity: without a weight of its own, the second part is scaled by `1 - p_label`."""
    target = DecoupledKL(1.0, 0.0, 2.0)(student, teacher, label)
    rest = DecoupledKL(0.0, 1.0, 2.0)(student, teacher, label)
    unsure = 1 - (teacher / 2).softmax(1).gather(1, label[:, None])[:, 0]
    torch.testing.assert_close(target + unsure * rest, KLDivergence(2.0)(student, teacher))


def test_each_weight_switches_its_part_off() -> None:
    moved = student.clone()
    moved[torch.arange(5), label] += 1.0  # the rest keeps its distribution
    rest = DecoupledKL(alpha=0)
    torch.testing.assert_close(rest(moved, teacher, label), rest(student, teacher, label))
    assert not torch.allclose(DecoupledKL()(moved, teacher, label), DecoupledKL()(student, teacher, label))
    assert DecoupledKL(0, 0)(student, teacher, label).abs().max() == 0


def test_a_sure_teacher_still_teaches_the_rest() -> None:
    """Where the label has probability one to float precision, KL sees nothing of the others."""
    s, sure = student.float(), teacher.float()
    sure[torch.arange(5), label] = 200
    s[torch.arange(5), label] = 200
    assert KLDivergence()(s, sure).abs().max() == 0
    assert (DecoupledKL(temperature=1.0)(s, sure, label) > 0.1).all()


def test_standardized_logits_lose_their_size() -> None:
    loss = DecoupledKL(standardize=True)
    torch.testing.assert_close(
        loss(5 * student - 3, teacher, label), loss(student, teacher, label), rtol=1e-6, atol=1e-9
    )


def test_one_class_is_refused() -> None:
    with pytest.raises(GraphError, match="two classes at least"):
        DecoupledKL()(normal(2, 1), normal(2, 1), torch.tensor([0, 0]))


def test_agrees_with_its_authors() -> None:
    agrees("dkd", lambda o: (DecoupledKL(o["alpha"], o["beta"], o["temperature"]), 1.0, 0.0))
