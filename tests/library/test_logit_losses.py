"""What holds for every loss of `core`, on those that compare logits or use targets."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from mmkd import Loss
from mmkd.errors import GraphError, RecipeError
from mmkd.library.losses.balanced_kl import BalancedKL
from mmkd.library.losses.binary_kl import BinaryKL
from mmkd.library.losses.born_again import ConfidenceWeightedCrossEntropy, PermutedKL
from mmkd.library.losses.decoupled import DecoupledKL
from mmkd.library.losses.dist import PearsonDistance
from mmkd.library.losses.divergences import JensenShannon, ReverseKL, SkewKL
from mmkd.library.losses.kl import KLDivergence
from mmkd.library.losses.label_embedding import LabelEmbeddingDistance
from mmkd.library.losses.luminet import PerceptionKL
from mmkd.library.losses.norm_direction import NormDirection
from mmkd.library.losses.ofa import TargetEnhancedKL
from mmkd.library.losses.partial_teacher import ClassSimilarityKL, ConfidenceKL
from mmkd.library.losses.port import widen
from mmkd.library.losses.sinkd import SinkhornKD
from mmkd.library.losses.soft_cross_entropy import SoftCrossEntropy
from mmkd.library.losses.uld import SortedDistance
from mmkd.library.losses.virtual_teacher import VirtualTeacherKL
from mmkd.signature import construct

from . import test_losses
from .test_losses import Inputs, features, labelled, normal


def judged(size: int) -> Inputs:
    return [normal(size, 6), normal(size, 6, seed=1), torch.arange(size) % 6]


def embedded(size: int) -> Inputs:
    label = (torch.arange(size * 4).view(size, 4) * 7) % 5 < 3
    return [normal(size, 4, 3), normal(size, 4, 2, seed=1), label.long()]


def vocabularies(size: int) -> Inputs:
    return [normal(size, 6), normal(size, 9, seed=1)]


class Similar(ClassSimilarityKL):
    """With a classifier of its own, so that all inputs belong to samples."""

    def forward(self, student: Tensor, label: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(student, normal(6, 4, seed=2).to(widen(student)), label)


class Mixed(SoftCrossEntropy):
    """With logits in place of the target, so that any input makes one."""

    def forward(self, student: Tensor, target: Tensor) -> Tensor:
        return super().forward(student, widen(target).softmax(-1))


def taught() -> NormDirection:
    loss = NormDirection(6)
    loss.setup(*(torch.Size(shape) for shape in ((12, 6), (12, 6), (12,))))
    loss.update(normal(12, 6, seed=3), torch.arange(12) % 6)
    return loss


CASES: dict[str, tuple[Loss, Callable[[int], Inputs]]] = {
    "kl standardized": (KLDivergence(2.0, standardize=True), features(6)),
    "reverse_kl": (ReverseKL(2.0), features(3, 6)),
    "jsd": (JensenShannon(0.3, 2.0), features(6)),
    "jsd tokens": (JensenShannon(), features(3, 6)),
    "skew_kl": (SkewKL(temperature=2.0), features(6)),
    "skew_kl reverse": (SkewKL(reverse=True), features(3, 6)),
    "balanced_kl": (BalancedKL(3.0, 2.0), features(6)),
    "dkd": (DecoupledKL(), judged),
    "dkd standardized": (DecoupledKL(0.5, 2.0, 1.0, standardize=True), judged),
    "dist": (PearsonDistance(2.0, 0.5, 3.0), features(6)),
    "luminet": (PerceptionKL(2.0), features(6)),
    "binary_kl": (BinaryKL(2.0), features(6)),
    "binary_kl normalized": (BinaryKL(2.0, normalized=True), features(3, 6)),
    "label_embedding": (LabelEmbeddingDistance(1.0, 1.0), embedded),
    "ofa": (TargetEnhancedKL(1.3, 2.0), judged),
    "nd": (taught(), judged),
    "confidence_kl": (ConfidenceKL(2.0), judged),
    "class_similarity_kl": (Similar(power=0.5), labelled),
    "virtual_teacher": (VirtualTeacherKL(temperature=0.5), labelled),
    "virtual_teacher logarithms": (VirtualTeacherKL(0.9, soften="logarithms"), labelled),
    "cwtm": (ConfidenceWeightedCrossEntropy(), judged),
    "dkpp": (PermutedKL(2.0), features(6)),
    "dkpp tokens": (PermutedKL(), features(3, 6)),
    "sinkd": (SinkhornKD(), features(6)),
    "uld": (SortedDistance(2.0), vocabularies),
    "soft_cross_entropy": (Mixed(), features(6)),
}
CHECKS: dict[str, Callable[..., None]] = {
    "gradient": test_losses.test_gradient_is_that_of_the_value,
    "order": test_losses.test_order_of_samples_does_not_matter,
    "coupled": test_losses.test_only_a_coupled_loss_sees_other_samples,
    "empty": partial(test_losses.test_smallest_batches_are_finite_and_keep_the_graph, size=0),
    "single": partial(test_losses.test_smallest_batches_are_finite_and_keep_the_graph, size=1),
    "halves": test_losses.test_halves_are_computed_in_float32,
    "float32": test_losses.test_float32_is_near_float64,
}


@pytest.mark.parametrize(("loss", "inputs"), CASES.values(), ids=CASES.keys())
@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS.keys())
def test_what_holds_for_every_loss(check: Callable[..., None], loss: Loss, inputs: Callable[[int], Inputs]) -> None:
    check(loss=loss, inputs=inputs)


SOFTENED = [
    ReverseKL, JensenShannon, SkewKL, BalancedKL, DecoupledKL, PearsonDistance, PerceptionKL, BinaryKL,
    TargetEnhancedKL, ConfidenceKL, ClassSimilarityKL, VirtualTeacherKL, PermutedKL, SinkhornKD, SortedDistance,
]  # fmt: skip


@pytest.mark.parametrize("cls", SOFTENED)
@pytest.mark.parametrize("temperature", [0.0, -1.0])
def test_temperature_is_greater_than_zero(cls: Any, temperature: float) -> None:
    with pytest.raises(RecipeError, match="temperature must be greater than 0"):
        cls(temperature=temperature)
    with pytest.raises(RecipeError, match=r"losses\.kd\.temperature: .*greater than 0"):
        construct(cls, {"temperature": temperature}, lambda *_: None, "losses.kd")
    scheduled = cls()
    scheduled.temperature = temperature
    with pytest.raises(RecipeError, match="greater than 0"):
        scheduled(**scheduled.example())


TAUGHT = [
    ReverseKL(), JensenShannon(), SkewKL(), BalancedKL(), PearsonDistance(), PerceptionKL(), BinaryKL(), PermutedKL(),
    SinkhornKD(), SoftCrossEntropy(),
]  # fmt: skip


@pytest.mark.parametrize("loss", TAUGHT, ids=lambda loss: type(loss).__name__)
def test_shapes_are_never_broadcast(loss: Loss) -> None:
    with pytest.raises(GraphError, match=r"student \[4, 6\] and .* \[1, 6\]"):
        loss(normal(4, 6), normal(1, 6))


@pytest.mark.parametrize("loss", [DecoupledKL(), TargetEnhancedKL(), ConfidenceKL(), ConfidenceWeightedCrossEntropy()])
def test_a_label_belongs_to_each_sample(loss: Loss) -> None:
    with pytest.raises(GraphError, match=r"student \[4, 6\] needs a label \[4\], not \[1\]"):
        loss(normal(4, 6), normal(4, 6), torch.tensor([2]))
