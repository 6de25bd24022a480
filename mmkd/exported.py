"""The exported model: chosen networks and projectors in safetensors with a config and a card, and back again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

import mmkd
from mmkd import plugins
from mmkd.engine import checkpoint
from mmkd.errors import GraphError, MmkdError, TrainingError
from mmkd.graph.node import Node
from mmkd.graph.training_graph import TrainingGraph
from mmkd.maker import Maker
from mmkd.recipe import Component, Node as NodeSpec, ProjectorSpec, Recipe
from mmkd.signature import options

FORMAT = 1


def write(graph: TrainingGraph, recipe: Recipe, folder: Path, card: str) -> Path:
    """Write `config.json`, `model.safetensors` and `README.md`; what `export` does not name is dropped.

    Constant networks that `export` names are stored by reference, as options and the checksum of their weights; those
    that have no checksum are stored whole.
    """
    names = recipe.exported()
    config: dict[str, Any] = {
        "format": FORMAT,
        "mmkd": mmkd.__version__,
        "name": recipe.name,
        "licences": _licences(graph, recipe),
        "nodes": {n: _node_config(graph.roles[n], recipe.built_as(n)) for n in names if n in graph.roles},
        "projectors": _derived_config(graph, recipe.projectors, names),
        "mixers": _derived_config(graph, recipe.mixers, names),
    }
    config["plugins"] = {p.id: f"{p.distribution} {p.version}" for p in plugins.host().plugins if p.id in _used(config)}
    state = graph.state_dict()
    kept = tuple(f"{kind}.{name}." for kind in ("nodes", "projectors", "mixers") for name in config[kind])
    for name, entry in config["nodes"].items():
        if entry["constant"] and entry["fingerprint"] is None:
            state |= {f"nodes.{name}.{key}": value for key, value in graph.roles[name].state().items()}
    tensors = checkpoint.distinct({key: value for key, value in state.items() if key.startswith(kept)})
    aside = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    save_file(tensors, aside / "model.safetensors")
    (aside / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    describe(aside, card)
    shutil.rmtree(folder, ignore_errors=True)
    return aside.rename(folder)


def describe(folder: Path, card: str) -> None:
    """Write the card of an exported model, with the licences that its config records, before how to use it."""
    licences = json.loads((folder / "config.json").read_text()).get("licences", {})
    rows = [f"| {name} | {licence} |" for name, licence in licences.items()]
    about, use, rest = card.partition("## Use\n")
    section = "\n".join(["## Licences", "", "| part | licence |", "|---|---|", *rows, "", ""]) if rows else ""
    (folder / "README.md").write_text(about + section + use + rest)


def _licences(graph: TrainingGraph, recipe: Recipe) -> dict[str, str]:
    """What networks and datasets state, by name; those that state nothing stay out."""
    stated: dict[str, str | None] = {name: node.encoder.license for name, node in graph.roles.items()}
    for name, spec in {"train": recipe.data.train, **recipe.data.eval_sets()}.items():
        if spec is not None:
            dataset: Any = plugins.host().catalogue.get("dataset", spec.use).load()
            stated[f"data.{name}"] = dataset.license
    return {name: licence for name, licence in stated.items() if licence}


def _node_config(node: Node, spec: NodeSpec) -> dict[str, Any]:
    arguments = spec.arguments
    config: dict[str, Any] = {"use": spec.use, "inputs": _fields(spec.inputs), "constant": node.constant}
    if node.constant:
        config["fingerprint"] = None if node.changed else node.encoder.fingerprint()
    elif "pretrained" in arguments and "pretrained" in options(type(node.encoder)):
        arguments["pretrained"] = options(type(node.encoder))["pretrained"].default
    return {**config, "options": arguments}


def _fields(inputs: Mapping[str, str]) -> dict[str, str]:
    """The inputs that are fields of the batch: inner ones belong to training."""
    return {own: address for own, address in inputs.items() if not own.startswith("/")}


def _derived_config(graph: TrainingGraph, specs: Mapping[str, Component], names: Sequence[str]) -> dict[str, Any]:
    used = [name for name in names if name in specs]
    for name in used:
        if name not in graph.widths and graph.bound[name].needs_setup:
            raise GraphError("no loss reads it, so that it is neither set up nor trained", where=f"export: {name}")
    return {name: {"spec": specs[name].model_dump(), "shapes": graph.widths.get(name, {})} for name in used}


def _used(config: Mapping[str, Any]) -> set[str]:
    """Plugin ids behind every `use` in a config."""
    found: set[str] = set()
    for key, value in config.items():
        if key == "use" and isinstance(value, str):
            found.add(value.partition(".")[0])
        elif isinstance(value, Mapping):
            found |= _used(value)
    return found


def from_pretrained(path: str | Path, *, nodes: Mapping[str, nn.Module] | None = None) -> TrainingGraph:
    """Load an exported model: a graph without losses, in evaluation mode.

        model = mmkd.from_pretrained("runs/quickstart")
        batch = model.collate([{"image": image}])
        model.values(batch, ["student.embedding"])

    Args:
        path: a run (its `student` folder is taken) or an exported folder.
        nodes: networks that were handed in by hand when the model was trained.

    Raises:
        TrainingError: the folder is no exported model, or the weights behind a constant network have changed.
    """
    folder = Path(path)
    folder = folder if (folder / "config.json").is_file() else folder / "student"
    try:
        config = json.loads((folder / "config.json").read_text())
        tensors = load_file(folder / "model.safetensors")
    except (OSError, ValueError) as error:
        raise TrainingError(
            f"is no exported model: {error}", where=str(path), next="mmkd distill RECIPE writes one"
        ) from error
    if config.get("format") != FORMAT:
        raise TrainingError(f"has export format {config.get('format')}, not {FORMAT}", where=str(folder))
    maker = Maker(1)
    try:
        built = {
            name: maker.node(
                name,
                NodeSpec(use=entry["use"], inputs=entry["inputs"], **entry["options"]),
                not entry["constant"],
                (nodes or {}).get(name),
            )
            for name, entry in config["nodes"].items()
        }
        projectors = {
            name: maker.projector(name, ProjectorSpec.model_validate(entry["spec"]))
            for name, entry in config["projectors"].items()
        }
        mixers = {
            name: maker.mixer(name, Component.model_validate(entry["spec"]))
            for name, entry in config.get("mixers", {}).items()
        }
    except MmkdError as error:
        raise error.at(str(folder / "config.json")) from error.__cause__
    for name, entry in config["nodes"].items():
        if entry["constant"] and entry["fingerprint"] is None:
            own = {k: tensors.pop(k) for k in list(tensors) if k.startswith(f"nodes.{name}.")}
            built[name].encoder.load_state_dict({k.removeprefix(f"nodes.{name}."): v for k, v in own.items()})
        elif entry["constant"] and (now := built[name].encoder.fingerprint()) != entry["fingerprint"]:
            raise TrainingError(
                f"the weights of '{name}' are {now}, the model was trained with {entry['fingerprint']}",
                where=str(folder),
            )
    for name, binding in {**projectors, **mixers}.items():
        entry = (config["projectors"] if name in projectors else config["mixers"])[name]
        module: Any = binding.module
        module.setup(**{port: _shape(shape) for port, shape in entry["shapes"].items()})
    graph = TrainingGraph(built, projectors, mixers=mixers)
    try:
        graph.load_state_dict({"_extra_state": torch.tensor(0), **tensors})
    except (MmkdError, RuntimeError) as error:
        raise TrainingError(f"model.safetensors does not fit config.json: {error}", where=str(folder)) from error
    graph.requires_grad_(False)
    return graph.eval()


def _shape(shape: Any) -> Any:
    return [torch.Size(s) for s in shape] if shape and isinstance(shape[0], list) else torch.Size(shape)
