"""Captioned pictures in tar shards, read in place."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from mmkd_vision.picture import SUFFIXES, read_picture
from numpy.random import Generator
from pydantic import Field

import mmkd
from mmkd.errors import DataError
from mmkd_vision_language.shards import find_shards
from mmkd_vision_language.tar_index import Extent, Shard, open_shard

PICTURES = tuple(sorted(suffix.removeprefix(".") for suffix in SUFFIXES))
LARGEST_PICTURE, LARGEST_TEXT = 1 << 29, 1 << 24
"""Bytes of the largest file that is read."""


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
        if window < 1:
            raise DataError(f"is at least 1, not {window}", where="window")
        self.captions, self.caption_key, self.window = captions, caption_key, window
        paths = find_shards(shards)
        home = Path(index).expanduser() if index is not None else None
        self.shards = [open_shard(path, home) for path in paths]
        self._first = np.cumsum([0, *map(len, self.shards)])
        if not len(self):
            raise DataError("holds no samples", where=", ".join(map(str, paths[:3])))
        common = os.path.commonpath([path.absolute().parent for path in paths])
        self._names = [path.absolute().relative_to(common).with_suffix("").as_posix() for path in paths]

    def __len__(self) -> int:
        return int(self._first[-1])

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        place = int(np.searchsorted(self._first, index, side="right")) - 1
        shard = self.shards[place]
        name, extents = shard.sample(index - int(self._first[place]))
        files = self._read(shard, name, extents)
        sample: dict[str, Any] = {"key": f"{self._names[place]}/{name}"}
        for extension, data in files.items():
            where = f"{shard.path}: {name}.{extension}"
            match extension:
                case "txt":
                    sample["text"] = _text(data, where)
                case "cls":
                    sample["label"] = _label(data, where)
                case "json":
                    sample["json"] = _object(data, where)
                case _:
                    sample["image"] = read_picture(data, where)
        if self.captions and self.caption_key is not None:
            caption = sample["json"].get(self.caption_key)
            if not isinstance(caption, str) or not caption.strip():
                raise DataError(
                    f"has no text under '{self.caption_key}'", where=f"{shard.path}: {name}.json",
                    name=self.caption_key, exists=list(sample["json"]),
                )  # fmt: skip
            sample["text"] = caption.strip()
        return sample

    def manifest(self) -> list[tuple[str, Any]]:
        """By the bytes of each sample's files, which are read one after the other."""
        found: list[tuple[str, Any]] = []
        for names, shard in zip(self._names, self.shards, strict=True):
            for place in range(len(shard)):
                name, extents = shard.sample(place)
                try:
                    files = self._read(shard, name, extents)
                    content = {kind: hashlib.sha256(data).hexdigest() for kind, data in files.items()}
                except DataError:
                    content = {}  # reading it says why
                found.append((f"{names}/{name}", content))
        return found

    def order(self, generator: Generator) -> np.ndarray:
        """Shards in random order, their samples shuffled within consecutive windows."""
        parts = [np.arange(*self._first[i : i + 2]) for i in generator.permutation(len(self.shards))]
        order = np.concatenate(parts)
        windows = np.arange(len(order)) // self.window
        return order[np.lexsort((generator.random(len(order)), windows))]

    def _read(self, shard: Shard, name: str, extents: dict[str, Extent]) -> dict[str, bytes]:
        """The bytes of the files that make up the sample, by extension."""
        picture = next((extension for extension in PICTURES if extension in extents), None)
        caption = "txt" if self.caption_key is None else "json"
        if picture is None:
            raise _lacks(shard, name, extents, f"no picture: no file .{' or .'.join(PICTURES)}")
        if self.captions and caption not in extents:
            raise _lacks(shard, name, extents, f"no caption: no file .{caption}", next="captions: false")
        chosen = {picture, "cls", "json", *(["txt"] if self.captions and caption == "txt" else [])} & extents.keys()
        for extension in sorted(chosen):
            size, largest = extents[extension].size, LARGEST_PICTURE if extension == picture else LARGEST_TEXT
            if size > largest:
                raise DataError(f"has {size} bytes, above {largest}", where=f"{shard.path}: {name}.{extension}")
        return shard.read({extension: extents[extension] for extension in sorted(chosen)})


def _lacks(shard: Shard, name: str, extents: dict[str, Extent], what: str, next: str = "") -> DataError:
    return DataError(f"'{name}' has {what}", where=str(shard.path), exists=[f".{kind}" for kind in extents], next=next)


def _text(data: bytes, where: str) -> str:
    try:
        text = data.decode().strip()
    except UnicodeDecodeError as error:
        raise DataError(f"is no UTF-8: {error}", where=where) from error
    if not text:
        raise DataError("is empty", where=where)
    return text


def _label(data: bytes, where: str) -> int:
    text = _text(data[:80], where)
    try:
        return int(text)
    except ValueError:
        raise DataError(f"label {text!r} is no integer", where=where) from None


def _object(data: bytes, where: str) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DataError(f"is not JSON: {error}", where=where) from error
    if not isinstance(value, dict):
        raise DataError(f"is {type(value).__name__}, not an object", where=where)
    return value
