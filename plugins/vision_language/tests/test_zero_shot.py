"""Zero-shot classification against loops, and prompts of classes as a dataset."""

from __future__ import annotations

import math
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmkd_vision_language.class_prompts import ClassPrompts
from mmkd_vision_language.zero_shot import ZeroShot
from torch import Tensor, nn

import mmkd
from mmkd.datasets import evaluation
from mmkd.errors import DataError, GraphError, RecipeError

NAMES = ("cat", "dog", "owl")
TEMPLATES = ("a photo of a {}.", "a drawing of the {}.", "{}")


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def scored(image: Tensor, text: Tensor, label: Tensor, prompt: list[str] | None = None, **options: Any) -> Any:
    metric = ZeroShot(**options)
    for rows in (slice(0, 7), slice(7, 7), slice(7, None)):
        metric(image[rows], text[rows], label[rows], None if prompt is None else prompt[rows])
    return metric.compute()


def unit(row: list[float]) -> list[float]:
    length = math.sqrt(sum(x * x for x in row))
    return [x / length for x in row]


def truth(image: Tensor, text: Tensor, label: Tensor, prompt: list[str]) -> tuple[list[int], list[int]]:
    """Labels in order, and for each image the rank of its own class among the prototypes."""
    seen: dict[int, dict[str, list[float]]] = defaultdict(dict)
    for row, y, words in zip(text.tolist(), label.tolist(), prompt, strict=True):
        seen[y].setdefault(words, unit(row))
    mean = {y: unit([sum(column) for column in zip(*rows.values(), strict=True)]) for y, rows in seen.items()}
    ranks = []
    for row, y in zip(image.tolist(), label.tolist(), strict=True):
        near = sorted(mean, key=lambda c: -sum(a * b for a, b in zip(unit(row), mean[c], strict=True)))
        ranks.append(near.index(y) + 1)
    return label.tolist(), ranks


@pytest.mark.parametrize("prompts", [1, 3, 40])
def test_equals_prototypes_written_out(prompts: int) -> None:
    label = torch.arange(40) % 5 * 7
    prompt = [f"{label[i]} {i % prompts}" for i in range(40)]
    vectors = {
        words: normal(6, seed=place) + normal(6, seed=int(words.split()[0])) for place, words in enumerate(prompt)
    }
    text = torch.stack([vectors[words] for words in prompt])
    image = normal(40, 6, seed=99) + text
    labels, ranks = truth(image, text, label, prompt)
    scores = scored(image, text, label, prompt, k=(1, 3))
    assert scores["top_1_accuracy"] == pytest.approx(sum(r == 1 for r in ranks) / 40)
    assert scores["top_3_accuracy"] == pytest.approx(sum(r <= 3 for r in ranks) / 40)
    by_class = [[r == 1 for r, y in zip(ranks, labels, strict=True) if y == own] for own in sorted(set(labels))]
    assert scores["mean_class_accuracy"] == pytest.approx(sum(sum(c) / len(c) for c in by_class) / 5)
    assert 0.2 < scores["top_1_accuracy"] < 1.0


def test_a_prompt_counts_once_however_often_it_is_seen() -> None:
    label = torch.tensor([0, 0, 0, 1])
    text = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [-1.0, 0.2]])
    image = torch.tensor([[0.1, 1.0], [1.0, 1.0], [1.0, 1.0], [-1.0, 0.9]])
    once = scored(image, text, label, ["a", "a", "b", "c"])
    assert once["top_1_accuracy"] == 1.0
    metric = ZeroShot()
    metric(image, text, label)
    metric.merge([])
    assert metric.compute()["top_1_accuracy"] == 1.0
    twice = [ZeroShot(), ZeroShot()]
    twice[0](image[:1], text[:1], label[:1], ["a"])
    twice[1](image[1:], text[1:], label[1:], ["a", "b", "c"])
    twice[0].merge([twice[1].state()])
    assert twice[0].compute() == once


def test_of_the_perfect_the_collapsed_and_the_few() -> None:
    label = torch.arange(30) % 3
    assert scored(5 * torch.eye(3)[label], torch.eye(3)[label], label)["top_1_accuracy"] == 1.0
    for value in (1.0, 0.0, math.nan):
        scores = scored(torch.full((30, 4), value), torch.full((30, 4), value), label)
        assert scores == {"top_1_accuracy": 0.0, "mean_class_accuracy": 0.0}
    with pytest.raises(DataError, match="top 1 of the 1 classes seen is always right"):
        scored(normal(9, 3), normal(9, 3), torch.zeros(9, dtype=torch.long))
    with pytest.raises(DataError, match="saw 0 samples"):
        ZeroShot().compute()
    with pytest.raises(GraphError, match=r"image, text \[B, D\]"):
        ZeroShot()(normal(4, 3), normal(4, 5), label[:4])
    with pytest.raises(RecipeError):
        ZeroShot(k=())


class Shapes(mmkd.Dataset):
    """An image that is the one-hot of its label, with noise."""

    license = "cc0"

    def __init__(self, size: int = 60) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> mmkd.Sample:
        noise = np.random.default_rng(index).standard_normal(3) * 0.1
        return {"key": f"shape/{index}", "image": (np.eye(3)[index % 3] + noise).astype(np.float32), "label": index % 3}


def test_class_prompts_name_the_class() -> None:
    data = ClassPrompts(Shapes(), NAMES, TEMPLATES)
    samples = [data[i] for i in range(len(data))]
    assert len(samples) == 60 and data.license == "cc0"
    for name in NAMES:
        own = {s["text"] for s in samples if NAMES[s["label"]] == name}
        assert own == {template.format(name) for template in TEMPLATES}
    assert [s["text"] for s in samples] == [ClassPrompts(Shapes(), NAMES, TEMPLATES)[i]["text"] for i in range(60)]
    assert samples[4].keys() == {"key", "image", "label", "text"}
    assert ClassPrompts(Shapes(), NAMES)[1]["text"] == "a photo of a dog."
    assert sorted(data.order(np.random.default_rng(0))) == list(range(60))


def test_class_prompts_refuse_what_has_no_name() -> None:
    with pytest.raises(DataError, match="sample 2 has the label 2, and there are 2 class names"):
        ClassPrompts(Shapes(), NAMES[:2])[2]
    for templates in ((), ("a photo",), ("{} and {}",)):
        with pytest.raises(RecipeError, match="sentence with one"):
            ClassPrompts(Shapes(), NAMES, templates)


class Letters(mmkd.Encoder):
    """A text tower that finds the class's name in the sentence."""

    def values(self) -> list[str]:
        return ["embedding"]

    def transform(self, sample: mmkd.Sample) -> dict[str, Any]:
        return {"found": torch.tensor([float(name in sample["text"]) for name in NAMES])}

    def forward(self, found: Tensor) -> dict[str, Tensor]:
        return {"embedding": found + 0.1}


def test_in_a_recipe_it_holds_any_dataset() -> None:
    emoji = {"use": "vision_language.emoji", "split": "held_out"}
    names = [f"class {i}" for i in range(95)]
    recipe = {
        "student": {},
        "losses": {"ce": {"use": "core.cross_entropy", "student": "student.logits"}},
        "data": {"eval": {"use": "vision_language.class_prompts", "dataset": emoji, "classes": names}},
    }
    data = evaluation(mmkd.load_recipe(recipe)).datasets["eval"]
    assert data[3]["text"] == f"a photo of a class {data[3]['label']}."


def test_in_a_run_the_teacher_is_scored_beside_the_student(tmp_path: Path) -> None:
    """One teacher sees and confuses two classes, the other reads; the student is right from the start."""
    recipe = {
        "teachers": {"seeing": {}, "reading": {}},
        "student": {},
        "losses": {"match": {"use": "core.mse", "student": "student.embedding", "teacher": "seeing.embedding"}},
        "data": {"batch_size": 12},
        "train": {"steps": 1, "lr": 1e-6, "device": "cpu"},
        "evaluate": [
            {
                "use": "vision_language.zero_shot",
                "image": "student.embedding",
                "text": "reading.embedding",
                "prompt": "batch.text",
            }
        ],
    }
    confused, student = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
    confused.weight.data = torch.tensor([[1.0, 0, 0], [0, 0, 1.0], [0, 1.0, 0]])
    student.weight.data = torch.eye(3)
    nodes = {
        "seeing": mmkd.wrap(confused, outputs="embedding"),
        "reading": Letters(),
        "student": mmkd.wrap(student, outputs="embedding"),
    }
    data = ClassPrompts(Shapes(), NAMES, TEMPLATES)
    results = mmkd.distill(recipe, output_dir=tmp_path / "run", nodes=nodes, data={"train": data, "eval": data})
    assert results["student"]["scores"]["eval"]["zero_shot"]["top_1_accuracy"] == 1.0
    teachers = results["teachers"]
    assert teachers["seeing"]["scores"]["eval"]["zero_shot"]["top_1_accuracy"] == pytest.approx(1 / 3)
    assert "reading" not in teachers  # it would be compared with itself
