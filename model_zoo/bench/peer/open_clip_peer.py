"""open_clip's own training loop: a distillation step, and `--accum-freq`, which cannot distil, beside ours.

Towers are small; `train_one_epoch` is called as it is, with batches in memory. The temperature stays as it is on all
sides.
"""

from __future__ import annotations

import logging
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from open_clip.loss import ClipLoss, DistillClipLoss
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from open_clip_train.train import train_one_epoch
from torch import Tensor, nn

import mmkd
from mmkd.engine.optimizer import optimizers
from model_zoo.bench.measure import Row, Spread, fresh, turns

LR, TEMPERATURE, WORDS, LENGTH = 1e-4, 0.07, 512, 8
WHOLE, PART = 1024, 128
Batch = tuple[Tensor, Tensor]


def network(width: int) -> CLIP:
    """Two towers over images of 32 pixels and 8 words."""
    torch.manual_seed(0)
    made = CLIP(
        128,
        CLIPVisionCfg(layers=4, width=width, head_width=64, patch_size=16, image_size=32),
        CLIPTextCfg(context_length=LENGTH, vocab_size=WORDS, width=width // 2, heads=2, layers=2),
        output_dict=True,
    )
    made.logit_scale.requires_grad_(False)  # stays at 1 / 0.07
    return made


def batch(size: int) -> Batch:
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(size, 3, 32, 32, generator=generator)
    return image, torch.randint(1, WORDS, (size, LENGTH), generator=generator)


def adamw(network: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(network.parameters(), lr=LR, weight_decay=0.0, fused=True)


class Towers(nn.Module):
    """Embeddings of both, as ours takes them."""

    def __init__(self, network: CLIP) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor, text: Tensor) -> dict[str, Tensor]:
        out = self.network(image, text)
        return {"image": out["image_features"], "text": out["text_features"]}


@dataclass
class Loader:
    """What `train_one_epoch` asks of data."""

    batches: Sequence[Batch]

    @property
    def dataloader(self) -> Loader:
        return self

    @property
    def num_batches(self) -> int:
        return len(self.batches)

    @property
    def num_samples(self) -> int:
        return sum(len(image) for image, _ in self.batches)

    def set_epoch(self, _epoch: int) -> None:
        """Every epoch is the same."""

    def __iter__(self) -> Iterator[Batch]:
        return iter(self.batches)


def theirs(student: CLIP, teacher: CLIP | None, batches: Sequence[Batch], accumulate: int) -> Callable[[], object]:
    """One call of `train_one_epoch`."""
    logging.disable(logging.INFO)
    optimizer = adamw(student)
    loss = DistillClipLoss() if teacher else ClipLoss()
    told: dict[str, Any] = {"device": "cpu", "precision": "fp32", "distill": teacher is not None, "horovod": False}
    told |= {"accum_freq": accumulate, "skip_scheduler": True, "grad_clip_norm": None, "rank": 0, "local_rank": 0}
    told |= {"log_every_n_steps": 100, "batch_size": len(batches[0][0]), "world_size": 1, "wandb": False}
    settings = Namespace(**told)
    data = {"train": Loader(batches)}
    return lambda: train_one_epoch(student, data, loss, 0, optimizer, None, None, teacher, settings)


def hand(student: CLIP, teacher: CLIP | None, whole: Batch) -> Callable[[], object]:
    """One step on the whole batch."""
    optimizer = adamw(student)
    loss = DistillClipLoss() if teacher else ClipLoss()

    def step() -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        out = student(*whole)
        if teacher:
            with torch.no_grad():
                out |= {f"dist_{name}": value for name, value in teacher(*whole).items()}
        total: Tensor = sum(loss(**out, output_dict=True).values())
        total.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return total.detach()

    return step


def ours(student: CLIP, teacher: CLIP | None, batches: Sequence[Batch], kept: int = 0) -> Callable[[], object]:
    """One step of the graph, over micro-batches where there are several."""
    nodes = {"student": student, **({"teacher": teacher} if teacher else {})}
    pairs = {name: [f"{name}.image", f"{name}.text"] for name in nodes}
    losses: dict[str, Any] = {
        "contrastive": {
            "use": "core.info_nce", "student": "student.image", "teacher": "student.text", "temperature": TEMPERATURE,
        }
    }  # fmt: skip
    if teacher:
        losses["distill"] = {"use": "core.similarity_kl", **pairs, "temperature": TEMPERATURE}
    recipe = {
        **{name: {} for name in nodes},
        "losses": losses,
        "train": {"steps": 1000, "lr": LR, "weight_decay": 0.0},
    }
    outputs = {"image": "image", "text": "text"}
    wrapped = {n: mmkd.wrap(Towers(net), inputs=["image", "text"], outputs=outputs) for n, net in nodes.items()}
    given: Any = [{"image": image, "text": text} for image, text in batches]
    graph = mmkd.build(recipe, nodes=wrapped, example=given[0]).train()
    made = optimizers(graph, mmkd.load_recipe(recipe).train)
    if len(given) == 1:
        return lambda: graph.step(given[0], made)
    return lambda: graph.step(given, made, kept_graphs=kept)


def rows(short: bool) -> Iterator[Row]:
    whole = batch(32)
    loops = {
        "hand": hand(network(64), frozen(), whole),
        "ours": ours(network(64), frozen(), [whole]),
        "open_clip": theirs(network(64), frozen(), [whole], 1),
    }
    taken = turns(loops, 8 if short else 60)
    numbers = {f"{who}_ms": taken.median(who) * 1e3 for who in loops}
    for who, goal in (("ours", 1.02), ("open_clip", None)):
        said = "host, CLIP distillation step" if who == "ours" else "open_clip --distill, the same step"
        yield Row("", said, taken.ratio(who, "hand"), goal, numbers=numbers)
    found = fresh(accumulated, warm=True, rounds=1 if short else 7)
    numbers = found["numbers"]
    for said, ratio, goal in (
        ("gradient cache, 1,024 in 128s, over the whole batch", "ours", 1.35),
        ("open_clip --accum-freq 8 over the whole batch", "open_clip", None),
        ("gradient cache over open_clip --accum-freq 8", "both", 0.85),
    ):
        yield Row("", f"{said}, warm", Spread(*found[ratio]), goal, numbers=numbers)


def accumulated(rounds: int) -> dict[str, Any]:
    """A large batch in parts, ours and open_clip's, over one step on the whole of it."""
    whole = batch(WHOLE)
    parts = list(zip(*(torch.split(field, PART) for field in whole), strict=True))
    loops = {
        "hand": hand(network(192), None, whole),
        "ours": ours(network(192), None, parts),
        "open_clip": theirs(network(192), None, parts, len(parts)),
    }
    taken = turns(loops, rounds, 1)
    return {
        "ours": taken.ratio("ours", "hand"),
        "open_clip": taken.ratio("open_clip", "hand"),
        "both": taken.ratio("ours", "open_clip"),
        "numbers": {f"{who}_ms": taken.median(who) * 1e3 for who in loops},
    }


def frozen() -> CLIP:
    """The teacher."""
    return network(128).eval().requires_grad_(False)
