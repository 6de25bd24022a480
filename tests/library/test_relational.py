"""What holds for every relational, coupled and contrastive loss of `core`."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from mmkd import Loss
from mmkd.errors import GraphError, RecipeError
from mmkd.library.losses import relation, rkd
from mmkd.library.losses.contrastive_gradient import ContrastiveGradient
from mmkd.library.losses.correlation_congruence import CorrelationCongruence
from mmkd.library.losses.crd import ContrastiveRepresentation
from mmkd.library.losses.ickd import InterChannelCorrelation
from mmkd.library.losses.minilm import RelationTransfer
from mmkd.library.losses.nst import NeuronSelectivity
from mmkd.library.losses.pkt import ProbabilisticTransfer
from mmkd.library.losses.rkd import RelationalAngle, RelationalDistance
from mmkd.library.losses.similarity_preserving import SimilarityPreserving
from mmkd.library.losses.trg import TokenContext, TokenGraph, TokenNeighbours
from mmkd.library.losses.wcord import WassersteinGlobal, WassersteinLocal
from tests.library import relational_oracle as oracle

Inputs = list[Tensor]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def features(student: tuple[int, ...], teacher: tuple[int, ...]) -> Callable[[int], Inputs]:
    return lambda size: [normal(size, *student), normal(size, *teacher, seed=1)]


def crd() -> Loss:
    torch.manual_seed(0)
    loss = ContrastiveRepresentation(dim=3, negatives=6, temperature=0.5)
    loss.setup(torch.Size([4, 5]), torch.Size([4, 7]))
    loss.double().update(normal(4, 5, seed=2), normal(4, 7, seed=3))
    return loss


def wcord() -> Loss:
    torch.manual_seed(0)
    loss = WassersteinGlobal(hidden=5)
    loss.setup(torch.Size([4, 5]), torch.Size([4, 7]))
    return loss.double()


class PairedGradient(ContrastiveGradient):
    def forward(self, *values: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(list(values[:2]), list(values[2:]))


class PairedRelations(RelationTransfer):
    def forward(self, *values: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(list(values[:2]), list(values[2:]))


wide = features((5,), (7,))
tokens = features((4, 6), (4, 8))
maps = features((3, 3, 2), (2, 2, 4))

CASES: dict[str, tuple[Callable[[], Loss], Callable[[int], Inputs]]] = {
    "rkd_distance": (RelationalDistance, wide),
    "rkd_angle": (RelationalAngle, wide),
    "similarity_preserving": (SimilarityPreserving, maps),
    "correlation_congruence": (CorrelationCongruence, wide),
    "correlation_congruence exact": (lambda: CorrelationCongruence(order=None), wide),
    "correlation_congruence bilinear": (lambda: CorrelationCongruence("bilinear"), wide),
    "pkt": (ProbabilisticTransfer, wide),
    "pkt itself": (lambda: ProbabilisticTransfer(include_self=True), wide),
    "nst": (NeuronSelectivity, maps),
    "nst linear": (lambda: NeuronSelectivity("linear"), tokens),
    "nst gaussian": (lambda: NeuronSelectivity("gaussian"), maps),
    "ickd": (InterChannelCorrelation, features((3, 3, 2), (3, 2, 4))),
    "crd": (crd, wide),
    "wcord_local": (lambda: WassersteinLocal(0.5, 10), features((5,), (5,))),
    "wcord_global": (wcord, wide),
    "trg_inner": (TokenContext, tokens),
    "trg_local": (lambda: TokenNeighbours(None, neighbours=3), tokens),
    "trg_local as printed": (lambda: TokenNeighbours(None, 3, 6.0, normalize=False, direction="reverse"), tokens),
    "trg_global": (lambda: TokenGraph(None), features((4, 6), (4, 6))),
    "minilm": (
        lambda: PairedRelations(2),
        lambda n: [normal(n, 4, w, seed=i) for i, w in enumerate((4, 4, 6, 6))],
    ),
    "contrastive_gradient": (
        lambda: PairedGradient(0.5, 0.3),
        lambda n: [normal(n, 5, seed=i) for i in range(4)],
    ),
}
every = pytest.mark.parametrize(("make", "inputs"), CASES.values(), ids=CASES.keys())


def gradients(loss: Loss, values: Inputs) -> Inputs:
    leaves = [v.clone().requires_grad_() for v in values]
    loss(*leaves).sum().backward()
    return [v.grad if v.grad is not None else torch.zeros_like(v) for v in leaves]


@every
def test_gradient_is_that_of_the_value(make: Callable[[], Loss], inputs: Callable[[int], Inputs]) -> None:
    loss = make()
    if getattr(loss, "kernel", None) == "gaussian" and isinstance(loss, NeuronSelectivity):
        pytest.skip("its bandwidth sends no gradient by definition")
    assert torch.autograd.gradcheck(loss, [v.requires_grad_() for v in inputs(4)])


@every
def test_order_of_samples_does_not_matter(make: Callable[[], Loss], inputs: Callable[[int], Inputs]) -> None:
    loss, order = make(), torch.tensor([2, 0, 3, 4, 1])
    expected = loss(*inputs(5))
    shuffled = loss(*(v[order] for v in inputs(5)))
    torch.testing.assert_close(shuffled, expected[order] if expected.dim() else expected, rtol=1e-9, atol=1e-9)


@every
def test_only_a_coupled_loss_sees_other_samples(make: Callable[[], Loss], inputs: Callable[[int], Inputs]) -> None:
    loss, values = make(), inputs(6)
    apart = torch.stack([loss(*(v[i : i + 2] for v in values)).mean() for i in (0, 2, 4)]).mean()
    assert torch.allclose(apart, loss(*values).mean(), rtol=1e-9, atol=1e-9) != loss.coupled


@every
@pytest.mark.parametrize("size", [0, 1, 2])
def test_smallest_batches_are_finite_and_keep_the_graph(
    make: Callable[[], Loss], inputs: Callable[[int], Inputs], size: int
) -> None:
    loss = make()
    values = [v.requires_grad_() for v in inputs(size)]
    value = loss(*values)
    assert value.shape in ((size,), ())
    assert value.isfinite().all()
    value.sum().backward()
    assert values[0].grad is not None
    assert values[0].grad.isfinite().all()
    if 0 < size < loss.min_batch and not getattr(loss, "include_self", False):  # two samples have themselves, too
        assert value.abs().max() < 1e-12
        assert values[0].grad.abs().max() < 1e-12


@every
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_halves_are_computed_in_float32(
    make: Callable[[], Loss], inputs: Callable[[int], Inputs], dtype: torch.dtype
) -> None:
    halves = [(v * 3000).to(dtype).requires_grad_() for v in inputs(5)]
    if isinstance(loss := make(), RelationTransfer | TokenContext):  # attention of such logits is one-hot
        halves = [v.detach().div(1000).to(dtype).requires_grad_() for v in halves]
    result = loss.float()(*halves)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result.double(), make().double()(*(v.double() for v in halves)), rtol=1e-4, atol=1e-5)
    result.sum().backward()
    assert all(v.grad is not None and v.grad.isfinite().all() for v in halves if v.grad is not None)


@every
def test_autocast_changes_nothing(make: Callable[[], Loss], inputs: Callable[[int], Inputs]) -> None:
    loss = make().float()
    values = [v.float() for v in inputs(5)]
    expected = loss(*values)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(loss(*values), expected, rtol=1e-6, atol=1e-6)


@every
def test_constant_samples_have_a_finite_gradient(make: Callable[[], Loss], inputs: Callable[[int], Inputs]) -> None:
    for values in ([torch.zeros_like(v) for v in inputs(4)], [torch.ones_like(v) for v in inputs(4)]):
        assert all(g.isfinite().all() for g in gradients(make(), values))


@every
def test_slices_change_neither_value_nor_gradient(
    make: Callable[[], Loss], inputs: Callable[[int], Inputs], monkeypatch: pytest.MonkeyPatch
) -> None:
    loss, values = make(), inputs(5)
    expected = loss(*values), gradients(loss, values)
    monkeypatch.setattr(relation, "MAX_CELLS", 1)
    monkeypatch.setattr(rkd, "ANGLE_CELLS", 1)
    found = loss(*values), gradients(loss, values)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


@every
def test_training_lowers_it(make: Callable[[], Loss], inputs: Callable[[int], Inputs]) -> None:
    loss, (student, *rest) = make(), inputs(6)
    student.requires_grad_()
    optimizer = torch.optim.Adam([student], 0.02)
    first = loss(student, *rest).mean().item()
    for _ in range(60):
        optimizer.zero_grad()
        loss(student, *rest).mean().backward()
        optimizer.step()
    assert loss(student, *rest).mean().item() < (0.98 * first if first > 0 else first - 1e-4)


SAME = ["rkd_distance", "rkd_angle", "similarity_preserving", "correlation_congruence", "pkt", "nst", "nst gaussian",
        "ickd", "trg_inner", "trg_local", "minilm", "contrastive_gradient"]  # fmt: skip


@pytest.mark.parametrize("name", SAME)
def test_zero_at_equality_with_zero_gradient(name: str) -> None:
    make, inputs = CASES[name]
    half = inputs(5)[: len(inputs(5)) // 2]
    loss = PairedGradient(0.5) if name == "contrastive_gradient" else make()
    assert loss(*half, *half).abs().max() < 1e-12
    assert all(g.abs().max() < 1e-7 for g in gradients(loss, [*half, *(v.clone() for v in half)]))


ORACLES: dict[str, Callable[..., list[float]]] = {
    "rkd_distance": oracle.rkd_distance,
    "rkd_angle": oracle.rkd_angle,
    "similarity_preserving": oracle.similarity_preserving,
    "correlation_congruence": lambda s, t: oracle.correlation_congruence(s, t, 0.4, 2),
    "correlation_congruence exact": lambda s, t: oracle.correlation_congruence(s, t, 0.4, None),
    "pkt": lambda s, t: oracle.pkt(s, t, False),
    "pkt itself": lambda s, t: oracle.pkt(s, t, True),
}


@pytest.mark.parametrize("name", ORACLES)
def test_value_against_loops(name: str) -> None:
    make, inputs = CASES[name]
    values = [v.flatten(1) for v in inputs(6)]
    expected = ORACLES[name](*(v.tolist() for v in values))
    assert make()(*values).tolist() == pytest.approx(expected, rel=1e-9)
    narrow = make()(*(v.float() for v in values))
    assert narrow.tolist() == pytest.approx(expected, rel=1e-4, abs=1e-6)


WITHIN: dict[str, tuple[Callable[[], Loss], Callable[..., float]]] = {
    **{f"nst {k}": (lambda k=k: NeuronSelectivity(k), lambda s, t, k=k: oracle.nst(s, t, k))  # type: ignore[misc]
       for k in ("linear", "polynomial", "gaussian")},
    "trg_inner": (TokenContext, oracle.trg_inner),
    "minilm": (lambda: RelationTransfer(2), lambda s, t: oracle.minilm(s, t, 2)),
}  # fmt: skip


@pytest.mark.parametrize("name", WITHIN)
def test_value_within_each_sample_against_loops(name: str) -> None:
    make, truth = WITHIN[name]
    student, teacher = tokens(3)
    found = make()([student], [teacher]) if name == "minilm" else make()(student, teacher)
    channels = name.startswith("nst")
    pairs = zip(student, teacher, strict=True)
    expected = [truth(*((x.T if channels else x).tolist() for x in pair)) for pair in pairs]
    assert found.tolist() == pytest.approx(expected, rel=1e-9)


def test_channels_of_maps_against_loops() -> None:
    student, teacher = CASES["ickd"][1](3)
    expected = [
        oracle.ickd(s.flatten(1).tolist(), t.flatten(1).tolist()) for s, t in zip(student, teacher, strict=True)
    ]
    assert InterChannelCorrelation()(student, teacher).tolist() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("name", ["rkd_distance", "rkd_angle"])
def test_rkd_does_not_see_rotation_shift_or_scale(name: str) -> None:
    loss, student = CASES[name][0](), normal(7, 5)
    rotation = torch.linalg.qr(normal(5, 5, seed=3)).Q
    assert loss(student, 3 * student @ rotation + 10).abs().max() < 1e-12
    assert loss(student.float(), (0.01 * student @ rotation).float() + 1).abs().max() < 1e-4
    stretched = student * torch.tensor([1.0, 1, 1, 1, 4])
    assert loss(student, stretched).mean() > 1e-3


def test_rkd_angle_needs_no_cube_of_memory() -> None:
    size = 96
    held: list[int] = []

    def pack(value: Tensor) -> Tensor:
        held.append(value.numel())
        return value

    student = normal(size, 4).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        RelationalAngle()(student, normal(size, 4, seed=1)).sum()
    assert max(held) < size**3 / 4


def test_taylor_polynomial_tends_to_the_kernel() -> None:
    student, teacher = wide(6)
    exact = CorrelationCongruence(gamma=0.7, order=None)(student, teacher)
    gaps = [(CorrelationCongruence(gamma=0.7, order=p)(student, teacher) - exact).abs().max() for p in (1, 3, 12)]
    assert gaps[0] > gaps[1] > gaps[2]
    assert gaps[2] < 1e-8


def test_nst_polynomial_is_the_gram_matrix_over_positions() -> None:
    student, teacher = tokens(2)
    s, t = (torch.nn.functional.normalize(x, dim=1) for x in (student, teacher))
    grams = s @ s.mT / s.shape[2] - t @ t.mT / t.shape[2]
    torch.testing.assert_close(NeuronSelectivity()(student, teacher), grams.square().sum((1, 2)))


def test_opposite_samples_have_a_finite_divergence() -> None:
    student, teacher = torch.tensor([[1.0, 0], [-1, 0], [0, 1]]), torch.tensor([[1.0, 0], [1, 0], [0, 1]])
    assert ProbabilisticTransfer()(student, teacher).isfinite().all()


@pytest.mark.parametrize("name", [n for n in CASES if "contrastive" not in n and n != "minilm"])
def test_batches_must_be_the_same_samples(name: str) -> None:
    make, inputs = CASES[name]
    student, teacher = inputs(4)
    if name == "wcord_local":  # transport needs no pairs, so the sets may differ in size
        return
    with pytest.raises(GraphError):
        make()(student[:3], teacher)


@pytest.mark.parametrize("make", [ContrastiveRepresentation, WassersteinGlobal])
def test_what_needs_widths_says_so(make: Callable[[], Loss]) -> None:
    with pytest.raises(RecipeError, match="setup"):
        make()(normal(3, 4), normal(3, 4))


@pytest.mark.parametrize(
    "make",
    [lambda: CorrelationCongruence(gamma=0), lambda: CorrelationCongruence(order=-1), lambda: WassersteinLocal(0),
     lambda: WassersteinLocal(iterations=0), lambda: ContrastiveRepresentation(temperature=0),
     lambda: TokenGraph(temperature=0), lambda: TokenGraph(tokens=0), lambda: TokenNeighbours(neighbours=0),
     lambda: TokenNeighbours(sigma=0), lambda: RelationTransfer(0), lambda: ContrastiveGradient(0),
     lambda: ContrastiveGradient(teacher_temperature=0)],
)  # fmt: skip
def test_options_out_of_range_are_refused(make: Callable[[], Loss]) -> None:
    with pytest.raises(RecipeError):
        make()


def test_successive_pairs_against_loops() -> None:
    student, teacher = normal(4, 3), normal(4, 3, seed=1)
    gaps = (student - teacher).abs().tolist()
    pairs = [oracle.dot(gaps[i], gaps[i + 1]) for i in range(3)]
    value = CorrelationCongruence(pairs="successive")(student, teacher)
    assert value.tolist() == pytest.approx([*(4 / 3 * x for x in pairs), 0.0])
    assert value.mean().item() == pytest.approx(sum(pairs) / 3)
    assert not torch.allclose(CorrelationCongruence()(student, teacher), value)
    assert torch.autograd.gradcheck(CorrelationCongruence(pairs="successive"), [student.requires_grad_(), teacher])
    for size in (0, 1):
        assert CorrelationCongruence(pairs="successive")(student[:size], teacher[:size]).tolist() == [0.0] * size
    with pytest.raises(GraphError, match="same shape"):
        CorrelationCongruence(pairs="successive")(student, normal(4, 5))
