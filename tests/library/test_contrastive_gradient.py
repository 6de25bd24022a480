"""Gradient distillation, and the members of CLIP-KD that other losses already are."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mmkd.errors import GraphError
from mmkd.library.losses.contrastive_gradient import ContrastiveGradient
from mmkd.library.losses.cosine import CosineDistance
from mmkd.library.losses.info_nce import InfoNCE


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def true_gradients(image: Tensor, text: Tensor, temperature: float) -> list[Tensor]:
    """Of InfoNCE itself, by autograd, at the embeddings of length one."""
    found = []
    for queries, keys in ((image, text), (text, image)):
        a, b = (F.normalize(x, dim=1).requires_grad_() for x in (queries, keys))
        logits = a @ b.T / temperature
        found += torch.autograd.grad(F.cross_entropy(logits, torch.arange(len(a)), reduction="sum"), (a, b))
    return found


def test_it_is_the_difference_of_the_true_gradients() -> None:
    values = [normal(5, 4, seed=i) for i in range(4)]
    s, t = true_gradients(*values[:2], 0.4), true_gradients(*values[2:], 0.2)
    expected = sum((a - b).square().sum(1) for a, b in zip(s, t, strict=True))
    torch.testing.assert_close(ContrastiveGradient(0.4, 0.2)(values[:2], values[2:]), expected)


def test_equal_temperatures_are_the_default() -> None:
    values = [normal(5, 4, seed=i) for i in range(4)]
    same = ContrastiveGradient(0.4, 0.4)(values[:2], values[2:])
    torch.testing.assert_close(ContrastiveGradient(0.4)(values[:2], values[2:]), same)


def test_feature_distillation_is_the_cosine() -> None:
    student, teacher = normal(5, 4), normal(5, 4, seed=1)
    theirs = F.mse_loss(F.normalize(student, dim=1), F.normalize(teacher, dim=1))
    torch.testing.assert_close(CosineDistance()(student, teacher).mean() * 2 / 4, theirs)


def test_interactive_contrast_is_info_nce_from_the_student_to_the_teacher() -> None:
    image, text = F.normalize(normal(5, 4), dim=1), F.normalize(normal(5, 4, seed=1), dim=1)
    theirs = F.cross_entropy(image @ text.T / 0.07, torch.arange(5))
    torch.testing.assert_close(InfoNCE(symmetric=False)(image, text).mean(), theirs)


def test_what_does_not_fit_is_named() -> None:
    image, text, wide = normal(5, 4), normal(5, 4), normal(5, 6)
    with pytest.raises(GraphError, match="pair"):
        ContrastiveGradient()([image], [text])
    with pytest.raises(GraphError, match="same shape"):
        ContrastiveGradient()([image, text], [wide, wide])
    with pytest.raises(GraphError, match="pair is two"):
        ContrastiveGradient()([image, wide], [image, wide])
