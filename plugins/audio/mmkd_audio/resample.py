"""A waveform at another sampling rate."""

from __future__ import annotations

import numpy as np
import soxr

from mmkd_audio.sound import Sound


def resampled(sound: Sound, rate: int) -> np.ndarray:
    """The waveform at `rate` samples per second, by soxr at high quality; itself where it has that rate.

    Shape: `[T]` -> `[round(T * rate / sound.rate)]` float32, and one sample at least.
    """
    if sound.rate == rate:
        return sound.waveform
    made = soxr.resample(sound.waveform, sound.rate, rate, quality="HQ")
    return np.asarray(made if len(made) else sound.waveform[:1], dtype=np.float32)
