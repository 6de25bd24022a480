"""Captions, and pictures too, from a Parquet table."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmkd.errors import DataError


@dataclass(frozen=True)
class Embedded:
    """A picture that lies in the table itself, by its row from 0."""

    row: int


class ParquetTable:
    """The wanted columns of a Parquet file, held in memory as Arrow holds them; forked workers share them.

    The image column holds paths, the bytes of picture files, or structs `{bytes, path}` of which one is set, as
    Hugging Face datasets write them.

    Raises:
        DataError: pyarrow is not installed, or the file is damaged or lacks a column.
    """

    def __init__(self, table: Path, image: str, text: str) -> None:
        try:
            import pyarrow
            import pyarrow.parquet
        except ImportError as error:
            install = "pip install 'mmkd-vision-language[parquet]'"
            raise DataError("needs pyarrow to be read", where=str(table), next=install) from error
        try:
            exists = pyarrow.parquet.read_schema(table).names
            for column in (image, text):
                if column not in exists:
                    raise DataError(
                        f"column '{column}' is missing", where=str(table), name=column, exists=exists,
                        next="image_column and text_column name the columns",
                    )  # fmt: skip
            columns = [name for name in dict.fromkeys((image, text, "label")) if name in exists]
            read = pyarrow.parquet.read_table(table, columns=columns, partitioning=None)
        except (pyarrow.ArrowException, OSError) as error:
            raise DataError(f"is not Parquet: {error}", where=str(table)) from error
        self._place, self._image = str(table), image
        self._columns = {name: read[name] for name in columns}

    def entries(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Entries with their places (`captions.parquet: row 3`, from 1)."""
        images = self._columns[self._image]
        for row in range(len(images)):
            entry = {name: column[row].as_py() for name, column in self._columns.items() if name != self._image}
            scalar = _filled(images[row])
            entry[self._image] = Embedded(row) if _is_bytes(scalar) else scalar.as_py()
            yield f"{self._place}: row {row + 1}", entry

    def picture(self, embedded: Embedded) -> bytes:
        """The picture file that lies in the table."""
        data: bytes = _filled(self._columns[self._image][embedded.row]).as_py()
        return data


def _filled(scalar: Any) -> Any:
    """Of a struct the part that is set."""
    import pyarrow

    if not pyarrow.types.is_struct(scalar.type) or not scalar.is_valid:
        return scalar
    parts = [scalar[name] for name in ("bytes", "path") if scalar.type.get_field_index(name) >= 0]
    return next((part for part in parts if part.is_valid), scalar)


def _is_bytes(scalar: Any) -> bool:
    import pyarrow

    kinds = (pyarrow.types.is_binary, pyarrow.types.is_large_binary, pyarrow.types.is_binary_view)
    return bool(scalar.is_valid and any(kind(scalar.type) for kind in kinds))
