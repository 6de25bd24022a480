"""What a step dispatches: nothing that makes the host wait for the device, and no work that nobody reads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from graph.nets import CLASSES, KD, WIDTH, batch, build, made, mlp
from torch.utils._python_dispatch import TorchDispatchMode

SYNC = ("_local_scalar_dense", "nonzero", "item", "is_nonzero", "equal", "unique", "masked_select")


class Dispatched(TorchDispatchMode):
    """Counts operators by name."""

    def __init__(self) -> None:
        super().__init__()
        self.times: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        self.times[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


STEPS: dict[str, dict[str, Any]] = {
    "kd": {},
    "bf16": {"train": {"steps": 9, "precision": "bf16"}},
    "taps": {"losses": {f"l{i}": {"use": "core.mse", "student": f"student/{i}", "teacher": f"teacher/{i}"}
                        for i in range(3)}},
    "formed": {"teacher": {"precision": "bf16"}},
    "average": {"teacher": {"average": {"of": "student"}}},
    "schedule": {"losses": {"kd": {**KD["kd"], "weight": {"use": "core.cosine", "start": 1.0, "end": 0.1}}}},
}  # fmt: skip


@pytest.mark.parametrize("name", STEPS)
def test_a_step_reads_back_whether_it_is_skipped_and_that_only_where_it_is_on_the_cpu(name: str) -> None:
    recipe = dict(STEPS[name])
    nodes = {"student": mlp(WIDTH, 8, CLASSES), "teacher": mlp(WIDTH, 8, CLASSES, seed=1)}
    if "average" in recipe.get("teacher", {}):
        del nodes["teacher"]
    graph = build(recipe.pop("losses", KD), nodes, **recipe)
    optimizers = made(graph)
    for _ in range(2):
        graph.step(batch(), optimizers, max_grad_norm=1.0)
    with Dispatched() as seen:
        graph.step(batch(), optimizers, max_grad_norm=1.0)
    waits = {operator: times for operator, times in seen.times.items() if operator in SYNC}
    assert waits.pop("_local_scalar_dense", 0) <= 2  # by the phase and by the count of steps; a GPU keeps it
    assert not waits


def test_a_pass_without_gradient_reads_nothing_back() -> None:
    graph = build()
    with Dispatched() as seen:
        graph(batch())["loss"].backward()
    assert not seen.times.keys() & set(SYNC)


@pytest.mark.parametrize(("tap", "products"), [("teacher/0", 1), ("teacher/4", 3), ("teacher.logits", 4)])
def test_products_of_a_step_are_those_of_what_is_read(tap: str, products: int) -> None:
    teacher = mlp(WIDTH, 5, 5, 5, 5)
    idle = mlp(WIDTH, 5, 5)
    unread = {"use": "core.linear", "input": "idle.logits", "like": "teacher.logits"}
    graph = build({"hint": {"use": "core.mse", "student": "student.logits", "teacher": tap}},
                  {"student": mlp(WIDTH, 5), "teacher": teacher, "idle": idle},
                  teachers={"teacher": {}, "idle": {}}, projectors={"unread": unread})  # fmt: skip
    with torch.no_grad(), Dispatched() as seen:
        graph(batch())
    assert seen.times["addmm"] == 1 + products  # the student's, and the teacher's down to the tap
