"""`mmkd.export`: what it writes for networks of one's own, and how it refuses."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from engine.toys import FEATURES, data, networks, recipe
from formats.exports import run, usage
from safetensors.torch import load_file
from torch import nn

import mmkd
from mmkd.errors import MmkdError
from mmkd.formats.program import _reason


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    """A run whose student was handed in."""
    declared = {key: value for key, value in recipe().items() if key not in ("student", "name")}
    return run(tmp_path / "run", {}, networks(), data(), **declared, export=["student", "up"])


def export(folder: Path, **options: Any) -> Path:
    return mmkd.export(folder, nodes=networks(), data=data(), **options)


def test_plain_weights_load_into_the_class_they_are_of(toy: Path) -> None:
    folder = export(toy, format="safetensors", values=["logits", "up"])
    assert folder == toy / "export" / "safetensors"
    fresh = nn.Sequential(nn.Linear(FEATURES, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.ReLU(), nn.Linear(8, 4))
    fresh.load_state_dict(load_file(folder / "model.safetensors"))
    image = torch.randn(3, FEATURES)
    model = mmkd.from_pretrained(toy, nodes=networks())
    expected = model.values({"image": image}, ["student.logits", "student/1", "up"])
    torch.testing.assert_close(fresh.eval()(image), expected["student.logits"])
    up = load_file(folder / "projector.up.safetensors")
    linear = nn.Linear(8, 16)
    linear.load_state_dict({key.rpartition(".")[2]: value for key, value in up.items()})
    torch.testing.assert_close(linear(expected["student/1"]), expected["up"])


def test_a_program_takes_any_batch_and_gives_the_values_asked_for(toy: Path) -> None:
    folder = export(toy, format="torch", values=["up", "logits", "student/3"])
    program = torch.export.load(folder / "model.pt2").module()
    model = mmkd.from_pretrained(toy, nodes=networks())
    for size in (1, 7):
        image = torch.randn(size, FEATURES)
        found = program(image)
        assert list(found) == ["up", "logits", "student/3"]
        expected = model.values({"image": image}, ["up", "student.logits", "student/3"])
        torch.testing.assert_close(list(found.values()), list(expected.values()))
    space: dict[str, Any] = {}
    code = usage(folder).replace('"model.pt2"', repr(str(folder / "model.pt2")))
    exec(code, space)
    assert "put what your own transform makes" in code and space["values"]["logits"].shape == (1, 4)


def test_its_own_form_is_read_by_from_pretrained(toy: Path, tmp_path: Path) -> None:
    folder = export(toy, format="mmkd", output=tmp_path / "own")
    image = torch.randn(3, FEATURES)
    a, b = (mmkd.from_pretrained(f, nodes=networks()).values({"image": image}, ["up"]) for f in (toy, folder))
    torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_nothing_is_replaced_unasked(toy: Path, tmp_path: Path) -> None:
    folder = export(toy, format="mmkd")
    (folder / "mark").touch()
    with pytest.raises(MmkdError, match="exists already"):
        export(toy, format="mmkd")
    export(toy, format="mmkd", force=True)
    assert not (folder / "mark").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    with pytest.raises(MmkdError, match="is no exported model, and is not replaced"):
        export(toy, format="mmkd", output=tmp_path / "mine", force=True)
    assert (tmp_path / "mine" / "thesis.txt").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "onnxx"}, r"has no form 'onnxx'; did you mean 'onnx'\?\n  there is: mmkd, safetensors, torch"),
        ({"format": "torch", "node": "studnet"}, r"holds no network 'studnet'; did you mean 'student'\?"),
        ({"format": "torch", "values": ["logit"]}, r"did you mean 'logits'|publishes no 'logit'"),
        ({"format": "torch", "values": ["batch.label"]}, "has no module|publishes no|only values of 'student'"),
        ({"format": "torch", "normalize": True}, "does not say mean and std"),
        ({"format": "mmkd", "values": ["logits"]}, "takes neither values nor normalize"),
    ],
)
def test_errors_name_what_there_is(toy: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(MmkdError, match=message):
        export(toy, **options)
    assert not (toy / "export").exists() or not list((toy / "export").iterdir())


def test_a_network_that_cannot_be_traced_says_so(tmp_path: Path) -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Linear(FEATURES, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.net(x) if x.sum() > 0 else -self.net(x)

    nodes = {"student": Branches()}
    loss = {"use": "core.cross_entropy", "student": "student.logits"}
    folder = run(tmp_path / "run", {}, nodes, data(), losses={"ce": loss})
    with pytest.raises(MmkdError, match=r"the network cannot be traced.*\n.*--format safetensors"):
        mmkd.export(folder, format="torch", nodes=nodes, data=data())
    assert not list((folder / "export").iterdir())


def test_the_reason_is_what_set_it_off() -> None:
    outer, inner = RuntimeError("This is step 3/3"), ValueError("\x1b[96mno operator\x1b[0m for it\nmore")
    outer.__cause__ = inner
    assert _reason(outer) == "no operator for it" and _reason(KeyError()) == "KeyError"


def test_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from mmkd.cli import main

    folder = run(tmp_path / "run", {"use": "vision.convnet", "widths": [4]})
    monkeypatch.setattr(sys, "argv", ["mmkd", "export", str(folder), "--format", "safetensors"])
    for expected in (0, 1):
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == expected
    assert capsys.readouterr().out.strip() == str(folder / "export" / "safetensors")
