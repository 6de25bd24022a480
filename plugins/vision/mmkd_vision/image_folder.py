"""Pictures in class folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mmkd
from mmkd.errors import DataError
from mmkd_vision.folder import pictures
from mmkd_vision.picture import SUFFIXES, mark, read_picture


class ImageFolder(mmkd.Dataset):
    """Pictures in one folder per class, as in `root/train/cat/1.png`.

    The class is the first folder below the root or the split; a label is its place among the class names, sorted.
    PNG, JPEG, WebP, BMP and the first frame of GIF are read, turned upright as EXIF says; names that begin with a
    dot are left out.

    Fields of a sample: `key` (the path below the root), `image`, and with labels `label` and `class_name`.

    Args:
        path: the root folder.
        split: folder below the root that holds the class folders, such as `train`.
        classes: class names in the order of their labels, so that splits agree; folders not named are left out.
        labels: false takes all pictures in the folder and below, whatever their folders are called.

    Raises:
        DataError: no such folder or picture, a class without pictures, or a picture that cannot be read.
    """

    def __init__(
        self, path: str, split: str | None = None, classes: list[str] | None = None, labels: bool = True
    ) -> None:
        self.root = Path(path).expanduser()
        folder = self.root / split if split is not None else self.root
        if not folder.is_dir():
            exists = sorted(entry.name for entry in self.root.iterdir() if entry.is_dir()) if self.root.is_dir() else ()
            raise DataError("is no folder", where=str(folder), name=split or "", exists=exists)
        if not folder.resolve().is_relative_to(self.root.resolve()):
            raise DataError(f"split '{split}' lies outside {self.root}", where=str(folder))
        found = pictures(folder)
        self.classes: tuple[str, ...] = ()
        self._labels: list[int] = []
        if labels:
            self.classes = _classes(found, classes, folder)
            place = {name: label for label, name in enumerate(self.classes)}
            found = [name for name in found if name.partition("/")[0] in place]
            self._labels = [place[name.partition("/")[0]] for name in found]
        elif classes is not None:
            raise DataError("classes are of no use where labels are false", where=str(folder))
        if not found:
            raise DataError("holds no pictures", where=str(folder), next=f"they end in {' '.join(sorted(SUFFIXES))}")
        self.keys = found if split is None else [f"{Path(split).as_posix()}/{name}" for name in found]

    def __len__(self) -> int:
        return len(self.keys)

    def manifest(self) -> list[tuple[str, Any]]:
        labels = self._labels or [-1] * len(self)
        return [(key, [mark(self.root / key), label]) for key, label in zip(self.keys, labels, strict=True)]

    def __getitem__(self, index: int) -> dict[str, Any]:
        sample = {"key": self.keys[index], "image": read_picture(self.root / self.keys[index])}
        if self._labels:
            label = self._labels[index]
            sample |= {"label": label, "class_name": self.classes[label]}
        return sample


def _classes(found: list[str], given: list[str] | None, folder: Path) -> tuple[str, ...]:
    stray = next((name for name in found if "/" not in name), None)
    if stray is not None:
        raise DataError(f"'{stray}' lies in no class folder", where=str(folder), next="labels: false")
    names = sorted({name.partition("/")[0] for name in found})
    if given is None:
        return tuple(names)
    if len(set(given)) < len(given):
        raise DataError("a class is named twice", where="classes", exists=given)
    for name in given:
        if name not in names:
            raise DataError(f"class '{name}' has no pictures", where=str(folder), name=name, exists=names)
    return tuple(given)
