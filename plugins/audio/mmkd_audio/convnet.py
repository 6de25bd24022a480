"""A small convolutional network over log-mel frames."""

from __future__ import annotations

from typing import Annotated

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from mmkd.errors import MmkdError
from mmkd_audio.log_mel import LogMel
from mmkd_audio.mel_encoder import MelEncoder

Size = Annotated[int, Field(gt=0)]


class ConvNet(MelEncoder):
    """A small convolutional network over log-mel frames, trained from scratch in a minute on a CPU (Liu et al., 2022).

    Two convolutions of stride 2, then ConvNeXt's blocks in time: a convolution in each channel, a norm, and a layer of
    `expansion` times the width, added to the block's input.

    Values: `embedding`, the mean of the frames, mapped to `dim` where given; `logits` where there are classes;
    `tokens`, the frames after the final norm; `hidden.0` enters the first block, `hidden.i` leaves block i; `mask`, 1
    for frames and 0 for padding; `times`, when each frame is centred, in microseconds.

    Args:
        width: channels.
        blocks: how many.
        kernel: frames that a block's convolution sees; odd.
        expansion: width of a block's inner layer, in widths.
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
        blocks: Size = 3,
        kernel: Size = 7,
        expansion: Size = 2,
        dim: Annotated[int | None, Field(gt=0)] = None,
        num_classes: Annotated[int | None, Field(gt=0)] = None,
        mels: Size = 64,
        rate: Size = 16_000,
        n_fft: Size = 400,
        hop: Size = 160,
    ) -> None:
        if kernel % 2 == 0:
            raise MmkdError(f"a kernel of {kernel} frames has no middle", where="kernel", next=f"kernel: {kernel + 1}")
        made = [Block(width, kernel, expansion) for _ in range(blocks)]
        super().__init__(made, LogMel(rate, n_fft, hop, mels), width, dim, num_classes)


class Block(nn.Module):
    """`x + f(x)`, with f a convolution in time, channel by channel, and a layer in each frame."""

    def __init__(self, width: int, kernel: int, expansion: int) -> None:
        super().__init__()
        self.depth = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=width)
        self.norm = nn.LayerNorm(width)
        self.widen, self.narrow = nn.Linear(width, expansion * width), nn.Linear(expansion * width, width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        y = self.depth((x * mask.unsqueeze(-1)).transpose(1, 2)).transpose(1, 2)
        return x + self.narrow(F.gelu(self.widen(self.norm(y))))  # type: ignore[no-any-return]
