"""Captioned pictures in tar shards, read in place."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from mmkd_vision.picture import SUFFIXES, read_picture
from numpy.random import Generator
from pydantic import Field

import mmkd
from mmkd.files import Medium, WebSamples

PICTURE = Medium("image", "picture", tuple(sorted(suffix.removeprefix(".") for suffix in SUFFIXES)), read_picture)


class WebDataset(mmkd.Dataset):
    """Captioned pictures in tar shards, as webdataset and img2dataset write them (`1.jpg`, `1.txt`, `1.json`, `1.cls`).

    A sample is the files of one name up to the first dot. Nothing is extracted or unpickled: an index of each shard,
    made once from the headers, says where each file lies. An epoch takes the shards in random order and shuffles
    their samples within a window, so that reading stays nearly sequential; shards should therefore be shuffled
    themselves. Shards are local, uncompressed files.

    Fields of a sample: `key` (shard and name), `image`, `text`, and where there are such files `label` (the integer
    in `.cls`) and `json` (an object). Files of other kinds are never opened.

    Args:
        shards: path, brace pattern (`pets-{000..012}.tar`), glob, or a list of such.
        captions: false gives no `text`, and needs none.
        caption_key: the caption is the text under this key of the sample's `.json` instead of its `.txt`.
        window: samples that are shuffled with each other.
        index: folder for the indices; beside the shards unless given, or in memory where that cannot be written.

    Raises:
        DataError: no such shard, one that is no plain tar or is cut short, one that holds links, devices or names that
            leave their folder, or a sample that lacks a picture or caption; names shard and file.
    """

    def __init__(
        self,
        shards: str | list[str],
        captions: bool = True,
        caption_key: str | None = None,
        window: Annotated[int, Field(ge=1)] = 4096,
        index: str | None = None,
    ) -> None:
        self.samples = WebSamples(PICTURE, shards, captions, caption_key, window, index)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.samples[index]

    def manifest(self) -> list[tuple[str, Any]]:
        return self.samples.manifest()

    def order(self, generator: Generator) -> np.ndarray:
        return self.samples.order(generator)
