"""The log-mel spectrogram, in torch."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mmkd.errors import MmkdError

FLOOR = 1e-10
_LINEAR, _STEP = 1000.0, math.log(6.4) / 27
"""The Slaney scale: linear up to 1 kHz (15 mel), then 27 mel for every factor of 6.4."""


@dataclass(frozen=True)
class LogMel:
    """Logarithm (base 10) of the energy in mel bands, frame by frame; librosa's with its defaults.

    `log10 max(F |STFT(x)|^2, 1e-10)`, with a periodic Hann window of `n_fft` samples, frames centred on multiples of
    `hop` (the signal is mirrored at its ends) and triangular filters F of area one on the scale of Slaney's Auditory
    Toolbox (1998). Frame i is centred on `i * hop / rate` seconds.

    Shape: waveform `[T]` -> `[1 + T // hop, mels]`.

    Args:
        rate: samples per second.
        n_fft: samples of a frame.
        hop: samples from one frame to the next.
        mels: bands.
        low, high: lowest and highest frequency in Hz; None is half the rate.

    Raises:
        MmkdError: the frequencies are not in order, or so many bands are asked for that some would be empty.
    """

    rate: int = 16_000
    n_fft: int = 400
    hop: int = 160
    mels: int = 80
    low: float = 0.0
    high: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.low < (self.high or self.rate / 2) <= self.rate / 2:
            what = f"bands from {self.low} to {self.high} Hz do not lie between 0 and {self.rate / 2} Hz"
            raise MmkdError(what, where="log_mel", next="leave high out for half the rate")
        if bool((filters(self).amax(1) == 0).any()):
            raise MmkdError(
                f"{self.mels} bands are too many for frames of {self.n_fft} samples: some lie between two frequencies",
                where="log_mel", next="fewer mels, or a larger n_fft",
            )  # fmt: skip

    def frames(self, samples: int) -> int:
        """Frames of so many samples."""
        return 1 + samples // self.hop

    def __call__(self, waveform: Tensor) -> Tensor:
        padded = mirrored(waveform, self.n_fft // 2)
        window = torch.hann_window(self.n_fft, dtype=waveform.dtype, device=waveform.device)
        spectrum = torch.stft(padded, self.n_fft, self.hop, window=window, center=False, return_complex=True)
        power = spectrum.real.square() + spectrum.imag.square()
        bands = filters(self).to(power) @ power
        return bands.clamp(min=FLOOR).log10().T


def mirrored(waveform: Tensor, side: int) -> Tensor:
    """The waveform mirrored at both ends, its end samples not repeated; again and again where it is shorter than that.

    Shape: `[T]` -> `[T + 2 side]`.
    """
    size = len(waveform)
    if side < size:  # seven times as fast as by index
        return F.pad(waveform[None], (side, side), mode="reflect")[0]
    period = max(1, 2 * (size - 1))
    place = torch.arange(-side, size + side, device=waveform.device) % period
    return waveform[torch.where(place < size, place, period - place)]


@functools.lru_cache(maxsize=32)
def filters(front: LogMel) -> Tensor:
    """Triangles of area one. Shape: `[mels, 1 + n_fft // 2]` float64."""
    frequencies = np.linspace(0, front.rate / 2, 1 + front.n_fft // 2)
    lowest, highest = _mel(np.array([front.low, front.high or front.rate / 2])).tolist()
    edges = _hertz(np.linspace(lowest, highest, front.mels + 2))
    below, above = (frequencies - edges[:-2, None]), (edges[2:, None] - frequencies)
    widths = np.diff(edges)[:, None]
    triangles = np.maximum(0, np.minimum(below / widths[:-1], above / widths[1:]))
    return torch.from_numpy(triangles * (2 / (edges[2:] - edges[:-2]))[:, None])


def _mel(hertz: np.ndarray) -> np.ndarray:
    return np.where(hertz < _LINEAR, hertz * 3 / 200, 15 + np.log(np.maximum(hertz, _LINEAR) / _LINEAR) / _STEP)


def _hertz(mel: np.ndarray) -> np.ndarray:
    return np.where(mel < 15, mel * 200 / 3, _LINEAR * np.exp(_STEP * (np.maximum(mel, 15) - 15)))
