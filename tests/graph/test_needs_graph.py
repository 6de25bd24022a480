"""Losses that take derivatives themselves, of what a network says in what it saw, in a frozen one too."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import timm
import torch
import torch.nn.functional as F
from graph.nets import CLASSES, WIDTH, batch, made, mlp
from torch import Tensor, nn

import mmkd
from mmkd.errors import GraphError
from mmkd.graph.binding import bind
from mmkd.graph.node import Node
from mmkd.graph.term import Term
from mmkd.graph.training_graph import TrainingGraph
from mmkd.report.explain import explain

KD = {"use": "core.kl", "student": "student.logits", "teacher": "teacher.logits"}
WHY = {"use": "core.e2kd", "student": "student.logits", "features": "student/stage", "teacher": "teacher.logits",
       "teacher_features": "teacher/stage"}  # fmt: skip


class Net(nn.Module):
    """A convolution, BatchNorm and a head that is not linear; `late` writes into the feature map in place."""

    def __init__(self, width: int, seed: int, late: bool = False) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.stem, self.stage = nn.Conv2d(3, width, 3), nn.Conv2d(width, width, 3)
            self.norm, self.fc = nn.BatchNorm2d(width), nn.Linear(width, CLASSES)
        self.late = nn.ReLU(inplace=True) if late else nn.Softplus()

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.norm(self.late(self.stage(self.stem(image).tanh()))).square().mean((2, 3)))
        return logits


def images(dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(5)
    return {"image": torch.randn(4, 3, 8, 8, generator=generator, dtype=dtype), "label": torch.tensor([0, 1, 2, 3])}


def graph_of(losses: dict[str, Any], own: dict[str, nn.Module], example: Any = None, **recipe: Any) -> TrainingGraph:
    document = {"student": {}, "teacher": {}, "losses": losses, "train": {"steps": 10}, **recipe}
    return mmkd.build(document, nodes=own, example=example or images()).eval()


def pair(**options: Any) -> dict[str, nn.Module]:
    return {"student": Net(5, 1, **options), "teacher": Net(7, 2, **options).eval()}


def explained(net: nn.Module, image: Tensor, label: Tensor, twice: bool) -> Tensor:
    features = net.stage(net.stem(image).tanh())
    if not features.requires_grad:
        features = features.detach().requires_grad_()
    after = F.relu(features) if isinstance(net.late, nn.ReLU) else net.late(features)
    logits = net.fc(net.norm(after).square().mean((2, 3)))
    (slope,) = torch.autograd.grad(logits.gather(1, label[:, None]).sum(), features, create_graph=twice)
    return (slope.mean((2, 3), keepdim=True) * features).sum(1).relu().flatten(1)


@pytest.mark.parametrize("late", [False, True])
def test_gradients_are_those_of_the_double_backward_by_hand(late: bool) -> None:
    own, given = pair(late=late), images(torch.float64)
    for net in own.values():
        net.double()
    graph = graph_of({"why": WHY, "kd": KD}, own, given)
    loss = graph(given)["loss"]
    loss.backward()
    label = own["teacher"](given["image"]).argmax(1)
    e_t = explained(own["teacher"], given["image"], label, False).detach()
    e_s = explained(own["student"], given["image"], label, True)
    kd = graph.terms[1].loss(own["student"](given["image"]), own["teacher"](given["image"]).detach()).mean()
    expected = (1 - F.cosine_similarity(e_s, e_t)).mean() + kd
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
    parameters = list(own["student"].parameters())
    for parameter, gradient in zip(parameters, torch.autograd.grad(expected, parameters), strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-10, atol=1e-12)
    assert all(p.grad is None and not p.requires_grad for p in own["teacher"].parameters())


def test_the_graph_begins_at_the_tap_and_others_read_without() -> None:
    own = pair()
    graph = graph_of({"why": WHY, "kd": KD}, own)
    values = graph.compute(images())
    (run,) = [run for run in graph.plan.runs if run.id == "teacher"]
    assert run.graph == {"teacher.logits", "teacher/stage"} and not run.leaves
    assert values["graph(teacher/stage)"].is_leaf and values["graph(teacher/stage)"].requires_grad
    assert not values["teacher.logits"].requires_grad and not values["teacher/stage"].requires_grad
    assert values["student.logits"].requires_grad
    with torch.no_grad():
        assert torch.equal(values["teacher.logits"], own["teacher"](images()["image"]))
    assert not graph_of({"kd": KD}, own).compute(images())["teacher.logits"].requires_grad


def test_a_step_trains_the_student_and_a_loss_without_gradient_is_the_same_number() -> None:
    graph = graph_of({"why": WHY, "kd": KD}, pair())
    out = graph(images())
    with torch.no_grad():
        again = graph(images())
    torch.testing.assert_close(again["why_loss"], out["why_loss"].detach())
    assert not again["loss"].requires_grad
    before = [graph.step(images(), made(graph))["why_loss"].item() for _ in range(3)]
    assert before[-1] < before[0]
    assert graph.step([images(), images()], made(graph))["why_loss"].isfinite()


def test_statistics_and_generators_do_not_move_while_it_is_built() -> None:
    own = pair()
    states = {name: {k: v.clone() for k, v in net.state_dict().items()} for name, net in own.items()}
    drawn = torch.get_rng_state()
    graph = graph_of({"why": WHY}, own)
    assert torch.equal(torch.get_rng_state(), drawn)
    for name, net in own.items():
        assert all(torch.equal(value, states[name][key]) for key, value in net.state_dict().items())
    assert graph.train()(images())["why_loss"].isfinite()


def test_half_precision() -> None:
    own = pair()
    graph = graph_of({"why": WHY}, own, train={"steps": 2, "precision": "bf16"})
    values = graph.compute(images())
    assert values["graph(teacher/stage)"].dtype == torch.bfloat16
    half = graph(images())["loss"]
    half.backward()
    torch.testing.assert_close(half, graph_of({"why": WHY}, own)(images())["loss"], rtol=0.05, atol=0.02)
    assert own["student"].stem.weight.grad.isfinite().all()


@pytest.mark.parametrize("name", ["test_resnet", "resnet18"])
def test_a_timm_teacher(name: str) -> None:
    torch.manual_seed(0)
    own = {"student": Net(5, 1), "teacher": timm.create_model(name, pretrained=False, num_classes=CLASSES).eval()}
    given = {"image": torch.randn(4, 3, 64, 64)}
    graph = graph_of({"why": {**WHY, "teacher_features": "teacher/layer4"}, "kd": KD}, own, given)
    loss = graph(given)["why_loss"]
    loss.backward()
    teacher = own["teacher"]
    features = teacher.forward_features(given["image"]).detach()
    label = teacher(given["image"]).argmax(1)
    weight = teacher.get_classifier().weight[label]  # a mean and a linear layer follow: GradCAM in closed form
    e_t = torch.einsum("bd,bdhw->bhw", weight, features).relu()
    e_s = explained(own["student"], given["image"], label, True).unflatten(1, (60, 60))
    small = F.adaptive_avg_pool2d(e_s, e_t.shape[1:]).flatten(1)
    torch.testing.assert_close(loss, (1 - F.cosine_similarity(small, e_t.flatten(1))).mean(), rtol=1e-4, atol=1e-5)
    assert all(p.grad is None for p in teacher.parameters())


class Attention(nn.Module):
    """One layer of attention over patches, whose fast kernels have no second derivative."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(WIDTH, 8), nn.Linear(8, CLASSES)

    def forward(self, image: Tensor) -> Tensor:
        x = self.embed(image)[:, None, None] * torch.arange(1, 4)[:, None]
        logits: Tensor = self.head(F.scaled_dot_product_attention(x, x.tanh(), x)[:, 0].mean(1).tanh())
        return logits


class Slopes(mmkd.Loss):
    """Match the slope of the teacher's largest logit in a value."""

    needs_graph: ClassVar[frozenset[str]] = frozenset({"student", "inside", "teacher", "there"})

    def forward(self, student: Tensor, inside: Tensor, teacher: Tensor, there: Tensor) -> Tensor:
        own, target = slope(student, inside, True), slope(teacher, there, False)
        return (own - target).square().flatten(1).mean(1)


def slope(output: Tensor, inside: Tensor, twice: bool) -> Tensor:
    return torch.autograd.grad(output.max(1).values.sum(), inside, create_graph=twice)[0]


class Undeclared(Slopes):
    needs_graph: ClassVar[frozenset[str]] = frozenset()


def own_loss(loss: mmkd.Loss, nets: dict[str, nn.Module], **ports: str) -> TrainingGraph:
    """A graph of a loss that no plugin has."""
    nodes = {name: Node(name, mmkd.wrap(net), name == "student") for name, net in nets.items()}
    written = {"student": "student.logits", "inside": "student/0.input", "teacher": "teacher.logits",
               "there": "teacher/0.input", **ports}  # fmt: skip
    return TrainingGraph(nodes, terms=[Term(bind("slopes", loss, written, "losses.slopes"))])


def test_derivatives_in_the_inputs_of_networks() -> None:
    nets = {"student": mlp(WIDTH, 8, CLASSES), "teacher": mlp(WIDTH, 8, CLASSES, seed=1)}
    graph = own_loss(Slopes(), nets).setup(batch())
    loss = graph(batch())["loss"]
    image = batch()["image"].requires_grad_()
    own, target = slope(nets["student"](image), image, True), slope(nets["teacher"](image), image, False)
    expected = (own - target).square().mean()
    torch.testing.assert_close(loss, expected)
    loss.backward()
    (wanted,) = torch.autograd.grad(expected, nets["student"][0].weight)
    torch.testing.assert_close(nets["student"][0].weight.grad, wanted)
    assert not batch()["image"].requires_grad


def test_attention_is_differentiated_twice() -> None:
    nets = {"student": Attention(), "teacher": Attention()}
    graph = own_loss(Slopes(), nets, inside="student/embed", there="teacher/embed").setup(batch())
    graph(batch())["loss"].backward()
    assert nets["student"].embed.weight.grad.abs().max() > 0


class Two(mmkd.Encoder):
    """Publishes two values that it locates nowhere."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.last = nn.Linear(WIDTH, 5), nn.Linear(5, CLASSES)

    def values(self) -> list[str]:
        return ["embedding", "logits"]

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        embedding = self.body(image).tanh()
        return {"embedding": embedding, "logits": self.last(embedding.square())}


def test_published_values_are_differentiated_from_the_inputs_on() -> None:
    nodes = {name: Node(name, Two(), name == "student") for name in ("student", "teacher")}
    ports = {"student": "student.logits", "inside": "student.embedding", "teacher": "teacher.logits",
             "there": "teacher.embedding"}  # fmt: skip
    graph = TrainingGraph(nodes, terms=[Term(bind("slopes", Slopes(), ports, "losses.slopes"))]).setup(batch())
    assert [run.leaves for run in graph.plan.runs] == [False, True]
    assert graph(batch())["loss"].isfinite()


class Head(mmkd.Projector):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, CLASSES)

    def forward(self, input: Tensor) -> Tensor:
        return self.layer(input.tanh())


def test_what_is_differentiated_may_come_from_a_projector() -> None:
    nets = {"student": mlp(WIDTH, 8, CLASSES), "teacher": mlp(WIDTH, 8, CLASSES, seed=1)}
    nodes = {name: Node(name, mmkd.wrap(net), name == "student") for name, net in nets.items()}
    up = bind("up", Head(), {"input": "teacher/0"}, "projectors.up")
    ports = {"student": "student.logits", "inside": "student/0", "teacher": "up", "there": "teacher/0"}
    term = Term(bind("slopes", Slopes(), ports, "losses.slopes"))
    graph = TrainingGraph(nodes, {"up": up}, [term]).setup(batch())
    hidden = nets["teacher"][0](batch()["image"]).detach().requires_grad_()
    (expected,) = torch.autograd.grad(up.module(hidden).max(1).values.sum(), hidden)
    values = graph.compute(batch())
    found = slope(values["graph(up)"], values["graph(teacher/0)"], False)
    torch.testing.assert_close(found, expected)


def test_an_undeclared_port_is_an_error_that_says_what_to_write() -> None:
    nets = {"student": mlp(WIDTH, 8, CLASSES), "teacher": mlp(WIDTH, 8, CLASSES, seed=1)}
    with pytest.raises(GraphError, match="needs_graph declares nothing") as caught:
        own_loss(Undeclared(), nets).setup(batch())
    assert caught.value.where == "losses.slopes"
    assert "needs_graph = frozenset({...})" in str(caught.value)
    with pytest.raises(GraphError, match="needs_graph declares inside, student, teacher, there"):
        own_loss(Slopes(), nets, there="student/0").setup(batch())


@pytest.mark.parametrize(
    ("port", "message"),
    [
        ("detach(teacher/0)", r"detach\(teacher/0\)' is detached, and this port is differentiated"),
        ("batch.image", "'batch.image' is a field of the batch, and this port is differentiated"),
    ],
)
def test_ports_that_cannot_have_a_graph(port: str, message: str) -> None:
    nets = {"student": mlp(WIDTH, 8, CLASSES), "teacher": mlp(WIDTH, 8, CLASSES, seed=1)}
    with pytest.raises(GraphError, match=message) as caught:
        own_loss(Slopes(), nets, there=port)
    assert caught.value.where == "losses.slopes.there"


def test_a_port_that_does_not_exist() -> None:
    class Typo(Slopes):
        needs_graph: ClassVar[frozenset[str]] = frozenset({"studnet"})

    with pytest.raises(GraphError, match="needs_graph of Typo names no port 'studnet'"):
        own_loss(Typo(), {"student": mlp(WIDTH, CLASSES), "teacher": mlp(WIDTH, CLASSES)})


def test_its_outputs_cannot_be_remembered() -> None:
    with pytest.raises(GraphError, match=r"teacher\.cache: .*is differentiated in by a loss.*cannot be remembered"):
        graph_of({"why": WHY}, pair(), teacher={"cache": "memory"})
    given = {"use": "core.e2kd_given", **{p: WHY[p] for p in ("student", "features", "teacher")},
             "explanation": "batch.map"}  # fmt: skip
    example = {**images(), "map": torch.rand(4, 4, 4)}
    graph = graph_of({"why": given}, pair(), example, teacher={"cache": "memory"})
    assert graph(example)["loss"].isfinite()
    assert not any(run.graph for run in graph.plan.runs if run.id == "teacher")


def test_explain_says_so() -> None:
    graph = graph_of({"why": WHY}, pair())
    assert "derivatives of derivatives" in graph.decided["attention"]
    assert "derivatives of derivatives" not in graph_of({"kd": KD}, pair()).decided["attention"]
    text = " ".join(explain(graph).split())
    assert text.count("graph kept for the derivatives of a loss") == 2
    assert "under no_grad" not in text


def test_on_several_ranks_one_that_is_coupled_too_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from mmkd.graph import training_graph
    from mmkd.library.losses.explanation import ExplanationMatch

    graph = graph_of({"why": WHY}, pair())
    monkeypatch.setattr(training_graph, "together", lambda: True)
    monkeypatch.setattr(ExplanationMatch, "coupled", True)
    with pytest.raises(GraphError, match=r"losses\.why: ExplanationMatch needs the whole batch and its graph"):
        graph(images())
