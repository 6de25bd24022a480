"""Small networks for packaged recipes: one of pictures, built like a ResNet, and one of tokens, built like BERT."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

import mmkd
from mmkd.graph.training_graph import TrainingGraph

CLASSES, VOCABULARY, SIDE, LENGTH = 5, 11, 8, 6
Batch = dict[str, Any]


class PictureNet(mmkd.Encoder):
    """Four stages of a convolution each, a classifier, and one vector per class."""

    def __init__(self, width: int, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.layer1 = nn.Sequential(nn.Conv2d(3, width, 3, padding=1, bias=False), nn.ReLU())
            self.layer2 = nn.Sequential(nn.Conv2d(width, width, 3, 2, 1, bias=False), nn.ReLU())
            self.layer3 = nn.Sequential(nn.Conv2d(width, width, 3, 2, 1, bias=False), nn.ReLU())
            self.layer4 = nn.Conv2d(width, width, 3, padding=1, bias=False)
            for layer in (self.layer1[0], self.layer2[0], self.layer3[0], self.layer4):
                layer.weight.data *= 3  # what it says of two samples differs
            self.fc = nn.Linear(width, CLASSES)
            self.words = nn.Linear(width, CLASSES * width)

    def values(self) -> list[str]:
        return ["embedding", "logits", "tokens", "label_embedding", *(f"hidden.{i}" for i in range(5))]

    def transform(self, sample: mmkd.Sample) -> dict[str, Any]:
        pixels = np.asarray(sample["image"].convert("RGB").resize((SIDE, SIDE)), dtype=np.float32)
        return {"image": torch.from_numpy(pixels / 128 - 1).permute(2, 0, 1)}

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        hidden = [image]
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            hidden.append(layer(hidden[-1]))
        embedding = hidden[-1].mean((2, 3))
        return {
            "embedding": embedding,
            "logits": self.fc(embedding),
            "tokens": hidden[-1].flatten(2).mT,
            "label_embedding": self.words(embedding).unflatten(1, (CLASSES, -1)),
            **{f"hidden.{i}": value for i, value in enumerate(hidden)},
        }


class Layer(nn.Module):
    """Self-attention and what is added to it."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        own = nn.ModuleDict({name: nn.Linear(width, width) for name in ("query", "key", "value")})
        self.attention = nn.ModuleDict({"self": own})
        self.output = nn.Linear(width, width)

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        made = (layer(hidden) for layer in self.attention["self"].values())
        query, key, value = (x.unflatten(2, (self.heads, -1)).transpose(1, 2) for x in made)
        attention = (query @ key.mT / query.shape[3] ** 0.5).softmax(-1)
        mixed = (attention @ value).transpose(1, 2).flatten(2)
        return hidden + self.output(mixed).tanh(), attention


class TokenNet(mmkd.Encoder):
    """Layers of attention over token ids; id zero is padding."""

    def __init__(self, width: int, layers: int, heads: int, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.embed = nn.Embedding(VOCABULARY, width)
            self.encoder = nn.ModuleDict({"layer": nn.ModuleList(Layer(width, heads) for _ in range(layers))})
            self.head = nn.Linear(width, VOCABULARY)
        self.layers = layers

    def values(self) -> list[str]:
        inner = (f"{name}.{i}" for name, count in (("hidden", 1), ("attention", 0)) for i in range(self.layers + count))
        return ["logits", "mask", *inner]

    def forward(self, input_ids: Tensor) -> dict[str, Tensor]:
        out = {"mask": (input_ids > 0).float(), "hidden.0": self.embed(input_ids)}
        for i, layer in enumerate(self.encoder["layer"]):
            out[f"hidden.{i + 1}"], out[f"attention.{i}"] = layer(out[f"hidden.{i}"])
        return {**out, "logits": self.head(out[f"hidden.{self.layers}"])}


BUDGET = {"epochs": None, "lr_schedule": "constant", "device": "cpu"}
OPTIMIZERS = {"core.dot": {"optimizer": "sgd"}}
"""Settings that a recipe asks of whoever starts from it."""
LARGE = {"teacher": 12, "large": 12, "multimodal": 12, "first": 10}


def network(name: str, recipe: str, seed: int = 0) -> mmkd.Encoder:
    """The network that stands for a node of a recipe."""
    if "task_agnostic" in recipe or recipe.endswith("a2d"):
        return TokenNet(96, 12, 4, seed) if name in LARGE else TokenNet(48, 6, 2, seed + 1)
    return PictureNet(LARGE.get(name, 6), seed + len(name))


def left_open(recipe: mmkd.Recipe | str) -> list[str]:
    """Names of the networks that a recipe leaves to whoever starts from it."""
    places = mmkd.load_recipe(recipe).left_open()
    return [place.rpartition(".")[2] for place in places if not place.startswith(("data", "train"))]


def networks(recipe: str, **own: mmkd.Encoder) -> dict[str, mmkd.Encoder]:
    """One for each that a recipe leaves open, the same ones every time; `own` stand in their place."""
    return {name: own.get(name) or network(name, recipe) for name in left_open(recipe)}


@functools.cache
def streams(recipe: str) -> tuple[str, ...]:
    """Names of the streams that a recipe reads beside its training set."""
    return tuple(mmkd.load_recipe(recipe).data.streams)


def batch(recipe: str, step: int = 0, size: int = 8) -> Batch:
    """What such networks and the losses of a recipe read."""
    made = fields(recipe, step, size)
    return {**made, **{f"@{name}": fields(recipe, 1000 + step, size) for name in streams(recipe)}}


def fields(recipe: str, step: int, size: int) -> Batch:
    """Samples of one stream."""
    draw = torch.Generator().manual_seed(step)
    if "task_agnostic" in recipe or recipe.endswith("a2d"):
        ids = torch.randint(1, VOCABULARY, (size, LENGTH), generator=draw)
        ids[::3, -2:] = 0
        return {"input_ids": ids, "label": torch.randint(VOCABULARY, (size, LENGTH), generator=draw)}
    label = torch.randint(CLASSES, (size,), generator=draw)
    templates = torch.randn(CLASSES, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    image = 2 * templates[label] + torch.randn(size, 3, SIDE, SIDE, generator=draw)
    if recipe.endswith("l2d"):
        label = (torch.rand(size, CLASSES, generator=draw) < 0.5).long()
    return {"image": image, "label": label}


class Pictures(mmkd.Dataset):
    """Pictures whose brightness tells their label."""

    def __init__(self, size: int = 32, seed: int = 0) -> None:
        draw = np.random.default_rng(seed)
        self.label = draw.integers(CLASSES, size=size)
        shade = 40 * self.label[:, None, None, None] + draw.integers(0, 80, (size, SIDE, SIDE, 3))
        self.pixels = shade.astype(np.uint8)

    def __len__(self) -> int:
        return len(self.label)

    def __getitem__(self, index: int) -> mmkd.Sample:
        image = Image.fromarray(self.pixels[index])
        return {"key": f"picture/{index}", "image": image, "label": int(self.label[index])}


def build(
    recipe: str, changes: Mapping[str, Any] | None = None, *, steps: int = 3, lr: float = 0.01, **own: mmkd.Encoder
) -> TrainingGraph:
    """A packaged recipe, completed; projectors and critics start the same every time."""
    document = {"recipe": recipe, **(changes or {})}
    document["train"] = BUDGET | {"steps": steps, "lr": lr, **OPTIMIZERS.get(recipe, {})}
    torch.manual_seed(0)
    return mmkd.build(document, nodes=networks(recipe, **own), example=batch(recipe))


def settings(recipe: str, steps: int, lr: float = 0.01) -> Any:
    """The training loop of a packaged recipe on this budget."""
    train = BUDGET | {"steps": steps, "lr": lr, **OPTIMIZERS.get(recipe, {})}
    return mmkd.load_recipe({"recipe": recipe, "train": train}).train


def trained(graph: TrainingGraph, recipe: str, lr: float = 0.01) -> TrainingGraph:
    """The same graph after its steps, each on a batch of its own."""
    made = mmkd.optimizers(graph, settings(recipe, graph.total_steps, lr))
    for step in range(graph.total_steps):
        out = graph.step(batch(recipe, step), made)
        assert out["finite"] and all(value.isfinite().all() for value in out.values())
    return graph


def weights(graph: TrainingGraph, node: str = "student") -> Tensor:
    """All parameters of a network in one row."""
    return torch.cat([p.detach().flatten() for p in graph.nodes[node].parameters()])
