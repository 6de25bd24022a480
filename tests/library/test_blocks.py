"""StableKD: blocks distilled alone, then merged until one is left."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import mmkd
from mmkd.errors import RecipeError
from mmkd.library.procedures.blocks import Blocks
from mmkd.testing import check_procedure

from . import toys
from .toys import batch

RECIPE = "core.stable_kd"
DATA = {"train": toys.Pictures(), "eval": toys.Pictures(8)}
BUDGET = ["train.steps=6", "train.device=cpu", "data.batch_size=8", "train.checkpoint_every=1"]
BLOCKS = ["layer1", "layer2", "layer3", "layer4"]


def stages(*overrides: str, **procedure: Any) -> dict[str, mmkd.Recipe]:
    base = mmkd.load_recipe({"recipe": RECIPE, **({"procedure": procedure} if procedure else {})}, BUDGET)
    return mmkd.stages(base, overrides)


def run(folder: Path, *overrides: str, **more: Any) -> dict[str, Any]:
    more = {"nodes": toys.networks(RECIPE), "preflight": False, "baseline": False, "data": DATA, **more}
    return mmkd.distill(RECIPE, output_dir=folder, overrides=[*BUDGET, *overrides], **more)


def student(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "student" / "model.safetensors")


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


# -- the stages -------------------------------------------------------------------------------------------------


def test_one_block_less_each_time_and_one_at_the_end() -> None:
    made = stages()
    inner = {name: list(recipe.student_nodes()["student"].inputs) for name, recipe in made.items()}
    assert inner == {
        "blocks_4": ["/layer2", "/layer3", "/layer4"], "blocks_3": ["/layer3", "/layer4"],
        "blocks_2": ["/layer3"], "blocks_1": [],
    }  # fmt: skip
    assert [recipe.train.steps for recipe in made.values()] == [1, 1, 1, 3]
    assert list(made["blocks_3"].losses) == ["kd", "label", "block_2", "block_3"]
    plain = mmkd.load_recipe({"recipe": RECIPE, "procedure": None}, [*BUDGET, "train.steps=3"])
    assert made["blocks_1"].patched({}) == plain.patched({})
    assert plain.procedure is None and not made["blocks_1"].projectors


@pytest.mark.parametrize(
    ("counts", "ends"),
    [([5, 4, 3, 2, 1], [[0, 1, 2, 3], [1, 2, 3], [1, 3], [1]]), ([4, 2, 1], [[1, 2, 3], [1]]), ([3, 1], [[1, 3]])],
)
def test_the_smallest_neighbours_merge_first(counts: list[int], ends: list[list[int]]) -> None:
    procedure = Blocks(list("abcde"), counts=counts)
    made = procedure.stages(mmkd.load_recipe(RECIPE, BUDGET))
    assert [stage.name for stage in made] == [f"blocks_{count}" for count in counts]
    assert [stage.start for stage in made] == [None, *(f"blocks_{count}" for count in counts[:-1])]
    losses = [[name for name in stage.recipe.losses if name[:6] == "block_"] for stage in made]
    assert losses == [[f"block_{end + 1}" for end in stage] for stage in [*ends, []]]
    assert all(set(after) < set(before) for before, after in itertools.pairwise(losses)), "blocks only merge"


def test_blocks_of_several_modules_other_names_and_losses() -> None:
    made = stages(student=["a", ["b", "c"], "d"], teacher=["x", ["y", "z"], "w"], budget=[1, 2, 5], connector=None,
                  loss={"use": "core.at", "weight": 2.0})["blocks_3"]  # fmt: skip
    assert made.student_nodes()["student"].inputs == {"/b": "teacher/x", "/d": "teacher/z"}
    assert made.losses["block_2"].arguments == {"student": "student/c", "teacher": "teacher/z"}
    assert made.losses["block_2"].weight == 2.0 and made.losses["block_2"].use == "core.at"
    assert not made.projectors and made.train.steps == 1


def test_epochs_are_shared_out_and_a_loop_of_ones_own_has_none() -> None:
    base = mmkd.load_recipe(RECIPE, ["train.epochs=9"])
    assert [s.recipe.train.epochs for s in Blocks(BLOCKS).stages(base)] == [2, 2, 2, 3]
    assert [s.recipe.train.steps for s in Blocks(BLOCKS).stages(mmkd.load_recipe(RECIPE))] == [None] * 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"student": []}, "student"),
        ({"student": [[]]}, "student"),
        ({"student": ["a", "b"], "teacher": ["a"]}, "2 blocks of the student and 1 of the teacher do not pair"),
        ({"student": ["a", "b"], "teacher": ["a", "b"], "counts": [3, 1]}, "does not fall from at most 2 to 1"),
        ({"counts": [4, 2]}, "does not fall from at most 4 to 1"),
        ({"counts": [2, 2, 1]}, "does not fall"),
        ({"counts": []}, "does not fall"),
        ({"counts": [2, 1], "budget": [1]}, "1 for 2 stages"),
        ({"budget": [0, 1, 1, 1]}, "budget.0"),
        ({"connector": {"use": "core.convv"}}, "no projector 'core.convv'|core.convv"),
    ],
)
def test_mistakes(options: dict[str, Any], message: str) -> None:
    with pytest.raises(mmkd.errors.MmkdError, match=message):
        mmkd.build(next(iter(stages(**options).values())), nodes=toys.networks(RECIPE), example=batch(RECIPE))


def test_too_small_a_budget_and_several_teachers() -> None:
    with pytest.raises(RecipeError, match=r"train.steps=3 is less than one for each of 4 stages"):
        stages("train.steps=3")
    several = mmkd.load_recipe({"recipe": RECIPE, "teacher": None, "teachers": {"a": {}, "b": {}},
                                "losses": {"kd": None}})  # fmt: skip
    with pytest.raises(RecipeError, match="takes one teacher apart, not 2"):
        mmkd.stages(several)


# -- the blocks -------------------------------------------------------------------------------------------------


def reached(graph: mmkd.TrainingGraph, loss: str) -> set[str]:
    """Modules of the student, and connectors, that the gradient of a loss reaches; teachers' would be named too."""
    graph.zero_grad()
    graph(batch(RECIPE))[f"{loss}_loss"].backward()
    names = [name for name, p in graph.named_parameters() if p.grad is not None and p.grad.abs().max() > 0]
    return {".".join(name.removeprefix("nodes.").split(".")[:2]).removeprefix("projectors.") for name in names}


def test_no_gradient_crosses_from_block_to_block() -> None:
    graph = mmkd.build(stages()["blocks_4"], nodes=toys.networks(RECIPE), example=batch(RECIPE))
    assert reached(graph, "block_1") == {"student.layer1"}
    assert reached(graph, "block_2") == {"student.layer2", "connector_1"}
    assert reached(graph, "block_3") == {"student.layer3", "connector_2"}
    assert reached(graph, "kd") == reached(graph, "label") == {"student.layer4", "student.fc", "connector_3"}
    merged = mmkd.build(stages()["blocks_2"], nodes=toys.networks(RECIPE), example=batch(RECIPE))
    assert reached(merged, "block_2") == {"student.layer1", "student.layer2"}
    assert reached(merged, "kd") == {"student.layer3", "student.layer4", "student.fc", "connector_2"}


def test_a_block_is_the_loop_by_hand() -> None:
    nodes = toys.networks(RECIPE)
    graph = mmkd.build(stages()["blocks_4"], nodes=nodes, example=batch(RECIPE))
    image, own, teacher = batch(RECIPE)["image"], nodes["student"], nodes["teacher"]
    one = teacher.layer1(image)
    two = teacher.layer2(one)
    first, second = graph.projectors["connector_1"](one), graph.projectors["connector_2"](two)
    out = graph(batch(RECIPE))
    torch.testing.assert_close(out["block_1_loss"], (own.layer1(image) - first).square().mean())
    torch.testing.assert_close(out["block_2_loss"], (own.layer2(first) - second).square().mean())


def test_equal_widths_need_no_connector() -> None:
    nodes = {name: toys.PictureNet(6, seed) for seed, name in enumerate(("student", "teacher"))}
    graph = mmkd.build(stages("procedure.connector=null")["blocks_4"], nodes=nodes, example=batch(RECIPE))
    assert not graph.projectors and [run.id for run in graph.plan.runs] == ["teacher", "student"]
    assert reached(graph, "block_2") == {"student.layer2"}


def test_evaluation_takes_the_student_as_a_whole() -> None:
    nodes = toys.networks(RECIPE)
    graph = mmkd.build(stages()["blocks_4"], nodes=nodes, example=batch(RECIPE)).eval()
    whole = nodes["student"](batch(RECIPE)["image"])["logits"]
    assert torch.equal(graph.values(batch(RECIPE), ["student.logits"])["student.logits"], whole)
    assert not torch.equal(graph.compute(batch(RECIPE))["student.logits"], whole)


def test_the_doctor_finds_nothing_wrong_with_a_student_in_blocks() -> None:
    found = mmkd.doctor(stages()["blocks_4"], nodes=toys.networks(RECIPE), data=DATA).findings
    assert {finding.severity for finding in found} <= {"note"}


# -- runs -------------------------------------------------------------------------------------------------------


def test_one_block_is_plain_distillation_bit_for_bit(tmp_path: Path) -> None:
    run(tmp_path / "blocks", "procedure.counts=[1]")
    run(tmp_path / "plain", "procedure=null")
    assert equal(student(tmp_path / "blocks"), student(tmp_path / "plain"))


def test_with_its_blocks_merged_from_the_start_it_is_another_run(tmp_path: Path) -> None:
    """The mechanism switched off: no blocks; then blocks that read the student's own features."""
    run(tmp_path / "on")
    run(tmp_path / "off", "procedure.counts=[1]")
    assert not equal(student(tmp_path / "on"), student(tmp_path / "off"))
    made = stages()
    assert [len(recipe.student_nodes()["student"].inputs) for recipe in made.values()] == [3, 2, 1, 0]
    apart = mmkd.build(made["blocks_4"], nodes=toys.networks(RECIPE), example=batch(RECIPE))
    whole = made["blocks_4"].patched({"student": {"inputs": None}})
    chained = mmkd.build(whole, nodes=toys.networks(RECIPE), example=batch(RECIPE))
    assert reached(chained, "kd") > reached(apart, "kd") - {"connector_3"}
    assert "student.layer1" in reached(chained, "kd")


@pytest.mark.parametrize(("stage", "step"), [("blocks_4", 1), ("blocks_2", 1), ("blocks_1", 1)])
def test_killed_and_resumed_it_is_the_same_run(
    stage: str, step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path / "whole", "train.steps=8")
    original = mmkd.TrainingGraph.step

    def dying(graph: mmkd.TrainingGraph, *args: Any, **kwargs: Any) -> Any:
        out = original(graph, *args, **kwargs)
        if len(graph.projectors) == int(stage[-1]) - 1 and graph.steps == step:
            raise KeyboardInterrupt
        return out

    with monkeypatch.context() as patch:
        patch.setattr(mmkd.TrainingGraph, "step", dying)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "cut", "train.steps=8")
    run(tmp_path / "cut", "train.steps=8", resume=True)
    assert equal(student(tmp_path / "whole"), student(tmp_path / "cut"))
    for name in ("blocks_4", "blocks_3", "blocks_2"):
        assert equal(*(student(tmp_path / folder / "stages" / name) for folder in ("whole", "cut")))


def test_connectors_go_on_while_their_boundary_stands_and_none_is_exported(tmp_path: Path) -> None:
    run(tmp_path / "run", "train.lr=1e-30", "procedure.counts=[4,2,1]")
    found = {name: load_file(next((tmp_path / "run" / place).glob("checkpoint-*")) / "graph.safetensors")
             for name, place in (("four", "stages/blocks_4"), ("two", "stages/blocks_2"), ("one", "."))}  # fmt: skip
    kept = {name: sorted({key.split(".")[1] for key in state if "connector" in key}) for name, state in found.items()}
    assert kept == {"four": ["connector_1", "connector_2", "connector_3"], "two": ["connector_2"], "one": []}
    key = "projectors.connector_2.layers.0.weight"
    assert torch.equal(found["four"][key], found["two"][key])
    for folder in ("stages/blocks_4", "."):
        state = student(tmp_path / "run" / folder)
        assert state and all(key.startswith("nodes.student.") for key in state)
    model = mmkd.from_pretrained(tmp_path / "run" / "stages" / "blocks_4", nodes=toys.networks(RECIPE))
    assert not model.roles["student"].inner
    values = model.values(batch(RECIPE), ["student.logits"])["student.logits"]
    torch.testing.assert_close(values, toys.networks(RECIPE)["student"](batch(RECIPE)["image"])["logits"].detach())


def test_the_kit_finds_nothing() -> None:
    assert "stages_train" in check_procedure(Blocks, options={"student": ["net"]})
