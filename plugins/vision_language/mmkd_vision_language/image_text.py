"""Pictures in a folder with their captions in a table."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmkd_vision.folder import pictures
from mmkd_vision.picture import SUFFIXES, mark, read_picture

import mmkd
from mmkd.errors import DataError
from mmkd.files import Entry, entries
from mmkd_vision_language.parquet import Embedded, ParquetTable
from mmkd_vision_language.table import find_table


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    image: str | Embedded
    text: str | None = None
    label: int | None = None


class ImageTextDataset(mmkd.Dataset):
    """Pictures in a folder, each with a caption from a CSV, JSONL or Parquet table.

    The table has one line a pair; paths are relative to the folder that it lies in, and may not leave it. A Parquet
    table may hold the pictures themselves, and is then held in memory. An integer column `label` is taken along. PNG,
    JPEG, WebP, BMP and the first frame of GIF are read, turned upright as EXIF says.

    Fields of a sample: `key` (the path, with the line where the picture has several captions), `image`, `text`,
    and `label` where there is one.

    Args:
        path: table, or a folder with one called `captions` or `metadata` (`.csv`, `.jsonl` or `.parquet`).
        image_column: column of the pictures' paths, or of the pictures.
        text_column: column of the captions.
        captions: false takes all pictures in the folder and below, in order of path, without a table.

    Raises:
        DataError: no such folder, table, column or picture, or one that cannot be read; names file and line.
    """

    def __init__(
        self, path: str, image_column: str = "image", text_column: str = "text", captions: bool = True
    ) -> None:
        given = Path(path).expanduser()
        if not given.exists():
            raise DataError("does not exist", where=str(given))
        self._parquet: ParquetTable | None = None
        if captions:
            table = find_table(given)
            self.root, self.name = table.parent, table.name
            if table.suffix == ".parquet":
                self._parquet = ParquetTable(table, image_column, text_column)
            found = self._parquet.entries() if self._parquet is not None else entries(table)
            home = self.root.resolve()
            self.rows = [self._row(entry, place, home, image_column, text_column) for place, entry in found]
        else:
            self.root, self.name, table = given, "", given
            self.rows = [Row(name) for name in pictures(given)]
        if not self.rows:
            raise DataError("holds no pictures", where=str(table), next=f"pictures end in {' '.join(sorted(SUFFIXES))}")
        self._repeated = {image for image, count in Counter(row.image for row in self.rows).items() if count > 1}

    def _row(self, entry: Entry, where: str, home: Path, image_column: str, text_column: str) -> Row:
        for column in (image_column, text_column):
            value = entry.get(column)
            if not isinstance(value, Embedded) and not (isinstance(value, str) and value.strip()):
                state = "missing" if column not in entry else "empty" if value in (None, "") else "no text"
                raise DataError(
                    f"column '{column}' is {state}", where=where, name=column,
                    exists=[str(name) for name in entry], next="image_column and text_column name the columns",
                )  # fmt: skip
        image, text, label = entry[image_column], entry[text_column], _label(entry.get("label"), where)
        if isinstance(image, Embedded):
            return Row(image, text, label)
        image = image.strip()
        target = self.root / image
        try:
            inside, exists = target.resolve().is_relative_to(home), target.is_file()
        except (OSError, RuntimeError, ValueError) as error:  # too long, a loop of links, no text for a path
            raise DataError(f"'{image[:80]}' is no path: {error}"[:300], where=where) from error
        if not inside:
            raise DataError(
                f"'{image}' lies outside {self.root}", where=where, next="put the table beside the pictures"
            )
        if not exists:
            raise DataError(f"there is no file '{image}' in {self.root}", where=where)
        return Row(image, text, label)

    def __len__(self) -> int:
        return len(self.rows)

    def manifest(self) -> list[tuple[str, Any]]:
        return [(self._key(i), [self._mark(row), row.text, row.label]) for i, row in enumerate(self.rows)]

    def _mark(self, row: Row) -> str | None:
        if not isinstance(row.image, Embedded):
            return mark(self.root / row.image)
        assert self._parquet is not None
        return hashlib.sha256(self._parquet.picture(row.image)).hexdigest()

    def _key(self, index: int) -> str:
        image = self.rows[index].image
        if isinstance(image, Embedded):
            return f"{self.name}/{image.row}"
        return f"{image}#{index}" if image in self._repeated else image

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = self.rows[index]
        if isinstance(row.image, Embedded):
            assert self._parquet is not None
            image = read_picture(self._parquet.picture(row.image), f"{self.root / self.name}: row {row.image.row + 1}")
        else:
            image = read_picture(self.root / row.image)
        sample: dict[str, Any] = {"key": self._key(index), "image": image}
        if row.text is not None:
            sample["text"] = row.text
        if row.label is not None:
            sample["label"] = row.label
        return sample


def _label(value: Any, where: str) -> int | None:
    if value is None or value == "":
        return None
    try:
        label = int(value)
    except (TypeError, ValueError, OverflowError):
        label = None
    if label is None or (isinstance(value, float) and label != value):
        raise DataError(f"label {value!r} is no integer", where=where)
    return label
