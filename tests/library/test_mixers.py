"""Targets: what they are made of, as loops; their limits; how the one that moves moves."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from goldens import cases
from torch import Tensor

from mmkd import Mixer
from mmkd.errors import GraphError, RecipeError
from mmkd.library.losses.cross_entropy import CrossEntropy
from mmkd.library.losses.kl import KLDivergence
from mmkd.library.mixers.gate import Gate
from mmkd.library.mixers.label_mix import LabelMix
from mmkd.library.mixers.mean import MeanOfTeachers
from mmkd.library.mixers.taid import TemporalInterpolation

from . import oracle as truth
from .test_losses import normal

B, V = 5, 7
teachers = [2 * normal(B, V, seed=i) for i in range(3)]
student, label = 2 * normal(B, V, seed=9), torch.tensor([0, 6, 3, 3, 1])


def entropy(p: list[float]) -> float:
    return -sum(x * math.log(x) for x in p)


# -- several teachers -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("certainty", [0.0, 1.5])
@pytest.mark.parametrize("weights", [None, [1.0, 0.0, 3.0]])
def test_mean_is_the_weighted_sum(weights: list[float] | None, certainty: float, temperature: float) -> None:
    mixed = MeanOfTeachers(weights, temperature=temperature, certainty=certainty)(teachers)
    for i in range(B):
        p = [truth.softmax([x / temperature for x in teacher[i].tolist()]) for teacher in teachers]
        w = [weight * math.exp(-certainty * entropy(q)) for weight, q in zip(weights or [1.0] * 3, p, strict=True)]
        expected = [sum(w[k] * p[k][v] for k in range(3)) / sum(w) for v in range(V)]
        assert (mixed[i] / temperature).softmax(-1).tolist() == pytest.approx(expected, rel=1e-9)


def test_mean_of_logits_is_the_geometric_mean() -> None:
    mixed = MeanOfTeachers([1, 2, 1], of="logits")(teachers)
    torch.testing.assert_close(mixed, 0.25 * teachers[0] + 0.5 * teachers[1] + 0.25 * teachers[2])
    assert not torch.allclose(mixed.softmax(-1), MeanOfTeachers([1, 2, 1])(teachers).softmax(-1))


def test_mean_in_a_loss_of_the_same_temperature_is_the_divergence_from_the_mixture() -> None:
    temperature = 3.0
    p = torch.stack([(teacher / temperature).softmax(-1) for teacher in teachers]).mean(0)
    expected = temperature**2 * (p * (p.log() - (student / temperature).log_softmax(-1))).sum(-1)
    mixed = MeanOfTeachers(temperature=temperature)(teachers)
    torch.testing.assert_close(KLDivergence(temperature)(student, mixed), expected)


def test_one_teacher_alone_is_that_teacher() -> None:
    torch.testing.assert_close(MeanOfTeachers()(teachers[:1]), teachers[0].log_softmax(-1))
    torch.testing.assert_close(MeanOfTeachers([0, 1, 0])(teachers), teachers[1].log_softmax(-1))


def test_the_surer_teacher_counts_more() -> None:
    sure, unsure = torch.tensor([[9.0, 0.0]]), torch.tensor([[0.0, 0.1]])
    shares = [MeanOfTeachers(certainty=c)([sure, unsure]).softmax(-1)[0, 0].item() for c in (0.0, 1.0, 100.0)]
    assert shares[0] == pytest.approx(0.74, abs=0.01) and shares[0] < shares[1] < shares[2] and shares[2] > 0.999


def test_a_class_that_no_teacher_allows_stays_impossible() -> None:
    masked = [teacher.index_fill(1, torch.tensor([2]), -torch.inf) for teacher in teachers]
    assert MeanOfTeachers()(masked)[:, 2].eq(-torch.inf).all()
    assert MeanOfTeachers([0, 1, 1], of="logits")(masked)[:, 2].eq(-torch.inf).all()
    one = MeanOfTeachers()([masked[0], *teachers[1:]]).softmax(-1)
    torch.testing.assert_close(one[:, 2], (teachers[1].softmax(-1) + teachers[2].softmax(-1))[:, 2] / 3)


@pytest.mark.parametrize("weights", [[1, 1], [-1, 1, 1], [0, 0, 0]])
def test_mean_refuses_weights_that_mean_nothing(weights: list[float]) -> None:
    with pytest.raises(RecipeError, match="needs 3 weights of at least 0, not all zero"):
        MeanOfTeachers(weights)(teachers)


@pytest.mark.parametrize("mixer", [MeanOfTeachers(), Gate()])
def test_teachers_must_be_alike(mixer: Mixer) -> None:
    given: dict[str, Any] = {"input": normal(B, 4)} if isinstance(mixer, Gate) else {}
    for bad in ([teachers[0], teachers[1][:, :4]], []):
        with pytest.raises(GraphError, match="teachers must have one shape"):
            mixer(bad, **given)


# -- the label --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_label_mix_is_the_sum(alpha: float, temperature: float) -> None:
    mixed = (LabelMix(alpha, temperature)(teachers[0], label) / temperature).exp()
    for i in range(B):
        p = truth.softmax([x / temperature for x in teachers[0][i].tolist()])
        expected = [(1 - alpha) * p[v] + alpha * (v == int(label[i])) for v in range(V)]
        assert mixed[i].tolist() == pytest.approx(expected, rel=1e-9)


def test_label_mix_runs_from_teacher_to_label() -> None:
    loss = KLDivergence()
    torch.testing.assert_close(loss(student, LabelMix(0.0)(teachers[0], label)), loss(student, teachers[0]))
    torch.testing.assert_close(loss(student, LabelMix(1.0)(teachers[0], label)), CrossEntropy()(student, label))
    leaf = student.clone().requires_grad_()
    loss(leaf, LabelMix(1.0)(teachers[0], label)).sum().backward()
    torch.testing.assert_close(leaf.grad, student.softmax(-1) - F.one_hot(label, V))


def test_a_share_of_its_own_for_each_sample_or_token() -> None:
    share = torch.linspace(0, 1, B, dtype=torch.float64)
    mixed = LabelMix()(teachers[0], label, share)
    for i in range(B):
        torch.testing.assert_close(mixed[i], LabelMix(share[i].item())(teachers[0][i : i + 1], label[i : i + 1])[0])
    tokens, labels = torch.stack(teachers, 1), label.unsqueeze(1).expand(B, 3)
    torch.testing.assert_close(LabelMix()(tokens, labels, share)[:, 0], mixed)
    each = share.unsqueeze(1) * torch.tensor([1.0, 0.5, 0.0])
    torch.testing.assert_close(LabelMix()(tokens, labels, each)[:, 1], LabelMix()(teachers[1], label, share / 2))
    with pytest.raises(GraphError, match="share"):
        LabelMix()(teachers[0], label, share[:3])
    mixer = LabelMix()
    mixer.alpha = 1.5
    with pytest.raises(RecipeError, match="alpha must be from 0 to 1"):
        mixer(teachers[0], label)


def test_where_there_is_no_label_the_teacher_stays() -> None:
    labels = label.clone()
    labels[1] = -100
    mixed = LabelMix(0.7)(teachers[0], labels)
    torch.testing.assert_close(mixed[1], teachers[0][1].log_softmax(-1))
    assert not torch.allclose(mixed[0], teachers[0][0].log_softmax(-1))


# -- interpolation that moves -----------------------------------------------------------------------------------


def test_taid_mixes_logits_and_stops_the_student() -> None:
    mixer = TemporalInterpolation(start=0.25)
    leaf = student.clone().requires_grad_()
    target = mixer(leaf, teachers[0])
    torch.testing.assert_close(target, 0.75 * student + 0.25 * teachers[0])
    assert not target.requires_grad


def test_taid_with_a_teacher_equal_to_the_student_has_no_gradient() -> None:
    leaf = student.clone().requires_grad_()
    KLDivergence()(leaf, TemporalInterpolation()(leaf, leaf.detach())).sum().backward()
    assert leaf.grad is not None and leaf.grad.abs().max() < 1e-12


def test_taid_at_its_ends_is_student_and_teacher_even_at_minus_infinity() -> None:
    masked = [logits.index_fill(1, torch.tensor([2]), -torch.inf) for logits in (student, teachers[0])]
    assert torch.equal(TemporalInterpolation(0.0, 0.0)(*masked), masked[0])
    assert torch.equal(TemporalInterpolation(1.0, 1.0)(*masked), masked[1])
    assert TemporalInterpolation()(*masked)[:, 2].eq(-torch.inf).all()


def slow(students: Tensor, teacher: Tensor, start: float, end: float, alpha: float, beta: float) -> list[float]:
    """The share of the teacher after each step, in plain numbers."""
    t, m, before, shares = start, 0.0, None, []
    for step, now in enumerate(students, 1):
        loss = 0.0
        for s, p in zip(now.tolist(), teacher.tolist(), strict=True):
            target = truth.softmax([(1 - t) * a + t * b for a, b in zip(s, p, strict=True)])
            loss -= sum(x * math.log(q) for x, q in zip(target, truth.softmax(s), strict=True)) / len(students[0])
        if before is not None:
            m = beta * m + (1 - beta) * (before - loss) / before
            line = start + (end - start) * step / len(students)
            t = min(end, max(line, t + alpha / (1 + math.exp(-m)) * (1 - t)))
        before = loss
        shares.append(t)
    return shares


@pytest.mark.parametrize(("start", "end", "alpha"), [(0.4, 1.0, 5e-4), (0.1, 0.9, 0.5), (0.3, 1.0, 0.0)])
def test_taid_moves_as_the_paper_says(start: float, end: float, alpha: float) -> None:
    mixer = TemporalInterpolation(start, end, alpha).double()
    students = torch.stack([student + k * 0.1 * (teachers[0] - student) for k in range(10)])
    shares = []
    for step, now in enumerate(students, 1):
        mixer.update(now, teachers[0], step, len(students))
        shares.append(mixer.t.item())
    assert shares == pytest.approx(slow(students, teachers[0], start, end, alpha, 0.99), rel=1e-6)
    assert shares == sorted(shares) and shares[-1] == pytest.approx(end, rel=1e-7) and shares[-1] <= end + 1e-7


def test_taid_ignores_what_the_mask_hides_and_what_is_not_finite() -> None:
    mask = torch.tensor([1, 1, 1, 0, 0])
    one, other = TemporalInterpolation(alpha=0.5).double(), TemporalInterpolation(alpha=0.5).double()
    for step, shift in enumerate((0.0, 0.3, 0.6), 1):
        one.update(student * (1 + shift), teachers[0], step, 10, mask)
        other.update(student[:3] * (1 + shift), teachers[0][:3], step, 10)
    assert one.t.item() == pytest.approx(other.t.item(), rel=1e-12) and one.momentum != 0
    before = {name: value.clone() for name, value in one.state_dict().items()}
    one.update(student * torch.nan, teachers[0], 4, 10)
    assert all(torch.equal(value, before[name]) for name, value in one.state_dict().items())


def test_taid_agrees_with_its_authors() -> None:
    names = {"t_start": "start", "t_end": "end"}
    for options, inputs, output, gradients in cases("taid"):
        mixer = TemporalInterpolation(**{names.get(name, name): value for name, value in options.items()}).double()
        mixer.t.fill_(mixer.start)  # as a float64, not as the float32 that it was
        leaf, teacher, mask = inputs["student"].requires_grad_(), inputs["teacher"], inputs["mask"]
        losses = []
        for step, (now, of, counts) in enumerate(zip(leaf, teacher, mask, strict=True)):
            target = mixer(now, of)
            divergence = (KLDivergence()(now, target) * counts).sum() / counts.sum()
            p = target.softmax(-1)
            surplus = (torch.special.entr(p).sum(-1) * counts).sum() / counts.sum()  # cross-entropy, not divergence
            losses.append(divergence + surplus)
            mixer.update(now.detach(), of, step, 8, counts)  # their step counts from 0
            found = torch.stack([losses[-1].detach(), mixer.t, mixer.momentum])
            torch.testing.assert_close(found, output[step], rtol=1e-9, atol=1e-12)
        torch.stack(losses).sum().backward()
        torch.testing.assert_close(leaf.grad, gradients["student"], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("start", "end"), [(0.8, 0.4), (-0.1, 1.0), (0.4, 1.1)])
def test_taid_refuses_ends_that_are_none(start: float, end: float) -> None:
    with pytest.raises(RecipeError, match="needs 0 <= start <= end <= 1"):
        TemporalInterpolation(start, end)


# -- a gate -----------------------------------------------------------------------------------------------------


def gate(**options: Any) -> Gate:
    torch.manual_seed(0)
    made = Gate(**options)
    made.setup(teachers=[teacher.shape for teacher in teachers], input=torch.Size([B, 4]))
    return made.double()


@pytest.mark.parametrize("hidden", [0, 8])
def test_a_gate_begins_as_the_mean(hidden: int) -> None:
    made = gate(hidden=hidden, temperature=2.0)
    torch.testing.assert_close(made(teachers, normal(B, 4)), MeanOfTeachers(temperature=2.0)(teachers))


def test_a_gate_finds_which_teacher_to_trust() -> None:
    """Each teacher is right on one half of the inputs, which the gate can tell apart."""
    generator = torch.Generator().manual_seed(0)
    given = torch.randn(64, 2, generator=generator, dtype=torch.float64)
    half, labels = given[:, 0] > 0, torch.randint(V, (64,), generator=generator)
    right, wrong = 4.0 * F.one_hot(labels, V).double(), 4.0 * F.one_hot((labels + 1) % V, V).double()
    pair = [torch.where(half.unsqueeze(1), right, wrong), torch.where(half.unsqueeze(1), wrong, right)]
    torch.manual_seed(0)
    made = Gate(hidden=8)
    made.setup(teachers=[t.shape for t in pair], input=given.shape)
    made.double()
    optimizer = torch.optim.Adam(made.parameters(), lr=0.05)
    for _ in range(60):
        optimizer.zero_grad()
        CrossEntropy()(made(pair, given), labels).mean().backward()
        optimizer.step()
    shares = made.shares(given)
    assert torch.where(half, shares[:, 0], shares[:, 1]).mean() > 0.9
    assert (made(pair, given).argmax(-1) == labels).double().mean() > 0.95 > (0.5 + 0.4)


def test_the_gradient_of_a_gate_is_right() -> None:
    made = gate(hidden=0)
    torch.nn.init.normal_(made.layers[-1].weight, generator=torch.Generator().manual_seed(1))
    given = normal(B, 4).requires_grad_()
    own = [teacher.clone().requires_grad_() for teacher in teachers]
    assert torch.autograd.gradcheck(lambda x, *t: made(list(t), x), (given, *own))
    masked = [teacher.index_fill(1, torch.tensor([2]), -torch.inf) for teacher in teachers]
    KLDivergence()(student, made(masked, given)).sum().backward()
    assert given.grad is not None and given.grad.isfinite().all()


def test_a_gate_must_be_set_up_for_inputs_that_fit() -> None:
    with pytest.raises(GraphError, match="has no layers yet"):
        Gate()(teachers, normal(B, 4))
    with pytest.raises(GraphError, match="has not one vector for each row"):
        Gate().setup(teachers=[torch.Size([B, 3, V])], input=torch.Size([B, 4]))


# -- all of them ------------------------------------------------------------------------------------------------

MIXERS = {
    "mean": lambda rows: MeanOfTeachers(certainty=1.0)([t[rows] for t in teachers]),
    "label_mix": lambda rows: LabelMix()(teachers[0][rows], label[rows]),
    "taid": lambda rows: TemporalInterpolation()(student[rows], teachers[0][rows]),
    "gate": lambda rows: gate()([t[rows] for t in teachers], normal(B, 4)[rows]),
}


@pytest.mark.parametrize("name", MIXERS)
def test_samples_stand_apart_and_a_batch_may_be_empty(name: str) -> None:
    mix = MIXERS[name]
    whole = mix(torch.arange(B))
    order = torch.tensor([3, 0, 4, 1, 2])
    torch.testing.assert_close(mix(order), whole[order])
    torch.testing.assert_close(mix(torch.tensor([2])), whole[2:3])
    assert mix(torch.arange(0)).shape == (0, V)


@pytest.mark.parametrize("name", ["mean", "label_mix", "taid"])
def test_half_precision_is_widened(name: str) -> None:
    half = {
        "mean": lambda: MeanOfTeachers()([t.half() for t in teachers]),
        "label_mix": lambda: LabelMix()((1e4 * teachers[0]).half(), label),
        "taid": lambda: TemporalInterpolation()(student.half(), (1e4 * teachers[0]).half()),
    }[name]()
    assert half.dtype == torch.float32 and not half.isnan().any()
