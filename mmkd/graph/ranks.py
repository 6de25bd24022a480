"""Ranks: processes that train one graph together, each on its part of the global batch.

Each rank's objective is such that *the mean over ranks of the gradients is the gradient of the global objective*. A
term of a loss that treats samples alone is this rank's sum, times the number of ranks, over the global count of valid
samples or tokens. A `coupled` loss reads the values of all ranks, gathered with gradient, and every rank computes it
whole. So `graph.step`, which averages the gradients itself, is right, and so is torch's DDP around `graph(batch)`.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, distributed, nn

BUCKET = 2**23
"""Numbers that are sent at once."""

_AVAILABLE = distributed.is_available()
_alone = False


def world() -> int:
    """How many ranks there are; 1 where torch.distributed is not initialised."""
    if not _AVAILABLE or _alone or not distributed.is_initialized():
        return 1
    return distributed.get_world_size()


def rank() -> int:
    """Which of them this process is."""
    return distributed.get_rank() if world() > 1 else 0


def leads() -> bool:
    """Whether this is the rank that writes and speaks for all."""
    return rank() == 0


def wait() -> None:
    """Until every rank is here."""
    if world() > 1:
        distributed.barrier()


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Inside, this process has nothing to do with the others."""
    global _alone
    before, _alone = _alone, True
    try:
        yield
    finally:
        _alone = before


def part(size: int) -> slice:
    """This rank's part of a global batch: ranks take contiguous parts in order, which differ by one at most."""
    own, many = rank(), world()
    return slice(size * own // many, size * (own + 1) // many)


def listed(items: Sequence[Any]) -> list[Any]:
    """The items of all ranks, in order."""
    if world() == 1:
        return list(items)
    found: list[Any] = [None] * world()
    distributed.all_gather_object(found, list(items))
    return list(itertools.chain.from_iterable(found))


def agreed(item: Any) -> Any:
    """The first rank's item, on every rank."""
    if world() == 1:
        return item
    held = [item]
    distributed.broadcast_object_list(held)
    return held[0]


def whole(values: Mapping[str, Tensor], keys: Iterable[str]) -> dict[str, Tensor]:
    """The values as of the global batch: the rows of all ranks in order, with gradient to their own rank.

    Rows may be uneven, and a rank may have none. Where other dimensions differ (sequences padded to the longest of a
    rank), zeros are put at the end, as in a batch padded to the longest of all. Numbers and parameters are no rows
    and stay as they are.
    """
    made = dict(values)
    wanted = {key: values[key] for key in dict.fromkeys(keys)}
    rows = {key: v for key, v in wanted.items() if v.dim() and not isinstance(v, nn.Parameter)}
    for (key, value), shapes in zip(rows.items(), _shapes(list(rows.values())), strict=True):
        widest = [max(sizes) for sizes in zip(*shapes, strict=True)][1:]
        if list(value.shape[1:]) != widest:
            missing = [most - own for most, own in zip(widest, value.shape[1:], strict=True)]
            value = F.pad(value, [n for size in reversed(missing) for n in (0, size)])
        made[key] = _Gather.apply(value, [shape[0] for shape in shapes])
    return made


def share(parts: Sequence[tuple[Tensor, Tensor | float]]) -> list[Tensor]:
    """Sums and counts of this rank as global means: their values are those, their gradients this rank's share.

    Shape: each sum and count a scalar -> each a scalar.
    """
    numbers = torch.stack([_number(n, total) for total, count in parts for n in (total.detach(), count)])
    distributed.all_reduce(numbers)
    totals, counts = numbers[::2], numbers[1::2].clamp(min=1e-12)
    means, factors = totals / counts, world() / counts
    return [
        _Reported.apply(own * factor.to(own.dtype), mean.to(own.dtype))
        for (own, _), mean, factor in zip(parts, means, factors, strict=True)
    ]


def _number(number: Tensor | float, like: Tensor) -> Tensor:
    if isinstance(number, Tensor):
        return number.to(torch.float64)
    return torch.full((), number, dtype=torch.float64, device=like.device)


def total(numbers: Tensor) -> Tensor:
    """Their sums over the ranks, in place."""
    distributed.all_reduce(numbers)
    return numbers


def average(tensors: Sequence[Tensor | None], like: Sequence[Tensor]) -> list[Tensor | None]:
    """Their means over the ranks, in place; one that is missing here counts as zero, and is missing if it is on all.

    Args:
        tensors: gradients, in the same order on every rank.
        like: what each of them is a gradient of.
    """
    held = [torch.zeros_like(p) if t is None else t for t, p in zip(tensors, like, strict=True)]
    if not held:
        return []
    there = torch.tensor([float(t is not None) for t in tensors]).to(held[0].device, non_blocking=True)
    _mean_in_place([*held, there])
    if all(t is not None for t in tensors):
        return list(held)
    return [t if n else None for t, n in zip(held, there.tolist(), strict=True)]


@torch.no_grad()
def _mean_in_place(tensors: Sequence[Tensor]) -> None:
    """All buckets are under way before the first is waited for."""
    sent = []
    for bucket in _buckets(tensors):
        flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
        sent.append((bucket, flat, distributed.all_reduce(flat, async_op=True)))
    for bucket, flat, work in sent:
        work.wait()
        flat.div_(world())
        pieces = torch.split(flat, [tensor.numel() for tensor in bucket])
        torch._foreach_copy_(bucket, [p.view(t.shape) for p, t in zip(pieces, bucket, strict=True)])


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Tensors of one kind together, in order, up to the size that is sent at once."""
    open_: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
    for tensor in tensors:
        bucket = open_.setdefault((tensor.dtype, tensor.device), [])
        if bucket and sum(t.numel() for t in bucket) + tensor.numel() > BUCKET:
            yield list(bucket)
            bucket.clear()
        bucket.append(tensor)
    yield from open_.values()


def average_statistics(modules: Iterable[nn.Module]) -> None:
    """Give every rank the mean of the running statistics that each rank's BatchNorm layers have made of its part.

    The mean is that of the global batch where parts are even; the variance lacks what lies between the parts.
    """
    held = [b for m in modules for b in _statistics(m)]
    if held:
        _mean_in_place(held)


def _statistics(module: nn.Module) -> Iterator[Tensor]:
    for inner in module.modules():
        if isinstance(inner, nn.modules.batchnorm._NormBase) and inner.training and inner.running_mean is not None:
            assert inner.running_var is not None
            yield from (inner.running_mean, inner.running_var)


@torch.no_grad()
def broadcast(module: nn.Module) -> None:
    """Give every rank the parameters and buffers of the first."""
    for tensor in itertools.chain(module.parameters(), module.buffers()):
        sent = tensor.detach().contiguous().flatten().view(torch.uint8)
        distributed.broadcast(sent, 0)
        tensor.copy_(sent.view(tensor.dtype).view(tensor.shape))


def _shapes(tensors: Sequence[Tensor]) -> list[list[list[int]]]:
    """The shape of each tensor on every rank; they travel on the CPU where the group can, so that no GPU waits."""
    if not tensors:
        return []
    on_cpu = "cpu" in str(distributed.get_backend_config()) or not tensors[0].is_cuda
    own = torch.tensor([n for t in tensors for n in t.shape], device="cpu" if on_cpu else tensors[0].device)
    found = own.new_empty(world(), len(own))
    distributed.all_gather(list(found), own)
    splits = [[list(n) for n in _split(row, [t.dim() for t in tensors])] for row in found.tolist()]
    return [list(column) for column in zip(*splits, strict=True)]


def _split(numbers: Sequence[int], sizes: Sequence[int]) -> Iterator[Sequence[int]]:
    at = iter(numbers)
    return (list(itertools.islice(at, size)) for size in sizes)


class _Gather(torch.autograd.Function):
    """The rows of all ranks in order. Its gradient is the sum of what every rank's loss passes on to these rows."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, rows: list[int]) -> Tensor:
        ctx.rows = rows
        most = max(rows)
        held = value.new_zeros(most, *value.shape[1:])
        held[: len(value)] = value
        sent = held.flatten().view(torch.uint8)
        found = sent.new_empty(len(rows), len(sent))
        if len(sent):
            distributed.all_gather(list(found), sent)
        parts = found.flatten().view(value.dtype).view(len(rows), *held.shape)
        if min(rows) == most:
            return parts.flatten(0, 1)
        return torch.cat([part[:own] for part, own in zip(parts, rows, strict=True)])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _Scatter.apply(gradient, ctx.rows), None


class _Scatter(torch.autograd.Function):
    """This rank's rows of the sum over ranks: what `_Gather` is transposed."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, rows: list[int]) -> Tensor:
        ctx.rows = rows
        total = value.to(torch.promote_types(value.dtype, torch.float32), copy=True)
        distributed.all_reduce(total)
        first = sum(rows[: rank()])
        return total[first : first + rows[rank()]].to(value.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _Gather.apply(gradient, ctx.rows), None


class _Reported(torch.autograd.Function):
    """The value of one scalar with the gradient of another."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None
