"""Data order: which samples make up which step, as a pure function of (seed, step)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler

from mmkd.components import Curator, Dataset, Sample
from mmkd.errors import DataError, MmkdError
from mmkd.graph.collate import Collator


class Order(Sampler[list[tuple[int, int]]]):
    """Batches of (epoch, index): a fresh permutation per epoch, the short last batch dropped, from any step on.

    Args:
        size: samples in the dataset.
        batch: samples per optimiser step (or micro-batch).
        start, stop: batches to yield, counted from the beginning of the run.
    """

    def __init__(self, size: int, batch: int, seed: int, start: int, stop: int) -> None:
        if size < batch:
            raise DataError(
                f"the training data has {size} samples, fewer than a batch of {batch}", where="data.batch_size",
                next=f"data.batch_size={size}",
            )  # fmt: skip
        self.per_epoch = size // batch
        self._size, self._batch, self._seed, self._start, self._stop = size, batch, seed, start, stop

    def __len__(self) -> int:
        return max(0, self._stop - self._start)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch, order = -1, np.empty(0, dtype=np.int64)
        for step in range(self._start, self._stop):
            if step // self.per_epoch != epoch:
                epoch = step // self.per_epoch
                order = np.random.default_rng([self._seed, epoch]).permutation(self._size)
            first = step % self.per_epoch * self._batch
            yield [(epoch, int(i)) for i in order[first : first + self._batch]]


class Curated(torch.utils.data.Dataset[dict[str, Any]]):
    """Samples as changed by the curators; a draw depends on (seed, sample key, epoch) alone."""

    def __init__(self, dataset: Dataset, curators: Sequence[Curator], seed: int) -> None:
        self.dataset, self.curators, self.seed = dataset, list(curators), seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, place: tuple[int, int]) -> dict[str, Any]:
        epoch, index = place
        sample = dict(read(self.dataset, index))
        if self.curators:
            digest = hashlib.blake2b(sample["key"].encode(), digest_size=8).digest()
            generator = np.random.default_rng([self.seed, int.from_bytes(digest, "little"), epoch])
            for curator in self.curators:
                sample = curator.apply(sample, curator.draw(generator))
        return sample


def read(dataset: Dataset, index: int) -> Sample:
    """One sample, its key filled in; an error names the sample."""
    try:
        sample = dataset[index]
    except MmkdError:
        raise
    except Exception as error:
        raise DataError(
            f"{type(error).__name__}: {error}", where=f"sample {index} of {type(dataset).__name__}"
        ) from error
    if not isinstance(sample, Mapping):
        raise DataError(
            f"a sample is a mapping from field to value, not {type(sample).__name__}",
            where=f"sample {index} of {type(dataset).__name__}",
            next="return {'image': ..., 'label': ...}",
        )
    return sample if "key" in sample else {"key": str(index), **sample}


def train_loader(data: Curated, order: Order, collator: Collator, workers: int, pin: bool) -> DataLoader[Any]:
    """Batches in the given order; the order does not depend on the number of workers."""
    return DataLoader(
        data,
        batch_sampler=order,
        collate_fn=collator,
        num_workers=workers,
        pin_memory=pin,
        generator=torch.Generator().manual_seed(data.seed),  # leaves the global generator to the networks
        multiprocessing_context="fork" if workers else None,
    )


def eval_batches(dataset: Dataset, collator: Collator, batch: int) -> Iterator[dict[str, Any]]:
    """The whole dataset in order, unchanged by curators."""
    for start in range(0, len(dataset), batch):
        yield collator([read(dataset, i) for i in range(start, min(start + batch, len(dataset)))])
