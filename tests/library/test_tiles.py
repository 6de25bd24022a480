"""Losses over the similarities of a batch by tiles: the numbers of the plain code, and never the matrices."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from mmkd import Loss
from mmkd.library.losses import rkd, tiles
from mmkd.library.losses.info_nce import InfoNCE
from mmkd.library.losses.rkd import RelationalAngle
from mmkd.library.losses.similarity_kl import SimilarityKL

from . import relational_oracle as oracle


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


class Paired(SimilarityKL):
    """Takes its pairs as four values, like the other losses here."""

    def forward(self, *values: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(list(values[:2]), list(values[2:]))


class Grouped(InfoNCE):
    """Three groups."""

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(student, teacher, torch.arange(len(student)) ** 2 % 3)


MAKES: dict[str, tuple[Callable[[float], Loss], tuple[int, ...]]] = {
    "info_nce": (lambda t: InfoNCE(t), (5, 5)),
    "info_nce one way": (lambda t: InfoNCE(t, symmetric=False), (5, 5)),
    "info_nce learnable": (lambda t: InfoNCE(t, learnable=True), (5, 5)),
    "info_nce learnable one way": (lambda t: InfoNCE(t, learnable=True, symmetric=False), (5, 5)),
    "info_nce groups": (lambda t: Grouped(t, learnable=True), (5, 5)),
    "info_nce groups one way": (lambda t: Grouped(t, symmetric=False), (5, 5)),
    "similarity_kl pair": (lambda t: Paired(t, 0.5 * t), (5, 5, 3, 3)),
    "similarity_kl pair one way": (lambda t: Paired(t, symmetric=False), (5, 5, 3, 3)),
    "similarity_kl single": (lambda t: SimilarityKL(t, 0.05), (5, 3)),
}
every = pytest.mark.parametrize(("make", "widths"), MAKES.values(), ids=MAKES.keys())


@contextmanager
def tiled(side: int, held: int = 0) -> Iterator[None]:
    """Tiles of this side inside, for every batch of more than two of them."""
    before = tiles.SIDE, tiles.HELD_CELLS
    tiles.SIDE, tiles.HELD_CELLS = side, held
    try:
        yield
    finally:
        tiles.SIDE, tiles.HELD_CELLS = before


def values(size: int, widths: tuple[int, ...], seed: int = 0, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    return [normal(size, width, seed=seed + k, dtype=dtype) for k, width in enumerate(widths)]


def run(loss: Loss, given: list[Tensor], upstream: Tensor, taught: tuple[bool, ...] | None = None) -> list[Tensor]:
    """Loss and gradients, of values and of what the loss owns."""
    asked = taught or (True,) * len(given)
    leaves = [v.detach().clone().requires_grad_(a) for v, a in zip(given, asked, strict=True)]
    value = loss(*leaves)
    wanted = [leaf for leaf in leaves if leaf.requires_grad] + list(loss.parameters())
    return [value.detach(), *torch.autograd.grad((value * upstream).sum(), wanted)]


@every
@settings(max_examples=40, deadline=None, derandomize=True)
@given(data=st.data())
def test_equal_the_plain_code(make: Callable[[float], Loss], widths: tuple[int, ...], data: st.DataObject) -> None:
    size, seed = data.draw(st.integers(0, 14)), data.draw(st.integers(0, 2**20))
    side, held = data.draw(st.sampled_from([1, 2, 3, 5])), data.draw(st.sampled_from([0, 11, 10**6]))
    dtype = data.draw(st.sampled_from([torch.float64, torch.float32, torch.bfloat16]))
    loss = make(data.draw(st.sampled_from([0.01, 0.07, 1.0, 30.0]))).to(widened(dtype))
    held_values = values(size, widths, seed, dtype)
    if data.draw(st.booleans()) and size:
        held_values[0][data.draw(st.integers(0, size - 1))] = 0.0
    upstream = {
        "mean": torch.full((size,), 1 / max(1, size)), "expanded": torch.ones(()).expand(size),
        "masked": (torch.arange(size) % 3 > 0).float(), "weighted": normal(size, seed=seed + 9),
    }[data.draw(st.sampled_from(["mean", "expanded", "masked", "weighted"]))].to(widened(dtype))  # fmt: skip
    taught = data.draw(
        st.sampled_from([None, (True, *(False,) * (len(widths) - 1)), (False,) * (len(widths) - 1) + (True,)])
    )
    expected = run(loss, held_values, upstream, taught)
    with tiled(side, held):
        found = run(loss, held_values, upstream, taught)
    close = {torch.float64: (1e-9, 1e-10), torch.float32: (2e-4, 2e-4), torch.bfloat16: (2e-2, 2e-3)}[dtype]
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype
        scale = max(1.0, float(other.abs().max())) if other.numel() else 1.0
        torch.testing.assert_close(one, other, rtol=close[0], atol=close[1] * scale)


def widened(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


@every
@pytest.mark.parametrize("side", [1, 2])
def test_gradient_is_that_of_the_value(make: Callable[[float], Loss], widths: tuple[int, ...], side: int) -> None:
    loss = make(0.3).double()
    with tiled(side):
        assert torch.autograd.gradcheck(loss, [v.requires_grad_() for v in values(5, widths)])


@every
def test_gradients_can_be_differentiated(make: Callable[[float], Loss], widths: tuple[int, ...]) -> None:
    loss = make(0.3).double()
    with tiled(1):
        assert torch.autograd.gradgradcheck(loss, [v.requires_grad_() for v in values(3, widths)])


@every
def test_backward_passes_may_be_repeated(make: Callable[[float], Loss], widths: tuple[int, ...]) -> None:
    loss = make(0.3).double()
    leaves = [v.requires_grad_() for v in values(7, widths)]
    with tiled(2, 20):
        total = loss(*leaves)
        for upstream in (torch.ones(7), torch.ones(7), normal(7), torch.ones(7)):
            found = torch.autograd.grad(total, leaves, upstream.double(), retain_graph=True)
            expected = run(loss, leaves, upstream.double())[1 : 1 + len(leaves)]
            torch.testing.assert_close(list(found), expected)


@every
def test_autocast_changes_nothing(make: Callable[[float], Loss], widths: tuple[int, ...]) -> None:
    loss, given, ones = make(0.05).float(), values(9, widths, dtype=torch.float32), torch.ones(9)
    with tiled(2):
        expected = run(loss, given, ones)
        with torch.autocast("cpu", torch.bfloat16):
            torch.testing.assert_close(run(loss, given, ones), expected, rtol=1e-6, atol=1e-6)


@every
def test_nothing_is_kept_without_gradients(make: Callable[[float], Loss], widths: tuple[int, ...]) -> None:
    loss, given = make(0.3).double(), values(9, widths)
    with tiled(2, 10**6), torch.no_grad():
        found = loss(*given)
    assert not found.requires_grad
    torch.testing.assert_close(found, loss(*given).detach())


class Largest(TorchDispatchMode):
    """Cells of the largest tensor that is made inside."""

    def __init__(self) -> None:
        super().__init__()
        self.cells = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, list | tuple) else (made,):
            if isinstance(tensor, Tensor):
                self.cells = max(self.cells, tensor.numel())
        return made


@every
def test_no_matrix_is_made(make: Callable[[float], Loss], widths: tuple[int, ...]) -> None:
    size, loss = 64, make(0.3).double()
    given = values(size, widths)
    with Largest() as plain:
        run(loss, given, torch.ones(size))
    with tiled(8), Largest() as found:
        run(loss, given, torch.ones(size))
    assert plain.cells >= size * (size - 1)
    assert found.cells <= size * max(widths)


def test_equal_distributions_cost_exactly_nothing() -> None:
    a, b = values(9, (5, 5), dtype=torch.float32)
    with tiled(2):
        assert Paired(0.01)(a, b, a, b).tolist() == [0.0] * 9
        assert SimilarityKL(0.01)(a, a).tolist() == [0.0] * 9


def test_far_similarities_do_not_underflow() -> None:
    """A column 190 nats below the largest logit still has a logarithm."""
    a, b = torch.ones(6, 2), torch.ones(6, 2)
    b[3] = -1 + torch.tensor([0.0, 0.05])
    with tiled(1):
        found = run(InfoNCE(0.01), [a, b], torch.ones(6))
    torch.testing.assert_close(found, run(InfoNCE(0.01), [a, b], torch.ones(6)), rtol=1e-5, atol=1e-4)
    assert all(part.isfinite().all() for part in found)


def test_values_of_two_precisions() -> None:
    student, teacher = normal(7, 4, dtype=torch.float32), normal(7, 3, seed=1)
    expected = run(SimilarityKL(0.2), [student, teacher], torch.ones(7))
    with tiled(2):
        found = run(SimilarityKL(0.2), [student, teacher], torch.ones(7))
    assert [part.dtype for part in found] == [part.dtype for part in expected]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


# -- angles -------------------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    size=st.integers(0, 9), seed=st.integers(0, 2**20), cells=st.sampled_from([1, 100, 2**18]),
    repeated=st.booleans(), wide=st.booleans(), even=st.booleans(),
)  # fmt: skip
def test_angles_equal_those_of_differences(
    size: int, seed: int, cells: int, repeated: bool, wide: bool, even: bool
) -> None:
    dtype = torch.float64 if wide else torch.float32
    student, teacher = values(size, (4, 3), seed, dtype)
    if repeated and size > 1:
        student[1] = student[0]  # an angle that vanishes
    upstream = torch.full((size,), 0.7, dtype=dtype) if even else normal(size, seed=seed + 5, dtype=dtype)
    before, rkd.ANGLE_CELLS = rkd.ANGLE_CELLS, cells
    try:
        found = run(RelationalAngle(), [student, teacher], upstream)
    finally:
        rkd.ANGLE_CELLS = before
    expected = run(DifferenceAngles(), [student, teacher], upstream)
    close = 1e-9 if wide else 2e-3
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=close, atol=close)
    if wide and size and not repeated:
        truth = oracle.rkd_angle(student.tolist(), teacher.tolist())
        assert found[0].tolist() == pytest.approx(truth, rel=1e-8, abs=1e-10)


class DifferenceAngles(Loss):
    """From all differences `[B, B, D]` and all angles `[B, B, B]`."""

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        s, t = (self._angles(x) for x in (student, teacher))
        return torch.nn.functional.smooth_l1_loss(s, t, reduction="none").flatten(1).sum(1) / max(1, len(s) ** 2)

    def _angles(self, x: Tensor) -> Tensor:
        gaps = x[None] - x[:, None]
        squared = gaps.square().sum(2, keepdim=True)
        unit = gaps * torch.where(squared > 0, squared, torch.inf).rsqrt()
        return unit @ unit.mT
