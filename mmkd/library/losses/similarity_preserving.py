"""Similarities of activations within a batch."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from mmkd import Loss
from mmkd.library.losses.relation import by_rows, flat, products


class SimilarityPreserving(Loss):
    """Match which samples activate the networks alike (SP: Tung and Mori, 2019).

    `1 / B * sum_j (G_ij(student) - G_ij(teacher))^2`, where G are the inner products of the flattened activations,
    each row divided by its norm. Its mean over the batch is the paper's `1 / B^2 * ||.||_F^2` (RepDistiller,
    `distiller_zoo/SP.py`). Maps may differ in width and in size, since only samples are compared.

    Shape: student, teacher `[B, ...]` -> `[B]`. A batch of one is a constant zero.

    Raises:
        GraphError: the batches differ.
    """

    coupled = True
    min_batch = 2

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        s, t = flat("core.similarity_preserving", student, teacher)

        def loss(rows: slice) -> Tensor:
            g_s, g_t = (F.normalize(products(x[rows], x), dim=1) for x in (s, t))
            return (g_s - g_t).square().mean(1)

        return by_rows(loss, s, len(s))
