"""Runs of several stages: what each starts from, what teaches it, and that a killed one goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from engine.toys import CLASSES, FEATURES, Noise, data, networks, recipe
from safetensors.torch import load_file
from torch import Tensor, nn

import mmkd
from mmkd.errors import GraphError, MmkdError, RecipeError

LABEL = {"label": {"use": "core.cross_entropy", "student": "student.logits"}}
HINT = {"hint": {"use": "core.mse", "student": "up", "teacher": "teacher/0"}}
NOTHING = {"lr": 1e-30, "momentum": 0.0, "optimizer": "sgd"}
"""Changes nothing in float32."""


def staged(stages: dict[str, Any], **train: Any) -> dict[str, Any]:
    made = recipe(**{"steps": 4, "checkpoint_every": 2, **train})
    return {**made, "procedure": {"use": "core.stages", "stages": stages}}


def generations(**options: Any) -> dict[str, Any]:
    made = recipe(steps=3)
    made["losses"] = {"kd": made["losses"]["kd"], **LABEL}
    del made["projectors"]
    first = {"teacher": None, "losses": LABEL}
    return {**made, "procedure": {"use": "core.generations", "first": first, **options}}


def run(folder: Path, changed: dict[str, Any], **more: Any) -> dict[str, Any]:
    return mmkd.distill(changed, output_dir=folder, data=data(), preflight=False, **{"nodes": networks(), **more})


def final(folder: Path) -> dict[str, Tensor]:
    (found,) = folder.glob("checkpoint-*")
    return load_file(found / "graph.safetensors")


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_a_stage_goes_on_from_the_one_before(tmp_path: Path) -> None:
    results = run(tmp_path / "run", staged({"hint": {"losses": HINT}, "kd": {"train": NOTHING}}))
    first, last = final(tmp_path / "run" / "stages" / "hint"), final(tmp_path / "run")
    weights = [key for key in last if "weight" in key and "1." not in key.rpartition("nodes")[2]]
    assert "projectors.up.map.weight" in last or any(key.startswith("projectors.up") for key in last)
    assert weights and all(torch.equal(first[key], last[key]) for key in weights)
    assert results["stages"]["hint"]["steps"] == results["steps"] == 4
    assert {p.name for p in (tmp_path / "run" / "stages" / "hint").iterdir()} == {
        "best", "checkpoint-4", "log.jsonl", "stage.json", "student"
    }  # fmt: skip
    log = (tmp_path / "run" / "stages" / "hint" / "log.jsonl").read_text().splitlines()
    assert "kd_loss" not in json.loads(log[0]) and "hint_loss" in json.loads(log[0])


def test_a_stage_may_start_from_scratch_or_from_any_before_it(tmp_path: Path) -> None:
    stages = {"a": {}, "b": {"losses": LABEL}, "c": {"start": "a", "train": NOTHING}}
    run(tmp_path / "run", staged(stages))
    a, b, c = (final(tmp_path / "run" / place) for place in ("stages/a", "stages/b", "."))
    name = "nodes.student.net.0.weight" if "nodes.student.net.0.weight" in a else next(k for k in a if "student" in k)
    assert torch.equal(a[name], c[name]) and not torch.equal(b[name], c[name])
    run(tmp_path / "scratch", staged({"a": {}, "b": {"start": "scratch", "train": NOTHING}}))
    assert torch.equal(final(tmp_path / "scratch")[name], networks()["student"][0].weight)


def test_the_hint_stage_matters(tmp_path: Path) -> None:
    with_hint = staged({"hint": {"losses": HINT}, "kd": {}})
    run(tmp_path / "with", with_hint)
    run(tmp_path / "without", staged({"kd": {}}))
    assert not equal(final(tmp_path / "with"), final(tmp_path / "without"))


@pytest.mark.parametrize(("stage", "step"), [("hint", 2), ("hint", 3), ("kd", 1), ("kd", 3)])
def test_a_killed_run_goes_on_in_its_stage_bit_for_bit(
    stage: str, step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = staged({"hint": {"losses": HINT}, "kd": {"mixers": {}, "train": {"lr": 0.02}}})
    run(tmp_path / "whole", made)

    class Killed(Exception):
        pass

    original = mmkd.TrainingGraph.step

    def dying(graph: mmkd.TrainingGraph, *args: Any, **kwargs: Any) -> Any:
        out = original(graph, *args, **kwargs)
        at = "kd" if any(term.name == "kd" for term in graph.terms) else "hint"
        if at == stage and graph.steps == step:
            raise Killed
        return out

    with monkeypatch.context() as patch:
        patch.setattr(mmkd.TrainingGraph, "step", dying)
        with pytest.raises(Killed):
            run(tmp_path / "run", made)
    run(tmp_path / "run", made, resume=True)
    for place in ("stages/hint", "."):
        assert equal(final(tmp_path / "run" / place), final(tmp_path / "whole" / place))


def test_a_frozen_student_stays_while_its_projector_is_trained(tmp_path: Path) -> None:
    stages = {"warm": {}, "filters": {"student": {"frozen": True}, "losses": HINT}, "all": {"train": NOTHING}}
    run(tmp_path / "run", staged(stages))
    warm, filters, end = (final(tmp_path / "run" / place) for place in ("stages/warm", "stages/filters", "."))
    assert not any(key.startswith("nodes.student") for key in filters)
    name = next(key for key in warm if key.startswith("nodes.student") and key.endswith("0.weight"))
    up = next(key for key in warm if key.startswith("projectors.up") and key.endswith("weight"))
    assert torch.equal(end[name], warm[name])
    assert torch.equal(end[up], filters[up]) and not torch.equal(end[up], warm[up])
    exported = mmkd.from_pretrained(tmp_path / "run" / "stages" / "filters", nodes=networks())
    assert torch.equal(exported.state_dict()[name] if name in exported.state_dict() else warm[name], warm[name])


def test_a_generation_is_taught_by_the_one_before(tmp_path: Path) -> None:
    results = run(tmp_path / "run", generations(generations=3))
    one = results["stages"]["generation_1"]
    stage = json.loads((tmp_path / "run" / "stages" / "generation_2" / "stage.json").read_text())
    assert stage["teachers"]["teacher"]["eval"]["top_k"] == one["scores"]["eval"]["top_k"]
    states = [final(tmp_path / "run" / place) for place in ("stages/generation_1", "stages/generation_2", ".")]
    assert not any("teacher" in key or "generation" in key for state in states for key in state)
    name = next(key for key in states[0] if key.startswith("nodes.student.") and key.endswith("weight"))
    assert len({state[name].sum().item() for state in states}) == 3


def test_the_ensemble_of_generations_is_scored(tmp_path: Path) -> None:
    changed = {**generations(generations=2), "export": ["student", "generation_1", "ensemble"]}
    changed["procedure"]["first"]["export"] = ["student"]
    with pytest.raises(RecipeError, match="nothing is called"):
        run(tmp_path / "bad", changed)
    del changed["export"], changed["procedure"]["first"]["export"]
    results = run(tmp_path / "run", changed)
    scores = results["student"]["scores"]["eval"]
    assert set(scores) == {"top_k", "top_k_ensemble"}
    image = torch.from_numpy(Noise(40, seed=1).x)
    models = [
        mmkd.from_pretrained(tmp_path / "run" / place, nodes=networks()) for place in ("stages/generation_1", ".")
    ]
    logits = [model.values({"image": image}, ["student.logits"])["student.logits"] for model in models]
    label = torch.tensor([Noise(40, seed=1)[i]["label"] for i in range(40)])
    mean = torch.stack([each.softmax(-1) for each in logits]).mean(0)
    expected = (mean.argmax(-1) == label).float().mean().item()
    assert next(iter(scores["top_k_ensemble"].values())) == pytest.approx(expected, abs=1e-6)
    assert mmkd.evaluate(tmp_path / "run", nodes=networks(), data=data())["student"]["scores"]["eval"] == scores


def test_generations_begin_anew_from_other_random_numbers() -> None:
    stages = mmkd.stages(generations(generations=3))
    assert [stage.train.seed for stage in stages.values()] == [0, 1, 2]
    assert list(stages) == ["generation_1", "generation_2", "generation_3"]
    assert stages["generation_1"].teacher is None
    teacher = stages["generation_2"].teacher
    assert teacher is not None and teacher.stage == "generation_1.student"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"a": {"lozses": {}}, "b": {}}, "procedure.stages.a.lozses"),
        ({"a": {"losses": {"kd": {"use": "core.kl", "weight": "x"}}}, "b": {}}, "procedure.stages.a.losses.kd"),
        ({"a": {}, "b": {"start": "c"}}, "'c' is no stage before it"),
        ({"a": {"teacher": {"stage": "b"}}, "b": {}}, "'b' is no stage before it"),
        ({"a": {}, "b": {"teacher": {"stage": "a.large"}}}, "exports no 'large'"),
        ({"A": {}}, "lower-case"),
        ({}, "makes no stage"),
        ({"a": {"procedure": {"use": "core.stages", "stages": {"x": {}, "y": {}}}}, "b": {}}, "no stages of its own"),
        ({"a": {}, "b": {"losses": {"label": {"use": "core.cross_entropy", "student": "student.logit"}}}}, "stage 'b'"),
    ],
)
def test_a_mistake_in_a_stage_is_named_before_the_first_step(changes: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(MmkdError, match=message.replace(".", r"\.")):
        run(tmp_path / "run", staged(changes))
    assert not (tmp_path / "run").exists()


def test_another_network_under_the_same_name_is_an_error(tmp_path: Path) -> None:
    from mmkd.graph.state import carry

    graph = mmkd.build(recipe(), nodes=networks(), data=data())
    other = {**networks(), "student": nn.Sequential(nn.Linear(FEATURES, 9), nn.BatchNorm1d(9), nn.Linear(9, CLASSES))}
    wider = mmkd.build(recipe(), nodes=other, data=data())
    with pytest.raises(GraphError, match="'student' is not the network"):
        carry(graph, wider.state_dict())


def test_a_staged_recipe_is_not_built_as_one() -> None:
    with pytest.raises(RecipeError, match="is made in stages"):
        mmkd.build(staged({"a": {}, "b": {}}), nodes=networks(), data=data())


def test_a_staged_run_is_reported_and_examined(tmp_path: Path) -> None:
    made = staged({"hint": {"losses": HINT}, "kd": {}})
    run(tmp_path / "run", made)
    page = mmkd.write_report(tmp_path / "run", nodes=networks(), data=data()).read_text()
    assert "stage hint" in page
    diagnosis = mmkd.doctor(made, nodes=networks(), data=data())
    assert not diagnosis.errors


def test_a_network_of_an_earlier_stage_is_exported_with_its_weights(tmp_path: Path) -> None:
    mean = {"ensemble": {"use": "core.mean", "teachers": ["elder.logits", "student.logits"]}}
    last = {"teacher": None, "teachers": {"elder": {"stage": "a"}}, "mixers": mean, "losses": LABEL}
    last["export"] = ["student", "elder", "ensemble"]
    plain = {**staged({"a": {"losses": LABEL}, "b": {**last, "start": "scratch"}})}
    del plain["projectors"]
    run(tmp_path / "run", plain, nodes=networks())
    model = mmkd.from_pretrained(tmp_path / "run", nodes={**networks(), "elder": networks()["student"]})
    elder = mmkd.from_pretrained(tmp_path / "run" / "stages" / "a", nodes=networks())
    batch = {"image": torch.randn(5, FEATURES)}
    values = model.values(batch, ["elder.logits", "student.logits", "ensemble"])
    assert torch.equal(values["elder.logits"], elder.values(batch, ["student.logits"])["student.logits"])
    mean_distribution = (values["elder.logits"].softmax(-1) + values["student.logits"].softmax(-1)) / 2
    torch.testing.assert_close(values["ensemble"].softmax(-1), mean_distribution)
