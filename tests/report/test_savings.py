"""What `mmkd explain` says that choices save: early stops, precision, layout."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import mmkd
from mmkd.graph import form
from mmkd.report.diagram import Diagram
from mmkd.report.explain import explain
from mmkd.report.work import skipped_work

BATCH = {"image": torch.randn(4, 16, generator=torch.Generator().manual_seed(0))}
LOSSES = {"hint": {"use": "core.mse", "student": "student.logits", "teacher": "teacher/0"}}


def graph(**teacher: object) -> mmkd.TrainingGraph:
    four = nn.Sequential(*(nn.Linear(16, 16) for _ in range(4)))
    recipe = {"student": {}, "teacher": teacher, "losses": LOSSES, "train": {"steps": 1}}
    return mmkd.build(recipe, nodes={"student": nn.Linear(16, 16), "teacher": four}, example=BATCH)


def test_an_early_stop_says_which_share_of_the_work_it_leaves_out() -> None:
    built = graph()
    assert skipped_work(built, BATCH) == {"teacher": 0.75}
    assert "stops early, as soon as teacher/0 is there; 75% of its arithmetic is left out" in explain(built, BATCH)
    assert "arithmetic" not in explain(built)


def test_a_form_is_told_with_what_its_weights_take_and_how_far_it_drifts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(form, "computes", lambda precision: True)
    built = graph(precision="bf16")
    said = " ".join(explain(built).split())
    assert "form bf16; weights 0.0 MiB instead of 0.0" in said
    assert "teacher bf16: asked for; drift 0." in said
    assert "% teacher/0" in said
    card = next(card for card in Diagram(built).cards if card.title == "teacher")
    assert "bf16" in card.notes
