"""What holds for every feature, attention and hint loss of `core`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from mmkd import Loss
from mmkd.errors import GraphError, RecipeError
from mmkd.library.losses.activation import ActivationBoundary, MarginL2
from mmkd.library.losses.attention import AttentionAlignment, AttentionKL, CrossAttentionKL
from mmkd.library.losses.attention_transfer import AttentionTransfer
from mmkd.library.losses.cwd import ChannelwiseKL
from mmkd.library.losses.factor_transfer import FactorTransfer
from mmkd.library.losses.fsp import SolutionFlow
from mmkd.library.losses.hard_label import HardLabel
from mmkd.library.losses.mgd import MaskedGeneration
from mmkd.library.losses.patient import PatientStates
from mmkd.library.losses.pearson_map import PearsonMap
from mmkd.library.losses.review import HierarchicalContext, KnowledgeReview
from mmkd.library.losses.vid import VariationalInformation

Inputs = list[Tensor]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Split(Loss):
    """A loss of two lists, called with all their values one after the other: the student's half, the teacher's half."""

    def __init__(self, loss: Loss) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, *values: Tensor) -> Tensor:
        half = len(values) // 2
        result: Tensor = self.loss(list(values[:half]), list(values[half:]))
        return result


def tensors(*shapes: tuple[int, ...]) -> Callable[[int], Inputs]:
    return lambda size: [normal(size, *shape, seed=i) for i, shape in enumerate(shapes)]


def maps(*shapes: tuple[int, ...]) -> Callable[[int], Inputs]:
    """Attention maps."""
    return lambda size: [normal(size, *shape, seed=i).softmax(-1) for i, shape in enumerate(shapes)]


same = tensors((3, 4, 2), (3, 4, 2))

CASES: dict[str, tuple[Callable[[], Loss], Callable[[int], Inputs]]] = {
    "at": (AttentionTransfer, tensors((3, 4, 2), (5, 2, 4))),
    "vid": (VariationalInformation, tensors((3, 4, 2), (3, 2, 4))),
    "vid tokens": (VariationalInformation, tensors((4, 3), (4, 3))),
    "fsp": (lambda: Split(SolutionFlow()), tensors((3, 4, 4), (2, 2, 2), (3, 4, 4), (2, 2, 2))),
    "ft": (FactorTransfer, tensors((3, 4, 2), (4, 2, 2))),
    "ab": (ActivationBoundary, same),
    "ofd": (MarginL2, same),
    "hcl": (HierarchicalContext, tensors((3, 3, 3), (3, 3, 3))),
    "review": (lambda: Split(KnowledgeReview(4)), tensors((3, 4, 4), (5,), (4, 2, 2), (6,))),
    "cwd": (lambda: ChannelwiseKL(2.0), same),
    "cwd tokens": (ChannelwiseKL, tensors((4, 3), (4, 3))),
    "mgd": (lambda: MaskedGeneration(0.0), same),
    "patient": (lambda: Split(PatientStates()), tensors((4, 5), (6,), (4, 5), (6,))),
    "pearson_map": (PearsonMap, same),
    "attention_kl": (AttentionKL, maps((2, 3, 4), (2, 3, 4))),
    "attention_kl mean": (lambda: AttentionKL("mean"), maps((2, 3, 4), (3, 3, 4))),
    "cross_attention": (lambda: Split(CrossAttentionKL(2)), tensors((3, 4), (5, 4), (3, 6), (5, 6))),
    "a2d": (lambda: Split(AttentionAlignment()), maps((2, 3, 4), (2, 3, 4), (3, 3, 4), (3, 3, 4))),
    "hard_label": (lambda: HardLabel(0.1), tensors((6,), (6,))),
}
every = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
Case = tuple[Callable[[], Loss], Callable[[int], Inputs]]


def ready(case: Case) -> tuple[Loss, Callable[[int], Inputs]]:
    make, inputs = case
    torch.manual_seed(0)
    loss = make()
    shapes = [v.shape for v in inputs(2)]
    if isinstance(loss, Split):
        half = len(shapes) // 2
        loss.loss.setup(student=shapes[:half], teacher=shapes[half:])
    else:
        loss.setup(student=shapes[0], teacher=shapes[1])
    return loss.double(), inputs


@every
def test_gradient_is_that_of_the_value(case: Case) -> None:
    loss, inputs = ready(case)
    values = inputs(3)
    for value in values[: len(values) // 2]:
        value.requires_grad_()
    assert torch.autograd.gradcheck(loss, values)
    if isinstance(loss, VariationalInformation | AttentionTransfer | ChannelwiseKL | PearsonMap | HierarchicalContext):
        assert torch.autograd.gradcheck(loss, [v.requires_grad_() for v in inputs(3)])


@every
def test_order_of_samples_does_not_matter(case: Case) -> None:
    loss, inputs = ready(case)
    order = torch.tensor([2, 0, 3, 4, 1])
    torch.testing.assert_close(loss(*(v[order] for v in inputs(5))), loss(*inputs(5))[order], rtol=1e-9, atol=1e-9)


@every
def test_only_a_coupled_loss_sees_other_samples(case: Case) -> None:
    loss, inputs = ready(case)
    values = inputs(6)
    apart = torch.cat([loss(*(v[i : i + 2] for v in values)) for i in (0, 2, 4)])
    assert torch.allclose(apart, loss(*values), rtol=1e-9, atol=1e-9) != loss.coupled


@every
@pytest.mark.parametrize("size", [0, 1])
def test_smallest_batches_are_finite_and_keep_the_graph(case: Case, size: int) -> None:
    loss, inputs = ready(case)
    values = [v.requires_grad_() for v in inputs(size)]
    value = loss(*values)
    assert value.shape[0] == size
    assert value.isfinite().all()
    value.sum().backward()
    assert values[0].grad is not None
    assert values[0].grad.isfinite().all()


@every
def test_halves_are_computed_in_float32(case: Case) -> None:
    loss, inputs = ready(case)
    halves = [v.half() for v in inputs(3)]
    wide = loss(*(v.double() for v in halves))
    narrow = loss.float()(*(v.requires_grad_() for v in halves))
    assert narrow.dtype == torch.float32
    torch.testing.assert_close(narrow.double(), wide, rtol=1e-4, atol=1e-5)
    narrow.mean().backward()
    assert halves[0].grad is not None and halves[0].grad.isfinite().all()


@every
def test_huge_values_and_zeros_are_finite(case: Case) -> None:
    loss, inputs = ready(case)
    loss.float()
    probabilities = isinstance(loss, AttentionKL) or isinstance(getattr(loss, "loss", None), AttentionAlignment)
    for factor in (0.0, 1.0 if probabilities else 1e4):
        values = [(v.float() * factor).requires_grad_() for v in inputs(3)]
        value = loss(*values)
        assert value.isfinite().all()
        value.sum().backward()
        assert values[0].grad is not None and values[0].grad.isfinite().all()


EQUAL = ("at", "fsp", "hcl", "cwd", "cwd tokens", "patient", "pearson_map", "attention_kl", "cross_attention")


@pytest.mark.parametrize("name", EQUAL)
def test_zero_and_without_gradient_at_equality(name: str) -> None:
    make, inputs = CASES[name]
    values = inputs(4)
    student = [v.requires_grad_() for v in values[: len(values) // 2]]
    value = make()(*student, *(v.detach().clone() for v in student))
    assert value.abs().max() < 1e-12
    value.sum().backward()
    for v in student:
        assert v.grad is not None
        gradient = v.grad - v.grad.mean(-1, keepdim=True) if name == "attention_kl" else v.grad  # along the simplex
        assert gradient.abs().max() < 1e-9


NEEDS_SETUP: list[tuple[Loss, Any]] = [
    (VariationalInformation(), (normal(2, 3), normal(2, 3))),
    (FactorTransfer(), (normal(2, 3, 2, 2), normal(2, 3, 2, 2))),
    (MarginL2(), (normal(2, 3), normal(2, 3))),
    (KnowledgeReview(), ([normal(2, 3)], [normal(2, 3)])),
    (MaskedGeneration(), (normal(2, 3, 2, 2), normal(2, 3, 2, 2))),
    (AttentionAlignment(), ([normal(2, 3, 2, 2)], [normal(2, 3, 2, 2)])),
]


@pytest.mark.parametrize(("loss", "values"), NEEDS_SETUP, ids=lambda x: type(x).__name__ if isinstance(x, Loss) else "")
def test_what_owns_parameters_must_be_set_up(loss: Loss, values: Any) -> None:
    with pytest.raises(RecipeError, match="setup"):
        loss(*values)


def test_shapes_that_do_not_fit_are_named() -> None:
    four = normal(2, 3, 4, 4)
    wrong: list[tuple[Loss, Any, str]] = [
        (AttentionTransfer(), (normal(2, 3), normal(2, 3)), "feature maps"),
        (AttentionTransfer(), (four, normal(3, 3, 4, 4)), "same samples"),
        (SolutionFlow(), ([four], [four]), "two maps"),
        (SolutionFlow(), ([four, four], [four]), "2 values of the student, 1 of the teacher"),
        (SolutionFlow(), ([four, four], [four, normal(2, 5, 4, 4)]), "from 3 to 3 channels, teacher from 3 to 5"),
        (ActivationBoundary(), (normal(2, 3), normal(2, 4)), "same shape"),
        (ChannelwiseKL(), (normal(2, 3), normal(2, 3)), "needs a map"),
        (PatientStates(), ([], []), "0 values"),
        (PearsonMap(), (normal(2, 3), normal(2, 3)), "needs maps"),
        (AttentionKL(), (four, normal(2, 5, 4, 4)), "heads: mean"),
        (CrossAttentionKL(2), ([normal(2, 3, 5)] * 2, [normal(2, 3, 4)] * 2), "multiple of 2 heads"),
        (HardLabel(), (normal(2, 3), normal(2, 4)), "same shape"),
    ]
    for loss, values, message in wrong:
        with pytest.raises(GraphError, match=message):
            loss(*values)


@pytest.mark.parametrize(
    ("cls", "option"),
    [(AttentionTransfer, "power"), (ActivationBoundary, "margin"), (ChannelwiseKL, "temperature"),
     (AttentionAlignment, "temperature")],
)  # fmt: skip
def test_numbers_above_zero(cls: Any, option: str) -> None:
    with pytest.raises(RecipeError, match=f"{option} must be greater than 0"):
        cls(**{option: 0.0})
