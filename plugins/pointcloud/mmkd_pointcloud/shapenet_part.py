"""ShapeNet part annotations as they are handed out."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from mmkd.errors import DataError
from mmkd_pointcloud.cloud import checked, chosen
from mmkd_pointcloud.cloud_file import SUFFIXES, read_cloud
from mmkd_pointcloud.files import Files, places, shapes

SPLITS = "train_test_split/shuffled_{}_file_list.json"
NAMES = "synsetoffset2category.txt"
Count = Annotated[int, Field(ge=4)]


class ShapeNetPart(Files):
    """Clouds with labelled parts, `root/02691156/1a04e3ea.txt` with x y z nx ny nz part (Yi et al., 2016).

    Lines have three coordinates first and the part last; npz files have `points` and `part`. Classes are the folders,
    by the names of `synsetoffset2category.txt` where it is there. `split` follows
    `train_test_split/shuffled_train_file_list.json`; None takes all.

    Fields of a sample: `key`, `points` `[N, 3]`, `part` `[N]`, `normal` `[N, 3]` where there are seven columns,
    `label`, `class_name`.

    Args:
        path: the root folder.
        split: `train`, `val`, `test`, or None.
        points: points of a shape, a choice by its key; None takes all.
        classes: class names in the order of their labels; others are left out.

    Raises:
        DataError: no such folder, list or class, or a file that cannot be read, named.
    """

    def __init__(
        self,
        path: str,
        split: Literal["train", "val", "test"] | None = None,
        points: Count | None = 2048,
        classes: Sequence[str] | None = None,
    ) -> None:
        root = Path(path).expanduser()
        found = [name for name in shapes(root, "*/*", SUFFIXES | {".txt"}) if not name.startswith("train_test_split/")]
        names_of = _names(root / NAMES)
        if split is not None:
            wanted = _listed(root / SPLITS.format(split))
            found = [name for name in found if name.rpartition(".")[0] in wanted]
        if not found:
            raise DataError(f"none of its shapes is in the list of '{split}'", where=str(root))

        def class_of(name: str) -> str:
            folder = name.partition("/")[0]
            return names_of.get(folder, folder)

        known = places(found, classes, class_of, str(root))
        kept = [name for name in found if class_of(name) in known]
        super().__init__(root, kept, [known.index(class_of(name)) for name in kept], known, points)

    def read(self, index: int) -> dict[str, Any]:
        key, path = self.keys[index], self.root / self.keys[index]
        fields = read_cloud(path, None, key) if path.suffix != ".txt" else _lines(path)
        if "part" not in fields:
            raise DataError("has no parts", where=str(path), next="npz with 'points' and 'part', or a text file")
        fields["part"] = np.asarray(fields["part"], np.int64)
        if self.points is None:
            return fields
        taken = chosen(len(fields["points"]), self.points)
        return {name: value[taken] for name, value in fields.items()}


def _lines(path: Path) -> dict[str, Any]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numpy's of an empty file, which is an error below
            table = np.loadtxt(path, ndmin=2)
    except (OSError, ValueError) as error:
        raise DataError(f"is no table of numbers: {error}", where=str(path)) from error
    if table.size == 0:
        raise DataError("is empty", where=str(path))
    if table.shape[1] not in (4, 7):
        raise DataError(f"has {table.shape[1]} columns", where=str(path), next="x y z part, or x y z nx ny nz part")
    points = checked(table[:, :3], str(path))
    if not np.isfinite(table).all() or (table[:, -1] % 1).any():
        raise DataError("a part or normal is no number", where=str(path))
    normal = {"normal": table[:, 3:6].astype(np.float32)} if table.shape[1] == 7 else {}
    return {"points": points, "part": table[:, -1].astype(np.int64), **normal}


def _names(path: Path) -> dict[str, str]:
    """Class name by folder."""
    if not path.is_file():
        return {}
    pairs = (line.split() for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    return {folder: name.lower() for name, folder in pairs}


def _listed(path: Path) -> set[str]:
    """`02691156/1a04e3ea` of every shape of a split."""
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"is no list of a split: {error}", where=str(path), next="split: null") from error
    return {entry.removeprefix("shape_data/") for entry in entries}
