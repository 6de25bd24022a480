"""How much of the gradient reaches the convolutions that read a waveform."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn


class Scaled(torch.autograd.Function):
    """The input itself; its gradient is multiplied by a factor. Shape: any, the same out."""

    @staticmethod
    def forward(x: Tensor, factor: float) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float], output: Tensor) -> None:
        ctx.factor = inputs[1]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] * ctx.factor, None


def scale(extractor: nn.Module, factor: float) -> None:
    """Let a share of the gradient through to a network's convolutions, from now on; with 0 they are frozen.

    What they give stays as it is. Adam divides a factor out again, but for its epsilon and for the norm to which
    gradients are clipped, in which the convolutions count less.
    """
    if factor == 0:
        extractor.requires_grad_(False)
    if factor != 1:
        extractor.register_forward_hook(functools.partial(_scaled, factor))


def _scaled(factor: float, module: nn.Module, inputs: Any, output: Tensor) -> Any:
    if not output.requires_grad:
        return output
    return Scaled.apply(output, factor) if factor else output.detach()
