"""The student of one run as the teacher of another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import mmkd
from mmkd.errors import RecipeError
from mmkd.testing import check_encoder

LABEL = {"label": {"use": "core.cross_entropy", "student": "student.logits"}}


class Pictures(mmkd.Dataset):
    """Noise in two classes."""

    def __len__(self) -> int:
        return 16

    def __getitem__(self, index: int) -> mmkd.Sample:
        pixels = np.random.default_rng(index).integers(0, 255, (16, 16, 3), dtype=np.uint8)
        return {"key": str(index), "image": Image.fromarray(pixels), "label": index % 2}


def recipe(**changes: Any) -> dict[str, Any]:
    student = {"use": "vision.convnet", "image_size": 16, "widths": [8, 8], "num_classes": 2}
    train = {"steps": 2, "lr": 0.01, "device": "cpu"}
    return {"student": student, "losses": LABEL, "train": train, "data": {"batch_size": 8}, **changes}


def distil(folder: Path, changed: dict[str, Any]) -> Path:
    mmkd.distill(changed, output_dir=folder, data={"train": Pictures()}, preflight=False)
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return distil(tmp_path_factory.mktemp("run") / "first", recipe())


def test_a_student_teaches_the_next_run(trained: Path, tmp_path: Path) -> None:
    kd = {"kd": {"use": "core.kl", "student": "student.logits", "teacher": "teacher.logits"}}
    taught = recipe(teacher={"use": "core.exported", "path": str(trained)}, losses=kd, export=["student", "teacher"])
    distil(tmp_path / "second", taught)
    first, second = mmkd.from_pretrained(trained), mmkd.from_pretrained(tmp_path / "second")
    samples = [Pictures()[i] for i in range(4)]
    expected = first.values(first.collate(samples), ["student.logits"])["student.logits"]
    values = second.values(second.collate(samples), ["teacher.logits", "student.logits"])
    assert torch.equal(values["teacher.logits"], expected)
    assert not torch.equal(values["student.logits"], expected)


def test_its_taps_and_hidden_values_are_the_networks_own(trained: Path) -> None:
    hint = {"hint": {"use": "core.mse", "student": "student.hidden.1", "teacher": "teacher.hidden.1"}}
    graph = mmkd.build(
        recipe(teacher={"use": "core.exported", "path": str(trained)}, losses=hint), data={"train": Pictures()}
    )
    batch = graph.collate([Pictures()[i] for i in range(4)])
    own = mmkd.from_pretrained(trained).values(batch | {"student": batch.get("student", {})}, ["student.hidden.1"])
    torch.testing.assert_close(graph.values(batch, ["teacher.hidden.1"])["teacher.hidden.1"], own["student.hidden.1"])
    assert not any(p.requires_grad for p in graph.nodes["teacher"].parameters())


def test_a_network_that_was_not_exported_is_named(trained: Path) -> None:
    teacher = {"use": "core.exported", "path": str(trained), "node": "large"}
    with pytest.raises(RecipeError, match="has no network 'large'"):
        mmkd.build(recipe(teacher=teacher), data={"train": Pictures()})


def test_the_kit_finds_nothing(trained: Path) -> None:
    from mmkd.plugins import host

    exported = host().catalogue.get("encoder", "core.exported").load()
    samples = [Pictures()[i] for i in range(4)]
    assert check_encoder(exported, options={"path": str(trained)}, samples=samples)
