"""Shapes in class folders, or in any folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field

from mmkd.errors import DataError
from mmkd_pointcloud.files import Files, places, shapes

Count = Annotated[int, Field(ge=4)]


class Folder(Files):
    """Meshes and clouds in one folder per class, as in `root/chair/1.obj`, or anywhere below a folder.

    Reads ply, obj, off, stl and npz (`points`, with `part`, `normal`, `color` where there are, or `vertices` and
    `faces`). Points are drawn from a mesh by area, the same ones for the same key.

    Fields of a sample: `key` (the path below the root), `points` `[N, 3]`, `normal` `[N, 3]` of meshes, `part` `[N]`
    where a file has it, and with labels `label` and `class_name`.

    Args:
        path: the root folder.
        points: points of a shape; None takes clouds as they are, and 1024 of a mesh.
        labels: false takes all shapes below the root, whatever their folders are called.
        classes: class names in the order of their labels; folders not named are left out.

    Raises:
        DataError: no such folder or class, or a file that cannot be read, named.
    """

    def __init__(
        self, path: str, points: Count | None = 1024, labels: bool = True, classes: Sequence[str] | None = None
    ) -> None:
        root = Path(path).expanduser()
        found = shapes(root)
        if not labels:
            if classes is not None:
                raise DataError("classes are of no use where labels are false", where=str(root))
            super().__init__(root, found, None, (), points)
            return
        stray = next((name for name in found if "/" not in name), None)
        if stray is not None:
            raise DataError(f"'{stray}' lies in no class folder", where=str(root), next="labels: false")
        names = places(found, classes, _class, str(root))
        kept = [name for name in found if _class(name) in names]
        super().__init__(root, kept, [names.index(_class(name)) for name in kept], names, points)


def _class(name: str) -> str:
    return name.partition("/")[0]
