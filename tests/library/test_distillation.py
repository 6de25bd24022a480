"""Proof by training: on few samples a linear student learns more of its teacher from logits than from labels."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from mmkd.library.losses.cross_entropy import CrossEntropy
from mmkd.library.losses.kl import KLDivergence
from mmkd.library.metrics.agreement import Agreement

datasets = pytest.importorskip("sklearn.datasets")


def fit(net: nn.Module, steps: int, loss: nn.Module, image: Tensor, target: Tensor) -> None:
    optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(net(image), target).mean().backward()
        optimizer.step()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_logits_teach_more_than_labels(seed: int) -> None:
    torch.manual_seed(seed)
    digits = datasets.load_digits()
    image, label = torch.tensor(digits.data, dtype=torch.float32) / 16, torch.tensor(digits.target)
    order = torch.randperm(len(image))
    train, few, held_out = order[:1200], order[:60], order[1200:]

    teacher = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    fit(teacher, 100, CrossEntropy(), image[train], label[train])
    with torch.no_grad():
        logits = teacher(image)

    agreements = []
    for loss, target in ((KLDivergence(4.0), logits[few]), (CrossEntropy(), logits[few].argmax(1))):
        student = nn.Linear(64, 10)
        fit(student, 300, loss, image[few], target)
        metric = Agreement()
        with torch.no_grad():
            metric(student(image[held_out]), logits[held_out])
        agreements.append(metric.compute()["agreement"])
    taught, labelled = agreements
    assert taught > labelled + 0.01
