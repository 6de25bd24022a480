"""Every bad recipe: one error that names file and field, exit 1, nothing left behind."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mmkd.cli import main

PLUGIN = '''
import numpy as np
import torch
import mmkd


class Line(mmkd.Encoder):
    """One linear layer."""

    def __init__(self, width: int = 4, pretrained: bool = False):
        super().__init__()
        self.line = torch.nn.Linear(6, width)

    def values(self):
        return ["embedding", "logits"]

    def forward(self, image):
        return {"embedding": self.line(image), "logits": self.line(image)}


class Noise(mmkd.Dataset):
    """Random vectors."""

    def __init__(self, size: int = 32, broken: bool = False):
        self.size, self.broken = size, broken

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        if self.broken and index == 3:
            raise OSError("truncated")
        return {"image": np.random.default_rng(index).standard_normal(6).astype("float32"), "label": index % 4}


@mmkd.hookimpl
def mmkd_register(registry):
    registry.encoder("line", Line)
    registry.dataset("noise", Noise)
'''

GOOD = """
name: good
teacher: {use: local.line, width: 6}
student: {use: local.line}
projectors:
  up: {use: core.linear, input: student.embedding, like: teacher.embedding}
losses:
  feature: {use: core.mse, student: up, teacher: teacher.embedding}
  label: {use: core.cross_entropy, student: student.logits, weight: 0.5}
data:
  train: {use: local.noise}
  batch_size: 8
train: {steps: 2, device: cpu}
"""


def edited(old: str, new: str) -> str:
    assert old in GOOD
    return GOOD.replace(old, new)


BAD = {
    "misspelt top key": (edited("losses:", "loses:"), r"loses: unknown key.*did you mean 'losses'"),
    "misspelt option": (edited("width: 6", "widht: 6"), r"teacher\.widht: unknown option.*did you mean 'width'"),
    "wrong type": (edited("width: 6", "width: wide"), r"teacher\.width: .*integer.*'wide'"),
    "misspelt port": (edited("teacher: teacher.embedding}", "tacher: teacher.embedding}"), r"losses\.feature\.tacher: .*'teacher'"),
    "missing port": (edited("student: up, ", ""), r"losses\.feature: port 'student'.*not bound"),
    "misspelt value": (edited("student: up", "student: student.embeding"), r"losses\.feature\.student: .*'student\.embedding'"),
    "misspelt tap": (edited("input: student.embedding", "input: student/lin"), r"projectors\.up\.input: the network has no module.*did you mean 'line'"),
    "unknown node": (edited("student: up", "student: pupil.embedding"), r"losses\.feature\.student: nothing is called"),
    "node without value": (edited("student: up", "student: student"), r"losses\.feature\.student: .*say which value"),
    "shape clash": (edited("student: up", "student: student.embedding"), r"losses\.feature: .*4.*6"),
    "cycle": (
        edited("input: student.embedding", "input: down").replace("losses:", "  down: {use: core.linear, input: up, like: up}\nlosses:"),
        r"projectors\..*cycle: up -> down -> up|projectors\..*cycle: .*",
    ),
    "learning rate NaN": (edited("steps: 2", "steps: 2, lr: .nan"), r"train\.lr: .*finite"),
    "negative learning rate": (edited("steps: 2", "steps: 2, lr: -1"), r"train\.lr: .*greater than 0"),
    "steps and epochs": (edited("steps: 2", "steps: 2, epochs: 2"), r"train: .*exactly one of 'steps' and 'epochs'"),
    "unknown plugin": (edited("local.line, width: 6", "olfactory.nose"), r"teacher\.use: no encoder 'olfactory\.nose'"),
    "unknown component": (edited("core.mse", "core.mze"), r"losses\.feature\.use: no loss 'core\.mze'; did you mean 'core\.mse'"),
    "wrong kind": (edited("core.mse", "core.top_k"), r"losses\.feature\.use: 'core\.top_k' is a metric, not a loss"),
    "code instead of an id": (edited("core.mse", "os:system"), r"losses\.feature\.use: .*registered ids only"),
    "unsafe tag": (edited("width: 6", "width: !!python/object/apply:os.system ['true']"), r"bad\.yaml.*tag"),
    "alias bomb": (
        "a: &a [x, x, x, x, x, x, x, x, x]\n"
        + "".join(f"{n}: &{n} [{', '.join([f'*{p}'] * 9)}]\n" for p, n in zip("abcdefgh", "bcdefghi", strict=True)),
        r"bad\.yaml.*values",
    ),
    "duplicate key": (GOOD + "student: {use: local.line}\n", r"bad\.yaml.*'?student'?.*twice|bad\.yaml.*duplicate"),
    "tab": (edited("  batch_size: 8", "\tbatch_size: 8"), r"bad\.yaml:\d+"),
    "empty": ("", r"bad\.yaml: is empty"),
    "not a map": ("- a\n- b\n", r"bad\.yaml: must be a map"),
    "batch larger than the data": (edited("batch_size: 8", "batch_size: 64"), r"data\.batch_size: the training data has 32"),
    "accumulation that does not divide": (edited("steps: 2", "steps: 2, gradient_accumulation_steps: 3"), r"train\.gradient_accumulation_steps: does not divide"),
    "no data": (edited("  train: {use: local.noise}\n", ""), r"data\.train: no training data"),
    "broken sample": (edited("{use: local.noise}", "{use: local.noise, broken: true}"), r"sample 3.*truncated"),
    "name taken twice": (edited("  up:", "  teacher:"), r"projectors\.teacher: 'teacher' already names"),
    "missing device": (edited("device: cpu", "device: cuda:7"), r"train\.device: no CUDA device|train\.device"),
    "metric of what does not exist": (GOOD + "evaluate: [{use: core.top_k, student: student.logit}]\n", r"evaluate\.0\.student: .*'student\.logits'"),
    "metric of what no loss reads": (
        edited("losses:", "  aside: {use: core.linear, input: student.embedding, like: teacher.embedding}\nlosses:")
        + "evaluate: [{use: core.top_k, student: aside}]\n",
        r"evaluate\.0: no loss reads 'aside'",
    ),
    "baseline that needs the teacher": (
        GOOD + "baseline: {losses: {feature: {use: core.mse, student: student.embedding, teacher: teacher.embedding}}}\n",
        r"baseline\.losses\.feature\.teacher|losses\.feature\.teacher: nothing is called 'teacher",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plugin") / "line_and_noise.py"
    path.write_text(PLUGIN)
    return path


def distill(tmp_path: Path, text: str, plugin: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    (tmp_path / "bad.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main(["distill", "bad.yaml", "--plugin", str(plugin), "--output-dir", "out"])
    return int(stopped.value.code or 0)


def test_the_good_one_runs(tmp_path: Path, plugin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert distill(tmp_path, GOOD, plugin, monkeypatch) == 0
    assert (tmp_path / "out" / "student" / "model.safetensors").is_file()


@pytest.mark.parametrize("name", BAD)
def test_bad(
    name: str, tmp_path: Path, plugin: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text, message = BAD[name]
    assert distill(tmp_path, text, plugin, monkeypatch) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err
    assert re.search(message, err, re.S), err
    assert "bad.yaml" in err, err
    assert err.count("\n  next:") <= 1
    assert [p.name for p in tmp_path.iterdir()] == ["bad.yaml"]
