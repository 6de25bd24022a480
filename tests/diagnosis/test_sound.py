"""Nothing is found where nothing is wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from diagnosis.patients import WORDS, Net, Patient, Pictures, Reader, embeddings, images, normalized, text
from engine import toys
from torch import Tensor, nn

import mmkd


def vectors() -> Patient:
    return Patient(toys.recipe(), dict(toys.networks()), toys.data())


def two_students_teach_each_other() -> Patient:
    patient = images()
    patient.recipe |= {
        "teacher": None,
        "student": None,
        "students": {"a": {}, "b": {}},
        "losses": {
            "a": {"use": "core.kl", "student": "a.logits", "teacher": "detach(b.logits)"},
            "b": {"use": "core.kl", "student": "b.logits", "teacher": "detach(a.logits)"},
            "ce_a": {"use": "core.cross_entropy", "student": "a.logits"},
            "ce_b": {"use": "core.cross_entropy", "student": "b.logits"},
        },
        "evaluate": [],
    }
    patient.recipe = {key: value for key, value in patient.recipe.items() if value is not None}
    patient.nodes = {n: mmkd.wrap(Net(seed=i), outputs="logits", transform=normalized) for i, n in enumerate("ab")}
    return patient


def a_head_that_starts_at_zero_on_a_frozen_trunk() -> Patient:
    net = Net()
    nn.init.zeros_(net.head.weight)
    nn.init.zeros_(net.head.bias)
    net.conv.requires_grad_(False)
    return images(student=net)


def other_tokenizers_whose_embeddings_are_compared() -> Patient:
    patient = text(teacher=Reader(["<pad>", *reversed(WORDS[1:])], 8, 1))
    patient.recipe["losses"]["kd"] = {
        "use": "core.mse",
        "student": "student.embedding",
        "teacher": "teacher.embedding",
    }
    return patient


def grey_pictures() -> Patient:
    def grey(sample: mmkd.Sample) -> Tensor:
        image = np.array(sample["image"].convert("L").convert("RGB"), dtype=np.float32) / 255
        return torch.from_numpy(image).permute(2, 0, 1)

    patient = images()
    net = Net()
    del net.pretrained_cfg
    patient.nodes["student"] = mmkd.wrap(net, outputs="logits", transform=grey)
    return patient


def bf16() -> Patient:
    patient = images()
    patient.recipe["train"]["precision"] = "bf16"
    return patient


def sgd_with_clipping() -> Patient:
    patient = images()
    patient.recipe["train"] |= {"optimizer": "sgd", "lr": 0.1, "max_grad_norm": 1.0}
    return patient


def training_data_watched_beside_the_rest() -> Patient:
    patient = images()
    patient.data["eval"] = {"held_out": Pictures(24, 1), "train_again": Pictures(24, 0)}
    return patient


def a_stream_without_labels() -> Patient:
    patient = images()
    patient.data["streams"] = {"unlabeled": Pictures(20, 5)}
    patient.recipe["losses"]["more"] = {
        "use": "core.kl",
        "student": "student@unlabeled.logits",
        "teacher": "teacher@unlabeled.logits",
    }
    return patient


SOUND: list[Callable[[], Patient]] = [
    images, text, embeddings, vectors, two_students_teach_each_other, a_head_that_starts_at_zero_on_a_frozen_trunk,
    other_tokenizers_whose_embeddings_are_compared, grey_pictures, bf16, sgd_with_clipping,
    training_data_watched_beside_the_rest, a_stream_without_labels,
]  # fmt: skip


@pytest.mark.parametrize("case", SOUND, ids=lambda case: case.__name__)
def test_no_false_alarm(case: Callable[[], Patient]) -> None:
    patient = case()
    diagnosis = mmkd.doctor(patient.recipe, nodes=patient.nodes, data=patient.data)
    assert not diagnosis.errors and not diagnosis.warnings, diagnosis.findings
    assert not [f for f in diagnosis.findings if "could not be made" in f.what]
    assert diagnosis.measured["step_seconds"] > 0 and diagnosis.measured["memory_bytes"] > 0


def test_what_nobody_reads_is_worth_a_note() -> None:
    patient: Any = embeddings()
    (note,) = mmkd.doctor(patient.recipe, nodes=patient.nodes, data=patient.data).findings
    assert (note.severity, note.check, note.where) == ("note", "gradients", "student")
    assert "head.weight" in note.what


def test_a_symmetric_loss_may_stand_either_way_round() -> None:
    patient = embeddings()
    for loss in patient.recipe["losses"].values():
        loss |= {"student": "teacher.embedding", "teacher": "up"}
    found = mmkd.doctor(patient.recipe, nodes=patient.nodes, data=patient.data).findings
    assert {(f.severity, f.check) for f in found} == {("note", "roles"), ("note", "gradients")}
