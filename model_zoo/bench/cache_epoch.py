"""An epoch with a cached teacher, and one with a live teacher, against training the student alone.

An epoch reads samples, collates, looks up or computes what the teacher says, and takes the student's steps. The
student alone has the same losses and a constant tensor for a target. Values are kept on disk: embeddings of a ResNet-50
in fp16, tokens of a ViT-S in fp16, the 50 greatest logits of a language model with 8,192 words.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import mmkd
from mmkd.datasets import streams
from mmkd.engine.data import batches
from mmkd.engine.optimizer import optimizers
from mmkd.engine.remember import remember
from mmkd.graph.collate import to_device
from model_zoo.bench.measure import Row, device, turns

GROUP = "Epoch with a cached teacher"
DEVICES = ("cpu", "cuda")
GOAL = 1.03
STEPS = 4


class Task(NamedTuple):
    """A teacher, a student, and what the one tells the other."""

    nodes: Mapping[str, Callable[[], nn.Module]]
    student: str
    teacher: str
    loss: Mapping[str, Any]
    cache: Mapping[str, Any]
    field: str
    sample: Callable[[torch.Generator], Tensor]
    batch: int


class Samples(mmkd.Dataset):
    """Samples of one field, in memory."""

    def __init__(self, task: Task, size: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.field, self.values = task.field, [task.sample(generator) for _ in range(size)]

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"key": str(index), self.field: self.values[index]}

    def manifest(self) -> list[tuple[str, Any]]:
        return [(str(index), self.field) for index in range(len(self))]


class Words(nn.Module):
    """A language model: a transformer between an embedding of 8,192 words and a head."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(8192, width), nn.Linear(width, 8192)
        layer = nn.TransformerEncoderLayer(width, 4, 4 * width, dropout=0.0, batch_first=True, norm_first=True)
        self.body = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)

    def forward(self, text: Tensor) -> Any:
        return self.head(self.body(self.embed(text)))


def _network(name: str, **options: Any) -> Callable[[], nn.Module]:
    def made() -> nn.Module:
        import timm

        network: nn.Module = timm.create_model(name, pretrained=False, **options)
        return network

    return made


def _picture(side: int) -> Callable[[torch.Generator], Tensor]:
    return lambda generator: torch.randn(3, side, side, generator=generator)


TASKS = {
    "embeddings": Task(
        {"teacher": _network("resnet50", num_classes=0), "student": _network("resnet18", num_classes=0)},
        "student.logits", "teacher.logits", {"use": "core.mse"}, {"dtype": "fp16"}, "image", _picture(64), 16,
    ),
    "tokens": Task(
        {"teacher": _network("vit_small_patch16_224", img_size=96),
         "student": _network("vit_tiny_patch16_224", img_size=96)},
        "student/blocks.11", "teacher/blocks.11", {"use": "core.mse"}, {"dtype": "fp16"}, "image", _picture(96), 16,
    ),
    "top 50 logits": Task(
        {"teacher": lambda: Words(512, 6), "student": lambda: Words(256, 4)},
        "student.logits", "teacher.logits", {"use": "core.kl"}, {"top_k": 50}, "text",
        lambda generator: torch.randint(0, 8192, (64,), generator=generator), 8,
    ),
}  # fmt: skip


def rows(short: bool) -> Iterator[Row]:
    before = os.environ.get("MMKD_CACHE")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MMKD_CACHE"] = folder
        try:
            for name, task in TASKS.items():
                if not short or name == "embeddings":
                    yield _row(name, task, short)
        finally:
            os.environ.pop("MMKD_CACHE") if before is None else os.environ.__setitem__("MMKD_CACHE", before)


def _row(name: str, task: Task, short: bool) -> Row:
    data = Samples(task, STEPS * task.batch)
    alone, cached, live = (epoch(task, kind, data) for kind in ("alone", "cached", "live"))
    taken = turns({"alone": alone, "cached": cached}, 4 if short else 9, warmup=1)
    beside = turns({"alone": alone, "live": live}, 1 if short else 2, warmup=0).ratio("live", "alone").median
    numbers = {"live": beside, "alone_ms": taken.median("alone") * 1e3}
    note = f"of training the student alone; with a live teacher {beside:.2f}"
    return Row(GROUP, name, taken.ratio("cached", "alone"), GOAL, numbers=numbers, note=note)


def epoch(task: Task, kind: str, data: mmkd.Dataset) -> Callable[[], object]:
    """An epoch of training with a `cached` or `live` teacher, or the student `alone`."""
    torch.manual_seed(0)
    nodes = {role: make() for role, make in task.nodes.items() if kind != "alone" or role == "student"}
    nodes = {role: mmkd.wrap(node, inputs=[task.field]) for role, node in nodes.items()}
    said = task.teacher if kind != "alone" else "batch.target"
    up: dict[str, Any] = {"up": {"use": "core.linear", "input": task.student, "like": said}}
    projected = task.loss["use"] == "core.mse"
    loss = {**task.loss, "student": "up" if projected else task.student, "teacher": said}
    teacher = {"teacher": {"cache": dict(task.cache)} if kind == "cached" else {}}
    recipe = mmkd.load_recipe({
        **(teacher if kind != "alone" else {}), "student": {}, "projectors": up if projected else {},
        "losses": {"loss": loss}, "data": {"batch_size": task.batch},
        "train": {"steps": 1000, "lr": 1e-4, "optimizer": "sgd", "device": device().type},
    })  # fmt: skip
    first = {task.field: torch.stack([data[i][task.field] for i in range(task.batch)])}
    target = None
    if kind == "alone":
        target = _target(task, first)
        first["target"] = target
    graph = mmkd.build(recipe, nodes=nodes, data={"train": data}, example=first)
    drawn = streams(recipe, graph.plan, {"train": data})
    remember(graph, recipe, drawn)
    made, collator = optimizers(graph, recipe.train), graph.collator(remembered=True)

    def run() -> None:
        for batch in batches(drawn, collator, 0, STEPS):
            moved = to_device(batch if target is None else {**batch, "target": target}, graph.device)
            graph.step(moved, made)

    return run


def _target(task: Task, first: Mapping[str, Tensor]) -> Tensor:
    """A tensor as the teacher would give it."""
    same = {**task.loss, "student": task.teacher, "teacher": task.teacher}
    graph = mmkd.build(
        {"teacher": {}, "student": {}, "losses": {"loss": same}},
        nodes={role: mmkd.wrap(task.nodes["teacher"](), inputs=[task.field]) for role in ("teacher", "student")},
        example=first,
    )  # fmt: skip
    with torch.no_grad():
        return graph.values(first, [task.teacher])[task.teacher].clone().to(device())
