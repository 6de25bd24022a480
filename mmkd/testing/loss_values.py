"""What a loss makes of values: gradients where they belong, finite numbers, and what is claimed of it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mmkd import signature
from mmkd.testing.loss_case import LossCase
from mmkd.testing.module import gradients, nudged
from mmkd.testing.probe import NotApplicable, Probes, require
from mmkd.testing.sameness import difference, mapped, tensors

LARGE = 6e4
"""Near the largest number of float16."""

VALUES = Probes()


@VALUES("compute on the student's tensor itself: no .detach(), .data, .item(), torch.no_grad() or argmax on the way")
def student_gradient(case: LossCase) -> None:
    """What has no gradient teaches nothing."""
    names = case.of("student")
    if not names:
        raise NotApplicable
    given = case.leaning("student")
    loss = case.run(case.warm(), given)
    if case.carries_graph:
        slopes = gradients(loss, [t for t in tensors(given) if t.requires_grad])
        require(any(s is not None and s.abs().max() > 0 for s in slopes), "no gradient reaches any input")
        return
    for name in names:
        slopes = gradients(loss, tensors(given[name]))
        for i, slope in enumerate(slopes):
            place = name if len(slopes) == 1 else f"{name}.{i}"
            require(slope is not None and slope.abs().max() > 0, f"no gradient reaches port '{place}'")
            require(slope is None or slope.isfinite().all(), f"the gradient into port '{place}' is not finite")


@VALUES("use every sample of the batch")
def every_sample(case: LossCase) -> None:
    """A sample without a gradient was paid for, by teacher and student, and is ignored."""
    case.convertible()
    names = case.of("student")
    if not names or case.random:
        raise NotApplicable
    given = case.leaning("student")
    loss = case.run(case.warm(), given)
    per_sample = [
        s.flatten(1).abs().sum(1)
        for name in names
        for s in gradients(loss, tensors(given[name]))
        if s is not None and len(s) == case.batch
    ]
    if not per_sample:
        raise NotApplicable
    idle = (torch.stack(per_sample).sum(0) == 0).nonzero().flatten().tolist()
    require(not idle, f"samples {idle} of the example have no gradient")


@VALUES("detach where the paper stops the gradient: `teacher = teacher.detach()`; never call backward() in forward")
def teacher_constant(case: LossCase) -> None:
    """A constant teacher may be remembered and shared: nothing may be asked of its values, or left on them."""
    for name in case.constant:
        require(name in case.inputs, f"constant: there is no port '{name}'")
        given = case.leaning(name)
        slopes = gradients(case.run(case.warm(), given), tensors(given[name]))
        require(all(s is None or s.abs().max() == 0 for s in slopes), f"a gradient goes into port '{name}'")
    names = case.of("teacher")
    if not names:
        raise NotApplicable
    given = case.leaning("student")
    case.run(case.warm(), given).sum().backward()
    for name in names:
        for t in tensors(given[name]):
            require(
                case.carries_graph or (t.grad is None and not t.requires_grad), f"port '{name}' was given a gradient"
            )


@VALUES("read the port in forward, or remove it")
def ports_matter(case: LossCase) -> None:
    """A teacher that changes nothing is not distilled."""
    case.convertible()
    module, idle = nudged(case.warm()), []
    plain = case.run(module)
    for name, value in case.inputs.items():
        if not difference(plain, case.run(module, {**case.inputs, name: mapped(_other, value)})):
            idle.append(name)
    require(not idle, f"the loss is the same whatever stands at port {', '.join(idle)}")


@VALUES("subtract the maximum (log_softmax, logsumexp), divide before squaring, clamp before log and sqrt")
def large_values(case: LossCase) -> None:
    """Half-precision networks give values up to 6e4; a loss that overflows there ends the run."""
    case.convertible()
    grown = {
        name: mapped(_large, value) if name.startswith(("student", "teacher")) else value
        for name, value in case.inputs.items()
    }
    loss, slopes = case.slopes(case.warm(), grown, "student")
    require(loss.isfinite().all(), "not finite where values are as large as float16 goes, 6e4")
    require(all(s is None or s.isfinite().all() for s in slopes), "the gradient is not finite at values of 6e4")


@VALUES("add an epsilon inside roots and norms, or mask with torch.where before the root, not after it")
def equal_and_zero(case: LossCase) -> None:
    """Zeros come from ReLU and dead samples, equality at the end of training: roots and norms have no slope there."""
    case.convertible()
    module = case.warm()
    zero = {
        name: mapped(torch.zeros_like, value) if name.startswith("student") else value
        for name, value in case.inputs.items()
    }
    cases = {"zero": zero}
    student, teacher = (case.inputs.get(name) for name in ("student", "teacher"))
    if teacher is not None and _shapes(student) == _shapes(teacher):
        cases["the teacher's"] = {**case.inputs, "student": teacher}
    for what, inputs in cases.items():
        if not case.of("student"):
            raise NotApplicable
        loss, slopes = case.slopes(module, inputs, "student")
        require(loss.isfinite().all(), f"not finite where the student's values are {what}")
        require(all(s is None or s.isfinite().all() for s in slopes), f"no finite gradient where they are {what}")


@VALUES("give 0 * log 0 its value: torch.where(p > 0, ..., 0.0)")
def masked_classes(case: LossCase) -> None:
    """A logit of -inf is a class that cannot be; the documentation says that this loss takes it."""
    case.convertible()
    if "-inf" not in (case.specimen.cls.__doc__ or "") or not {"student", "teacher"} <= case.inputs.keys():
        raise NotApplicable
    masked = {
        name: mapped(_mask_last, value) if name in ("student", "teacher") else value
        for name, value in case.inputs.items()
    }
    loss, slopes = case.slopes(case.warm(), masked, "student")
    require(loss.isfinite().all(), "not finite where a class is -inf on both sides")
    require(all(s is None or s.isfinite().all() for s in slopes), "the gradient is not finite where a class is -inf")


@VALUES("multiply by the mask and divide by max(1, its sum), or select with torch.where")
def nothing_valid(case: LossCase) -> None:
    """A batch of padding alone happens, and 0 / 0 of it ends the run."""
    case.convertible()
    if "mask" not in case.inputs:
        raise NotApplicable
    loss, slopes = case.slopes(case.warm(), {**case.inputs, "mask": torch.zeros_like(case.inputs["mask"])}, "student")
    require(loss.isfinite().all(), "not finite where the mask is zero everywhere")
    require(
        all(s is None or s.isfinite().all() for s in slopes), "no finite gradient where the mask is zero everywhere"
    )


@VALUES("correct the formula, or the reference; compare in float64")
def matches_reference(case: LossCase) -> None:
    """The author's own plain formula is what users are told that they minimise."""
    if case.reference is None:
        raise NotApplicable
    case.convertible()
    module = case.fresh().double()
    wide = {name: mapped(lambda t: t.double() if t.is_floating_point() else t, v) for name, v in case.inputs.items()}
    given = case.leaning("student", wide)
    made, wanted = case.run(module, given), case.reference(**given)
    found = difference(wanted.double(), made.double(), tolerance=1e-9)
    require(not found, f"against the reference {found}")
    sought = [t for name in case.of("student") for t in tensors(given[name])]
    found = difference(gradients(wanted, sought), gradients(made, sought), tolerance=1e-8, place="gradient")
    require(not found, f"against the reference's gradient {found}")


@VALUES("include the teacher's entropy: sum p (log p - log q), over all classes")
def zero_at_the_teacher(case: LossCase) -> None:
    """A divergence says how far the student still has to go: zero at the teacher, above zero elsewhere."""
    if not case.divergence:
        raise NotApplicable
    module = case.warm()
    loss, slopes = case.slopes(module, {**case.inputs, "student": case.inputs["teacher"]}, "student")
    require(loss.abs().max() < 1e-5, f"{float(loss.abs().max()):.3g} where student and teacher are equal")
    require(all(s is not None and s.abs().max() < 1e-4 for s in slopes), "there is a gradient where they are equal")
    require((case.run(module) > 0).all(), "not above zero where student and teacher differ")


@VALUES("multiply by temperature ** 2")
def temperature_squared(case: LossCase) -> None:
    """Without the factor the gradient shrinks with the temperature, and the weight of the loss with it."""
    if not case.divergence or "temperature" not in signature.options(case.specimen.cls):
        raise NotApplicable
    norms = []
    for temperature in (50.0, 100.0):
        _, slopes = case.slopes(case.warm({"temperature": temperature}), case.inputs, "student")
        norms.append(sum(float(s.norm()) for s in slopes if s is not None))
    require(norms[1] > 0.7 * norms[0], f"the gradient falls by {norms[0] / max(norms[1], 1e-30):.2g} as T doubles")


def _other(tensor: Tensor) -> Tensor:
    """Another valid value: of the next sample, and bent, so that no rotation or scale leads back."""
    rolled = tensor.roll(1, 0)
    return rolled.sign() * rolled.abs() ** 1.5 if tensor.is_floating_point() else rolled


def _large(tensor: Tensor) -> Tensor:
    return tensor / tensor.abs().max().clamp(min=1e-12) * LARGE if tensor.is_floating_point() else tensor


def _mask_last(tensor: Tensor) -> Tensor:
    masked = tensor.detach().clone()
    masked[..., -1] = -torch.inf
    return masked


def _shapes(value: Any) -> list[list[int]]:
    return [list(t.shape) for t in tensors(value)]
