"""Cosine similarities within a batch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mmkd.errors import GraphError
from mmkd.library.losses.port import widen


def similarity(component: str, a: Tensor, b: Tensor) -> Tensor:
    """Cosines of every row of `a` with every row of `b`, in float32 even under autocast.

    A small temperature multiplies the rounding of half precision into the logits; hence no half precision here.

    Shape: a `[N, D]`, b `[M, D]` -> `[N, M]`.

    Raises:
        GraphError: the values are not embeddings of one width.
    """
    embeddings(component, a, b)
    with torch.autocast(a.device.type, enabled=False):
        return F.normalize(widen(a), dim=1) @ F.normalize(widen(b), dim=1).T


def embeddings(component: str, a: Tensor, b: Tensor) -> None:
    """Refuse what is no two embeddings of one width.

    Raises:
        GraphError: they are not.
    """
    if a.dim() != 2 or b.dim() != 2 or a.shape[1] != b.shape[1]:
        raise GraphError(
            f"needs two embeddings [B, D] of one width, not {list(a.shape)} and {list(b.shape)}",
            where=component,
            next="put a projector on one of them: {use: core.linear, input: <value>, like: <other value>}",
        )
