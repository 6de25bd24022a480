"""Factor transfer: a teacher's map paraphrased, a student's translated."""

from __future__ import annotations

import itertools
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from mmkd import Loss
from mmkd.errors import RecipeError
from mmkd.library.losses.feature_map import example_maps, feature_maps
from mmkd.library.losses.port import widen


class FactorTransfer(Loss):
    """Match a compressed form of two feature maps, learnt on either side, FT (Kim et al., 2018).

    `|f_t / |f_t| - f_s / |f_s||_1`. The teacher's factors `f_t` come from an autoencoder of its map (the paraphraser)
    with `rate` times its channels, the student's `f_s` from convolutions (the translator). Both nets are the loss's
    own and dropped at export. The paraphraser learns from `reconstruction * mean (P(t) - t)^2`, which is added, and
    from nothing else; the translator and the student from the first term alone.

    The authors train the paraphraser to its end before the student; here it learns alongside. They put BatchNorm in
    the translator, left out here so that no sample sees another, and average over the N entries of a factor: their
    weight is N times this one's.

    Shape: student `[B, C, H, W]`, teacher `[B, E, G, V]` -> `[B]`.

    Raises:
        GraphError: not two maps of the same samples.
        RecipeError: the rate leaves no channel, or not set up.
    """

    def __init__(
        self,
        rate: Annotated[float, Field(gt=0)] = 0.5,
        reconstruction: Annotated[float, Field(ge=0)] = 1.0,
    ) -> None:
        super().__init__()
        self.rate, self.reconstruction = rate, reconstruction
        self.translator: nn.Module | None = None

    def setup(self, student: torch.Size, teacher: torch.Size) -> None:
        channels = teacher[1]
        if (factors := round(self.rate * channels)) < 1:
            raise RecipeError(f"rate {self.rate} leaves none of {channels} channels", where="core.ft")
        self.translator = convolutions(student[1], student[1], factors, factors)
        self.encoder = convolutions(channels, channels, factors, factors)
        self.decoder = convolutions(factors, factors, channels, channels)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        if self.translator is None:
            raise RecipeError("has no networks yet", where="core.ft", next="call setup(**shapes)")
        target = widen(teacher).detach()
        factor_t = self.encoder(target)
        s, t = feature_maps("core.ft", self.translator(widen(student)), factor_t.detach())
        distance = F.normalize(s.flatten(1), dim=1) - F.normalize(t.flatten(1), dim=1)
        error = (self.decoder(factor_t) - target).square().flatten(1).mean(1)
        loss: Tensor = distance.abs().sum(1) + self.reconstruction * error
        return loss

    def example(self) -> dict[str, Tensor]:
        return example_maps(6, 8)


def convolutions(*channels: int) -> nn.Sequential:
    """3x3 convolutions, each followed by a leaky ReLU of slope 0.1. Shape: `[B, C, H, W]` -> `[B, D, H, W]`."""
    layers: list[nn.Module] = []
    for source, target in itertools.pairwise(channels):
        layers += [nn.Conv2d(source, target, 3, padding=1), nn.LeakyReLU(0.1)]
    return nn.Sequential(*layers)
