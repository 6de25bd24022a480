"""Sounds of like length in one batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from numpy.random import Generator
from pydantic import Field

import mmkd
from mmkd.errors import DataError


class Bucketed(mmkd.Dataset):
    """Another dataset in an order that puts sounds of like length into one batch, so that little is padded.

    Every epoch is shuffled, cut into windows of some batches, each window is sorted by length and cut into batches, and
    the batches of all windows are shuffled. A window of all samples pads least and mixes least. Lengths are read once,
    when the first order is asked for, from the dataset's `seconds(index)`.

    Args:
        dataset: sounds, as `audio.folder`, `audio.webdataset` or `audio.espeak`.
        batch_size: samples of a batch, as in `data.batch_size`.
        window: batches that are sorted together.

    Raises:
        DataError: the dataset does not say how long its samples are.
    """

    def __init__(
        self,
        dataset: mmkd.Dataset,
        batch_size: Annotated[int, Field(gt=0)],
        window: Annotated[int, Field(gt=0)] = 32,
    ) -> None:
        if not callable(getattr(dataset, "seconds", None)):
            raise DataError(
                f"{type(dataset).__name__} has no method seconds(index), which says how long a sample lasts",
                where="audio.bucketed.dataset", next="use: audio.folder",
            )  # fmt: skip
        self.dataset, self.batch_size, self.window = dataset, batch_size, window
        self.license = dataset.license
        self._lengths: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> mmkd.Sample:
        return self.dataset[index]

    def manifest(self) -> Sequence[tuple[str, Any]] | None:
        return self.dataset.manifest()

    def seconds(self, index: int) -> float:
        """How long a sample lasts."""
        return float(self.dataset.seconds(index))  # type: ignore[attr-defined]

    def order(self, generator: Generator) -> np.ndarray:
        if self._lengths is None:
            self._lengths = np.array([self.seconds(i) for i in range(len(self))])
        order = generator.permutation(len(self)).astype(np.int64)
        window = np.arange(len(order)) // (self.batch_size * self.window)
        order = order[np.lexsort((self._lengths[order], window))]
        whole = len(order) - len(order) % self.batch_size
        batches = order[:whole].reshape(-1, self.batch_size)
        return np.concatenate([generator.permutation(batches).reshape(-1), generator.permutation(order[whole:])])
