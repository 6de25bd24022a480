"""A head that is a linear map, applied a few rows at a time; and a law of two such heads with its gradient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mmkd.errors import GraphError
from mmkd.library.losses.port import widen
from mmkd.library.losses.slope import Comparison, by_blocks, pieces


@dataclass(frozen=True)
class Head:
    """Hidden states with the weight and the bias that make logits of them.

    Shape: hidden `[N, D]`, weight `[V, D]`, bias `[V]`.
    """

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None = None

    def cast(self) -> Head:
        """In the precision of the product: that of autocast where it is on, else the widest of the three."""
        kind = self.hidden.device.type
        dtype = torch.promote_types(self.hidden.dtype, self.weight.dtype)
        if torch.is_autocast_enabled(kind) and dtype != torch.float64:
            dtype = torch.get_autocast_dtype(kind)
        elif self.bias is not None:
            dtype = torch.promote_types(dtype, self.bias.dtype)
        return Head(self.hidden.to(dtype), self.weight.to(dtype), None if self.bias is None else self.bias.to(dtype))

    def room(self, rows: int) -> Tensor:
        """Memory for the logits of so many."""
        return self.weight.new_empty(rows, len(self.weight))

    def logits(self, rows: slice, room: Tensor) -> Tensor:
        """Of these rows, in that memory. Shape: `[n, V]`."""
        hidden, weight = self.hidden[rows], self.weight.T
        made = room[: len(hidden)]
        if self.bias is None:
            return torch.mm(hidden, weight, out=made)
        return torch.addmm(self.bias, hidden, weight, out=made)


class LinearLaw(torch.autograd.Function):
    """A divergence of the student's head from the teacher's, row by row: `[N]`.

    The forward pass makes the gradients too, those of the sum of all rows. The first backward pass in which all rows
    weigh the same has only to scale them; any other goes through the logits again.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, teacher: Head, how: Comparison, chunk: int,
        fused: bool, learns: bool,
    ) -> Tensor:  # fmt: skip
        ctx.dtypes = [None if t is None else t.dtype for t in (hidden, weight, bias)]
        own, teacher = Head(hidden, weight, bias).cast(), teacher.cast()
        holes = any(head.bias is not None or head.weight.dtype == torch.float16 for head in (own, teacher))
        ctx.how, ctx.chunk, ctx.fused = how._replace(holes=holes), chunk, fused
        ctx.save_for_backward(own.hidden, own.weight, own.bias, teacher.hidden, teacher.weight, teacher.bias)
        wanted = [learns and needed for needed in ctx.needs_input_grad[:3]]
        values, ctx.held = _walk(ctx, own, teacher, wanted, None)
        return values

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Any:
        if torch.is_grad_enabled():
            raise GraphError(
                "a divergence without logits can be differentiated once only", where="core.linear_divergence",
                next="differentiate its gradient in core.kl, core.jsd or core.skew_kl of logits",
            )  # fmt: skip
        held, ctx.held = ctx.held, None
        wanted = list(ctx.needs_input_grad[:3])
        if held is not None and _uniform(upstream):
            scale = upstream[:1].sum()  # zero where there are no rows
            made = [None if gradient is None else gradient.mul_(scale.to(gradient.dtype)) for gradient in held]
        else:
            if held is not None and held[0] is not None:
                wanted[0] = False
            saved = ctx.saved_tensors
            made = _walk(ctx, Head(*saved[:3]), Head(*saved[3:]), wanted, upstream)[1]
            if held is not None and held[0] is not None:
                made[0] = held[0].mul_(upstream[:, None])
        own = [None if g is None else g.to(dtype) for g, dtype in zip(made, ctx.dtypes, strict=True)]
        return (*own, None, None, None, None, None)


def _walk(
    ctx: Any, own: Head, teacher: Head, wanted: Sequence[bool], upstream: Tensor | None
) -> tuple[Tensor, list[Tensor | None]]:
    """Values of all rows, and the wanted gradients (hidden, weight, bias) of their sum weighted by `upstream`."""
    temperature, size = float(ctx.how.temperature), len(own.hidden)
    parts = (own.hidden, own.weight, own.bias)
    made = [
        torch.zeros_like(part, dtype=widen(part[:0]).dtype) if part is not None and asked else None
        for part, asked in zip(parts, wanted, strict=True)
    ]
    hidden, weight, bias = made
    values = widen(own.hidden[:0]).new_zeros(size)
    chunks = pieces(size, ctx.chunk)
    slopes, targets = (
        head.room(max([rows.stop - rows.start for rows in chunks], default=0)) for head in (own, teacher)
    )
    with torch.autocast(own.hidden.device.type, enabled=False):
        for rows in chunks:
            slope, target = own.logits(rows, slopes), teacher.logits(rows, targets)
            values[rows] = by_blocks(ctx.how, slope, target, None if upstream is None else upstream[rows], ctx.fused)
            if bias is not None:
                bias.add_(slope.sum(0, dtype=bias.dtype), alpha=temperature)
            if hidden is not None:
                hidden[rows] = (slope @ own.weight).mul_(temperature)
            if weight is not None:
                _add_product(weight, slope.T, own.hidden[rows], temperature)
    return values, made


def _add_product(total: Tensor, a: Tensor, b: Tensor, factor: float) -> None:
    """`total += factor * a @ b`, half precision being summed up in float32."""
    if a.dtype == total.dtype:
        total.addmm_(a, b, alpha=factor)
    else:
        total.add_(a @ b, alpha=factor)


def _uniform(upstream: Tensor) -> bool:
    """Whether all rows weigh the same; a mean without a mask says so without being looked at."""
    return len(upstream) < 2 or upstream.stride(0) == 0 or bool((upstream == upstream[0]).all())
