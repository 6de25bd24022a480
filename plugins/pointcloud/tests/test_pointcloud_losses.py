"""Losses beside slow ones in double precision, with gradients, and with their own idea switched off."""

import math

import pytest
import torch
from mmkd_pointcloud.local_graph import LocalGraph
from mmkd_pointcloud.orthogonality import Orthogonality
from mmkd_pointcloud.part_distill import PartDistill, rarity
from mmkd_pointcloud.part_iou import PartIoU
from mmkd_pointcloud.view_cross_entropy import ViewCrossEntropy

from mmkd.errors import DataError, GraphError, RecipeError


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def seen(*shape, seed=5):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) < 0.6


def local_graph(student=6, teacher=8, **options):
    torch.manual_seed(0)
    loss = LocalGraph(**{"points": 5, "k": 3, "channels": 4, "temperature": 0.5, **options})
    loss.setup(student=torch.Size((2, 10, student)), teacher=torch.Size((2, 10, teacher)))
    loss.double()
    for conv in (loss.student, loss.teacher):
        torch.nn.init.normal_(conv.scale, 1.0, 0.2)
        torch.nn.init.normal_(conv.shift, 0.0, 0.2)
    return loss


def local_graph_by_hand(loss, student, teacher, importance=None):
    rank = importance if importance is not None else torch.stack([t.max(-1).values for t in teacher])
    graphs, weights = {"student": [], "teacher": []}, []
    for b in range(len(student)):
        top = sorted(range(student.shape[1]), key=lambda n: -float(rank[b, n]))[: loss.points]
        exp = [math.exp(float(rank[b, n]) / loss.temperature) for n in top]
        weights.append([e / sum(exp) for e in exp] if loss.reweight else [1 / len(top)] * len(top))
        for n in top:
            near = sorted(range(student.shape[1]), key=lambda j: float((teacher[b, j] - teacher[b, n]).norm()))[
                : loss.k
            ]
            for name, z in (("student", student), ("teacher", teacher)):
                conv = getattr(loss, name)
                graphs[name] += [conv.linear.weight @ torch.cat([z[b, j], z[b, n]]) for j in near]
    turned = {}
    for name, rows in graphs.items():
        conv, edges = getattr(loss, name), torch.stack(rows)
        mean, var = edges.mean(0), edges.var(0, unbiased=False)
        turned[name] = (conv.scale * (edges - mean) / (var + 1e-5).sqrt() + conv.shift).clamp(min=0)
    apart = (turned["student"] - turned["teacher"]).square().view(len(student), -1, loss.k, loss.channels).mean((2, 3))
    return (apart * torch.tensor(weights, dtype=torch.float64)).sum(1)


@pytest.mark.parametrize("reweight", [True, False])
@pytest.mark.parametrize("given", [True, False])
def test_local_graph_beside_a_loop(reweight, given):
    loss, student, teacher = local_graph(reweight=reweight), draw(2, 10, 6), draw(2, 10, 8, seed=1)
    importance = draw(2, 10, seed=2) if given else None
    torch.testing.assert_close(
        loss(student, teacher, importance), local_graph_by_hand(loss, student, teacher, importance)
    )


def test_local_graph_gradients():
    loss, teacher = local_graph(), draw(2, 10, 8, seed=1)
    assert torch.autograd.gradcheck(lambda s: loss(s, teacher), draw(2, 10, 6).requires_grad_(), atol=1e-6)


def test_local_graph_without_its_idea_is_a_plain_distance_of_features():
    """All points, no neighbours, no weights."""
    loss, student, teacher = local_graph(points=10, k=1, reweight=False), draw(2, 10, 6), draw(2, 10, 8, seed=1)
    features = {}
    for name, z in (("student", student), ("teacher", teacher)):
        conv = getattr(loss, name)
        rows = torch.cat([z, z], -1).flatten(0, 1) @ conv.linear.weight.T
        rows = (rows - rows.mean(0)) / (rows.var(0, unbiased=False) + 1e-5).sqrt()
        features[name] = (conv.scale * rows + conv.shift).relu().view(2, 10, -1)
    torch.testing.assert_close(
        loss(student, teacher), (features["student"] - features["teacher"]).square().mean((1, 2))
    )


def test_local_graph_weighs_the_important_points_alone_as_the_temperature_falls():
    cold, student, teacher = local_graph(temperature=1e-4), draw(2, 10, 6), draw(2, 10, 8, seed=1)
    top = teacher.amax(-1).argmax(1)
    changed = student.clone().requires_grad_()
    cold(changed, teacher).sum().backward()
    one = local_graph(points=5, reweight=False)
    plain = student.clone().requires_grad_()
    one(plain, teacher).sum().backward()
    share = [g.abs().sum(-1)[torch.arange(2), top].sum() / g.abs().sum() for g in (changed.grad, plain.grad)]
    assert share[0] > share[1]


def test_local_graph_reads_the_same_points_of_both_networks():
    loss, student, teacher = local_graph(), draw(2, 10, 6), draw(2, 10, 8, seed=1)
    order = torch.randperm(10, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(loss(student[:, order], teacher[:, order]), loss(student, teacher))
    assert not torch.allclose(loss(student[:, order], teacher), loss(student, teacher))


def test_local_graph_says_what_does_not_fit():
    with pytest.raises(RecipeError, match="has no convolutions yet"):
        LocalGraph()(draw(2, 10, 6), draw(2, 10, 8))
    with pytest.raises(GraphError, match="of the same points"):
        local_graph()(draw(2, 9, 6), draw(2, 10, 8))
    with pytest.raises(GraphError, match=r"importance is \[2, 9\] for \[2, 10\] points"):
        local_graph()(draw(2, 10, 6), draw(2, 10, 8), draw(2, 9))


def part_distill_by_hand(student, teacher, visible, knowledge=None, balance=True):
    batch, views, points, parts = teacher.shape
    told = [int(part) for part, seen in zip(teacher.argmax(-1).flatten(), visible.flatten(), strict=True) if seen]
    mean = len(told) / len(set(told)) if told else 0
    rare = {part: min(max(1 + math.log(mean / told.count(part), 4), 1), 4) for part in set(told)}
    loss = torch.zeros(batch, points, dtype=torch.float64)
    for b in range(batch):
        units = []  # (part, points, scores)
        for v in range(views):
            p = teacher[b, v].softmax(-1)
            for part in range(parts):
                inside = [n for n in range(points) if visible[b, v, n] and int(p[n].argmax()) == part]
                if not inside:
                    continue
                scores = {n: float(p[n].max()) for n in inside}
                if knowledge is not None:
                    agreed = sum(int(knowledge[b, n].argmax()) == part for n in inside) / len(inside)
                    scores = dict.fromkeys(inside, agreed)
                units.append((part, scores))
        for n in range(points):
            over = [(part, scores[n]) for part, scores in units if n in scores]
            for part, score in over:
                weight = score * (rare[part] if balance else 1)
                loss[b, n] = loss[b, n] - weight * student[b, n].log_softmax(-1)[part] / len(over)
    return loss


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("balance", [False, True])
def test_part_distill_beside_a_loop(backward, balance):
    student, teacher, visible = draw(2, 7, 3), 2 * draw(2, 4, 7, 3, seed=1), seen(2, 4, 7)
    teacher[..., 0] += 2
    knowledge = draw(2, 7, 3, seed=2) if backward else None
    found = PartDistill(balance)(student, teacher, visible, knowledge)
    by_hand = part_distill_by_hand(student, teacher, visible, knowledge, balance)
    torch.testing.assert_close(found, by_hand, atol=1e-6, rtol=1e-6)
    assert balance == (not torch.allclose(found, part_distill_by_hand(student, teacher, visible, knowledge, False)))


def test_a_rare_part_weighs_more_up_to_four_times():
    said = torch.tensor([0] * 40 + [1] * 9 + [2]).view(1, 1, 50)
    everywhere = torch.ones_like(said, dtype=torch.bool)
    found = rarity(said, everywhere, 4)
    mean = 50 / 3
    wanted = [1.0, 1 + math.log(mean / 9, 4), 1 + math.log(mean, 4), 4.0]
    torch.testing.assert_close(found, torch.tensor(wanted, dtype=torch.float64))
    assert rarity(said.expand(64, 1, 50) * 0, everywhere.expand(64, 1, 50), 4).tolist() == [1.0, 4.0, 4.0, 4.0]
    assert rarity(said, ~everywhere, 4).tolist() == [4.0] * 4
    most = torch.zeros(1, 1, 5000, dtype=torch.long)
    most[..., 0] = 1
    assert rarity(most, torch.ones_like(most, dtype=torch.bool), 2)[1] == 4


def test_part_distill_gradients():
    teacher, visible = draw(2, 3, 5, 3, seed=1), seen(2, 3, 5)
    for knowledge in (None, draw(2, 5, 3, seed=2)):
        assert torch.autograd.gradcheck(
            lambda s, k=knowledge: PartDistill()(s, teacher, visible, k), draw(2, 5, 3).requires_grad_(), atol=1e-6
        )


def test_part_distill_without_its_idea_is_cross_entropy():
    """One view that sees all and is sure, or a student that agrees with all of it: nothing is masked or rescored."""
    student, label = draw(2, 7, 3), torch.randint(0, 3, (2, 7), generator=torch.Generator().manual_seed(0))
    sure = 60 * torch.nn.functional.one_hot(label, 3).double()
    plain = torch.nn.functional.cross_entropy(student.flatten(0, 1), label.flatten(), reduction="none").view(2, 7)
    everywhere = torch.ones(2, 1, 7, dtype=torch.bool)
    loss = PartDistill(balance=False)
    torch.testing.assert_close(loss(student, sure[:, None], everywhere), plain)
    torch.testing.assert_close(loss(student, draw(2, 1, 7, 3) * 0 + sure[:, None] / 60, everywhere, sure), plain)


def test_what_the_student_denies_weighs_nothing_and_what_no_view_sees_costs_nothing():
    student, visible = draw(1, 4, 2), torch.ones(1, 1, 4, dtype=torch.bool)
    says_zero = torch.tensor([5.0, 0.0]).expand(1, 1, 4, 2).double()
    denies = torch.tensor([0.0, 5.0]).expand(1, 4, 2).double()
    assert not PartDistill()(student, says_zero, visible, denies).any()
    half = denies.clone()
    half[0, :2] = half[0, :2].flip(-1)
    agreed = PartDistill()(student, says_zero, visible, half)
    torch.testing.assert_close(agreed, -0.5 * student.log_softmax(-1)[..., 0])
    visible[0, 0, 1] = False
    assert PartDistill()(student, says_zero, visible)[0, 1] == 0


def test_a_units_score_is_that_of_its_own_view():
    """The same part in two views is two units."""
    teacher = torch.tensor([5.0, 0.0]).expand(1, 2, 4, 2).double()
    visible = torch.tensor([[[True, True, False, False], [False, False, True, True]]])
    known = torch.tensor([[[5.0, 0.0], [5.0, 0.0], [0.0, 5.0], [0.0, 5.0]]]).double()
    student = draw(1, 4, 2)
    found = PartDistill()(student, teacher, visible, known)
    assert not found[0, 2:].any()
    torch.testing.assert_close(found[0, :2], -student.log_softmax(-1)[0, :2, 0])


def test_part_distill_says_what_does_not_fit():
    with pytest.raises(GraphError, match="needs student"):
        PartDistill()(draw(2, 7, 3), draw(2, 4, 6, 3), seen(2, 4, 7))
    with pytest.raises(GraphError, match=r"knowledge \[2, 6, 3\]"):
        PartDistill()(draw(2, 7, 3), draw(2, 4, 7, 3), seen(2, 4, 7), draw(2, 6, 3))


def test_view_cross_entropy_beside_a_loop_and_gradients():
    student, visible = draw(2, 3, 5, 4), seen(2, 3, 5)
    label = torch.randint(0, 4, (2, 5), generator=torch.Generator().manual_seed(0))
    found = ViewCrossEntropy()(student, label, visible)
    for b in range(2):
        terms = [-student[b, v, n].log_softmax(-1)[label[b, n]] for v in range(3) for n in range(5) if visible[b, v, n]]
        torch.testing.assert_close(found[b], sum(terms) / len(terms))
    assert torch.autograd.gradcheck(lambda s: ViewCrossEntropy()(s, label, visible), student.requires_grad_())
    assert not ViewCrossEntropy()(student, label, torch.zeros_like(visible)).any()
    with pytest.raises(GraphError, match="needs student"):
        ViewCrossEntropy()(student[:, 0], label, visible)


def test_orthogonality_beside_a_loop_and_gradients():
    matrix = draw(2, 3, 3)
    for b in range(2):
        wanted = sum(
            (float(i == j) - sum(matrix[b, i, k] * matrix[b, j, k] for k in range(3))) ** 2
            for i in range(3) for j in range(3)
        )  # fmt: skip
        torch.testing.assert_close(Orthogonality()(matrix)[b], wanted)
    assert torch.autograd.gradcheck(Orthogonality(), matrix.requires_grad_())
    with pytest.raises(GraphError, match="no square matrix"):
        Orthogonality()(draw(2, 3, 4))


def iou_by_hand(logits, part, family, restrict):
    scores = []
    for b in range(len(part)):
        own = sorted({int(p) for s in range(len(part)) if family[s] == family[b] for p in part[s]})
        told = [
            max(own if restrict else range(logits.shape[-1]), key=lambda c, n=n: float(logits[b, n, c]))
            for n in range(part.shape[1])
        ]
        each = []
        for p in own:
            both = sum(t == p and int(q) == p for t, q in zip(told, part[b], strict=True))
            either = sum(t == p or int(q) == p for t, q in zip(told, part[b], strict=True))
            each.append(both / either if either else 1.0)
        scores.append(sum(each) / len(each))
    families = sorted({int(f) for f in family})
    means = [sum(s for s, f in zip(scores, family, strict=True) if f == g) / sum(family == g) for g in families]
    return sum(scores) / len(scores), float(sum(means) / len(means))


@pytest.mark.parametrize("restrict", [True, False])
def test_part_iou_beside_a_loop(restrict):
    logits, family = draw(6, 9, 5), torch.tensor([0, 0, 1, 2, 2, 2])
    part = torch.randint(0, 4, (6, 9), generator=torch.Generator().manual_seed(3)).clamp(max=family[:, None] + 1)
    metric = PartIoU(restrict)
    metric(logits[:4], part[:4], family[:4])
    metric(logits[4:], part[4:], family[4:])
    scores = metric.compute()
    instance, mean = iou_by_hand(logits, part, family, restrict)
    assert scores["instance_miou"] == pytest.approx(instance) and scores["family_miou"] == pytest.approx(mean)
    perfect = PartIoU(restrict)
    perfect(torch.nn.functional.one_hot(part, 5).double(), part, family)
    assert perfect.compute() == {"instance_miou": 1.0, "family_miou": 1.0, "accuracy": 1.0}
    with pytest.raises(GraphError, match="needs student"):
        metric(logits, part[:, :4], family)
    with pytest.raises(DataError):
        PartIoU().compute()
