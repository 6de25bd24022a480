"""Graphs with all that is hard to share among processes, and the batches that they are trained on.

All is in float64: Adam divides by the gradient's size, so that rounding alone moves what has none by a whole step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from graph.nets import CLASSES, WIDTH, made, mlp
from torch import Tensor, nn

import mmkd
from mmkd.components import Part
from mmkd.graph.binding import bind
from mmkd.graph.node import Node
from mmkd.graph.term import Term
from mmkd.graph.training_graph import TrainingGraph

SIZE, STEPS, TOKENS, VOCABULARY = 9, 3, 5, 7

EMBEDDINGS = {"student": "student/2", "teacher": "teacher/2"}
LOGITS = {"student": "student.logits", "teacher": "teacher.logits"}
KD = {"use": "core.kl", **LOGITS, "temperature": 2.0}
LABEL = {"use": "core.cross_entropy", "student": "student.logits"}


@dataclass(frozen=True)
class Case:
    """What is trained, how, and how a global batch is cut up: for each number of ranks, rows of every one."""

    losses: Mapping[str, Any]
    recipe: Mapping[str, Any] = field(default_factory=dict)
    train: Mapping[str, Any] = field(default_factory=lambda: {"optimizer": "sgd", "lr": 0.1})
    rows: Sequence[int] = (5, 4)
    nodes: Callable[[], dict[str, nn.Module]] = lambda: {
        "student": mlp(WIDTH, 8, CLASSES, seed=2),
        "teacher": mlp(WIDTH, 8, CLASSES, seed=3),
    }
    max_grad_norm: float | None = None
    accumulate: int = 1

    def graph(self) -> TrainingGraph:
        torch.manual_seed(11)
        document = {"student": {}, "teacher": {}, "losses": self.losses, "train": {"steps": 10}, **self.recipe}
        return mmkd.build(document, nodes=self.nodes(), example=single(batch(0))).double()

    def parts(self, step: int, rank: int | None) -> list[dict[str, Any]]:
        """The batches of a step, of one rank or of all."""
        whole = [batch(step * self.accumulate + i) for i in range(self.accumulate)]
        first = sum(self.rows[: rank or 0])
        return whole if rank is None else [cut(part, first, first + self.rows[rank]) for part in whole]

    def run(self, rank: int | None, taken: int = STEPS) -> dict[str, Any]:
        """Everything that must not depend on the number of ranks."""
        graph = self.graph()
        found: dict[str, Any] = {}
        optimizers = made(graph, **self.train) if graph.procedure is None else self.optimizers(graph)
        for step in range(taken):
            out = graph.step(self.parts(step, rank), optimizers, max_grad_norm=self.max_grad_norm)
            found |= {f"step {step}: {name}": value.clone() for name, value in out.items()}
            if step == 0:
                held = graph.named_parameters()
                found |= {f"gradient of {n}": p.grad.clone() for n, p in held if p.grad is not None}
        state = graph.state_dict()
        return found | {f"state {n}": v.clone() for n, v in state.items() if "_extra" not in n}

    def optimizers(self, graph: TrainingGraph) -> dict[str, torch.optim.Optimizer]:
        train = mmkd.Train(steps=10, **self.train)
        return mmkd.optimizers(graph, train)


def batch(step: int) -> dict[str, Any]:
    """Vectors with labels, weights, ids and a mask; token sequences whose padding is uneven."""
    generator = torch.Generator().manual_seed(100 + step)
    lengths = torch.randint(1, TOKENS + 1, (SIZE,), generator=generator)
    lengths[-1] = TOKENS
    return {
        "image": torch.randn(SIZE, WIDTH, generator=generator, dtype=torch.float64),
        "label": torch.randint(CLASSES, (SIZE,), generator=generator),
        "group": torch.randint(4, (SIZE,), generator=generator),
        "weight": torch.rand(SIZE, generator=generator, dtype=torch.float64),
        "valid": torch.rand(SIZE, generator=generator) > 0.4,
        "tokens": torch.randn(SIZE, TOKENS, WIDTH, generator=generator, dtype=torch.float64),
        "mask": torch.arange(TOKENS) < lengths[:, None],
        "@meta": {
            "image": torch.randn(SIZE, WIDTH, generator=generator, dtype=torch.float64),
            "label": torch.randint(CLASSES, (SIZE,), generator=generator),
        },
    }


def cut(whole: Mapping[str, Any], first: int, last: int) -> dict[str, Any]:
    """The rows of one rank, its sequences no longer than its longest."""
    part = {
        n: value[first:last] if isinstance(value, Tensor) else cut(value, first, last) for n, value in whole.items()
    }
    if last > first and "mask" in part:
        longest = int(part["mask"].sum(1).max())
        part |= {name: part[name][:, :longest] for name in ("tokens", "mask")}
    return part


def single(whole: Mapping[str, Any]) -> dict[str, Any]:
    """The same in float32."""
    return {
        name: single(v) if isinstance(v, Mapping) else v.float() if v.is_floating_point() else v
        for name, v in whole.items()
    }


def sequences() -> dict[str, nn.Module]:
    """Networks that give logits for every token."""
    return {
        name: mmkd.wrap(mlp(WIDTH, 8, VOCABULARY, seed=seed), inputs=["tokens"])
        for name, seed in (("student", 2), ("teacher", 3))
    }


def normalised() -> dict[str, nn.Module]:
    student = nn.Sequential(mlp(WIDTH, 8, seed=4), nn.BatchNorm1d(8), nn.ReLU(), mlp(8, CLASSES, seed=5))
    return {"student": student, "teacher": mlp(WIDTH, 8, CLASSES, seed=3)}


class Sometimes(nn.Module):
    """A layer that runs for positive batches alone, so that it may be without a gradient on one rank."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.rare, self.never = mlp(WIDTH, CLASSES, seed=4), mlp(WIDTH, CLASSES, seed=5), nn.Linear(2, 2)

    def forward(self, image: Tensor) -> Tensor:
        out: Tensor = self.stem(image)
        chosen = image[:, 0] > 1.2
        if chosen.any():
            out = out.index_add(0, chosen.nonzero()[:, 0], self.rare(image[chosen]))
        return out


DOT = {"use": "core.dot", "distill": ["kd"], "delta": 0.05}
SGD = {"optimizer": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}
EMA = {"ema": {"average": {"of": "student", "momentum": 0.5}}}

LEARNED = {
    "kd": {**KD, "weight": "alpha", "sample_weight": "batch.weight"},
    "nce": {"use": "core.info_nce", **LOGITS, "weight": "1 - alpha"},
    "lesson": {**LABEL, "phase": "alpha"},
}

CASES = {
    "a learned schedule": Case(LEARNED, {"schedules": {"alpha": {"use": "core.geometry", **LOGITS, "lr": 0.05}}}),
    "kd": Case({"kd": KD, "label": LABEL}),
    "very uneven": Case({"kd": KD, "label": LABEL, "rkd": {"use": "core.rkd_distance", **LOGITS}}, rows=(8, 1)),
    "an empty rank": Case({"kd": KD, "nce": {"use": "core.info_nce", **LOGITS}}, rows=(9, 0)),
    "masks and weights": Case({
        "kd": {**KD, "sample_weight": "batch.weight", "mask": "batch.valid"}, "label": {**LABEL, "mask": "batch.valid"},
        "weighed": {**LABEL, "sample_weight": "batch.weight", "weight": 0.5},
    }),
    "InfoNCE": Case({"nce": {"use": "core.info_nce", **LOGITS, "group": "batch.group", "learnable": True}}),
    "InfoNCE, one way, masked": Case({
        "nce": {"use": "core.info_nce", **LOGITS, "symmetric": False, "mask": "batch.valid",
                "sample_weight": "batch.weight"}
    }),
    "RKD": Case({"d": {"use": "core.rkd_distance", **EMBEDDINGS}, "a": {"use": "core.rkd_angle", **EMBEDDINGS}}),
    "WCoRD": Case({
        "far": {"use": "core.wcord_global", **EMBEDDINGS, "hidden": 8, "layers": 1, "steps": 2, "lr": 0.01},
        "near": {"use": "core.wcord_local", **EMBEDDINGS, "weight": 0.1}, "label": LABEL,
    }),
    "GKD": Case({"jsd": {"use": "core.jsd", **LOGITS, "beta": 0.3, "mask": "batch.mask"}}, nodes=sequences),
    "GKD, weighed": Case(
        {"jsd": {"use": "core.jsd", **LOGITS, "mask": "batch.mask", "sample_weight": "batch.weight"},
         "kl": {"use": "core.reverse_kl", **LOGITS, "mask": "batch.mask"}},
        nodes=sequences, rows=(2, 7),
    ),
    "CRD": Case({"crd": {"use": "core.crd", **EMBEDDINGS, "dim": 4, "negatives": 12, "group": "batch.group"}}),
    "VID": Case(
        {"vid": {"use": "core.vid", "student": "up", "teacher": "teacher/2"}, "label": LABEL},
        {"projectors": {"up": {"use": "core.mlp", "input": "student/1", "like": "teacher/2"}}},
    ),
    "DOT": Case(
        {"kd": KD, "label": LABEL, "hint": {"use": "core.mse", "student": "up", "teacher": "teacher/1"}},
        {"projectors": {"up": {"use": "core.linear", "input": "student/1", "like": "teacher/1"}}, "procedure": DOT},
        SGD,
    ),
    "DOT, coupled": Case(
        {"kd": {"use": "core.info_nce", **LOGITS}, "label": LABEL}, {"procedure": DOT}, SGD, max_grad_norm=0.1
    ),
    "DOT, with a critic": Case(
        {"kd": {"use": "core.wcord_global", **EMBEDDINGS, "hidden": 8, "layers": 1, "lr": 0.01}, "label": LABEL},
        {"procedure": DOT}, SGD,
    ),
    "DOT, accumulated": Case({"kd": KD, "label": LABEL}, {"procedure": DOT}, SGD, accumulate=2),
    "clipped": Case({"kd": KD, "label": LABEL}, train={"lr": 0.01}, max_grad_norm=0.05),
    "accumulated": Case({"kd": KD, "hard": {**LABEL, "mask": "batch.valid"}}, accumulate=2),
    "a learned mixer": Case(
        {"kd": {**KD, "teacher": "target"}, "label": LABEL},
        {"mixers": {"target": {"use": "core.taid", **LOGITS}}},
    ),
    "an average": Case(
        {"kd": {**KD, "teacher": "ema.logits"}, "label": LABEL},
        {"teachers": EMA, "teacher": None},
        nodes=lambda: {"student": mlp(WIDTH, 8, CLASSES, seed=2)},
    ),
    "without a gradient on one rank": Case(
        {"label": LABEL},
        {"teacher": None},
        {"lr": 0.01, "weight_decay": 0.1},
        nodes=lambda: {"student": Sometimes()},
    ),
}  # fmt: skip


class Lengths(mmkd.Loss):
    """A coupled loss over several values of sequences, which notes what it is told."""

    coupled = True

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Any] = []

    def forward(self, student: list[Tensor], mask: Tensor) -> Tensor:
        own = mask.to(student[0].dtype)
        means = [(x * own[:, :, None]).sum(1) / own.sum(1, keepdim=True) for x in student]
        return torch.stack([(m @ m.T).square().mean() for m in means]).sum()

    def update(self, student: list[Tensor], mask: Tensor) -> None:
        self.seen = [*student, mask]


def lengths() -> TrainingGraph:
    """A graph whose coupled loss reads a list of values of uneven lengths."""
    nodes = {name: Node(name, encoder, name == "student") for name, encoder in sequences().items()}
    loss: Part = Lengths()
    written = {"student": ["student.logits", "student/0"], "mask": "batch.mask"}
    graph = TrainingGraph(nodes, terms=[Term(bind("lengths", loss, written, "losses.lengths"))])  # type: ignore[arg-type]
    return graph.setup(single(batch(0))).double()
