"""Points seen by orthographic cameras: which pixel each falls on, what hides what, a picture of depth."""

from __future__ import annotations

import math

import torch
from torch import Tensor

EXTENT = 1.1
"""Half the side of what a camera sees; clouds lie in the unit ball."""


def cameras(views: int, elevation: float) -> Tensor:
    """Cameras around the vertical, evenly spaced, looking down at the origin from `elevation` degrees.

    Shape: -> `[views, 3, 3]`, the rows being right, up and forward (away from the camera).
    """
    turn = torch.arange(views, dtype=torch.float64) * (2 * math.pi / views)
    rise = torch.full_like(turn, math.radians(elevation))
    right = torch.stack([-turn.sin(), turn.cos(), torch.zeros_like(turn)], 1)
    forward = -torch.stack([turn.cos() * rise.cos(), turn.sin() * rise.cos(), rise.sin()], 1)
    return torch.stack([right, torch.linalg.cross(right, forward), forward], 1).float()


def project(points: Tensor, frames: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The pixel that each point falls on in each view (`row * width + column`), and its distance along the view.

    Points beyond the border fall on the border.

    Shape: points `[B, N, 3]`, frames `[V, 3, 3]` -> pixels `[B, V, N]` integers, depth `[B, V, N]`.
    """
    height, width = size
    x, y, depth = torch.einsum("bnc,vdc->dbvn", points, frames.to(points)).unbind()
    column = ((x / EXTENT + 1) / 2 * width).floor().clamp(0, width - 1).long()
    row = ((1 - y / EXTENT) / 2 * height).floor().clamp(0, height - 1).long()
    return row * width + column, depth


def nearest(pixels: Tensor, depth: Tensor, size: tuple[int, int], reach: int) -> Tensor:
    """The z-buffer: distance of the nearest point at every pixel, each point being a disc of radius `reach` pixels.

    Shape: pixels, depth `[B, V, N]` -> `[B, V, height * width]`, infinite where there is none.
    """
    height, width = size
    row, column = pixels // width, pixels % width
    buffer = depth.new_full((*depth.shape[:2], height * width + 1), torch.inf)  # the last one: outside the picture
    for down in range(-reach, reach + 1):
        for right in range(-reach, reach + 1):
            if down**2 + right**2 > reach**2 + 1:
                continue
            r, c = row + down, column + right
            inside = (r >= 0) & (r < height) & (c >= 0) & (c < width)
            place = torch.where(inside, r * width + c, height * width)
            buffer = buffer.scatter_reduce(2, place, depth, "amin")
    return buffer[..., :-1]


def visible(pixels: Tensor, depth: Tensor, buffer: Tensor, tolerance: float) -> Tensor:
    """Whether nothing lies before a point at its own pixel by more than `tolerance`.

    Shape: pixels, depth `[B, V, N]`, buffer `[B, V, H * W]` -> `[B, V, N]` booleans.
    """
    return depth <= buffer.gather(2, pixels) + tolerance


def shade(buffer: Tensor, silhouette: bool) -> Tensor:
    """A picture in [0, 1] of a z-buffer, black where there is nothing; the nearer, the brighter, or all white.

    Shape: any -> the same.
    """
    hit = buffer.isfinite()
    if silhouette:
        return hit.to(buffer.dtype)
    return torch.where(hit, 0.6 - 0.4 * buffer.masked_fill(~hit, 0.0) / EXTENT, 0.0)
