"""Divergences of rows of log-probabilities with their slope in the student's logits, in place and without a graph."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import Tensor

Divergence = Literal["kl", "reverse_kl", "jsd", "skew_kl", "skew_reverse_kl"]
Law = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""From the teacher's and the student's log-probabilities `[N, V]`, which it overwrites, to the divergence `[N]` and its
derivative in the student's logits `[N, V]`."""


def law(divergence: Divergence, share: float, holes: bool = True) -> Law:
    """The law of that name.

    Args:
        divergence: its name.
        share: `beta` of `jsd`, the skew of the last two.
        holes: a probability may be exactly zero, as of a class that is ruled out; costs a look at every one.
    """
    plain = {"kl": _kl, "reverse_kl": _reverse_kl}
    if not share:
        plain |= {"skew_kl": _kl, "skew_reverse_kl": _reverse_kl}
    if divergence in plain:
        return partial(plain[divergence], holes)
    if divergence == "jsd":
        return partial(_jsd, holes, share)
    return partial(_skew_kl if divergence == "skew_kl" else _skew_reverse_kl, share)


def _kl(holes: bool, log_p: Tensor, log_q: Tensor) -> tuple[Tensor, Tensor]:
    p = log_p.exp()
    value = _mean(p, _gap(holes, p, log_p, log_q))
    return value, log_q.exp_().sub_(p)


def _reverse_kl(holes: bool, log_p: Tensor, log_q: Tensor) -> tuple[Tensor, Tensor]:
    q = log_q.exp()
    gap = _gap(holes, q, log_q, log_p)
    value = _mean(q, gap)
    return value, _centred(q, gap, value)


def _jsd(holes: bool, beta: float, log_p: Tensor, log_q: Tensor) -> tuple[Tensor, Tensor]:
    p, q = log_p.exp(), log_q.exp()
    log_m = _mixture(q, p, beta).log_()
    teacher = _mean(p, _gap(holes, p, log_p, log_m))
    gap = _gap(holes, q, log_q, log_m)
    student = _mean(q, gap)
    return beta * teacher + (1 - beta) * student, _centred(q, gap, student).mul_(1 - beta)


def _skew_kl(skew: float, log_p: Tensor, log_q: Tensor) -> tuple[Tensor, Tensor]:
    p, q = log_p.exp_(), log_q.exp_()
    ratio = p.div(_mixture(q, p, skew))
    value = _mean(p, _log(ratio.clone()))
    slope = ratio.mul_(skew - 1)
    return value, _centred(q, slope, _mean(q, slope))


def _skew_reverse_kl(skew: float, log_p: Tensor, log_q: Tensor) -> tuple[Tensor, Tensor]:
    p, q = log_p.exp_(), log_q.exp_()
    ratio = q.div(_mixture(p, q, skew))
    gap = _log(ratio.clone())
    value = _mean(q, gap)
    slope = gap.sub_(ratio, alpha=skew)
    return value, _centred(q, slope, _mean(q, slope))


def _gap(holes: bool, p: Tensor, log_p: Tensor, log_q: Tensor) -> Tensor:
    """`log p - log q` in place of `log p`, zero where p is."""
    gap = log_p.sub_(log_q)
    return gap.masked_fill_(p == 0, 0.0) if holes else gap


def _mixture(a: Tensor, b: Tensor, share: float) -> Tensor:
    """`(1 - share) a + share b`, above zero."""
    return torch.lerp(a, b, share).clamp_(min=torch.finfo(a.dtype).tiny)


def _log(ratio: Tensor) -> Tensor:
    return ratio.clamp_(min=torch.finfo(ratio.dtype).tiny).log_()


def _mean(p: Tensor, x: Tensor) -> Tensor:
    mean: Tensor = torch.linalg.vecdot(p, x)  # makes no product `[N, V]`
    return mean


def _centred(q: Tensor, x: Tensor, mean: Tensor) -> Tensor:
    """Slope in the logits from the slope in the probabilities, in its place."""
    return x.sub_(mean[:, None]).mul_(q)
