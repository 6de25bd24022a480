"""What the host costs beside a loop written by hand, what early stops save, and what `import mmkd` takes.

    python model_zoo/bench/host.py --short
    python model_zoo/bench/host.py --json host.json

Both loops run the same networks, losses and fused optimiser on null models, where the host is all there is to
measure. They take turns (hand, graph, step, step, graph, hand) without garbage collection. Times are processor time
of the one thread, so that other processes count little; numbers are medians and quartiles over turns. `graph` is
`graph(batch)["loss"].backward()` in one's own loop, `step` is `graph.step(batch, optimizers)`, which also looks for
non-finite gradients.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import mmkd
from mmkd.engine.optimizer import optimizers

FIXED, EACH = 50.0, 10.0
"""Budget in microseconds: per step, and per tap or loss."""


class Null(nn.Module):
    """Layers that cost next to nothing."""

    def __init__(self, depth: int = 8, width: int = 4) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))

    def forward(self, image: Tensor) -> Tensor:
        for layer in self.layers:
            image = layer(image)
        return image


@dataclass
class Spread:
    """Median and quartiles."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, numbers: Sequence[float]) -> Spread:
        low, median, high = statistics.quantiles(numbers, n=4)
        return cls(median, low, high)

    def __str__(self) -> str:
        return f"{self.median:.0f} [{self.low:.0f}, {self.high:.0f}]"


def turns(loops: Sequence[Callable[[], object]], rounds: int) -> list[list[float]]:
    """Microseconds of each loop, once there and once back per round."""
    for loop in loops:
        for _ in range(20):
            loop()
    taken: list[list[float]] = [[] for _ in loops]
    order = [*range(len(loops)), *reversed(range(len(loops)))]
    gc.collect()
    gc.disable()
    try:
        for _ in range(rounds):
            spent = [0.0] * len(loops)
            for i in order:
                start = time.thread_time_ns()
                loops[i]()
                spent[i] += time.thread_time_ns() - start
            for i, nanoseconds in enumerate(spent):
                taken[i].append(nanoseconds / 2000)
    finally:
        gc.enable()
    return taken


def overhead(losses: int, tapped: bool, rounds: int) -> dict[str, Any]:
    """One row: `losses` mean squared errors, on the output or each on one of the last layers."""
    student, teacher = Null(), Null()
    first = len(student.layers) - losses  # the last layer is always read, so that no pass is cut short
    reads = [f"student/layers.{first + i}" if tapped else "student.logits" for i in range(losses)]
    recipe = {
        "student": {},
        "teacher": {},
        "losses": {
            f"l{i}": {"use": "core.mse", "student": value, "teacher": "teacher.logits"} for i, value in enumerate(reads)
        },
        "train": {"steps": rounds},
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

    def step() -> None:
        graph.step(batch, made)

    by_hand, by_graph, by_step = turns([hand, own, step], rounds)
    return {
        "losses": losses,
        "taps": losses if tapped else 0,
        "hand": asdict(Spread.of(by_hand)),
        "graph": asdict(Spread.of([a - b for a, b in zip(by_graph, by_hand, strict=True)])),
        "step": asdict(Spread.of([a - b for a, b in zip(by_step, by_hand, strict=True)])),
        "budget": FIXED + EACH * losses * (2 if tapped else 1),
    }


def early_stop(name: str, size: int, taps: Sequence[str], rounds: int) -> list[dict[str, Any]]:
    """Rows of one network: a pass that stops at each tap against the full one."""
    import timm

    options: dict[str, Any] = {"img_size": size} if "vit" in name else {}
    network = timm.create_model(name, pretrained=False, **options).eval()
    image = torch.randn(2, 3, size, size)
    recipe = {
        "student": {},
        "teacher": {},
        "losses": {"l": {"use": "core.mse", "student": "student.logits", "teacher": "student.logits"}},
    }
    batch = {"image": image, "small": torch.randn(2, 4)}
    nodes = {"teacher": mmkd.wrap(network), "student": mmkd.wrap(Null(), inputs=["small"])}
    graph = mmkd.build(recipe, nodes=nodes, example=batch)

    def full() -> None:
        with torch.no_grad():
            network(image)

    rows = []
    for tap in taps:
        plan = graph.reading([f"teacher/{tap}"])
        plan.run(batch)  # the first pass is a full one
        by_hand, stopped = turns([full, lambda plan=plan: plan.run(batch)], rounds)  # type: ignore[misc]
        plan.close()
        rows.append(
            {
                "network": name,
                "tap": tap,
                "full": asdict(Spread.of(by_hand)),
                "stopped": asdict(Spread.of(stopped)),
                "ratio": asdict(Spread.of([a / b for a, b in zip(stopped, by_hand, strict=True)])),
            }
        )
    return rows


def import_time(times: int) -> dict[str, float]:
    """Milliseconds of `import mmkd` in fresh processes."""
    code = "import time; t = time.perf_counter(); import mmkd; print((time.perf_counter() - t) * 1e3)"
    taken = [float(subprocess.check_output([sys.executable, "-c", code], text=True)) for _ in range(times)]
    return asdict(Spread.of(taken))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="fewer rounds and rows")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results here too")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rounds = 100 if given.short else 1000

    print(f"microseconds per step: median [quartiles]; torch {torch.__version__}, {platform.machine()}, one thread\n")
    print(f"{'losses':>6} {'taps':>4} {'by hand':>20} {'graph adds':>20} {'step adds':>20} {'budget':>7}")
    steps = []
    for tapped in (False, True):
        for losses in (1, 8) if given.short else (1, 2, 4, 8):
            row = overhead(losses, tapped, rounds)
            steps.append(row)
            cells = [str(Spread(**row[key])) for key in ("hand", "graph", "step")]
            print(f"{losses:>6} {row['taps']:>4} " + " ".join(f"{c:>20}" for c in cells) + f" {row['budget']:>7.0f}")

    print(f"\n{'early stop':<24} {'tap':<10} {'full us':>22} {'stopped us':>22} {'ratio':>6}")
    stops = []
    networks = [
        ("vit_small_patch16_224", 96, ["blocks.2", "blocks.5", "blocks.8"]),
        ("resnet50", 96, ["layer1", "layer2", "layer3"]),
    ]
    for name, size, taps in networks:
        for row in early_stop(name, size, taps, 5 if given.short else 30):
            stops.append(row)
            full, stopped = Spread(**row["full"]), Spread(**row["stopped"])
            print(f"{name:<24} {row['tap']:<10} {full!s:>22} {stopped!s:>22} {row['ratio']['median']:>6.2f}")

    milliseconds = import_time(3 if given.short else 9)
    print(f"\nimport mmkd: {milliseconds['median']:.0f} ms")
    if given.json:
        where = {"torch": torch.__version__, "python": platform.python_version(), "machine": platform.machine()}
        results = {"environment": where, "steps": steps, "early_stop": stops, "import_ms": milliseconds}
        given.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
