"""Hugging Face's Trainer with `compute_loss` of its own: KL between two small language models, fused AdamW."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments

from model_zoo.bench.measure import Row, turns
from model_zoo.bench.peer.language import (
    BATCH,
    LOG_EVERY,
    LR,
    Laps,
    Logits,
    clock,
    collate,
    divergence,
    hand,
    ours,
    pair,
    sentences,
)  # fmt: skip

ARGUMENTS: dict[str, Any] = {
    "per_device_train_batch_size": BATCH, "learning_rate": LR, "weight_decay": 0.0, "optim": "adamw_torch_fused",
    "lr_scheduler_type": "constant", "max_grad_norm": 0.0, "logging_steps": LOG_EVERY, "report_to": "none",
    "save_strategy": "no", "remove_unused_columns": False, "use_cpu": True, "disable_tqdm": True,
    "dataloader_pin_memory": False,
}  # fmt: skip


class Distil(Trainer):
    """What one writes to distil with a Trainer."""

    teacher: nn.Module

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        inputs.pop("labels")
        with torch.no_grad():
            target = self.teacher(**inputs)
        loss = divergence(model(**inputs), target)
        return (loss, None) if return_outputs else loss


class Lap(TrainerCallback):
    """Tells the laps that a step has ended; a step ends when the next begins, so that logging counts."""

    def __init__(self, laps: Laps) -> None:
        self.laps = laps

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step:
            self.laps.lap()


def trained(make: Callable[..., Trainer], settings: Any) -> Laps:
    """Train once."""
    laps = Laps()
    make(args=settings, callbacks=[Lap(laps)]).train()
    return laps


def contestant(size: str, steps: int, folder: str) -> Callable[[], Laps]:
    teacher, student = map(Logits, pair(size))
    settings = TrainingArguments(output_dir=folder, max_steps=steps, **ARGUMENTS)

    def make(**options: Any) -> Trainer:
        made = Distil(student, train_dataset=sentences(size, steps), data_collator=collate, **options)
        made.teacher = teacher
        return made

    return lambda: trained(make, settings)


def rows(short: bool) -> Iterator[Row]:
    yield from compared("Trainer", contestant, short)


def compared(name: str, contestant: Callable[[str, int, str], Callable[[], Laps]], short: bool) -> Iterator[Row]:
    """Rows of one peer: what it adds to a micro model, its ratio on a small one."""
    with tempfile.TemporaryDirectory() as folder:
        for size, steps in (("micro", 23 if short else 203), ("small", 7 if short else 43)):
            loops = {"hand": hand(size, steps), "ours": ours(size, steps), name: contestant(size, steps, folder)}
            taken = turns(loops, 1 if short else 9, 1, clock)
            numbers = {f"{who}_ms": taken.median(who) * 1e3 for who in loops}
            added = size == "micro"
            for who, goal in (("ours", 170.0 if added else 1.02), (name, None)):
                spread = taken.extra(who, "hand") if added else taken.ratio(who, "hand")
                said = f"{'host' if who == 'ours' else name}, {size} language model"
                said += f" (beside {name})" if who == "ours" else ""
                yield Row("", said, spread, goal, numbers=numbers, unit="us" if added else "x")
