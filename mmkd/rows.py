"""What a metric remembers of the batches it has seen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mmkd.errors import DataError


class Rows:
    """A column of numbers or ids, one row a sample: kept as it came, without gradient, and joined on demand.

    A metric that keeps all it has seen in attributes of this class needs neither `reset` nor `merge`:

        self.hits = mmkd.Rows("barlow.accuracy")
        self.hits.add(student.argmax(-1) == label)      # in forward
        self.hits.joined().double().mean().item()       # in compute

    Args:
        component: id of the metric, for errors.
    """

    def __init__(self, component: str = "") -> None:
        self.component = component
        self.parts: list[Tensor | list[Any]] = []

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def add(self, part: Tensor | Sequence[Any]) -> None:
        """Take in the rows of one batch."""
        self.parts.append(part.detach() if isinstance(part, Tensor) else list(part))

    def clear(self) -> None:
        """Forget all rows."""
        self.parts.clear()

    def joined(self, at_least: int = 1) -> Tensor:
        """All rows in order.

        Raises:
            DataError: there are fewer than the metric is defined for.
        """
        if (found := len(self)) < at_least:
            raise DataError(
                f"saw {found} samples and needs at least {at_least}", where=self.component, next="check data.eval"
            )
        return torch.cat([torch.as_tensor(part) for part in self.parts])

    def numbers(self, at_least: int = 1) -> Tensor:
        """All rows in order, without NaN or infinity among them.

        Raises:
            DataError: some row is not finite, or there are too few.
        """
        rows = self.joined(at_least)
        if bad := int((~rows.isfinite()).flatten(1).any(1).sum() if rows.dim() > 1 else (~rows.isfinite()).sum()):
            raise DataError(
                f"{bad} of {len(rows)} samples are not finite", where=self.component, next="look at what the port reads"
            )
        return rows

    def listed(self) -> list[Any]:
        """All rows in order, as Python values."""
        return [row for part in self.parts for row in (part.tolist() if isinstance(part, Tensor) else part)]
