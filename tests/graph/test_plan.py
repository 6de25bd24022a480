"""The plan: every network once, nothing that nobody reads, and clear words where values do not exist."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from graph.nets import CLASSES, KD, WIDTH, batch, build, mlp
from torch import Tensor, nn

import mmkd
from mmkd.errors import GraphError

MSE = {"use": "core.mse", "teacher": "teacher.logits"}


class Towers(mmkd.Encoder):
    """Publishes four values and says which it was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(WIDTH, CLASSES), nn.Linear(CLASSES, CLASSES)
        self.asked: list[frozenset[str] | None] = []

    def values(self) -> list[str]:
        return ["hidden.0", "hidden.1", "hidden.2", "logits"]

    def locate(self, name: str) -> str | None:
        return "body" if name == "hidden.2" else None

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        self.asked.append(self.wanted)
        body = self.body(image)
        made = {"hidden.0": lambda: image, "hidden.1": lambda: body * 2, "logits": lambda: self.head(body)}
        return {name: make() for name, make in made.items() if self.wants(name)}


def counting(network: nn.Module) -> list[int]:
    calls = [0]
    network.register_forward_pre_hook(lambda *_: calls.__setitem__(0, calls[0] + 1))
    return calls


@pytest.mark.parametrize("losses", [1, 4])
def test_a_network_runs_once_however_many_losses_read_it(losses: int) -> None:
    nodes = {"student": mlp(WIDTH, 8, CLASSES), "teacher": mlp(WIDTH, 16, CLASSES)}
    places = ["student.logits", "student/2", "student/2.input", "student/0"]
    up = {"use": "core.linear", "like": "teacher.logits"}
    projectors = {f"p{i}": {**up, "input": place} for i, place in enumerate(places)}
    graph = build({f"l{i}": {**MSE, "student": f"p{i}"} for i in range(losses)}, nodes, projectors=projectors)
    calls = {name: counting(network) for name, network in nodes.items()}
    graph(batch())
    assert calls == {"student": [1], "teacher": [1]}


def test_what_nobody_reads_is_not_run() -> None:
    nodes = {"student": mlp(WIDTH, CLASSES), "teacher": mlp(WIDTH, CLASSES), "idle": mlp(WIDTH, CLASSES)}
    unread = {"use": "core.linear", "input": "idle.logits", "like": "teacher.logits"}
    calls = counting(nodes["idle"])
    graph = build(KD, nodes, teachers={"teacher": {}, "idle": {}}, projectors={"unread": unread})
    graph(batch())
    assert calls == [0]
    assert [projector.name for projector in graph.plan.derived] == []


def test_like_is_read_once_to_infer_widths_and_never_again() -> None:
    nodes = {"student": mlp(WIDTH, CLASSES), "teacher": mlp(WIDTH, 5)}
    projectors = {"up": {"use": "core.linear", "input": "student.logits", "like": "teacher.logits"}}
    graph = build({"own": {"use": "core.mse", "student": "up", "teacher": "up"}}, nodes, projectors=projectors)
    calls = counting(nodes["teacher"])
    graph(batch())
    assert calls == [0]
    assert graph.projectors["up"].layer.out_features == 5


def test_only_wanted_values_are_computed_and_located_ones_are_tapped() -> None:
    encoder = Towers()
    graph = build({"a": {**MSE, "student": "student.hidden.1"}, "b": {**MSE, "student": "student.hidden.-1"}},
                  {"student": encoder, "teacher": mlp(WIDTH, CLASSES)})  # fmt: skip
    encoder.asked.clear()
    graph(batch())
    assert encoder.asked == [{"hidden.1", "/body"}]
    values = graph.values(batch(), ["student.hidden.-1", "student.hidden.2", "student.hidden.-3"])
    assert torch.equal(values["student.hidden.-1"], encoder.body(batch()["image"]))
    assert torch.equal(values["student.hidden.2"], values["student.hidden.-1"])
    assert torch.equal(values["student.hidden.-3"], batch()["image"])


@pytest.mark.parametrize(
    ("value", "message", "nearest"),
    [
        ("student.logit", "'student' publishes no 'logit'", "student.logits"),
        ("student", "'student' is a node; say which value of it", None),
        ("studnet.logits", "nothing is called 'studnet.logits'", "student"),
        ("student/3", "no module, input or parameter '3'|has no item 3", None),
        ("student/2.wieght", "no module, input or parameter '2.wieght'", None),
        ("batch", "'batch' needs a field", None),
        ("batch.lable", "the batch has no 'batch.lable'", "label"),
        ("up.logits", "nothing is called 'up.logits'", "up"),
    ],
)
def test_unknown_values_name_place_and_nearest(value: str, message: str, nearest: str | None) -> None:
    projectors = {"up": {"use": "core.linear", "input": "student.logits", "like": "teacher.logits"}}
    with pytest.raises(GraphError, match=message) as caught:
        build({"kd": {**MSE, "student": value}}, projectors=projectors)
    if nearest:
        assert nearest.removeprefix("student.") in str(caught.value.nearest)
    if not value.startswith(("batch.", "student/3")):
        assert caught.value.where == "losses.kd.student"


def test_a_cycle_of_projectors_is_named() -> None:
    projectors = {
        "a": {"use": "core.linear", "input": "b", "like": "teacher.logits"},
        "b": {"use": "core.linear", "input": "c", "like": "teacher.logits"},
        "c": {"use": "core.linear", "input": "a", "like": "teacher.logits"},
    }
    with pytest.raises(GraphError, match="cycle: a -> b -> c -> a"):
        build({"kd": {**MSE, "student": "a"}}, projectors=projectors)
    own = {"a": {"use": "core.linear", "input": "student.logits", "like": "a"}}
    with pytest.raises(GraphError, match="cycle: a -> a"):
        build({"kd": {**MSE, "student": "a"}}, projectors=own)


def test_projectors_of_projectors_run_in_order() -> None:
    projectors = {
        "second": {"use": "core.linear", "input": "first", "like": "teacher.logits"},
        "first": {"use": "core.linear", "input": "student/0", "like": "teacher/0"},
    }
    graph = build({"kd": {**MSE, "student": "second"}}, projectors=projectors)
    assert [projector.name for projector in graph.plan.derived] == ["first", "second"]
    values = graph.values(batch(), ["student/0", "second"])
    expected = graph.projectors["second"](graph.projectors["first"](values["student/0"]))
    assert torch.equal(values["second"], expected)


def gradients(graph: Any) -> dict[str, bool]:
    graph.zero_grad()
    graph(batch())["loss"].backward()
    return {name: p.grad is not None for name, p in graph.named_parameters()}


def test_a_detached_edge_stops_the_gradient_and_only_that_edge() -> None:
    nodes = {"a": mlp(WIDTH, CLASSES, seed=1), "b": mlp(WIDTH, CLASSES, seed=2)}
    losses = {"ab": {"use": "core.mse", "student": "a.logits", "teacher": "detach(b.logits)"}}
    graph = build(losses, nodes, students={"a": {}, "b": {}})
    got = gradients(graph)
    assert got["nodes.a.net.0.weight"]
    assert not got["nodes.b.net.0.weight"]
    mutual = {**losses, "ba": {"use": "core.mse", "student": "b.logits", "teacher": "detach(a.logits)"}}
    both = build(mutual, nodes, students={"a": {}, "b": {}})
    assert all(gradients(both).values())
    image = batch()["image"]
    loss = (nodes["a"](image) - nodes["b"](image).detach()).square().mean()
    assert torch.allclose(nodes["a"][0].weight.grad, torch.autograd.grad(loss, nodes["a"][0].weight)[0])


def test_several_teachers_teach_several_students() -> None:
    names = ["t1", "t2", "s1", "s2"]
    nodes = {name: mlp(WIDTH, CLASSES, seed=i) for i, name in enumerate(names)}
    losses = {f"{s}_{t}": {"use": "core.mse", "student": f"{s}.logits", "teacher": f"{t}.logits"}
              for s in ("s1", "s2") for t in ("t1", "t2")}  # fmt: skip
    graph = build(losses, nodes, students={"s1": {}, "s2": {}}, teachers={"t1": {}, "t2": {}})
    out, image = graph(batch()), batch()["image"]
    for s in ("s1", "s2"):
        for t in ("t1", "t2"):
            assert torch.allclose(out[f"{s}_{t}_loss"], (nodes[s](image) - nodes[t](image)).square().mean())
    assert {name.split(".")[1] for name, has in gradients(graph).items() if has} == {"s1", "s2"}


def test_views_are_passes_of_their_own() -> None:
    student = mlp(WIDTH, CLASSES)
    losses = {"consistency": {"use": "core.mse", "student": "student@weak.logits", "teacher": "detach(student.logits)"}}
    weak = torch.randn(8, WIDTH, generator=torch.Generator().manual_seed(9))
    given = {**batch(), "student@weak": {"image": weak}}
    graph = build(losses, {"student": student}, example=given)
    calls = counting(student)
    out = graph(given)
    assert calls == [2]
    assert torch.allclose(out["loss"], (student(weak) - student(given["image"])).square().mean())
    with pytest.raises(GraphError, match="the batch has no view 'student@weak'"):
        graph(batch())


def test_streams_of_the_batch() -> None:
    losses = {"ce": {"use": "core.cross_entropy", "student": "student.logits", "label": "batch@clean.label"}}
    clean = torch.zeros(8, dtype=torch.long)
    graph = build(losses, {"student": mlp(WIDTH, CLASSES)}, example={**batch(), "@clean": {"label": clean}})
    out = graph({**batch(), "@clean": {"label": clean}})
    expected = nn.functional.cross_entropy(graph.nodes["student"].net(batch()["image"]), clean)
    assert torch.allclose(out["loss"], expected)
    with pytest.raises(GraphError, match=r"the batch has no 'batch@clean\.label'"):
        graph(batch())


def test_fields_are_looked_up_at_the_node_first() -> None:
    nodes = {"student": mlp(WIDTH, CLASSES, seed=1), "teacher": mlp(WIDTH, CLASSES, seed=1)}
    graph = build({"kd": {**MSE, "student": "student.logits"}}, nodes)
    assert graph(batch())["loss"] == 0
    own = torch.zeros(8, WIDTH)
    assert graph({**batch(), "teacher": {"image": own}})["loss"] > 0
    assert graph({**batch(), "teacher": {"image": own}, "student": {"image": own}})["loss"] == 0
    with pytest.raises(GraphError, match="no field 'image', which 'student' takes as 'image'") as caught:
        graph({"label": batch()["label"], "teacher": {"image": own}})
    assert "inputs: {image: batch.<field>}" in str(caught.value)


def test_a_node_may_have_the_name_of_a_field() -> None:
    nodes = {"image": mlp(WIDTH, CLASSES), "teacher": mlp(WIDTH, CLASSES)}
    graph = build({"kd": {**MSE, "student": "image.logits"}}, nodes, students={"image": {}})
    assert torch.isfinite(graph(batch())["loss"])


def test_inputs_are_rebound_to_other_fields() -> None:
    nodes = {"student": mlp(WIDTH, CLASSES), "teacher": mlp(WIDTH, CLASSES)}
    given = {**batch(), "thermal": torch.ones(8, WIDTH)}
    graph = build({"kd": {**MSE, "student": "student.logits"}}, nodes, example=given,
                  teacher={"inputs": {"image": "batch.thermal"}})  # fmt: skip
    expected = (nodes["student"](given["image"]) - nodes["teacher"](given["thermal"])).square().mean()
    assert torch.allclose(graph(given)["loss"], expected)


def test_a_promised_value_must_come() -> None:
    class Liar(Towers):
        def forward(self, image: Tensor) -> dict[str, Tensor]:
            return {"logits": self.head(self.body(image))}

    nodes = {"student": Liar(), "teacher": mlp(WIDTH, CLASSES)}
    with pytest.raises(GraphError, match=r"Liar says it publishes 'hidden\.1' but did not return it"):
        build({"kd": {**MSE, "student": "student.hidden.1"}}, nodes)


def test_reading_values_leaves_no_hooks_behind() -> None:
    graph = build()
    teacher = graph.nodes["teacher"].net
    hooks = [len(m._forward_hooks) for m in teacher.modules()]
    values = graph.values(batch(), (address for address in ["teacher/0", "detach(student.logits)"]))
    assert torch.equal(values["teacher/0"], teacher[0](batch()["image"]))
    assert [len(m._forward_hooks) for m in teacher.modules()] == hooks
    with pytest.raises(GraphError):
        graph.values({}, ["teacher/0"])
    assert [len(m._forward_hooks) for m in teacher.modules()] == hooks


def test_weights_of_a_network_are_values_that_stay_true() -> None:
    graph = build({"decay": {"use": "core.mse", "student": "student/2.weight", "teacher": "student/2.weight"}, **KD})
    values = graph.values(batch(), ["student/2.weight"])
    assert values["student/2.weight"] is graph.nodes["student"].net[2].weight
    state = {key: torch.zeros_like(value) for key, value in graph.state_dict().items()}
    graph.load_state_dict(state, assign=True)
    assert not graph.values(batch(), ["student/2.weight"])["student/2.weight"].any()
