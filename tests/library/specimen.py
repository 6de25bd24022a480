"""Any registered loss in a graph of a student and a teacher, from its own example."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import mmkd
from mmkd.graph.training_graph import TrainingGraph
from mmkd.registry import Entry

FEATURES = 5
STUDENT = ("student", "features")
"""Ports that a student's values go to; numbers on the others are the teacher's, and integers the batch's."""
SMALL: dict[str, dict[str, Any]] = {"core.crd": {"negatives": 32, "dim": 8}, "core.wcord_global": {"hidden": 16}}
"""Options that make a large loss small."""
FIELDS = ("label", "target", "group", "explanation", "mask", "key_mask")


class Values(mmkd.Encoder):
    """Publishes values like the examples given, each a linear map of its input (and a distribution where the example is
    one); those in `fixed` are parameters."""

    def __init__(self, examples: dict[str, Tensor], fixed: dict[str, Tensor], seed: int) -> None:
        super().__init__()
        self.shapes = {name: example.shape for name, example in examples.items()}
        self.distributions = {name for name, example in examples.items() if is_distribution(example)}
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.maps = nn.ModuleDict(
                {name: nn.Linear(FEATURES, shape[1:].numel()) for name, shape in self.shapes.items()}
            )
        self.fixed = nn.ParameterDict(fixed)

    def values(self) -> list[str]:
        return list(self.shapes)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        made = {name: layer(x).view(len(x), *self.shapes[name][1:]) for name, layer in self.maps.items()}
        for features, logits in (("features_0", "student_0"), ("teacher_features_0", "teacher_0")):
            if features in made:  # explanations need logits that come from features
                made[logits] = made[features].relu().mean((2, 3))[:, : made[logits].shape[1]]
        return {name: value.softmax(-1) if name in self.distributions else value for name, value in made.items()}


def is_distribution(value: Tensor) -> bool:
    return bool((value >= 0).all()) and torch.allclose(value.sum(-1), torch.ones(()))


class Specimen:
    """A loss's example, taken apart into two networks and a batch that give its ports values of the same shapes."""

    def __init__(self, entry: Entry) -> None:
        cls: Any = entry.load()
        options = SMALL.get(entry.id, {})
        example = cls(**options).example()
        own = {name: value if isinstance(value, list) else [value] for name, value in example.items()}
        rows = max(len(tensors[0]) for name, tensors in own.items() if name in STUDENT)
        self.batch: dict[str, Tensor] = {"x": torch.randn(rows, FEATURES, generator=torch.Generator().manual_seed(3))}
        examples: dict[str, dict[str, Tensor]] = {"student": {}, "teacher": {}}
        fixed: dict[str, Tensor] = {}
        loss: dict[str, Any] = {"use": entry.id, **options}
        for port, tensors in own.items():
            node = "student" if port in STUDENT else "teacher"
            addresses = []
            for i, value in enumerate(tensors):
                name = f"{port}_{i}"
                if port in FIELDS or not value.is_floating_point():
                    self.batch[name] = value.detach()
                    addresses.append(f"batch.{name}")
                elif len(value) == rows:
                    examples[node][name] = value.detach()
                    addresses.append(f"{node}.{name}")
                else:
                    fixed[name] = value
                    addresses.append(f"{node}/fixed.{name}")
            loss[port] = addresses if isinstance(example[port], list) else addresses[0]
        self.examples, self.fixed = examples, fixed
        roles = {"student": {}, **({"teacher": {}} if examples["teacher"] or fixed else {})}
        self.recipe = mmkd.load_recipe(
            {**roles, "losses": {"loss": loss}, "train": {"steps": 3, "lr": 0.01, "device": "cpu"}}
        )

    def networks(self) -> dict[str, mmkd.Encoder]:
        """The networks, new ones every time."""
        student = Values(self.examples["student"], {}, 1)
        teacher = Values(self.examples["teacher"], self.fixed, 2)
        return {"student": student, "teacher": teacher} if self.recipe.teacher_nodes() else {"student": student}

    def trained(self) -> TrainingGraph:
        """The graph after three steps, all finite."""
        torch.manual_seed(0)
        graph = mmkd.build(self.recipe, nodes=self.networks(), example=self.batch)
        made = mmkd.optimizers(graph, self.recipe.train)
        for _ in range(3):
            out = graph.step(self.batch, made)
            assert out["finite"] and out["loss"].isfinite()
        return graph
