"""`mmkd.export`: a trained network in a form that others load without mmkd."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from mmkd.components import Sample
from mmkd.datasets import train_dataset
from mmkd.engine.data import read
from mmkd.errors import TrainingError
from mmkd.exported import from_pretrained
from mmkd.formats.portable import Portable
from mmkd.formats.program import write_onnx, write_torch
from mmkd.formats.usage import onnx_usage, torch_usage, weights_usage, write_preprocessing
from mmkd.formats.weights import write_weights
from mmkd.graph.training_graph import TrainingGraph
from mmkd.recipe import load_recipe

OWN = "mmkd"
GENERIC: dict[str, tuple[Callable[[Portable, Path], None], Callable[[Portable, str], str]]] = {
    "safetensors": (write_weights, weights_usage),
    "torch": (write_torch, torch_usage),
    "onnx": (write_onnx, onnx_usage),
}
"""Forms that any network has: what writes each, and the code that loads it."""
SAMPLES = 8


def export(
    run: str | Path,
    *,
    format: str,
    output: str | Path | None = None,
    node: str | None = None,
    values: Sequence[str] | None = None,
    normalize: bool = False,
    force: bool = False,
    nodes: Mapping[str, nn.Module] | None = None,
    data: Mapping[str, Any] | None = None,
) -> Path:
    """Write one network of a run, with its preprocessing and a card, for others to load.

        mmkd.export("runs/quickstart", format="onnx", values=["up"])

    Args:
        run: a run, or a folder with an exported model.
        format: `mmkd` (what `from_pretrained` reads); `safetensors` (the plain state), `torch` (`torch.export`) and
            `onnx`, for any network; or one of the encoder's own `formats()`.
        output: the folder to make; `<run>/export/<format>` unless given.
        node: which network; the student where there is one.
        values: what a program returns: names of the network's values, or of projectors on it. Its `embedding` and
            `logits` and all exported projectors unless given.
        normalize: programs take images in [0, 1], mean and standard deviation inside.
        force: replace `output` where it exists.
        nodes: networks that were handed in by hand when the model was trained.
        data: `{"train": dataset}`, for a run on data of your own; programs are traced with its first samples.

    Returns:
        The folder.

    Raises:
        TrainingError: no such run, network, value or form, or `output` exists.
    """
    run = Path(run)
    folder = run if (run / "config.json").is_file() else run / "student"
    target = Path(output) if output is not None else run / "export" / format
    if target.exists() and not force:
        raise TrainingError("exists already", where=str(target), next="--force, or another --output")
    if target.exists() and not (target.is_dir() and (target / "README.md").is_file()):
        raise TrainingError("is no exported model, and is not replaced", where=str(target), next="another --output")
    graph = from_pretrained(folder, nodes=nodes)
    node = _node(graph, node, str(run))
    encoder = graph.roles[node].encoder
    forms = [OWN, *GENERIC, *encoder.formats()]
    if format not in forms:
        raise TrainingError(
            f"'{node}' ({graph.roles[node].use or type(encoder).__name__}) has no form '{format}'", where=str(run),
            name=format, exists=forms, next=f"mmkd export {run} --format {forms[-1]}",
        )  # fmt: skip
    if format not in GENERIC and (values is not None or normalize):
        raise TrainingError(f"the form '{format}' is whole: it takes neither values nor normalize", where="values")
    aside = target.with_name(f".{target.name}.part")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        usage = _write(graph, node, format, aside, folder, values, normalize, lambda: _samples(run, data))
        (aside / "README.md").write_text(_card(folder, usage))
        shutil.rmtree(target, ignore_errors=True)
        aside.rename(target)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return target


def _write(
    graph: TrainingGraph, node: str, format: str, aside: Path, folder: Path,
    values: Sequence[str] | None, normalize: bool, samples: Callable[[], Sequence[Sample]],
) -> str | None:  # fmt: skip
    """The files of one form; returns how they are used, None where the card says so already."""
    if format == OWN:
        for name in ("config.json", "model.safetensors"):
            shutil.copy(folder / name, aside)
        return None
    if format not in GENERIC:
        usage = f"```python\n{graph.roles[node].encoder.export(aside, format)}```\n"
        if graph.bound:
            usage += f"\nNot part of this form: {', '.join(graph.bound)}; `safetensors`, `torch` and `onnx` hold it.\n"
        return usage
    addresses = None if values is None else [_address(graph, node, value) for value in values]
    portable = Portable(graph, node, addresses, samples(), normalize=normalize)
    write, usage_of = GENERIC[format]
    write(portable, aside)
    return f"```python\n{usage_of(portable, write_preprocessing(portable, aside, normalize=normalize))}```\n"


def _address(graph: TrainingGraph, node: str, value: str) -> str:
    """`embedding` is the network's, `up` a projector; `student.embedding` and taps are as in a recipe."""
    return value if value in graph.bound or value.partition("/")[0].partition(".")[0] == node else f"{node}.{value}"


def _node(graph: TrainingGraph, name: str | None, where: str) -> str:
    trained = [n for n, role in graph.roles.items() if role.trained]
    if name is None and len(trained) != 1:
        raise TrainingError("has several students", where=where, exists=trained, next="--node NAME")
    if name is not None and name not in graph.roles:
        raise TrainingError(f"holds no network '{name}'", where=where, name=name, exists=list(graph.roles))
    return name or trained[0]


def _samples(run: Path, data: Mapping[str, Any] | None) -> list[Sample]:
    """The first training samples of the run."""
    found = [home for home in (run, *run.resolve().parents[:2]) if (home / "recipe.yaml").is_file()]
    if data is None and not found:
        raise TrainingError(
            "has no recipe.yaml that says where samples are, and programs are traced with some", where=str(run),
            next="export the run, or mmkd.export(..., data={'train': dataset})",
        )  # fmt: skip
    dataset = data["train"] if data is not None else train_dataset(load_recipe(found[0] / "recipe.yaml"))
    return [read(dataset, i) for i in range(min(SAMPLES, len(dataset)))]


def _card(folder: Path, usage: str | None) -> str:
    """The card of the run's model, with another way to use it."""
    card = (folder / "README.md").read_text()
    if usage is None:
        return card
    return f"{card.partition('## Use')[0]}## Use\n\nIn this folder, without mmkd:\n\n{usage}"
