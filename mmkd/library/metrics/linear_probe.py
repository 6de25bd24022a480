"""Accuracy of a linear classifier on frozen embeddings."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from mmkd import Metric, Rows
from mmkd.errors import DataError, GraphError
from mmkd.library.losses.port import positive, widen
from mmkd.library.metrics.rank import rank

STEPS = 2000


class LinearProbe(Metric):
    """Share of samples that a linear classifier fitted on the other half labels rightly (Alain & Bengio, 2017).

    The evaluation set is cut in two: samples whose `fit` is true, or without that port half of them by a hash of
    their `key`, fit a multinomial logistic regression, the others test it. Its loss is
    `mean_i -log softmax(W z_i + b)[y_i] + l2 / 2 * ||W||^2`, with z the embeddings standardised by the mean and
    deviation of the fitting half; minimised in float64 by L-BFGS until it stands still, it has one minimum, which
    depends on no seed, order or step size. Classes that only the test half has are never guessed.

    Shape: student `[B, D]`, label `[B]`, key: list of B texts (`batch.key`), fit `[B]` -> `linear_probe_accuracy`,
    between 0 and 1.

    Raises:
        DataError: the fitting half has fewer than two classes, the other no sample, or embeddings are not finite.
        GraphError: the shapes do not fit, or neither `key` nor `fit` is bound.
        RecipeError: `l2` is not greater than zero.
    """

    def __init__(self, l2: Annotated[float, Field(gt=0)] = 1e-3) -> None:
        super().__init__()
        self.l2 = positive("core.linear_probe", "l2", l2)
        self.embeddings, self.labels, self.fits = (Rows("core.linear_probe") for _ in range(3))

    def forward(
        self, student: Tensor, label: Tensor, key: Sequence[str] | None = None, fit: Tensor | None = None
    ) -> None:
        if student.dim() != 2 or label.shape != student.shape[:1]:
            raise GraphError(
                f"needs student [B, D] and label [B], not {list(student.shape)} and {list(label.shape)}",
                where="core.linear_probe",
            )
        if fit is None:
            if key is None:
                raise GraphError(
                    "needs to know which samples to fit on", where="core.linear_probe", next="write key: batch.key"
                )
            fit = torch.tensor([_odd(k) for k in key], dtype=torch.bool, device=label.device)
        self.embeddings.add(widen(student))
        self.labels.add(label)
        self.fits.add(fit.bool())

    def compute(self) -> dict[str, float]:
        embeddings, fit = self.embeddings.numbers().double(), self.fits.joined()
        classes, label = torch.unique(self.labels.joined(), return_inverse=True)
        known, target = torch.unique(label[fit], return_inverse=True)
        if len(known) < 2 or bool(fit.all()):
            raise DataError(
                f"has {int(fit.sum())} samples of {len(known)} classes to fit on and {int((~fit).sum())} to test",
                where="core.linear_probe",
                next="check data.eval, or bind fit: batch.<field>",
            )
        deviation, mean = torch.std_mean(embeddings[fit], dim=0, correction=0)
        embeddings = (embeddings - mean) / deviation.where(deviation > 1e-12 * (1 + mean.abs()), 1.0)
        weight, bias = minimise(embeddings[fit], target, len(known), self.l2)
        scores = embeddings.new_full((len(embeddings), len(classes)), -torch.inf)
        scores[:, known] = embeddings @ weight.T + bias
        right = rank(scores, label) == 1
        return {"linear_probe_accuracy": right[~fit].double().mean().item()}


def minimise(inputs: Tensor, target: Tensor, classes: int, l2: float) -> tuple[Tensor, Tensor]:
    """Weight and bias of the regularised logistic regression, whose bias is free.

    Shape: inputs `[N, D]`, target `[N]` -> `[C, D]`, `[C]`.
    """
    weight = inputs.new_zeros(classes, inputs.shape[1], requires_grad=True)
    bias = inputs.new_zeros(classes, requires_grad=True)
    solver = torch.optim.LBFGS(
        [weight, bias], max_iter=STEPS, history_size=20, tolerance_grad=1e-9, tolerance_change=1e-14,
        line_search_fn="strong_wolfe",
    )  # fmt: skip

    def loss() -> Tensor:
        solver.zero_grad()
        value = F.cross_entropy(inputs @ weight.T + bias, target) + l2 / 2 * weight.square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    with torch.enable_grad():
        solver.step(loss)  # type: ignore[no-untyped-call]
    return weight.detach(), bias.detach()


def _odd(key: str) -> bool:
    return hashlib.blake2b(key.encode(), digest_size=1).digest()[0] % 2 == 1
