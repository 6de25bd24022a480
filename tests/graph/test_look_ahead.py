"""Schedules that read values and learn: against an exact oracle, and what they leave alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from graph.nets import CLASSES, KD, WIDTH, batch, build, made, mlp
from torch import Tensor, nn
from torch.func import functional_call

import mmkd
from mmkd.errors import GraphError, RecipeError
from mmkd.graph.binding import bind
from mmkd.graph.look_ahead import RandomState, gradient, moved
from mmkd.graph.node import Node
from mmkd.graph.term import Term
from mmkd.graph.training_graph import TrainingGraph
from mmkd.graph.value import parse
from mmkd.graph.weighting import Share, Weighting

GEOMETRY = {"use": "core.geometry", "student": "student.logits", "teacher": "teacher.logits"}
LABEL = {"use": "core.cross_entropy", "student": "student.logits"}
META = {"use": "core.cross_entropy", "student": "student@meta.logits", "label": "batch@meta.label", "phase": "alpha"}
LOSSES = {"kd": {**KD["kd"], "temperature": 2.0, "weight": "alpha"}, "label": {**LABEL, "weight": "1 - alpha"}}


def streams(seed: int = 1) -> dict[str, Any]:
    return {**batch(seed=seed), "@meta": batch(12, seed=seed + 100)}


def net(seed: int = 2) -> nn.Sequential:
    """Smooth, with BatchNorm and dropout."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        head = nn.Linear(8, CLASSES)
        return nn.Sequential(nn.Linear(WIDTH, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.3), head)


def learned(losses: Mapping[str, Any] | None = None, **geometry: Any) -> TrainingGraph:
    nodes = {"student": net(), "teacher": mlp(WIDTH, 16, CLASSES, seed=3)}
    return build(
        losses or {**LOSSES, "meta": META}, nodes, example=streams(), schedules={"alpha": {**GEOMETRY, **geometry}}
    )


def copies(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict(keep_vars=True).items() if name != "_extra_state"}


def stirred(graph: TrainingGraph) -> TrainingGraph:
    """As after some training: no layer of the schedule is at zero any more."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in graph.schedules.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
    return graph


# -- the gradient -----------------------------------------------------------------------------------------------


def objective(values: Mapping[str, Tensor], student: Tensor, alpha: Tensor, label: Tensor) -> Tensor:
    """By hand: the convex combination of KL at temperature 2 and cross-entropy."""
    p, q = (values["teacher.logits"] / 2).log_softmax(-1), (student / 2).log_softmax(-1)
    kl = 4 * (p.exp() * (p - q)).sum(-1)
    return (alpha * kl).mean() + ((1 - alpha) * F.cross_entropy(student, label, reduction="none")).mean()


@pytest.mark.parametrize("lr", [0.1, 2.0])
def test_gradient_equals_differentiating_through_the_step(lr: float) -> None:
    graph = stirred(learned().double())
    data = {k: v.double() if k == "image" else v for k, v in streams().items() if k != "@meta"}
    data["@meta"] = {k: v.double() if k == "image" else v for k, v in streams()["@meta"].items()}
    before = copies(graph)

    torch.manual_seed(4)
    drawn = RandomState(graph.device)
    values = graph.compute(data)
    state = torch.get_rng_state()
    out, ours = gradient(graph, graph.phases[0], data, values, lr, drawn)
    assert torch.equal(torch.get_rng_state(), state)

    network = graph.nodes["student"].network
    theta = dict(network.named_parameters())
    torch.manual_seed(4)
    student = functional_call(network, theta, (data["image"],))
    alpha = graph.weightings["alpha"].weight(values)
    inner = objective(values, student, alpha, data["label"])
    slopes = torch.autograd.grad(inner, tuple(theta.values()), create_graph=True)
    after = {name: p - lr * g for (name, p), g in zip(theta.items(), slopes, strict=True)}
    outer = F.cross_entropy(functional_call(network, after, (data["@meta"]["image"],)), data["@meta"]["label"])
    exact = torch.autograd.grad(outer, graph.phases[0].parameters)

    torch.testing.assert_close(out["meta_loss"], outer.detach(), rtol=1e-12, atol=0)
    for mine, theirs in zip(ours, exact, strict=True):
        assert (mine - theirs).norm() <= 1e-6 * theirs.norm()
        assert theirs.norm() > 0
    network.load_state_dict({k.removeprefix("nodes.student.net."): v for k, v in before.items() if "student" in k})


class PerToken(mmkd.Loss):
    """Squared distance of every class, as if classes were tokens."""

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        return (student - teacher).square()


class Scalar(mmkd.Schedule):
    """One learned number for all samples."""

    lr = 0.1

    def __init__(self) -> None:
        super().__init__()
        self.logit = nn.Parameter(torch.tensor(0.3))

    def forward(self, step: int, total: int) -> Tensor:
        return self.logit.sigmoid()


class Confidence(mmkd.Schedule):
    """The teacher's largest probability: reads values and has nothing to learn."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, int, bool]] = []

    def forward(self, step: int, total: int, teacher: Tensor) -> Tensor:
        self.seen.append((step, total, teacher.requires_grad))
        return teacher.softmax(-1).amax(-1)


def graph_of(schedule: mmkd.Schedule, lessons: bool, mask: bool = True, **ports: str) -> TrainingGraph:
    """`own` under the schedule, with a mask and factors per sample; `meta` teaches it."""
    nodes = {
        "student": Node("student", mmkd.wrap(mlp(WIDTH, 8, CLASSES, seed=2)), True),
        "teacher": Node("teacher", mmkd.wrap(mlp(WIDTH, CLASSES, seed=3)), False),
    }
    weighting = Weighting(**vars(bind("alpha", schedule, ports, "schedules.alpha")))
    own = bind("own", PerToken(), {"student": "student.logits", "teacher": "teacher.logits"}, "losses.own")
    terms = [
        Term(own, Share.parse("alpha"), *([parse("batch.mask"), parse("batch.factor")] if mask else [])),
        Term(bind("label", mmkd_loss("cross_entropy"), {"student": "student.logits"}, "losses.label")),
    ]
    if lessons:
        ports = {"student": "student@meta.logits", "label": "batch@meta.label"}
        terms.append(Term(bind("meta", mmkd_loss("cross_entropy"), ports, "losses.meta"), phase="alpha"))
    return TrainingGraph(nodes, terms=terms, schedules={"alpha": weighting}).setup(masked())


def mmkd_loss(name: str) -> mmkd.Loss:
    from mmkd.plugins import host

    loss: mmkd.Loss = host().catalogue.get("loss", f"core.{name}", where="").load()()
    return loss


def masked(seed: int = 1) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(8, CLASSES, generator=generator) > 0.4
    return {**streams(seed), "mask": mask, "factor": torch.rand(8, generator=generator)}


def test_one_number_for_all_samples_with_mask_and_factors() -> None:
    graph, data = graph_of(Scalar(), lessons=True), masked()
    values = graph.compute(data)
    _, (ours,) = gradient(graph, graph.phases[0], data, values, 0.5, RandomState(graph.device))
    network = graph.nodes["student"].network
    theta = dict(network.named_parameters())
    student = functional_call(network, theta, (data["image"],))
    alpha = graph.schedules["alpha"].logit.sigmoid()
    distance = (student - values["teacher.logits"]).square() * data["factor"][:, None]
    inner = alpha * distance[data["mask"]].mean() + F.cross_entropy(student, data["label"])
    slopes = torch.autograd.grad(inner, tuple(theta.values()), create_graph=True)
    after = {name: p - 0.5 * g for (name, p), g in zip(theta.items(), slopes, strict=True)}
    outer = F.cross_entropy(functional_call(network, after, (data["@meta"]["image"],)), data["@meta"]["label"])
    (exact,) = torch.autograd.grad(outer, [graph.schedules["alpha"].logit])
    torch.testing.assert_close(ours, exact, rtol=2e-3, atol=0)  # float32, and ReLU


# -- a step -----------------------------------------------------------------------------------------------------


def test_a_step_with_a_frozen_schedule_is_a_step_with_fixed_weights() -> None:
    frozen = learned(LOSSES, lr=0.0, start=0.25)
    assert [phase.name for phase in frozen.phases] == ["main"] and "meta" not in frozen.plan.nodes
    fixed = build(
        {"kd": {**LOSSES["kd"], "weight": 0.25}, "label": {**LABEL, "weight": 0.75}},
        {"student": net(), "teacher": mlp(WIDTH, 16, CLASSES, seed=3)},
    )
    whole = learned()
    for graph in (frozen, fixed, whole):
        torch.manual_seed(5)
        optimizers = made(graph, lr=0.01)
        for step in range(4):
            out = graph.step(streams(step), optimizers)
            assert out["finite"] and ("meta_loss" in out) is (graph is whole)
    one, other, moving = (copies(graph.nodes["student"]) for graph in (frozen, fixed, whole))
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-6, atol=1e-7)
    assert not torch.allclose(one["net.0.weight"], moving["net.0.weight"], atol=1e-4)


def test_a_frozen_schedule_leaves_its_lessons_unread() -> None:
    graph = learned(lr=0.0)
    assert graph.lessons == {} and "meta" not in graph.plan.nodes
    assert graph.step(batch(), made(graph))["finite"]


def test_the_phase_moves_the_schedule_alone_and_leaves_no_trace() -> None:
    graph = stirred(learned())
    optimizers = made(graph, lr=0.01)
    optimizers["main"].step = lambda *_: None  # type: ignore[method-assign]
    before = copies(graph)
    torch.manual_seed(6)
    graph.step(streams(), optimizers)
    end = torch.get_rng_state()
    changed = {name for name, value in copies(graph).items() if not torch.equal(value, before[name])}
    buffers = {"running_mean", "running_var", "num_batches_tracked"}
    assert {name for name in changed if "student" in name} == {f"nodes.student.net.1.{b}" for b in buffers}
    assert {name for name in changed if "schedules" in name} == {n for n in before if "schedules" in n}
    assert not any("teacher" in name for name in changed)
    plain = build({"label": LABEL}, {"student": net()})
    torch.manual_seed(6)
    plain(streams())
    assert torch.equal(torch.get_rng_state(), end)
    for name in buffers:
        ours, theirs = (getattr(g.nodes["student"].network[1], name) for g in (graph, plain))
        torch.testing.assert_close(ours, theirs)


def test_the_new_weight_counts_in_the_same_step() -> None:
    graph = learned(lr=0.5)
    alpha = [graph.values(streams(), ["alpha"])["alpha"]]
    out = graph.step(streams(), made(graph, lr=0.01))
    share = (out["loss"] - out["label_loss"]) / (out["kd_loss"] - out["label_loss"])
    assert abs(share - alpha[0].mean()) > 1e-3


def test_a_phase_may_come_every_few_steps() -> None:
    graph = learned(interval=3)
    optimizers, moves = made(graph), []
    for step in range(5):
        before = [p.clone() for p in graph.phases[0].parameters]
        out = graph.step(streams(step), optimizers)
        moves.append(not all(map(torch.equal, before, graph.phases[0].parameters)))
        assert ("meta_loss" in out) is moves[-1]
    assert moves == [True, False, False, True, False]


def test_values_are_read_detached_at_the_present_step() -> None:
    schedule = Confidence()
    graph = graph_of(schedule, lessons=False, teacher="student.logits")
    assert [phase.name for phase in graph.phases] == ["main"]
    graph.total_steps, graph.steps = 50, 7
    schedule.seen.clear()
    out = graph(masked())
    assert schedule.seen == [(7, 50, False)]
    data = masked()
    logits = graph.nodes["student"].network(data["image"])
    distance = (logits - graph.nodes["teacher"].network(data["image"])).square() * data["factor"][:, None]
    weighted = distance * logits.softmax(-1).amax(-1, keepdim=True).detach()
    expected = weighted[data["mask"]].mean() + F.cross_entropy(logits, data["label"])
    torch.testing.assert_close(out["loss"], expected)
    graph.zero_grad()
    out["loss"].backward()
    ours = [p.grad.clone() for p in graph.nodes["student"].parameters()]
    theirs = torch.autograd.grad(expected, list(graph.nodes["student"].parameters()))
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other)


def test_a_plain_schedule_may_have_a_name_and_serve_two_losses() -> None:
    ramp = {"ramp": {"use": "core.linear", "start": 0.0, "end": 1.0}}
    losses = {"kd": {**KD["kd"], "weight": "ramp"}, "label": {**LABEL, "weight": "1 - ramp"}}
    graph = build(losses, schedules=ramp)
    assert [phase.name for phase in graph.phases] == ["main"]
    graph.steps = 25
    out = graph(batch())
    torch.testing.assert_close(out["loss"], 0.25 * out["kd_loss"] + 0.75 * out["label_loss"])


def test_a_schedule_written_at_the_loss_is_called_after_it() -> None:
    losses = {"kd": {**KD["kd"], "weight": GEOMETRY}, "label": LABEL, "meta": {**META, "phase": "kd_weight"}}
    graph = build(losses, {"student": net(), "teacher": mlp(WIDTH, 16, CLASSES, seed=3)}, example=streams())
    assert [phase.name for phase in graph.phases] == ["kd_weight", "main"]
    assert graph.step(streams(), made(graph))["finite"]


def test_beside_a_critic() -> None:
    wcord = {"use": "core.wcord_global", "student": "student.logits", "teacher": "teacher.logits"}
    graph = learned({**LOSSES, "meta": META, "wcord": wcord})
    kinds = [(phase.term is not None, phase.schedule) for phase in graph.phases]
    assert kinds[-2:] == [(False, True), (False, False)] and any(critic for critic, _ in kinds)
    before = copies(graph)
    assert graph.step(streams(), made(graph))["finite"]
    changed = {name for name, value in copies(graph).items() if not torch.equal(value, before[name])}
    assert any("wcord" in name for name in changed) and any("schedules.alpha.network" in name for name in changed)


def test_a_loss_that_is_not_finite_moves_nothing() -> None:
    graph = learned()
    optimizers = made(graph)
    before = copies(graph)
    bad = streams()
    bad["image"] = bad["image"] * float("nan")
    assert not graph.step(bad, optimizers)["finite"]
    moved_ = {n for n, v in copies(graph).items() if not torch.equal(v, before[n]) and not v.isnan().any()}
    assert moved_ <= {"nodes.student.net.1.num_batches_tracked"}


def test_parameters_are_back_even_after_an_error() -> None:
    layer = nn.Linear(3, 2)
    parameters, before = list(layer.parameters()), [p.clone() for p in layer.parameters()]
    places = [p.data_ptr() for p in parameters]
    seen = []

    def fails() -> None:
        with moved(parameters, before, 2.0):
            seen.append(layer.weight.detach().clone())
            raise KeyError

    with pytest.raises(KeyError):
        fails()
    torch.testing.assert_close(seen[0], 3 * before[0].detach())
    assert all(map(torch.equal, parameters, before)) and [p.data_ptr() for p in parameters] == places


# -- owners and errors ------------------------------------------------------------------------------------------


def test_its_parameters_are_train_only() -> None:
    graph = learned()
    names = [name for name, _ in graph.named_parameters() if name.startswith("schedules.")]
    assert {graph.owner(name) for name in names} == {"auxiliary"}
    assert {id(p) for p in graph.phases[0].parameters} == {id(dict(graph.named_parameters())[name]) for name in names}
    assert not {id(p) for p in graph.phases[0].parameters} & {id(p) for p in graph.phases[-1].parameters}


def test_micro_batches_are_refused() -> None:
    graph = learned()
    with pytest.raises(GraphError, match="'alpha' learns from the step of the whole batch") as caught:
        graph.step([streams(), streams(2)], made(graph))
    assert caught.value.where == "schedules.alpha" and "gradient_accumulation_steps=1" in str(caught.value)


WRONG: dict[str, tuple[dict[str, Any], str, str]] = {
    "no lessons": ({}, "GeometrySchedule learns, and no loss says what", "schedules.alpha"),
    "an unknown name": ({"kd": {**KD["kd"], "weight": "alhpa"}}, "no schedule is called 'alhpa'", "losses.kd.weight"),
    "an unknown phase": ({"meta": {**META, "phase": "alfa"}}, "no schedule is called 'alfa'", "losses.meta.phase"),
    "no name at all": ({"kd": {**LOSSES["kd"], "weight": "2 - alpha"}}, "a weight is a number", "losses.kd.weight"),
    "a value as a port": (
        {"meta": META, "mse": {"use": "core.mse", "student": "student.logits", "teacher": "alpha"}},
        "'alpha' is a schedule and may be a weight only",
        "losses.mse.teacher",
    ),
    "a value as a factor": (
        {"meta": META, "more": {**LABEL, "sample_weight": "alpha"}},
        "'alpha' is a schedule and may be a weight only",
        "losses.more",
    ),
    "an option": (
        {"meta": META, "kd": {**LOSSES["kd"], "temperature": GEOMETRY}},
        "an option follows the step alone; core.geometry reads values",
        "losses.kd.temperature",
    ),
    "one number under one weight per sample": (
        {"meta": META, "ot": {**KD["kd"], "use": "core.wcord_local", "weight": "alpha"}},
        r"'alpha' is \[8\], the loss \[\]: not one weight per sample",
        "losses.ot.weight",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_named(case: str) -> None:
    changes, what, where = WRONG[case]
    with pytest.raises((GraphError, RecipeError), match=what) as caught:
        learned({**LOSSES, **changes})
    assert where in str(caught.value)


def test_lessons_for_a_schedule_that_weighs_nothing() -> None:
    with pytest.raises(GraphError, match="'alpha' is the weight of no loss"):
        learned({"kd": KD["kd"], "meta": META})


def test_lessons_for_a_schedule_without_parameters() -> None:
    with pytest.raises(GraphError, match="Confidence has no parameters to learn with"):
        graph_of(Confidence(), lessons=True, teacher="teacher.logits")


@pytest.mark.parametrize("name", ["main", "student"])
def test_names_that_are_taken(name: str) -> None:
    with pytest.raises(RecipeError, match=name):
        build(schedules={name: GEOMETRY})
