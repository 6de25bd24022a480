"""Two teachers of different modality, a learned mixer, a critic and DOT in one run from YAML."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import mmkd

SMALL = {
    "teachers": {
        "sentence": {"use": "language.transformer", "dim": 16, "layers": 1, "heads": 2},
        "picture": {"use": "vision.convnet", "widths": [8, 16], "blocks": [0, 1]},
    },
    "student": {"widths": [8, 16, 16]},
    "data": {"batch_size": 12, "eval": None, "curators": []},
    "train": {"steps": 4, "warmup_steps": 0, "checkpoint_every": 2, "log_every": 1, "lr": 0.02, "device": "cpu"},
    "evaluate": [],
    "baseline": None,
}
"""Other networks and a shorter run; every mechanism is the recipe's own."""


def recipe(**changes: Any) -> mmkd.Recipe:
    base = mmkd.load_recipe({"recipe": "vision_language.emoji_composed", **SMALL})
    from mmkd.merge import merge

    return mmkd.load_recipe(merge(base.to_dict(), changes))


def final(folder: Path, changed: mmkd.Recipe, **more: Any) -> dict[str, Tensor]:
    mmkd.distill(changed, output_dir=folder, preflight=False, **more)
    (found,) = folder.glob("checkpoint-*")
    return load_file(found / "graph.safetensors")


def student(state: dict[str, Tensor]) -> Tensor:
    return torch.cat([state[key].double().flatten() for key in sorted(state) if key.startswith("nodes.student.")])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    return final(tmp_path_factory.mktemp("whole") / "run", recipe())


def test_killed_and_resumed_it_equals_the_uninterrupted_run(
    whole: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(Exception):
        pass

    original = mmkd.TrainingGraph.step

    def dying(graph: mmkd.TrainingGraph, *args: Any, **kwargs: Any) -> Any:
        if graph.steps == 3:
            raise Killed
        return original(graph, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(mmkd.TrainingGraph, "step", dying)
        with pytest.raises(Killed):
            final(tmp_path / "run", recipe())
    resumed = final(tmp_path / "run", recipe(), resume=True)
    assert resumed.keys() == whole.keys()
    assert all(torch.equal(resumed[key], whole[key]) for key in whole)


PARTS: dict[str, dict[str, Any]] = {
    "the text teacher": {
        "mixers": {"target": {"teachers": ["looks", "looks"]}},
        "losses": {"words_label": None},
        "projectors": {"words": None},
        "teachers": {"sentence": None},
    },
    "the image teacher in the mixture": {
        "mixers": {"target": {"teachers": ["words", "words"]}},
        "losses": {"looks_label": None},
        "projectors": {"looks": None},
    },
    "the learned gate": {"mixers": {"target": {"use": "core.mean", "teachers": ["words", "looks"]}}},
    "the gate's own lesson": {"losses": {"gate_label": None}},
    "the critic": {"losses": {"critic": None}, "procedure": {"distill": ["kd"]}},
    "the critic's training": {"losses": {"critic": {"lr": 1e-30}}},
    "distillation": {"losses": {"kd": None}, "procedure": {"distill": ["critic"]}},
    "DOT": {"procedure": None},
    "DOT's two momenta": {"procedure": {"delta": 0.0}},
    "the labels": {"losses": {"label": None}},
}


@pytest.mark.parametrize("part", PARTS)
def test_removing_any_one_part_changes_the_student(part: str, whole: dict[str, Tensor], tmp_path: Path) -> None:
    without = final(tmp_path / "run", recipe(**PARTS[part]))
    moved = (student(without) - student(whole)).abs().max()
    assert moved > 1e-7


def test_its_parts_are_what_they_are_called() -> None:
    graph = mmkd.build(recipe())
    assert [phase.name for phase in graph.phases] == ["critic.critic", "main"]
    assert set(graph.groups) and {name for names in graph.groups.values() for name in names} == set(graph.losses)
    assert graph.mixers["target"].layers is not None
    assert {name for name, node in graph.roles.items() if node.constant} == {"sentence", "picture"}


def test_only_the_student_is_exported(whole: dict[str, Tensor], tmp_path: Path) -> None:
    final(tmp_path / "run", recipe())
    model = mmkd.from_pretrained(tmp_path / "run")
    assert {key.split(".")[1] for key in model.state_dict() if "." in key} == {"student"}
    assert torch.equal(student(dict(model.state_dict())), student(whole))
