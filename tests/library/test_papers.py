"""Each paper by `mmkd list --paper`: what it leads to runs, and is another thing once its mechanism is switched off."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import mmkd
from mmkd.cli import main
from mmkd.graph.training_graph import TrainingGraph
from mmkd.library import RECIPES
from mmkd.plugins import host
from mmkd.report.description import as_text, describe
from mmkd.testing import check_procedure

from . import toys
from .specimen import Specimen
from .toys import batch, build, network, trained, weights

pytest.importorskip("mmkd_vision")

MECHANISMS: dict[str, Callable[[Path], None]] = {}
"""By the short name of a paper: a test that fails when its mechanism is broken."""
ELSEWHERE: dict[str, str] = {
    "GKD": "../plugins/language/tests/test_language_rollout.py::test_half_rollouts_are_not",
    "SeqKD": "../plugins/language/tests/test_language_generated.py::"
    "test_training_on_references_instead_is_another_training",
    "DOT": "library/test_dot.py::test_equal_momenta_are_sgd",
    "SelfDistill-KRR": "library/test_kernel_ridge.py::"
    "test_without_ground_truth_it_shrinks_and_with_it_ends_at_a_penalty",
    "TED": "library/test_ted.py::test_it_is_not_layer_wise_distillation",
    "TGeo-KD": "graph/test_look_ahead.py::test_a_step_with_a_frozen_schedule_is_a_step_with_fixed_weights",
    "StableKD": "library/test_blocks.py::test_with_its_blocks_merged_from_the_start_it_is_another_run",
}
"""Papers whose mechanism another file under tests/ switches off: `"DOT": "engine/test_dot.py::test_name"`."""

WAVE = frozenset({
    "WCoRD", "TAID", "TRG", "Understanding-KD", "BAN", "DHKD", "RKD", "LumiNet", "L2D-MLKD", "CTCD", "Guidance-Network",
    "Does-KD-Work", "TaskAgnostic-Compare", "SinKD", "e2KD", "OFA-KD", "SeqKD", "SelfDistill-KRR", "GKD", "A2D",
    "StableKD", "TED", "BD-KD", "Patient-Consistent", "ND", "MKD-OCL", "WAKD", "FitNets", "DOT",
})  # fmt: skip
"""Papers whose mechanisms shaped the contract."""

DATA = {"train": toys.Pictures(), "eval": toys.Pictures(8)}
Check = Callable[[Path], None]


def switched_off(paper: str) -> Callable[[Check], Check]:
    """Note a test as the one that switches the mechanism of this paper off."""

    def note(check: Check) -> Check:
        MECHANISMS[paper] = check
        return check

    return note


def listed(paper: str, capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    with pytest.raises(SystemExit) as end:
        main(["list", "--paper", paper, "--json"])
    assert end.value.code == 0
    return json.loads(capsys.readouterr().out)  # type: ignore[no-any-return]


# -- what a row leads to ----------------------------------------------------------------------------------------


def run_recipe(id: str, folder: Path) -> None:
    recipe = mmkd.load_recipe(id)
    if len(mmkd.stages(id, ["train.steps=3"])) > 1:
        assert (staged(id, folder / "run") / "student" / "model.safetensors").is_file()
    elif id.startswith("core."):
        graph = trained(build(id), id)
        assert graph.steps == 3 and set(graph.exported) == set(recipe.exported())
    else:
        overrides = ["train.epochs=null", "train.steps=3", "data.batch_size=8", "train.device=cpu"]
        made = mmkd.distill(id, output_dir=folder / "run", nodes=toys.networks(id), data=DATA, overrides=overrides)
        assert made["steps"] == 3


def run_loss(id: str, folder: Path) -> None:
    assert Specimen(host().catalogue.get("loss", id)).trained().steps == 3


def run_mixer(id: str, folder: Path) -> None:
    student, teacher = ({"student": "student.logits"} if id == "core.taid" else {}), {"teacher": "teacher.logits"}
    loss = {"target": {"use": "core.kl", "student": "student.logits", "teacher": "mixed"}}
    changes = {"mixers": {"mixed": {"use": id, **student, **teacher}}, "losses": loss}
    assert trained(build("core.kd", changes), "core.kd").steps == 3


def run_projector(id: str, folder: Path) -> None:
    like = "teacher.logits" if id == "core.branch" else "teacher.hidden.4"
    own = {"projectors": {"own": {"use": id, "input": "student/layer4", "like": like}}}
    loss = {"use": "core.kl" if id == "core.branch" else "core.mse", "student": "own", "teacher": like}
    assert trained(build("core.kd", {**own, "losses": {"own": loss}}), "core.kd").steps == 3


def run_metric(id: str, folder: Path) -> None:
    ports = {"student": "student.logits", "teacher": "teacher.logits"}
    changes = {"evaluate": [{"use": id, **ports}], "baseline": None}
    document = {"recipe": "core.kd", **changes, "train": {"steps": 3, "device": "cpu"}, "data": {"batch_size": 8}}
    made = mmkd.distill(document, output_dir=folder / "run", nodes=toys.networks("core.kd"), data=DATA)
    assert made["student"]["scores"]["eval"]


def run_procedure(id: str, _: Path) -> None:
    cls: Any = host().catalogue.get("procedure", id).load()
    assert check_procedure(cls, **getattr(cls, "conformance", {}))


RUN = {
    "procedure": run_procedure, "recipe": run_recipe, "loss": run_loss, "mixer": run_mixer,
    "projector": run_projector, "metric": run_metric,
}  # fmt: skip


def rows() -> list[tuple[str, str, str]]:
    papers = {name.casefold(): entries for name, entries in host().catalogue.papers().items()}
    return [(paper, e.kind, e.id) for paper in MECHANISMS for e in papers.get(paper.casefold(), [])]


# -- losses that are lower for whoever was taught ----------------------------------------------------------------


def taught(recipe: str, *losses: str, steps: int = 30, **changes: Any) -> tuple[float, float]:
    """The losses on samples that nobody has seen, of a student that they have taught and of one that they have not."""
    found = []
    for without in ({}, {name: {"weight": 0.0} for name in losses}):
        own = {**changes.get("losses", {}), **without}
        graph = trained(build(recipe, {**changes, "losses": own}, steps=steps), recipe).eval()
        out = graph(batch(recipe, 999, 16)) if len(graph.phases) == 1 else no_grad(graph, recipe)
        found.append(sum(out[f"{name}_loss"].item() for name in losses))
    return found[0], found[1]


def no_grad(graph: TrainingGraph, recipe: str) -> dict[str, Tensor]:
    with torch.no_grad():
        return graph(batch(recipe, 999, 16))


def loss_of(graph: TrainingGraph, recipe: str, changed: Mapping[str, Tensor] | None = None) -> dict[str, float]:
    """All losses of a batch."""
    with torch.no_grad():
        return {name: value.item() for name, value in graph({**batch(recipe), **(changed or {})}).items()}


def reached(graph: TrainingGraph, recipe: str, loss: str, node: str = "student") -> set[str]:
    """The parts of a network that a loss sends a gradient to."""
    graph.zero_grad()
    graph(batch(recipe))[f"{loss}_loss"].backward()
    return {n.split(".")[0] for n, p in graph.nodes[node].named_parameters() if p.grad is not None and p.grad.any()}


class Changed(mmkd.Encoder):
    """A network one of whose values is changed by a function."""

    def __init__(self, inner: mmkd.Encoder, value: str, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.inner, self.value, self.change = inner, value, change

    @property
    def network(self) -> nn.Module:
        return self.inner.network

    def values(self) -> list[str]:
        return list(self.inner.values())

    def inputs(self) -> Mapping[str, bool]:
        return self.inner.inputs()

    def forward(self, **fields: Tensor) -> dict[str, Tensor]:
        made = self.inner(**fields)
        return {**made, self.value: self.change(made[self.value])}


def with_teacher(recipe: str, value: str, change: Callable[[Tensor], Tensor], **more: Any) -> TrainingGraph:
    """The recipe with a teacher whose value is changed."""
    return build(recipe, teacher=Changed(network("teacher", recipe), value, change), **more)


# -- mechanisms -------------------------------------------------------------------------------------------------


@switched_off("WCoRD")
def without_a_critic_that_learns_the_bound_is_loose(_: Path) -> None:
    ends = []
    for rate in (0.02, 0.0):
        graph = build("core.wcord", {"losses": {"global": {"steps": 2, "hidden": 16}}}, steps=15)
        made = mmkd.optimizers(graph, toys.settings("core.wcord", 15))
        for group in made["global.critic"].param_groups:
            group["lr"] = rate
        for step in range(15):
            graph.step(batch("core.wcord", step), made)
        ends.append(no_grad(graph.eval(), "core.wcord")["global_loss"].item())
    assert ends[0] < ends[1] - 0.02
    on, off = taught("core.wcord", "local", steps=15, losses={"global": None})
    assert on < 0.9 * off


@switched_off("TAID")
def at_a_fixed_share_the_target_stays(_: Path) -> None:
    ends = [
        trained(build("core.taid", {"mixers": {"target": options}}, steps=12), "core.taid")
        for options in ({}, {"start": 0.4, "end": 0.4}, {"start": 1.0})
    ]
    assert [graph.mixers["target"].t.item() for graph in ends] == pytest.approx([1.0, 0.4, 1.0])
    moving, fixed, whole = (weights(graph) for graph in ends)
    assert not torch.allclose(moving, fixed) and not torch.allclose(moving, whole)


@switched_off("TRG")
def tokens_are_related_across_samples(_: Path) -> None:
    graph, fields = build("core.trg"), batch("core.trg")
    halves = [loss_of(graph, "core.trg", {k: v[part] for k, v in fields.items()}) for part in (slice(4), slice(4, 8))]
    apart = {name: (halves[0][name] + halves[1][name]) / 2 for name in halves[0]}
    whole = loss_of(graph, "core.trg")
    assert whole["inner_loss"] == pytest.approx(apart["inner_loss"], rel=1e-4)
    assert abs(whole["local_loss"] - apart["local_loss"]) > 0.01
    assert whole["global_loss"] > apart["global_loss"] + 0.1  # the more tokens, the harder to find one's own
    for name in ("inner", "local", "global"):
        ends = (weights(trained(build("core.trg", change), "core.trg")) for change in ({}, {"losses": {name: None}}))
        assert not torch.equal(*ends)


@switched_off("Understanding-KD")
def each_partial_teacher_knows_one_thing_alone(_: Path) -> None:
    recipe, label = "core.understanding_kd", batch("core.understanding_kd")["label"]
    kd = {"losses": {"kd": {"use": "core.kl", "student": "student.logits", "teacher": "teacher.logits"}}}

    def others(logits: Tensor) -> Tensor:
        """The same share for the label, the rest dealt to the other classes anew."""
        order = torch.stack([torch.tensor([c for c in range(toys.CLASSES) if c != y]) for y in label])
        return logits.scatter(1, order, logits.gather(1, order.roll(1, 1)))

    own = loss_of(build(recipe, kd), recipe)
    dealt = loss_of(with_teacher(recipe, "logits", others, changes=kd), recipe)
    surer = loss_of(with_teacher(recipe, "logits", lambda x: 3 * x, changes=kd), recipe)
    assert dealt["confidence_loss"] == pytest.approx(own["confidence_loss"], rel=1e-5)
    assert abs(dealt["kd_loss"] - own["kd_loss"]) > 1e-4
    assert abs(surer["confidence_loss"] - own["confidence_loss"]) > 1e-4
    assert surer["similarity_loss"] == dealt["similarity_loss"] == own["similarity_loss"]
    hard = loss_of(build(recipe, {"losses": {"label": {"label_smoothing": 0.0}}}), recipe)
    assert hard["label_loss"] != own["label_loss"]
    for loss, other in (("similarity", "confidence"), ("confidence", "similarity")):
        on, off = taught(recipe, loss, losses={"label": {"weight": 0.01}, other: None})
        assert on < 0.9 * off


@switched_off("DHKD")
def without_a_head_of_its_own_the_divergence_trains_the_classifier(_: Path) -> None:
    on_one_head = {"losses": {"auxiliary": {"student": "student.logits"}}, "projectors": {"head": None}}
    assert "fc" not in reached(build("core.dhkd"), "core.dhkd", "auxiliary")
    assert {"layer1", "layer4"} <= reached(build("core.dhkd"), "core.dhkd", "auxiliary")
    assert "fc" in reached(build("core.dhkd", on_one_head), "core.dhkd", "auxiliary")
    on, off = taught("core.dhkd", "auxiliary")
    assert on < 0.9 * off


@switched_off("RKD")
def relations_are_learnt_and_only_relations(_: Path) -> None:
    for loss, other in (("distance", "angle"), ("angle", "distance")):
        on, off = taught("core.rkd", loss, losses={"label": {"weight": 0.01}, other: None})
        assert on < 0.9 * off
    turn = torch.linalg.qr(torch.randn(12, 12, generator=torch.Generator().manual_seed(5)))[0]
    own, moved = build("core.rkd"), with_teacher("core.rkd", "embedding", lambda x: 7 * x @ turn + 3)
    assert loss_of(moved, "core.rkd") == pytest.approx(loss_of(own, "core.rkd"), rel=1e-3, abs=1e-5)


@switched_off("LumiNet")
def a_surer_teacher_says_the_same(_: Path) -> None:
    recipe = "core.luminet"

    def surer(logits: Tensor) -> Tensor:
        return logits * torch.linspace(5, 50, toys.CLASSES) + torch.arange(float(toys.CLASSES))

    kl = {"use": "core.kl", "student": "student.logits", "teacher": "teacher.logits", "temperature": 4.0}
    for losses, same in (({}, True), ({"perception": None, "kd": kl}, False)):
        ends = []
        for change in (lambda x: 100 * x, lambda x: surer(100 * x)):  # so that 1e-5 beside the variance is nothing
            ends.append(weights(trained(with_teacher(recipe, "logits", change, changes={"losses": losses}), recipe)))
        assert torch.allclose(*ends, atol=1e-3) == same
    on, off = taught(recipe, "perception")
    assert on < 0.8 * off


@switched_off("L2D-MLKD")
def classes_do_not_compete(_: Path) -> None:
    recipe = "core.l2d"
    kl = {"use": "core.kl", "student": "student.logits", "teacher": "teacher.logits"}
    softmax = {"losses": {"binary": kl, "structure": None, "label": None}}
    for changes, same in ((softmax, True), ({}, False)):
        own, all_likelier = build(recipe, changes), with_teacher(recipe, "logits", lambda x: x + 3, changes=changes)
        ends = [weights(trained(graph, recipe)) for graph in (own, all_likelier)]
        assert torch.allclose(*ends, atol=1e-4) == same
    for loss in ("binary", "structure"):
        on, off = taught(recipe, loss)
        assert on < off


@switched_off("CTCD")
def without_the_way_back_the_large_one_learns_alone(_: Path) -> None:
    one_way = {"losses": {"large_from_small": {"weight": 0.0}}}
    both, single = (trained(build("core.ctcd", change, steps=6), "core.ctcd") for change in ({}, one_way))
    alone = {"losses": {"large_from_small": None, "small_from_large": None}}
    apart = trained(build("core.ctcd", alone, steps=6), "core.ctcd")
    assert torch.equal(weights(single, "large"), weights(apart, "large"))
    assert not torch.equal(weights(both, "large"), weights(apart, "large"))
    assert not torch.equal(weights(both, "small"), weights(single, "small"))  # it has another teacher


@switched_off("Guidance-Network")
def without_guidance_the_single_one_is_its_baseline(_: Path) -> None:
    on, off = taught("core.guidance", "representation", "prediction")
    assert on < 0.8 * off
    cut = {"losses": {"representation": {"weight": 0.0}, "prediction": {"weight": 0.0}}}
    guided, apart = (trained(build("core.guidance", change), "core.guidance") for change in ({}, cut))
    assert torch.equal(weights(guided, "multimodal"), weights(apart, "multimodal"))  # nothing goes back to the guide
    assert not torch.equal(weights(guided, "single"), weights(apart, "single"))
    assert guided.exported == ("single",)


@switched_off("Does-KD-Work")
def fidelity_is_not_accuracy_and_starts_at_one_from_the_teachers_weights(folder: Path) -> None:
    data = {"train": toys.Pictures(40), "eval": {"held_out": toys.Pictures(40, seed=1), "training": toys.Pictures(40)}}
    teacher = network("teacher", "core.fidelity")
    scores = {}
    for start, own in (("near", copy.deepcopy(teacher)), ("far", network("student", "core.fidelity"))):
        made = mmkd.distill(
            "core.fidelity", output_dir=folder / start, nodes={"student": own, "teacher": teacher}, data=data,
            overrides=["train.steps=30", "train.optimizer=sgd", "data.batch_size=8", "train.device=cpu"],
        )  # fmt: skip
        scores[start] = {arm: made[arm]["scores"] for arm in ("student", "baseline")}
    for where in ("held_out", "training"):
        near, far = (scores[start]["student"][where]["agreement"] for start in ("near", "far"))
        assert near["agreement"] == 1 and near["kl"] == pytest.approx(0, abs=1e-6)
        assert far["kl"] > 1e-5 and set(far) == set(near)
        assert "agreement" not in scores["far"]["baseline"][where]  # it has no teacher to agree with
        assert scores["near"]["student"][where]["top_k"] != near


@switched_off("TaskAgnostic-Compare")
def each_of_the_three_transfers_what_it_says(_: Path) -> None:
    for recipe, loss in (("output", "output"), ("hidden", "hidden"), ("relations", "relations")):
        id = f"core.task_agnostic_{recipe}"
        graphs = [build(id, steps=steps) for steps in (15, 1)]
        after, before = (loss_of(trained(graph, id), id)[f"{loss}_loss"] for graph in graphs)
        assert after < 0.9 * before
    unmasked = {"losses": {"output": {"mask": None}}}
    whole, part = (loss_of(build("core.task_agnostic_output", c), "core.task_agnostic_output") for c in (unmasked, {}))
    assert abs(whole["loss"] - part["loss"]) > 1e-4
    within = torch.arange(96).view(48, 2).flip(1).flatten()  # of each relation head: an orthogonal map
    losses = [relations_of(order) for order in (torch.arange(96), within, torch.arange(96).roll(1))]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert abs(losses[2] - losses[0]) > 1e-4


def relations_of(order: Tensor) -> float:
    """The loss of relations to a teacher whose queries have their dimensions in another order."""
    teacher = network("teacher", "core.task_agnostic_relations")
    query = teacher.get_submodule("encoder.layer.11.attention.self.query")
    assert isinstance(query, nn.Linear)
    with torch.no_grad():
        query.weight.copy_(query.weight[order])
        query.bias.copy_(query.bias[order])
    return loss_of(build("core.task_agnostic_relations", teacher=teacher), "core.task_agnostic_relations")["loss"]


@switched_off("SinKD")
def predictions_are_carried_to_the_batchs_and_not_to_their_own(_: Path) -> None:
    recipe = "core.sinkd"

    def spread(logits: Tensor) -> Tensor:
        return 9 * (logits - logits.mean(0)) / logits.std(0)

    turns = (spread, lambda logits: spread(logits).flip(0))
    own, turned = (loss_of(with_teacher(recipe, "logits", turn), recipe) for turn in turns)
    assert turned["transport_loss"] == pytest.approx(own["transport_loss"], rel=1e-3)
    assert abs(turned["kd_loss"] - own["kd_loss"]) > 1e-3
    on, off = taught(recipe, "transport", losses={"kd": None, "label": {"weight": 0.01}})
    assert on < off


@switched_off("e2KD")
def without_reasons_a_student_has_its_own(_: Path) -> None:
    on, off = taught("core.e2kd", "reasons", losses={"reasons": {"weight": 10.0}})
    assert on < 0.9 * off
    assert {"layer1", "layer4"} <= reached(build("core.e2kd"), "core.e2kd", "reasons")


@switched_off("OFA-KD")
def every_stage_has_a_branch_that_trains_what_lies_before_it(_: Path) -> None:
    graph = build("core.ofa")
    stages = [f"layer{i}" for i in (1, 2, 3, 4)]
    for i in (1, 2, 3, 4):
        assert reached(graph, "core.ofa", f"stage_{i}") == set(stages[:i])
    assert "fc" in reached(graph, "core.ofa", "output")
    at_one = loss_of(graph, "core.ofa")["output_loss"]
    plain = {"losses": {"output": {"use": "core.kl", "student": "student.logits", "teacher": "teacher.logits"}}}
    assert at_one == pytest.approx(loss_of(build("core.ofa", plain), "core.ofa")["output_loss"], rel=1e-5)
    enhanced = {"losses": {"output": {"epsilon": 1.5}}}
    assert abs(at_one - loss_of(build("core.ofa", enhanced), "core.ofa")["output_loss"]) > 1e-3
    names = [f"stage_{i}" for i in (1, 2, 3, 4)]
    on, off = taught("core.ofa", *names)
    assert on < off


@switched_off("A2D")
def a_map_of_heads_that_is_not_learnt_fits_no_teacher(_: Path) -> None:
    ends = []
    for learnt in (True, False):
        graph = build("core.a2d", {"losses": {"attention": {"temperature": 0.1}}}, steps=40)
        graph.losses["attention"].alignment.requires_grad_(learnt)
        graph = trained(graph, "core.a2d")
        ends.append(loss_of(graph, "core.a2d")["attention_loss"])
    assert ends[0] < 0.5 * ends[1]


@switched_off("BD-KD")
def the_surer_one_tips_the_balance(_: Path) -> None:
    recipe = "core.bd_kd"
    even = {"losses": {"small_balanced": {"delta": 1.0}}}
    ends = [trained(build(recipe, change, steps=6), recipe) for change in ({}, even)]
    assert not torch.equal(weights(ends[0], "small"), weights(ends[1], "small"))
    found = []
    for factor in (0.01, 20.0):  # a large one that is unsure, then sure
        large = Changed(network("large", recipe), "logits", lambda x, factor=factor: factor * x)
        parts = {
            "forward": {"use": "core.kl", "student": "small.logits", "teacher": "large.logits"},
            "reverse": {"use": "core.reverse_kl", "student": "small.logits", "teacher": "large.logits"},
        }
        found.append(loss_of(build(recipe, {"losses": parts}, large=large), recipe))
    unsure, sure = found
    assert unsure["small_balanced_loss"] == pytest.approx(2 * unsure["forward_loss"] + unsure["reverse_loss"], rel=1e-4)
    assert sure["small_balanced_loss"] == pytest.approx(sure["forward_loss"] + 2 * sure["reverse_loss"], rel=1e-4)


@switched_off("Patient-Consistent")
def a_student_that_is_its_teacher_stays_so_only_where_both_see_one_view(folder: Path) -> None:
    recipe = mmkd.load_recipe("vision.patient")
    assert recipe.train.epochs == 1200 and set(recipe.losses) == {"match"}  # patience, and no labels
    teacher = toys.PictureNet(8, seed=3)
    with torch.no_grad():
        teacher.fc.weight.mul_(50)
    draws = [curator.model_dump() for curator in recipe.data.curators]
    apart = {"data": {"views": {"other": draws}}, "losses": {"match": {"teacher": "teacher@other.logits"}}}
    moved = []
    for name, change in (("consistent", {}), ("inconsistent", apart)):
        train = {"epochs": None, "steps": 3, "optimizer": "sgd", "lr": 0.01, "weight_decay": 0.0, "device": "cpu"}
        document = {"recipe": "vision.patient", **change, "train": train}
        document["data"] = {**change.get("data", {}), "batch_size": 8}
        mmkd.distill(
            document,
            output_dir=folder / name,
            nodes={"student": copy.deepcopy(teacher), "teacher": teacher},
            data=DATA,
        )
        graph = mmkd.from_pretrained(folder / name, nodes={"student": copy.deepcopy(teacher)})
        before = torch.cat([p.detach().flatten() for p in teacher.parameters()])
        moved.append((weights(graph) - before).abs().max().item())
    assert moved[0] < 1e-6 and moved[1] > 1e-4


@switched_off("ND")
def features_grow_along_the_mean_of_their_class(_: Path) -> None:
    recipe = "core.nd"
    on, off = taught(recipe, "direction")
    assert on < 0.8 * off
    graph = trained(build(recipe, steps=40), recipe)
    assert graph.losses["direction"].counts.sum() == 320  # every feature once
    assert loss_of(build(recipe), recipe)["direction_loss"] == 0  # before there are means


@switched_off("MKD-OCL")
def the_teacher_is_the_moving_average_and_nothing_else(_: Path) -> None:
    recipe = "core.mkd"
    graph = build(recipe, {"teacher": {"average": {"momentum": 0.7}}}, steps=5)
    made = mmkd.optimizers(graph, toys.settings(recipe, 5))
    expected = weights(graph)
    for step in range(5):
        graph.step(batch(recipe, step), made)
        expected = 0.7 * expected + 0.3 * weights(graph)
    torch.testing.assert_close(weights(graph, "teacher"), expected)
    still = trained(build(recipe, {"teacher": {"average": {"momentum": 1.0}}}, steps=5), recipe)
    assert not torch.equal(weights(graph), weights(still))
    on, off = taught(recipe, "momentum")
    assert on < off


@switched_off("WAKD")
def the_exported_network_is_the_mean_of_all_steps(_: Path) -> None:
    late_start = {"teachers": {"mean": {"average": {"start": 9}}}}
    graph, late = build("core.wakd", steps=5), build("core.wakd", late_start, steps=5)
    made = mmkd.optimizers(graph, toys.settings("core.wakd", 5))
    seen = []
    for step in range(5):
        graph.step(batch("core.wakd", step), made)
        seen.append(weights(graph))
    torch.testing.assert_close(weights(graph, "mean"), torch.stack(seen).mean(0), rtol=1e-4, atol=1e-6)
    trained(late, "core.wakd")
    assert torch.equal(weights(late, "mean"), weights(late))  # no average, but the last step
    assert not torch.allclose(weights(graph, "mean"), weights(graph)) and graph.exported == ("mean",)


def staged(recipe: str, folder: Path, **changes: Any) -> Path:
    """A packaged recipe of stages, run on toys."""
    train = {"steps": 3, "lr": 0.01, "device": "cpu"}
    document = {"recipe": recipe, "train": train, "data": {"batch_size": 8}, **changes}
    mmkd.distill(document, output_dir=folder, nodes=toys.networks(recipe), data=DATA, preflight=False, baseline=False)
    return folder


def parameters(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "student" / "model.safetensors")


@switched_off("FitNets")
def the_hint_trains_the_lower_half_alone(folder: Path) -> None:
    with_hint, without = staged("core.fitnets", folder / "a"), staged("core.fitnets", folder / "b", procedure=None)
    start = {f"nodes.student.{k}": v for k, v in toys.networks("core.fitnets")["student"].state_dict().items()}
    after_hint = parameters(with_hint / "stages" / "hint")
    moved = {key for key, value in start.items() if not torch.equal(value, after_hint[key])}
    assert any("layer1" in key for key in moved) and not any("layer4" in key or ".fc." in key for key in moved)
    assert any(not torch.equal(value, parameters(without)[key]) for key, value in parameters(with_hint).items())


@switched_off("BAN")
def a_generation_learns_from_the_one_before(folder: Path) -> None:
    taught, alone = staged("core.ban", folder / "a"), staged("core.ban", folder / "b", losses={"kd": {"weight": 0.0}})
    first = [parameters(run / "stages" / "generation_1") for run in (taught, alone)]
    assert all(torch.equal(value, first[1][key]) for key, value in first[0].items())
    second = [parameters(run / "stages" / "generation_2") for run in (taught, alone)]
    assert any(not torch.equal(value, second[1][key]) for key, value in second[0].items())


# -- the tests --------------------------------------------------------------------------------------------------


def test_the_first_wave_is_whole() -> None:
    assert {*MECHANISMS, *ELSEWHERE} >= WAVE
    assert len({e.id for e in host().catalogue if e.counts_as == "distinct formula"}) >= 50


@pytest.mark.parametrize("paper", [*MECHANISMS, *ELSEWHERE])
def test_a_paper_leads_to_components(paper: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = listed(paper, capsys)
    assert found
    for row in found:
        assert paper in [name.strip() for name in row["paper"].split(",")]
        assert (row["counts_as"] == "preset") == (row["kind"] == "recipe")
    assert found == listed(paper.swapcase(), capsys)


@pytest.mark.parametrize(("paper", "kind", "id"), rows())
def test_what_a_paper_leads_to_runs(paper: str, kind: str, id: str, tmp_path: Path) -> None:
    RUN[kind](id, tmp_path)


@pytest.mark.parametrize("paper", MECHANISMS)
def test_switched_off_it_is_another_thing(paper: str, tmp_path: Path) -> None:
    MECHANISMS[paper](tmp_path)


@pytest.mark.parametrize("place", ELSEWHERE.values())
def test_a_mechanism_is_switched_off_elsewhere(place: str) -> None:
    file, _, name = place.partition("::")
    assert f"def {name}(" in (Path(__file__).parents[1] / file).read_text()


@pytest.mark.parametrize("name", [name for name, _, _ in RECIPES])
def test_a_packaged_recipe_says_what_it_leaves_open(name: str) -> None:
    (entry,) = [entry for entry in host().catalogue if (entry.kind, entry.id) == ("recipe", f"core.{name}")]
    assert entry.summary.endswith(").") and entry.paper and entry.counts_as == "preset"
    recipe = mmkd.load_recipe(entry.id)
    assert set(toys.left_open(recipe)) and "data.train" in recipe.left_open()
    text = as_text(describe(entry))
    assert f"Yours to give: {', '.join(recipe.left_open())}; in a recipe that begins with" in text
    assert mmkd.load_recipe(recipe.to_dict()) == recipe
