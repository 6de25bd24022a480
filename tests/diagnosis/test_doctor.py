"""The doctor itself: leaves everything as it was, hides nothing, speaks to people and to programs."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diagnosis.patients import MEAN, STD, Net, Pictures, images, normalized
from engine import toys
from PIL import Image

import mmkd
from mmkd import plugins
from mmkd.cli import main
from mmkd.diagnosis import doctor as room
from mmkd.diagnosis.finding import Finding
from mmkd.errors import TrainingError

MINE = """
import mmkd
import numpy as np
import torch
from torch import nn


class Vectors(mmkd.Dataset):
    def __init__(self, first: int = 0) -> None:
        self.first = first

    def __len__(self) -> int:
        return 32

    def __getitem__(self, index: int) -> mmkd.Sample:
        x = np.random.default_rng(index).standard_normal(6).astype("float32")
        return {"x": x, "label": self.first + index % 3}


class Plain(mmkd.Encoder):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, width), nn.ReLU(), nn.Linear(width, 3))

    def values(self):
        return ["logits"]

    def forward(self, x: torch.Tensor):
        return {"logits": self.net(x)}


@mmkd.hookimpl
def mmkd_register(registry: mmkd.Registry) -> None:
    registry.dataset("vectors", Vectors)
    registry.encoder("plain", Plain)
"""
NUMBERS = itertools.count()
RECIPE = """
teacher: {use: local.plain, width: 16}
student: {use: local.plain, width: 8}
losses:
  kd: {use: core.kl, student: student.logits, teacher: teacher.logits}
  ce: {use: core.cross_entropy, student: student.logits}
data: {train: {use: local.vectors}, batch_size: 8}
train: {steps: 3, device: cpu}
"""


def state_of(nodes: dict[str, Any]) -> list[torch.Tensor]:
    return [tensor.clone() for net in nodes.values() for tensor in net.state_dict().values()]


def test_everything_is_afterwards_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    patient = images()
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    before, modes = state_of(patient.nodes), [net.training for net in patient.nodes.values()]
    assert mmkd.doctor(patient.recipe, nodes=patient.nodes, data=patient.data).ok
    assert random.getstate() == states[0] and np.random.get_state()[1].tolist() == states[1]
    assert torch.equal(torch.get_rng_state(), states[2])
    assert all(torch.equal(a, b) for a, b in zip(before, state_of(patient.nodes), strict=True))
    assert modes == [net.training for net in patient.nodes.values()]
    assert all(p.grad is None and p.requires_grad for net in patient.nodes.values() for p in net.parameters())
    assert not [hook for net in patient.nodes.values() for m in net.modules() for hook in m._forward_hooks]
    assert not list(tmp_path.iterdir())


def test_a_check_that_breaks_hides_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(exam: object) -> Iterator[Finding]:
        yield Finding("note", "so far")
        raise ZeroDivisionError("by zero")

    patient = images(transform=lambda s: normalized(s) * 255)
    monkeypatch.setitem(room.CHECKS, "roles", broken)
    found = {f.check: f for f in mmkd.doctor(patient.recipe, nodes=patient.nodes, data=patient.data).findings}
    assert found["roles"].severity == "note" and "ZeroDivisionError: by zero" in found["roles"].what
    assert found["preprocessing"].severity == "error"


def test_several_mistakes_are_found_at_once_worst_first() -> None:
    patient = images(student=Net().requires_grad_(False))
    patient.recipe["train"]["lr"] = 5.0
    patient.data |= {"train": Pictures(64, 0, first=1), "eval": Pictures(24, 0, first=1)}
    found = mmkd.doctor(patient.recipe, nodes=patient.nodes, data=patient.data).findings
    assert {"labels", "gradients", "leakage"} <= {f.check for f in found}
    ranks = [room.SEVERITIES.index(f.severity) for f in found]
    assert ranks == sorted(ranks)


def test_a_bad_recipe_is_a_finding() -> None:
    (found,) = mmkd.doctor({**toys.recipe(), "losses": {}}).findings
    assert (found.severity, found.check, found.where) == ("error", "recipe", "recipe: losses")


def test_pictures_show_what_each_network_sees(tmp_path: Path) -> None:
    patient = images(transform=lambda s: normalized({"image": s["image"].resize((8, 8))}))
    mmkd.doctor(patient.recipe, nodes=patient.nodes, data=patient.data, pictures=tmp_path / "seen")
    page = np.asarray(Image.open(tmp_path / "seen" / "inputs.png"), dtype=int)
    raw = [patient.data["train"][i] for i in range(64)]
    right = page[30:190, 176:336][5::10, 5::10]  # the student's first picture, 16 pixels drawn as 160
    assert min(abs(right - np.asarray(s["image"], dtype=int)).max() for s in raw) <= 1
    left = page[30:190, 8:168][10::20, 10::20]  # the teacher's, 8 pixels
    assert min(abs(left - np.asarray(s["image"].resize((8, 8)), dtype=int)).max() for s in raw) <= 1


def test_a_declared_channel_order_is_respected() -> None:
    def reversed_(sample: mmkd.Sample) -> torch.Tensor:
        return normalized({"image": np.asarray(sample["image"])[..., ::-1]})

    net = Net(12)
    net.pretrained_cfg = {"mean": MEAN, "std": STD, "channels": "BGR"}
    patient = images(teacher=net, transform=reversed_)
    assert not mmkd.doctor(patient.recipe, nodes=patient.nodes, data=patient.data).findings


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    name = f"mine_{next(NUMBERS)}.py"  # a module stays imported for as long as the process lives
    (tmp_path / name).write_text(MINE)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    plugins.host.cache_clear()
    yield name
    plugins.host.cache_clear()


def command(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    return int(ended.value.code or 0)


def test_json_is_alone_on_stdout_and_errors_are_the_exit_status(mine: str, capsys: Any) -> None:
    assert command("doctor", "recipe.yaml", "--plugin", mine, "--json") == 0
    healthy = json.loads(capsys.readouterr().out)
    assert healthy["ok"] and healthy["findings"] == [] and healthy["measured"]["batch_size"] == 8
    assert command("doctor", "recipe.yaml", "data.train.first=1", "--plugin", mine, "--json") == 1
    ill = json.loads(capsys.readouterr().out)
    assert not ill["ok"] and [f["check"] for f in ill["findings"]] == ["labels"]
    assert set(ill["findings"][0]) == {"severity", "what", "where", "fix", "check"}


def test_plain_text_names_place_and_fix(mine: str, capsys: Any) -> None:
    assert command("doctor", "recipe.yaml", "losses.kd.weight=5000", "--plugin", mine) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("warning: losses.kd.weight: loss 'kd' pulls the students")
    assert out[1].startswith("  fix: losses.kd.weight=") and out[2] == "1 warning"


def test_a_run_stops_before_anything_is_written(mine: str, capsys: Any) -> None:
    swapped = ["losses.kd.student=teacher.logits", "losses.kd.teacher=student.logits", "train.lr=100"]
    given = ["distill", "recipe.yaml", *swapped, "--plugin", mine, "--output-dir", "run"]
    assert command(*given) == 1
    said = capsys.readouterr().err
    assert "losses.kd: loss 'kd' is reversed" in said and "--no-preflight" in said and "warning: train.lr" in said
    assert not Path("run").exists()
    assert command(*given, "--no-preflight") == 0
    assert "warning" not in capsys.readouterr().err and Path("run/results.json").is_file()


def test_a_doubt_is_said_once_and_not_again_on_resume(tmp_path: Path, capsys: Any) -> None:
    changed = toys.recipe(lr=3.0, steps=6)
    for resume in (False, True):
        mmkd.distill(changed, output_dir=tmp_path / "run", nodes=toys.networks(), data=toys.data(), resume=resume)
        assert capsys.readouterr().err.count("warning: train.lr") == (not resume)


def test_the_preflight_changes_no_bit_of_a_run(tmp_path: Path) -> None:
    states = []
    for preflight in (True, False):
        folder = tmp_path / str(preflight)
        mmkd.distill(toys.recipe(), output_dir=folder, nodes=toys.networks(), data=toys.data(), preflight=preflight)
        states.append([file.read_bytes() for file in sorted((folder / "checkpoint-20").glob("*.safetensors"))])
    assert states[0] == states[1] and len(states[0]) == 2


def test_a_run_of_ones_own_loop_has_nothing_to_measure() -> None:
    patient = images()
    del patient.recipe["train"], patient.recipe["evaluate"]
    diagnosis = mmkd.doctor(patient.recipe, nodes=patient.nodes, data=patient.data)
    assert diagnosis.ok and diagnosis.measured == {}


def test_errors_of_the_preflight_name_the_place(tmp_path: Path) -> None:
    patient = images(transform=lambda s: normalized(s) * 255)
    patient.recipe["train"]["steps"] = 2
    with pytest.raises(TrainingError, match=r"^teacher: the pictures .* not scaled"):
        mmkd.distill(patient.recipe, output_dir=tmp_path / "run", nodes=patient.nodes, data=patient.data)
    assert not (tmp_path / "run").exists()


def test_memory_that_cannot_fit_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    patient = images()
    monkeypatch.setattr("mmkd.diagnosis.cost._memory", lambda device: 10_000)
    (found,) = mmkd.doctor(patient.recipe, nodes=patient.nodes, data=patient.data).findings
    assert (found.severity, found.check, found.where) == ("error", "cost", "data.batch_size")
    small = mmkd.doctor(patient.recipe, nodes=patient.nodes, data=patient.data).measured["memory_bytes"]
    patient.recipe["data"]["batch_size"] = 64
    large = mmkd.doctor(patient.recipe, nodes=patient.nodes, data=patient.data).measured["memory_bytes"]
    weights = sum(p.nbytes for net in patient.nodes.values() for p in net.parameters())
    assert weights < small < large < 4 * small
