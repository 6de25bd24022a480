"""What small encoders of log-mel frames have in common: their input, their stem, and what they publish."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import mmkd
from mmkd_audio.frames import frame_mask, frame_times, masked_mean
from mmkd_audio.log_mel import LogMel
from mmkd_audio.resample import resampled
from mmkd_audio.sound import sound_of

STRIDE = 4


class MelEncoder(mmkd.Encoder):
    """Log-mel frames, a quarter of them after the stem, through blocks that keep their number.

    A sound is resampled, its log-mel spectrogram brought to mean 0 and deviation 1 as a whole (so that loudness does
    not matter). Padding never reaches a frame that is none: a sound has the same values alone and in any batch.

    Values: `embedding`, the mean of the frames, mapped to `dim` where given; `logits` where there are classes;
    `tokens`, the frames after the final norm; `hidden.0` enters the first block, `hidden.i` leaves block i; `mask`, 1
    for frames and 0 for padding; `times`, when each frame is centred, in microseconds.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"hidden", "logits", "input_grad"})

    def __init__(
        self, blocks: Sequence[nn.Module], front: LogMel, width: int, dim: int | None, num_classes: int | None
    ) -> None:
        super().__init__()
        self.front, self.num_classes = front, num_classes
        self.embedding_dim = dim or width
        self.stem = Stem(front.mels, width)
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(width)
        self.project = nn.Linear(width, dim) if dim else nn.Identity()
        self.head = nn.Linear(self.embedding_dim, num_classes) if num_classes else None

    @property
    def frame_rate(self) -> float:
        """Frames of `tokens` per second."""
        return self.front.rate / (STRIDE * self.front.hop)

    def values(self) -> list[str]:
        hidden = [f"hidden.{i}" for i in range(len(self.blocks) + 1)]
        return ["embedding", *(["logits"] if self.head is not None else []), "tokens", "mask", "times", *hidden]

    def locate(self, name: str) -> str | None:
        kind, _, index = name.partition(".")
        if kind == "hidden":
            return f"blocks.{int(index) - 1}" if int(index) else "blocks.0.input"
        return "norm" if name == "tokens" else None

    def transform(self, sample: mmkd.Sample) -> dict[str, Any]:
        waveform = torch.from_numpy(resampled(sound_of(sample), self.front.rate))
        mel = self.front(waveform)
        return {"mel": (mel - mel.mean()) / mel.std(correction=0).clamp(min=1e-5)}

    def transform_key(self) -> Hashable:
        return "log-mel frames of deviation 1", self.front

    def collate(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        mels = [row["mel"] for row in rows]
        padded = torch.nn.utils.rnn.pad_sequence(mels, batch_first=True)
        return {"mel": padded, "frames": torch.tensor([len(mel) for mel in mels])}

    def lengths(self, **inputs: Tensor) -> dict[str, Tensor]:
        padded = [name for name in self.values() if name not in ("embedding", "logits")]
        return dict.fromkeys(padded, self.stem.lengths(inputs["frames"]))

    def placed(self, x: Tensor) -> Tensor:
        """What the stem gives, told where each frame stands; a convolution need not be told. Shape: `[B, T, D]`."""
        return x

    def forward(self, mel: Tensor, frames: Tensor) -> dict[str, Tensor]:
        x, mask = self.stem(mel, frames)
        x = self.placed(x)
        for block in self.blocks:
            x = block(x, mask)
        tokens = self.norm(x)
        embedding = self.project(masked_mean(tokens, mask))
        times = frame_times(mel.shape[0], x.shape[1], 0.0, 1 / self.frame_rate, mel.device)
        values = {"embedding": embedding, "tokens": tokens, "mask": mask, "times": times}
        if self.head is not None and self.wants("logits"):
            values["logits"] = self.head(embedding)
        return values


class Stem(nn.Module):
    """Two convolutions of stride 2 over log-mel frames; frame j is centred where frame 4 j of the input is.

    Shape: mel `[B, T, M]`, frames `[B]` -> `[B, ceil(T / 4), D]`, mask `[B, ceil(T / 4)]`.
    """

    def __init__(self, mels: int, width: int) -> None:
        super().__init__()
        self.first = nn.Conv1d(mels, width, 3, stride=2, padding=1)
        self.second = nn.Conv1d(width, width, 3, stride=2, padding=1)

    @staticmethod
    def lengths(frames: Tensor) -> Tensor:
        """Frames that come out of so many. Shape: `[B]` -> `[B]`."""
        return (frames + STRIDE - 1) // STRIDE

    def forward(self, mel: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        x = mel.transpose(1, 2) * frame_mask(frames, mel.shape[1]).unsqueeze(1)
        x = F.gelu(self.first(x))
        x = x * frame_mask((frames + 1) // 2, x.shape[2]).unsqueeze(1)
        x = F.gelu(self.second(x)).transpose(1, 2)
        return x, frame_mask(self.lengths(frames), x.shape[1])
