"""Divergences of rows of logits, with their slope in the student's logits in its place and without a graph."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, reduce
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from mmkd.errors import GraphError

BLOCK_CELLS = 2**18
"""Logits that are compared at once on a CPU, 1 MiB in float32, which its caches hold."""
Divergence = Literal["kl", "reverse_kl", "jsd", "skew_kl", "skew_reverse_kl"]
Number = float | Tensor


class Softmax(NamedTuple):
    """Probabilities, their logits, and the logarithm of the sum of the exponentials of these: `log p = logits - total`.

    Shape: `[N, V]`, `[N, V]`, `[N]`.
    """

    p: Tensor
    logits: Tensor
    total: Tensor

    @classmethod
    def of(cls, logits: Tensor) -> Softmax:
        p = logits.softmax(-1)
        return cls(p, logits, logits.amax(-1) - p.amax(-1).log())

    def below_zero(self) -> Softmax:
        """The same of logits that are at most zero, which have more digits where they count."""
        top = self.logits.amax(-1)
        return Softmax(self.p, self.logits - top[:, None], self.total - top)


class Comparison(NamedTuple):
    """How two rows of logits are compared; the same for all rows of a loss."""

    divergence: Divergence
    share: Number
    """`beta` of `jsd`, the skew of the last two, above zero. A tensor where it is compiled, which is for any number."""
    temperature: Number
    softcaps: tuple[float | None, float | None] = (None, None)
    """The student's and the teacher's c of `c tanh(logits / c)`, where there is one."""
    holes: bool = True
    """A probability may be exactly zero, as of a class that is ruled out; costs a look at every one."""


def compare(how: Comparison, student: Tensor, teacher: Tensor, weight: Tensor | None) -> Tensor:
    """`T^2` times the divergence of every row, times its weight. Its slope in the student's logits / T replaces those.

    Shape: student, teacher `[N, V]`, weight `[N]` -> `[N]`.
    """
    dtype = _precision(student, teacher)
    own, bend = _capped(student.to(dtype), how.softcaps[0])
    given, _ = _capped(teacher.to(dtype), how.softcaps[1])
    if isinstance(how.temperature, Tensor) or how.temperature != 1:
        own, given = own / how.temperature, given / how.temperature
    value, slope = LAWS[how.divergence](how.holes, how.share, Softmax.of(given), Softmax.of(own))
    if bend is not None:
        slope = slope.mul_(bend)
    if weight is not None:
        value, slope = value * weight, slope.mul_(weight[:, None])
    student.copy_(slope)
    return value * how.temperature**2


def by_blocks(how: Comparison, student: Tensor, teacher: Tensor, weight: Tensor | None, fused: bool) -> Tensor:
    """`compare`, on a CPU a few rows at a time: every operation finds in the cache what the one before it left there.

    Raises:
        GraphError: torch cannot compile it here.
    """
    step = compare
    if fused:
        dtype, device = _precision(student, teacher), student.device
        numbers = (float(how.share), float(how.temperature))
        share, temperature = (torch.full((), number, dtype=dtype, device=device) for number in numbers)
        step, how = _fused, how._replace(share=share, temperature=temperature)
    if student.device.type != "cpu":
        return step(how, student, teacher, weight)
    made = [
        step(how, student[rows], teacher[rows], None if weight is None else weight[rows])
        for rows in pieces(len(student), max(2 if fused else 1, BLOCK_CELLS // max(1, student.shape[1])))
    ]
    return torch.cat(made) if made else student.new_empty(0)


def pieces(size: int, most: int) -> list[slice]:
    """As few parts of at most so many as there can be, alike to one."""
    count = -(-size // most)
    return [slice(k * size // count, (k + 1) * size // count) for k in range(count)]


@cache
def _kernel() -> Callable[..., Tensor]:
    return torch.compile(compare, fullgraph=True, dynamic=True)


def _fused(how: Comparison, student: Tensor, teacher: Tensor, weight: Tensor | None) -> Tensor:
    if len(student) == 1:
        return compare(how, student, teacher, weight)  # what is left over; the compiler would start anew for it
    if weight is None:  # fused, it costs nothing, and is no second thing to compile
        weight = torch.ones(len(student), dtype=_precision(student, teacher), device=student.device)
    try:
        return _kernel()(how, student, teacher, weight)
    except Exception as error:
        reason = "; ".join([line.strip() for line in str(error).splitlines() if line.strip()][:2])
        raise GraphError(
            f"cannot be compiled: {reason or type(error).__name__}", where="core.linear_divergence.fused",
            next="remove `fused`; the numbers are the same without it",
        ) from error  # fmt: skip


def _precision(student: Tensor, teacher: Tensor) -> torch.dtype:
    """The wider of them, and not half."""
    return reduce(torch.promote_types, (student.dtype, teacher.dtype), torch.float32)


def _capped(logits: Tensor, softcap: float | None) -> tuple[Tensor, Tensor | None]:
    """Logits bent to stay within the cap, and their derivative by what they were."""
    if softcap is None:
        return logits, None
    bent = (logits / softcap).tanh_()
    return bent * softcap, 1 - bent.square()


Law = Callable[[bool, Number, Softmax, Softmax], tuple[Tensor, Tensor]]
"""From teacher and student to the divergence `[N]` and its derivative by the student's logits, a new `[N, V]`."""


def _kl(holes: bool, share: Number, p: Softmax, q: Softmax) -> tuple[Tensor, Tensor]:
    return _mean(p.p, _gap(holes, p, q)), q.p.sub_(p.p)


def _reverse_kl(holes: bool, share: Number, p: Softmax, q: Softmax) -> tuple[Tensor, Tensor]:
    gap = _gap(holes, q, p)
    value = _mean(q.p, gap)
    return value, _centred(q.p, gap, value)


def _jsd(holes: bool, beta: Number, p: Softmax, q: Softmax) -> tuple[Tensor, Tensor]:
    p, q = p.below_zero(), q.below_zero()
    mixture = _mixture(q.p, p.p, beta)
    m = Softmax(mixture, mixture.log(), torch.zeros_like(p.total))
    teacher = _mean(p.p, _gap(holes, p, m))
    gap = _gap(holes, q, m)
    student = _mean(q.p, gap)
    return beta * teacher + (1 - beta) * student, _centred(q.p, gap, student).mul_(1 - beta)


def _skew_kl(holes: bool, skew: Number, p: Softmax, q: Softmax) -> tuple[Tensor, Tensor]:
    ratio = p.p / _mixture(q.p, p.p, skew)
    value = _mean(p.p, _log(ratio))
    slope = ratio.mul_(skew - 1)
    return value, _centred(q.p, slope, _mean(q.p, slope))


def _skew_reverse_kl(holes: bool, skew: Number, p: Softmax, q: Softmax) -> tuple[Tensor, Tensor]:
    ratio = q.p / _mixture(p.p, q.p, skew)
    gap = _log(ratio)
    value = _mean(q.p, gap)
    slope = gap.sub_(ratio.mul_(skew))
    return value, _centred(q.p, slope, _mean(q.p, slope))


LAWS: dict[Divergence, Law] = {
    "kl": _kl, "reverse_kl": _reverse_kl, "jsd": _jsd, "skew_kl": _skew_kl, "skew_reverse_kl": _skew_reverse_kl,
}  # fmt: skip


def _gap(holes: bool, p: Softmax, q: Softmax) -> Tensor:
    """`log p - log q`, zero where p is. Not in place of the logits: what was only read is not written to memory."""
    gap = (p.logits - q.logits).sub_((p.total - q.total)[:, None])
    return gap.masked_fill_(p.p == 0, 0.0) if holes else gap


def _mixture(a: Tensor, b: Tensor, share: Number) -> Tensor:
    """`(1 - share) a + share b`, above zero."""
    return torch.lerp(a, b, share).clamp_(min=torch.finfo(a.dtype).tiny)


def _log(ratio: Tensor) -> Tensor:
    return ratio.clamp(min=torch.finfo(ratio.dtype).tiny).log_()


def _mean(p: Tensor, x: Tensor) -> Tensor:
    mean: Tensor = torch.linalg.vecdot(p, x)  # makes no product `[N, V]`
    return mean


def _centred(q: Tensor, x: Tensor, mean: Tensor) -> Tensor:
    """Slope in the logits from the slope in the probabilities, in its place."""
    return x.sub_(mean[:, None]).mul_(q)
