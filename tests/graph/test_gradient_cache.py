"""Micro-batches under losses that need the batch whole: the gradient of the big batch, at the cost that is promised."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from graph.nets import CLASSES, WIDTH, batch, build, made, mlp
from graph.rank_cases import (
    DOT,
    EMBEDDINGS,
    KD,
    LABEL,
    LOGITS,
    Case,
    batch as fields,
    cut as ranked,
    lengths,
    sequences,
)
from torch import Tensor, distributed, nn

import mmkd
from mmkd.errors import GraphError, RecipeError
from mmkd.graph import gradient_cache
from mmkd.graph.binding import bind
from mmkd.graph.node import Node
from mmkd.graph.plan import preserved
from mmkd.graph.term import Term
from mmkd.graph.training_graph import TrainingGraph

PAIRS = {"nce": {"use": "core.info_nce", **LOGITS, "learnable": True}}
UP = {"up": {"use": "core.linear", "input": "student/1", "like": "teacher/2"}}
SGD = {"optimizer": "sgd", "lr": 0.1}


def cut(whole: Mapping[str, Any], sizes: Sequence[int]) -> list[dict[str, Any]]:
    """Micro-batches of these sizes."""
    starts = [0, *itertools.accumulate(sizes)]
    return [ranked(whole, first, last) for first, last in itertools.pairwise(starts)]


def stepped(graph: TrainingGraph, batches: Any, **options: Any) -> dict[str, Tensor]:
    """What a step leaves: losses, gradients and the state."""
    optimizers = made(graph, **SGD) if graph.procedure is None else mmkd.optimizers(graph, mmkd.Train(steps=9, **SGD))
    out = graph.step(batches, optimizers, **options)
    gradients = {f"gradient of {n}": p.grad for n, p in graph.named_parameters() if p.grad is not None}
    state = {f"state {n}": v for n, v in graph.state_dict().items() if "_extra" not in n}
    return {name: value.clone() for name, value in {**out, **gradients, **state}.items()}


def distances(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> dict[str, float]:
    """Of every tensor the largest difference, relative to the largest number in it."""
    assert ours.keys() == theirs.keys()
    return {
        name: ((a.double() - b.double()).abs().max() / b.double().abs().max().clamp(min=1e-3)).item()
        for name, a in ours.items()
        if (b := theirs[name]).numel() and not b.isnan().any()
    }


def assert_equal(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor], within: float) -> None:
    assert not {name: far for name, far in distances(ours, theirs).items() if far > within}


LOSSES: dict[str, dict[str, Any]] = {
    "InfoNCE": {"losses": PAIRS},
    "InfoNCE, groups, masked": {
        "losses": {"nce": {**PAIRS["nce"], "group": "batch.group", "symmetric": False, "mask": "batch.valid",
                           "sample_weight": "batch.weight"}}
    },
    "similarity KL": {
        "losses": {"sim": {"use": "core.similarity_kl", "student": "up", "teacher": "teacher/2"}}, "projectors": UP,
    },
    "RKD": {
        "losses": {"d": {"use": "core.rkd_distance", **EMBEDDINGS}, "a": {"use": "core.rkd_angle", **EMBEDDINGS}}
    },
    "SinKD": {"losses": {"sinkd": {"use": "core.sinkd", **LOGITS}}},
    "similarity preserving": {"losses": {"sp": {"use": "core.similarity_preserving", **EMBEDDINGS}}},
    "WCoRD": {
        "losses": {"far": {"use": "core.wcord_global", **EMBEDDINGS, "hidden": 8, "layers": 1, "steps": 2, "lr": 0.01},
                   "near": {"use": "core.wcord_local", **EMBEDDINGS, "weight": 0.1}, "label": LABEL}
    },
    "CRD": {
        "losses": {"crd": {"use": "core.crd", **EMBEDDINGS, "dim": 4, "negatives": 12, "group": "batch.group"}, **PAIRS}
    },
    "with means over samples": {
        "losses": {**PAIRS, "kd": {**KD, "sample_weight": "batch.weight", "mask": "batch.valid"},
                   "label": {**LABEL, "mask": "batch.valid", "weight": 0.5},
                   "hint": {"use": "core.mse", "student": "up", "teacher": "teacher/2"}},
        "projectors": UP,
    },
    "VID": {
        "losses": {"vid": {"use": "core.vid", "student": "up", "teacher": "teacher/2"}, **PAIRS}, "projectors": UP,
    },
    "a mixer": {
        "losses": {"nce": {**PAIRS["nce"], "teacher": "target"}, "label": LABEL},
        "mixers": {"target": {"use": "core.taid", **LOGITS}},
    },
    "weights that are values": {
        "losses": {"nce": {**PAIRS["nce"], "weight": "alpha"}, "kd": {**KD, "weight": "1 - alpha"}},
        "schedules": {"alpha": {"use": "core.geometry", **LOGITS, "lr": 0}},
    },
    "DOT": {"losses": {"kd": KD, "nce": PAIRS["nce"], "label": LABEL}, "procedure": {**DOT, "distill": ["kd", "nce"]}},
}  # fmt: skip


def graph_of(name: str, dtype: torch.dtype = torch.float64) -> TrainingGraph:
    torch.manual_seed(11)
    nodes = {"student": mlp(WIDTH, 8, CLASSES, seed=2), "teacher": mlp(WIDTH, 8, CLASSES, seed=3)}
    document = {"student": {}, "teacher": {}, "train": {"steps": 10}, **LOSSES[name]}
    return mmkd.build(document, nodes=nodes, example=of(fields(0), torch.float32)).to(dtype)


def of(whole: Any, dtype: torch.dtype) -> Any:
    if isinstance(whole, Tensor):
        return whole.to(dtype) if whole.is_floating_point() else whole
    return {name: of(value, dtype) for name, value in whole.items()}


@pytest.mark.parametrize("name", LOSSES)
def test_a_step_in_parts_is_that_of_the_big_batch(name: str) -> None:
    big = fields(0)
    expected = stepped(graph_of(name), big, max_grad_norm=0.1)
    for sizes, kept in (([3, 3, 3], 0), ([1, 6, 2], 1), ([4, 5], 2), ([3] * 3, 2)):
        ours = stepped(graph_of(name), cut(big, sizes), max_grad_norm=0.1, kept_graphs=kept)
        assert list(ours)[:3] == list(expected)[:3]
        assert_equal(ours, expected, 1e-12)


@pytest.mark.parametrize("name", ["InfoNCE", "similarity KL", "RKD", "SinKD"])
def test_in_float32_gradients_agree_to_a_millionth(name: str) -> None:
    big = of(fields(0), torch.float32)
    expected = stepped(graph_of(name, torch.float32), big)
    ours = stepped(graph_of(name, torch.float32), cut(big, [3, 3, 3]))
    gradients = [{n: v for n, v in found.items() if "gradient" in n} for found in (ours, expected)]
    assert len(gradients[0]) >= 4
    total = [torch.cat([g.flatten() for g in own.values()]) for own in gradients]
    assert (total[0] - total[1]).norm() <= 1e-6 * total[1].norm()


@pytest.mark.parametrize("name", LOSSES)
def test_one_micro_batch_alone_would_be_wrong(name: str) -> None:
    """The comparison above can fail."""
    whole, part = (stepped(graph_of(name), some)["loss"] for some in (fields(0), cut(fields(0), [3, 6])[0]))
    assert (whole - part).abs() > 1e-6


# -- cost -------------------------------------------------------------------------------------------------------


class Counted(nn.Module):
    """A network that counts its passes, and what it draws."""

    def __init__(self, network: nn.Module, dropout: float = 0.0) -> None:
        super().__init__()
        self.network, self.drop, self.calls = network, nn.Dropout(dropout), 0

    def forward(self, image: Tensor) -> Tensor:
        self.calls += 1
        out: Tensor = self.network(self.drop(image))
        return out


@pytest.mark.parametrize("kept", range(5))
def test_the_student_runs_twice_where_its_graph_is_not_kept_and_the_teacher_once(kept: int) -> None:
    student, teacher = Counted(mlp(WIDTH, CLASSES)), Counted(mlp(WIDTH, CLASSES, seed=3))
    graph = build({**PAIRS, "kd": KD}, {"student": student, "teacher": teacher})
    optimizers = made(graph)
    student.calls = teacher.calls = 0
    graph.step(cut(batch(8), [2] * 4), optimizers, kept_graphs=kept)
    assert (student.calls, teacher.calls) == (2 * 4 - kept, 4)


def test_what_no_loss_of_the_whole_batch_reads_runs_once() -> None:
    networks = {name: Counted(mlp(WIDTH, CLASSES, seed=i)) for i, name in enumerate(("a", "b", "teacher", "tutor"))}
    losses = {
        "nce": {"use": "core.info_nce", "student": "a.logits", "teacher": "teacher.logits"},
        "kd": {"use": "core.kl", "student": "b.logits", "teacher": "tutor.logits"},
    }
    roles = {"students": {"a": {}, "b": {}}, "teachers": {"teacher": {}, "tutor": {}}}
    graph = build(losses, networks, **roles)
    optimizers = made(graph)
    for network in networks.values():
        network.calls = 0
    graph.step(cut(batch(8), [4, 4]), optimizers)
    assert {name: network.calls for name, network in networks.items()} == {"a": 4, "b": 2, "teacher": 2, "tutor": 2}


def test_only_one_micro_batch_has_a_graph_at_a_time() -> None:
    held: list[int] = []

    class Watched(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(WIDTH, CLASSES)

        def forward(self, image: Tensor) -> Tensor:
            out: Tensor = self.layer(image).sin()
            if out.requires_grad:
                held.append(1)
                out.register_hook(lambda gradient: held.append(-1))
            return out

    graph = build(PAIRS, {"student": Watched(), "teacher": mlp(WIDTH, CLASSES, seed=3)})
    optimizers = made(graph)
    for kept, most in ((0, 1), (1, 1), (3, 3)):
        held.clear()
        graph.step(cut(batch(8), [2] * 4), optimizers, kept_graphs=kept)
        assert max(sum(held[:i]) for i in range(len(held) + 1)) == most and sum(held) == 0


def test_means_over_samples_alone_make_one_pass() -> None:
    student = Counted(mlp(WIDTH, CLASSES))
    graph = build({"kd": KD}, {"student": student, "teacher": mlp(WIDTH, CLASSES, seed=3)})
    student.calls = 0
    graph.step(cut(batch(8), [2] * 4), made(graph), kept_graphs=0)
    assert student.calls == 4 and not gradient_cache.due(graph)


# -- random numbers and buffers ---------------------------------------------------------------------------------


def by_hand(graph: TrainingGraph, parts: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
    """Gradients of the objective over micro-batches that all keep their graph."""
    columns = [graph.compute(part) for part in parts]
    values = {key: torch.cat([column[key] for column in columns]) for key in columns[0]}
    graph.objective(values, note=False)["loss"].backward()  # type: ignore[no-untyped-call]
    return {name: p.grad.clone() for name, p in graph.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("kept", [0, 1, 3])
def test_the_second_pass_draws_what_the_first_has_drawn(kept: int) -> None:
    nodes = {"student": Counted(mlp(WIDTH, 8, CLASSES), 0.5), "teacher": mlp(WIDTH, CLASSES, seed=3)}
    graph = build({**PAIRS, "kd": KD}, nodes).double()
    parts = cut(of(batch(9), torch.float64), [3, 2, 4])
    torch.manual_seed(5)
    expected = by_hand(copy.deepcopy(graph), parts)
    after = torch.rand(3)
    torch.manual_seed(5)
    ours = stepped(graph, parts, kept_graphs=kept)
    assert torch.equal(torch.rand(3), after)
    assert_equal({n: ours[f"gradient of {n}"] for n in expected}, expected, 1e-12)


class Moving(nn.Module):
    """BatchNorm, a power iteration, and a buffer that is replaced instead of written into."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(8)
        self.stem = nn.utils.spectral_norm(nn.Linear(WIDTH, 8))
        self.head = nn.Linear(8, CLASSES)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, image: Tensor) -> Tensor:
        self.seen = self.seen + len(image)
        return self.head(self.norm(self.stem(image)).relu() * (1 + self.seen / 100))  # type: ignore[no-any-return]


@pytest.mark.parametrize("kept", [0, 1, 2])
def test_buffers_move_once_and_the_second_pass_sees_those_of_the_first(kept: int) -> None:
    torch.manual_seed(0)
    graph = build(PAIRS, {"student": Moving(), "teacher": mlp(WIDTH, CLASSES, seed=3)}).double()
    parts = cut(of(batch(9), torch.float64), [3, 6])
    plain = copy.deepcopy(graph)
    with preserved([plain]), torch.enable_grad():
        expected = by_hand(plain, parts)
    for part in parts:
        plain.compute(part)
    ours = stepped(graph, parts, kept_graphs=kept)
    assert_equal({n: ours[f"gradient of {n}"] for n in expected}, expected, 1e-12)
    moved = {name: buffer for name, buffer in plain.named_buffers() if "student" in name}
    assert len(moved) == 6 and moved["nodes.student.net.seen"] == 9
    for name, buffer in graph.named_buffers():
        assert name not in moved or torch.equal(buffer, moved[name]), name


def test_half_precision_is_cast_anew_in_each_pass() -> None:
    graph = build(PAIRS, train={"steps": 10, "precision": "bf16"})
    for kept in (0, 1):
        ours = stepped(graph, cut(batch(8), [4, 4]), kept_graphs=kept)
        assert sum("gradient of nodes.student" in name for name in ours) == 4


# -- values that are no rows ------------------------------------------------------------------------------------


class Scaled(mmkd.Encoder):
    """Embeddings and a learned temperature, as a value and as a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.scale = mlp(WIDTH, CLASSES), nn.Parameter(torch.tensor(0.7))

    def values(self) -> list[str]:
        return ["logits", "scale"]

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        return {"logits": self.net(image), "scale": self.scale.exp()}


class Tempered(mmkd.Loss):
    """A contrastive loss whose temperature is a value, with a weight of the network itself."""

    coupled = True

    def forward(self, student: Tensor, teacher: Tensor, scale: Tensor, weight: Tensor) -> Tensor:
        logits = student @ teacher.T * scale
        return logits.logsumexp(1) - logits.diagonal() + weight.square().sum()


def test_numbers_and_parameters_get_their_gradient_once() -> None:
    def graph() -> TrainingGraph:
        torch.manual_seed(1)
        teacher = Node("teacher", mmkd.wrap(mlp(WIDTH, CLASSES, seed=3)), False)
        nodes = {"student": Node("student", Scaled(), True), "teacher": teacher}
        ports = {**LOGITS, "scale": "student.scale", "weight": "student/net.0.weight"}
        return TrainingGraph(nodes, terms=[Term(bind("own", Tempered(), ports, "losses.own"))]).setup(batch()).double()

    big = of(batch(8), torch.float64)
    expected = stepped(graph(), big)
    assert expected["gradient of nodes.student.scale"].abs() > 1e-3
    for kept in range(3):
        assert_equal(stepped(graph(), cut(big, [2, 6]), kept_graphs=kept), expected, 1e-12)


def test_sequences_are_padded_to_the_longest_of_all_micro_batches() -> None:
    big = fields(0)
    whole, parts = lengths(), lengths()
    expected = stepped(whole, big)
    assert_equal(stepped(parts, cut(big, [2, 3, 4])), expected, 1e-12)
    *_, mask = parts.terms[0].loss.seen  # type: ignore[attr-defined]
    assert torch.equal(mask, big["mask"])


def test_update_is_told_of_the_whole_batch_once() -> None:
    graph = graph_of("CRD")
    crd = graph.losses["crd"]
    before = crd.bank.clone()
    stepped(graph, cut(fields(0), [3, 6]))
    assert crd.cursor == 9 and not torch.equal(crd.bank[:, :9], before[:, :9])


# -- means over samples or tokens -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("nodes", "losses"),
    [
        (None, {"kd": {**KD, "mask": "batch.valid", "sample_weight": "batch.weight"}, "label": LABEL}),
        (sequences, {"jsd": {"use": "core.jsd", **LOGITS, "mask": "batch.mask"},
                     "kl": {"use": "core.reverse_kl", **LOGITS, "mask": "batch.mask", "weight": 0.3}}),
    ],
    ids=["samples", "tokens"],
)  # fmt: skip
def test_accumulated_means_are_taken_over_all_that_is_valid(
    nodes: Callable[[], dict[str, nn.Module]] | None, losses: Mapping[str, Any]
) -> None:
    case = Case(losses, **({"nodes": nodes} if nodes else {}))
    expected = stepped(case.graph(), fields(0))
    for sizes in ([3, 3, 3], [1, 6, 2]):
        assert_equal(stepped(case.graph(), cut(fields(0), sizes)), expected, 1e-12)


class Sure(mmkd.Mixer):
    """Which samples a network is sure of."""

    def forward(self, logits: Tensor) -> Tensor:
        return (logits.softmax(1).amax(1) > 0.35).to(logits.dtype)


@pytest.mark.parametrize(("of_whom", "calls"), [("student", 6), ("teacher", 3)])
def test_the_valid_samples_of_a_computed_mask_are_counted_first(of_whom: str, calls: int) -> None:
    def graph(network: nn.Module) -> TrainingGraph:
        nodes = {
            "student": Node("student", mmkd.wrap(network), True),
            "teacher": Node("teacher", mmkd.wrap(mlp(WIDTH, CLASSES, seed=7)), False),
        }
        sure = bind("sure", Sure(), {"logits": f"{of_whom}.logits"}, "mixers.sure")
        loss = mmkd.plugins.host().catalogue.get("loss", "core.mse").load()()
        term = Term(bind("mse", loss, LOGITS, "losses.mse"), mask=mmkd.graph.value.parse("sure"))
        return TrainingGraph(nodes, terms=[term], mixers={"sure": sure}).setup(batch()).double()

    big = of(batch(9), torch.float64)
    whole, student = graph(mlp(WIDTH, CLASSES)), Counted(mlp(WIDTH, CLASSES))
    expected = stepped(whole, big)
    assert 0 < whole.values(big, ["sure"])["sure"].sum() < 9
    parts = graph(student)
    student.calls = 0
    ours = {name.replace("network.", ""): v for name, v in stepped(parts, cut(big, [1, 6, 2])).items()}
    assert student.calls == calls
    assert_equal(ours, expected, 1e-12)


# -- several ranks ----------------------------------------------------------------------------------------------

TOGETHER = ["InfoNCE, groups, masked", "RKD", "WCoRD", "with means over samples", "DOT"]


def _process(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    own = ranked(fields(0), *((0, 5), (5, 9))[rank])
    sizes = ((1, 4), (2, 2))[rank]
    found = {name: stepped(graph_of(name), cut(own, sizes), max_grad_norm=0.1, kept_graphs=1) for name in TOGETHER}
    torch.save(found, f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


def test_two_ranks_with_uneven_micro_batches_make_the_same_step(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(_process, (str(tmp_path),), nprocs=2)
    found = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for name in TOGETHER:
        expected = stepped(graph_of(name), fields(0), max_grad_norm=0.1)
        for own in found:
            assert_equal(own[name], expected, 1e-9)


# -- refusals and words -----------------------------------------------------------------------------------------


def test_what_cannot_be_cut_says_so() -> None:
    class Slope(mmkd.Loss):
        """The slope of an output, over pairs."""

        coupled, needs_graph = True, frozenset({"student", "inside"})

        def forward(self, student: Tensor, inside: Tensor) -> Tensor:
            (slope,) = torch.autograd.grad(student.sum(), inside, create_graph=True)
            return slope @ slope.T

    node = Node("student", mmkd.wrap(mlp(WIDTH, 8, CLASSES)), True)
    bound = bind("own", Slope(), {"student": "student.logits", "inside": "student/1"}, "losses.own")
    graph = TrainingGraph({"student": node}, terms=[Term(bound)]).setup(batch())
    with pytest.raises(GraphError, match=r"Slope needs the whole batch at once and its graph, not 2 parts") as caught:
        graph.step(cut(batch(), [4, 4]), made(graph))
    assert caught.value.where == "losses.own" and "gradient_accumulation_steps=1" in str(caught.value)


def test_more_graphs_than_micro_batches_are_refused() -> None:
    graph = build(PAIRS)
    with pytest.raises(GraphError, match=r"3 graphs of 2 micro-batches cannot be kept"):
        graph.step(cut(batch(), [4, 4]), made(graph), kept_graphs=3)
    train = {"steps": 1, "gradient_accumulation_steps": 2, "kept_graphs": 3}
    with pytest.raises(RecipeError, match=r"kept_graphs is 3"):
        mmkd.load_recipe({"student": {}, "losses": PAIRS, "train": train})


def test_batch_statistics_are_told_of() -> None:
    graph = build(PAIRS, {"student": Moving(), "teacher": mlp(WIDTH, CLASSES)})
    said = gradient_cache.describe(graph, 4, 1)
    assert said is not None and "nce read the whole batch" in said and "BatchNorm of student" in said
    assert gradient_cache.describe(graph, 1, 0) is None
    assert "BatchNorm" not in str(gradient_cache.describe(build(PAIRS), 4, 0))
    assert gradient_cache.describe(build({"kd": KD}), 4, 0) is None


def test_an_empty_micro_batch_takes_no_part() -> None:
    expected = stepped(graph_of("with means over samples"), fields(0))
    assert_equal(stepped(graph_of("with means over samples"), cut(fields(0), [4, 0, 5])), expected, 1e-12)
