"""Phases of a step: which losses move which parameters, in which direction, how often."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class Phase:
    """One optimiser's part of a step. `main` trains students and train-only parts; each critic has its own."""

    name: str
    parameters: tuple[nn.Parameter, ...]
    ascend: bool = False
    repeats: int = 1
    lr: float | None = None
    """Learning rate of a critic; the main phase takes the recipe's."""
    term: str | None = None
    """The one loss a critic's phase is about; None for all."""
