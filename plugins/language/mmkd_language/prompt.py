"""What a prompt is known by: its text, or a checksum of what the writer reads of the sample."""

from __future__ import annotations

import hashlib
import numbers
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch

import mmkd
from mmkd.errors import DataError, MmkdError

TEXT, CHECKSUM = "text", "prompt"
"""How a prompt is called in a file: readable, or as a checksum."""


class Prompt(NamedTuple):
    """A prompt's name, whether it is a text or a checksum, and the network's fields of it."""

    kind: str
    name: str
    row: dict[str, Any]


def prompt_of(encoder: mmkd.Encoder, sample: Mapping[str, Any]) -> Prompt:
    """The sample with nothing written after it yet, as a network that writes reads it.

    It is known by its text where the network reads nothing else, and otherwise by the SHA-256 of the fields that it
    reads: the sound itself, not what a machine's arithmetic makes of it.

    Raises:
        MmkdError: the sample lacks what the network reads, or cannot be used; it is named.
        DataError: it reads a field whose content cannot be told from another.
    """
    watched = _Watched({**sample, "target": ""})
    where = f"sample '{sample.get('key', '?')}'"
    try:
        row = encoder.transform(watched)
    except KeyError as error:
        what = f"has no field {error}, which a {type(encoder).__name__} reads"
        raise DataError(what, where=where, exists=[str(name) for name in sample]) from error
    except MmkdError as error:
        raise error.at(where) from error.__cause__
    if (read := watched.read - {"key", "target"}) <= {TEXT}:
        return Prompt(TEXT, str(sample[TEXT]), row)
    digest = hashlib.sha256()
    for part in _parts({name: watched.sample[name] for name in sorted(read)}, ""):
        digest.update(part)
    return Prompt(CHECKSUM, f"sha256:{digest.hexdigest()}", row)


class _Watched(Mapping[str, Any]):
    """A sample that remembers which of its fields were read."""

    def __init__(self, sample: Mapping[str, Any]) -> None:
        self.sample, self.read = sample, set[str]()

    def __getitem__(self, name: str) -> Any:
        value = self.sample[name]
        self.read.add(name)
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(self.sample)

    def __len__(self) -> int:
        return len(self.sample)


def _parts(value: Any, path: str) -> Iterator[bytes]:
    """Bytes that are equal for equal values: of plain values, maps, lists, pictures, arrays and tensors."""
    if isinstance(value, Mapping):
        for name in sorted(value):
            yield from _parts(value[name], f"{path}.{name}")
    elif isinstance(value, list | tuple):
        for i, item in enumerate(value):
            yield from _parts(item, f"{path}.{i}")
    elif value is None or isinstance(value, str | bytes | numbers.Number):
        yield f"{path}={value!r};".encode()
    else:
        array = np.ascontiguousarray(value.detach().cpu() if isinstance(value, torch.Tensor) else value)
        if array.dtype.hasobject:
            what = f"is {type(value).__name__}, which cannot be told from another of its kind"
            raise DataError(what, where=path.removeprefix("."), next="give an array, text or numbers")
        yield f"{path}={array.dtype}{array.shape};".encode()
        yield array.tobytes()
