"""Sound files in a folder."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

import mmkd
from mmkd.errors import DataError
from mmkd.files import entries
from mmkd_audio.resample import resampled
from mmkd_audio.sound import SUFFIXES, Sound, duration, mark, read_sound

TABLES = tuple(f"{stem}{suffix}" for stem in ("metadata", "captions") for suffix in (".csv", ".jsonl"))
Named = tuple[str, "str | None", "str | int | None"]


@dataclass(frozen=True)
class Row:
    """One sound: its path below the root, its text and its class."""

    path: str
    text: str | None = None
    label: int | None = None


class AudioFolder(mmkd.Dataset):
    """Sound files in a folder, with texts and classes from a table, from folders or from their names.

    WAV, FLAC, Ogg, AIFF and MP3 are read, one channel or the mean of two; names that begin with a dot are left out. A
    table has one line a sound, with paths relative to the folder that it lies in, which they may not leave.

    Fields of a sample: `key` (the path below the root), `audio` (array and sampling_rate), `text` where there is one,
    `label` and `class_name` where there are classes (`label` alone for a table's integers).

    Args:
        path: folder; or table (`.csv`, `.jsonl`). A folder's own table is `metadata` or `captions`, where it has one.
        table: false leaves the folder's own table alone.
        text: where texts come from: `table` (its column `text`, if any), the file's `name` as words, or `none`.
        labels: where classes come from: `table` (its column `label`, if any: integers, or names that are sorted), the
            first `folder` below the root, the `prefix` of the file's name, up to the first `_`, `-`, dot or digit,
            or `none`.
        audio_column: column of the paths.
        sampling_rate: samples per second that sounds are brought to; None leaves them as they are.

    Raises:
        DataError: no such folder, table, column or sound, or one that cannot be read; names file and line.
    """

    def __init__(
        self,
        path: str,
        table: bool = True,
        text: Literal["table", "name", "none"] = "table",
        labels: Literal["table", "folder", "prefix", "none"] = "table",
        audio_column: str = "audio",
        sampling_rate: Annotated[int | None, Field(ge=1000)] = None,
    ) -> None:
        given = Path(path).expanduser()
        if not given.exists():
            raise DataError("does not exist", where=str(given))
        found = given if given.is_file() else next((given / n for n in TABLES if (given / n).is_file()), None)
        self.root, self.rate = (given.parent if given.is_file() else given), sampling_rate
        named = _listed(found, audio_column) if found is not None and table else _lying(self.root)
        if not named:
            raise DataError("holds no sounds", where=str(given), next=f"they end in {' '.join(sorted(SUFFIXES))}")
        classes = [_class(name, own, labels, self.root) for name, _, own in named]
        texts = [_text(name, own, text) for name, own, _ in named]
        lacking = next((i for i, one in enumerate(classes) if (one is None) != (classes[0] is None)), None)
        if lacking is not None or len({one is None for one in texts}) > 1:
            raise DataError("gives some sounds a text or label and others none", where=str(found or given))
        self.classes = tuple(sorted({one for one in classes if isinstance(one, str)}))
        place = {name: i for i, name in enumerate(self.classes)}
        self.rows = [
            Row(name, said, place[one] if isinstance(one, str) else one)
            for (name, *_), said, one in zip(named, texts, classes, strict=True)
        ]
        if len({row.path for row in self.rows}) < len(self.rows):
            raise DataError("names a sound twice", where=str(found or given))

    def __len__(self) -> int:
        return len(self.rows)

    def manifest(self) -> list[tuple[str, Any]]:
        return [(row.path, [mark(self.root / row.path), row.text, row.label, self.rate]) for row in self.rows]

    def seconds(self, index: int) -> float:
        """How long a sample lasts, as the head of its file says.

        Raises:
            DataError: the file cannot be read.
        """
        path = self.root / self.rows[index].path
        return duration(path, str(path))

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = self.rows[index]
        sound = read_sound(self.root / row.path)
        if self.rate is not None:
            sound = Sound(resampled(sound, self.rate), self.rate)
        sample: dict[str, Any] = {"key": row.path, "audio": sound.field}
        if row.text is not None:
            sample["text"] = row.text
        if row.label is not None:
            sample |= {"label": row.label} | ({"class_name": self.classes[row.label]} if self.classes else {})
        return sample


def _lying(root: Path) -> list[Named]:
    """All sound files in the folder and below, in order of path."""
    found = (file for file in root.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
    names = sorted(file.relative_to(root).as_posix() for file in found)
    return [(name, None, None) for name in names if not any(part.startswith(".") for part in name.split("/"))]


def _listed(table: Path, column: str) -> list[Named]:
    """What a table names: path, text and label, if any."""
    home, made = table.parent.resolve(), []
    for where, entry in entries(table):
        name = entry.get(column)
        if not isinstance(name, str) or not name.strip():
            raise DataError(
                f"column '{column}' is missing or empty", where=where, name=column, exists=map(str, entry),
                next="audio_column names the column",
            )  # fmt: skip
        path = (table.parent / name.strip()).resolve()
        if not path.is_relative_to(home) or not path.is_file():
            what = "lies outside of the table's folder" if not path.is_relative_to(home) else "is not there"
            raise DataError(f"'{name}' {what}", where=where)
        text, label = entry.get("text"), entry.get("label")
        if isinstance(label, str):
            label = int(label) if re.fullmatch(r"\d+", label) else label or None
        if not (text is None or isinstance(text, str)) or not (label is None or isinstance(label, str | int)):
            raise DataError("text is no text, or label neither an integer nor a name", where=where)
        made.append((path.relative_to(home).as_posix(), text or None, label))
    if len({type(label) for *_, label in made}) > 1:
        raise DataError("has labels of several kinds: integers, names or none", where=str(table))
    return made


def _class(name: str, own: str | int | None, labels: str, root: Path) -> str | int | None:
    if labels == "folder":
        if "/" not in name:
            raise DataError(f"'{name}' lies in no class folder", where=str(root), next="labels: none, or prefix")
        return name.partition("/")[0]
    if labels == "prefix":
        stem = name.rpartition("/")[2]
        return re.split(r"[_\-.\d]", stem, maxsplit=1)[0] or stem
    return own if labels == "table" else None


def _text(name: str, own: str | None, text: str) -> str | None:
    if text == "name":
        return " ".join(re.findall(r"[^\W_]+", Path(name).stem)) or None
    return own if text == "table" else None
