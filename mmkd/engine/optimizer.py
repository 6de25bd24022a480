"""Optimisers: one per phase, fused; and the learning rate as a function of the step."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import nn
from torch.optim import Optimizer

from mmkd.graph.training_graph import TrainingGraph
from mmkd.recipe import Train


def optimizers(graph: TrainingGraph, train: Train) -> dict[str, Optimizer]:
    """One optimiser per phase of the graph, by its name: Adam for critics, the procedure's or `train`'s for `main`."""
    made: dict[str, Optimizer] = {}
    for phase in graph.phases:
        own = graph.procedure.optimizer(phase.parameters, train) if graph.procedure and phase.name == "main" else None
        if own is not None:
            made[phase.name] = own
        elif phase.lr is not None:
            made[phase.name] = torch.optim.Adam(phase.parameters, lr=phase.lr, fused=True)
        elif train.optimizer == "adamw":
            groups = _groups(phase.parameters, train.weight_decay)
            made[phase.name] = torch.optim.AdamW(
                groups, lr=train.lr, betas=(train.betas[0], train.betas[1]), fused=True
            )
        else:
            groups = _groups(phase.parameters, train.weight_decay)
            made[phase.name] = torch.optim.SGD(groups, lr=train.lr, momentum=train.momentum, fused=True)
            if train.momentum:  # a first step that is skipped on the device would leave the buffers uninitialised
                for parameter in phase.parameters:
                    made[phase.name].state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return made


def _groups(parameters: Sequence[nn.Parameter], weight_decay: float) -> list[dict[str, object]]:
    """Biases, norms and scales (fewer than two dimensions) are not decayed; every group costs a call per step."""
    matrices = [p for p in parameters if p.dim() >= 2]
    vectors = [p for p in parameters if p.dim() < 2]
    if not weight_decay:
        return [{"params": [*matrices, *vectors], "weight_decay": 0.0}]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def learning_rate(step: int, total: int, train: Train) -> float:
    """Linear warm-up over `warmup_steps`, then constant or half a cosine down to zero (Loshchilov & Hutter, 2017)."""
    if step < train.warmup_steps:
        return train.lr * (step + 1) / train.warmup_steps
    if train.lr_schedule == "constant":
        return train.lr
    progress = (step - train.warmup_steps) / max(1, total - train.warmup_steps)
    return train.lr * 0.5 * (1.0 + math.cos(math.pi * progress))


def set_learning_rate(made: Mapping[str, Optimizer], rate: float) -> None:
    """Set the rate of the main phase; critics keep their own."""
    for group in made["main"].param_groups:
        group["lr"] = rate
