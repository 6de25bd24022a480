"""What holds for every loss of `core`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from mmkd import Loss
from mmkd.errors import RecipeError
from mmkd.library.losses.cosine import CosineDistance
from mmkd.library.losses.cross_entropy import CrossEntropy
from mmkd.library.losses.info_nce import InfoNCE
from mmkd.library.losses.kl import KLDivergence
from mmkd.library.losses.mse import MeanSquaredError
from mmkd.library.losses.similarity_kl import SimilarityKL
from mmkd.signature import construct

Inputs = list[Tensor]


def normal(size: int, *rest: int, seed: int = 0) -> Tensor:
    return torch.randn(size, *rest, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def features(*rest: int) -> Callable[[int], Inputs]:
    return lambda size: [normal(size, *rest), normal(size, *rest, seed=1)]


def labelled(size: int) -> Inputs:
    return [normal(size, 6), torch.arange(size) % 6]


def pairs(size: int) -> Inputs:
    return [normal(size, 6), normal(size, 6, seed=1), normal(size, 5, seed=2), normal(size, 5, seed=3)]


class Paired(SimilarityKL):
    """Takes its pairs as four values, like the other losses here."""

    def forward(self, *values: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(list(values[:2]), list(values[2:]))


CASES: dict[str, tuple[Loss, Callable[[int], Inputs]]] = {
    "kl": (KLDivergence(2.0), features(6)),
    "kl tokens": (KLDivergence(0.5), features(3, 6)),
    "mse": (MeanSquaredError(), features(6)),
    "mse tokens": (MeanSquaredError(), features(3, 6)),
    "mse map": (MeanSquaredError(), features(3, 2, 2)),
    "cosine": (CosineDistance(), features(6)),
    "cosine tokens": (CosineDistance(), features(3, 6)),
    "cosine map": (CosineDistance(), features(3, 2, 2)),
    "cross_entropy": (CrossEntropy(label_smoothing=0.1), labelled),
    "info_nce": (InfoNCE(), features(6)),
    "info_nce one way": (InfoNCE(symmetric=False), features(6)),
    "info_nce learnable": (InfoNCE(learnable=True), features(6)),
    "similarity_kl pair": (Paired(0.1, teacher_temperature=0.05), pairs),
    "similarity_kl single": (SimilarityKL(0.1), features(6)),
}
every = pytest.mark.parametrize(("loss", "inputs"), CASES.values(), ids=CASES.keys())


@every
def test_gradient_is_that_of_the_value(loss: Loss, inputs: Callable[[int], Inputs]) -> None:
    values = [v.requires_grad_() if v.is_floating_point() else v for v in inputs(4)]
    assert torch.autograd.gradcheck(loss, values)


@every
def test_order_of_samples_does_not_matter(loss: Loss, inputs: Callable[[int], Inputs]) -> None:
    order = torch.tensor([2, 0, 3, 4, 1])
    shuffled = loss(*(v[order] for v in inputs(5)))
    torch.testing.assert_close(shuffled, loss(*inputs(5))[order], rtol=1e-10, atol=1e-10)


@every
def test_only_a_coupled_loss_sees_other_samples(loss: Loss, inputs: Callable[[int], Inputs]) -> None:
    values = inputs(6)
    apart = torch.cat([loss(*(v[i : i + 2] for v in values)) for i in (0, 2, 4)])
    assert torch.allclose(apart, loss(*values), rtol=1e-10, atol=1e-10) != loss.coupled


@every
@pytest.mark.parametrize("size", [0, 1])
def test_smallest_batches_are_finite_and_keep_the_graph(loss: Loss, inputs: Callable[[int], Inputs], size: int) -> None:
    values = [v.requires_grad_() if v.is_floating_point() else v for v in inputs(size)]
    value = loss(*values)
    assert value.shape[0] == size
    assert value.isfinite().all()
    value.sum().backward()
    gradient = values[0].grad
    assert gradient is not None
    assert gradient.isfinite().all()
    if size == 1 and loss.min_batch == 2:
        assert value.item() == pytest.approx(0, abs=1e-12)
        assert gradient.abs().max() < 1e-12


@every
def test_halves_are_computed_in_float32(loss: Loss, inputs: Callable[[int], Inputs]) -> None:
    values = [v.sign() * 6e4 if v.is_floating_point() else v for v in inputs(4)]
    halves = [v.half().requires_grad_() if v.is_floating_point() else v for v in values]
    result = loss(*halves)
    assert result.dtype == torch.float32
    assert result.isfinite().all()
    wide = loss(*(v.double() if v.is_floating_point() else v for v in halves)).double()
    torch.testing.assert_close(result.double(), wide, rtol=1e-5, atol=1e-5)
    scale = 1e-5 if isinstance(loss, MeanSquaredError) else 1.0  # its own gradient does not fit float16
    (result.mean() * scale).backward()
    assert all(v.grad.isfinite().all() for v in halves if v.grad is not None)


@every
def test_float32_is_near_float64(loss: Loss, inputs: Callable[[int], Inputs]) -> None:
    narrow = loss(*(v.float() if v.is_floating_point() else v for v in inputs(5)))
    torch.testing.assert_close(narrow.double(), loss(*inputs(5)).double(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("cls", [KLDivergence, InfoNCE, SimilarityKL])
@pytest.mark.parametrize("temperature", [0.0, -1.0])
def test_temperature_is_greater_than_zero(cls: Any, temperature: float) -> None:
    with pytest.raises(RecipeError, match="temperature must be greater than 0"):
        cls(temperature)
    with pytest.raises(RecipeError, match=r"losses\.kd\.temperature: .*greater than 0"):
        construct(cls, {"temperature": temperature}, lambda *_: None, "losses.kd")
    scheduled = cls(1.0)
    scheduled.temperature = temperature
    with pytest.raises(RecipeError, match="greater than 0"):
        scheduled(normal(4, 6), normal(4, 6, seed=1))
