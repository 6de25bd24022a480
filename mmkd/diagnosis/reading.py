"""A look at a dataset that does not take long."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from mmkd.components import Dataset, Sample
from mmkd.engine.data import read
from mmkd.errors import MmkdError

MOST = 4096


def peek(dataset: Dataset, seconds: float) -> Iterator[Sample]:
    """Samples spread evenly over the dataset, coarsely first, until the time is up."""
    size, until = len(dataset), time.monotonic() + seconds
    stride = 1 << max(0, size - 1).bit_length()
    given = 0
    for start in _bit_reversed(stride):
        if start < size:
            with contextlib.suppress(MmkdError):  # what to do about a bad sample is the recipe's affair
                yield read(dataset, start)
            given += 1
            if given >= MOST or time.monotonic() > until:
                return


def _bit_reversed(size: int) -> Iterator[int]:
    """0, 1/2, 1/4, 3/4, 1/8, ... of `size`, a power of two: every number below it, once."""
    yield 0
    step = size
    while step > 1:
        yield from range(step // 2, size, step)
        step //= 2
