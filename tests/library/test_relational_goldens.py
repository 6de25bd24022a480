"""Ours against what the authors' code gave, with the factors that the docstrings name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mmkd import Loss
from mmkd.library.losses.contrastive_gradient import ContrastiveGradient
from mmkd.library.losses.correlation_congruence import CorrelationCongruence
from mmkd.library.losses.crd import ContrastiveRepresentation
from mmkd.library.losses.ickd import InterChannelCorrelation
from mmkd.library.losses.minilm import RelationTransfer
from mmkd.library.losses.nst import NeuronSelectivity
from mmkd.library.losses.pkt import ProbabilisticTransfer
from mmkd.library.losses.rkd import RelationalAngle, RelationalDistance
from mmkd.library.losses.similarity_kl import SimilarityKL
from mmkd.library.losses.similarity_preserving import SimilarityPreserving
from tests.goldens import cases


def rkd(form: str) -> Callable[..., Tensor]:
    loss: Loss = RelationalDistance() if form == "distance" else RelationalAngle()
    return lambda student, teacher: loss(student, teacher).mean()


def pkt() -> Callable[..., Tensor]:
    loss = ProbabilisticTransfer(include_self=True)
    return lambda student, teacher: loss(student, teacher).mean() / len(student)


def mean_of(loss: Loss) -> Callable[..., Tensor]:
    return lambda **values: loss(**values).mean()


def clip_kd(loss: str, **options: Any) -> Callable[..., Tensor]:
    ours: Loss = ContrastiveGradient(**options) if loss == "gd" else SimilarityKL(**options)

    def function(student_image: Tensor, student_text: Tensor, teacher_image: Tensor, teacher_text: Tensor) -> Tensor:
        value = ours([student_image, student_text], [teacher_image, teacher_text]).mean()
        return value / len(student_image) ** 2 / student_image.shape[1] if loss == "gd" else value

    return function


def minilm(relation_heads: int) -> Callable[..., Tensor]:
    loss = RelationTransfer(relation_heads)

    def function(mask: Tensor, **values: Tensor) -> Tensor:
        student, teacher = ([values[f"{x}_{side}"] for x in "qkv"] for side in "st")
        return loss(student, teacher, mask).mean()

    return function


METHODS: dict[str, Callable[..., Callable[..., Tensor]]] = {
    "rkd": rkd,
    "cc": lambda **options: mean_of(CorrelationCongruence(**options)),
    "cc_successive": lambda **options: mean_of(CorrelationCongruence(**options)),
    "similarity_preserving": lambda: mean_of(SimilarityPreserving()),
    "pkt": pkt,
    "nst": lambda: mean_of(NeuronSelectivity()),
    "ickd": lambda: mean_of(InterChannelCorrelation()),
    "clip_kd": clip_kd,
    "minilm": minilm,
}


@pytest.mark.parametrize("method", METHODS)
def test_value_and_gradient_are_the_authors(method: str) -> None:
    for options, inputs, output, gradients in cases(method):
        leaves = {k: v.requires_grad_(v.is_floating_point()) for k, v in inputs.items()}
        value = METHODS[method](**options)(**leaves)
        torch.testing.assert_close(value, output.squeeze(), rtol=1e-5, atol=1e-8)
        value.backward()
        students = [name for name in gradients if name.startswith("student") or name.endswith("_s")]
        assert students
        for name in students:  # some of theirs stop parts of the teacher's gradient
            torch.testing.assert_close(leaves[name].grad, gradients[name], rtol=1e-5, atol=1e-7)


def test_crd_is_the_authors_at_their_first_step() -> None:
    """Their partners come from the bank and send no gradient, so only the value can be compared."""
    for options, inputs, output, _ in cases("crd"):
        size, dim = inputs["bank"].shape[1:]
        loss = ContrastiveRepresentation(dim, size, **options)
        loss.setup(inputs["student"].shape, inputs["teacher"].shape)
        loss.double()
        for head, weights in zip(loss.heads, (inputs["weights_s"], inputs["weights_t"]), strict=True):
            assert isinstance(head, nn.Linear)
            head.weight.data, head.bias.data = weights, torch.zeros_like(head.bias)
        bank = torch.nn.functional.normalize(inputs["bank"], dim=2)
        loss.bank.copy_(bank)
        loss.update(inputs["student"], inputs["teacher"])  # fixes the normaliser as they do
        loss.bank.copy_(bank)
        torch.testing.assert_close(
            loss(inputs["student"], inputs["teacher"]).mean(), output.squeeze(), rtol=1e-5, atol=0
        )
