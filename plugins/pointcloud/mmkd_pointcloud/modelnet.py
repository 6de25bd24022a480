"""ModelNet as it is handed out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from mmkd_pointcloud.files import Files, places, shapes

Count = Annotated[int, Field(ge=4)]


class ModelNet(Files):
    """Meshes of ModelNet10 or ModelNet40 as they are unpacked, `root/chair/train/chair_0001.off` (Wu et al., 2015).

    Points are drawn by area, the same ones for the same key. Headers that stick to the counts (`OFF490 518 0`) are
    read.

    Fields of a sample: `key`, `points` `[N, 3]`, `normal` `[N, 3]`, `label`, `class_name`, `text` (the class in words).

    Args:
        path: the root folder.
        split: `train` or `test`.
        points: points of a shape.
        classes: class names in the order of their labels; others are left out.

    Raises:
        DataError: no such folder or class, or a file that cannot be read, named.
    """

    def __init__(
        self,
        path: str,
        split: Literal["train", "test"] = "train",
        points: Count = 1024,
        classes: Sequence[str] | None = None,
    ) -> None:
        root = Path(path).expanduser()
        found = shapes(root, f"*/{split}/*", frozenset({".off"}))
        names = places(found, classes, _class, str(root))
        kept = [name for name in found if _class(name) in names]
        super().__init__(root, kept, [names.index(_class(name)) for name in kept], names, points)

    def read(self, index: int) -> dict[str, Any]:
        return {**super().read(index), "text": _class(self.keys[index]).replace("_", " ")}


def _class(name: str) -> str:
    return name.partition("/")[0]
