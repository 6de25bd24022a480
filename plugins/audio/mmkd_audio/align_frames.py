"""Frames of one network at the times of another's."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

import mmkd
from mmkd.errors import GraphError

_WHERE = "audio.align_frames"


class AlignFrames(mmkd.Projector):
    """Reads a sequence of frames at the times of another's frames, by seconds and not by counting.

    Networks differ in frame rate and in where their first frame is centred (12.5 ms for wav2vec 2.0, 0 for log-mel
    frames); dividing one count by the other is off by one somewhere. Here frame k of the result stands at `to_k`:
    `linear` mixes the two frames around that time, `nearest` takes the closer one (the earlier of two). Before the
    first and behind the last frame it is that frame. Frames that `mask` calls padding are never read; where `to` is
    padding itself the result means nothing, so give the loss the mask of that network.

    Times may have any unit, the same on both sides, and rise along a sound; encoders publish `times` in microseconds.

    Shape: input `[B, T, D]`, times `[B, T]`, to `[B, S]`, mask `[B, T]` -> `[B, S, D]`.

    Args:
        how: `linear` or `nearest`.

    Raises:
        GraphError: the shapes do not fit.
    """

    conformance: ClassVar[dict[str, Any]] = {
        "inputs": {
            "input": torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0)),
            "times": torch.tensor([[0.0, 1000, 2000, 3000, 4000], [130.0, 1130, 2130, 3130, 4130]]),
            "to": torch.tensor([[200.0, 1500, 2800]] * 2),
        },
        "inert": ("how",),
    }

    def __init__(self, how: Literal["linear", "nearest"] = "linear") -> None:
        super().__init__()
        self.how = how

    def forward(self, input: Tensor, times: Tensor, to: Tensor, mask: Tensor | None = None) -> Tensor:
        shapes = [list(t.shape) for t in (input, times, to, *([] if mask is None else [mask]))]
        if input.dim() != 3 or to.dim() != 2 or any(s != shapes[0][:2] for s in [shapes[1], *shapes[3:]]):
            raise GraphError(f"needs input [B, T, D], times and mask [B, T] and to [B, S], not {shapes}", where=_WHERE)
        if len(to) != len(input) or not input.shape[1]:
            raise GraphError(f"has {len(input)} sounds of {input.shape[1]} frames for {len(to)}", where=_WHERE)
        times, to = times.double(), to.double()
        size = torch.full_like(to[:, 0], input.shape[1]) if mask is None else (mask > 0).sum(1).clamp(min=1)
        last = size.long().unsqueeze(1) - 1
        real = torch.arange(input.shape[1], device=input.device) <= last
        behind = torch.searchsorted(times.detach().masked_fill(~real, torch.inf), to.detach().contiguous())
        after, before = torch.minimum(behind, last), torch.minimum((behind - 1).clamp(min=0), last)
        start, end = times.gather(1, before), times.gather(1, after)
        share = ((to - start) / (end - start).where(after > before, torch.ones_like(end))).clamp(0, 1)
        if self.how == "nearest":
            return _frames(input, torch.where(share > 0.5, after, before))
        share = share.to(input.dtype).unsqueeze(-1)
        return _frames(input, before) * (1 - share) + _frames(input, after) * share


def _frames(input: Tensor, places: Tensor) -> Tensor:
    return input.gather(1, places.unsqueeze(-1).expand(-1, -1, input.shape[2]))
