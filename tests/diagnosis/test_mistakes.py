"""Mistakes that peers' users meet late or never: each is found before step 0, by the check that is meant to."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from diagnosis.patients import (
    MEAN,
    STD,
    WORDS,
    Net,
    Patient,
    Pictures,
    Reader,
    embeddings,
    images,
    normalized,
    pixels,
    text,
)
from torch import Tensor, nn

import mmkd

Case = Callable[[], Patient]


def another_normalization() -> Patient:
    return images(transform=lambda s: normalized(s, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)))


def no_normalization() -> Patient:
    return images(transform=pixels)


def normalized_twice() -> Patient:
    def twice(sample: mmkd.Sample) -> Tensor:
        return (normalized(sample) - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)

    return images(transform=twice)


def shared_pixels_not_normalized() -> Patient:
    class Tensors(Pictures):
        def __getitem__(self, index: int) -> mmkd.Sample:
            sample = super().__getitem__(index)
            return {**sample, "image": pixels(sample)}

    patient = images()
    for name in patient.nodes:
        patient.nodes[name] = mmkd.wrap(Net(seed=len(name)), outputs="logits")
    patient.data["train"] = Tensors(64, 0)
    return patient


def bgr() -> Patient:
    return images(transform=lambda s: normalized({"image": np.asarray(s["image"])[..., ::-1]}))


def unscaled() -> Patient:
    return images(transform=lambda s: pixels(s) * 255)


class Hidden(nn.Module):
    """Keeps its network where `eval()` does not find it."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.held = [net.train()]
        self.pretrained_cfg = {"mean": MEAN, "std": STD}

    def forward(self, image: Tensor) -> Any:
        return self.held[0](image)


def teacher_batch_norm_in_training_mode() -> Patient:
    return images(teacher=Hidden(Net(12)))


def teacher_refuses_eval() -> Patient:
    class Stubborn(Net):
        def train(self, mode: bool = True) -> Any:
            return super().train(True)

    return images(teacher=Stubborn(12))


def teacher_dropout_always_on() -> Patient:
    class Drops(Net):
        def forward(self, image: Tensor) -> Any:
            return self.head(nn.functional.dropout(self.features(image), 0.5))

    return images(teacher=Drops(12))


def other_tokenizer() -> Patient:
    return text(teacher=Reader(["<pad>", *reversed(WORDS[1:])], 16, 1))


def other_tokenizer_untold() -> Patient:
    return text(teacher=Reader(["<pad>", *reversed(WORDS[1:])], 16, 1, tells=False))


def vocabulary_off_by_one() -> Patient:
    return text(teacher=Reader([*WORDS, "<eos>"], 16, 1))


def weight_times_1000() -> Patient:
    patient = images()
    patient.recipe["losses"]["kd"]["weight"] = 1000.0
    return patient


def reversed_kl() -> Patient:
    patient = images()
    patient.recipe["losses"]["kd"] |= {"student": "teacher.logits", "teacher": "student.logits"}
    return patient


def detached_student() -> Patient:
    class Detached(Net):
        def forward(self, image: Tensor) -> Any:
            return super().forward(image).detach()

    return images(student=Detached())


def detached_in_the_recipe() -> Patient:
    patient = images()
    patient.recipe["losses"]["kd"]["student"] = "detach(student.logits)"
    return patient


def frozen_student() -> Patient:
    return images(student=Net().requires_grad_(False))


def double_softmax() -> Patient:
    class Soft(Net):
        def forward(self, image: Tensor) -> Any:
            return super().forward(image).softmax(-1)

    return images(teacher=Soft(12))


def labels_from_1() -> Patient:
    patient = images()
    patient.data["train"] = Pictures(64, 0, first=1)
    return patient


def negative_labels() -> Patient:
    patient = images()
    patient.data["train"] = Pictures(64, 0, first=-1)
    return patient


def scored_head_that_nothing_trains() -> Patient:
    patient = embeddings()
    patient.recipe["evaluate"] = [{"use": "core.top_k", "student": "student.logits", "k": [1]}]
    return patient


def tiny_batch() -> Patient:
    return embeddings(batch=2)


def accumulation_under_a_learned_schedule() -> Patient:
    patient = images()
    patient.recipe["schedules"] = {
        "alpha": {"use": "core.geometry", "student": "student.logits", "teacher": "teacher.logits"}
    }
    patient.recipe["losses"]["kd"]["weight"] = "alpha"
    patient.recipe["losses"]["lesson"] = {
        "use": "core.cross_entropy", "student": "student.logits", "phase": "alpha"
    }  # fmt: skip
    patient.recipe["train"]["gradient_accumulation_steps"] = 2
    return patient


def more_batch_than_data() -> Patient:
    patient = images()
    patient.recipe["data"]["batch_size"] = 100
    return patient


def evaluated_on_training_data() -> Patient:
    patient = images()
    patient.data["eval"] = Pictures(24, 0)
    return patient


def lr_times_1000() -> Patient:
    patient = images()
    patient.recipe["train"]["lr"] = 3.0
    return patient


def lr_far_too_small() -> Patient:
    patient = images()
    patient.recipe["train"]["lr"] = 1e-9
    return patient


def sgd_that_explodes() -> Patient:
    patient = images()
    patient.recipe["train"] |= {"optimizer": "sgd", "lr": 50.0}
    return patient


def temperature_of_0() -> Patient:
    patient = images()
    patient.recipe["losses"]["kd"]["temperature"] = 0.0
    return patient


def temperature_that_ends_at_0() -> Patient:
    patient = images()
    patient.recipe["losses"]["kd"]["temperature"] = {"use": "core.linear", "start": 4.0, "end": 0.0}
    return patient


def teacher_of_nan() -> Patient:
    net = Net(12)
    nn.init.constant_(net.head.bias, torch.nan)
    return images(teacher=net)


def gradient_of_nan() -> Patient:
    class Root(Net):
        def forward(self, image: Tensor) -> Any:
            logits = super().forward(image)
            return logits + (logits * 0).square().sqrt()

    return images(student=Root())


def student_that_does_not_look() -> Patient:
    class Blind(Net):
        def forward(self, image: Tensor) -> Any:
            return super().forward(torch.ones_like(image))

    return images(student=Blind())


def pictures_of_the_wrong_type() -> Patient:
    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = Net(12)

        def forward(self, image: Tensor) -> Any:
            return self.net(image / 255)

    patient = images(teacher=Whole())
    patient.nodes["teacher"] = mmkd.wrap(
        Whole(), outputs="logits", transform=lambda s: torch.from_numpy(np.array(s["image"])).permute(2, 0, 1)
    )
    return patient


def misspelt_value() -> Patient:
    patient = images()
    patient.recipe["losses"]["kd"]["teacher"] = "teacher.logit"
    return patient


CASES: list[tuple[Case, str, str, str, str]] = [
    (another_normalization, "error", "preprocessing", "teacher", r"normalised by mean=\(0.5, 0.5, 0.5\)"),
    (no_normalization, "error", "preprocessing", "teacher", "not at all"),
    (normalized_twice, "error", "preprocessing", "teacher", "twice"),
    (shared_pixels_not_normalized, "error", "preprocessing", "teacher", r"lie in \[0.00, 1.00\]"),
    (bgr, "error", "preprocessing", "teacher", "are BGR"),
    (unscaled, "error", "preprocessing", "teacher", "not scaled"),
    (pictures_of_the_wrong_type, "error", "preprocessing", "teacher", "uint8"),
    (teacher_batch_norm_in_training_mode, "error", "frozen", "teacher", "others of its batch"),
    (teacher_refuses_eval, "error", "frozen", "teacher", "training mode"),
    (teacher_dropout_always_on, "error", "frozen", "teacher", "dropout"),
    (other_tokenizer, "error", "vocabulary", "losses.kd", "other ids"),
    (other_tokenizer_untold, "error", "vocabulary", "losses.kd", "different ids"),
    (vocabulary_off_by_one, "error", "vocabulary", "losses.kd", "off by one"),
    (weight_times_1000, "warning", "balance", "losses.kd.weight", "times harder"),
    (reversed_kl, "error", "roles", "losses.kd", "reversed"),
    (detached_student, "error", "gradients", "student", "no loss reaches 'student'"),
    (detached_in_the_recipe, "error", "gradients", "losses.kd", "teaches nothing"),
    (frozen_student, "error", "gradients", "student", "frozen"),
    (scored_head_that_nothing_trains, "warning", "gradients", "student", "head.weight"),
    (double_softmax, "error", "distribution", "losses.kd.teacher", "probabilities already"),
    (labels_from_1, "error", "labels", "losses.ce.label", "counted from 1"),
    (negative_labels, "error", "labels", "losses.ce.label", "down to -1"),
    (tiny_batch, "warning", "batch_size", "data.batch_size", "a batch has 2"),
    (accumulation_under_a_learned_schedule, "error", "batch_size", "train.gradient_accumulation_steps", "whole batch"),
    (more_batch_than_data, "error", "batch_size", "data.batch_size", "64 samples"),
    (evaluated_on_training_data, "warning", "leakage", "data.eval", "24 of 24"),
    (lr_times_1000, "warning", "learning_rate", "train.lr", "times its size"),
    (lr_far_too_small, "warning", "learning_rate", "train.lr", "together"),
    (sgd_that_explodes, "warning", "learning_rate", "train.lr", "times its size"),
    (temperature_of_0, "error", "build", "losses.kd.temperature", "greater than 0"),
    (temperature_that_ends_at_0, "error", "temperature", "losses.kd.temperature", "course of its schedule"),
    (teacher_of_nan, "error", "outputs", "teacher", "NaN at step 0"),
    (gradient_of_nan, "error", "outputs", "losses", "not finite"),
    (student_that_does_not_look, "warning", "outputs", "student", "same for every sample"),
    (misspelt_value, "error", "build", "losses.kd.teacher", "did you mean 'teacher.logits'"),
]


@pytest.mark.parametrize(("case", "severity", "check", "where", "says"), CASES, ids=[c[0].__name__ for c in CASES])
def test_a_mistake_is_named_by_its_check(case: Case, severity: str, check: str, where: str, says: str) -> None:
    patient = case()
    found = mmkd.doctor(patient.recipe, nodes=patient.nodes, data=patient.data).findings
    hits = [f for f in found if f.check == check and f.where.startswith(where) and re.search(says, f.what)]
    assert hits and hits[0].severity == severity, "\n".join(map(str, found))
    assert hits[0].fix or check == "build"
    loud = {f.check for f in found if f.severity == "error"} - {check}
    if severity == "error":
        assert not loud, f"also accuses {loud}: {found}"
