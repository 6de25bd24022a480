"""The training graph in a loop: the same bits as by hand, in every kind of step."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from graph.nets import CLASSES, KD, WIDTH, batch, build, made, mlp
from torch import Tensor, nn

import mmkd
from mmkd.errors import GraphError
from mmkd.graph import phase
from mmkd.graph.binding import bind
from mmkd.graph.node import Node
from mmkd.graph.step import train_critic
from mmkd.graph.term import Term
from mmkd.graph.training_graph import TrainingGraph

MSE = {"mse": {"use": "core.mse", "student": "student.logits", "teacher": "teacher.logits"}}


def weights(graph: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in graph.named_parameters()}


def moved(graph: nn.Module, before: dict[str, Tensor]) -> set[str]:
    """Names of the parameters that are no longer what they were, bit for bit."""
    return {name for name, p in graph.named_parameters() if not torch.equal(p, before[name])}


def graph_of(loss: mmkd.Loss, **ports: str) -> TrainingGraph:
    """A student and a teacher under one loss object."""
    nodes = {
        "student": Node("student", mmkd.wrap(mlp(WIDTH, 8, CLASSES, seed=2)), True),
        "teacher": Node("teacher", mmkd.wrap(mlp(WIDTH, CLASSES, seed=3)), False),
    }
    bound = bind("own", loss, ports or {"student": "student.logits", "teacher": "teacher.logits"}, "losses.own")
    return TrainingGraph(nodes, terms=[Term(bound)]).setup(batch())


# -- beside a loop by hand --------------------------------------------------------------------------------------


class Student(nn.Module):
    """A network of somebody's own, with BatchNorm and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.body = nn.Sequential(nn.Conv2d(8, 12, 3, 4, 1), nn.BatchNorm2d(12), nn.ReLU(inplace=True))
        self.drop, self.head = nn.Dropout(0.1), nn.Linear(12, 10)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.drop(self.body(self.stem(image)).mean((2, 3))))


@pytest.mark.parametrize("in_step", [False, True])
def test_a_hint_through_a_projector_is_bit_equal_to_the_loop_by_hand(in_step: bool) -> None:
    torch.manual_seed(0)
    teacher = timm.create_model("test_resnet", pretrained=False, num_classes=10)
    student = Student()
    generator = torch.Generator().manual_seed(1)
    batches = [
        {"image": torch.randn(4, 3, 64, 64, generator=generator), "label": torch.randint(10, (4,), generator=generator)}
        for _ in range(4)
    ]
    recipe = {
        "teacher": {},
        "student": {},
        "projectors": {"hint": {"use": "core.linear", "input": "student/body", "like": "teacher/layer2"}},
        "losses": {
            "kd": {**KD["kd"], "temperature": 2.0, "weight": 0.5},
            "ce": {"use": "core.cross_entropy", "student": "student.logits"},
            "hint": {"use": "core.mse", "student": "hint", "teacher": "teacher/layer2", "weight": 3.0},
        },
        "train": {"steps": 4, "lr": 1e-2, "weight_decay": 0.1},
    }
    hand = {"student": copy.deepcopy(student), "teacher": copy.deepcopy(teacher).eval()}
    graph = mmkd.build(recipe, nodes={"teacher": teacher, "student": student}, example=batches[0])
    optimizers = made(graph, lr=1e-2, weight_decay=0.1)
    conv = nn.Conv2d(12, graph.shapes["teacher/layer2"][1], 1)
    conv.load_state_dict(graph.projectors["hint"].layer.state_dict())
    matrices = [p for m in (hand["student"], conv) for p in m.parameters()]
    groups = [{"params": [p for p in matrices if p.dim() > 1], "weight_decay": 0.1},
              {"params": [p for p in matrices if p.dim() < 2], "weight_decay": 0.0}]  # fmt: skip
    optimizer = torch.optim.AdamW(groups, lr=1e-2, fused=True)

    def by_hand(given: dict[str, Tensor]) -> dict[str, Tensor]:
        seen: dict[str, Tensor] = {}
        handles = [hand["student"].body.register_forward_hook(lambda m, a, o: seen.__setitem__("s", o)),
                   hand["teacher"].layer2.register_forward_hook(lambda m, a, o: seen.__setitem__("t", o))]  # fmt: skip
        with torch.no_grad():
            t = hand["teacher"](given["image"])
        s = hand["student"](given["image"])
        for handle in handles:
            handle.remove()
        log_s, log_t = F.log_softmax(s / 2, -1), F.log_softmax(t / 2, -1)
        out = {
            "kd_loss": F.kl_div(log_s, log_t, reduction="none", log_target=True).sum(-1).mul(4).mean(),
            "ce_loss": F.cross_entropy(s, given["label"], reduction="none").mean(),
            "hint_loss": (conv(seen["s"]) - seen["t"]).square().flatten(1).mean(1).mean(),
        }
        return {**out, "loss": 0.5 * out["kd_loss"] + out["ce_loss"] + 3.0 * out["hint_loss"]}

    for step, given in enumerate(batches):
        torch.manual_seed(step)
        optimizer.zero_grad()
        expected = by_hand(given)
        expected["loss"].backward()
        torch.manual_seed(step)
        if in_step:
            out = graph.step(given, optimizers)
        else:
            optimizers["main"].zero_grad()
            out = graph(given)
            out["loss"].backward()
        for name, loss in expected.items():
            assert torch.equal(out[name], loss), name
        pairs = zip([*student.parameters(), *graph.projectors.parameters()], matrices, strict=True)
        for ours, theirs in pairs:
            assert torch.equal(ours.grad, theirs.grad)
        optimizer.step()
        if not in_step:
            optimizers["main"].step()
            graph.update()
    for ours, theirs in zip(student.state_dict().values(), hand["student"].state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)
    assert torch.equal(graph.projectors["hint"].layer.weight, conv.weight)
    for ours, theirs in zip(teacher.state_dict().values(), hand["teacher"].state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_losses_fall(optimizer: str) -> None:
    graph = build()
    optimizers = made(graph, optimizer=optimizer, lr=3e-2, momentum=0.9)
    losses = [graph.step(batch(), optimizers)["loss"].item() for _ in range(60)]
    assert losses[-1] < 0.1 * losses[0]
    assert graph.steps == 60


def test_momentum_starts_from_rest() -> None:
    graph, hand = build(MSE), build(MSE)
    optimizers = made(graph, optimizer="sgd", momentum=0.9, lr=0.1, weight_decay=0.0)
    plain = torch.optim.SGD(hand.nodes["student"].parameters(), lr=0.1, momentum=0.9, fused=True)
    for _ in range(3):
        graph.step(batch(), optimizers)
        plain.zero_grad()
        hand(batch())["loss"].backward()
        plain.step()
    assert moved(graph, weights(hand)) == set()


# -- frozen teachers --------------------------------------------------------------------------------------------


def test_train_never_thaws_a_teacher() -> None:
    teacher = nn.Sequential(nn.Linear(WIDTH, CLASSES), nn.BatchNorm1d(CLASSES), nn.Dropout(0.5))
    graph = build(MSE, {"student": mlp(WIDTH, CLASSES), "teacher": teacher})
    before = {key: value.clone() for key, value in teacher.state_dict().items()}
    for mode in (True, False, True):
        graph.train(mode)
        assert graph.nodes["student"].training is mode
        assert not any(m.training for m in teacher.modules())
    holder = nn.ModuleDict({"graph": graph}).train()
    assert holder["graph"].training
    assert not any(m.training for m in teacher.modules())
    targets = [graph.values(batch(), ["teacher.logits"])["teacher.logits"] for _ in range(2)]
    assert torch.equal(*targets)
    image = batch()["image"].requires_grad_()
    assert not graph.values({**batch(), "image": image}, ["teacher.logits"])["teacher.logits"].requires_grad
    optimizers = made(graph)
    graph.step(batch(), optimizers)
    assert all(torch.equal(teacher.state_dict()[key], value) for key, value in before.items())
    assert not any(p.requires_grad or p.grad is not None for p in teacher.parameters())


# -- state ------------------------------------------------------------------------------------------------------

HINT: dict[str, Any] = {
    "losses": {**KD, "hint": {"use": "core.mse", "student": "up", "teacher": "teacher/0"}},
    "projectors": {"up": {"use": "core.linear", "input": "student/0", "like": "teacher/0"}},
}


def test_the_state_is_what_a_run_changes() -> None:
    graph = build(**HINT)
    optimizers = made(graph)
    for _ in range(3):
        graph.step(batch(), optimizers)
    state = graph.state_dict()
    assert {key.split(".")[0] for key in state} == {"nodes", "projectors", "_extra_state"}
    assert not any("teacher" in key for key in state)
    twin = build(**HINT)
    twin.load_state_dict(state)
    assert twin.steps == 3
    assert moved(twin, weights(graph)) == set()
    assert torch.equal(twin(batch())["loss"], graph(batch())["loss"])


def test_the_state_is_the_same_inside_another_module() -> None:
    graph, holder = build(**HINT), nn.Module()
    holder.task = graph
    state = {key: value.clone() for key, value in holder.state_dict().items()}
    assert state.keys() == {f"task.{key}" for key in graph.state_dict()}
    before = weights(graph)
    with torch.no_grad():
        for parameter in graph.parameters():
            if parameter.requires_grad:
                parameter.zero_()
    assert moved(graph, before) == {name for name in before if "teacher" not in name}
    holder.load_state_dict(state)
    assert moved(graph, before) == set()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("nodes.student.net.0.weight"), r"Missing key.*nodes\.student\.net\.0\.weight"),
        (lambda s: s.update(extra=torch.ones(1)), "Unexpected key.*extra"),
        (lambda s: s.update({"projectors.up.layer.bias": torch.ones(99)}), "size mismatch"),
    ],
)
def test_a_state_that_does_not_fit_is_an_error(change: Callable[[dict[str, Any]], object], message: str) -> None:
    graph = build(**HINT)
    state = dict(graph.state_dict())
    change(state)
    with pytest.raises(GraphError, match=f"(?s)the state does not fit this graph.*{message}"):
        graph.load_state_dict(state)


def test_a_tied_weight_may_come_under_one_name() -> None:
    def tied() -> nn.Module:
        network = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, CLASSES))
        network[1].weight = network[0].weight
        return network

    graph = build(MSE, {"student": tied(), "teacher": mlp(WIDTH, CLASSES)})
    state = {key: value + 1 for key, value in graph.state_dict().items()}
    expected = state["nodes.student.net.0.weight"].clone()
    del state["nodes.student.net.1.weight"]
    graph.load_state_dict(state)
    network = graph.nodes["student"].net
    assert torch.equal(network[0].weight, expected)
    assert network[1].weight is network[0].weight


def test_a_copy_of_the_graph_lives_on_its_own() -> None:
    graph = build(**HINT)
    twin = copy.deepcopy(graph)
    assert torch.equal(twin(batch())["loss"], graph(batch())["loss"])
    before = weights(graph)
    twin.step(batch(), made(twin))
    assert moved(graph, before) == set()
    assert moved(twin, before)


# -- accumulation and precision ---------------------------------------------------------------------------------


def test_micro_batches_make_the_step_of_the_big_batch() -> None:
    whole, parts = build(MSE), build(MSE)
    big = batch(8)
    small = [{name: value[i : i + 2] for name, value in big.items()} for i in range(0, 8, 2)]
    out = whole.step(big, made(whole, optimizer="sgd", lr=0.1), max_grad_norm=0.5)
    same = parts.step(small, made(parts, optimizer="sgd", lr=0.1), max_grad_norm=0.5)
    assert parts.steps == 1
    assert out.keys() == same.keys() == {"mse_loss", "loss", "grad_norm", "finite"}
    for name in ("mse_loss", "loss", "grad_norm"):
        torch.testing.assert_close(out[name], same[name])
    for ours, theirs in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_bf16_runs_networks_in_half_and_losses_in_float32() -> None:
    seen: dict[str, torch.dtype] = {}

    class Spy(mmkd.Loss):
        def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
            seen.update(student=student.dtype, teacher=teacher.dtype, product=(student @ teacher.T).dtype)
            return (student - teacher).square().mean(1)

    nodes = {n: Node(n, mmkd.wrap(mlp(WIDTH, CLASSES)), n == "student") for n in ("student", "teacher")}
    ports = {"student": "student.logits", "teacher": "teacher.logits"}
    terms = [Term(bind("own", Spy(), ports, "losses.own"))]
    graph = TrainingGraph(nodes, terms=terms, precision="bf16").setup(batch())
    assert graph.values(batch(), ["student.logits"])["student.logits"].dtype == torch.bfloat16
    out = graph(batch())
    assert set(seen.values()) == {torch.float32}
    assert out["loss"].dtype == torch.float32
    out["loss"].backward()
    assert {p.grad.dtype for p in graph.nodes["student"].parameters()} == {torch.float32}


# -- steps that are not taken -----------------------------------------------------------------------------------


class Poisoned(mmkd.Loss):
    """A mean squared error that can be made non-finite in value or in gradient alone."""

    poison = "none"

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("updates", torch.zeros(()))

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        loss = (student - teacher).square().mean(1)
        if self.poison == "loss":
            return loss.detach() + torch.nan + 0 * loss
        if self.poison == "value":
            return loss + torch.inf * (loss.detach() * 0 + 1)
        return loss + (student - student.detach()).abs().sqrt().sum(1) if self.poison == "gradient" else loss

    def update(self, student: Tensor) -> None:
        self.updates += 1


@pytest.mark.parametrize("on_device", [False, True])
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("poison", ["loss", "value", "gradient"])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_step_that_is_not_finite_moves_nothing(
    optimizer: str, poison: str, first: bool, on_device: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if on_device:  # the path of fused kernels on a GPU
        monkeypatch.setattr(phase, "reads_flag", lambda optimizer, found: optimizer._step_supports_amp_scaling)
    graph, clean = graph_of(Poisoned()), graph_of(Poisoned())
    optimizers, others = (made(g, optimizer=optimizer, momentum=0.9, lr=0.1) for g in (graph, clean))
    for _ in range(0 if first else 2):
        assert graph.step(batch(), optimizers)["finite"]
        clean.step(batch(), others)
    before = weights(graph)
    graph.losses["own"].poison = poison
    out = graph.step(batch(), optimizers)
    assert not out["finite"]
    assert torch.isfinite(out["loss"]) == (poison == "gradient")
    assert moved(graph, before) == set()
    assert graph.losses["own"].updates == (0 if first else 2)
    assert not hasattr(optimizers["main"], "found_inf")
    graph.losses["own"].poison = "none"
    for _ in range(2):
        graph.step(batch(), optimizers)
        clean.step(batch(), others)
    assert moved(graph, weights(clean)) == set()
    for ours, theirs in zip(*(o["main"].state_dict()["state"].values() for o in (optimizers, others)), strict=True):
        assert all(torch.equal(ours[entry], theirs[entry]) for entry in theirs)


def test_an_optimizer_that_is_not_fused_skips_too() -> None:
    graph = graph_of(Poisoned())
    optimizer = torch.optim.Adam(graph.nodes["student"].parameters(), lr=0.1)
    assert graph.step(batch(), {"main": optimizer})["finite"]
    before = weights(graph)
    graph.losses["own"].poison = "loss"
    assert not graph.step(batch(), {"main": optimizer})["finite"]
    assert moved(graph, before) == set()


def test_a_graph_whose_losses_reach_nothing_says_so() -> None:
    graph = build({"mse": {**MSE["mse"], "student": "detach(student.logits)"}, **KD})
    assert graph.step(batch(), made(graph))["finite"]

    class Cut(mmkd.Loss):
        def forward(self, student: Tensor) -> Tensor:
            return student.sum(1).detach().requires_grad_()

    cut = graph_of(Cut(), student="student.logits")
    with pytest.raises(GraphError, match="no gradient reaches any parameter of phase 'main'"):
        cut.step(batch(), made(cut))


def test_clipping_is_torchs() -> None:
    graph, hand = build(MSE), build(MSE)
    hand(batch())["loss"].backward()
    norm = torch.nn.utils.clip_grad_norm_(hand.nodes["student"].parameters(), 1e-2)
    out = graph.step(batch(), made(graph), max_grad_norm=1e-2)
    torch.testing.assert_close(out["grad_norm"], norm)
    torch.testing.assert_close(graph.grad_norm(), torch.tensor(1e-2))
    for ours, theirs in zip(graph.nodes["student"].parameters(), hand.nodes["student"].parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


# -- critics ----------------------------------------------------------------------------------------------------


class Duel(mmkd.Loss):
    """The critic scores the teacher above the student; counts how often it ran."""

    def __init__(self, ascend: bool = True, steps: int = 3) -> None:
        super().__init__()
        self.critic = mmkd.critic(mlp(CLASSES, 8, 1, seed=5), ascend=ascend, steps=steps, lr=1e-2)
        self.seen: list[tuple[bool, bool]] = []

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        self.seen.append((student.requires_grad, next(self.critic.parameters()).requires_grad))
        return (self.critic(teacher).sigmoid() - self.critic(student).sigmoid()).mean()


@pytest.mark.parametrize("ascend", [True, False])
def test_each_phase_moves_its_own_parameters_in_its_own_direction(ascend: bool) -> None:
    graph = graph_of(Duel(ascend))
    assert [(p.name, p.ascend, p.repeats) for p in graph.phases] == [("own.critic", ascend, 3), ("main", False, 1)]
    owners = {name: graph.owner(name) for name, _ in graph.named_parameters()}
    assert {name for name, owner in owners.items() if owner == "critic"} == {n for n in owners if "critic" in n}
    optimizers = made(graph)
    assert isinstance(optimizers["own.critic"], torch.optim.Adam)
    before, start = weights(graph), graph.terms[0](graph.plan.run(batch())).item()
    train_critic(graph, graph.phases[0], graph.plan.run(batch()), optimizers["own.critic"])
    assert moved(graph, before) == {name for name in before if "critic" in name}
    end = graph.terms[0](graph.plan.run(batch())).item()
    assert (end > start) is ascend
    optimizers["own.critic"].step = lambda *_: None  # type: ignore[method-assign]
    middle, duel = weights(graph), graph.losses["own"]
    duel.seen.clear()
    graph.step(batch(), optimizers)
    assert moved(graph, middle) == {name for name in before if "student" in name}
    assert duel.seen == [(False, True)] * 3 + [(True, False)]
    assert graph.terms[0](graph.plan.run(batch())).item() < end
    assert all(p.requires_grad for p in duel.parameters())


def test_networks_run_once_for_all_phases() -> None:
    graph, calls = graph_of(Duel()), [0, 0]
    for i, name in enumerate(("student", "teacher")):
        graph.nodes[name].register_forward_pre_hook(lambda *_, i=i: calls.__setitem__(i, calls[i] + 1))
    graph.step(batch(), made(graph))
    assert calls == [1, 1]


def test_a_graph_with_critics_has_no_single_loss_to_descend() -> None:
    graph = graph_of(Duel())
    with pytest.raises(GraphError, match="phases with optimisers of their own") as caught:
        graph(batch())
    assert caught.value.exists == ("own.critic", "main")
    with torch.no_grad():
        assert graph(batch()).keys() == {"own_loss", "loss"}


# -- updates ----------------------------------------------------------------------------------------------------


class Memory(mmkd.Loss):
    """Keeps what `update` was given."""

    def __init__(self) -> None:
        super().__init__()
        self.given: list[dict[str, Tensor]] = []

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        return (student - teacher).square().mean(1)

    def update(self, teacher: Tensor) -> None:
        assert not torch.is_grad_enabled()
        self.given.append({"teacher": teacher})


def test_updates_see_the_whole_batch_once_per_step() -> None:
    graph = graph_of(Memory())
    optimizers, given = made(graph), batch(6)
    assert graph.losses["own"].given == []
    graph.step([{n: v[:2] for n, v in given.items()}, {n: v[2:] for n, v in given.items()}], optimizers)
    (seen,) = graph.losses["own"].given
    assert seen.keys() == {"teacher"}
    torch.testing.assert_close(seen["teacher"], graph.nodes["teacher"].net(given["image"]))
    assert not seen["teacher"].requires_grad
    with torch.no_grad():
        graph(given)
    graph.eval()
    graph(given)
    graph.train()
    graph(given)["loss"].backward()
    assert len(graph.losses["own"].given) == 1
    graph.update()
    assert [len(each["teacher"]) for each in graph.losses["own"].given] == [6, 6]
    graph.update()
    assert len(graph.losses["own"].given) == 2


@pytest.mark.parametrize("name", ["half", "values", "train", "type"])
def test_names_are_free(name: str) -> None:
    nodes = {name: mlp(WIDTH, CLASSES), "teacher": mlp(WIDTH, CLASSES)}
    losses = {name: {"use": "core.mse", "student": f"{name}.logits", "teacher": "teacher.logits"}}
    graph = build(losses, nodes, students={name: {}})
    graph.step(batch(), made(graph))
    assert {graph.owner(key) for key, _ in graph.named_parameters()} == {"student", "teacher"}
    graph.load_state_dict(graph.state_dict())
