"""Data order and augmentation draws are pure functions of seed, step and sample."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from engine.toys import Noise

import mmkd
from mmkd.engine.data import Order, read
from mmkd.engine.stream import Stream
from mmkd.errors import DataError


class Jitter(mmkd.Curator):
    """Adds a number drawn per sample."""

    fields = frozenset({"image"})

    def draw(self, generator: np.random.Generator) -> dict[str, Any]:
        return {"shift": generator.standard_normal()}

    def apply(self, sample: mmkd.Sample, draw: Any) -> dict[str, Any]:
        return {**sample, "image": sample["image"] + draw["shift"]}


def places(size: int, batch: int, seed: int = 0, start: int = 0, stop: int = 0, name: str = "") -> Any:
    """The batches of one stream as (epoch, index)."""
    stream = Stream(name, Noise(size), batch, seed=seed)
    return [step[name] for step in Order([stream], start, stop)]


def curated(seed: int, epoch: int, index: int, **given: Any) -> Any:
    return Stream("", Noise(), 4, [Jitter()], seed=seed, **given).fetch((epoch, index), lambda views: views)[""]


def test_an_epoch_visits_every_sample_once_and_differs_from_the_next() -> None:
    batches = places(12, 4, stop=6)
    first, second = [[i for batch in batches[k : k + 3] for _, i in batch] for k in (0, 3)]
    assert sorted(first) == sorted(second) == list(range(12))
    assert first != second
    assert [epoch for batch in batches for epoch, _ in batch] == [0] * 12 + [1] * 12


@pytest.mark.parametrize("start", range(7))
def test_starting_later_yields_the_same_batches(start: int) -> None:
    assert places(10, 3, 7, start, 7) == places(10, 3, 7, 0, 7)[start:]
    assert places(5, 3, 7, start, 7, "x") == places(5, 3, 7, 0, 7, "x")[start:]


def test_fewer_samples_than_a_batch_is_an_error_that_names_the_field() -> None:
    with pytest.raises(DataError, match=r"data\.batch_size: the training data has 3 samples"):
        places(3, 4, stop=1)


def test_a_draw_depends_on_seed_key_and_epoch_alone() -> None:
    def image(seed: int, epoch: int, index: int) -> Any:
        return curated(seed, epoch, index)["image"]

    np.testing.assert_array_equal(image(0, 1, 5), image(0, 1, 5))
    for other in [(1, 1, 5), (0, 2, 5)]:
        assert not np.array_equal(image(0, 1, 5), image(*other))
    state = torch.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[union-attr]
    image(0, 0, 0)
    assert torch.equal(state[0], torch.get_rng_state())
    np.testing.assert_array_equal(state[1], np.random.get_state()[1])  # type: ignore[index]


def test_samples_without_key_get_their_index_and_bad_ones_are_named() -> None:
    class Odd(mmkd.Dataset):
        def __len__(self) -> int:
            return 2

        def __getitem__(self, index: int) -> Any:
            if index == 1:
                raise ValueError("cannot decode")
            return {"label": 3}

    assert read(Odd(), 0)["key"] == "0"
    with pytest.raises(DataError, match="sample 1 of Odd: ValueError: cannot decode"):
        read(Odd(), 1)
    with pytest.raises(DataError, match="a sample is a mapping"):
        read([(1, 2)], 0)  # type: ignore[arg-type]
