"""Point clouds through any image encoder: views rendered, what the encoder sees brought back to the points."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

import mmkd
from mmkd.errors import GraphError, RecipeError
from mmkd_pointcloud.cloud import CloudEncoder, Width
from mmkd_pointcloud.render import cameras, nearest, project, shade, visible

ID = "pointcloud.projection"


class Projection(CloudEncoder):
    """Depth or silhouette views of a cloud through an image encoder (PointCLIP: Zhang et al., 2022, its projection).

    Cameras stand evenly around the vertical and are orthographic. Points are discs in a z-buffer; a point is visible
    where nothing lies before it at its own pixel. The picture goes to the encoder as grey, at its size and by its mean
    and deviation.

    Values: `pictures`, bytes to look at; `pixels`, the pixel of every point in every view (`row * width + column`), and
    `visible`, so that pixels and points correspond. Where the image encoder has an `embedding`: `views`, one per view,
    and `embedding`, their mean or maximum. With `lift`, a map of the image encoder `[B, C, h, w]` is read at every
    point's pixel: `lifted` per view, and `tokens`, the mean over the views in which the point is visible, zero where
    there is none. Of a network with towers for image and text it is `image.embedding` that is read.

    Args:
        image: any encoder that reads `image` and states `preprocessing()`.
        points: points taken of a cloud, a fixed choice, or repeated where there are fewer; None takes all.
        views: how many.
        elevation: degrees from which the cameras look down.
        style: `depth`, the nearer the brighter, or `silhouette`.
        splat: radius of a point's disc; the cloud's is 1.
        tolerance: how far behind the nearest point one may lie and be visible.
        pool: `mean` or `max` over views.
        lift: a map of the image encoder to bring back to the points, such as `tokens`.
        normalize: move every cloud into the unit ball first; what leaves it falls on the border of the picture.

    Shape: points `[B, N, 3]` -> embedding `[B, D]`, views `[B, V, D]`, pictures `[B, V, H, W]`, pixels and visible
        `[B, V, N]`, lifted `[B, V, N, C]`, tokens `[B, N, C]`.

    Raises:
        RecipeError: the image encoder does not say how it preprocesses, or has no such map.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset()
    conformance: ClassVar[dict[str, Any]] = {
        "options": {
            "points": 60, "views": 2, "image": {"use": "pointcloud.view_net", "num_classes": 3, "image_size": 16}
        }
    }  # fmt: skip

    def __init__(
        self,
        image: mmkd.Encoder,
        points: Annotated[int | None, Field(gt=3)] = 1024,
        views: Width = 6,
        elevation: Annotated[float, Field(ge=-89, le=89)] = 30.0,
        style: Literal["depth", "silhouette"] = "depth",
        splat: Annotated[float, Field(ge=0)] = 0.04,
        tolerance: Annotated[float, Field(ge=0)] = 0.08,
        pool: Literal["mean", "max"] = "mean",
        lift: str | None = None,
        normalize: bool = True,
    ) -> None:
        super().__init__(points, normalize)
        told = dict(image.preprocessing() or {})
        if "size" not in told or "image" not in image.inputs():
            raise RecipeError(
                f"{type(image).__name__} does not say how large and how normalised a picture it reads",
                where=f"{ID}.image", next="an encoder of images with preprocessing(), such as vision.timm",
            )  # fmt: skip
        if lift is not None and lift not in image.values():
            raise RecipeError(
                f"the image encoder has no value '{lift}'", where=f"{ID}.lift", name=lift, exists=image.values()
            )
        self.image, self.style, self.splat, self.tolerance = image, style, splat, tolerance
        self.pool, self.lift = pool, lift
        self.size = (int(told["size"][0]), int(told["size"][1]))
        self.embedded = next((name for name in ("embedding", "image.embedding") if name in image.values()), None)
        width = getattr(image, "embedding_dim", None)
        if isinstance(width, int):
            self.embedding_dim = width
        self.register_buffer("frames", cameras(views, elevation), persistent=False)
        self.register_buffer("mean", torch.tensor(told.get("mean", [0.0] * 3))[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(told.get("std", [1.0] * 3))[:, None, None], persistent=False)

    def values(self) -> list[str]:
        embedding = ["embedding", "views"] if self.embedded else []
        return [*embedding, "pictures", "pixels", "visible", *(["lifted", "tokens"] if self.lift else [])]

    def fingerprint(self) -> str | None:
        return self.image.fingerprint()

    def forward(self, points: Tensor) -> dict[str, Tensor]:
        wanted = self.reads()
        pixels, depth = project(points, self.get_buffer("frames"), self.size)
        reach = round(self.splat / 2 * max(self.size))
        buffer = nearest(pixels, depth, self.size, reach)
        seen = visible(pixels, depth, buffer, self.tolerance)
        pictures = shade(buffer, self.style == "silhouette").view(*buffer.shape[:2], *self.size)
        values = {"pictures": (255 * pictures).round().to(torch.uint8), "pixels": pixels, "visible": seen}
        asked = {self.embedded} if self.embedded and {"embedding", "views"} & set(wanted) else set()
        asked |= {self.lift} if self.lift and {"lifted", "tokens"} & set(wanted) else set()
        if asked:
            read = self._look(pictures, asked)
            if self.embedded in asked:
                values["views"] = views = read[self.embedded]
                values["embedding"] = views.mean(1) if self.pool == "mean" else views.amax(1)
            if self.lift in asked:
                values["lifted"] = _at(read[self.lift], pixels, self.size)
                weight = seen[..., None].to(values["lifted"].dtype)
                values["tokens"] = (values["lifted"] * weight).sum(1) / weight.sum(1).clamp(min=1)
        return values

    def _look(self, pictures: Tensor, asked: set[str]) -> dict[str, Tensor]:
        """What the image encoder publishes of every view."""
        batch, views = pictures.shape[:2]
        grey = pictures.flatten(0, 1)[:, None].expand(-1, 3, -1, -1)
        taps = {name: path for name in asked if (path := self.image.locate(name)) is not None}
        with self.image.reading(frozenset(asked - taps.keys())), _tapped(self.image.network, taps) as read:
            read |= {
                k: v
                for k, v in self.image(image=(grey - self.get_buffer("mean")) / self.get_buffer("std")).items()
                if k not in taps
            }
        return {name: read[name].view(batch, views, *read[name].shape[1:]) for name in asked}


@contextmanager
def _tapped(network: nn.Module, paths: dict[str, str]) -> Iterator[dict[str, Tensor]]:
    """Inside, what passes at the given places of a network is noted by name."""
    read: dict[str, Tensor] = {}
    handles = []
    for name, path in paths.items():
        module = network.get_submodule(path.removesuffix(".input"))

        def note(
            _: nn.Module, args: Any, output: Any = None, name: str = name, enters: bool = path.endswith(".input")
        ) -> None:
            read[name] = args[0] if enters else output

        hook = module.register_forward_pre_hook if path.endswith(".input") else module.register_forward_hook
        handles.append(hook(note))
    try:
        yield read
    finally:
        for handle in handles:
            handle.remove()


def _at(maps: Tensor, pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """A map at every point's pixel, which it may be coarser than.

    Shape: maps `[B, V, C, h, w]`, pixels `[B, V, N]` -> `[B, V, N, C]`.
    """
    if maps.dim() != 5:
        raise GraphError(f"what is lifted is {list(maps.shape[2:])} per view, not a map [C, h, w]", where=f"{ID}.lift")
    h, w = maps.shape[-2:]
    row, column = pixels // size[1] * h // size[0], pixels % size[1] * w // size[1]
    place = (row * w + column)[:, :, None].expand(-1, -1, maps.shape[2], -1)
    return maps.flatten(3).gather(3, place).transpose(2, 3)
