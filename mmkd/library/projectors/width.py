"""The widths a projector maps between, read from the shapes of its values."""

from __future__ import annotations

import torch

from mmkd.errors import GraphError


def widths(component: str, input: torch.Size, like: torch.Size) -> tuple[int, int]:
    """Width of `input` and of `like`: channels of `[B, C, H, W]`, otherwise the last dimension.

    Raises:
        GraphError: the layouts are unknown or differ, or one has more tokens or pixels than the other.
    """
    source, target = list(input), list(like)
    if len(source) not in (2, 3, 4) or len(source) != len(target):
        raise GraphError(
            f"cannot project {source} to {target}",
            where=component,
            exists=["[B, D] to [B, E]", "[B, L, D] to [B, L, E]", "[B, C, H, W] to [B, E, H, W]"],
            next="read values of one layout on both sides",
        )
    channel = 1 if len(source) == 4 else -1
    size, like_size = (shape[2:] if channel == 1 else shape[1:-1] for shape in (source, target))
    if size != like_size:
        what = "positions" if channel == 1 else "tokens"
        raise GraphError(
            f"changes the width only, and {source} has other {what} ({_product(size)}) than {target} "
            f"({_product(like_size)})",
            where=component,
            next=f"read values with equal {what}, or pool both sides (an embedding has none)",
        )
    return source[channel], target[channel]


def not_set_up(component: str) -> GraphError:
    """The error of a projector that is called before it knows its widths."""
    return GraphError(
        "has no layers yet",
        where=component,
        next="call setup(input=shape, like=shape) first; in a recipe write like: <the value to match>",
    )


def _product(size: list[int]) -> str:
    return " x ".join(map(str, size))
