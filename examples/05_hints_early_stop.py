"""Hints from the middle of a deep teacher (FitNets: Romero et al., 2015), which is not run any further than that.

A student learns first to match what a hint layer of the teacher says, then the teacher's answers. In the first stage
the graph ends the teacher's pass at the hint layer; what that saves is measured here. A minute.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import torch
from digits import Digits, accuracy, teacher
from torch import nn

import mmkd

DEPTH, HINT = 12, 2  # the hint layer is the third of twelve convolutions

HINTS: dict[str, Any] = {
    "teacher": {},
    "student": {},
    "projectors": {"up": {"use": "core.linear", "input": "student/1", "like": f"teacher/{HINT}"}},
    "losses": {"hint": {"use": "core.mse", "student": "up", "teacher": f"teacher/{HINT}"}},
}
ANSWERS: dict[str, Any] = {
    "teacher": {},
    "student": {},
    "losses": {
        "kd": {"use": "core.kl", "student": "student.logits", "teacher": "teacher.logits", "temperature": 4},
    },
}


def student() -> nn.Module:
    """Two narrow convolutions; the second is the guided layer."""
    torch.manual_seed(0)
    layers = [nn.Sequential(nn.Conv2d(i, 8, 3, padding=1), nn.ReLU()) for i in (1, 8)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 10))


def train(graph: mmkd.TrainingGraph, steps: int) -> None:
    """Steps of 64 digits, with a line of progress."""
    data = Digits()
    optimizer = torch.optim.AdamW([p for p in graph.parameters() if p.requires_grad], lr=3e-3)
    for step in range(steps):
        rows = torch.randint(len(data), (64,), generator=torch.Generator().manual_seed(step))
        out = graph({"image": data.images[rows], "label": data.labels[rows]})
        optimizer.zero_grad()
        out["loss"].backward()
        optimizer.step()
        graph.update()
        if (step + 1) % max(1, steps // 3) == 0:
            print(f"  step {step + 1}: loss {out['loss']:.3f}", flush=True)


def milliseconds(graph: mmkd.TrainingGraph, addresses: list[str], repeats: int = 20) -> float:
    """Median time in which these values of 256 digits are had."""
    batch = {"image": Digits().images[:256]}
    plan = graph.reading(addresses)
    times = []
    with torch.no_grad():
        plan.learn(batch)
        for _ in range(repeats):
            started = time.perf_counter()
            plan.run(batch)
            times.append(time.perf_counter() - started)
    plan.close()
    return 1000 * statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300, help="optimiser steps of each stage")
    steps = parser.parse_args().steps

    print("training the teacher", flush=True)
    teaching = teacher(depth=DEPTH, steps=min(steps, 200))
    right = {}
    for name in ("answers", "hints, then answers"):
        print(name)
        nodes = {"teacher": teaching, "student": student()}
        if name != "answers":
            graph = mmkd.build(HINTS, nodes=nodes, data={"train": Digits()})
            train(graph, steps)
        train(mmkd.build(ANSWERS, nodes=nodes, data={"train": Digits()}), steps)
        right[name] = accuracy(nodes["student"])
    hint = f"teacher/{HINT}"
    short, whole = milliseconds(graph, [hint]), milliseconds(graph, [hint, "teacher.logits"])
    print(
        f"teacher's pass for the hint: {short:.1f} ms; the whole pass: {whole:.1f} ms ({1 - short / whole:.0%} saved)"
    )
    print(f"right on 450 test digits: teacher {accuracy(teaching):.1f}%, student ", end="")
    print(", ".join(f"{value:.1f}% ({name})" for name, value in right.items()))


if __name__ == "__main__":
    main()
