"""InfoNCE over a batch that is computed in micro-batches of 128, beside the same step over the whole batch at once.

`graph.step` of a small vision transformer (timm's ViT-Ti of depth 4, 32 pixels, 5 tokens) with `core.info_nce` against
embeddings that are given, AdamW included. Batch 1,024 for time, 2,048 for the peak of one step in a fresh process.
Keeping `k` of `K` graphs may take `1.02 (1 + (1 - k / K) / 3)` of the time. `torch.utils.checkpoint` around each
micro-batch, by hand with the same loss, stands beside it. The gradient is compared with that of the whole batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import timm
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

import mmkd
from mmkd.engine.optimizer import optimizers
from model_zoo.bench.measure import Row, Spread, device, fresh, peak, turns

GROUP = "Gradient cache: a whole batch in micro-batches"
DEVICES = ("cpu", "cuda")
WIDTH, PART, BATCH, LARGE = 192, 128, 1024, 2048
Batch = dict[str, Tensor]


def made(size: int) -> tuple[Any, Any, Batch]:
    """Graph, optimisers and batch."""
    torch.manual_seed(0)
    network = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=4, num_classes=0)
    batch = {"image": torch.randn(size, 3, 32, 32), "target": torch.randn(size, WIDTH)}
    losses = {"nce": {"use": "core.info_nce", "student": "student.logits", "teacher": "batch.target"}}
    recipe = mmkd.load_recipe({"student": {}, "losses": losses, "train": {"steps": 1000, "device": str(device())}})
    graph = mmkd.build(recipe, nodes={"student": network}, example={name: v[:4] for name, v in batch.items()})
    return graph, optimizers(graph, recipe.train), {name: value.to(device()) for name, value in batch.items()}


def cut(batch: Batch) -> list[Batch]:
    """Micro-batches."""
    size = len(batch["image"])
    return [{name: value[i : i + PART] for name, value in batch.items()} for i in range(0, size, PART)]


def step(way: str, size: int) -> Callable[[], object]:
    """A step: over the `whole` batch, with so many graphs `kept`, or with `checkpoint` per micro-batch by hand."""
    graph, optimizer, batch = made(size)
    if way == "whole":
        return lambda: graph.step(batch, optimizer)
    parts = cut(batch)
    if way != "checkpoint":
        return lambda: graph.step(parts, optimizer, kept_graphs=int(way))
    network, loss = graph.nodes["student"].network, graph.losses["nce"]

    def by_hand() -> None:
        optimizer["main"].zero_grad()
        embedded = torch.cat([checkpoint(network, part["image"], use_reentrant=False) for part in parts])
        loss(embedded, batch["target"]).mean().backward()
        optimizer["main"].step()

    return by_hand


def called(way: str, size: int) -> Callable[[], object]:
    """A step that has been taken once with two micro-batches."""
    step("whole" if way == "whole" else way, 2 * PART)()
    return step(way, size)


def times(rounds: int) -> dict[str, Any]:
    """Every way over the whole batch at once."""
    parts = BATCH // PART
    ways = ["whole", *(str(kept) for kept in (0, parts // 4, parts // 2, parts)), "checkpoint"]
    taken = turns({way: step(way, BATCH) for way in ways}, rounds, warmup=1)
    seconds = {way: round(taken.median(way), 4) for way in ways}
    return {"seconds": seconds, "ratio": {way: taken.ratio(way, "whole") for way in ways[1:]}}


def apart() -> float:
    """The largest relative difference of the gradient from that of the whole batch."""
    found = []
    for way in ("whole", "0"):
        graph, optimizer, batch = made(BATCH)
        graph.step(batch if way == "whole" else cut(batch), optimizer)
        found.append(torch.cat([p.grad.flatten() for p in graph.phases[-1].parameters if p.grad is not None]))
    return float((found[0] - found[1]).norm() / found[0].norm())


def rows(short: bool) -> Iterator[Row]:
    parts = BATCH // PART
    taken = fresh(times, warm=True, rounds=2 if short else 7)
    for way, ratio in taken["ratio"].items():
        kept = int(way) if way.isdigit() else None
        goal = 1.35 if kept == 0 else None if kept is None else 1.02 * (1 + (1 - kept / parts) / 3)
        name = "torch checkpoint per micro-batch" if kept is None else f"{kept} of {parts} graphs kept"
        numbers = {"seconds": taken["seconds"][way], "whole_seconds": taken["seconds"]["whole"]}
        if kept == 0:
            numbers["gradient_apart"] = float(f"{apart():.1e}")
        yield Row(GROUP, f"{name}, {BATCH:,} in {PART}s, warm", Spread(*ratio), goal, numbers=numbers)
    mib = {way: round(peak(called, way=way, size=LARGE), 1) for way in ("whole", "0", "1", "checkpoint")}
    for way, name in (("0", "no graph kept"), ("1", "1 graph kept"), ("checkpoint", "torch checkpoint")):
        goal = None if way == "checkpoint" else 1 / 5
        numbers = {"mib": mib[way], "whole_mib": mib["whole"]}
        yield Row(GROUP, f"{name}, {LARGE:,} in {PART}s, peak", None, None, mib[way] / mib["whole"], goal, numbers)
