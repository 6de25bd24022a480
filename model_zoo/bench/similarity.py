"""Losses over the similarities of a batch by tiles, beside the same losses on whole matrices: time and peak memory.

`core.info_nce` and `core.similarity_kl` of pairs (both directions, temperature 0.07), alone and together, and
`core.similarity_kl` of one value; random values of width 512, float32. One call is the loss and its gradients with
respect to the student's values. The reference is the plain code of the same losses; `shared` is the leanest plain form
of the two together, as in open_clip's distillation loss but with one product per network for both losses and both
directions. Peaks are of one call in a fresh process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mmkd.library.losses import tiles
from mmkd.library.losses.info_nce import InfoNCE
from mmkd.library.losses.similarity_kl import SimilarityKL
from model_zoo.bench.measure import Row, Spread, device, fresh, peak, turns

GROUP = "Losses over all pairs of a batch"
DEVICES = ("cpu", "cuda")
WIDTH, TEMPERATURE = 512, 0.07
SIDE = tiles.SIDE
LOSSES = {
    "both": "InfoNCE and similarity KL",
    "info_nce": "InfoNCE",
    "kl": "similarity KL",
    "one": "similarity KL, one value",
}


def values(size: int) -> list[Tensor]:
    """Student's image and text, teacher's image and text."""
    torch.manual_seed(0)
    made = [torch.randn(size, WIDTH, device=device()) for _ in range(4)]
    return [value.requires_grad_(k < 2) for k, value in enumerate(made)]


def ours(which: str, tiled: bool, given: list[Tensor]) -> tuple[Tensor, ...]:
    """Loss and gradients, by tiles or whole whatever the size."""
    tiles.SIDE = SIDE if tiled else 2**30
    image, text, *teacher = given
    loss = torch.zeros((), device=image.device)
    if which in ("both", "info_nce"):
        loss = loss + InfoNCE(TEMPERATURE)(image, text).mean()
    if which in ("both", "kl"):
        loss = loss + SimilarityKL(TEMPERATURE)([image, text], teacher).mean()
    if which == "one":
        loss = loss + SimilarityKL(TEMPERATURE)([image], teacher[:1]).mean()
    asked = [image] if which == "one" else [image, text]
    return (loss.detach(), *torch.autograd.grad(loss, asked))


def shared(given: list[Tensor]) -> tuple[Tensor, ...]:
    """Both losses from one product per network."""
    image, text, *teacher = given
    student, target = (
        F.normalize(a, dim=1) @ F.normalize(b, dim=1).T / TEMPERATURE for a, b in ((image, text), teacher)
    )
    label = torch.arange(len(image), device=image.device)
    loss = torch.zeros((), device=image.device)
    for b, a in ((student, target), (student.T, target.T)):
        log_q = b.log_softmax(1)
        loss = loss + (F.nll_loss(log_q, label) + F.kl_div(log_q, a.log_softmax(1), None, None, "batchmean", True)) / 2
    return (loss.detach(), *torch.autograd.grad(loss, [image, text]))


def times(which: str, size: int, rounds: int) -> dict[str, Any]:
    """Ratios of tiles over whole matrices, how far the results are apart, seconds."""
    given = values(size)
    contestants: dict[str, Callable[[], tuple[Tensor, ...]]] = {
        "plain": lambda: ours(which, False, given), "tiles": lambda: ours(which, True, given)
    }  # fmt: skip
    if which == "both":
        contestants["shared"] = lambda: shared(given)
    results = [contestant() for contestant in contestants.values()]
    apart = max(
        float((a - b).norm() / a.norm()) for other in results[1:] for a, b in zip(results[0], other, strict=True)
    )
    del results
    taken = turns(contestants, rounds, warmup=0)
    found: dict[str, Any] = {f"{name}_seconds": round(taken.median(name), 4) for name in contestants}
    found["over_plain"] = taken.ratio("tiles", "plain")
    if which == "both":
        found["over_shared"] = round(taken.ratio("tiles", "shared").median, 3)
    return {**found, "relative_difference": float(f"{apart:.1e}")}


def call(which: str, way: str, size: int) -> Callable[[], object]:
    """One call, after a small one."""
    given = values(size)
    small = [value[:8].detach().requires_grad_(value.requires_grad) for value in given]
    ours(which, False, small)
    tiles.SIDE, side = 2, tiles.SIDE
    InfoNCE()(small[0], small[1]).mean().backward()
    SimilarityKL()(small[:2], small[2:]).mean().backward()
    tiles.SIDE = side
    return (lambda: shared(given)) if way == "shared" else lambda: ours(which, way == "tiles", given)


def rows(short: bool) -> Iterator[Row]:
    cuda = device().type == "cuda"
    sizes = [16384] if cuda else [2048] if short else [2048, 4096]
    for which, title in LOSSES.items():
        if short and which in ("kl", "one"):
            continue
        for size in sizes:
            warm = fresh(times, warm=True, which=which, size=size, rounds=3)
            numbers = {name: number for name, number in warm.items() if name != "over_plain"}
            if not short and not cuda:
                numbers["default_over_plain"] = fresh(times, which=which, size=size, rounds=2)["over_plain"][0]
            note = f"{warm['over_shared']} of one product for both losses" if which == "both" else ""
            yield Row(GROUP, f"{title}, {size}, warm", Spread(*warm["over_plain"]), 1.05, numbers=numbers, note=note)
        size = 16384 if cuda else 4096 if short else 8192
        ways = ["plain", "tiles", *(["shared"] if which == "both" else [])]
        mib = {way: round(peak(call, which=which, way=way, size=size), 1) for way in ways}
        doubled = None if short else round(peak(call, which=which, way="tiles", size=2 * size), 1)
        yield Row(
            GROUP, f"{title}, {size}, peak", memory_ratio=mib["tiles"] / mib["plain"],
            memory_goal=1 / 20 if which == "both" and not short else None,
            numbers={**{f"{way}_mib": number for way, number in mib.items()}, "tiles_mib_of_twice": doubled},
            note="" if doubled is None else f"{doubled / mib['tiles']:.2f} times as much for twice the batch",
        )  # fmt: skip
