"""Averaged networks: the closed form, when they move and when not, what may be done with them."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from engine.toys import data as toy_data, networks
from goldens import cases
from graph.nets import CLASSES, WIDTH, batch, build, made, mlp
from safetensors.torch import load_file
from torch import Tensor, nn

import mmkd
from mmkd import plugins
from mmkd.diagnosis.doctor import doctor
from mmkd.engine import checkpoint
from mmkd.errors import GraphError, RecipeError
from mmkd.graph import phase
from mmkd.graph.average import Average
from mmkd.graph.training_graph import TrainingGraph
from mmkd.report.explain import explain
from mmkd.report.picture import draw

LOSSES = {
    "label": {"use": "core.cross_entropy", "student": "student.logits"},
    "kd": {"use": "core.kl", "student": "student.logits", "teacher": "teacher.logits"},
}


def student(batch_norm: bool = True) -> nn.Module:
    network = mlp(WIDTH, 8, CLASSES, seed=2)
    if batch_norm:
        network.insert(1, nn.BatchNorm1d(8))
    return network


def averaged(network: nn.Module | None = None, *, steps: int = 10, **rule: Any) -> TrainingGraph:
    teacher = {"average": {"of": "student", **rule}}
    nodes = {"student": network if network is not None else student()}
    return build(LOSSES, nodes, student={}, teacher=teacher, train={"steps": steps})


def state(graph: TrainingGraph, name: str) -> dict[str, Tensor]:
    return {key: value.detach().clone() for key, value in graph.nodes[name].state_dict().items()}


def trained(graph: TrainingGraph, steps: int, lr: float = 0.05) -> list[dict[str, Tensor]]:
    """The student's state before the first step and after each."""
    optimizers, states = made(graph, optimizer="sgd", lr=lr), [state(graph, "student")]
    for step in range(steps):
        graph.step(batch(seed=step), optimizers)
        states.append(state(graph, "student"))
    return states


def floating(states: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value.double() for key, value in states.items() if value.is_floating_point()}


# -- the rule ---------------------------------------------------------------------------------------------------


def test_ema_is_the_closed_form() -> None:
    momentum, steps = 0.8, 7
    graph = averaged(momentum=momentum)
    states = [floating(s) for s in trained(graph, steps)]
    for key, value in floating(state(graph, "teacher")).items():
        closed = momentum**steps * states[0][key]
        for k in range(1, steps + 1):
            closed = closed + (1 - momentum) * momentum ** (steps - k) * states[k][key]
        torch.testing.assert_close(value, closed, rtol=1e-6, atol=1e-7)
        assert not torch.equal(value, states[-1][key])


def test_uniform_is_that_of_wakd_by_its_authors() -> None:
    """Theirs copies the network at step `begin` and averages all later ones in; ours starts after `start` steps."""
    for options, inputs, output, _ in cases("wakd"):
        source, target = (nn.Linear(3, 2, bias=False).double() for _ in range(2))
        rule = Average("student", "uniform", start=options["begin"] - 1)
        for step, now in enumerate(inputs["weights"], 1):
            source.weight.data = now
            rule.update(target, source, step)
        torch.testing.assert_close(target.weight.data, output)
        assert not torch.allclose(target.weight.data, inputs["weights"].mean(0)) or options["begin"] == 1


def test_ema_of_a_half_is_exact() -> None:
    """With numbers that binary holds, the closed form is met to the bit."""
    source, target = nn.Linear(2, 2), nn.Linear(2, 2)
    rule = Average("student", momentum=0.5)
    for module in (source, target):
        for p in module.parameters():
            p.data.fill_(1.0)
    values = [1.0, 8.0, -4.0, 16.0, 32.0]
    for step, value in enumerate(values[1:], 1):
        source.weight.data.fill_(value)
        rule.update(target, source, step)
    expected = sum(v * 0.5 ** (len(values) - max(k, 1)) for k, v in enumerate(values))
    assert target.weight.unique().tolist() == [expected]
    assert target.bias.unique().tolist() == [1.0]


@pytest.mark.parametrize(
    ("start", "every", "taken"), [(0, 1, [1, 2, 3, 4, 5, 6]), (3, 1, [4, 5, 6]), (0, 2, [2, 4, 6])]
)
def test_uniform_is_the_arithmetic_mean(start: int, every: int, taken: list[int]) -> None:
    graph = averaged(kind="uniform", start=start, every=every)
    states = [floating(s) for s in trained(graph, 6)]
    for key, value in floating(state(graph, "teacher")).items():
        mean = torch.stack([states[k][key] for k in taken]).mean(0)
        torch.testing.assert_close(value, mean, rtol=1e-6, atol=1e-7)
    assert graph.averages["teacher"].taken == len(taken)


def test_until_start_it_is_the_student_and_counters_are_copied() -> None:
    graph = averaged(momentum=0.9, start=2)
    optimizers = made(graph)
    for step in range(4):
        graph.step(batch(seed=step), optimizers)
        pairs = zip(*(floating(state(graph, name)).values() for name in graph.roles), strict=True)
        same = [torch.equal(a, b) for a, b in pairs]
        assert all(same) if step < 2 else not any(same)
        assert graph.nodes["teacher"].net[1].num_batches_tracked == step + 1


def test_momentum_follows_a_schedule() -> None:
    graph = averaged(steps=2, momentum={"use": "core.linear", "start": 0.0, "end": 1.0})
    states = trained(graph, 3)
    first, second = (floating(states[k]) for k in (1, 2))
    for key, value in floating(state(graph, "teacher")).items():
        torch.testing.assert_close(value, (first[key] + second[key]) / 2, rtol=1e-6, atol=1e-7)
    assert "momentum    0 -> 1 over 2 steps" in explain(graph)
    wrong = averaged(momentum={"use": "core.linear", "start": 2.0, "end": 2.0})
    with pytest.raises(GraphError, match="momentum must be from 0 to 1, not 2"):
        trained(wrong, 1)


# -- in the graph -----------------------------------------------------------------------------------------------


def test_it_is_a_copy_without_gradient_in_evaluation_mode() -> None:
    network = student()
    graph = averaged(network)
    graph.train()
    own = graph.nodes["teacher"]
    assert not any(module.training for module in own.modules())
    assert not any(p.requires_grad for p in own.parameters())
    assert not {p.data_ptr() for p in own.parameters()} & {p.data_ptr() for p in network.parameters()}
    expected = copy.deepcopy(network).eval()(batch()["image"])
    values = graph.values(batch(), ["teacher.logits", "student.logits"])
    assert values["student.logits"].requires_grad and not values["teacher.logits"].requires_grad
    torch.testing.assert_close(values["teacher.logits"], expected)
    assert not graph.roles["teacher"].constant
    assert graph.owner("nodes.teacher.net.0.weight") == "teacher"


def test_it_makes_a_different_run() -> None:
    graph, frozen = averaged(momentum=0.5), averaged(momentum=1.0)
    assert floating(trained(graph, 4)[-1]).keys() == floating(trained(frozen, 4)[-1]).keys()
    assert not torch.equal(graph.nodes["student"].net[0].weight, frozen.nodes["student"].net[0].weight)


@pytest.mark.parametrize("on_device", [False, True])
@pytest.mark.parametrize("kind", ["ema", "uniform"])
def test_a_skipped_step_moves_nothing(kind: str, on_device: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if on_device:  # the path where the flag is not read on the host

        def unread(self: TrainingGraph, skipped: Tensor | None) -> None:
            self.steps += 1
            for average, network, source in self._followers:
                average.update(network, source, self.steps, skipped)

        monkeypatch.setattr(phase, "reads_flag", lambda optimizer, found: optimizer._step_supports_amp_scaling)
        monkeypatch.setattr(TrainingGraph, "advance", unread)
    graph = averaged(student(batch_norm=False), kind=kind)
    optimizers = made(graph)
    for step in range(3):
        graph.step(batch(seed=step), optimizers)
    before = state(graph, "teacher")
    out = graph.step({**batch(), "image": batch()["image"] * torch.inf}, optimizers)
    assert not out["finite"] and graph.steps == 4
    assert graph.averages["teacher"].taken == 3
    assert all(torch.equal(value, before[key]) for key, value in state(graph, "teacher").items())
    assert graph.step(batch(), optimizers)["finite"]
    assert not torch.equal(graph.nodes["teacher"].net[0].weight, before["net.0.weight"])


def test_it_moves_in_a_loop_of_ones_own() -> None:
    graph, other = averaged(momentum=0.5), averaged(momentum=0.5)
    optimizers = made(graph, optimizer="sgd", lr=0.05)
    optimizer = made(other, optimizer="sgd", lr=0.05)["main"]
    for step in range(3):
        graph.step(batch(seed=step), optimizers)
        optimizer.zero_grad()
        other(batch(seed=step))["loss"].backward()
        optimizer.step()
        other.update()
    assert all(torch.equal(value, state(other, "teacher")[key]) for key, value in state(graph, "teacher").items())
    twin = copy.deepcopy(graph)
    twin.step(batch(), made(twin))
    assert not torch.equal(twin.nodes["teacher"].net[0].weight, graph.nodes["teacher"].net[0].weight)


def test_it_reads_what_the_student_reads_unless_rebound() -> None:
    own = {"image": "batch.other"}
    example = {**batch(), "other": batch(seed=5)["image"]}
    graph = build(
        LOSSES, {"student": student()}, student={"inputs": own}, teacher={"average": {"of": "student"}}, example=example
    )
    assert dict(graph.roles["teacher"].inputs) == {"image": "other"}
    rebound = {"average": {"of": "student"}, "inputs": {"image": "batch.image"}}
    graph = build(LOSSES, {"student": student()}, student={"inputs": own}, teacher=rebound, example=example)
    assert dict(graph.roles["teacher"].inputs) == {"image": "image"}


# -- what cannot be meant ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "beside", "message"),
    [
        ({"of": "student"}, {"cache": "memory"}, "teacher: an averaged network changes at every step"),
        ({"of": "student"}, {"use": "a.b"}, "teacher: an averaged network is a copy of 'student' and takes no use"),
        ({"of": "student"}, {"width": 3}, "takes no width"),
        ({"of": "studnet"}, {}, "teacher.average.of: 'studnet' is no student.*did you mean 'student'"),
        ({"of": "teacher"}, {}, "'teacher' is no student"),
        ({"of": "student", "momentum": 1.5}, {}, "momentum must be from 0 to 1"),
        ({"of": "student", "kind": "uniform", "momentum": 0.9}, {}, "a uniform average has no momentum"),
        ({"of": "student", "kind": "swad"}, {}, "teacher.average.kind: cannot be"),
        ({"of": "student", "every": 0}, {}, "teacher.average.every"),
        ({"of": "student", "momentun": 0.9}, {}, "unknown key 'momentun'.*momentum"),
    ],
)
def test_mistakes_say_where(rule: dict[str, Any], beside: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=f"(?s){message}"):
        mmkd.load_recipe({"student": {}, "losses": LOSSES, "teacher": {"average": rule, **beside}})


def test_a_student_follows_nobody() -> None:
    students = {"student": {}, "mean": {"average": {"of": "student"}}}
    with pytest.raises(RecipeError, match=r"students\.mean\.average: an averaged network is not trained"):
        mmkd.load_recipe({"students": students, "losses": LOSSES})


def test_it_cannot_be_handed_in() -> None:
    with pytest.raises(GraphError, match="'teacher' is the average of 'student' and cannot be handed in"):
        build(LOSSES, {"student": student(), "teacher": student()}, student={}, teacher={"average": {"of": "student"}})


def test_the_recipe_round_trips() -> None:
    for rule in ({"kind": "uniform"}, {"momentum": {"use": "core.linear", "start": 0.9, "end": 1.0}}):
        recipe = mmkd.load_recipe({"student": {}, "losses": LOSSES, "teacher": {"average": {"of": "student", **rule}}})
        assert mmkd.load_recipe(recipe.to_dict()) == recipe
        assert mmkd.load_recipe(mmkd.recipe.yaml.parse(recipe.to_yaml(), "written")) == recipe


# -- in a whole run ---------------------------------------------------------------------------------------------


def run(folder: Path, *, resume: bool = False, **changes: Any) -> dict[str, Any]:
    recipe = {
        "student": {},
        "teachers": {
            "teacher": {"average": {"of": "student", "momentum": {"use": "core.linear", "start": 0.5, "end": 0.9}}},
            "mean": {"average": {"of": "student", "kind": "uniform", "start": 2}},
        },
        "losses": LOSSES,
        "data": {"batch_size": 16},
        "train": {"steps": 12, "lr": 0.01, "checkpoint_every": 4, "log_every": 4, "device": "cpu"},
        "evaluate": [{"use": "core.top_k", "student": "student.logits", "k": [1]}],
        "export": ["mean"],
        **changes,
    }
    nodes = {"student": networks()["student"]}
    return mmkd.distill(recipe, output_dir=folder, nodes=nodes, data=toy_data(), resume=resume, preflight=False)


@pytest.mark.parametrize("step", [3, 6])
def test_killed_and_resumed_it_is_the_same_run(step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path / "whole")
    call = plugins.Host.call

    def killing(self: plugins.Host, hook: str, **arguments: Any) -> None:
        if hook == "mmkd_step_end" and arguments["step"] == step:
            raise KeyboardInterrupt
        call(self, hook, **arguments)

    with monkeypatch.context() as patch:
        patch.setattr(plugins.Host, "call", killing)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "cut")
    run(tmp_path / "cut", resume=(tmp_path / "cut").exists())
    lasts = [checkpoint.checkpoints(tmp_path / name)[-1] for name in ("whole", "cut")]
    states = [load_file(last / "graph.safetensors") for last in lasts]
    assert {"nodes.teacher.net.0.weight", "nodes.mean.net.0.weight", "averages.mean.taken"} < states[0].keys()
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())


def test_the_average_is_scored_exported_and_loaded(tmp_path: Path) -> None:
    results = run(tmp_path)
    assert set(results["teachers"]) == {"teacher", "mean"}
    exported = load_file(tmp_path / "student" / "model.safetensors")
    (last,) = checkpoint.checkpoints(tmp_path)
    kept = load_file(last / "graph.safetensors")
    assert exported and all(key.startswith("nodes.mean.") for key in exported)
    assert all(torch.equal(value, kept[key]) for key, value in exported.items())
    assert not torch.equal(kept["nodes.mean.net.0.weight"], kept["nodes.student.net.0.weight"])
    model = mmkd.from_pretrained(tmp_path, nodes={"mean": networks()["student"]})
    samples = [toy_data()["eval"][i] for i in range(40)]
    batch = model.collate(samples)
    right = model.values(batch, ["mean.logits"])["mean.logits"].argmax(-1) == batch["label"]
    found = results["teachers"]["mean"]["scores"]["eval"]["top_k"]
    assert right.float().mean().item() == pytest.approx(found["top_1_accuracy"])
    card = (tmp_path / "student" / "README.md").read_text()
    assert "| mean | teacher | average of student |" in card and "mean.embedding" in card
    again = mmkd.evaluate(tmp_path, nodes={"student": networks()["student"]}, data=toy_data())
    assert again["teachers"] == {name: {"scores": own["scores"]} for name, own in results["teachers"].items()}


def test_doctor_finds_nothing_wrong_and_reports_say_what_it_is(tmp_path: Path) -> None:
    recipe = {
        "student": {}, "teacher": {"average": {"of": "student", "momentum": 0.9}}, "losses": LOSSES,
        "data": {"batch_size": 16}, "train": {"steps": 40, "lr": 1e-3},
    }  # fmt: skip
    found = doctor(recipe, nodes={"student": networks()["student"]}, data=toy_data())
    assert not [finding for finding in found.findings if finding.severity == "error"]
    graph = averaged(momentum=0.9, every=5)
    text = explain(graph)
    assert "teacher: teacher, average of student" in text
    assert "average     ema, momentum 0.9, every 5 steps" in text
    drawn = draw(graph, tmp_path / "graph.svg").read_text()
    assert ">averaged<" in drawn and "student: ema, momentum 0.9, every 5 steps" in drawn
