"""A small residual convolutional network for images of 32 to 64 pixels."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from PIL import Image
from pydantic import Field
from torch import Tensor, nn

import mmkd
from mmkd.errors import MmkdError
from mmkd_vision.image import rgb

Size = Annotated[int, Field(gt=0)]
ACTIVATIONS: dict[str, type[nn.Module]] = {"gelu": nn.GELU, "relu": nn.ReLU}


class ConvNet(mmkd.Encoder):
    """A small plain residual network for tiny images, trained from scratch in minutes on a CPU (He et al., 2016).

    A convolution opens each stage (the first is the stem) and residual blocks of two 3x3 convolutions follow it;
    the mean over positions, mapped to `dim` where given, is the embedding.

    Values: `embedding`; `logits` where there are classes; `tokens`, the last feature map; `hidden.0` leaves the
    stem, `hidden.i` leaves stage i.

    Args:
        widths: channels of each stage.
        blocks: residual blocks of each stage, or one number for all.
        strides: stride of the convolution that opens each stage, or one number for all. A stem of stride 2 costs a
            third of one of stride 1.
        image_size: side in pixels of the square input; other images are squeezed into it.
        dim: width of the embedding; None for the last width, without a linear map.
        num_classes: classes of a linear head; None for none.
        activation: `gelu` or `relu`.

    Shape: image `[B, 3, S, S]` -> embedding `[B, dim]`, logits `[B, classes]`, tokens and hidden `[B, C, H, W]`.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"logits", "hidden", "input_grad"})

    def __init__(
        self,
        widths: Annotated[Sequence[int], Field(min_length=1)] = (32, 64, 128),
        blocks: int | Sequence[int] = 1,
        strides: int | Sequence[int] = 2,
        image_size: Size = 32,
        dim: Annotated[int | None, Field(gt=0)] = None,
        num_classes: Annotated[int | None, Field(gt=0)] = None,
        activation: Literal["gelu", "relu"] = "gelu",
    ) -> None:
        super().__init__()
        counts = [blocks] * len(widths) if isinstance(blocks, int) else list(blocks)
        steps = [strides] * len(widths) if isinstance(strides, int) else list(strides)
        for name, given, least in (("widths", widths, 1), ("blocks", counts, 0), ("strides", steps, 1)):
            if min(given) < least:
                raise MmkdError(f"{name} are at least {least}, not {min(given)}")
            if len(given) != len(widths):
                raise MmkdError(f"{name} has {len(given)} numbers for {len(widths)} widths", next="give one per width")
        self.image_size, self.num_classes = image_size, num_classes
        act = ACTIVATIONS[activation]
        self.stem = _convolution(3, widths[0], steps[0], act)
        self.stages = nn.Sequential()
        for i, (width, count) in enumerate(zip(widths, counts, strict=True)):
            opening = [_convolution(widths[i - 1], width, steps[i], act)] if i else []
            self.stages.append(nn.Sequential(*opening, *(Residual(width, act) for _ in range(count))))
        self.embedding_dim = width = dim or widths[-1]
        self.project = nn.Linear(widths[-1], dim) if dim else nn.Identity()
        self.head = nn.Linear(width, num_classes) if num_classes else None

    def values(self) -> list[str]:
        hidden = [f"hidden.{i}" for i in range(len(self.stages) + 1)]
        return ["embedding", *(["logits"] if self.head else []), "tokens", *hidden]

    def locate(self, name: str) -> str | None:
        if name == "tokens":
            return f"stages.{len(self.stages) - 1}"
        kind, _, index = name.partition(".")
        if kind != "hidden":
            return None
        return f"stages.{int(index) - 1}" if int(index) else "stages.0.input"

    def transform(self, sample: mmkd.Sample) -> dict[str, Any]:
        image = rgb(sample["image"])
        side = (self.image_size, self.image_size)
        if image.size != side:
            image = image.resize(side, Image.Resampling.BILINEAR, reducing_gap=3.0)  # averages over what it skips
        pixels = np.asarray(image).transpose(2, 0, 1)
        return {"image": torch.from_numpy(pixels.astype(np.float32, order="C")).div_(127.5).sub_(1)}

    def transform_key(self) -> Hashable:
        return "squeezed to [-1, 1]", self.image_size

    def preprocessing(self) -> dict[str, Any]:
        side = [self.image_size, self.image_size]
        mean = std = [0.5, 0.5, 0.5]
        return {
            "size": side, "resize": side, "interpolation": "bilinear", "reducing_gap": 3.0,
            "mean": mean, "std": std, "channels": "RGB",
        }  # fmt: skip

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        image = image.contiguous(memory_format=torch.channels_last)  # a sixth faster on a CPU
        tokens = self.stages(self.stem(image))
        embedding = self.project(tokens.mean((2, 3)))
        values = {"embedding": embedding, "tokens": tokens}
        if self.head is not None and self.wants("logits"):
            values["logits"] = self.head(embedding)
        return values


class Residual(nn.Module):
    """`x + f(x)`, with `f` two convolutions that start as zero."""

    def __init__(self, width: int, activation: type[nn.Module]) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            *_convolution(width, width, 1, activation),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )
        self.activation = activation()
        nn.init.zeros_(self.branch[-1].weight)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(x + self.branch(x))  # type: ignore[no-any-return]


def _convolution(inputs: int, outputs: int, stride: int, activation: type[nn.Module]) -> nn.Sequential:
    layer = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs), activation())
