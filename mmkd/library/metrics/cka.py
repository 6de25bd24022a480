"""How alike two representations are, whatever their widths and axes."""

from __future__ import annotations

import torch
from torch import Tensor

from mmkd import Metric, Rows
from mmkd.errors import DataError, GraphError


class CKA(Metric):
    """Linear centred kernel alignment, unbiased over batches (Nguyen et al., 2021).

    `CKA = mean HSIC(K, L) / sqrt(mean HSIC(K, K) * mean HSIC(L, L))` with `K = X X^T`, `L = Y Y^T` and the means over
    batches of the unbiased estimator (Song et al., 2012), the diagonals of K and L set to zero:
    `HSIC = (tr(KL) + 1'K1 1'L1 / (n-1)(n-2) - 2/(n-2) 1'KL1) / n(n-3)`. It does not change under rotation and
    uniform scaling of either side, nor on average with the size of the batch; 1 for equal representations, about 0
    for unrelated ones (a little below is possible), 0 where one is constant.

    A batch of less than 4 samples, as the last one may be, has no unbiased estimate and is left out.

    Shape: student `[B, ...]`, teacher `[B, ...]`, all of a sample's numbers being its features -> `cka`.

    Raises:
        DataError: no batch had 4 samples, or values are not finite.
        GraphError: the batches differ in size.
    """

    conformance = {"per_batch": True}

    def __init__(self) -> None:
        super().__init__()
        self.estimates, self.batches = Rows("core.cka"), Rows("core.cka")

    def forward(self, student: Tensor, teacher: Tensor) -> None:
        if student.dim() < 2 or teacher.dim() < 2 or len(student) != len(teacher):
            raise GraphError(
                f"needs student [B, ...] and teacher [B, ...], not {list(student.shape)} and {list(teacher.shape)}",
                where="core.cka",
            )
        self.batches.add(torch.tensor([len(student)]))
        if len(student) >= 4:
            s, t = _kernel(student), _kernel(teacher)
            self.estimates.add(torch.stack([hsic(s, t), hsic(s, s), hsic(t, t)])[None])

    def compute(self) -> dict[str, float]:
        if not len(self.estimates):
            raise DataError(
                f"needs a batch of at least 4 samples, the largest of {len(self.batches)} had "
                f"{max(self.batches.listed(), default=0)}",
                where="core.cka",
                next="raise data.eval_batch_size",
            )
        both, student, teacher = self.estimates.numbers().mean(0).tolist()
        return {"cka": both / (student * teacher) ** 0.5 if min(student, teacher) > 0 else 0.0}


def hsic(k: Tensor, l: Tensor) -> Tensor:  # noqa: E741
    """Unbiased Hilbert-Schmidt independence criterion of two kernels with empty diagonals.

    Shape: k, l `[N, N]` with N > 3 -> `[]`.
    """
    n = len(k)
    rows_k, rows_l = k.sum(1), l.sum(1)
    cross = rows_k.sum() * rows_l.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * rows_k.dot(rows_l)
    return ((k * l).sum() + cross) / (n * (n - 3))


def _kernel(values: Tensor) -> Tensor:
    """Products of all rows, in float64, the diagonal empty. Centring changes no estimate, and spares it digits."""
    rows = values.flatten(1).double()
    rows = rows - rows.mean(0)
    return (rows @ rows.T).fill_diagonal_(0.0)
