"""A whole run: what it writes, what it exports, how it fails."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from engine.toys import FEATURES, data, networks, recipe
from torch import nn

import mmkd
from mmkd.errors import MmkdError, TrainingError


def run(folder: Path, changed: dict[str, Any] | None = None, **nodes: nn.Module) -> dict[str, Any]:
    return mmkd.distill(changed or recipe(), output_dir=folder, nodes={**networks(), **nodes}, data=data())


def test_a_run_writes_what_it_says(tmp_path: Path) -> None:
    results = run(tmp_path / "run")
    names = {p.name for p in (tmp_path / "run").iterdir()}
    assert names == {"best", "checkpoint-20", "log.jsonl", "provenance.json", "recipe.yaml", "results.json", "student"}
    assert json.loads((tmp_path / "run" / "results.json").read_text()) == results
    assert mmkd.load_recipe(tmp_path / "run" / "recipe.yaml") == mmkd.load_recipe(recipe())
    records = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [r["step"] for r in records if "loss" in r] == [5, 10, 15, 20]
    assert {"kd_loss", "hint_loss", "loss", "lr", "grad_norm", "samples_per_second"} <= records[0].keys()
    again = mmkd.evaluate(tmp_path / "run", nodes=networks(), data=data())
    assert again["student"]["scores"] == results["student"]["scores"]


def test_export_drops_what_is_train_only_and_gives_equal_output(tmp_path: Path) -> None:
    run(tmp_path / "run")
    model = mmkd.from_pretrained(tmp_path / "run", nodes=networks())
    assert {key.split(".")[1] for key in model.state_dict() if "." in key} == {"student"}
    assert not any(p.requires_grad for p in model.parameters()) and not model.training
    graph = mmkd.build(recipe(), nodes=networks(), data=data())
    from mmkd.engine import checkpoint

    checkpoint.restore(checkpoint.checkpoints(tmp_path / "run")[-1], graph, {})
    batch = {"image": torch.randn(5, FEATURES)}
    with torch.no_grad():
        torch.testing.assert_close(
            model.values(batch, ["student.logits"]), graph.eval().values(batch, ["student.logits"]), rtol=0, atol=0
        )


def test_an_exported_projector_keeps_its_widths(tmp_path: Path) -> None:
    run(tmp_path / "run", {**recipe(), "export": ["student", "up"]})
    model = mmkd.from_pretrained(tmp_path / "run", nodes=networks())
    assert model.values({"image": torch.randn(3, FEATURES)}, ["up"])["up"].shape == (3, 16)


def test_an_exported_teacher_without_a_checksum_is_stored_whole(tmp_path: Path) -> None:
    run(tmp_path / "run", {**recipe(), "export": ["student", "teacher"]})
    other = {**networks(), "teacher": nn.Sequential(nn.Linear(FEATURES, 16), nn.ReLU(), nn.Linear(16, 4))}
    model = mmkd.from_pretrained(tmp_path / "run", nodes=other)
    image = torch.randn(3, FEATURES)
    torch.testing.assert_close(
        model.values({"image": image}, ["teacher.logits"])["teacher.logits"], networks()["teacher"](image)
    )


def test_the_baseline_has_the_same_student_at_the_start_and_no_teacher(tmp_path: Path) -> None:
    changed = {
        **recipe(steps=1),
        "baseline": {"losses": {"ce": {"use": "core.cross_entropy", "student": "student.logits"}}},
    }
    results = run(tmp_path / "run", changed)
    assert results["baseline"]["scores"].keys() == results["student"]["scores"].keys()
    first = json.loads((tmp_path / "run" / "baseline" / "log.jsonl").read_text().splitlines()[0])
    assert "ce_loss" in first and "kd_loss" not in first


def test_the_best_evaluation_is_kept_beside_the_last(tmp_path: Path) -> None:
    results = run(tmp_path / "run", recipe(lr=0.05))
    records = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    seen = [(r["scores"]["eval"]["top_k"], r["step"]) for r in records if "scores" in r]
    values = [next(iter(scores.values())) for scores, _ in seen] + [results["student"]["best"]["value"]]
    assert results["student"]["best"]["value"] == max(values)
    assert mmkd.from_pretrained(tmp_path / "run" / "best", nodes=networks())


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_a_non_finite_step_stops_the_run_and_names_it(what: str, tmp_path: Path) -> None:
    class Breaks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.calls = networks()["student"], 0
            for index, child in enumerate(self.net.children()):
                self.add_module(str(index), child)

        def forward(self, x: torch.Tensor) -> Any:
            self.calls += torch.is_grad_enabled()
            logits = self.net(x)
            if self.calls < 8 or not torch.is_grad_enabled():
                return logits
            return logits * torch.nan if what == "loss" else logits + (logits * 0).square().sqrt()

    with pytest.raises(TrainingError) as raised:
        run(tmp_path / "run", recipe(), student=Breaks())
    assert "the update was skipped" in str(raised.value)
    assert ("'kd' (KLDivergence) is nan at step" if what == "loss" else "the gradient of") in str(raised.value)
    assert (tmp_path / "run" / "checkpoint-6").is_dir()


def test_a_recipe_that_cannot_be_built_leaves_nothing_behind(tmp_path: Path) -> None:
    changed = recipe()
    changed["losses"]["kd"]["teacher"] = "teacher.logit"
    with pytest.raises(MmkdError, match=r"losses\.kd\.teacher.*did you mean 'teacher\.logits'"):
        run(tmp_path / "run", changed)
    assert list(tmp_path.iterdir()) == []


def test_bf16_runs_and_keeps_losses_in_float32(tmp_path: Path) -> None:
    graph = mmkd.build(recipe(precision="bf16"), nodes=networks(), data=data())
    values = graph.compute(graph.collate([data()["train"][i] for i in range(4)]))
    assert values["student.logits"].dtype == torch.bfloat16
    assert {v.dtype for v in graph.objective(values).values()} == {torch.float32}
    assert run(tmp_path / "run", recipe(precision="bf16"))["steps"] == 20
