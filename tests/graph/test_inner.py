"""Inner inputs: a module of one network is given what another one says, while losses are computed and only then."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from graph.nets import CLASSES, WIDTH, batch, build, made, mlp
from torch import Tensor, nn

import mmkd
from mmkd.errors import GraphError
from mmkd.graph.plan import Plan
from mmkd.report.explain import explain
from mmkd.report.picture import draw

MSE = {"use": "core.mse", "student": "student.logits", "teacher": "teacher.logits"}
UP = {"use": "core.linear", "input": "teacher/0", "like": "student/2.input"}


def nodes() -> dict[str, nn.Module]:
    """Three linear layers each, of widths 7 and 9."""
    return {"student": mlp(WIDTH, 7, 7, CLASSES, seed=2), "teacher": mlp(WIDTH, 9, 9, CLASSES, seed=3)}


def fed(losses: Any = None, own: dict[str, nn.Module] | None = None, **recipe: Any) -> Any:
    """The student's second layer reads the teacher's first, through a projector."""
    recipe = {"student": {"inputs": {"/2": "up"}}, "projectors": {"up": UP}, **recipe}
    return build(losses or {"mse": MSE}, own or nodes(), **recipe)


def by_hand(own: dict[str, nn.Module], up: nn.Module, image: Tensor) -> Tensor:
    with torch.no_grad():
        given, target = own["teacher"][0](image), own["teacher"](image)
    return (own["student"][2:](up(given)) - target).square().mean()


def test_a_module_is_given_the_value_and_the_gradient_is_that_of_the_loop_by_hand() -> None:
    own = nodes()
    graph = fed(own=own)
    image, up = batch()["image"], graph.projectors["up"]
    loss = graph(batch())["loss"]
    loss.backward()
    expected = by_hand(own, up, image)
    torch.testing.assert_close(loss, expected)
    layers = [own["student"][2], own["student"][4], up]
    wanted = torch.autograd.grad(expected, [p for layer in layers for p in layer.parameters()])
    for parameter, gradient in zip((p for layer in layers for p in layer.parameters()), wanted, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)
    assert own["student"][0].weight.grad is None, "nothing that the loss reads stands on the first layer"
    assert all(p.grad is None for p in own["teacher"].parameters())


def test_a_projector_can_be_like_the_input_that_it_makes() -> None:
    graph = fed()
    assert graph.projectors["up"].layer.weight.shape == (7, 9)
    assert graph.widths["up"] == {"input": (8, 9), "like": (8, 7)}
    assert graph.shapes["student/2.input"] == (8, 7)


def test_the_plan_runs_what_an_inner_input_stands_on_first() -> None:
    graph = fed()
    assert [getattr(step, "id", None) or step.name for step in graph.plan.steps] == ["teacher", "up", "student"]
    assert [run.id for run in graph.plan.runs] == ["teacher", "student"]
    assert [binding.name for binding in graph.plan.derived] == ["up"]


def test_without_inner_inputs_networks_come_first_as_ever() -> None:
    projectors = {"up": {"use": "core.linear", "input": "student.logits", "like": "teacher.logits"}}
    graph = build({"mse": {**MSE, "student": "up"}}, nodes(), projectors=projectors)
    assert [getattr(step, "id", None) or step.name for step in graph.plan.steps] == ["student", "teacher", "up"]


def test_blocks_of_a_chain_are_trained_each_alone() -> None:
    """Every layer of the student maps the teacher's features to the teacher's next ones: no gradient crosses over."""
    own = nodes()
    projectors = {f"in{i}": {"use": "core.linear", "input": f"teacher/{i}", "like": f"student/{i}"} for i in (0, 2)}
    losses = {f"b{i}": {"use": "core.mse", "student": f"student/{i}", "teacher": f"in{i}"} for i in (0, 2)}
    graph = build({**losses, "mse": MSE}, own, projectors=projectors,
                  student={"inputs": {"/2": "in0", "/4": "in2"}})  # fmt: skip
    for name, layer in {"b0_loss": 0, "b2_loss": 2, "loss": None, "mse_loss": 4}.items():
        graph.zero_grad()
        graph(batch())[name].backward()
        got = [i for i in (0, 2, 4) if own["student"][i].weight.grad is not None]
        assert got == ([layer] if layer is not None else [0, 2, 4])


def test_taps_see_what_the_module_takes_and_passes_stop_early() -> None:
    own = nodes()
    graph = fed({"a": {**MSE, "student": "student/2.input", "teacher": "up"},
                 "b": {"use": "core.mse", "student": "student/2", "teacher": "student/2"}}, own)  # fmt: skip
    calls = []
    own["student"][4].register_forward_pre_hook(lambda *_: calls.append(1))
    out = graph(batch())
    assert out["a_loss"] == 0
    assert not calls


def test_evaluation_and_values_read_the_network_without() -> None:
    own = nodes()
    graph = fed(own=own)
    image = batch()["image"]
    values = graph.values(batch(), ["student.logits", "student/2.input"])
    assert torch.equal(values["student.logits"], own["student"](image))
    assert torch.equal(values["student/2.input"], own["student"][:2](image))
    assert [run.id for run in graph.reading(["student.logits"]).runs] == ["student"]
    assert not torch.equal(values["student.logits"], graph.compute(batch())["student.logits"])


def test_views_read_the_network_without() -> None:
    own = nodes()
    losses = {"fed": MSE, "plain": {"use": "core.mse", "student": "student@again.logits", "teacher": "teacher.logits"}}
    given = {**batch(), "student@again": {"image": batch()["image"]}}
    graph = fed(losses, own, example=given)
    out = graph(given)
    expected = (own["student"](given["image"]) - own["teacher"](given["image"])).square().mean()
    assert torch.allclose(out["plain_loss"], expected)
    assert not torch.allclose(out["fed_loss"], expected)


def test_a_pass_over_a_view_may_feed_the_pass_over_the_batch() -> None:
    own = nodes()
    given = {**batch(), "student@weak": {"image": torch.ones(8, WIDTH)}}
    graph = fed(None, own, student={"inputs": {"/2": "detach(student@weak/1)"}}, projectors={}, example=given)
    expected = own["student"][2:](own["student"][:2](torch.ones(8, WIDTH))) - own["teacher"](given["image"])
    assert torch.allclose(graph(given)["loss"], expected.square().mean())


@pytest.mark.parametrize("detached", [False, True])
def test_a_frozen_network_passes_the_gradient_through_and_keeps_its_weights(detached: bool) -> None:
    """A student's module stitched into the teacher (m2mKD): the teacher is frozen, its graph is kept."""
    own = nodes()
    place = "detach(up)" if detached else "up"
    projectors = {"up": {"use": "core.linear", "input": "student/0", "like": "teacher/2.input"}}
    losses = {"mse": {"use": "core.cross_entropy", "student": "teacher.logits"},
              "own": {"use": "core.cross_entropy", "student": "student.logits"}}  # fmt: skip
    graph = build(losses, own, teacher={"inputs": {"/2": place}}, projectors=projectors)
    loss = graph(batch())["mse_loss"]
    assert loss.requires_grad is not detached
    if not detached:
        loss.backward()
        expected = nn.functional.cross_entropy(
            own["teacher"][2:](graph.projectors["up"](own["student"][0](batch()["image"]))), batch()["label"]
        )
        torch.testing.assert_close(loss, expected)
        wanted = torch.autograd.grad(expected, own["student"][0].weight)[0]
        torch.testing.assert_close(own["student"][0].weight.grad, wanted)
    assert all(p.grad is None and not p.requires_grad for p in own["teacher"].parameters())


def test_what_a_module_overwrites_in_place_is_a_copy() -> None:
    own = nodes()
    own["student"] = nn.Sequential(own["student"][0], nn.ReLU(inplace=True), own["student"][2])
    losses = {"mse": {"use": "core.mse", "student": "student/2", "teacher": "up"}, "own": {**MSE, "student": "up2"}}
    projectors = {"up": {**UP, "like": "student/1.input"},
                  "up2": {"use": "core.linear", "input": "student.logits", "like": "teacher.logits"}}  # fmt: skip
    graph = fed(losses, own, student={"inputs": {"/1": "up"}}, projectors=projectors)
    (feed,) = next(run for run in graph.plan.runs if run.id == "student").recorder.feeds
    assert feed.clone
    values = graph.compute(batch())
    up = graph.projectors["up"](own["teacher"][0](batch()["image"]))
    assert torch.equal(values["up"], up) and up.min() < 0
    assert torch.equal(values["student/2"], own["student"][2](up.relu()))
    plain = fed()
    assert not next(run for run in plain.plan.runs if run.id == "student").recorder.feeds[0].clone


class Twice(nn.Module):
    """One layer that is called twice, the second time by keyword."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(WIDTH, WIDTH)
        self.idle = nn.Linear(WIDTH, WIDTH)

    def forward(self, image: Tensor) -> Tensor:
        return self.layer(input=self.layer(image))


@pytest.mark.parametrize(("place", "first"), [("/layer#1", True), ("/layer#2", False)])
def test_calls_are_told_apart(place: str, first: bool) -> None:
    student = Twice()
    own = {"student": student, "teacher": mlp(WIDTH, WIDTH)}
    graph = fed(None, own, student={"inputs": {place: "teacher.logits"}}, projectors={})
    given = own["teacher"](batch()["image"]).detach()
    expected = student.layer(student.layer(given)) if first else student.layer(given)
    assert torch.allclose(graph(batch())["loss"], (expected - given).square().mean())
    for wrong, message in [
        ("/layer", r"inner input '/layer' runs 2 times in one pass"),
        ("/layer#3", r"inner input '/layer#3' ran 2 times"),
        ("/idle", r"inner input '/idle' ran 0 times"),
    ]:
        with pytest.raises(GraphError, match=message):
            fed(None, own, student={"inputs": {wrong: "teacher.logits"}}, projectors={})


@pytest.mark.parametrize(
    ("inputs", "message", "nearest"),
    [
        ({"/22": "up"}, "the network has no module '22'", "2"),
        ({"/2.weight": "up"}, r"the network has no module '2\.weight'", None),
        ({"/2.input": "up"}, r"the network has no module '2\.input'", None),
        ({"/2": "upp"}, "nothing is called 'upp'", "up"),
        ({"/2": "student/0"}, "cycle: student -> student", None),
        ({"/2": "detach(back)"}, "cycle: student -> back -> student", None),
        ({"image": "up"}, "inputs are rebound to batch fields", None),
        ({"/2": "teacher.logits"}, "RuntimeError: mat1 and mat2", None),
    ],
)
def test_mistakes_name_their_place(inputs: dict[str, str], message: str, nearest: str | None) -> None:
    projectors = {"up": UP, "back": {"use": "core.linear", "input": "student.logits", "like": "student/2.input"}}
    with pytest.raises(GraphError, match=message) as caught:
        fed(student={"inputs": inputs}, projectors=projectors)
    assert caught.value.where.startswith(("student", "projectors.back"))
    if nearest:
        assert caught.value.nearest == nearest


def test_a_cycle_through_two_networks_is_named() -> None:
    with pytest.raises(GraphError, match="cycle: student -> teacher -> student"):
        fed(student={"inputs": {"/2": "teacher/0"}}, teacher={"inputs": {"/2": "student/0"}}, projectors={})


def test_its_outputs_cannot_be_remembered() -> None:
    with pytest.raises(GraphError, match=r"teacher\.cache: .*takes inner inputs.*cannot be remembered"):
        build({"mse": MSE}, nodes(), teacher={"inputs": {"/0": "batch.image"}, "cache": "memory"})


def test_a_step_moves_the_projector_and_an_average_runs_without() -> None:
    own = nodes()
    graph = fed({"mse": MSE, "slow": {**MSE, "teacher": "slow.logits"}}, own,
                teachers={"teacher": {}, "slow": {"average": {"of": "student"}}})  # fmt: skip
    before = graph.projectors["up"].layer.weight.clone()
    graph.step(batch(), made(graph))
    assert not torch.equal(graph.projectors["up"].layer.weight, before)
    assert [run.id for run in graph.plan.runs if run.inner] == ["student"]


def test_a_copy_of_the_graph_feeds_its_own_networks() -> None:
    graph = fed()
    copied = copy.deepcopy(graph)
    with torch.no_grad():
        for parameter in copied.projectors["up"].parameters():
            parameter.zero_()
    assert torch.equal(copied.compute(batch())["student.logits"].std(0), torch.zeros(CLASSES))
    assert graph.compute(batch())["student.logits"].std(0).min() > 0


def test_half_precision() -> None:
    graph = fed(train={"steps": 4, "precision": "bf16"})
    loss = graph(batch())["loss"]
    loss.backward()
    assert loss.isfinite() and graph.projectors["up"].layer.weight.grad is not None


def test_probing_leaves_generators_and_statistics_alone() -> None:
    own = nodes()
    body = own["student"]
    own["student"] = nn.Sequential(body[0], nn.BatchNorm1d(7), body[2], nn.Dropout(), nn.Linear(7, CLASSES))
    before, state = torch.get_rng_state(), copy.deepcopy(own["student"].state_dict())
    fed(None, own, student={"inputs": {"/1": "detach(student@a/0)"}}, projectors={},
        example={**batch(), "student@a": {"image": batch()["image"]}})  # fmt: skip
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(value, state[name]) for name, value in own["student"].state_dict().items())


def test_the_baseline_has_none_that_reads_a_teacher() -> None:
    recipe = mmkd.load_recipe({
        "teacher": {}, "student": {"inputs": {"/2": "up", "/4": "own", "image": "batch.thermal"}},
        "projectors": {"up": UP, "own": {"use": "core.linear", "input": "batch.extra", "like": "student/4.input"}},
        "losses": {"mse": MSE},
        "baseline": {"losses": {"ce": {"use": "core.cross_entropy", "student": "student.logits"}}},
    })  # fmt: skip
    baseline = recipe.baseline_recipe()
    assert baseline is not None
    assert baseline.student_nodes()["student"].inputs == {"/4": "own", "image": "batch.thermal"}
    assert list(baseline.projectors) == ["own"]
    assert mmkd.load_recipe(recipe.to_dict()) == recipe


def test_explain_and_picture_show_the_edge(tmp_path: Any) -> None:
    graph = fed()
    text = explain(graph)
    assert "inner input  /2 <- up [B, 7]" in text
    assert "like        student/2.input [B, 7]" in text
    drawn = draw(graph, tmp_path / "graph.svg").read_text()
    assert ">/2<" in drawn


def test_a_frozen_network_says_that_gradient_flows_through_it() -> None:
    projectors = {"up": {"use": "core.linear", "input": "student/0", "like": "teacher/2.input"}}
    graph = build({"mse": MSE}, nodes(), teacher={"inputs": {"/2": "up"}}, projectors=projectors)
    assert "gradient flows through" in explain(graph)
    assert "under no_grad" not in explain(graph)


def test_a_reading_plan_takes_none() -> None:
    graph = fed()
    readers = list(graph.terms[0].readers())
    plain, trains = (Plan(graph.roles, graph.bound, readers, inner=inner) for inner in (False, True))
    assert [run.id for run in plain.runs if run.inner] == []
    assert [run.id for run in trains.runs if run.inner] == ["student"]
