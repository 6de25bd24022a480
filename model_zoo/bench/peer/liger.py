"""Liger's compiled linear JSD loss beside `core.linear_divergence`: loss and gradients of hidden states and head.

Both in one process with the warm allocator, where only the algorithm counts; memory in processes of their own with the
default one. Both sides as they come: Liger with its 1,024 tokens a chunk, compiled; ours with its own chunk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss
from torch import Tensor

from mmkd.library.losses.linear_divergence import LinearDivergence
from model_zoo.bench.measure import Row, Spread, fresh, peak, turns

TOKENS, MANY, WORDS, WIDTH = 1024, 8192, 32_000, 256
BETA = {"kl": 0.0, "jsd": 0.5}


def values(tokens: int) -> list[Tensor]:
    """Student, its head, teacher, its head."""
    torch.manual_seed(0)
    made = [torch.randn(rows, WIDTH) for rows in (tokens, WORDS) * 2]
    for head in made[1::2]:
        head.mul_(WIDTH**-0.5)
    return [made[0].requires_grad_(), made[1].requires_grad_(), *made[2:]]


def call(who: str, divergence: Any, given: list[Tensor]) -> Callable[[], list[Tensor]]:
    """Loss and gradients once."""
    loss: Callable[[], Any]
    if who == "liger":
        peer = LigerFusedLinearJSDLoss(weight_hard_loss=0.0, weight_soft_loss=1.0, beta=BETA[divergence])
        label = torch.zeros(len(given[0]), dtype=torch.long)
        loss = lambda: peer(*given, label)  # noqa: E731
    else:
        own = LinearDivergence(divergence)
        loss = lambda: own(*given).mean()  # noqa: E731

    def both() -> list[Tensor]:
        value = loss()
        return [value.detach(), *torch.autograd.grad(value, given[:2])]

    return both


def timed(divergence: str, rounds: int) -> dict[str, Any]:
    """Ratio of ours to Liger's, and how far results are apart."""
    given = values(TOKENS)
    loops = {who: call(who, divergence, given) for who in ("ours", "liger")}
    ours, theirs = (loop() for loop in loops.values())
    apart = max(float((a - b).norm() / b.norm()) for a, b in zip(ours, theirs, strict=True))
    if apart > 1e-4:
        raise RuntimeError(f"losses or gradients differ by {apart:.1e}")
    del ours, theirs
    taken = turns(loops, rounds, 1)
    return {"ratio": taken.ratio("ours", "liger"), "seconds": {who: taken.median(who) for who in loops}, "apart": apart}


def prepare(who: str, divergence: str) -> Callable[[], object]:
    """One call on many tokens, compiled before on as many."""
    small = values(TOKENS if who == "liger" else 64)
    call(who, divergence, small)()
    del small
    return call(who, divergence, values(MANY))


def rows(short: bool) -> Iterator[Row]:
    for divergence in ("kl",) if short else BETA:
        found = fresh(timed, warm=True, divergence=divergence, rounds=1 if short else 7)
        memory = None
        if not short and divergence == "kl":
            taken = {who: peak(prepare, who=who, divergence=divergence) for who in ("ours", "liger")}
            memory = taken["ours"] / taken["liger"]
            found["seconds"] |= {f"{who}_mib": mib for who, mib in taken.items()}
        said = f"linear {divergence.upper()} over compiled Liger, {TOKENS} tokens, warm"
        said += f" (memory: {MANY})" if memory is not None else ""
        goal = None if memory is None else 0.5
        yield Row("", said, Spread(*found["ratio"]), 1.0, memory, goal, found["seconds"] | {"apart": found["apart"]})
