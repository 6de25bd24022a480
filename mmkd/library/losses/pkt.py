"""Probabilistic knowledge transfer."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mmkd import Loss
from mmkd.library.losses.relation import by_rows, flat, products

FLOOR = 1e-7
"""Least affinity of two samples, so that opposite ones still have a logarithm."""


class ProbabilisticTransfer(Loss):
    """Match the probability of every sample to be near every other (PKT: Passalis and Tefas, 2018).

    `KL(p_i || q_i)` with `p_ij = a_ij / sum_k a_ik`, `a_ij = (cos(t_i, t_j) + 1) / 2` for the teacher, q for the
    student. By default a sample is not its own neighbour, as in the paper; with `include_self` it is, as in the
    authors' code (passalis/probabilistic_kt, `nn/pkt.py`), whose value is ours divided by the batch size (a mean over
    pairs).

    Shape: student `[B, ...]`, teacher `[B, ...]`, widths may differ -> `[B]`; nats. A batch of one or, without
    `include_self`, of two is a constant zero.

    Raises:
        GraphError: the batches differ.
    """

    coupled = True
    min_batch = 3

    def __init__(self, include_self: bool = False) -> None:
        super().__init__()
        self.include_self = include_self

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        s, t = (F.normalize(x, dim=1) for x in flat("core.pkt", student, teacher))

        def loss(rows: slice) -> Tensor:
            own = torch.arange(len(s), device=s.device)
            counted = torch.ones_like(own[rows, None] == own) if self.include_self else own[rows, None] != own
            log_p, log_q = (_log_probabilities(x, rows, counted) for x in (t, s))
            return (counted * log_p.exp() * (log_p - log_q)).sum(1)

        return by_rows(loss, s, len(s))


def _log_probabilities(x: Tensor, rows: slice, counted: Tensor) -> Tensor:
    affinity = ((products(x[rows], x) + 1) / 2).clamp(min=FLOOR)
    return affinity.log() - (affinity * counted).sum(1, keepdim=True).clamp(min=FLOOR).log()
