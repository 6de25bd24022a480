"""What a loss does with a batch: one number a sample, in any order, alone or together."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mmkd.graph.binding import Binding
from mmkd.graph.term import Term
from mmkd.graph.value import Address
from mmkd.testing.loss_case import LossCase
from mmkd.testing.module import TOLERANCE
from mmkd.testing.probe import NotApplicable, ProbeFailure, Probes, require
from mmkd.testing.sameness import difference

BATCH = Probes()


@BATCH("return one number per sample or token, or a scalar that is the mean: sum over features, not over the batch")
def reduction(case: LossCase) -> None:
    """Weights, masks and the mean belong to the host, which reads [], [B] or [B, T]."""
    loss = case.run(case.fresh())
    require(isinstance(loss, Tensor), f"returns {type(loss).__name__}, not a tensor")
    require(loss.is_floating_point(), f"returns {loss.dtype}")
    shape, batch = list(loss.shape), case.batch
    require(len(shape) <= 2 and (not shape or shape[0] == batch), f"returns {shape} for a batch of {batch}")


@BATCH("divide by the number of samples")
def mean_over_samples(case: LossCase) -> None:
    """A sum over the batch makes the loss, and the learning rate with it, grow with the batch size."""
    case.convertible()
    module = case.warm()
    if case.random:
        raise NotApplicable
    one = case.run(module)
    if module.coupled:
        many = case.run(module, case.taken(torch.arange(case.batch).repeat(4)))
        grown = float(many.mean() / one.mean())
        require(one.mean() <= 0 or grown < 3.5, f"with every sample four times the loss is {grown:.2g} times as large")
        return
    twice = case.run(module, case.taken(torch.arange(case.batch).repeat(2)))
    if one.dim():
        twice = twice[: case.batch]
    found = difference(one, twice, tolerance=TOLERANCE)
    require(not found, f"with every sample twice the loss is another: {found}")


@BATCH("gather by position only for constants of the loss; never rank, shift or compare with the row's own number")
def sample_order(case: LossCase) -> None:
    """The order of samples in a batch is chance, and the loss would depend on it."""
    case.convertible()
    if case.random:
        raise NotApplicable
    order = torch.randperm(case.batch, generator=torch.Generator().manual_seed(1))
    module = case.warm()
    plain, shuffled = case.run(module), case.run(module, case.taken(order))
    found = difference(plain[order] if plain.dim() else plain, shuffled, tolerance=TOLERANCE)
    require(not found, f"shuffled samples give another loss: {found}")


@BATCH("set `coupled = True` exactly where a sample's loss depends on the other samples")
def coupled(case: LossCase) -> None:
    """The host gathers the global batch for a coupled loss, and cuts up the batch of any other."""
    case.convertible()
    module = case.warm()
    if case.random or case.batch < 2 * module.min_batch:
        raise NotApplicable
    half = case.batch // 2
    parts = [torch.arange(half), torch.arange(half, 2 * half)]
    whole = case.run(module, case.taken(torch.arange(2 * half)))
    pieces = [case.run(module, case.taken(part)) for part in parts]
    joined = torch.cat(pieces) if whole.dim() else torch.stack(pieces).mean(0)
    found = difference(whole, joined, tolerance=TOLERANCE)
    if found and not module.coupled:
        raise ProbeFailure(
            f"samples see each other and coupled is False: half a batch at a time gives another: {found}"
        )
    if not found and module.coupled:
        raise ProbeFailure("coupled is True, but half a batch at a time gives the same loss")


@BATCH("set min_batch to the smallest batch that the loss teaches something on; 1 where samples do not see each other")
def min_batch(case: LossCase) -> None:
    """Below min_batch the host stops with a clear error; from there on the loss must work."""
    case.convertible()
    module = case.warm()
    least = module.min_batch
    require(isinstance(least, int) and least >= 1, f"min_batch is {least!r}")
    require(module.coupled or least == 1, f"min_batch is {least}, but samples do not see each other")
    if case.batch < least:
        raise ProbeFailure(f"the example has {case.batch} samples and min_batch is {least}")
    idle = True
    for start in range(case.batch - least + 1):
        inputs = case.taken(torch.arange(start, start + least))
        loss, slopes = case.slopes(module, inputs, "student")
        require(loss.isfinite().all(), f"not finite for a batch of {least}")
        require(all(s is None or s.isfinite().all() for s in slopes), f"gradient not finite for a batch of {least}")
        idle &= not any(s is not None and s.abs().max() > 0 for s in slopes)
    if case.of("student") and not case.random:
        require(not idle, f"a batch of {least} has no gradient: min_batch is larger")


@BATCH("keep at least one floating-point port with a batch dimension")
def empty_batch(case: LossCase) -> None:
    """A rank whose batch is empty must still take part in the backward pass, with a zero."""

    case.convertible()
    if case.batch < 1 or not case.of("student"):
        raise NotApplicable
    flat: dict[str, Tensor] = {}
    addresses: dict[str, Any] = {}
    for name, value in case.leaning("student", case.taken(torch.arange(0))).items():
        each = value if isinstance(value, list) else [value]
        bound = [Address("batch", f"{name}{i}") for i in range(len(each))]
        flat |= {address.key: t for address, t in zip(bound, each, strict=True)}
        addresses[name] = bound if isinstance(value, list) else bound[0]
    module = case.warm()
    loss = Term(Binding("loss", module, addresses, "losses.loss"))(flat)
    require(loss.dim() == 0 and float(loss.detach()) == 0, f"an empty batch costs {loss.tolist()}")
    require(loss.requires_grad, "an empty batch is cut off from the graph")
