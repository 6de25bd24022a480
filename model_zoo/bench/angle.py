"""`core.rkd_angle` from inner products, beside the form that makes all differences: time and peak memory.

The reference is written as torchdistill's `RKDLoss` has it: differences `[N, N, D]`, brought to length one, and a
batched product of them with themselves. Width 128, float32, loss and gradient with respect to the student. The time is
that of the warm allocator; peaks are of one call in a fresh process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mmkd.library.losses.rkd import RelationalAngle
from model_zoo.bench.measure import Row, Spread, device, fresh, peak, turns

GROUP = "Angles within a batch"
DEVICES = ("cpu", "cuda")
WIDTH = 128


def values(size: int) -> tuple[Tensor, Tensor]:
    """Student and teacher."""
    torch.manual_seed(0)
    return torch.randn(size, WIDTH, device=device()).requires_grad_(), torch.randn(size, WIDTH, device=device())


def angles(x: Tensor) -> Tensor:
    """Of all triples."""
    unit = F.normalize(x[None] - x[:, None], p=2, dim=2)
    return torch.bmm(unit, unit.transpose(1, 2)).view(-1)


def differences(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        target = angles(teacher)
    loss = F.smooth_l1_loss(angles(student), target)
    return loss.detach(), torch.autograd.grad(loss, student)[0]


def ours(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    loss = RelationalAngle()(student, teacher).mean()
    return loss.detach(), torch.autograd.grad(loss, student)[0]


def times(size: int, rounds: int) -> dict[str, Any]:
    """Ratio of inner products over differences, how far the results are apart, seconds."""
    given = values(size)
    pairs = zip(differences(*given), ours(*given), strict=True)
    apart = max(float((a - b).norm() / a.norm()) for a, b in pairs)
    taken = turns({"differences": lambda: differences(*given), "ours": lambda: ours(*given)}, rounds, warmup=1)
    return {
        "ratio": taken.ratio("ours", "differences"),
        **{f"{name}_seconds": round(taken.median(name), 4) for name in ("differences", "ours")},
        "relative_difference": float(f"{apart:.1e}"),
    }


def call(way: str, size: int) -> Callable[[], object]:
    """One call, after a small one."""
    form = ours if way == "ours" else differences
    form(*(value[:8].detach().requires_grad_(value.requires_grad) for value in values(8)))
    given = values(size)
    return lambda: form(*given)


def rows(short: bool) -> Iterator[Row]:
    for size in (256,) if short else (256, 512):
        warm = fresh(times, warm=True, size=size, rounds=2 if size > 256 else 5)
        mib = {way: round(peak(call, way=way, size=size), 1) for way in ("differences", "ours")}
        numbers = {**{k: v for k, v in warm.items() if k != "ratio"}, **{f"{w}_mib": m for w, m in mib.items()}}
        if not short:
            numbers["default"] = fresh(times, size=size, rounds=2)["ratio"][0]
        yield Row(
            GROUP,
            f"angles, {size}, warm",
            Spread(*warm["ratio"]),
            0.25,
            mib["ours"] / mib["differences"],
            1 / 25,
            numbers,
        )
    if not short:
        taken = Spread.of([peak(call, way="ours", size=1024)])
        yield Row(GROUP, "angles, 1024, peak", taken, 200.0, unit="MiB", note="the other form takes some 16 GiB")
