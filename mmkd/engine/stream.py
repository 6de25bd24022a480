"""A stream of samples: one dataset, in an order of its own, under the curators of each of its views."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

import numpy as np
from numpy.random import Generator

from mmkd.components import Curator, Dataset, Sample
from mmkd.engine.fields import Mapped, suggestion
from mmkd.errors import DataError, MmkdError, RecipeError

Made = TypeVar("Made")
Place = tuple[int, int]
"""Epoch and index of a sample."""

ATTEMPTS = 20
"""Bad samples in a row after which it must be the dataset that is bad."""


@dataclass(frozen=True)
class BadSample:
    """A sample that could not be used, and why."""

    dataset: str
    index: int
    key: str | None
    reason: str


class Stream:
    """The samples of one dataset; order, draws, partners and replacements are pure functions of the seed.

    Args:
        name: what batches call it (`student@unlabeled.logits`); empty for the training set.
        dataset: any object with `__len__` and `__getitem__`; its `order(generator)`, where it has one, is followed.
        batch: samples per batch.
        curators: changes to its samples, in order; None where only its views are read.
        views: the same raw samples under other curators, by name.
        skip: give the place of a bad sample to another one instead of raising.
        replicas: draws that each sample has; epochs take them in turn. Without it every epoch draws anew.
        where: place in the recipe, for errors.
    """

    def __init__(
        self,
        name: str,
        dataset: Dataset,
        batch: int,
        curators: Sequence[Curator] | None = (),
        views: Mapping[str, Sequence[Curator]] | None = None,
        *,
        seed: int = 0,
        skip: bool = False,
        replicas: int | None = None,
        where: str = "data.train",
    ) -> None:
        self.name, self.dataset, self.batch, self.seed, self.skip, self.where = name, dataset, batch, seed, skip, where
        self.replicas = replicas
        self.views = {name: list(curators)} if curators is not None else {}
        self.views |= {view: list(own) for view, own in (views or {}).items()}
        self.bad: list[BadSample] = []
        """Bad samples met since this list was last emptied."""
        self._salt = [_digest(name)] if name else []
        self._order: tuple[int, np.ndarray] | None = None
        if not len(dataset):
            raise DataError("the dataset is empty", where=where)

    def split(self, parts: int) -> Stream:
        """The same stream in micro-batches, `parts` of which make up one of its batches."""
        made = copy.copy(self)
        made.batch, rest = divmod(self.batch, parts)
        if rest:
            size = f"{'data' if not self.name else self.where}.batch_size"
            raise RecipeError(
                f"does not divide {size}={self.batch}", where="train.gradient_accumulation_steps",
                next=f"{size}={made.batch * parts or parts}",
            )  # fmt: skip
        return made

    # -- order --------------------------------------------------------------------------------------------------

    def places(self, step: int) -> list[Place]:
        """The batch of a step: the training set drops its short last batch, a stream goes on into its next epoch."""
        size = len(self.dataset)
        used = size if self.name else size // self.batch * self.batch
        if not used:
            raise DataError(
                f"the training data has {size} samples, fewer than a batch of {self.batch}", where="data.batch_size",
                next=f"data.batch_size={size}",
            )  # fmt: skip
        found: list[Place] = []
        at, end = step * self.batch, (step + 1) * self.batch
        while at < end:
            epoch, first = divmod(at, used)
            indices = self._epoch(epoch)[first : min(first + end - at, used)].tolist()
            found += [(epoch, index) for index in indices]
            at += len(indices)
        return found

    def _epoch(self, epoch: int) -> np.ndarray:
        if self._order is None or self._order[0] != epoch:
            self._order = epoch, self._ordered(self._random(epoch))
        return self._order[1]

    def _ordered(self, generator: Generator) -> np.ndarray:
        size, own = len(self.dataset), getattr(self.dataset, "order", None)
        order = np.asarray(own(generator)) if callable(own) else generator.permutation(size)
        if order.dtype.kind not in "iu" or not np.array_equal(np.sort(order, axis=None), np.arange(size)):
            raise DataError(
                f"{_title(self.dataset)}.order() must give each index from 0 to {size - 1} exactly once; it gave "
                f"{order.size} of {order.dtype}, {np.unique(order).size} of them different", where=self.where,
            )  # fmt: skip
        return order

    def _random(self, *numbers: int) -> Generator:
        return np.random.default_rng([self.seed, *numbers, *self._salt])

    # -- samples ------------------------------------------------------------------------------------------------

    def fetch(self, place: Place, use: Callable[[dict[str, Sample]], Made]) -> Made:
        """What `use` makes of a sample, given by view; of its replacement where the sample is bad.

        Raises:
            MmkdError: the sample is bad and `skip` is off, or every replacement is bad too.
        """

        def views(raw: Sample, place: Place) -> Made:
            return use({view: self._curated(raw, place, view, len(own)) for view, own in self.views.items()})

        return self._first_good((self.replica(place), place[1]), views)

    def replica(self, place: Place) -> int:
        """Which draws of a sample are taken: those of its epoch, or of one of so many replicas."""
        return place[0] % self.replicas if self.replicas else place[0]

    def drawn(self, index: int, view: str, replica: int) -> Sample:
        """A sample as the curators of a view change it under the draws of a replica.

        Raises:
            MmkdError: the sample is bad.
        """
        return self._curated(read(self.dataset, index), (replica, index), view, len(self.views[view]))

    def _first_good(self, place: Place, use: Callable[[Sample, Place], Made]) -> Made:
        epoch = place[0]
        last: MmkdError | None = None
        for index in self._candidates(place):
            key = None
            try:
                raw = read(self.dataset, index)
                key = raw["key"]
                return use(raw, (epoch, index))
            except MmkdError as error:
                if not self.skip:
                    raise
                self.bad.append(BadSample(self.where, index, key, str(error)))
                last = error
        raise DataError(f"{ATTEMPTS} samples in a row are bad; the last one: {last}", where=self.where)

    def _candidates(self, place: Place) -> Iterator[int]:
        yield place[1]
        if self.skip:
            yield from self._random(*place, 0).integers(len(self.dataset), size=ATTEMPTS - 1).tolist()

    def _curated(self, raw: Sample, place: Place, view: str, depth: int) -> dict[str, Any]:
        """The sample as the first `depth` curators of a view change it; a draw depends on (seed, key, epoch) alone."""
        sample = dict(raw)
        if not depth:
            return sample
        salt = [_digest(view)] if view != self.name else []
        generator = np.random.default_rng([self.seed, _digest(raw["key"]), place[0], *salt])
        for position, curator in enumerate(self.views[view][:depth]):
            partners = self._partners(place, curator.partners, view, position) if curator.partners else []
            try:
                draw = curator.draw(generator)
                if partners:
                    keys = [partner["key"] for partner in partners]
                    changed = curator.apply(sample, {**draw, "partner": keys if len(keys) > 1 else keys[0]}, partners)
                else:
                    changed = curator.apply(sample, draw)
                sample = {"key": raw["key"], **changed}
            except Exception as error:
                _blame(error, f"sample '{raw['key']}' of {_title(self.dataset)} in {type(curator).__name__}")
        return sample

    def _partners(self, place: Place, count: int, view: str, depth: int) -> list[dict[str, Any]]:
        """Other samples for the curator at `depth`, as those before it change them under draws of their own."""
        size = len(self.dataset)
        steps = self._random(*place, 1 + depth).integers(1, max(2, size), size=count).tolist()
        return [
            self._first_good((place[0], (place[1] + step) % size), lambda raw, at: self._curated(raw, at, view, depth))
            for step in steps
        ]


def read(dataset: Dataset, index: int) -> Sample:
    """One sample with its key; an error names the sample."""
    try:
        sample = dataset[index]
    except Exception as error:
        _blame(error, f"sample {index} of {_title(dataset)}")
    if not isinstance(sample, Mapping):
        raise DataError(
            f"a sample is a mapping from field to value, not a {type(sample).__name__}; say where its fields are",
            where=f"sample {index} of {_title(dataset)}", next=suggestion(sample),
        )  # fmt: skip
    key = sample.get("key", index)
    return sample if isinstance(key, str) and "key" in sample else {**sample, "key": str(key)}


def _blame(error: Exception, where: str) -> NoReturn:
    """Raise it again with the sample in front, as an error of ours."""
    if isinstance(error, MmkdError):
        raise error.at(where) from error.__cause__
    raise DataError(f"{type(error).__name__}: {error}", where=where) from error


def _title(dataset: Any) -> str:
    return type(dataset.dataset if isinstance(dataset, Mapped) else dataset).__name__


def _digest(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
