"""A convolution that brings a feature map to another width and size."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from mmkd import Projector
from mmkd.errors import GraphError
from mmkd.library.projectors.width import not_set_up


class ConvProjector(Projector):
    """One convolution to another number of channels and another size (the regressor of FitNets: Romero et al., 2015).

    Along each axis: equal sizes need a kernel of 1; a size r times the other's a stride of r, with a kernel of
    `2r - 1` down and `2r` up; any other a kernel of the difference plus one without padding, as FitNets'. `norm:
    batch` and `activation: relu` are what common ports of FitNets put behind it; with BatchNorm samples see each other.
    `bias: false` leaves the constant out.

    Shape: input `[B, C, H, W]` -> that of `like`, `[B, E, G, V]`.

    Raises:
        GraphError: not two maps, one axis would grow while the other shrinks, or `setup` was not called.
    """

    def __init__(
        self, norm: Literal["none", "batch"] = "none", activation: Literal["none", "relu"] = "none", bias: bool = True
    ) -> None:
        super().__init__()
        self.norm, self.activation, self.bias = norm, activation, bias
        self.layers: nn.Sequential | None = None

    def setup(self, input: torch.Size, like: torch.Size) -> None:
        sizes = [(s, t) for s, t in zip(input[2:], like[2:], strict=False)]
        down, up = all(s >= t for s, t in sizes), all(s <= t for s, t in sizes)
        if len(input) != 4 or len(like) != 4 or not (down or up):
            raise GraphError(
                f"cannot convolve {list(input)} to {list(like)}",
                where="core.conv",
                exists=["[B, C, H, W] to [B, E, G, V], both axes larger or both smaller"],
                next="read feature maps on both sides",
            )
        made: nn.Module
        if down:
            kernels, strides, paddings = zip(*(_down(s, t) for s, t in sizes), strict=True)
            made = nn.Conv2d(input[1], like[1], kernels, strides, paddings, bias=self.bias)
        else:
            kernels, strides, paddings, rests = zip(*(_up(s, t) for s, t in sizes), strict=True)
            made = nn.ConvTranspose2d(input[1], like[1], kernels, strides, paddings, rests, bias=self.bias)
        layers: list[nn.Module] = [made]
        if self.norm == "batch":
            layers.append(nn.BatchNorm2d(like[1]))
        if self.activation == "relu":
            layers.append(nn.ReLU())
        self.layers = nn.Sequential(*layers)

    def forward(self, input: Tensor) -> Tensor:
        if self.layers is None:
            raise not_set_up("core.conv")
        projected: Tensor = self.layers(input)
        return projected


def _down(source: int, target: int) -> tuple[int, int, int]:
    """Kernel, stride and padding of a convolution from the larger size to the smaller."""
    ratio, rest = divmod(source, target)
    return (source - target + 1, 1, 0) if rest else (2 * ratio - 1, ratio, ratio - 1)


def _up(source: int, target: int) -> tuple[int, int, int, int]:
    """Kernel, stride, padding and output padding of a transposed convolution from the smaller to the larger."""
    ratio, rest = divmod(target, source)
    if rest:
        return target - source + 1, 1, 0, 0
    return (1, 1, 0, 0) if ratio == 1 else (2 * ratio, ratio, (ratio + 1) // 2, ratio % 2)
