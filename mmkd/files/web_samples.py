"""Samples in tar shards, read in place: a medium, its text, its class, and more about it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.random import Generator

from mmkd.errors import DataError
from mmkd.files.part import Part
from mmkd.files.patterns import find_shards
from mmkd.files.tar_index import Extent, Shard, open_shard

LARGEST_MEDIUM, LARGEST_TEXT = 1 << 29, 1 << 24
"""Bytes of the largest file that is read."""


@dataclass(frozen=True)
class Medium:
    """What a sample holds beside its text: all that `WebSamples` has to know of a modality.

    Args:
        field: its field in a sample.
        noun: what an error calls it.
        extensions: of its files, in lower case and without the first dot; a sample's first of them is read.
        read: makes the field of a file's bytes and its place (`pets.tar: 1.jpg`); raises `DataError`.
    """

    field: str
    noun: str
    extensions: tuple[str, ...]
    read: Callable[[bytes, str], Any]


class WebSamples:
    """Samples in tar shards, as the package webdataset writes them: the files of one name up to the first dot.

    Nothing is extracted or unpickled: an index of each shard, made once from the headers, says where each file lies.
    A sample is `key` (shard and name), the medium, `text`, and where there are such files `label` (the integer in
    `.cls`) and `json` (an object). Files of other kinds are never opened. Shards are local, uncompressed files.

    Args:
        medium: what the samples are.
        shards: path, brace pattern (`pets-{000..012}.tar`), glob, or a list of such.
        captions: false gives no `text`, and needs none.
        caption_key: the caption is the text under this key of the sample's `.json` instead of its `.txt`.
        window: samples that are shuffled with each other.
        index: folder for the indices; beside the shards unless given, or in memory where that cannot be written.

    Raises:
        DataError: no such shard, one that is no plain tar or is cut short, one that holds links, devices or names that
            leave their folder, or a sample that lacks its medium or caption; names shard and file.
    """

    def __init__(
        self,
        medium: Medium,
        shards: str | list[str],
        captions: bool = True,
        caption_key: str | None = None,
        window: int = 4096,
        index: str | None = None,
    ) -> None:
        if window < 1:
            raise DataError(f"is at least 1, not {window}", where="window")
        self.medium, self.captions, self.caption_key, self.window = medium, captions, caption_key, window
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
        key, shard, name, extents = self._found(index)
        sample: dict[str, Any] = {"key": key}
        for extension, data in shard.read(self._chosen(shard, name, extents)).items():
            where = f"{shard.path}: {name}.{extension}"
            match extension:
                case "txt":
                    sample["text"] = _text(data, where)
                case "cls":
                    sample["label"] = _label(data, where)
                case "json":
                    sample["json"] = _object(data, where)
                case _:
                    sample[self.medium.field] = self.medium.read(data, where)
        if self.captions and self.caption_key is not None:
            caption = sample["json"].get(self.caption_key)
            if not isinstance(caption, str) or not caption.strip():
                raise DataError(
                    f"has no text under '{self.caption_key}'", where=f"{shard.path}: {name}.json",
                    name=self.caption_key, exists=list(sample["json"]),
                )  # fmt: skip
            sample["text"] = caption.strip()
        return sample

    @contextlib.contextmanager
    def opened(self, index: int) -> Iterator[tuple[Part, str]]:
        """A sample's medium as an open file, for those who need its head alone; and its place, for errors."""
        _, shard, name, extents = self._found(index)
        extension = self._medium(shard, name, extents)
        with shard.opened(extents[extension]) as file:
            yield file, f"{shard.path}: {name}.{extension}"

    def manifest(self) -> list[tuple[str, Any]]:
        """By the bytes of each sample's files, which are read one after the other."""
        found: list[tuple[str, Any]] = []
        caption = {"caption_key": self.caption_key} if self.captions and self.caption_key is not None else {}
        for index in range(len(self)):
            key, shard, name, extents = self._found(index)
            try:
                files = shard.read(self._chosen(shard, name, extents))
                content = {kind: hashlib.sha256(data).hexdigest() for kind, data in files.items()} | caption
            except DataError:
                content = {}  # reading it says why
            found.append((key, content))
        return found

    def order(self, generator: Generator) -> np.ndarray:
        """Shards in random order, their samples shuffled within consecutive windows."""
        parts = [np.arange(*self._first[i : i + 2]) for i in generator.permutation(len(self.shards))]
        order = np.concatenate(parts)
        windows = np.arange(len(order)) // self.window
        return order[np.lexsort((generator.random(len(order)), windows))]

    def _found(self, index: int) -> tuple[str, Shard, str, dict[str, Extent]]:
        """Key, shard, name and files of a sample."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        place = int(np.searchsorted(self._first, index, side="right")) - 1
        shard = self.shards[place]
        name, extents = shard.sample(index - int(self._first[place]))
        return f"{self._names[place]}/{name}", shard, name, extents

    def _medium(self, shard: Shard, name: str, extents: dict[str, Extent]) -> str:
        """The extension of the medium's file."""
        kinds = self.medium.extensions
        found = next((extension for extension in kinds if extension in extents), None)
        if found is None:
            raise _lacks(shard, name, extents, f"no {self.medium.noun}: no file .{' or .'.join(kinds)}")
        return found

    def _chosen(self, shard: Shard, name: str, extents: dict[str, Extent]) -> dict[str, Extent]:
        """The files that make up the sample, by extension."""
        medium, caption = self._medium(shard, name, extents), "txt" if self.caption_key is None else "json"
        if self.captions and caption not in extents:
            raise _lacks(shard, name, extents, f"no caption: no file .{caption}", next="captions: false")
        chosen = {medium, "cls", "json", *(["txt"] if self.captions and caption == "txt" else [])} & extents.keys()
        for extension in sorted(chosen):
            size, largest = extents[extension].size, LARGEST_MEDIUM if extension == medium else LARGEST_TEXT
            if size > largest:
                raise DataError(f"has {size} bytes, above {largest}", where=f"{shard.path}: {name}.{extension}")
        return {extension: extents[extension] for extension in sorted(chosen)}


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
