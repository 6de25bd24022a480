"""The processes that torchrun has started, as the ranks of one run."""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import distributed

from mmkd.engine.stream import Stream
from mmkd.errors import RecipeError
from mmkd.graph import ranks
from mmkd.graph.training_graph import TrainingGraph


@contextlib.contextmanager
def joined(device: str) -> Iterator[None]:
    """Inside, this process is a rank of the group that torchrun has started; nothing happens where there is none.

    An error on one rank ends all of them: the first that meets one raises it, the others leave without a word.

    Args:
        device: `train.device`; every rank of a machine has a GPU of its own.

    Raises:
        RecipeError: there are fewer GPUs than processes.
    """
    started = int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ
    if not started or not distributed.is_available() or distributed.is_initialized():
        yield
        return
    cuda = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
    distributed.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo")
    try:
        if cuda:
            _take_gpu(device)
        yield
    except BaseException as error:
        if not _first():
            raise SystemExit(1) from error
        raise
    finally:
        distributed.destroy_process_group()


def _first() -> bool:
    """Whether no other rank has failed before; the store may be gone with the rank that kept it."""
    try:
        failed: int = distributed.distributed_c10d._get_default_store().add("mmkd/failed", 1)
    except Exception:
        return False
    return failed == 1


def _take_gpu(device: str) -> None:
    own, there = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if device.partition(":")[2]:
        raise RecipeError(
            f"is one device for {ranks.world()} processes", where="train.device", next="train.device=cuda"
        )
    if own >= there:
        raise RecipeError(
            f"there are {there} GPUs for {os.environ.get('LOCAL_WORLD_SIZE', own + 1)} processes of this machine",
            where="train.device", next=f"torchrun --nproc-per-node {there}, or train.device=cpu",
        )  # fmt: skip
    torch.cuda.set_device(own)


def begin(graph: TrainingGraph, streams: Sequence[Stream], seed: int) -> None:
    """Start every rank from the weights of the first, with random numbers of its own.

    Raises:
        RecipeError: a rank would have no sample of a batch.
    """
    if ranks.world() == 1:
        return
    for stream in streams:
        if stream.batch < ranks.world():
            size = f"{stream.where}.batch_size" if stream.name else "data.batch_size"
            raise RecipeError(
                f"a batch of {stream.batch} has no sample for each of {ranks.world()} processes", where=size,
                next=f"{size}={ranks.world()} or more, or fewer processes",
            )  # fmt: skip
    ranks.broadcast(graph)
    if ranks.rank():
        own = int(np.random.SeedSequence([seed, ranks.rank()]).generate_state(1)[0])
        random.seed(own)
        np.random.seed(own)
        torch.manual_seed(own)
