"""Feature losses against what authors' code gave, with the factors that the docstrings name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mmkd.library.losses import mgd as mgd_module
from mmkd.library.losses.activation import ActivationBoundary, MarginL2
from mmkd.library.losses.attention_transfer import AttentionTransfer
from mmkd.library.losses.cwd import ChannelwiseKL
from mmkd.library.losses.explanation import ExplanationMatch
from mmkd.library.losses.factor_transfer import FactorTransfer
from mmkd.library.losses.fsp import SolutionFlow
from mmkd.library.losses.hard_label import HardLabel
from mmkd.library.losses.mgd import MaskedGeneration
from mmkd.library.losses.patient import PatientStates
from mmkd.library.losses.pearson_map import PearsonMap
from mmkd.library.losses.review import HierarchicalContext, KnowledgeReview
from mmkd.library.losses.vid import VariationalInformation
from tests.goldens import cases

Values = dict[str, Tensor]


def parameters(module: nn.Module, values: Values) -> None:
    """Put the golden's tensors where the module's parameters are, as they are, so that they get gradients."""
    for name in [name for name, _ in module.named_parameters()]:
        path, _, last = name.rpartition(".")
        owner = module.get_submodule(path)
        del owner._parameters[last]
        setattr(owner, last, values[name])


def at(values: Values, power: int) -> Tensor:
    positions = min(values["student"][0, 0].numel(), values["teacher"][0, 0].numel())
    return AttentionTransfer(power)(**values).mean() / positions


def vid(values: Values, variance: float | None = None) -> Tensor:
    loss = VariationalInformation(variance or 5.0)
    loss.setup(values["student"].shape, values["teacher"].shape)
    if variance:
        torch.testing.assert_close(loss.double().raw, values["raw"], rtol=1e-5, atol=1e-6, check_dtype=False)
    parameters(loss, {"raw": values["raw"]})
    return loss(values["student"], values["teacher"]).mean()


def fsp(values: Values) -> Tensor:
    student, teacher = ([values[f"{side}{i}"] for i in range(3)] for side in "st")
    first = SolutionFlow()(student[:2], teacher[:2])
    torch.testing.assert_close(first + SolutionFlow()(student[1:], teacher[1:]), SolutionFlow()(student, teacher))
    return SolutionFlow()(student, teacher).mean()


def ft(values: Values) -> Tensor:
    loss = FactorTransfer()
    loss.translator = loss.encoder = loss.decoder = nn.Identity()
    return loss(**values).mean() / values["student"][0].numel()


def ab(values: Values, margin: float) -> Tensor:
    return ActivationBoundary(margin)(**values).sum() * values["student"][0].numel()


def ofd(values: Values) -> Tensor:
    return MarginL2()(**values).sum() * values["student"][0].numel()


def review(values: Values) -> Tensor:
    if "student" in values:
        return HierarchicalContext()(**values).mean()
    student, teacher = ([values[f"{side}{i}"] for i in range(3)] for side in "st")
    loss = KnowledgeReview(5)
    loss.setup([x.shape for x in student], [x.shape for x in teacher])
    assert loss.fusions is not None
    parameters(loss.fusions, values)
    return loss(student, teacher).mean()


def cwd(values: Values, temperature: float) -> Tensor:
    return ChannelwiseKL(temperature)(**values).mean()


def mgd(values: Values, blank: Any) -> Tensor:
    loss = MaskedGeneration(0.5, blank)
    loss.setup(values["student"].shape, values["teacher"].shape)
    assert loss.generator is not None
    parameters(loss.generator, values)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mgd_module.torch, "rand", lambda shape, device: values["keep"].double())
        value = loss(values["student"], values["teacher"])
    return value.mean() * values["teacher"][0].numel()


def patient(values: Values) -> Tensor:
    student, teacher = (list(values[side].unbind(1)) for side in ("student", "teacher"))
    return PatientStates()(student, teacher).mean() / values["student"][0].numel()


def pearson_map(values: Values) -> Tensor:
    count = values["student"][:, 0].numel()
    return PearsonMap()(**values).mean() * (1 - 1 / count)


def deit(values: Values) -> Tensor:
    return HardLabel()(**values).mean()


def e2kd(values: Values) -> Tensor:
    features = values["features"] * 1
    logits = features.square().mean((2, 3)) @ values["weight"].T
    seen = values["teacher_features"].detach().requires_grad_()
    teacher = seen.mean((2, 3)) @ values["head"].T
    return ExplanationMatch()(logits, features, teacher, seen).mean()


METHODS: dict[str, Callable[..., Tensor]] = {
    f.__name__: f for f in (at, vid, fsp, ft, ab, ofd, review, cwd, mgd, patient, pearson_map, deit, e2kd)
}
NEAR = {"patient": 1e-3, "ofd": 1e-5, "pearson_map": 1e-5}
"""Where theirs rounds to half precision or float32, or adds 1e-6 to a deviation."""
NO_GRADIENT = {"ofd": {"teacher", "scale", "shift"}, "ft": {"teacher"}}
"""Theirs detaches the target elsewhere, or ours does."""


@pytest.mark.parametrize("method", METHODS)
def test_ours_is_theirs(method: str) -> None:
    seen, near = 0, NEAR.get(method, 1e-6)
    for options, inputs, output, gradients in cases(method):
        values = {name: v.requires_grad_(name in gradients) for name, v in inputs.items()}
        value = METHODS[method](values, **options)
        torch.testing.assert_close(value, output, rtol=near, atol=1e-9)
        value.backward()
        for name in gradients.keys() - NO_GRADIENT.get(method, set()):
            assert values[name].grad is not None, name
            torch.testing.assert_close(values[name].grad, gradients[name], rtol=10 * near, atol=near)
        seen += 1
    assert seen
