"""Plain pictures sent through a network's own preprocessing, to see what it does to colours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mmkd.components import Encoder, Sample
from mmkd.graph.collate import Collator
from mmkd.graph.node import Node

COLOURS = {"white": (1.0, 1.0, 1.0), "black": (0.0, 0.0, 0.0), "red": (1.0, 0.0, 0.0)}


@dataclass(frozen=True)
class Response:
    """What preprocessing makes of colour: `(x - mean) / std` of `x` in [0, 1], its channels in some order."""

    mean: list[float]
    std: list[float]
    red: list[float]
    """How much of pure red each output channel gets: (1, 0, 0) for RGB, (0, 0, 1) for BGR."""
    size: tuple[int, int]


def pictures(batch: Mapping[str, Any], node: Node) -> dict[str, Tensor]:
    """The inputs of a network that are pictures `[B, 3, H, W]`, by field; its own first, else shared ones."""
    own = batch.get(node.name)
    found = dict(own) if isinstance(own, Mapping) else {}
    shared = {name: batch.get(node.inputs.get(name, name)) for name in node.encoder.inputs()}
    fields = {**shared, **found}.items()
    return {name: v for name, v in fields if isinstance(v, Tensor) and v.dim() == 4 and v.shape[1] == 3}


def responses(node: Node, sample: Sample) -> dict[str, Response]:
    """What a network's transform makes of white, black and red, by field; none where it has no transform.

    The middle of the picture alone is read, so that borders which a transform adds do not count.
    """
    probes = [_plain(sample, colour) for colour in COLOURS.values()]
    if any(probe is None for probe in probes):
        return {}
    batch = Collator([node])([probe for probe in probes if probe is not None])
    own = batch.get(node.name)
    if not isinstance(own, Mapping):
        return {}
    found: dict[str, Response] = {}
    for name, picture in pictures({node.name: own}, node).items():
        height, width = picture.shape[2:]
        white, black, red = picture[:, :, height // 2, width // 2].double()
        gain = white - black
        if (gain.abs() > 1e-6).all():
            std = 1 / gain
            mean, share = -black * std, (red - black) / gain
            found[name] = Response(mean.tolist(), std.tolist(), share.tolist(), (height, width))
    return found


def declared(encoder: Encoder) -> Mapping[str, Any] | None:
    """The preprocessing that a network was trained with, as its encoder or a description on the network says.

    A description is any mapping with a `mean` and a `std` that the network carries.
    """
    if (said := encoder.preprocessing()) is not None:
        return said
    for value in vars(encoder.network).values():
        if isinstance(value, Mapping) and {"mean", "std"} <= value.keys():
            return value
    return None


def _plain(sample: Sample, colour: Sequence[float]) -> dict[str, Any] | None:
    """The sample with its pictures in one colour; None where it has none that is known to be one."""
    made = {name: plain for name, value in sample.items() if (plain := _coloured(value, colour)) is not None}
    return {**sample, **made} if made else None


def _coloured(value: Any, colour: Sequence[float]) -> Any:
    if isinstance(value, Image.Image):
        r, g, b = (round(255 * c) for c in colour)
        return Image.new("RGB", value.size, (r, g, b))
    if not isinstance(value, np.ndarray | Tensor) or value.ndim != 3 or 3 not in (value.shape[0], value.shape[-1]):
        return None
    array = np.asarray(value)
    if array.dtype == np.uint8:
        top = 255.0
    elif array.dtype.kind == "f" and array.min() >= 0 and array.max() <= 1:
        top = 1.0
    else:
        return None
    shape = (3, 1, 1) if array.shape[0] == 3 else (3,)
    filled = np.broadcast_to(np.reshape(colour, shape) * top, array.shape).astype(array.dtype)
    return torch.from_numpy(filled.copy()) if isinstance(value, Tensor) else filled.copy()
