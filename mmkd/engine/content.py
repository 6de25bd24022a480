"""What samples and weights are, as checksums."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mmkd.errors import DataError


def checksum(value: Any) -> str:
    """sha256 of any content that a sample may hold, in hex; equal content has equal checksums on any machine.

    Raises:
        DataError: it is of a type that has no content of its own.
    """
    hashed = hashlib.sha256()
    for piece in _pieces(value):
        hashed.update(piece)
    return hashed.hexdigest()


def _pieces(value: Any) -> Iterable[bytes | memoryview]:
    """Each piece after its kind and size, so that no two values give the same bytes."""
    if isinstance(value, Mapping):
        yield f"map {len(value)} ".encode()
        for key in sorted(value, key=str):
            yield from _pieces(str(key))
            yield from _pieces(value[key])
    elif isinstance(value, list | tuple):
        yield f"list {len(value)} ".encode()
        for item in value:
            yield from _pieces(item)
    elif isinstance(value, Tensor):
        flat = value.detach().to("cpu").contiguous().reshape(-1)
        yield f"array {value.dtype} {tuple(value.shape)} ".replace("torch.", "").encode()
        if flat.numel():
            yield flat.view(torch.uint8).numpy().data
    elif isinstance(value, np.ndarray | np.generic):
        array = np.ascontiguousarray(value)
        if array.dtype.hasobject:
            yield from _pieces(array.tolist())
        else:
            yield f"array {array.dtype.name} {array.shape} ".encode()
            yield array.reshape(-1).view(np.uint8).data if array.size else b""
    elif isinstance(value, Image.Image):
        yield f"picture {value.mode} {value.size} ".encode()
        yield value.tobytes()
    elif isinstance(value, str | bytes):
        data = value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value
        yield f"{type(value).__name__} {len(data)} ".encode()
        yield data
    elif value is None or isinstance(value, bool | int | float | complex):
        yield f"{type(value).__name__} {value!r} ".encode()
    else:
        raise DataError(
            f"a {type(value).__name__} has no content to tell it by", next="let the dataset define manifest()"
        )
