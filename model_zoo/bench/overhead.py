"""What the host costs beside a loop written by hand, on null models where the host is all there is, and `import mmkd`.

Both loops run the same networks, losses and fused optimiser. `graph` is `graph(batch)["loss"].backward()` in one's own
loop, `step` is `graph.step(batch, optimizers)`, which also looks for non-finite gradients. The number is what a step
takes beyond the loop by hand, in microseconds; the goal is 50 and 10 more per tap or loss.

A turn is a step that brings the loop's own code back into the caches, then some that are timed, as a training loop
makes them. With turns of one step a loop that runs twice in a row, as the first and the last of a round do, comes out
tens of microseconds faster than the same loop in the middle.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

import mmkd
from mmkd.engine.optimizer import optimizers
from model_zoo.bench.measure import Row, Spread, turns

GROUP = "Host work per step"
FIXED, EACH = 50.0, 10.0
"""Budget in microseconds: per step, and per tap or loss."""
STEPS = 10
"""Steps of a turn that are timed."""
IMPORT = "import time; t = time.perf_counter(); import mmkd; print((time.perf_counter() - t) * 1e3)"


class Null(nn.Module):
    """Layers that cost next to nothing."""

    def __init__(self, depth: int = 8, width: int = 4) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))

    def forward(self, image: Tensor) -> Tensor:
        for layer in self.layers:
            image = layer(image)
        return image


def contestants(losses: int, tapped: bool) -> dict[str, Callable[[], object]]:
    """The three loops over `losses` mean squared errors, on the output or each on one of the last layers."""
    torch.manual_seed(0)
    student, teacher = Null(), Null()
    first = len(student.layers) - losses  # the last layer is always read, so that no pass is cut short
    reads = [f"student/layers.{first + i}" if tapped else "student.logits" for i in range(losses)]
    recipe = {
        "student": {},
        "teacher": {},
        "losses": {
            f"l{i}": {"use": "core.mse", "student": value, "teacher": "teacher.logits"} for i, value in enumerate(reads)
        },
        "train": {"steps": 1000},
    }
    batch = {"image": torch.randn(2, 4)}
    graph = mmkd.build(recipe, nodes={"student": student, "teacher": teacher}, example=batch)
    made = optimizers(graph, mmkd.load_recipe(recipe).train)
    optimizer, image = made["main"], batch["image"]
    functions = [term.loss for term in graph.terms]

    def hand() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            target = teacher(image)
        if tapped:
            hidden, seen = image, []
            for i, layer in enumerate(student.layers):
                hidden = layer(hidden)
                if i >= first:
                    seen.append(hidden)
        else:
            seen = [student(image)] * losses
        loss = functions[0](seen[0], target).mean()
        for i in range(1, losses):
            loss = loss + functions[i](seen[i], target).mean()
        loss.backward()
        optimizer.step()

    def own() -> None:
        optimizer.zero_grad(set_to_none=True)
        graph(batch)["loss"].backward()
        optimizer.step()
        graph.update()

    return {"hand": hand, "graph": own, "step": lambda: graph.step(batch, made)}


def rows(short: bool) -> Iterator[Row]:
    for tapped in (False, True):
        for losses in (1, 8) if short else (1, 2, 4, 8):
            taken = turns(contestants(losses, tapped), 50 if short else 200, warmup=20, clock=steady)
            budget = FIXED + EACH * losses * (2 if tapped else 1)
            what = f"{losses} loss{'es' * (losses > 1)}{f' on {losses} taps' if tapped and losses > 1 else ''}"
            what += " on a tap" if tapped and losses == 1 else ""
            for name in ("graph", "step"):
                numbers = {"hand_us": round(taken.median("hand") * 1e6, 1)}
                yield Row(GROUP, f"{name}, {what}", taken.extra(name, "hand"), budget, numbers=numbers, unit="us")
    yield Row(GROUP, "import mmkd", Spread.of(imports(3 if short else 9)), unit="ms")


def steady(step: Callable[[], object]) -> tuple[float, float]:
    """Seconds of one step among others of the same loop: of the processor, and of the wall."""
    step()
    wall, busy = time.perf_counter_ns(), time.process_time_ns()
    for _ in range(STEPS):
        step()
    busy, wall = time.process_time_ns() - busy, time.perf_counter_ns() - wall
    return busy / STEPS / 1e9, wall / STEPS / 1e9


def imports(times: int) -> list[float]:
    """Milliseconds of `import mmkd` in fresh processes."""
    return [float(subprocess.check_output([sys.executable, "-c", IMPORT], text=True)) for _ in range(times)]
