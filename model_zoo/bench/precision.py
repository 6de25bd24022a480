"""Precision, layout and compilation of a teacher: whole steps with them against the fp32 step.

ResNet-50 teaches ResNet-18 on eight pictures of 64 pixels: KL of logits, SGD with momentum, one line of the recipe
changed. The drift that the graph measures of the teacher's logits stands beside each number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

import mmkd
from mmkd.engine.optimizer import optimizers
from mmkd.graph.form import computes
from model_zoo.bench.measure import Row, device, turns

GROUP = "Precision and layout of a teacher"
DEVICES = ("cpu", "cuda")
GOALS: dict[str, float | None] = {
    "channels_last": None, "bf16": None, "bf16, channels_last": 0.75, "bf16, channels_last, student bf16": 0.55,
    "bf16, channels_last, compiled": None,
}  # fmt: skip
FORMS: dict[str, dict[str, Any]] = {
    "fp32": {}, "channels_last": {"layout": "channels_last"}, "bf16": {"precision": "bf16"},
    "bf16, channels_last": {"precision": "bf16", "layout": "channels_last"},
    "bf16, channels_last, student bf16": {"precision": "bf16", "layout": "channels_last"},
    "bf16, channels_last, compiled": {"precision": "bf16", "layout": "channels_last", "compile": True},
}  # fmt: skip


def rows(short: bool) -> Iterator[Row]:
    imitated = device().type == "cpu" and not computes("bf16")
    left_out = ("compiled", *(["bf16"] if imitated else [])) if short else ()  # imitated, each is many steps long
    names = [name for name in FORMS if not any(word in name for word in left_out)]
    made = {name: step(FORMS[name], half="student bf16" in name) for name in names}
    taken = turns({name: call for name, (call, _) in made.items()}, 3 if short else 12)
    for name in names[1:]:
        numbers = {"fp32_ms": taken.median("fp32") * 1e3, "drift": made[name][1].get("teacher.logits")}
        goal, note = GOALS[name], "of the fp32 step"
        if imitated and "bf16" in name:
            goal, note = None, f"{note}; no goal here: this processor has no bf16 arithmetic and imitates it"
        yield Row(GROUP, name, taken.ratio(name, "fp32"), goal, numbers=numbers, note=note)


def step(teacher: dict[str, Any], *, half: bool = False) -> tuple[Callable[[], object], dict[str, float]]:
    """One training step with a teacher in a form, and how far its values are from fp32."""
    import timm

    torch.manual_seed(0)
    nodes = {
        "teacher": timm.create_model("resnet50", pretrained=False, num_classes=10),
        "student": timm.create_model("resnet18", pretrained=False, num_classes=10),
    }
    train = {"steps": 100, "optimizer": "sgd", "lr": 1e-4, "device": device().type}
    recipe = {
        "teacher": teacher,
        "student": {},
        "losses": {"kd": {"use": "core.kl", "student": "student.logits", "teacher": "teacher.logits"}},
        "train": {**train, "precision": "bf16" if half else "fp32"},
    }
    batch = {"image": torch.randn(8, 3, 64, 64).to(device())}
    graph = mmkd.build(recipe, nodes=nodes, example=batch)
    made = optimizers(graph, mmkd.load_recipe(recipe).train)
    return lambda: graph.step(batch, made), dict(graph.drift.get("teacher", {}))
