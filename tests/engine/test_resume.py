"""A run killed at any step equals the run that was not, bit for bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from engine.toys import data, networks, recipe
from safetensors.torch import load_file
from torch import nn

import mmkd
from mmkd import plugins
from mmkd.engine import checkpoint
from mmkd.errors import TrainingError


class Killed(BaseException):
    pass


def final(folder: Path) -> dict[str, torch.Tensor]:
    (last,) = checkpoint.checkpoints(folder)
    return {**load_file(last / "graph.safetensors"), **load_file(last / "state.safetensors")}


def kill_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    call = plugins.Host.call

    def killing(self: plugins.Host, hook: str, **arguments: Any) -> None:
        if hook == "mmkd_step_end" and arguments["step"] == step:
            raise Killed
        call(self, hook, **arguments)

    monkeypatch.setattr(plugins.Host, "call", killing)


def distill(folder: Path, resume: bool = False, **train: Any) -> dict[str, Any]:
    return mmkd.distill(recipe(**train), output_dir=folder, nodes=networks(), data=data(), resume=resume)


@pytest.mark.parametrize("step", [1, 6, 7, 13, 20])
def test_killed_and_resumed_equals_uninterrupted(step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    distill(tmp_path / "whole", gradient_accumulation_steps=2)
    with monkeypatch.context() as patch:
        kill_at(step, patch)
        with pytest.raises(Killed):
            distill(tmp_path / "cut", gradient_accumulation_steps=2)
    results = distill(tmp_path / "cut", resume=(tmp_path / "cut").exists(), gradient_accumulation_steps=2)
    whole, cut = final(tmp_path / "whole"), final(tmp_path / "cut")
    assert whole.keys() == cut.keys()
    assert [key for key in whole if not torch.equal(whole[key], cut[key])] == []
    assert results["steps"] == 20
    logs = [
        [json.loads(line) for line in (tmp_path / run / "log.jsonl").read_text().splitlines()]
        for run in ("whole", "cut")
    ]
    steps = [[(r["step"], r.get("loss"), r.get("scores")) for r in log] for log in logs]
    assert steps[0] == steps[1]


def test_workers_change_nothing(tmp_path: Path) -> None:
    for workers in (0, 2):
        changed = recipe()
        changed["data"]["workers"] = workers
        mmkd.distill(changed, output_dir=tmp_path / str(workers), nodes=networks(), data=data())
    one, other = final(tmp_path / "0"), final(tmp_path / "2")
    assert [key for key in one if not torch.equal(one[key], other[key])] == []


def test_a_checkpoint_cut_short_is_never_taken_for_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = checkpoint.save_file

    def dies(tensors: dict[str, torch.Tensor], path: Path) -> None:
        saved(tensors, path)
        if "checkpoint-12" in str(path):
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_file", dies)
        with pytest.raises(Killed):
            distill(tmp_path / "run")
    assert [p.name for p in checkpoint.checkpoints(tmp_path / "run")] == ["checkpoint-6"]
    distill(tmp_path / "run", resume=True)
    distill(tmp_path / "whole")
    assert all(torch.equal(a, final(tmp_path / "run")[key]) for key, a in final(tmp_path / "whole").items())


def test_a_folder_with_a_run_is_refused_without_resume(tmp_path: Path) -> None:
    distill(tmp_path / "run", steps=2)
    before = {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()}
    with pytest.raises(TrainingError, match="already holds a run"):
        distill(tmp_path / "run", steps=2)
    with pytest.raises(TrainingError, match="made by another recipe; they differ in train"):
        distill(tmp_path / "run", steps=3, resume=True)
    assert before == {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()}


def test_resuming_a_damaged_checkpoint_says_so(tmp_path: Path) -> None:
    distill(tmp_path / "run", steps=2)
    (last,) = checkpoint.checkpoints(tmp_path / "run")
    (last / "graph.safetensors").write_bytes(b"not a tensor in sight")
    with pytest.raises(TrainingError, match=r"checkpoint-2.*cannot be read"):
        distill(tmp_path / "run", steps=2, resume=True)


@pytest.mark.parametrize("kept", [0, 1])
def test_a_run_in_micro_batches_is_that_of_the_whole_batch(
    kept: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def trained(folder: Path, **train: Any) -> dict[str, Any]:
        document = recipe(**train)
        document["losses"]["pairs"] = {
            "use": "core.info_nce", "student": "student.logits", "teacher": "teacher.logits", "learnable": True,
        }  # fmt: skip
        nodes = {name: nn.Sequential(*(m for m in net if not isinstance(m, nn.BatchNorm1d | nn.Dropout)))
                 for name, net in networks().items()}  # fmt: skip
        document["projectors"]["up"]["input"] = "student/0"
        mmkd.distill(document, output_dir=folder, nodes=nodes, data=data())
        return final(folder)

    whole = trained(tmp_path / "whole")
    assert "gradient cache" not in capsys.readouterr().err
    parts = trained(tmp_path / "parts", gradient_accumulation_steps=4, kept_graphs=kept)
    assert "pairs read the whole batch" in " ".join(capsys.readouterr().err.split())
    assert whole.keys() == parts.keys()
    for name, tensor in whole.items():
        torch.testing.assert_close(parts[name], tensor, atol=1e-4, rtol=1e-3, msg=name)
