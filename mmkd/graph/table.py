"""Rows of kept values: what a node may publish without being run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor


class Table(Protocol):
    """What a pass of a constant node makes of every training sample and replica of its draws."""

    @property
    def replicas(self) -> int:
        """Rows of each sample; 1 where no draw changes what the node reads."""

    def row(self, key: str, replica: int = 0) -> int:
        """The row of a sample under the draws of a replica.

        Raises:
            GraphError: the table holds no such row.
        """

    def read(self, rows: Tensor | Sequence[int]) -> dict[str, Tensor]:
        """The values of a batch of rows, each in one gather, by address without node and view (`.logits`).

        Shape:
            rows: `[B]` int64; values: `[B, ...]`, ragged ones padded with zeros to the longest of the batch.
        """
