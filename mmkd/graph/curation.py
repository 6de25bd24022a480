"""Curators of whole batches: what is trained on is changed on the device, with the networks at hand."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.random import Generator
from torch import nn

from mmkd.errors import GraphError
from mmkd.graph.plan import located

if TYPE_CHECKING:
    from mmkd.graph.training_graph import TrainingGraph


def curated(graph: TrainingGraph, batch: Mapping[str, Any]) -> Mapping[str, Any]:
    """What `TrainingGraph.curate` does, schedules and precision aside."""
    if "key" not in batch:
        raise GraphError(
            "the batch has no 'key'; draws go by the keys of samples", where="data.curators",
            exists=[str(name) for name in batch], next="give every sample a key of its own",
        )  # fmt: skip
    with torch.no_grad(), evaluating(graph.nodes.values()):
        for position, curator in enumerate(graph.curators):
            with located(f"data.curators, {type(curator).__name__}"):
                batch = curator.curate(batch, graph, _generators(graph.seed, graph.steps, position))
    return batch


def _generators(seed: int, step: int, position: int) -> Callable[[str], Generator]:
    """By the key of a sample: random numbers for it, whatever the batch, the process or the micro-batch it is in."""
    return lambda key: np.random.default_rng([seed, _digest(key), step, position, _digest("curate")])


def _digest(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


@contextlib.contextmanager
def evaluating(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Evaluation mode inside; afterwards every part is in the mode that it was in."""
    training = [part for module in modules for part in module.modules() if part.training]
    for part in training:
        part.training = False
    try:
        yield
    finally:
        for part in training:
            part.training = True
