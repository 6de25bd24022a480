"""A network in a form of its own: bf16 or fp16, channels-last, compiled; what it gives, keeps and refuses."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from graph.nets import CLASSES, KD, WIDTH, batch, build, made, mlp
from torch import Tensor, nn

import mmkd
from mmkd.errors import GraphError, RecipeError
from mmkd.graph import form
from mmkd.graph.formed import FormedRun
from mmkd.graph.node import NodeRun

PICTURES = {"image": torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(0))}
HINT = {"hint": {"use": "core.mse", "student": "student/0", "teacher": "teacher/0"}}


def cnn(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    layers = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(4 * 36, CLASSES)]
    return nn.Sequential(*layers)


def seen(network: nn.Module) -> list[Tensor]:
    """What a network is called with from now on."""
    inputs: list[Tensor] = []
    network.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    return inputs


def pictured(losses: Any = KD, **teacher: Any) -> mmkd.TrainingGraph:
    return build(losses, {"student": cnn(1), "teacher": cnn(2)}, teacher=teacher, example=PICTURES)


def test_nothing_is_decided_that_was_not_asked_for() -> None:
    graph = build()
    assert not any(isinstance(run, FormedRun) for run in graph.plan.runs)
    assert graph.decided.keys() == {"attention"}
    assert all(run.node.form is None for run in graph.plan.runs)


@pytest.fixture(autouse=True)
def capable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test runs on a processor with half precision, as far as the host can tell."""
    monkeypatch.setattr(form, "computes", lambda precision: True)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_processor_that_imitates_half_precision_is_told_of(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from mmkd.diagnosis.checks import drift

    monkeypatch.setattr(form, "computes", lambda precision: False)
    graph = build(
        KD, {"student": mlp(WIDTH, CLASSES), "teacher": mlp(WIDTH, CLASSES)}, teacher={"precision": precision}
    )

    class Exam:
        def __init__(self) -> None:
            self.graph = graph

        def place(self, name: str) -> str:
            return name

    found = [(f.severity, f.where) for f in drift.check(Exam())]  # type: ignore[arg-type]
    assert found == ([("warning", "teacher.precision")] if precision == "bf16" else [])
    assert ("slower than fp32" in graph.decided["teacher"]) == (precision == "bf16")


@pytest.mark.parametrize(("precision", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_half_precision_casts_weights_and_inputs_and_widens_what_is_read(precision: str, dtype: torch.dtype) -> None:
    own = mlp(WIDTH, 16, CLASSES, seed=3)
    graph = build(KD, {"student": mlp(WIDTH, CLASSES), "teacher": own}, teacher={"precision": precision})
    inputs = seen(graph.nodes["teacher"].net)
    values = graph.compute(batch())
    assert {p.dtype for p in graph.nodes["teacher"].parameters()} == {dtype}
    assert [x.dtype for x in inputs] == [dtype]
    assert values["teacher.logits"].dtype == torch.float32
    assert own[0].weight.dtype == torch.float32, "the network that was handed in stays as it is"
    expected = own(batch()["image"]).detach()
    assert torch.allclose(values["teacher.logits"], expected, atol=2e-2)
    assert not torch.equal(values["teacher.logits"], expected)
    assert 0 < graph.drift["teacher"]["teacher.logits"] < 0.02
    assert graph.decided["teacher"].startswith(f"{precision}: asked for; drift 0.")
    assert graph.decided["teacher"].endswith("% teacher.logits")


def test_a_forced_precision_holds_under_autocast() -> None:
    wide = build(teacher={"precision": "fp32"}, train={"steps": 1, "precision": "bf16"})
    auto = build(train={"steps": 1, "precision": "bf16"})
    teacher = wide.nodes["teacher"].net
    assert torch.equal(wide.compute(batch())["teacher.logits"], teacher(batch()["image"]))
    assert auto.compute(batch())["teacher.logits"].dtype == torch.bfloat16


def test_channels_last_is_the_same_network_laid_out_otherwise() -> None:
    plain, graph = pictured(), pictured(layout="channels_last")
    inputs = seen(graph.nodes["teacher"].net)
    values = graph.compute(PICTURES)
    assert inputs[0].is_contiguous(memory_format=torch.channels_last)
    assert graph.nodes["teacher"].net[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert torch.allclose(values["teacher.logits"], plain.compute(PICTURES)["teacher.logits"], atol=1e-5)
    assert graph.drift["teacher"]["teacher.logits"] < 1e-5
    assert graph.step(PICTURES, made(graph))["loss"].isfinite()


def test_a_student_is_laid_out_by_its_inputs_and_steps_alike() -> None:
    losses = []
    for layout in (None, "channels_last"):
        student = {"layout": layout} if layout else {}
        graph = build(KD, {"student": cnn(1), "teacher": cnn(2)}, student=student, teacher={}, example=PICTURES)
        optimizers = made(graph, lr=0.1, optimizer="sgd")
        losses.append(torch.stack([graph.step(PICTURES, optimizers)["loss"] for _ in range(3)]))
    assert torch.allclose(*losses, rtol=1e-4)
    assert graph.nodes["student"].net[0].weight.is_contiguous()
    assert graph.decided["student"] == "channels_last: asked for"


@pytest.mark.parametrize(("key", "value"), [("precision", "bf16"), ("compile", True)])
def test_what_is_trained_or_averaged_takes_no_form(key: str, value: Any) -> None:
    with pytest.raises(RecipeError, match="belongs to networks that are not trained") as caught:
        mmkd.load_recipe({"student": {key: value}, "losses": KD})
    assert caught.value.where.endswith(f"student.{key}")
    assert key != "precision" or "train.precision" in str(caught.value)
    with pytest.raises(RecipeError, match="runs as the student that it follows"):
        mmkd.load_recipe({"student": {}, "teacher": {"average": {"of": "student"}, key: value}, "losses": KD})
    mmkd.load_recipe({"student": {key: value, "frozen": True}, "losses": KD})


def test_a_layout_without_pictures_and_a_network_that_cannot_are_errors() -> None:
    with pytest.raises(GraphError, match="nothing to lay out") as caught:
        build(teacher={"layout": "channels_last"})
    assert caught.value.where == "teacher.layout"

    class Stubborn(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(WIDTH, CLASSES)

        def forward(self, image: Tensor) -> Tensor:
            return self.layer(image.float())

    with pytest.raises(GraphError, match="does not run as bf16") as caught:
        build(KD, {"student": mlp(WIDTH, CLASSES), "teacher": Stubborn()}, teacher={"precision": "bf16"})
    assert caught.value.where == "teacher.precision"


@pytest.mark.parametrize(("key", "value"), [("precision", "bf16"), ("compile", True)])
def test_a_network_through_which_a_gradient_flows_is_refused(key: str, value: Any) -> None:
    with pytest.raises(GraphError, match="takes inner inputs runs in float32") as caught:
        build(KD, {"student": mlp(WIDTH, 8, CLASSES), "teacher": mlp(WIDTH, 8, CLASSES)},
              teacher={"inputs": {"/2": "student/1"}, key: value})  # fmt: skip
    assert caught.value.where == f"teacher.{key}"


def test_an_exported_teacher_keeps_the_weights_that_it_came_with(tmp_path: Any) -> None:
    from mmkd.exported import from_pretrained, write

    student, teacher = mlp(WIDTH, CLASSES, seed=1), mlp(WIDTH, 16, CLASSES, seed=3)
    recipe = mmkd.load_recipe({"student": {}, "teacher": {"precision": "bf16"}, "losses": KD,
                               "export": ["student", "teacher"], "train": {"steps": 1}})  # fmt: skip
    graph = mmkd.build(recipe, nodes={"student": student, "teacher": teacher}, example=batch())
    write(graph, recipe, tmp_path / "out", "")
    fresh = {"student": mlp(WIDTH, CLASSES, seed=7), "teacher": mlp(WIDTH, 16, CLASSES, seed=8)}
    loaded = from_pretrained(tmp_path / "out", nodes=fresh)
    for name, tensor in teacher.state_dict().items():
        assert torch.equal(loaded.nodes["teacher"].net.state_dict()[name], tensor)


def test_a_drift_that_is_large_or_not_finite_is_found() -> None:
    from mmkd.diagnosis.checks import drift

    teacher = mlp(WIDTH, CLASSES)
    with torch.no_grad():
        teacher[0].weight.mul_(1e6)  # beyond the range of fp16
    graph = build(KD, {"student": mlp(WIDTH, CLASSES), "teacher": teacher}, teacher={"precision": "fp16"})

    class Exam:
        def __init__(self) -> None:
            self.graph = graph

        def place(self, name: str) -> str:
            return name

    assert not math.isfinite(graph.drift["teacher"]["teacher.logits"])
    assert [f.severity for f in drift.check(Exam())] == ["error"]  # type: ignore[arg-type]
    graph.drift["teacher"] = {"teacher.logits": 0.2}
    assert [f.severity for f in drift.check(Exam())] == ["warning"]  # type: ignore[arg-type]
    graph.drift["teacher"] = {"teacher.logits": 0.01}
    assert not list(drift.check(Exam()))  # type: ignore[arg-type]


def test_weights_that_a_later_stage_takes_over_are_kept_whole_too() -> None:
    from mmkd.graph.state import carry

    other = mlp(WIDTH, 16, CLASSES, seed=9)
    graph = build(teacher={"precision": "bf16"}, export=["student", "teacher"])
    carry(graph, {f"nodes.teacher.net.{name}": tensor for name, tensor in other.state_dict().items()})
    state = graph.roles["teacher"].state()
    for name, tensor in other.state_dict().items():
        assert torch.equal(state[f"net.{name}"], tensor)
        assert torch.equal(graph.nodes["teacher"].net.state_dict()[name], tensor.bfloat16())


# -- compiled -----------------------------------------------------------------------------------------------------


@pytest.fixture
def _fresh_compiler() -> Any:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.usefixtures("_fresh_compiler")
def test_a_compiled_pass_gives_the_taps_and_nothing_behind_them() -> None:
    losses = {**HINT, "early": {"use": "core.mse", "student": "student/1.input", "teacher": "teacher/1"}}
    plain, graph = pictured(losses), pictured(losses, compile=True)
    run = next(run for run in graph.plan.runs if run.node.name == "teacher")
    assert isinstance(run, FormedRun)
    assert run.compiled is not None
    torch._dynamo.utils.counters.clear()
    for size in (8, 5, 3, 7, 2):
        given = {"image": torch.randn(size, 3, 8, 8)}
        expected, values = plain.compute(given), graph.compute(given)
        for key in ("teacher/0", "teacher/1"):
            assert torch.allclose(values[key], expected[key], atol=1e-5)
    assert torch._dynamo.utils.counters["stats"].get("unique_graphs", 0) <= 1, "batch sizes do not compile anew"
    with torch.profiler.profile() as profile:
        run(PICTURES, {})
    called = {event.key for event in profile.key_averages()}
    assert "aten::addmm" not in called, "the layer behind the taps is not there"
    assert any("conv" in name for name in called)
    other = graph.values(PICTURES, ["teacher/0", "teacher.logits"])
    network = graph.nodes["teacher"].net
    assert torch.equal(other["teacher.logits"], network(PICTURES["image"]))
    given = graph.compute(PICTURES)
    assert torch.allclose(given["teacher/0"], network[0](PICTURES["image"]), atol=1e-5)
    assert "compiled: asked for; drift" in graph.decided["teacher"]


def test_what_cannot_be_compiled_says_what_stands_in_the_way() -> None:
    class Breaks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(WIDTH, CLASSES)

        def forward(self, image: Tensor) -> Tensor:
            torch._dynamo.graph_break()
            return self.layer(image)

    with pytest.raises(GraphError, match=r"cannot be compiled as one graph: .*graph_break") as caught:
        build(KD, {"student": mlp(WIDTH, CLASSES), "teacher": Breaks()}, teacher={"compile": True})
    assert caught.value.where == "teacher.compile"


def test_plain_runs_are_of_the_plain_class() -> None:
    graph = build(teacher={"precision": "bf16"})
    assert [type(run) for run in graph.plan.runs if run.node.name == "student"] == [NodeRun]
