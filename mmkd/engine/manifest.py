"""The manifest of a dataset: the keys of its samples and a checksum of all that is in them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from mmkd.components import Dataset
from mmkd.engine.cache.document import digest
from mmkd.engine.content import checksum
from mmkd.engine.stream import read
from mmkd.errors import DataError, MmkdError


@dataclass(frozen=True)
class Manifest:
    """Which samples a dataset has.

    Args:
        keys: of its samples, in order; a sample that cannot be read has a key that no other has.
        content: sha256 over keys and contents.
    """

    keys: Sequence[str]
    content: str

    @classmethod
    def of(
        cls,
        dataset: Dataset,
        *,
        skip: bool = False,
        where: str = "data.train",
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> Manifest:
        """What the dataset itself says, else what reading all of it says.

        Args:
            skip: a sample that cannot be read is part of the manifest too, instead of an error.
            where: place in the recipe, for errors.
            progress: called with how many samples of how many have been read.

        Raises:
            MmkdError: a sample is bad, or `manifest()` does not fit the dataset.
        """
        own = getattr(dataset, "manifest", None)
        entries = own() if callable(own) else None
        if entries is None:
            entries = []
            for index in range(len(dataset)):
                entries.append(_entry(dataset, index, skip))
                progress(index + 1, len(dataset))
        if len(entries) != len(dataset):
            what = f"manifest() of {type(dataset).__name__} names {len(entries)} samples of {len(dataset)}"
            raise DataError(what, where=where)
        return cls([key for key, _ in entries], digest([[key, content] for key, content in entries]))


def _entry(dataset: Dataset, index: int, skip: bool) -> tuple[str, Any]:
    try:
        sample = read(dataset, index)
    except MmkdError:
        if not skip:
            raise
        return f"\0{index}", None
    try:
        return sample["key"], checksum(sample)
    except MmkdError as error:
        raise error.at(f"sample '{sample['key']}' of {type(dataset).__name__}") from None
