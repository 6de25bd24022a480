"""Packaged recipes: what they leave open, which way each edge sends its gradient, what a run is without it."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import mmkd
from mmkd.engine.optimizer import optimizers
from mmkd.errors import GraphError, RecipeError
from mmkd.graph.training_graph import TrainingGraph

WIDTH, CLASSES = 6, 4
Batch = dict[str, Tensor]


class Net(mmkd.Encoder):
    """Embedding and logits of one field."""

    def __init__(self, field: str, inputs: int, width: int, classes: int, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.body, self.head = nn.Sequential(nn.Linear(inputs, width), nn.ReLU()), nn.Linear(width, classes)
        self.field = field

    def values(self) -> list[str]:
        return ["embedding", "logits"]

    def inputs(self) -> dict[str, bool]:
        return {self.field: True}

    def forward(self, **fields: Tensor) -> dict[str, Tensor]:
        embedding = self.body(fields[self.field])
        return {"embedding": embedding, "logits": self.head(embedding)}


def batch(step: int) -> Batch:
    generator = torch.Generator().manual_seed(step)
    image = torch.randn(8, WIDTH, generator=generator)
    return {"image": image, "half": image[:, :3], "label": torch.randint(CLASSES, (8,), generator=generator)}


def nodes(name: str) -> dict[str, Net]:
    """Networks for whatever the recipe leaves open."""
    recipe = mmkd.load_recipe(f"core.{name}")
    open_ = [place.rpartition(".")[2] for place in recipe.left_open() if not place.startswith(("data", "train"))]
    sizes = {"single": ("half", 3, 5), "small": ("image", WIDTH, 5)}
    return {n: Net(*sizes.get(n, ("image", WIDTH, 12)), CLASSES, seed) for seed, n in enumerate(open_)}


def build(name: str, changes: Mapping[str, Any] | None = None, steps: int = 6) -> TrainingGraph:
    recipe = {"recipe": f"core.{name}", "train": {"steps": steps, "lr": 0.01}, **(changes or {})}
    return mmkd.build(recipe, nodes=nodes(name), example=batch(0))


def trained(graph: TrainingGraph, steps: int = 6) -> TrainingGraph:
    train = mmkd.load_recipe({"recipe": "core.kd", "train": {"steps": steps, "lr": 0.01}}).train
    made = optimizers(graph, train)
    for step in range(steps):
        assert graph.step(batch(step), made)["finite"]
    return graph


def weights(graph: TrainingGraph, node: str) -> Tensor:
    return torch.cat([p.detach().flatten() for p in graph.nodes[node].parameters()])


# -- as recipes -------------------------------------------------------------------------------------------------


def test_a_recipe_of_ones_own_completes_it() -> None:
    given = {"recipe": "core.dml", "students": {"first": {"use": "a.b", "width": 3}, "second": {"use": "a.b"}}}
    recipe = mmkd.load_recipe({**given, "data": {"train": {"use": "a.c"}}, "train": {"steps": 5}})
    assert recipe.left_open() == []
    assert recipe.students["first"].arguments == {"width": 3}
    assert list(recipe.losses) == ["first_label", "second_label", "first_mutual", "second_mutual"]


def test_what_is_missing_is_named() -> None:
    with pytest.raises(RecipeError, match=r"core\.dml.*data\.train: no training data"):
        mmkd.build("core.dml")
    with pytest.raises(GraphError, match=r"core\.dml.*second.*has no 'use' and was not handed in"):
        mmkd.build("core.dml", nodes={"first": nodes("dml")["first"]}, example=batch(0))


# -- edges ------------------------------------------------------------------------------------------------------

EDGES = {
    ("dml", "first_mutual"): "first",
    ("dml", "second_mutual"): "second",
    ("ctcd", "large_from_small"): "large",
    ("ctcd", "small_from_large"): "small",
    ("bd_kd", "large_reverse"): "large",
    ("bd_kd", "small_balanced"): "small",
    ("guidance", "representation"): "single",
    ("guidance", "prediction"): "single",
    ("mkd", "momentum"): "student",
    ("kd", "kd"): "student",
    ("taid", "taid"): "student",
    ("wakd", "kd"): "student",
}


def reached(graph: TrainingGraph, loss: str) -> set[str]:
    """The networks that a loss sends a gradient to."""
    out = graph(batch(1))[f"{loss}_loss"]
    graph.zero_grad()
    out.backward()
    return {
        name for name in graph.roles if any(p.grad is not None and p.grad.any() for p in graph.nodes[name].parameters())
    }


@pytest.mark.parametrize(("name", "loss"), EDGES)
def test_an_edge_pulls_on_its_student_alone(name: str, loss: str) -> None:
    graph = trained(build(name), 1)  # an average is no longer its student
    assert reached(graph, loss) == {EDGES[name, loss]}


@pytest.mark.parametrize(("name", "loss"), [edge for edge in EDGES if edge[0] not in ("taid", "wakd")])
def test_without_an_edge_it_is_another_run_of_that_student(name: str, loss: str) -> None:
    whole, without = trained(build(name)), trained(build(name, {"losses": {loss: None}}))
    assert not torch.equal(weights(whole, EDGES[name, loss]), weights(without, EDGES[name, loss]))


@pytest.mark.parametrize("name", ["dml", "ctcd", "bd_kd"])
def test_without_any_edge_peers_train_apart_bit_for_bit(name: str) -> None:
    edges = {loss: None for of, loss in EDGES if of == name}
    apart = trained(build(name, {"losses": edges}))
    baseline = mmkd.load_recipe({"recipe": f"core.{name}", "train": {"steps": 6, "lr": 0.01}}).baseline_recipe()
    assert baseline is not None
    again = trained(mmkd.build(baseline, nodes=nodes(name), example=batch(0)))
    for student in apart.roles:
        alone = {"student": {}, "losses": {"label": {"use": "core.cross_entropy", "student": "student.logits"}}}
        single = trained(mmkd.build(alone, nodes={"student": nodes(name)[student]}, example=batch(0)))
        assert torch.equal(weights(apart, student), weights(single, "student"))
        assert torch.equal(weights(again, student), weights(apart, student))


def test_one_edge_removed_leaves_the_other_students_first_step_alone() -> None:
    whole, without = (trained(build("dml", change), 1) for change in ({}, {"losses": {"second_mutual": None}}))
    assert torch.equal(weights(whole, "first"), weights(without, "first"))
    assert not torch.equal(weights(whole, "second"), weights(without, "second"))


def test_the_stop_on_an_edge_matters() -> None:
    open_ = {"losses": {"first_mutual": {"teacher": "second.logits"}}}
    assert reached(build("dml", open_), "first_mutual") == {"first", "second"}
    assert not torch.equal(weights(trained(build("dml", open_)), "second"), weights(trained(build("dml")), "second"))


def test_the_weights_of_both_directions_are_separate() -> None:
    one, other = (
        trained(build("ctcd", {"losses": {"large_from_small": {"weight": weight}}}), 1) for weight in (1.0, 5.0)
    )
    assert torch.equal(weights(one, "small"), weights(other, "small"))
    assert not torch.equal(weights(one, "large"), weights(other, "large"))


def test_momentum_distillation_depends_on_the_average_moving() -> None:
    runs = [trained(build("mkd", {"teacher": {"average": {"momentum": m}}})) for m in (0.5, 1.0)]
    assert not torch.equal(*(weights(graph, "student") for graph in runs))


def test_taid_at_a_fixed_share_is_another_run_and_at_one_is_plain_distillation() -> None:
    def mixed(**options: float) -> TrainingGraph:
        return trained(build("taid", {"mixers": {"target": options}}))

    moving, fixed, whole = mixed(), mixed(start=0.4, end=0.4), mixed(start=1.0, end=1.0)
    plain = {"use": "core.kl", "student": "student.logits", "teacher": "teacher.logits"}
    kl = trained(build("taid", {"mixers": {"target": None}, "losses": {"taid": plain}}))
    torch.testing.assert_close(weights(whole, "student"), weights(kl, "student"))
    pairs = itertools.combinations([moving, fixed, whole], 2)
    assert all(not torch.allclose(weights(a, "student"), weights(b, "student")) for a, b in pairs)
    assert moving.mixers["target"].t == 1.0


def test_wakd_exports_the_mean_and_nothing_of_the_mean_reaches_the_student() -> None:
    graph, without = build("wakd"), build("wakd", {"teachers": {"mean": None}, "export": None})
    seen = []
    train = optimizers(graph, mmkd.load_recipe({"recipe": "core.kd", "train": {"steps": 6, "lr": 0.01}}).train)
    for step in range(6):
        graph.step(batch(step), train)
        seen.append(weights(graph, "student").double())
    torch.testing.assert_close(weights(graph, "mean").double(), torch.stack(seen).mean(0), rtol=1e-5, atol=1e-6)
    assert torch.equal(weights(trained(without), "student"), weights(graph, "student"))
    assert graph.exported == ("mean",)


# -- digits -----------------------------------------------------------------------------------------------------

datasets = pytest.importorskip("sklearn.datasets")
digits = datasets.load_digits()
image, labels = torch.tensor(digits.data, dtype=torch.float32) / 16, torch.tensor(digits.target)
order = torch.randperm(len(image), generator=torch.Generator().manual_seed(0))
few, many, held_out = order[:150], order[:600], order[600:]


def fields(rows: Tensor) -> Batch:
    return {"image": image[rows], "half": image[rows, :32], "label": labels[rows]}


def on_digits(name: str, own: Mapping[str, nn.Module], seed: int, steps: int = 150, **changes: Any) -> TrainingGraph:
    train = {"steps": steps, "lr": 3e-3, "lr_schedule": "constant"}
    recipe = mmkd.load_recipe({"recipe": f"core.{name}", "train": train, **changes})
    generator = torch.Generator().manual_seed(seed)
    graph = mmkd.build(recipe, nodes=own, example=fields(few[:32]))
    made = optimizers(graph, recipe.train)
    for _ in range(steps):
        graph.step(fields(few[torch.randint(len(few), (32,), generator=generator)]), made)
    return graph.eval()


def logits(graph: TrainingGraph, node: str) -> Tensor:
    with torch.no_grad():
        return graph.values(fields(held_out), [f"{node}.logits"])[f"{node}.logits"]


def accuracy(graph: TrainingGraph, node: str) -> float:
    return (logits(graph, node).argmax(-1) == labels[held_out]).double().mean().item()


@pytest.fixture(scope="module")
def teacher() -> Net:
    """A network that has seen four times the labels."""
    network = Net("image", 64, 64, 10, seed=5)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    for _ in range(100):
        optimizer.zero_grad()
        F.cross_entropy(network(image=image[many])["logits"], labels[many]).backward()
        optimizer.step()
    return network


def test_peers_that_teach_each_other_agree_more() -> None:
    edges = {"first_mutual": None, "second_mutual": None}
    for seed in range(2):
        apart = []
        for changes in ({}, {"losses": edges}):
            own = {"first": Net("image", 64, 16, 10, seed), "second": Net("image", 64, 16, 10, seed + 50)}
            graph = on_digits("dml", own, seed, **changes)
            p, q = (logits(graph, node).log_softmax(-1) for node in own)
            apart.append(((p.exp() - q.exp()) * (p - q)).sum(-1).mean().item())
        assert apart[0] < 0.7 * apart[1]


def test_a_guided_network_learns_faster_on_half_of_the_picture() -> None:
    gains = []
    for seed in range(3):
        scores = []
        for changes in ({}, {"losses": {"representation": None, "prediction": None}, "projectors": {"up": None}}):
            own = {"multimodal": Net("image", 64, 64, 10, seed), "single": Net("half", 32, 16, 10, seed + 9)}
            scores.append(accuracy(on_digits("guidance", own, seed, 200, **changes), "single"))
        gains.append(scores[0] - scores[1])
    assert sum(gains) / 3 > 0.004


def test_a_small_student_learns_faster_towards_a_moving_target_than_from_labels(teacher: Net) -> None:
    scores = []
    for seed in range(3):
        own = {"student": Net("image", 64, 8, 10, seed), "teacher": copy.deepcopy(teacher)}
        taught = on_digits("taid", own, seed)
        own = {"student": Net("image", 64, 8, 10, seed), "teacher": copy.deepcopy(teacher)}
        labelled = on_digits("kd", own, seed, losses={"kd": None, "label": {"weight": 1.0}})
        scores.append(accuracy(taught, "student") - accuracy(labelled, "student"))
    assert sum(scores) / 3 > 0.03
