"""Checkpoints: student and train-only state in safetensors, written aside and renamed."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.optim import Optimizer

from mmkd.errors import TrainingError
from mmkd.graph import ranks
from mmkd.graph.training_graph import TrainingGraph

FORMAT = 1


def save(folder: Path, graph: TrainingGraph, optimizers: Mapping[str, Optimizer], state: Mapping[str, Any]) -> Path:
    """Write `folder/checkpoint-<step>` whole or not at all, then drop the one before it.

    Every rank calls it, since each has random numbers of its own; the first one writes.
    """
    target = folder / f"checkpoint-{graph.steps}"
    drawn = ranks.listed([(_random_state(), random.getstate())])
    if not ranks.leads():
        return target
    aside = folder / f".checkpoint-{graph.steps}.part"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    save_file(distinct(graph.state_dict()), aside / "graph.safetensors")
    tensors, scalars = _flatten({name: optimizer.state_dict()["state"] for name, optimizer in optimizers.items()})
    for rank, (random_state, _) in enumerate(drawn):
        tensors |= {_of(rank) + name: tensor for name, tensor in random_state.items()}
    save_file(tensors, aside / "state.safetensors")
    document = {
        "format": FORMAT,
        "step": graph.steps,
        "optimizers": scalars,
        **{f"{_of(rank)}python_random": python for rank, (_, python) in enumerate(drawn)},
        **state,
    }
    (aside / "state.json").write_text(json.dumps(document))
    for file in aside.iterdir():
        with file.open("rb") as handle:
            os.fsync(handle.fileno())
    if target.exists():
        shutil.rmtree(target)
    aside.rename(target)
    for old in checkpoints(folder):
        if old != target:
            shutil.rmtree(old)
    return target


def distinct(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state on the CPU with each tensor once: tied weights keep their first name."""
    seen: set[tuple[int, torch.Size]] = set()
    kept = {}
    for key, value in state.items():
        place = (value.data_ptr(), value.shape)
        if place not in seen or not value.numel():
            kept[key] = value.detach().cpu().contiguous()
        seen.add(place)
    return kept


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Write a JSON file whole or not at all."""
    aside = path.with_name(f".{path.name}.part")
    aside.write_text(json.dumps(document, indent=2) + "\n")
    aside.replace(path)


def checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    found = [p for p in folder.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", p.name)]
    return sorted(found, key=lambda p: int(p.name.partition("-")[2]))


def restore(path: Path, graph: TrainingGraph, optimizers: Mapping[str, Optimizer]) -> dict[str, Any]:
    """Put graph, optimisers and random generators back to a checkpoint; returns its state document.

    Raises:
        TrainingError: the folder is not a checkpoint of this graph.
    """
    try:
        document: dict[str, Any] = json.loads((path / "state.json").read_text())
        graph_state = load_file(path / "graph.safetensors")
        tensors = load_file(path / "state.safetensors")
    except Exception as error:
        raise TrainingError(f"cannot be read: {error}", where=str(path), next="remove it and resume again") from error
    if document.get("format") != FORMAT:
        raise TrainingError(f"has checkpoint format {document.get('format')}, not {FORMAT}", where=str(path))
    graph.load_state_dict(graph_state)
    for name, optimizer in optimizers.items():
        state = _unflatten(name, tensors, document["optimizers"])
        optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    own = _of(ranks.rank())
    if f"{own}python_random" in document:  # another number of ranks has other random numbers
        mine = {name.removeprefix(own): tensor for name, tensor in tensors.items() if name.startswith(f"{own}rng.")}
        _restore_random(mine, document[f"{own}python_random"])
    return document


def _of(rank: int) -> str:
    return f"rank{rank}/" if rank else ""


def _flatten(state: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    tensors, scalars = {}, {}
    for name, parameters in state.items():
        for index, entries in parameters.items():
            for entry, value in entries.items():
                key = f"{name}/{index}/{entry}"
                if isinstance(value, Tensor):
                    tensors[key] = value.detach().cpu().contiguous()
                else:
                    scalars[key] = value
    return tensors, scalars


def _unflatten(name: str, tensors: Mapping[str, Tensor], scalars: Mapping[str, Any]) -> dict[int, dict[str, Any]]:
    state: dict[int, dict[str, Any]] = {}
    for key, value in [*tensors.items(), *scalars.items()]:
        owner, _, rest = key.partition("/")
        if owner == name:
            index, _, entry = rest.partition("/")
            state.setdefault(int(index), {})[entry] = value
    return state


def _random_state() -> dict[str, Tensor]:
    legacy = np.random.get_state(legacy=False)
    assert isinstance(legacy, dict) and legacy["bit_generator"] == "MT19937"
    inner = legacy["state"]
    numpy = np.concatenate([inner["key"].astype(np.float64), [inner["pos"], legacy["has_gauss"], legacy["gauss"]]])
    state = {"rng.torch": torch.get_rng_state(), "rng.numpy": torch.from_numpy(numpy)}
    if torch.cuda.is_available():
        state["rng.cuda"] = torch.cuda.get_rng_state()
    return state


def _restore_random(tensors: Mapping[str, Tensor], python: Any) -> None:
    torch.set_rng_state(tensors["rng.torch"])
    numpy = tensors["rng.numpy"].numpy()
    keys, (position, has_gauss, cached) = numpy[:-3].astype(np.uint32), numpy[-3:]
    np.random.set_state(("MT19937", keys, int(position), int(has_gauss), float(cached)))
    random.setstate((python[0], tuple(python[1]), python[2]))
    if "rng.cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["rng.cuda"])
