"""The kit from outside: strangers' plugins in three lines, the errors it raises, and the command line."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fixtures.installed import installed, lay_out
from testing import broken

from mmkd.errors import PluginError
from mmkd.library.losses.cosine import CosineDistance
from mmkd.testing import ConformanceError, check_loss, check_plugin
from mmkd.testing.surroundings import changed, preserved, surroundings


@pytest.mark.parametrize("plugin", ["queue", "wcritic", "smell"])
def test_a_strangers_plugin_in_three_lines(tmp_path: Path, plugin: str) -> None:
    with installed(tmp_path, plugin):
        assert len(check_plugin(plugin)) > 1


def test_the_documented_barlow_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "fixtures" / "third_party")
    from mmkd_barlow import CrossCorrelationLoss

    assert {"coupled", "min_batch", "student_gradient"} <= set(check_loss(CrossCorrelationLoss))


def test_an_error_lists_every_failure_with_reason_and_fix() -> None:
    class Twice(broken.SummedMSE):
        min_batch = 2

    with pytest.raises(ConformanceError) as caught:
        check_loss(Twice)
    failures = caught.value.failures
    assert len(failures) > 1
    assert all(f.what and f.why and f.fix and f.probe in caught.value.ran for f in failures)
    assert all(f"{f.probe}: " in str(caught.value) and f.why in str(caught.value) for f in failures)
    assert f"fails {len(failures)} of {len(caught.value.ran)} probes" in str(caught.value)


def test_instances_are_copied() -> None:
    loss = CosineDistance()
    assert check_loss(loss, inputs={"student": torch.randn(5, 3, 6), "teacher": torch.randn(5, 3, 6)})
    assert not list(loss.parameters())


def test_checks_leave_no_trace() -> None:
    before = surroundings()
    check_loss(CosineDistance)
    for cls in (broken.Seeds, broken.ConsumesNumPy, broken.Environment, broken.Moody):
        with pytest.raises(ConformanceError):
            check_loss(cls)
    assert not changed(before)


def test_changes_to_the_process_are_seen_and_undone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = surroundings()
    with preserved():
        random.random()
        np.random.rand()
        torch.rand(1)
        torch.set_default_dtype(torch.float64)
        monkeypatch.chdir(tmp_path)
        assert set(changed(before)) == {
            "Python's random numbers", "NumPy's random numbers", "torch's random numbers", "torch's default dtype",
            "the working directory",
        }  # fmt: skip
    assert not changed(before)


def test_what_cannot_be_built_must_be_explained(tmp_path: Path) -> None:
    with pytest.raises(
        ConformanceError, match=r"dataset vision\.image_folder: not built: options without a default: path"
    ):
        check_plugin("vision", dict.fromkeys(("convnet", "timm", "torchvision"), "not here"))
    with pytest.raises(PluginError, match=r"did you mean 'encoder\.convnet'"):
        check_plugin("vision", {"encoder.convnets": {}})
    with pytest.raises(PluginError, match="no plugin 'visoin' is installed; did you mean 'vision'"):
        check_plugin("visoin")


@pytest.mark.parametrize("name", ["wrong_type", "raises_at_import"])
def test_a_broken_plugin_fails_the_check(site: Any, name: str) -> None:
    done = site.install(name).mmkd("check", name)
    assert done.returncode == 1
    assert "registers" in done.stdout


def test_the_command_line(site: Any, tmp_path: Path) -> None:
    path = lay_out(tmp_path, "smell")
    environment = {"PYTHONPATH": ":".join([str(site.folder), *path])}
    done = site.mmkd("check", "smell", **environment)
    assert done.returncode == 0, done.stdout
    assert [line.split()[:3] for line in done.stdout.splitlines()] == [
        ["kind", "id", "status"], ["plugin", "smell", "ok"], ["encoder", "smell.nose", "ok"],
        ["curator", "smell.breeze", "ok"], ["dataset", "smell.bouquets", "ok"],
    ]  # fmt: skip


def test_the_command_line_says_what_failed(site: Any) -> None:
    (site.folder / "mine.py").write_text(LOCAL)
    done = site.mmkd("check", "local", "--plugin", "mine.py")
    assert done.returncode == 1
    assert "mean_over_samples" in done.stdout and "fix: divide by the number of samples" in done.stdout
    shown = site.mmkd("check", "local", "loss.sum", "power=3", "--plugin", "mine.py", "--json")
    (verdict,) = json.loads(shown.stdout)
    assert (verdict["id"], verdict["status"]) == ("local.sum", "failed")
    found = {failure["probe"] for failure in verdict["failures"]}
    assert found == {"mean_over_samples", "coupled", "summary", "shapes_documented", "options_documented"}


LOCAL = """
import mmkd
from torch import Tensor

class Sum(mmkd.Loss):
    def __init__(self, power: int = 2) -> None:
        super().__init__()
        self.power = power

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        return (student - teacher).abs().pow(self.power).mean(1).sum()

@mmkd.hookimpl
def mmkd_register(registry: mmkd.Registry) -> None:
    registry.loss("sum", Sum)
"""
