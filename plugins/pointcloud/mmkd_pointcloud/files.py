"""Finds the shapes in a folder, and reads them as samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import mmkd
from mmkd.errors import DataError
from mmkd_pointcloud.cloud_file import SUFFIXES, mark, read_cloud


def shapes(folder: Path, pattern: str = "**/*", suffixes: frozenset[str] = SUFFIXES) -> list[str]:
    """Paths of all shapes below a folder, relative to it with `/`, sorted; names that begin with a dot are left out.

    Raises:
        DataError: there is no such folder, or no shape in it.
    """
    if not folder.is_dir():
        raise DataError("is no folder" if folder.exists() else "does not exist", where=str(folder))
    paths = [path.relative_to(folder) for path in folder.glob(pattern) if path.suffix.lower() in suffixes]
    found = sorted(path.as_posix() for path in paths if not any(part.startswith(".") for part in path.parts))
    if not found:
        raise DataError("holds no shapes", where=str(folder), next=f"{pattern}, ending in {' '.join(sorted(suffixes))}")
    return found


def places(
    found: Sequence[str], given: Sequence[str] | None, class_of: Callable[[str], str], where: str
) -> tuple[str, ...]:
    """The class names in the order of their labels.

    Raises:
        DataError: a class is given twice, or has no shapes.
    """
    names = sorted({class_of(name) for name in found})
    if given is None:
        return tuple(names)
    for name in given:
        if name not in names:
            raise DataError(f"class '{name}' has no shapes", where=where, name=name, exists=names)
        if list(given).count(name) > 1:
            raise DataError(f"class '{name}' is named twice", where="classes", exists=given)
    return tuple(given)


class Files(mmkd.Dataset):
    """Shapes that are files of their own, with a class each or none.

    Args:
        root: the folder that keys are relative to.
        keys: paths below it.
        labels: class of each, by its place in `classes`; None where there are none.
        classes: names of the classes.
        points: points of a shape; None takes clouds as they are, and 1024 of a mesh.
    """

    def __init__(
        self, root: Path, keys: Sequence[str], labels: Sequence[int] | None, classes: Sequence[str], points: int | None
    ) -> None:
        self.root, self.keys, self.points = root, list(keys), points
        self.labels, self.classes = None if labels is None else list(labels), tuple(classes)

    def __len__(self) -> int:
        return len(self.keys)

    def manifest(self) -> list[tuple[str, Any]]:
        labels = self.labels or [-1] * len(self)
        return [
            (key, [mark(self.root / key), label, self.points]) for key, label in zip(self.keys, labels, strict=True)
        ]

    def __getitem__(self, index: int) -> dict[str, Any]:
        sample = {"key": self.keys[index], **self.read(index)}
        if self.labels is not None:
            sample |= {"label": self.labels[index], "class_name": self.classes[self.labels[index]]}
        return sample

    def read(self, index: int) -> dict[str, Any]:
        """The fields that come out of the file."""
        return read_cloud(self.root / self.keys[index], self.points, self.keys[index])
