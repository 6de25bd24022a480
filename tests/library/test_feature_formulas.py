"""Each feature, attention and hint loss against its slow truth, and what its paper promises of it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmkd.errors import GraphError, RecipeError
from mmkd.library.losses.activation import ActivationBoundary, MarginL2, negative_mean
from mmkd.library.losses.attention import AttentionAlignment, AttentionKL, CrossAttentionKL
from mmkd.library.losses.attention_transfer import AttentionTransfer
from mmkd.library.losses.cross_entropy import CrossEntropy
from mmkd.library.losses.cwd import ChannelwiseKL
from mmkd.library.losses.factor_transfer import FactorTransfer
from mmkd.library.losses.fsp import SolutionFlow
from mmkd.library.losses.hard_label import HardLabel
from mmkd.library.losses.mgd import MaskedGeneration
from mmkd.library.losses.minilm import RelationTransfer
from mmkd.library.losses.mse import MeanSquaredError
from mmkd.library.losses.patient import PatientStates
from mmkd.library.losses.pearson_map import PearsonMap
from mmkd.library.losses.review import HierarchicalContext, KnowledgeReview
from mmkd.library.losses.vid import VariationalInformation
from tests.library import feature_oracle as oracle
from tests.library.test_feature_losses import normal


def close(value: Tensor, expected: list[float]) -> None:
    assert value.tolist() == pytest.approx(expected, rel=1e-9, abs=1e-11)


@pytest.mark.parametrize("power", [1.0, 2.0, 4.0])
def test_attention_transfer(power: float) -> None:
    student, teacher = normal(3, 4, 2, 2), normal(3, 5, 4, 4, seed=1)
    loss = AttentionTransfer(power)
    value = loss(student, teacher)
    close(value, [oracle.at(s, t, power) for s, t in zip(student.tolist(), teacher.tolist(), strict=True)])
    turned = student[:, torch.randperm(4, generator=torch.Generator().manual_seed(0))] * -3e4
    torch.testing.assert_close(loss(turned, teacher), value)
    assert value.max() <= 2


def test_variational_information() -> None:
    student, teacher = normal(4, 3), normal(4, 3, seed=1)
    loss = VariationalInformation(variance=2.0, floor=0.1)
    loss.setup(student.shape, teacher.shape)
    assert loss.double().raw is not None
    torch.testing.assert_close(F.softplus(loss.raw.detach()) + 0.1, torch.full((3,), 2.0).double())
    loss.raw.data.copy_(normal(3, seed=2))
    variance = (F.softplus(loss.raw) + 0.1).tolist()
    rows = zip(student.tolist(), teacher.tolist(), strict=True)
    close(loss(student, teacher), [oracle.vid(s, t, variance) for s, t in rows])

    unit = VariationalInformation(variance=1.0)
    unit.setup(student.shape, teacher.shape)
    torch.testing.assert_close(2 * unit.double()(student, teacher), MeanSquaredError()(student, teacher))
    with pytest.raises(RecipeError, match="variance less the floor"):
        VariationalInformation(variance=0.1, floor=0.1)


def test_variance_learns_which_channels_cannot_be_predicted() -> None:
    error = normal(1000, 2) * torch.tensor([0.1, 2.0])
    loss = VariationalInformation()
    loss.setup(error.shape, error.shape)
    optimizer = torch.optim.Adam(loss.parameters(), lr=0.1)
    for _ in range(150):
        optimizer.zero_grad()
        loss.double()(torch.zeros_like(error), error).mean().backward()
        optimizer.step()
    assert loss.raw is not None
    assert (F.softplus(loss.raw) + loss.floor).tolist() == pytest.approx(error.square().mean(0).tolist(), rel=0.05)


def test_solution_flow() -> None:
    student = [normal(2, 3, 4, 4), normal(2, 2, 2, 2, seed=1)]
    teacher = [normal(2, 3, 4, 4, seed=2), normal(2, 2, 2, 2, seed=3)]
    rows = [([m[i].tolist() for m in student], [m[i].tolist() for m in teacher]) for i in range(2)]
    close(SolutionFlow()(student, teacher), [oracle.fsp(s, t) for s, t in rows])
    flipped = [m.flip(3) for m in student]
    torch.testing.assert_close(SolutionFlow()(flipped, teacher), SolutionFlow()(student, teacher))
    assert SolutionFlow()([student[0], -student[1]], student).min() > 0.05


def test_factor_transfer() -> None:
    student, teacher = normal(2, 3, 3, 3), normal(2, 4, 3, 3, seed=1)
    torch.manual_seed(0)
    loss = FactorTransfer(rate=0.5, reconstruction=0.3)
    loss.setup(student.shape, teacher.shape)
    loss.double()
    assert isinstance(loss.translator, nn.Sequential)

    def layers(net: nn.Sequential) -> list[tuple[list[object], list[float]]]:
        return [(m.weight.tolist(), m.bias.tolist()) for m in net if isinstance(m, nn.Conv2d)]  # type: ignore[union-attr]

    expected = []
    for s, t in zip(student.tolist(), teacher.tolist(), strict=True):
        f_s = oracle.unit(oracle.flatten(oracle.through(s, layers(loss.translator), 0.1, True)))
        factor = oracle.through(t, layers(loss.encoder), 0.1, True)
        f_t = oracle.unit(oracle.flatten(factor))
        rebuilt = oracle.flatten(oracle.through(factor, layers(loss.decoder), 0.1, True))
        error = oracle.squares(rebuilt, oracle.flatten(t)) / len(rebuilt)
        expected.append(sum(abs(a - b) for a, b in zip(f_s, f_t, strict=True)) + 0.3 * error)
    close(loss(student, teacher), expected)


def test_paraphraser_learns_from_reconstruction_alone() -> None:
    student, teacher = normal(2, 3, 4, 4).requires_grad_(), normal(2, 4, 4, 4, seed=1)
    loss = FactorTransfer(reconstruction=0.0)
    loss.setup(student.shape, teacher.shape)
    loss.double()(student, teacher).sum().backward()
    assert student.grad is not None and student.grad.abs().max() > 0
    assert all(p.grad is None or p.grad.abs().max() == 0 for p in loss.encoder.parameters())
    with pytest.raises(RecipeError, match="none of 4 channels"):
        FactorTransfer(rate=0.1).setup(student.shape, teacher.shape)


def test_activation_boundary() -> None:
    student, teacher = normal(4, 6), normal(4, 6, seed=1)
    close(
        ActivationBoundary(0.5)(student, teacher),
        [oracle.ab(s, t, 0.5) for s, t in zip(student.tolist(), teacher.tolist(), strict=True)],
    )
    loss = ActivationBoundary()
    torch.testing.assert_close(loss(student, 1e3 * teacher), loss(student, teacher))  # sizes do not matter
    assert loss(1.0 * teacher.sign(), teacher).max() == 0


def test_margin_l2() -> None:
    student, teacher = normal(3, 4, 2, 2), normal(3, 4, 2, 2, seed=1)
    scale, shift = normal(4, seed=2) + 2, normal(4, seed=3)
    margins = negative_mean(scale, shift)
    value = MarginL2()(student, teacher, scale, shift)
    close(value, [oracle.ofd(s, t, margins.tolist()) for s, t in zip(student.tolist(), teacher.tolist(), strict=True)])
    assert MarginL2()(teacher.maximum(margins[:, None, None]), teacher, scale, shift).max() == 0
    assert MarginL2()(torch.full_like(teacher, -9.0), -teacher.abs(), scale, shift).max() == 0  # partial
    with pytest.raises(GraphError, match="scale and shift"):
        MarginL2().setup(student.shape, teacher.shape, scale=scale.shape)


def test_margin_is_the_mean_of_negative_values() -> None:
    mean, deviation = torch.tensor([-1.0, 0.0, 0.8, 3.0]).double(), torch.tensor([0.5, 2.0, -1.0, 1.0]).double()
    drawn = mean + deviation * normal(400_000, 4)
    for c in range(3):
        negative = drawn[:, c][drawn[:, c] < 0].mean().item()
        assert negative_mean(deviation, mean)[c].item() == pytest.approx(negative, rel=0.02)
    odd = negative_mean(torch.tensor([0.0, 0.0, 1e-9, 1.0]), torch.tensor([2.0, -2.0, 5.0, 100.0]))
    assert odd[:2].tolist() == [0.0, -2.0]
    assert odd.isfinite().all() and odd.max() <= 0


def test_margin_is_estimated_from_what_was_seen() -> None:
    student, teacher = normal(8, 3), normal(8, 3, seed=1)
    loss = MarginL2()
    loss.setup(student.shape, teacher.shape)
    loss.double()
    plain = torch.where((student > teacher.relu()) | (teacher > 0), student - teacher.relu(), 0.0).square().mean(1)
    torch.testing.assert_close(loss(student, teacher), plain)
    for part in teacher.split(3):
        loss.update(part)
    expected = [c[c < 0].mean().item() for c in teacher.T]
    assert loss.mean_negative.tolist() == pytest.approx(expected)
    assert not torch.equal(loss(student, teacher), plain)
    assert set(loss.state_dict()) == {"mean_negative", "seen"}


def test_hierarchical_context() -> None:
    student, teacher = normal(3, 2, 4, 4), normal(3, 2, 4, 4, seed=1)
    expected = [oracle.hcl(s, t) for s, t in zip(student.tolist(), teacher.tolist(), strict=True)]
    close(HierarchicalContext()(student, teacher), expected)
    one = normal(3, 5), normal(3, 5, seed=1)
    torch.testing.assert_close(HierarchicalContext()(*one), MeanSquaredError()(*one))


def test_review_teaches_late_stages_by_early_ones() -> None:
    student = [normal(2, 3, 4, 4).requires_grad_(), normal(2, 4, 2, 2, seed=1).requires_grad_()]
    teacher = [normal(2, 5, 4, 4, seed=2), normal(2, 6, 2, 2, seed=3)]
    loss = KnowledgeReview(4)
    loss.setup([x.shape for x in student], [x.shape for x in teacher])
    loss.double()(student, teacher).sum().backward()
    reviewed = student[1].grad
    student[1].grad = None
    assert loss.fusions is not None
    with torch.no_grad():  # shut the way from the late stage to the early one
        share = loss.fusions[0].share
        assert isinstance(share, nn.Conv2d) and share.bias is not None
        share.weight.zero_()
        share.bias.copy_(torch.tensor([50.0, -50.0]))
    loss(student, teacher).sum().backward()
    alone = KnowledgeReview(4)
    alone.setup([student[1].shape], [teacher[1].shape])
    alone.double().fusions.load_state_dict(  # type: ignore[union-attr]
        {k.replace("1.", "0.", 1): v for k, v in loss.fusions.state_dict().items() if k.startswith("1.")}
    )
    (own,) = torch.autograd.grad(alone([student[1]], [teacher[1]]).sum(), student[1])
    torch.testing.assert_close(student[1].grad, own)
    assert reviewed is not None and not torch.allclose(reviewed, own, atol=1e-4)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_channelwise(temperature: float) -> None:
    student, teacher = normal(3, 4, 2, 3), normal(3, 4, 2, 3, seed=1)
    loss = ChannelwiseKL(temperature)
    value = loss(student, teacher)
    rows = zip(student.flatten(2).tolist(), teacher.flatten(2).tolist(), strict=True)
    close(value, [oracle.cwd(s, t, temperature) for s, t in rows])
    torch.testing.assert_close(loss(student + normal(3, 4, 1, 1, seed=2), teacher), value)
    torch.testing.assert_close(loss(student.flatten(2).mT, teacher.flatten(2).mT), value)


@pytest.mark.parametrize("blank", ["position", "channel"])
def test_masked_generation(blank: str) -> None:
    student, teacher = normal(2, 3, 3, 3), normal(2, 3, 3, 3, seed=1)
    loss = MaskedGeneration(0.5, blank)  # type: ignore[arg-type]
    loss.setup(student.shape, teacher.shape)
    assert isinstance(loss.double().generator, nn.Sequential)
    layers = [(m.weight.tolist(), m.bias.tolist()) for m in loss.generator if isinstance(m, nn.Conv2d)]  # type: ignore[union-attr]
    torch.manual_seed(3)
    value = loss(student, teacher)
    torch.manual_seed(3)
    keep = torch.rand(*((2, 1, 3, 3) if blank == "position" else (2, 3, 1, 1))) >= 0.5
    expected = []
    for s, t in zip((student * keep).tolist(), teacher.tolist(), strict=True):
        made = oracle.flatten(oracle.through(s, layers, 0.0, False))
        expected.append(oracle.squares(made, oracle.flatten(t)) / len(made))
    close(value, expected)
    assert not torch.equal(loss(student, teacher), value)  # drawn anew
    loss.ratio = 0.0
    assert torch.equal(loss(student, teacher), loss(student, teacher))
    with pytest.raises(GraphError, match="needs a map"):
        MaskedGeneration().setup(torch.Size([2, 3]), torch.Size([2, 3]))


def test_masked_generation_blanks_as_many_as_it_says() -> None:
    seen: list[Tensor] = []
    loss = MaskedGeneration(0.3)
    loss.setup(torch.Size([1, 2, 1, 1]), torch.Size([1, 2, 1, 1]))
    assert loss.generator is not None
    loss.generator.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    torch.manual_seed(0)
    loss(torch.ones(20, 2, 30, 30), torch.ones(20, 2, 30, 30))
    assert seen[0].mean().item() == pytest.approx(0.7, abs=0.02)
    assert torch.equal(seen[0][:, 0], seen[0][:, 1])


def test_patient_states() -> None:
    student, teacher = [normal(3, 4, 5), normal(3, 5, seed=1)], [normal(3, 4, 5, seed=2), normal(3, 5, seed=3)]
    value = PatientStates()(student, teacher)
    rows = [([student[0][i, 0].tolist(), student[1][i].tolist()], [teacher[0][i, 0].tolist(), teacher[1][i].tolist()])
            for i in range(3)]  # fmt: skip
    close(value, [oracle.patient(s, t) for s, t in rows])
    torch.testing.assert_close(PatientStates()([7 * s for s in student], teacher), value)
    cosine = sum(F.cosine_similarity(s, t) for s, t in ((student[0][:, 2], teacher[0][:, 2]), (student[1], teacher[1])))
    torch.testing.assert_close(PatientStates(token=2)(student, teacher), 2 * (2 - cosine))


def test_pearson_map() -> None:
    student, teacher = normal(3, 2, 2, 2), normal(3, 2, 2, 2, seed=1)
    value = PearsonMap()(student, teacher)
    assert value.mean().item() == pytest.approx(oracle.pearson_map(student.tolist(), teacher.tolist()), rel=1e-9)
    moved = student * torch.tensor([2.0, 9.0])[:, None, None] + torch.tensor([5.0, -1.0])[:, None, None]
    torch.testing.assert_close(PearsonMap()(1e-4 * moved, teacher), value)
    assert PearsonMap()(-teacher, teacher).mean().item() == pytest.approx(2)


def test_attention_kl() -> None:
    student, teacher = normal(2, 3, 4, 5).softmax(-1), normal(2, 3, 4, 5, seed=1).softmax(-1)
    teacher[:, :, :, 4] = 0
    teacher = teacher / teacher.sum(-1, keepdim=True)
    value = AttentionKL()(student, teacher)
    for i in range(2):
        close(value[i], oracle.attention_kl(student[i].tolist(), teacher[i].tolist()))
    torch.testing.assert_close(
        AttentionKL("mean")(student, teacher),
        AttentionKL()(student.mean(1, keepdim=True), teacher.mean(1, keepdim=True)),
    )
    impossible = student.clone()
    impossible[..., 0] = 0
    assert AttentionKL()(impossible, teacher).isfinite().all()


def test_cross_attention() -> None:
    student = [normal(2, 3, 4), normal(2, 5, 4, seed=1)]
    teacher = [normal(2, 3, 6, seed=2), normal(2, 5, 6, seed=3)]
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 0, 1, 1, 0]])
    value = CrossAttentionKL(2)(student, teacher, mask)
    for i, keys in enumerate(([0, 1, 2, 3, 4], [0, 2, 3])):
        s, t = ([x[i].tolist() for x in pair] for pair in (student, teacher))
        close(value[i], oracle.cross_attention(s, t, 2, keys))
    nothing = CrossAttentionKL(2)([x.requires_grad_() for x in student], teacher, torch.zeros(2, 5))
    assert nothing.abs().max() == 0
    nothing.sum().backward()
    assert student[0].grad is not None and student[0].grad.abs().max() == 0
    own = CrossAttentionKL(2)([student[0], student[0]], [teacher[0], teacher[0]]).mean(1)
    torch.testing.assert_close(own, RelationTransfer(2)([student[0]], [teacher[0]]))


def test_attention_alignment() -> None:
    student = [normal(2, 2, 3, 3, seed=i).softmax(-1) for i in range(2)]
    teacher = [normal(2, 3, 3, 3, seed=2).softmax(-1)]
    loss = AttentionAlignment(0.5)
    loss.setup([x.shape for x in student], [x.shape for x in teacher])
    assert loss.double().alignment is not None
    weight, bias = loss.alignment.weight.tolist(), loss.alignment.bias.tolist()
    value = loss(student, teacher)
    for i in range(2):
        rows = torch.cat(student, 1)[i].flatten(1).tolist()
        assert value[i].item() == pytest.approx(oracle.a2d(rows, teacher[0][i].flatten(1).tolist(), weight, bias, 0.5))

    short = loss([x[:, :, :2, :2] for x in student], [x[:, :, :2, :2] for x in teacher])
    torch.testing.assert_close(loss(student, teacher, torch.tensor([[1, 1, 0]] * 2)), short)
    assert loss(student, teacher, torch.zeros(2, 3)).abs().max() == 0


def test_alignment_recovers_a_permutation_of_heads() -> None:
    student = [(3 * normal(32, 2, 4, 4, seed=i)).softmax(-1) for i in range(2)]
    order = torch.tensor([2, 0, 3, 1])
    teacher = [torch.cat(student, 1)[:, order]]
    torch.manual_seed(0)
    loss = AttentionAlignment(0.1)
    loss.setup([x.shape for x in student], [x.shape for x in teacher])
    assert loss.double().alignment is not None
    optimizer = torch.optim.Adam(loss.parameters(), lr=0.05)
    before = loss(student, teacher).mean().item()
    for _ in range(150):
        optimizer.zero_grad()
        loss(student, teacher).mean().backward()
        optimizer.step()
    assert loss.alignment.weight.argmax(1).equal(order)
    assert loss(student, teacher).mean().item() < 0.01 * before


def test_hard_label() -> None:
    student, teacher = normal(4, 3, 6), normal(4, 3, 6, seed=1)
    loss = HardLabel(0.1)
    torch.testing.assert_close(loss(student, teacher), CrossEntropy(0.1)(student, teacher.argmax(-1)))
    torch.testing.assert_close(loss(student, teacher * 50), loss(student, teacher))
    assert HardLabel()(torch.tensor([[0.0, 5.0]]), torch.tensor([[1.0, 1.0]])).item() > 5  # the first of equals
