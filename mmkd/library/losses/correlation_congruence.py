"""Correlations between the samples of a batch under a kernel."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from mmkd import Loss
from mmkd.errors import RecipeError
from mmkd.library.losses.port import positive, same_shape
from mmkd.library.losses.relation import by_rows, flat, products


class CorrelationCongruence(Loss):
    """Match the kernel values of every two samples (CC: Peng et al., 2019).

    `1 / B * sum_j (k(s_i, s_j) - k(t_i, t_j))^2` over embeddings of length one; its mean over the batch is the paper's
    `1 / B^2 * ||.||_F^2`. The `bilinear` kernel is the cosine `c`. The `gaussian` one, `exp(-gamma |x - y|^2)`, is by
    default its Taylor polynomial in the cosine, as in the paper: `exp(-2 gamma) sum_{p <= order} (2 gamma c)^p / p!`;
    `order: null` is the kernel itself. That is `kd_losses/cc.py` of AberHu/Knowledge-Distillation-Zoo.

    The code that benchmarks name after the method (RepDistiller, `distiller_zoo/CC.py`, from the authors) is another
    loss: `pairs: successive` gives it, `sum_d |s_i - t_i|_d |s_{i+1} - t_{i+1}|_d` over embeddings as they are and of
    one width, for samples that happen to follow each other; the last of the batch has none.

    Shape: student `[B, ...]`, teacher `[B, ...]`, widths may differ -> `[B]`. A batch of one is a constant zero.

    Raises:
        GraphError: the batches differ, or the widths do with successive pairs.
        RecipeError: gamma is not greater than zero or the order is negative.
    """

    coupled = True
    min_batch = 2

    def __init__(
        self,
        kernel: Literal["gaussian", "bilinear"] = "gaussian",
        gamma: Annotated[float, Field(gt=0)] = 0.4,
        order: Annotated[int, Field(ge=0)] | None = 2,
        pairs: Literal["all", "successive"] = "all",
    ) -> None:
        super().__init__()
        self.kernel, self.order, self.pairs = kernel, order, pairs
        self.gamma = positive("core.correlation_congruence", "gamma", gamma)
        if order is not None and order < 0:
            raise RecipeError(f"order must be at least 0, not {order}", where="core.correlation_congruence")

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        positive("core.correlation_congruence", "gamma", self.gamma)
        values = flat("core.correlation_congruence", student, teacher)
        if self.pairs == "successive":
            s, t = same_shape("core.correlation_congruence", *values)
            gap = (s - t).abs()
            following = F.pad((gap[:-1] * gap[1:]).sum(1), (0, min(1, len(gap))))
            return following * (len(gap) / max(1, len(gap) - 1))
        s, t = (F.normalize(x, dim=1) for x in values)

        def loss(rows: slice) -> Tensor:
            k_s, k_t = (self._kernel(products(x[rows], x)) for x in (s, t))
            return (k_s - k_t).square().mean(1)

        return by_rows(loss, s, len(s))

    def _kernel(self, cosine: Tensor) -> Tensor:
        if self.kernel == "bilinear":
            return cosine
        if self.order is None:
            return (2 * self.gamma * (cosine - 1)).exp()
        total = torch.ones_like(cosine)
        for p in range(self.order, 0, -1):
            total = 1 + 2 * self.gamma / p * cosine * total
        return math.exp(-2 * self.gamma) * total
