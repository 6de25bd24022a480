"""DOT: two momenta, the authors' rule for parameters that one loss reaches, and SGD where the two are equal."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from engine.test_resume import Killed, final, kill_at
from engine.toys import data, networks, recipe
from goldens import cases
from graph.nets import CLASSES, WIDTH, batch, mlp
from torch import Tensor, nn

import mmkd
from mmkd.engine import checkpoint
from mmkd.errors import GraphError, RecipeError, TrainingError
from mmkd.graph.training_graph import TrainingGraph
from mmkd.library.procedures.dot import DotOptimizer, TwoMomenta

LOSSES: dict[str, Any] = {
    "kd": {"use": "core.kl", "student": "student.logits", "teacher": "teacher.logits"},
    "label": {"use": "core.cross_entropy", "student": "student.logits"},
    "hint": {"use": "core.mse", "student": "up", "teacher": "teacher/1"},
}
DOT = {"use": "core.dot", "distill": ["kd", "hint"], "delta": 0.05}
SGD = {"steps": 100, "optimizer": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}


def build(procedure: Any = DOT, losses: Any = LOSSES, **train: Any) -> tuple[TrainingGraph, Any]:
    torch.manual_seed(1)
    document = {
        "student": {}, "teacher": {}, "losses": losses, "procedure": procedure, "train": {**SGD, **train},
        "projectors": {"up": {"use": "core.linear", "input": "student/1", "like": "teacher/1"}},
    }  # fmt: skip
    nodes = {"student": mlp(WIDTH, 8, CLASSES, seed=2), "teacher": mlp(WIDTH, 12, CLASSES, seed=3)}
    graph = mmkd.build(document, nodes=nodes, example=batch()).double()
    return graph, mmkd.optimizers(graph, mmkd.load_recipe(document).train)


def double(seed: int, size: int = 8) -> dict[str, Tensor]:
    return {name: v.double() if v.is_floating_point() else v for name, v in batch(size, seed).items()}


def run(graph: TrainingGraph, optimizers: Any, steps: int = 4, **options: Any) -> dict[str, Tensor]:
    for step in range(steps):
        graph.step(double(step), optimizers, **options)
    return {name: parameter.detach().clone() for name, parameter in graph.named_parameters() if parameter.requires_grad}


def close(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return all(torch.allclose(a[name], b[name], rtol=0, atol=1e-12) for name in a)


# -- the rule -----------------------------------------------------------------------------------------------------


def test_the_authors_optimiser_goes_the_same_way() -> None:
    seen = 0
    for options, inputs, output, _ in cases("dot"):
        parameters = [nn.Parameter(row.clone()) for row in inputs["start"]]
        own = {name: options[name] for name in ("lr", "momentum", "delta", "weight_decay")}
        optimizer = DotOptimizer(parameters, parameters, **own)
        for step, expected in enumerate(output):
            optimizer.gradients = {
                group: [g if reached else None for g, reached in zip(inputs[group][step], flags, strict=True)]
                for group, flags in options["reached"].items()
            }
            optimizer.step()
            torch.testing.assert_close(torch.stack([*parameters]).detach(), expected, rtol=0, atol=1e-12)
        seen += 1
    assert seen == 2


def test_both_momenta_by_hand() -> None:
    """Each group's gradient by autograd, and the paper's three lines."""
    graph, optimizers = build()
    other, _ = build()
    held = {name: p for name, p in other.named_parameters() if p.requires_grad}
    momenta = {name: {"task": torch.zeros_like(p), "kd": torch.zeros_like(p)} for name, p in held.items()}
    for step in range(4):
        out = other(double(step))
        losses = {"task": out["label_loss"], "kd": out["kd_loss"] + out["hint_loss"]}
        grads = {
            group: dict(zip(held, torch.autograd.grad(loss, [*held.values()], retain_graph=True, allow_unused=True),
                            strict=True))
            for group, loss in losses.items()
        }  # fmt: skip
        for name, parameter in held.items():
            task, kd = grads["task"][name], grads["kd"][name]
            decay = 0.01 * parameter.detach() if parameter.dim() > 1 else 0.0
            own = momenta[name]
            if task is None:
                assert kd is not None and name.startswith("projectors")
                own["kd"] = 0.9 * own["kd"] + kd + decay
            elif kd is None:
                own["task"] = 0.9 * own["task"] + task + decay
            else:
                own["task"] = (0.9 - 0.05) * own["task"] + task + decay
                own["kd"] = (0.9 + 0.05) * own["kd"] + kd
            parameter.data -= 0.1 * (own["task"] + own["kd"])
        other.update()
    found = run(graph, optimizers)
    assert close(found, {name: p.detach() for name, p in held.items()})


def test_equal_momenta_are_sgd() -> None:
    """Switched off, the mechanism leaves SGD with momentum."""
    plain = run(*build(procedure=None))
    assert close(run(*build({**DOT, "delta": 0.0})), plain)
    found = run(*build(DOT))
    moved = {name for name, value in found.items() if (value - plain[name]).abs().max() > 1e-4}
    assert moved == {name for name in found if name.startswith("nodes.student")}


def test_a_parameter_that_one_loss_reaches_has_the_mean_momentum() -> None:
    """The task sees none of the projector: on the same gradients it goes as under SGD."""
    gradients = [torch.randn(2, 3, generator=torch.Generator().manual_seed(i)) for i in range(3)]
    ours, theirs = (nn.Parameter(torch.ones(2, 3)) for _ in range(2))
    optimizer = DotOptimizer([ours], [ours], lr=0.1, momentum=0.9, delta=0.09, weight_decay=0.1)
    sgd = torch.optim.SGD([theirs], lr=0.1, momentum=0.9, weight_decay=0.1, fused=True)
    for gradient in gradients:
        optimizer.gradients = {"task": [None], "distill": [gradient]}
        optimizer.step()
        theirs.grad = gradient
        sgd.step()
    torch.testing.assert_close(ours, theirs)


def test_a_larger_momentum_brings_distillation_down_faster() -> None:
    def loss(delta: float) -> float:
        graph, optimizers = build({**DOT, "delta": delta}, lr=0.02, weight_decay=0.0)
        for _ in range(60):
            out = graph.step(double(0), optimizers)
        return out["kd_loss"].item()

    assert loss(0.09) < loss(0.0)


# -- with the rest of a step --------------------------------------------------------------------------------------


def test_micro_batches_add_up() -> None:
    whole, parts = build(), build()
    for step in range(3):
        big = double(step)
        whole[0].step(big, whole[1])
        parts[0].step([{k: v[:4] for k, v in big.items()}, {k: v[4:] for k, v in big.items()}], parts[1])
    assert close(run(*whole, steps=0), run(*parts, steps=0))


def test_clipping_goes_by_the_norm_of_the_sum() -> None:
    free, clipped = build(weight_decay=0.0), build(weight_decay=0.0)
    start = run(*free, steps=0)
    norm = clipped[0].step(double(0), clipped[1], max_grad_norm=0.01)["grad_norm"]
    free[0].step(double(0), free[1])
    torch.testing.assert_close(norm, free[0].grad_norm())
    torch.testing.assert_close(clipped[0].grad_norm(), torch.tensor(0.01, dtype=torch.float64), rtol=1e-3, atol=0)
    far, near = run(*free, steps=0), run(*clipped, steps=0)
    for name, before in start.items():
        torch.testing.assert_close(near[name] - before, (far[name] - before) * 0.01 / norm, rtol=1e-3, atol=1e-9)


def test_what_is_not_finite_leaves_buffers_and_weights_alone() -> None:
    graph, optimizers = build()
    before = run(graph, optimizers, steps=2)
    state = copy.deepcopy(optimizers["main"].state_dict()["state"])
    bad = double(5)
    bad["image"][0] = torch.nan
    assert not graph.step(bad, optimizers)["finite"]
    assert close(run(graph, optimizers, steps=0), before)
    after = optimizers["main"].state_dict()["state"]
    assert all(torch.equal(after[i][name], own[name]) for i, own in state.items() for name in own)


def test_the_flag_of_a_device_is_read_by_the_kernel() -> None:
    parameter = nn.Parameter(torch.ones(3))
    optimizer = DotOptimizer([parameter], [parameter], lr=0.1)
    optimizer.gradients = {"task": [torch.ones(3)], "distill": [torch.ones(3)]}
    optimizer.found_inf = torch.ones(())  # type: ignore[attr-defined]
    optimizer.step()
    assert torch.equal(parameter, torch.ones(3)) and not any(v.any() for v in optimizer.state[parameter].values())
    optimizer.found_inf = torch.zeros(())  # type: ignore[attr-defined]
    optimizer.step()
    torch.testing.assert_close(parameter.detach(), torch.full((3,), 0.8))


def test_a_critic_keeps_its_own_phase() -> None:
    critic = {"use": "core.wcord_global", "student": "student/1", "teacher": "teacher/1", "hidden": 4, "layers": 1}
    graph, optimizers = build(losses={**LOSSES, "hint": critic})
    names = [phase.name for phase in graph.phases]
    assert names == ["hint.critic", "main"] and isinstance(optimizers["main"], DotOptimizer)
    before = graph.phases[0].parameters[0].detach().clone()
    graph.step(double(0), optimizers)
    assert not torch.equal(graph.phases[0].parameters[0], before)
    held = {id(p) for group in optimizers["main"].param_groups for p in group["params"]}
    assert not held & {id(p) for p in graph.phases[0].parameters}


def test_killed_and_resumed_is_the_whole_run_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    document = {**recipe(optimizer="sgd"), "procedure": {"use": "core.dot", "distill": ["kd"]}}

    def distill(folder: str, resume: bool = False) -> None:
        mmkd.distill(document, output_dir=tmp_path / folder, nodes=networks(), data=data(), resume=resume)

    distill("whole")
    with monkeypatch.context() as patch:
        kill_at(9, patch)
        with pytest.raises(Killed):
            distill("cut")
    assert [path.name for path in checkpoint.checkpoints(tmp_path / "cut")] == ["checkpoint-6"]
    distill("cut", resume=True)
    whole, cut = final(tmp_path / "whole"), final(tmp_path / "cut")
    assert any(name.endswith("/distill") and value.any() for name, value in whole.items())
    assert [name for name in whole if not torch.equal(whole[name], cut[name])] == []


# -- errors -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("procedure", "train", "said"),
    [
        ({**DOT, "distill": ["kdd"]}, {}, r"procedure.distill.0: there is no loss 'kdd'; did you mean 'kd'"),
        ({**DOT, "distill": ["kd", "label", "hint"]}, {}, "procedure.distill: every loss distils"),
        ({**DOT, "distill": []}, {}, "procedure.distill"),
        (DOT, {"optimizer": "adamw"}, "train.optimizer: two momenta are those of sgd, not of adamw"),
        ({**DOT, "delta": 0.2}, {}, r"procedure.delta: 0.9 - 0.2 and 0.9 \+ 0.2 are not both from 0 to 1"),
        (DOT, {"momentum": 0.01}, "procedure.delta"),
    ],
)
def test_what_cannot_be_is_said(procedure: Any, train: Any, said: str) -> None:
    with pytest.raises((RecipeError, GraphError), match=said):
        build(procedure, **train)


def test_a_loop_that_hands_over_no_gradients_is_told_so() -> None:
    graph, optimizers = build()
    graph(double(0))["loss"].backward()
    with pytest.raises(TrainingError, match=r"graph.step\(batch, optimizers\)"):
        optimizers["main"].step()


def test_groups() -> None:
    dot = TwoMomenta(["kd"])
    assert dot.groups(["kd", "label"]) == {"task": ["label"], "distill": ["kd"]}
