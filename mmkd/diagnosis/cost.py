"""What a step costs: time of a few real ones, memory by count."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from mmkd.diagnosis.examination import Examination
from mmkd.diagnosis.finding import Finding
from mmkd.engine.memory import MemoryTable
from mmkd.engine.optimizer import optimizers
from mmkd.recipe import Recipe

STEPS, SECONDS = 3, 5.0
"""Steps that are taken, and the time after which no further one is begun."""


def cost(exam: Examination, measured: dict[str, Any]) -> Iterator[Finding]:
    """Take a few steps on the examined copy, which is spent afterwards; yields an error where memory cannot do.

    Memory is weights, gradients, optimiser state and what the backward pass keeps, the latter counted on the
    examined batch and scaled to the recipe's. Time is that of a step on the examined batch, scaled likewise.
    """
    graph, train = exam.graph, exam.recipe.train
    if train.steps is None and train.epochs is None:
        return
    kept = _kept(exam)
    parts = exam.recipe.data.batch_size / train.gradient_accumulation_steps
    held = {id(t): t for t in (*graph.parameters(), *graph.buffers())}
    weights = sum(t.numel() * t.element_size() for t in held.values())
    trained = sum(p.numel() * p.element_size() for phase in graph.phases for p in phase.parameters)
    states = 2 if train.optimizer == "adamw" else int(train.momentum > 0)
    memory = int(weights + trained * (1 + states) + kept * max(1, train.kept_graphs) * parts / exam.size)
    batch = _remembered(exam)
    made = optimizers(graph, train)
    times: list[float] = []
    while len(times) < STEPS and sum(times) < SECONDS:
        started = time.perf_counter()
        graph.step(batch, made, max_grad_norm=train.max_grad_norm)
        if graph.device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    each = statistics.median(times[1:] or times) / exam.size
    measured |= {
        "device": str(graph.device),
        "samples_per_second": round(1 / each, 1),
        "step_seconds": round(each * exam.recipe.data.batch_size, 4),
        "run_seconds": round(each * exam.recipe.data.batch_size * graph.total_steps, 1),
        "memory_bytes": memory,
        "batch_size": exam.recipe.data.batch_size,
        "measured_on": exam.size,
        "attention": graph.decided.get("attention", "the network's own"),
    }
    there = _memory(graph.device)
    if there and memory > there:
        what = f"a step needs about {memory / 2**30:.1f} GiB, and {graph.device} has {there / 2**30:.1f} GiB"
        yield Finding("error", what, "data.batch_size", _smaller(exam.recipe))


def _remembered(exam: Examination) -> dict[str, Any]:
    """The batch as it is in the run, where the outputs of some networks are not computed but looked up."""
    batch = dict(exam.batch)
    for node in exam.constants():
        for run in exam.graph.plan.runs if node.cache else ():
            if run.node is node and run.makes:
                answers = exam.answers(node, exam.batch)
                values = {key.removeprefix(run.id): answers[key] for key in run.makes}
                batch[run.id] = {"row": list(range(exam.size))}
                node.tables[run.view] = MemoryTable.of([str(sample["key"]) for sample in exam.samples], values)
    return batch


def _kept(exam: Examination) -> int:
    """Bytes that the backward pass of one batch keeps of the forward pass, weights aside."""
    own = {t.untyped_storage().data_ptr() for t in (*exam.graph.parameters(), *exam.graph.buffers())}
    sizes: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        values = exam.graph.compute(exam.batch)
        held = [term(values) for term in exam.graph.terms]
    del values, held
    return sum(sizes.values())


def _memory(device: torch.device) -> int | None:
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    if device.type == "cpu" and "SC_PHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


def _smaller(recipe: Recipe) -> str:
    return f"data.batch_size={max(1, recipe.data.batch_size // 4)}, or train.gradient_accumulation_steps=4"
