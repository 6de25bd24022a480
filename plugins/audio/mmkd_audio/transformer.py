"""A small transformer over log-mel frames."""

from __future__ import annotations

import math
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from mmkd.errors import MmkdError
from mmkd_audio.log_mel import LogMel
from mmkd_audio.mel_encoder import MelEncoder

Size = Annotated[int, Field(gt=0)]


class AudioTransformer(MelEncoder):
    """A small pre-norm transformer over log-mel frames, trained from scratch (Vaswani et al., 2017).

    Two convolutions of stride 2 and sinusoidal positions, as in Whisper (Radford et al., 2023), then blocks of
    attention over all frames of the sound, for sounds of any length.

    Values: `embedding`, the mean of the frames, mapped to `dim` where given; `logits` where there are classes;
    `tokens`, the frames after the final norm; `hidden.0` enters the first block, `hidden.i` leaves block i; `mask`, 1
    for frames and 0 for padding; `times`, when each frame is centred, in microseconds.

    Args:
        width: width of everything; even.
        layers: blocks.
        heads: attention heads; they divide `width`.
        dropout: of branches and attention.
        dim: width of the embedding; None for `width`, without a linear map.
        num_classes: classes of a linear head; None for none.
        mels: bands of the spectrogram.
        rate: samples per second that sounds are brought to.
        n_fft, hop: samples of a frame of the spectrogram, and from one to the next.

    Shape: mel `[B, T, mels]`, frames `[B]` -> embedding `[B, dim]`, logits `[B, classes]`, tokens and hidden
        `[B, ceil(T / 4), width]`, mask and times `[B, ceil(T / 4)]`.
    """

    def __init__(
        self,
        width: Size = 128,
        layers: Size = 2,
        heads: Size = 4,
        dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0,
        dim: Annotated[int | None, Field(gt=0)] = None,
        num_classes: Annotated[int | None, Field(gt=0)] = None,
        mels: Size = 64,
        rate: Size = 16_000,
        n_fft: Size = 400,
        hop: Size = 160,
    ) -> None:
        if width % heads or width % 2:
            fit = -(-width // math.lcm(heads, 2)) * math.lcm(heads, 2)
            raise MmkdError(f"a width of {width} is not even, or no multiple of {heads} heads", next=f"width: {fit}")
        made = [Block(width, heads, dropout) for _ in range(layers)]
        super().__init__(made, LogMel(rate, n_fft, hop, mels), width, dim, num_classes)

    def placed(self, x: Tensor) -> Tensor:
        return x + positions(x.shape[1], x.shape[2]).to(x)


class Block(nn.Module):
    """Attention, then a layer of 4 times the width, each normed first and added to its input."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.rate = heads, dropout
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = x + self.dropout(self._attend(self.norm1(x), mask.bool()[:, None, None]))
        return x + self.dropout(self.mlp(self.norm2(x)))  # type: ignore[no-any-return]

    def _attend(self, x: Tensor, mask: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        rate = self.rate if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=rate)
        attended: Tensor = self.out(y.transpose(1, 2).flatten(2))
        return attended


def positions(size: int, width: int) -> Tensor:
    """Sines, then cosines, of wavelengths from 2 pi to 20,000 pi frames. Shape: `[size, width]`."""
    rates = torch.exp(-math.log(10_000) * torch.arange(width // 2) / max(1, width // 2 - 1))
    angles = torch.arange(size)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)
