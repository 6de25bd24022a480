"""What a metric remembers of the batches it has seen."""

from __future__ import annotations

import torch
from torch import Tensor

from mmkd.errors import DataError


class Rows:
    """Tensors of all batches, kept without gradient where they are and joined on demand."""

    def __init__(self, component: str) -> None:
        self.component = component
        self.parts: list[Tensor] = []

    def add(self, part: Tensor) -> None:
        self.parts.append(part.detach())

    def clear(self) -> None:
        self.parts.clear()

    def joined(self, at_least: int = 1) -> Tensor:
        """All rows in order.

        Raises:
            DataError: there are fewer than the metric is defined for.
        """
        if (found := sum(map(len, self.parts))) < at_least:
            raise DataError(
                f"saw {found} samples and needs at least {at_least}", where=self.component, next="check data.eval"
            )
        return torch.cat(self.parts)
