"""TED: filters learn what the task needs of a layer, then the layers are matched through them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

import mmkd
from mmkd import plugins
from mmkd.engine import checkpoint

SIGNAL, NOISE, CLASSES = 4, 12, 3
HEADS = ["teacher_head_1", "teacher_head_2", "student_head_1", "student_head_2"]


class Padded(mmkd.Encoder):
    """Two layers, each padded with input that has nothing to do with the task."""

    def __init__(self, width: int, seed: int, padded: bool) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.first, self.second = nn.Linear(SIGNAL if padded else SIGNAL + NOISE, width), nn.Linear(width, width)
            self.head = nn.Linear(width, CLASSES)
        self.padded = padded

    def values(self) -> list[str]:
        return ["hidden.0", "hidden.1", "hidden.2", "logits"]

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        noise = 3 * image[:, SIGNAL:]
        first = self.first(image[:, :SIGNAL] if self.padded else image).relu()
        second = self.second(first).relu()
        hidden = [image, first, second]
        if self.padded:
            hidden[1:] = [torch.cat([h, noise], -1) for h in hidden[1:]]
        return {**{f"hidden.{i}": h for i, h in enumerate(hidden)}, "logits": self.head(second)}


class Points(mmkd.Dataset):
    """The label hangs on the first four numbers."""

    def __init__(self, size: int, seed: int) -> None:
        self.x = np.random.default_rng(seed).standard_normal((size, SIGNAL + NOISE)).astype(np.float32)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> mmkd.Sample:
        x = self.x[index]
        return {"key": f"point/{index}", "image": x, "label": int(np.argmax([x[0] * x[1], x[2], x[3]]))}


@pytest.fixture(scope="module")
def teacher() -> Padded:
    network, data = Padded(24, 0, padded=True), Points(600, 5)
    image, label = torch.from_numpy(data.x), torch.tensor([data[i]["label"] for i in range(len(data))])
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    for _ in range(120):
        optimizer.zero_grad()
        F.cross_entropy(network(image)["logits"], label).backward()
        optimizer.step()
    return network


def distill(teacher: nn.Module, folder: Path, resume: bool = False, steps: int = 150, **changes: Any) -> dict[str, Any]:
    train = {"steps": steps, "lr": 0.01, "lr_schedule": "constant", "device": "cpu", "checkpoint_every": 20}
    document = {"recipe": "core.ted", "train": {**train, "log_every": 50}, "data": {"batch_size": 32}, **changes}
    nodes = {"student": Padded(6, 1, padded=False), "teacher": teacher}
    data = {"train": Points(160, 0), "eval": Points(400, 1)}
    return mmkd.distill(
        document, output_dir=folder, nodes=nodes, data=data, resume=resume, baseline=False, preflight=False
    )


def state(folder: Path) -> dict[str, Tensor]:
    (last,) = checkpoint.checkpoints(folder)
    return load_file(last / "graph.safetensors")


def test_filters_leave_out_what_the_task_does_not_need(teacher: Padded, tmp_path: Path) -> None:
    decay = {"stages": {"filters": {"train": {"steps": 300, "weight_decay": 1.0}}}}
    distill(teacher, tmp_path / "run", steps=20, procedure=decay)
    filters, end = state(tmp_path / "run" / "stages" / "filters"), state(tmp_path / "run")
    for layer in ("teacher_filter_1", "teacher_filter_2"):
        weight = filters[f"projectors.{layer}.layer.weight"]
        useful, noise = weight[:, :24].square().mean().sqrt(), weight[:, 24:].square().mean().sqrt()
        assert noise < 0.5 * useful
        assert torch.equal(weight, end[f"projectors.{layer}.layer.weight"])  # it stands still in the second stage
        assert not torch.equal(filters[f"projectors.{layer.replace('teacher', 'student')}.layer.weight"],
                               end[f"projectors.{layer.replace('teacher', 'student')}.layer.weight"])  # fmt: skip
    start = Padded(6, 1, padded=False).state_dict()
    assert all(torch.equal(end[f"nodes.student.{name}"], value) is False for name, value in start.items())
    kept = load_file(tmp_path / "run" / "stages" / "filters" / "student" / "model.safetensors")
    assert all(torch.equal(kept[f"nodes.student.{name}"], value) for name, value in start.items())


def test_it_is_not_layer_wise_distillation(teacher: Padded, tmp_path: Path) -> None:
    """Without filters the student copies the noise too."""
    bare = {
        "projectors": dict.fromkeys(["teacher_filter_1", "teacher_filter_2", *HEADS]),
        "losses": {"layer_1": {"teacher": "teacher.hidden.-2"}, "layer_2": {"teacher": "teacher.hidden.-1"}},
        "procedure": None,
    }
    bare["evaluate"] = [{"use": "core.agreement", "student": "student.logits", "teacher": "teacher.logits"}]
    train = {"filters": {"train": {"steps": 300, "weight_decay": 1.0}}}
    ted = distill(teacher, tmp_path / "ted", evaluate=bare["evaluate"], procedure={"stages": train})
    lwd = distill(teacher, tmp_path / "lwd", **bare)
    agrees, copies = (made["student"]["scores"]["eval"]["agreement"]["agreement"] for made in (ted, lwd))
    assert agrees > copies + 0.02
    assert list(ted["stages"]) == ["filters"]


def test_killed_and_resumed_it_equals_the_run_that_was_not_and_exports_no_filter(
    teacher: Padded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    distill(teacher, tmp_path / "whole", steps=30)
    call, seen = plugins.Host.call, []

    def killing(self: plugins.Host, hook: str, **arguments: Any) -> None:
        seen.append(hook)
        if hook == "mmkd_step_end" and seen.count(hook) in (25, 55):
            raise Killed
        call(self, hook, **arguments)

    with monkeypatch.context() as patch:
        patch.setattr(plugins.Host, "call", killing)
        for resume in (False, True):
            with pytest.raises(Killed):
                distill(teacher, tmp_path / "cut", resume=resume, steps=30)
    distill(teacher, tmp_path / "cut", resume=True, steps=30)
    whole, cut = state(tmp_path / "whole"), state(tmp_path / "cut")
    assert [key for key in whole if not torch.equal(whole[key], cut[key])] == [] and whole.keys() == cut.keys()
    exported = load_file(tmp_path / "whole" / "student" / "model.safetensors")
    assert {key.split(".")[0] for key in exported} == {"nodes"}
    assert json.loads((tmp_path / "whole" / "student" / "config.json").read_text())["projectors"] == {}
