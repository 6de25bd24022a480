"""Datasets in the format of Hugging Face `datasets`: from the hub, saved to disk, or tables in files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

import mmkd
from mmkd.errors import DataError

FORMATS = {".parquet": "parquet", ".json": "json", ".jsonl": "json", ".csv": "csv"}


class HuggingFaceDataset(mmkd.Dataset):
    """A dataset of the Hugging Face hub, one saved with `save_to_disk`, or Parquet, JSON and CSV files.

    Images are decoded, lists of numbers become arrays, everything else stays as it is. A sample is known by its index
    unless `columns` maps a `key`. Needs `datasets`.

    Args:
        path: id on the hub (`ylecun/mnist`), folder, file, or a pattern of files (`data/*.parquet`).
        split: which part of it; may be a slice (`train[:10%]`).
        config: which of several configurations a dataset of the hub has.
        columns: by field, the column it is read from, or a path into one (`{image: img, text: meta.caption}`); all
            columns under their own names unless given.

    Raises:
        DataError: `datasets` is not installed, or there is no such dataset, split or column.
    """

    def __init__(
        self, path: str, split: str = "train", config: str | None = None, columns: Mapping[str, str] | None = None
    ) -> None:
        self.rows = _loaded(path, split, config)
        names = list(self.rows.column_names)
        for field, column in (columns or {}).items():
            if column not in names and column.partition(".")[0] not in names:
                raise DataError(f"has no column '{column}'", where=f"columns.{field}", name=column, exists=names)
        self.fields = mmkd.Fields(columns or {name: name for name in names})
        self.license = self.rows.info.license or None

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {field: _array(value) for field, value in self.fields(self.rows[index]).items()}


def _loaded(path: str, split: str, config: str | None) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise DataError(
            "needs the package 'datasets', which is not installed", where=path, next="pip install 'mmkd[datasets]'"
        ) from error
    local = Path(path).expanduser()
    try:
        if (local / "state.json").is_file():
            return datasets.load_from_disk(str(local))
        if (local / "dataset_dict.json").is_file():
            parts = datasets.load_from_disk(str(local))
            if split not in parts:
                raise DataError(f"has no split '{split}'", where=path, name=split, exists=list(parts))
            return parts[split]
        if kind := FORMATS.get(local.suffix):
            return datasets.load_dataset(kind, data_files={"train": str(local)}, split=split)
        return datasets.load_dataset(str(local) if local.exists() else path, config, split=split)
    except DataError:
        raise
    except Exception as error:
        raise DataError(
            f"cannot be loaded: {error}", where=path,
            next="path is an id on the hub, a folder of save_to_disk, or .parquet, .json, .jsonl and .csv files",
        ) from error  # fmt: skip


def _array(value: Any) -> Any:
    """Lists of numbers as arrays, nested ones too where they are even."""
    if not isinstance(value, list):
        return value
    try:
        array = np.asarray(value)
    except ValueError:
        return value
    return array if array.dtype.kind in "biuf" and array.size else value
