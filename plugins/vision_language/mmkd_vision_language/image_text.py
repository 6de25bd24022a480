"""Pictures in a folder with their captions in a table."""

from __future__ import annotations

import csv
import json
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps, UnidentifiedImageError

import mmkd
from mmkd.errors import DataError

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF")
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif"})
TABLES = ("captions.csv", "captions.jsonl", "metadata.jsonl", "metadata.csv")


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    image: str
    text: str | None = None
    label: int | None = None


class ImageTextDataset(mmkd.Dataset):
    """Pictures in a folder, each with a caption from a CSV or JSONL table.

    The table has one line a pair; paths are relative to the folder that it lies in, and may not leave it. An
    integer column `label` is taken along. PNG, JPEG, WebP, BMP and the first frame of GIF are read, turned upright
    as EXIF says.

    Fields of a sample: `key` (the path, with the line where the picture has several captions), `image`, `text`,
    and `label` where there is one.

    Args:
        path: table, or a folder with one of `captions.csv`, `captions.jsonl`, `metadata.jsonl`, `metadata.csv`.
        image_column: column of the pictures' paths.
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
        if captions:
            table = _table(given)
            self.root = table.parent
            self.rows = [
                self._row(entry, f"{table}:{line}", image_column, text_column) for line, entry in _lines(table)
            ]
        else:
            self.root, table = given, given
            self.rows = [Row(name) for name in _pictures(given)]
        if not self.rows:
            raise DataError("holds no pictures", where=str(table), next=f"pictures end in {' '.join(sorted(SUFFIXES))}")
        self._repeated = {image for image, count in Counter(row.image for row in self.rows).items() if count > 1}

    def _row(self, entry: Mapping[str, Any], where: str, image_column: str, text_column: str) -> Row:
        for column in (image_column, text_column):
            if not isinstance(entry.get(column), str) or not entry[column].strip():
                raise DataError(
                    f"column '{column}' is {'empty' if column in entry else 'missing'}", where=where, name=column,
                    exists=[str(name) for name in entry], next="image_column and text_column name the columns",
                )  # fmt: skip
        image = entry[image_column].strip()
        target = self.root / image
        if not target.resolve().is_relative_to(self.root.resolve()):
            raise DataError(
                f"'{image}' lies outside {self.root}", where=where, next="put the table beside the pictures"
            )
        if not target.is_file():
            raise DataError(f"there is no file '{image}' in {self.root}", where=where)
        return Row(image, entry[text_column], _label(entry.get("label"), where))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = self.rows[index]
        key = f"{row.image}#{index}" if row.image in self._repeated else row.image
        sample: dict[str, Any] = {"key": key, "image": read_picture(self.root / row.image)}
        if row.text is not None:
            sample["text"] = row.text
        if row.label is not None:
            sample["label"] = row.label
        return sample


def read_picture(path: Path) -> Image.Image:
    """The picture in a file, upright.

    Raises:
        DataError: it is damaged, of another format, or unreasonably large.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=FORMATS) as image:
                image.load()
                return ImageOps.exif_transpose(image)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise DataError(f"is too large a picture: {error}", where=str(path)) from error
    except UnidentifiedImageError as error:
        raise DataError("is no picture of a format that is read", where=str(path), exists=FORMATS) from error
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"cannot be read: {error}", where=str(path)) from error


def _table(path: Path) -> Path:
    if path.is_file():
        if path.suffix not in (".csv", ".jsonl"):
            raise DataError("is no table", where=str(path), exists=[".csv", ".jsonl"])
        return path
    for name in TABLES:
        if (path / name).is_file():
            return path / name
    raise DataError(
        "has no table of captions", where=str(path), exists=TABLES, next="captions: false takes the pictures alone"
    )


def _lines(table: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Entries of a table with their line numbers, from 1."""
    with table.open(encoding="utf-8-sig", newline="") as file:
        try:
            if table.suffix == ".csv":
                reader = csv.DictReader(file)
                for entry in reader:
                    yield reader.line_num, {name: value for name, value in entry.items() if name is not None}
                return
            for line, text in enumerate(file, 1):
                if text.strip():
                    entry = json.loads(text)
                    if not isinstance(entry, dict):
                        raise DataError(f"is {type(entry).__name__}, not an object", where=f"{table}:{line}")
                    yield line, entry
        except json.JSONDecodeError as error:
            raise DataError(f"is not JSON: {error.msg}", where=f"{table}:{line}") from error
        except (UnicodeDecodeError, csv.Error) as error:
            raise DataError(f"cannot be read: {error}", where=str(table)) from error


def _label(value: Any, where: str) -> int | None:
    if value is None or value == "":
        return None
    try:
        return int(value)
    except (TypeError, ValueError):
        raise DataError(f"label {value!r} is no integer", where=where) from None


def _pictures(folder: Path) -> list[str]:
    if not folder.is_dir():
        raise DataError("is no folder", where=str(folder))
    found = (path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    return sorted(path.relative_to(folder).as_posix() for path in found)
