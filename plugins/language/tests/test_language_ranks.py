"""GKD on two ranks: what is written in the step, and the gradient of it, are those of one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from language_models import model, rolled, samples
from torch import distributed

import mmkd

STEPS = 3


def run(rank: int | None) -> dict[str, Any]:
    graph = rolled(model(1), model(2), fraction=0.5)
    optimizers = mmkd.optimizers(graph, mmkd.Train(steps=STEPS, optimizer="sgd", lr=0.1))
    found: dict[str, Any] = {}
    own = samples() if rank is None else samples()[:5] if rank == 0 else samples()[5:]
    made = graph.collate(own)
    found["texts"] = list(graph.curate(made)["target"])
    for step in range(STEPS):
        out = graph.step(made, optimizers)
        found |= {f"{name} {step}": value.clone() for name, value in out.items()}
        if step == 0:
            found["gradient"] = [p.grad.clone() for p in graph.parameters() if p.grad is not None]
    found["weights"] = [p.detach().clone() for p in graph.nodes["student"].parameters()]
    return found


def _process(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    torch.save(run(rank), f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


def test_rollouts_and_gradients_are_those_of_one_process(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(_process, (str(tmp_path),), nprocs=2)
    two = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    alone = run(None)
    assert two[0].pop("texts") + two[1].pop("texts") == alone.pop("texts")
    for found in two:
        torch.testing.assert_close(found, alone, rtol=0, atol=1e-6)
