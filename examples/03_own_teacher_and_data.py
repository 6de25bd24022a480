"""Your own networks, your own data, your own loop: the graph is one `nn.Module` that turns a batch into losses.

A convolutional network, trained on 1,347 labelled digits, teaches a network of 1,210 parameters that is shown 100 of
the labels. Nothing here is registered anywhere. Half a minute.
"""

from __future__ import annotations

import argparse

import torch
from digits import LABELLED, Digits, accuracy, fit, student, teacher
from torch.utils.data import DataLoader

import mmkd

RECIPE = {
    "teacher": {},  # both are handed in below
    "student": {},
    "losses": {
        "label": {"use": "core.cross_entropy", "student": "student.logits", "mask": "batch.labelled"},
        "kd": {"use": "core.kl", "student": "student.logits", "teacher": "teacher.logits", "temperature": 4},
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1500, help="optimiser steps of every network")
    steps = parser.parse_args().steps

    taught, teaching, data = student(), teacher(steps=steps), Digits()
    graph = mmkd.build(RECIPE, nodes={"teacher": teaching, "student": taught}, data={"train": data})

    shuffled = torch.Generator().manual_seed(0)
    loader = DataLoader(data, batch_size=64, shuffle=True, drop_last=True, collate_fn=graph.collate, generator=shuffled)
    optimizer = torch.optim.AdamW([p for p in graph.parameters() if p.requires_grad], lr=3e-3)
    graph.train()  # the teacher stays frozen and in evaluation mode
    while graph.steps < steps:
        for batch in loader:
            out = graph(batch)  # {"loss": ..., "label_loss": ..., "kd_loss": ...}
            optimizer.zero_grad()
            out["loss"].backward()
            optimizer.step()
            graph.update()
            if graph.steps % 300 == 0 or graph.steps == steps:
                print(f"step {graph.steps}: " + ", ".join(f"{name} {value:.3f}" for name, value in out.items()))
            if graph.steps == steps:
                break

    alone = fit(student(), steps, LABELLED)
    print(f"right on 450 test digits: teacher {accuracy(teaching):.1f}%, student {accuracy(taught):.1f}%", end="")
    print(f", the same student on {LABELLED} labels without the teacher {accuracy(alone):.1f}%")


if __name__ == "__main__":
    main()
