"""Teachers weighed by a small network."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from mmkd import Mixer
from mmkd.errors import GraphError
from mmkd.library.losses.port import positive, widen
from mmkd.library.mixers.mixture import alike, mixture


class Gate(Mixer):
    """Mixture of teachers whose weights a small network gives for each sample (after Jacobs et al., 1991).

    `T log sum_i g_i softmax(t_i / T)` with `g = softmax(MLP(input))`: logits that, in a loss of the same temperature
    T, are the mixture. At first all weights are equal. The gate learns from every loss that reads the mixture:
    `core.cross_entropy` with `student: <this mixer>` makes it prefer the teacher that is right; under a divergence
    alone it prefers the one that the student is nearest to. It is train-only. Write `input: detach(...)` where the
    gate should not pull on the network that it reads.

    Shape: teachers, a list of `[B, V]` or `[B, T, V]`; input `[B, D]` or `[B, T, D]` -> as a teacher; logits.

    Args:
        hidden: width of its one hidden layer; 0 for a linear gate.

    Raises:
        GraphError: the teachers' shapes differ, the input has not one vector for each of their rows, or `setup` was
            not called.
    """

    def __init__(
        self, hidden: Annotated[int, Field(ge=0)] = 32, temperature: Annotated[float, Field(gt=0)] = 1.0
    ) -> None:
        super().__init__()
        self.hidden, self.temperature = hidden, positive("core.gate", "temperature", temperature)
        self.layers: nn.Sequential | None = None

    def setup(self, teachers: list[torch.Size], input: torch.Size) -> None:
        if input[:-1] != teachers[0][:-1]:
            raise GraphError(
                f"input {list(input)} has not one vector for each row of the teachers, {list(teachers[0])}",
                where="core.gate", next="read an embedding [B, D], or tokens [B, T, D] beside logits [B, T, V]",
            )  # fmt: skip
        width, layers = input[-1], list[nn.Module]()
        if self.hidden:
            layers, width = [nn.Linear(width, self.hidden), nn.ReLU()], self.hidden
        last = nn.Linear(width, len(teachers))
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.layers = nn.Sequential(*layers, last)

    def forward(self, teachers: list[Tensor], input: Tensor) -> Tensor:
        teachers = alike("core.gate", teachers)
        temperature = positive("core.gate", "temperature", self.temperature)
        return mixture(teachers, self._gated(input).log_softmax(-1), temperature)

    def shares(self, input: Tensor) -> Tensor:
        """The weights of the teachers, `[..., n]`."""
        return self._gated(input).softmax(-1)

    def _gated(self, input: Tensor) -> Tensor:
        if self.layers is None:
            raise GraphError(
                "has no layers yet", where="core.gate", next="call setup(teachers=[shapes], input=shape) first"
            )
        return widen(self.layers(input))
