"""What the language peers share: models, sentences, the loss by hand, and laps of a whole training loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import LlamaConfig, LlamaForCausalLM

import mmkd
from mmkd.engine.optimizer import optimizers

LR, BATCH, LOG_EVERY, SKIPPED = 1e-4, 4, 10, 3
SIZES = {"micro": (64, 32, 2, 256, 16), "small": (384, 192, 4, 4096, 32)}
"""Width of the teacher and of the student, layers, words, and length of a sentence."""


class Logits(nn.Module):
    """A language model that returns the logits of what comes next."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        logits = self.network(input_ids=input_ids, attention_mask=attention_mask).logits
        return logits[:, :-1]  # type: ignore[no-any-return]


def network(width: int, layers: int, words: int, length: int) -> LlamaForCausalLM:
    """A small Llama with random weights, the same ones each time."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_size": width, "intermediate_size": 2 * width, "num_hidden_layers": layers}
    sizes |= {"num_attention_heads": width // 16, "num_key_value_heads": width // 16, "vocab_size": words}
    return LlamaForCausalLM(LlamaConfig(**sizes, max_position_embeddings=length, use_cache=False))


def pair(size: str) -> tuple[LlamaForCausalLM, LlamaForCausalLM]:
    """Teacher and student."""
    wide, narrow, layers, words, length = SIZES[size]
    teacher, student = (network(width, layers, words, length) for width in (wide, narrow))
    teacher.requires_grad_(False)
    teacher.train(False)
    student.train()
    return teacher, student


def sentences(size: str, steps: int) -> list[dict[str, Tensor]]:
    """Random words, as many as `steps` batches need."""
    *_, words, length = SIZES[size]
    made = torch.randint(3, words, (steps * BATCH, length), generator=torch.Generator().manual_seed(0))
    return [{"input_ids": row, "attention_mask": torch.ones_like(row), "labels": row} for row in made]


def collate(rows: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over tokens of KL(teacher || student)."""
    laws = F.log_softmax(student, -1), F.log_softmax(teacher, -1)
    return F.kl_div(*laws, reduction="sum", log_target=True) / student[..., 0].numel()


class Laps:
    """Times a loop from the end of its first steps to the end of its last."""

    def __init__(self) -> None:
        self.count = 0
        self.start = self.end = (0.0, 0.0)

    def lap(self) -> None:
        """A step has ended."""
        self.count += 1
        self.end = time.process_time(), time.perf_counter()
        if self.count == SKIPPED:
            self.start = self.end

    def per_step(self) -> tuple[float, float]:
        """Seconds of the processor and of the wall."""
        busy, wall = ((end - start) / (self.count - SKIPPED) for end, start in zip(self.end, self.start, strict=True))
        return busy, wall


def clock(call: Callable[[], Laps]) -> tuple[float, float]:
    """For `turns`: contestants time themselves, without what comes before their first step."""
    return call().per_step()


def hand(size: str, steps: int) -> Callable[[], Laps]:
    """The loop by hand."""
    teacher, student = map(Logits, pair(size))
    optimizer = torch.optim.AdamW(student.parameters(), lr=LR, weight_decay=0.0, fused=True)

    def step(batch: dict[str, Tensor]) -> Tensor:
        del batch["labels"]
        optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            target = teacher(**batch)
        loss = divergence(student(**batch), target)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return loss.detach()

    return lambda: looped(step, sentences(size, steps))


def ours(size: str, steps: int) -> Callable[[], Laps]:
    """The same loop around `graph.step`."""
    nodes = dict(zip(("teacher", "student"), map(Logits, pair(size)), strict=True))
    recipe = {
        **{name: {} for name in nodes},
        "losses": {"kd": {"use": "core.kl", "student": "student.logits", "teacher": "teacher.logits"}},
        "train": {"steps": steps, "lr": LR, "weight_decay": 0.0},
    }
    wrapped = {name: mmkd.wrap(node, inputs=["input_ids", "attention_mask"]) for name, node in nodes.items()}
    graph = mmkd.build(recipe, nodes=wrapped, example=collate(sentences(size, 1))).train()
    made = optimizers(graph, mmkd.load_recipe(recipe).train)
    return lambda: looped(lambda batch: graph.step(batch, made)["loss"], sentences(size, steps))


def looped(step: Callable[[dict[str, Tensor]], Tensor], rows: list[dict[str, Tensor]]) -> Laps:
    """Load, step, read the mean loss every few steps."""
    laps, seen = Laps(), []
    loader: Iterator[dict[str, Tensor]] = iter(DataLoader(rows, BATCH, shuffle=True, collate_fn=collate))  # type: ignore[arg-type]
    for batch in loader:
        seen.append(step(batch))
        if len(seen) == LOG_EVERY:
            torch.stack(seen).mean().item()
            seen.clear()
        laps.lap()
    return laps
