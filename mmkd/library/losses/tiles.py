"""Losses over the cosines of all samples of a batch with all others, made a tile at a time and never held whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import reduce
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

SIDE = 512
"""Samples by samples of a tile on a CPU: 1 MiB in float32, which its cache holds. A tile of a GPU has 8 times the
side."""
HELD_CELLS = 2**22
"""Cosines that are kept for the backward pass on a CPU, 16 MiB in float32; it makes the others again. A GPU keeps 16
times as many."""

Tile = Sequence[Tensor]
"""The same part of every matrix. Shape: each `[R, C]`."""


class Law(Protocol):
    """A loss of every row of some matrices, to which tiles are added in any order."""

    def add(self, rows: slice, columns: slice, tile: Tile) -> None:
        """Take a tile into account."""

    def value(self) -> Tensor:
        """The loss of every row, once all tiles are in. Shape: `[N]`."""

    def slopes(
        self, rows: slice, columns: slice, tile: Tile, upstream: Tensor, wanted: Sequence[bool]
    ) -> list[Tensor | None]:
        """Derivatives of the rows' losses, times `upstream [N]`, in this tile of the wanted matrices; new tensors."""


Product = tuple[Tensor, Tensor, Tensor | float]
"""Two values `[N, D]` and what the cosines of their rows are multiplied by."""


def fits(*values: Tensor) -> bool:
    """Whether a batch of such values is small enough for its matrices to be made whole."""
    return len(values[0]) <= 2 * _side(values[0].device)


def by_tiles(
    make: Callable[[int, Tensor], Law], both: bool, products: Sequence[Product], whole: Callable[..., Tensor]
) -> Tensor:
    """A law of the rows of matrices of cosines, or the mean of one of the rows and one of the columns: `[N]`.

    A batch of B needs B times as much memory as a sample, and a constant. With a law of the columns the backward pass
    makes the cosines once more, but for those that are kept. Without, the forward pass makes the gradients too, those
    of the sum of all rows, and a backward pass in which all rows weigh the same only scales them.

    Args:
        make: makes a law from the number of rows and a tensor of the precision and on the device to use.
        both: columns, too.
        products: what the matrices are made of, values of as many samples; normalized here.
        whole: the same from products, by operations that can be differentiated again: for gradients of gradients.
    """
    like = products[0][0].new_empty(0, dtype=_precision([value for a, b, _ in products for value in (a, b)]))
    flat = [
        part
        for a, b, scale in products
        for part in (a, b, scale if isinstance(scale, Tensor) else like.new_full((), scale))
    ]
    laws = [make(len(flat[0]), like) for _ in range(2 if both else 1)]
    result: Tensor = _Tiled.apply(laws, whole, torch.is_grad_enabled(), *flat)
    return result


class Softmax:
    """The softmax of every row of a matrix that comes by tiles (Milakov and Gimelshein, 2018)."""

    def __init__(self, size: int, like: Tensor) -> None:
        self.top = like.new_full((size,), torch.finfo(like.dtype).min)
        self.total = like.new_zeros(size)

    def add(self, rows: slice, tile: Tensor) -> tuple[Tensor, Tensor]:
        """The tile's weights, and the factor by which those of earlier tiles of these rows have shrunk.

        Shape: `[R, C]` -> `[R, C]`, `[R]`.
        """
        top = torch.maximum(self.top[rows], tile.amax(1))
        fade = (self.top[rows] - top).exp_()
        weights = (tile - top[:, None]).exp_()
        self.top[rows], self.total[rows] = top, self.total[rows] * fade + weights.sum(1)
        return weights, fade

    def logarithm(self) -> Tensor:
        """Of the sum of exponentials. Shape: `[N]`."""
        return self.top + self.total.log()

    def probabilities(self, rows: slice, tile: Tensor) -> Tensor:
        """Once all tiles are in. Shape: `[R, C]` -> `[R, C]`."""
        return (tile - (self.top[rows] + self.total[rows].log())[:, None]).exp_()


class _Tiled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, laws: Sequence[Law], whole: Callable[..., Tensor], learns: bool, *values: Tensor) -> Tensor:
        ctx.laws, ctx.whole = laws, whole
        ctx.save_for_backward(*values)
        ctx.held, ctx.made = {}, None
        learns = learns and any(ctx.needs_input_grad[3:])
        matrices = _Matrices(values, ctx.needs_input_grad[3:] if learns and len(laws) == 1 else ())
        room = _room(values[0].device) if learns and len(laws) == 2 else 0
        with torch.autocast(values[0].device.type, enabled=False):
            for rows in matrices.blocks():
                made = matrices.strip(rows, {})
                strip = list(made) if matrices.learns else made
                for columns, tile in strip:
                    for law, turned in zip(laws, (False, True), strict=False):
                        law.add(*_turned(rows, columns, tile) if turned else (rows, columns, tile))
                    if (room := room - sum(part.numel() for part in tile)) >= 0:
                        ctx.held[rows.start, columns.start] = tile
                if matrices.learns:
                    ones = tile[0].new_ones(len(values[0]))
                    for columns, tile in strip:
                        matrices.descend(rows, columns, tile, laws, ones)
        if matrices.learns:
            ctx.made = matrices
        return sum((law.value() for law in laws[1:]), laws[0].value()) / len(laws)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Any:
        values = ctx.saved_tensors
        if torch.is_grad_enabled():
            return (None, None, None, *_again(ctx, values, upstream))
        made, ctx.made = ctx.made, None
        if made is not None and (upstream.stride(0) == 0 or bool((upstream == upstream[0]).all())):
            return (None, None, None, *made.gradients(upstream[0]))
        del made
        matrices = _Matrices(values, ctx.needs_input_grad[3:])
        upstream = upstream / len(ctx.laws)
        with torch.autocast(upstream.device.type, enabled=False):
            for rows in matrices.blocks():
                for columns, tile in matrices.strip(rows, ctx.held):
                    matrices.descend(rows, columns, tile, ctx.laws, upstream)
        return (None, None, None, *matrices.gradients(None))


def _again(ctx: Any, values: Sequence[Tensor], upstream: Tensor) -> list[Tensor | None]:
    """Gradients that can be differentiated."""
    leaves = [value.view_as(value) for value in values]
    products = [(leaves[k], leaves[k + 1], leaves[k + 2]) for k in range(0, len(leaves), 3)]
    asked = [leaf for leaf, needed in zip(leaves, ctx.needs_input_grad[3:], strict=True) if needed]
    found = iter(torch.autograd.grad(ctx.whole(products), asked, upstream, create_graph=True))
    return [next(found) if needed else None for needed in ctx.needs_input_grad[3:]]


class _Matrices:
    """Matrices of cosines by tiles, and the gradients that come back through them.

    Args:
        values: two values and a scale for each matrix.
        wanted: which of them are to have a gradient; empty for none.
    """

    def __init__(self, values: Sequence[Tensor], wanted: Sequence[bool]) -> None:
        self.triples = [values[k : k + 3] for k in range(0, len(values), 3)]
        self.wanted = [wanted[k : k + 3] for k in range(0, len(wanted), 3)]
        self.size = len(values[0])
        self.known: list[tuple[slice, list[Tensor]] | None] = [None, None]
        self.dtype = _precision([value for a, b, _ in self.triples for value in (a, b)])
        self.side = _side(values[0].device)
        self.learning = [any(each) for each in self.wanted] or [False] * len(self.triples)
        self.learns = any(self.learning)
        self.sums = [
            (self._zeros(a) if each[0] or each[2] else None, self._zeros(b) if each[1] else None)
            for (a, b, _), each in zip(self.triples, self.wanted, strict=False)
        ]

    def blocks(self) -> list[slice]:
        return [slice(first, min(first + self.side, self.size)) for first in range(0, self.size, self.side)]

    def strip(self, rows: slice, held: dict[tuple[int, int], Tile]) -> Iterator[tuple[slice, Tile]]:
        """The tiles of some rows, as they are held, which ends with it, or made anew."""
        for columns in self.blocks():
            if (tile := held.pop((rows.start, columns.start), None)) is None:
                tile = [a @ b.T for a, b in zip(self._units(rows, 0), self._units(columns, 1), strict=True)]
            yield columns, tile

    def descend(self, rows: slice, columns: slice, tile: Tile, laws: Sequence[Law], upstream: Tensor) -> None:
        """Add to the gradients of the normalized values what this tile passes on."""
        slopes = laws[0].slopes(rows, columns, tile, upstream, self.learning)
        for law in laws[1:]:
            turned = law.slopes(*_turned(rows, columns, tile), upstream, self.learning)
            for own, other in zip(slopes, turned, strict=True):
                if own is not None and other is not None:
                    own += other.T
        units = zip(self._units(rows, 0), self._units(columns, 1), strict=True)
        for slope, (a, b), (sum_a, sum_b) in zip(slopes, units, self.sums, strict=True):
            if slope is not None and sum_a is not None:
                sum_a[rows].addmm_(slope, b)
            if slope is not None and sum_b is not None:
                sum_b[columns].addmm_(slope.T, a)

    def gradients(self, factor: Tensor | None) -> list[Tensor | None]:
        """Of values and scales, times a factor, in the place of those of the normalized values."""
        found: list[Tensor | None] = []
        for (a, b, scale), (sum_a, sum_b), wanted in zip(self.triples, self.sums, self.wanted, strict=True):
            to_scale = self._normalized(a, scale, sum_a, factor)
            self._normalized(b, torch.ones_like(scale), sum_b, factor)
            found += [
                sum_a.to(a.dtype) if sum_a is not None and wanted[0] else None,
                None if sum_b is None else sum_b.to(b.dtype),
                to_scale if wanted[2] else None,
            ]
        return found

    def _normalized(self, value: Tensor, scale: Tensor, total: Tensor | None, factor: Tensor | None) -> Tensor:
        """From the gradient of the normalized value, in its place, to that of the value and of the scale."""
        to_scale = torch.zeros_like(scale)
        if total is None:
            return to_scale
        for rows in self.blocks():
            with torch.enable_grad():
                leaves = value[rows].detach().requires_grad_(), scale.detach().requires_grad_()
                made = self._unit(*leaves)
            part = total[rows] if factor is None else total[rows] * factor
            total[rows], more = torch.autograd.grad(made, leaves, part)
            to_scale += more
        return to_scale

    def _units(self, samples: slice, side: int) -> list[Tensor]:
        """These samples' rows of each matrix's first or second value, normalized; the last ones are remembered."""
        if (known := self.known[side]) is None or known[0] != samples:
            scales = [scale if side == 0 else None for *_, scale in self.triples]
            units = [self._unit(t[side][samples], scale) for t, scale in zip(self.triples, scales, strict=True)]
            self.known[side] = known = samples, units
        return known[1]

    def _unit(self, value: Tensor, scale: Tensor | None = None) -> Tensor:
        """Rows of length one, or `scale`."""
        unit = F.normalize(value.to(self.dtype), dim=1)
        return unit if scale is None else unit * scale

    def _zeros(self, value: Tensor) -> Tensor:
        return torch.zeros_like(value, dtype=self.dtype)


def _precision(values: Sequence[Tensor]) -> torch.dtype:
    """The widest of them, and not half."""
    return reduce(torch.promote_types, (value.dtype for value in values), torch.float32)


def _turned(rows: slice, columns: slice, tile: Tile) -> tuple[slice, slice, Tile]:
    return columns, rows, [part.T for part in tile]


def _side(device: torch.device) -> int:
    return SIDE * (1 if device.type == "cpu" else 8)


def _room(device: torch.device) -> int:
    return HELD_CELLS * (1 if device.type == "cpu" else 16)
