"""Sounds with their texts in tar shards, read in place."""

from __future__ import annotations

import functools
from typing import Annotated, Any

import numpy as np
from numpy.random import Generator
from pydantic import Field

import mmkd
from mmkd.files import Medium, WebSamples
from mmkd_audio.resample import resampled
from mmkd_audio.sound import SUFFIXES, Sound, duration, read_sound

EXTENSIONS = tuple(sorted(suffix.removeprefix(".") for suffix in SUFFIXES))


class WebDataset(mmkd.Dataset):
    """Sounds with their texts in tar shards, as webdataset writes them (`1.flac`, `1.txt`, `1.json`, `1.cls`).

    A sample is the files of one name up to the first dot; WAV, FLAC, Ogg, AIFF and MP3 are read, one channel or the
    mean of two. Nothing is extracted or unpickled: an index of each shard, made once from the headers, says where each
    file lies. An epoch takes the shards in random order and shuffles their samples within a window, so that reading
    stays nearly sequential; shards should therefore be shuffled themselves. Shards are local, uncompressed files.

    Fields of a sample: `key` (shard and name), `audio` (array and sampling_rate), `text`, and where there are such
    files `label` (the integer in `.cls`) and `json` (an object). Files of other kinds are never opened.

    Args:
        shards: path, brace pattern (`speech-{000..012}.tar`), glob, or a list of such.
        captions: false gives no `text`, and needs none.
        caption_key: the text is the one under this key of the sample's `.json` instead of its `.txt`.
        window: samples that are shuffled with each other.
        index: folder for the indices; beside the shards unless given, or in memory where that cannot be written.
        sampling_rate: samples per second that sounds are brought to; None leaves them as they are.

    Raises:
        DataError: no such shard, one that is no plain tar or is cut short, one that holds links, devices or names that
            leave their folder, or a sample that lacks a sound or text; names shard and file.
    """

    def __init__(
        self,
        shards: str | list[str],
        captions: bool = True,
        caption_key: str | None = None,
        window: Annotated[int, Field(ge=1)] = 4096,
        index: str | None = None,
        sampling_rate: Annotated[int | None, Field(ge=1000)] = None,
    ) -> None:
        self.rate = sampling_rate
        sound = Medium("audio", "sound", EXTENSIONS, functools.partial(_read, rate=sampling_rate))
        self.samples = WebSamples(sound, shards, captions, caption_key, window, index)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.samples[index]

    def manifest(self) -> list[tuple[str, Any]]:
        return [(key, [content, self.rate]) for key, content in self.samples.manifest()]

    def order(self, generator: Generator) -> np.ndarray:
        return self.samples.order(generator)

    def seconds(self, index: int) -> float:
        """How long a sample lasts, as the head of its file says.

        Raises:
            DataError: there is no sound, or its file cannot be read; names shard and file.
        """
        with self.samples.opened(index) as (file, where):
            return duration(file, where)


def _read(data: bytes, where: str, rate: int | None) -> dict[str, Any]:
    sound = read_sound(data, where)
    return (sound if rate is None else Sound(resampled(sound, rate), rate)).field
