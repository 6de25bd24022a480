"""Mixers in the graph: order, cycles, precision, updates, gradient, export, what is said of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from engine.toys import data as toy_data, networks
from graph.nets import CLASSES, KD, WIDTH, batch, build, made, mlp
from safetensors.torch import load_file
from torch import Tensor, nn

import mmkd
from mmkd import plugins
from mmkd.engine import checkpoint
from mmkd.errors import GraphError, PluginError, RecipeError
from mmkd.registry import Catalogue, Entry, Registry
from mmkd.report.explain import explain
from mmkd.report.picture import draw

TWO = {"student": {}, "teachers": {"one": {}, "two": {}}}
BOTH = {"use": "core.mean", "teachers": ["one.logits", "two.logits"]}
TO_TARGET = {"kd": {"use": "core.kl", "student": "student.logits", "teacher": "target"}}


def nets() -> dict[str, nn.Module]:
    return {name: mlp(WIDTH, 8, CLASSES, seed=i) for i, name in enumerate(("student", "one", "two"))}


def two(mixers: dict[str, Any], losses: dict[str, Any] = TO_TARGET, **recipe: Any) -> Any:
    return build(losses, nets(), mixers=mixers, **TWO, **recipe)


class Probe(mmkd.Mixer):
    """Adds its inputs and writes down what it is given."""

    seen: list[Any]

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale, self.seen = scale, []
        self.register_buffer("count", torch.zeros(()))

    def setup(self, parts: list[torch.Size]) -> None:
        self.seen.append(("setup", [tuple(shape) for shape in parts]))

    def forward(self, parts: list[Tensor]) -> Tensor:
        self.seen.append(("forward", {part.dtype for part in parts}, self.scale))
        return self.scale * torch.stack(parts).sum(0)

    def update(self, parts: list[Tensor], step: int, total: int) -> None:
        assert not torch.is_grad_enabled()
        self.seen.append(("update", len(parts[0]), step, total))
        self.count += 1


@pytest.fixture
def probe(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plugin `mine` with the mixer above."""
    entries = [*plugins.host().catalogue, Entry("mixer", "probe", Probe, "mine")]
    monkeypatch.setattr(plugins.host(), "catalogue", Catalogue(entries, {}))


def test_a_plugin_registers_one(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Registry("mine")
    registry.mixer("probe", Probe)
    assert [(entry.kind, entry.id) for entry in registry.entries] == [("mixer", "mine.probe")]
    with pytest.raises(PluginError, match=r"must be a subclass of mmkd\.Mixer"):
        registry.mixer("other", mmkd.Loss)


def test_the_loss_reads_what_the_mixer_makes() -> None:
    graph = two({"target": {**BOTH, "weights": [3, 1]}})
    values = graph.values(batch(), ["one.logits", "two.logits", "target", "student.logits"])
    p = 0.75 * values["one.logits"].softmax(-1) + 0.25 * values["two.logits"].softmax(-1)
    torch.testing.assert_close(values["target"].softmax(-1), p)
    kl = (p * (p.log() - values["student.logits"].log_softmax(-1))).sum(-1).mean()
    torch.testing.assert_close(graph(batch())["kd_loss"], kl)
    other = two({"target": {**BOTH, "weights": [1, 0]}})
    assert not torch.equal(other(batch())["loss"], graph(batch())["loss"])


def test_mixers_and_projectors_stand_in_one_order(probe: None) -> None:
    graph = two(
        {
            "second": {"use": "mine.probe", "parts": ["up", "first"]},
            "first": {"use": "mine.probe", "parts": ["one.logits", "detach(student.logits)"]},
            "idle": {"use": "mine.probe", "parts": ["one.logits"]},
        },
        {"mse": {"use": "core.mse", "student": "student.logits", "teacher": "second"}},
        projectors={"up": {"use": "core.linear", "input": "first", "like": "two.logits"}},
    )
    assert [binding.name for binding in graph.plan.derived] == ["first", "up", "second"]
    assert graph.widths["second"] == {"parts": [(8, CLASSES)] * 2}
    assert graph.mixers["second"].seen[0] == ("setup", [(8, CLASSES)] * 2)
    assert graph.mixers["idle"].seen == []
    assert set(graph.state_dict()) >= {"mixers.first.count", "projectors.up.layer.weight"}


@pytest.mark.parametrize(
    ("reads", "cycle"), [({"a": "b", "b": "c", "c": "b"}, "b -> c -> b"), ({"a": "a", "b": "a", "c": "a"}, "a -> a")]
)
def test_a_cycle_names_the_chain(probe: None, reads: dict[str, str], cycle: str) -> None:
    mixers = {name: {"use": "mine.probe", "parts": ["one.logits", other]} for name, other in reads.items()}
    losses = {"mse": {"use": "core.mse", "student": "student.logits", "teacher": "a"}}
    with pytest.raises(GraphError, match=rf"mixers\.\w: cycle: {cycle}"):
        two(mixers, losses)


def test_a_cycle_may_run_through_a_projector(probe: None) -> None:
    with pytest.raises(GraphError, match="cycle: target -> up -> target"):
        two(
            {"target": {"use": "mine.probe", "parts": ["up"]}},
            projectors={"up": {"use": "core.linear", "input": "target", "like": "one.logits"}},
        )


def test_it_reads_float32_follows_schedules_and_updates_once_a_step(probe: None) -> None:
    scale = {"use": "core.linear", "start": 1.0, "end": 3.0}
    mixer = {"use": "mine.probe", "parts": ["one.logits", "two.logits"], "scale": scale}
    graph = two({"target": mixer}, train={"steps": 4, "precision": "bf16"})
    optimizers, module = made(graph), graph.mixers["target"]
    module.seen.clear()
    parts = [batch(4), batch(4, seed=2)]
    graph.step(parts, optimizers)
    graph.step(batch(), optimizers)
    forward = [event for event in module.seen if event[0] == "forward"]
    assert [event[2] for event in forward] == [1.0, 1.0, 1.5]
    assert all(event[1] == {torch.float32} for event in forward)
    assert [event for event in module.seen if event[0] == "update"] == [("update", 8, 1, 4), ("update", 8, 2, 4)]
    graph.step({**batch(), "image": batch()["image"] * torch.nan}, optimizers)
    assert module.count == 2 and graph.steps == 3


def test_items_of_a_list_follow_schedules() -> None:
    down = {"use": "core.linear", "start": 1.0, "end": 0.0}
    graph = two({"target": {**BOTH, "weights": [down, 1]}}, train={"steps": 4})
    optimizers, shares = made(graph), []
    for _ in range(5):
        graph.step(batch(), optimizers)
        shares.append(graph.mixers["target"].weights[0])
    assert shares == [1.0, 0.75, 0.5, 0.25, 0.0]
    assert "weights.0   1 -> 0 over 4 steps (LinearSchedule)" in explain(graph)


@pytest.mark.parametrize(
    ("mixer", "message"),
    [
        ({"use": "core.mean"}, "port 'teachers' of mixer MeanOfTeachers is not bound"),
        ({**BOTH, "wieghts": [1, 2]}, "neither port nor option 'wieghts'.*did you mean 'weights'"),
        ({**BOTH, "of": "logit"}, r"mixers\.target\.of"),
        ({**BOTH, "weights": [1]}, r"mixers\.target.*needs 2 weights"),
        ({**BOTH, "weights": [1, -1]}, r"mixers\.target\.weights\.1"),
        ({**BOTH, "teachers": ["one.logits", "one.logit"]}, r"mixers\.target\.teachers"),
        ({"use": "core.kl"}, "'core.kl' is a loss, not a mixer"),
    ],
)
def test_mistakes_say_where(mixer: dict[str, Any], message: str) -> None:
    with pytest.raises((GraphError, RecipeError, PluginError), match=f"(?s){message}"):
        two({"target": mixer})


@pytest.mark.parametrize("key", ["like", "weight", "cache"])
def test_keys_of_others_are_refused(key: str) -> None:
    with pytest.raises(RecipeError, match=f"unknown key '{key}'"):
        mmkd.load_recipe({**TWO, "losses": TO_TARGET, "mixers": {"target": {**BOTH, key: 1}}})


def test_a_name_is_given_once() -> None:
    with pytest.raises(RecipeError, match=r"mixers\.one: 'one' already names one of the teachers"):
        mmkd.load_recipe({**TWO, "losses": TO_TARGET, "mixers": {"one": BOTH}})


def test_the_baseline_loses_what_reads_a_teacher() -> None:
    own = {"use": "core.label_mix", "teacher": "detach(student.logits)"}
    recipe = mmkd.load_recipe(
        {
            **TWO,
            "losses": TO_TARGET,
            "mixers": {"target": BOTH, "self": own},
            "baseline": {"losses": {"own": {"use": "core.kl", "student": "student.logits", "teacher": "self"}}},
        }
    )
    baseline = recipe.baseline_recipe()
    assert baseline is not None and list(baseline.mixers) == ["self"]
    assert mmkd.load_recipe(recipe.to_dict()) == recipe


# -- a gate, in a whole run -------------------------------------------------------------------------------------


def gated(**recipe: Any) -> dict[str, Any]:
    return {
        **TWO,
        "mixers": {"target": {"use": "core.gate", "teachers": BOTH["teachers"], "input": "batch.image", "hidden": 4}},
        "losses": {
            **TO_TARGET,
            "gate": {"use": "core.cross_entropy", "student": "target"},
            "moving": {"use": "core.kl", "student": "student.logits", "teacher": "slow"},
        },
        "data": {"batch_size": 16},
        "train": {"steps": 8, "lr": 0.01, "checkpoint_every": 3, "log_every": 4, "device": "cpu"},
        **recipe,
    }


def run(folder: Path, *, resume: bool = False, **recipe: Any) -> None:
    own = networks()
    document = gated(**recipe)
    document["mixers"]["slow"] = {"use": "core.taid", "student": "student.logits", "teacher": "target"}
    mmkd.distill(
        document, output_dir=folder, data=toy_data(), resume=resume, preflight=False,
        nodes={"student": own["student"], "one": own["teacher"], "two": networks()["teacher"]},
    )  # fmt: skip


def test_a_mixer_is_train_only_unless_it_is_exported(tmp_path: Path) -> None:
    run(tmp_path / "plain")
    state = load_file(tmp_path / "plain" / "student" / "model.safetensors")
    assert state and all(key.startswith("nodes.student.") for key in state)
    run(tmp_path / "kept", export=["student", "one", "two", "target"])
    own = networks()
    model = mmkd.from_pretrained(tmp_path / "kept", nodes={**own, "one": own["teacher"], "two": networks()["teacher"]})
    assert isinstance(model.mixers["target"], mmkd.Mixer)
    (last,) = checkpoint.checkpoints(tmp_path / "kept")
    trained = load_file(last / "graph.safetensors")
    for name, value in model.mixers["target"].state_dict().items():
        assert torch.equal(value, trained[f"mixers.target.{name}"])
    assert set(model.values(model.collate([toy_data()["train"][0]]), ["target"])) == {"target"}


def test_killed_and_resumed_it_is_the_same_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path / "whole")
    call = plugins.Host.call

    def killing(self: plugins.Host, hook: str, **arguments: Any) -> None:
        if hook == "mmkd_step_end" and arguments["step"] == 5:
            raise KeyboardInterrupt
        call(self, hook, **arguments)

    with monkeypatch.context() as patch:
        patch.setattr(plugins.Host, "call", killing)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "cut")
    run(tmp_path / "cut", resume=True)
    lasts = [checkpoint.checkpoints(tmp_path / name)[-1] for name in ("whole", "cut")]
    states = [load_file(last / "graph.safetensors") for last in lasts]
    assert {"mixers.slow.t", "mixers.slow.momentum", "mixers.slow.previous"} < states[0].keys()
    assert states[0]["mixers.slow.t"] == 1.0
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())


def test_explain_and_picture_show_it(tmp_path: Path) -> None:
    graph = two({"target": BOTH})
    text = explain(graph)
    assert "Training graph: 3 networks, 1 mixer, 1 loss, 1 phase" in text
    assert "\nMixers\n------\ntarget: mixer, train-only\n  component   MeanOfTeachers (core.mean)" in text
    assert "teacher     <- target [B, 4]" in text
    drawn = draw(graph, tmp_path / "graph.svg").read_text()
    assert "MeanOfTeachers" in drawn and ">mixer<" in drawn


def test_a_graph_without_mixers_says_nothing_of_them() -> None:
    graph = build(KD)
    assert "ixer" not in explain(graph)
    assert not [key for key in graph.state_dict() if key.startswith(("mixers", "averages"))]
    assert "mixers" in mmkd.recipe.json_schema()["properties"]
