"""JSON files of a cache: written whole or not at all, each with a checksum of its own."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmkd.errors import CacheError


def canonical(document: Any) -> str:
    """The one way in which equal documents are written."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(document: Any) -> str:
    """sha256 of the canonical JSON, in hex."""
    return hashlib.sha256(canonical(document).encode()).hexdigest()


def write(path: Path, document: Mapping[str, Any]) -> None:
    """Write it whole or not at all where a process dies; where the power fails, its checksum tells what is left."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    with aside.open("w", encoding="ascii") as file:
        file.write(canonical({**document, "sum": digest(document)}) + "\n")
    os.replace(aside, path)


def settle(path: Path) -> None:
    """Make a file, or the names in a folder, last through a loss of power."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read(path: Path) -> dict[str, Any]:
    """The document as it was written.

    Raises:
        FileNotFoundError: there is no such file.
        CacheError: its bytes are not those written.
    """
    try:
        document: dict[str, Any] = json.loads(path.read_bytes())
        whole = document.pop("sum") == digest(document)
    except (ValueError, KeyError, TypeError, AttributeError):
        whole = False
    if not whole:
        raise CacheError(
            "is damaged: its checksum does not fit", where=str(path), next=f"mmkd cache verify {path.parents[0].name}"
        )
    return document
