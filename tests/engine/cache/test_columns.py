"""Columns: what is read is what was written, as far as the way of storing it promises."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor

from mmkd.engine.cache import Column, Key, Store, Weighted
from mmkd.errors import CacheError

SLOWLY = settings(derandomize=True, deadline=None, max_examples=30)
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.uint8, torch.bool)


def through(column: Column, values: Any, rows: list[int], lengths: Tensor | None = None, count: int = 0) -> Tensor:
    """Write values, open the cache anew, read rows."""
    count = count or len(values)
    with tempfile.TemporaryDirectory() as root:
        store = Store(Path(root))
        samples = [str(number) for number in range(count)]
        cache = store.open(Key({}), {"t.v": column}, samples, batch=4)
        for block in cache.missing():
            part = slice(block.start, block.stop)
            some = Weighted(*(each[part] for each in values)) if isinstance(values, Weighted) else values[part]
            cache.write(block, {"t.v": some}, lengths=None if lengths is None else {"t.v": lengths[part]})
        cache.close()
        table = store.open(Key({}), {"t.v": column}, samples).table()
        return table.read(torch.tensor(rows, dtype=torch.int64))["t.v"]


shapes = st.lists(st.integers(0, 4), max_size=3).map(tuple)
picks = st.lists(st.integers(0, 10**6), max_size=6)


@SLOWLY
@given(st.integers(1, 20), shapes, st.sampled_from(DTYPES), picks, st.integers(0, 99))
def test_plain_values_come_back_bit_by_bit(
    count: int, shape: tuple[int, ...], dtype: torch.dtype, picked: list[int], seed: int
) -> None:
    values = (torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed)) * 9).to(dtype)
    rows = [row % count for row in picked]
    read = through(Column.of(values), values, rows)
    assert read.dtype == dtype and torch.equal(read, values[rows])


@SLOWLY
@given(st.integers(1, 20), shapes, st.sampled_from(["same", "fp16", "bf16", "int8"]), picks, st.integers(0, 99))
def test_ragged_values_keep_their_true_lengths(
    count: int, inner: tuple[int, ...], stored: Any, picked: list[int], seed: int
) -> None:
    random = torch.Generator().manual_seed(seed)
    inner = (*inner, 3)
    values = torch.randn(count, 5, *inner, generator=random)
    lengths = torch.randint(0, 6, (count,), generator=random)
    rows = [row % count for row in picked]
    read = through(Column.of(values, stored, ragged=True), values, rows, lengths)
    longest = int(lengths[rows].max()) if rows else 0
    real = (torch.arange(longest) < lengths[rows].unsqueeze(1)).view(len(rows), longest, *(1 for _ in inner))
    true = values[rows][:, :longest] * real
    assert read.shape == (len(rows), longest, *inner) and not (read * ~real).any()
    exact = {"same": 0.0, "fp16": 2e-3, "bf16": 2e-2, "int8": 2e-2}[stored]
    torch.testing.assert_close(read, true, rtol=exact, atol=exact)


@SLOWLY
@given(st.integers(1, 9), st.lists(st.integers(1, 3), max_size=2), st.integers(1, 40), st.data(), st.integers(0, 99))
def test_top_k_keeps_the_best_and_spreads_the_rest(
    count: int, lead: list[int], classes: int, data: Any, seed: int
) -> None:
    k = data.draw(st.integers(1, classes))
    logits = torch.randn(count, *lead, classes, generator=torch.Generator().manual_seed(seed)) * 4
    read = through(Column.of(logits, "top_k", k=k), logits, list(range(count)))
    logs = logits.log_softmax(-1)
    best = logs.topk(k).indices
    torch.testing.assert_close(read.gather(-1, best), logs.gather(-1, best), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(read.exp().sum(-1), torch.ones(count, *lead), rtol=0, atol=1e-2)
    if classes - k > 1:
        rest = read.scatter(-1, best, math.nan).flatten(0, -2)
        assert all(row[~row.isnan()].unique().numel() == 1 for row in rest)


@pytest.mark.parametrize(("classes", "bytes"), [(65536, 202), (65537, 302)])
def test_ids_take_two_bytes_as_long_as_they_fit(classes: int, bytes: int) -> None:
    logits = torch.zeros(1, classes)
    logits[0, -1] = logits[0, 40_000] = 5.0
    column = Column.of(logits, "top_k", k=50)
    assert column.width == bytes and f"{bytes} B/token" in column.describe()
    assert through(column, logits, [0])[0].topk(2).indices.sort().values.tolist() == [40_000, classes - 1]


def test_classes_of_other_provenance_are_kept_as_given() -> None:
    ids, logs = torch.tensor([[7, 2]]), torch.tensor([[0.25, 0.75]]).log()
    column = Column((9,), stored="top_k", k=2, provenance="sampled, 4 of 9")
    read = through(column, Weighted(ids, logs, torch.tensor([-math.inf])), [0], count=1)
    torch.testing.assert_close(read.exp()[0, [7, 2]], torch.tensor([0.25, 0.75]), rtol=1e-3, atol=0)
    assert read.exp().sum().item() == pytest.approx(1, abs=1e-3)
    assert Column.from_document(column.document()) == column


def test_a_small_tail_does_not_vanish() -> None:
    logits = torch.full((1, 50), -20.0)
    logits[0, 0] = 0.0
    read = through(Column.of(logits, "top_k", k=1), logits, [0])
    torch.testing.assert_close(read, logits.log_softmax(-1), rtol=1e-2, atol=1e-2)


def test_int8_is_within_half_a_step_of_each_row() -> None:
    values = torch.randn(6, 3, 16, generator=torch.Generator().manual_seed(0)) * torch.logspace(-6, 3, 6).view(6, 1, 1)
    read = through(Column.of(values, "int8"), values, list(range(6)))
    assert ((read - values).abs() <= values.abs().amax(-1, keepdim=True) / 127 * 0.5001).all()
    assert torch.equal(through(Column.of(values, "int8"), values * 0, [0]), values[:1] * 0)


@pytest.mark.parametrize(
    ("column", "values", "says"),
    [
        (Column((2,), stored="fp16"), torch.tensor([[1e5, 0]]), "t.v: 1e.05 is beyond what fp16 holds"),
        (Column((2,), stored="int8"), torch.tensor([[math.inf, 0]]), "not finite"),
        (Column((3,)), torch.zeros(1, 2), r"shape \[1, 2\] were given, not \[1, 3\]"),
        (Column((9, 3), ragged=True), torch.zeros(1, 4, 2), r"not \[1, L, 3\]"),
        (Column((2,)), Weighted(torch.zeros(1, 2), torch.zeros(1, 2), torch.zeros(1)), "top_k"),
    ],
)
def test_values_that_do_not_fit_are_refused(column: Column, values: Any, says: str) -> None:
    with pytest.raises(CacheError, match=says):
        through(column, values, [0], count=1)


@pytest.mark.parametrize("column", [lambda: Column((4,), stored="top_k", k=5).width, lambda: Column((), ragged=True)])
def test_columns_that_cannot_be_are_refused(column: Any) -> None:
    with pytest.raises(CacheError):
        column()


def test_a_cache_without_samples_is_whole() -> None:
    with tempfile.TemporaryDirectory() as root:
        cache = Store(Path(root)).open(Key({}), {"t.v": Column((2,))}, [])
        assert list(cache.missing()) == [] and cache.table().read(torch.tensor([], dtype=torch.int64))["t.v"].shape == (
            0,
            2,
        )
