"""Opens sound files: few formats, one or two channels, every sample a finite number."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile

from mmkd.errors import DataError

SUFFIXES = frozenset({".wav", ".flac", ".ogg", ".oga", ".aif", ".aiff", ".mp3"})
CHANNELS = 2
"""Channels that are mixed to one; of more it is not known which are meant."""
SAMPLES = 1 << 28
"""The longest sound that is read, over all channels: a GiB of float32."""
STREAMED = 0x7FFFF000
"""Sizes in a header from here on say that whoever wrote it did not know its length."""


class Sound(NamedTuple):
    """One channel of sound. Shape: waveform `[T]` float32, mostly within -1 and 1; rate in samples per second."""

    waveform: np.ndarray
    rate: int

    @property
    def field(self) -> dict[str, Any]:
        """The field `audio` of a raw sample, as Hugging Face's datasets have it."""
        return {"array": self.waveform, "sampling_rate": self.rate}


def read_sound(source: Path | bytes, where: str = "") -> Sound:
    """The sound in a file, or in bytes that were one: two channels are averaged to one.

    The format is told by the content, never by the name.

    Args:
        where: what to call the sound in an error; the path unless given.

    Raises:
        DataError: it is empty, damaged, cut short, of another format, has no samples, samples that are no numbers, or
            more than two channels.
    """
    where = where or (str(source) if isinstance(source, Path) else "sound")
    try:
        data = source.read_bytes() if isinstance(source, Path) else source
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror or error}", where=where) from error
    if not data:
        raise DataError("is empty", where=where)
    if lacking := _lacking(data):
        raise DataError(f"is cut short: {lacking}", where=where)
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            frames, channels, rate = len(file), file.channels, file.samplerate
            if channels > CHANNELS:
                what = f"has {channels} channels, and which of them are meant is not known"
                raise DataError(what, where=where, next="save it with one or two")
            if frames * channels > SAMPLES:
                raise DataError(f"has {frames:,} samples, above {SAMPLES // channels:,}", where=where)
            samples = file.read(dtype="float32", always_2d=True)
    except DataError:
        raise
    except Exception as error:  # what a hostile file makes a decoder raise is not listed anywhere
        formats = sorted(suffix[1:] for suffix in SUFFIXES)
        raise DataError(
            f"cannot be read: {_said(error)}; it begins with {data[:12]!r}", where=where, exists=formats
        ) from error
    if len(samples) < frames:
        raise DataError(f"is cut short: {len(samples)} samples of {frames} are there", where=where)
    waveform = samples[:, 0] if channels == 1 else samples.mean(axis=1)
    return Sound(checked(np.ascontiguousarray(waveform), where), rate)


def duration(source: Path | io.RawIOBase, where: str) -> float:
    """Seconds that a sound lasts, as the head of its file says; the sound itself is not read.

    Args:
        where: what to call the sound in an error.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        return float(soundfile.info(source).duration)
    except (RuntimeError, OSError) as error:
        raise DataError(f"cannot be read: {_said(error)}", where=where) from error


def sound_of(sample: Mapping[str, Any]) -> Sound:
    """The sound of a raw sample: `audio` is a map of `array` `[T]` and `sampling_rate`, as in Hugging Face's datasets,
    or the array with a field `sampling_rate` beside it.

    Raises:
        DataError: there is no such field, no rate, or it is no waveform of one channel.
    """
    if "audio" not in sample:
        raise DataError("has no field 'audio'", exists=[str(field) for field in sample])
    audio = sample["audio"]
    told = audio if isinstance(audio, Mapping) else {"array": audio, "sampling_rate": sample.get("sampling_rate")}
    rate = told.get("sampling_rate")
    if "array" not in told or rate is None or isinstance(rate, bool) or rate != int(rate) or rate < 1:
        raise DataError(
            f"audio has a sampling_rate of {rate!r}, not of a whole number of samples per second",
            exists=[str(field) for field in (audio if isinstance(audio, Mapping) else sample)],
            next="give the samples a field sampling_rate",
        )
    return Sound(checked(np.asarray(told["array"]), ""), int(rate))


def checked(waveform: np.ndarray, where: str) -> np.ndarray:
    """The waveform in float32, itself where it is that already.

    Raises:
        DataError: it is not `[T]`, is empty, is no floating-point numbers, or holds some that are not finite.
    """
    if waveform.ndim != 1 or waveform.dtype.kind != "f":
        what = f"audio is {waveform.dtype} {list(waveform.shape)}, not one channel [T] of floating-point numbers"
        raise DataError(what, where=where)
    if not len(waveform):
        raise DataError("has no samples", where=where)
    if bad := int(len(waveform) - np.isfinite(waveform).sum()):
        raise DataError(f"{bad} of {len(waveform)} samples are no finite numbers", where=where)
    return waveform.astype(np.float32, copy=False)


def mark(path: Path) -> str | None:
    """sha256 of a file as it is; None where it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def _said(error: Exception) -> str:
    """What the decoder says, without what it was given."""
    return str(getattr(error, "error_string", error))


def _lacking(data: bytes) -> str:
    """What the container says should be there and is not, where the decoder would not notice."""
    if data[:4] in (b"RIFF", b"FORM"):
        told = int.from_bytes(data[4:8], "little" if data[:4] == b"RIFF" else "big") + 8
        if len(data) < told < STREAMED:
            return f"{len(data)} bytes of {told} are there"
    if data[:4] == b"OggS":
        last = data.rfind(b"OggS")
        head = data[last : last + 27]
        segments = data[last + 27 : last + 27 + head[26]] if len(head) == 27 else b""
        whole = len(head) == 27 and len(segments) == head[26] and last + 27 + head[26] + sum(segments) <= len(data)
        if not whole or not head[5] & 4:
            return "the last page is missing"
    return ""
