"""What of a graph is saved, and what a saved state may leave out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mmkd.errors import GraphError

if TYPE_CHECKING:
    from mmkd.graph.training_graph import TrainingGraph


def omit_constant(graph: TrainingGraph, state: dict[str, Any], prefix: str, _: Any) -> None:
    """Take out of a state dict what belongs to constant networks."""
    for key in [k for k in state if k.startswith(prefix) and _constant(graph, k.removeprefix(prefix))]:
        del state[key]


def complete(graph: TrainingGraph, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """What `state` may leave out: constant networks stay as they are, tied weights load under every name."""
    for name, node in graph.roles.items():
        if node.constant:
            for key, value in node.encoder.state_dict(prefix=f"{prefix}nodes.{name}.", keep_vars=True).items():
                state.setdefault(key, value)
    places = {
        key: (value.data_ptr(), value.shape)
        for key, value in graph.state_dict(prefix=prefix, keep_vars=True).items()
        if isinstance(value, Tensor)
    }
    given = {place: key for key, place in places.items() if key in state}
    for key, place in places.items():
        if key not in state and place in given:
            state[key] = state[given[place]]


def _constant(graph: TrainingGraph, key: str) -> bool:
    head, _, rest = key.partition(".")
    return head == "nodes" and graph.roles[rest.partition(".")[0]].constant


@torch.no_grad()
def carry(graph: TrainingGraph, tensors: Mapping[str, Tensor]) -> None:
    """Take over what another graph has trained, wherever a name is the same.

    A network is taken over whole; of projectors, mixers and losses whatever has the same shape. An average that the
    other graph did not have begins at its student.

    Raises:
        GraphError: a network of that name is another one.
    """
    own = dict(graph.state_dict(keep_vars=True))
    for name, node in graph.roles.items():
        own |= node.encoder.state_dict(prefix=f"nodes.{name}.", keep_vars=True)
    taken = {key: tensor for key, tensor in tensors.items() if key in own and own[key].shape == tensor.shape}
    places = {own[key].data_ptr() for key in taken}
    for name in graph.roles:
        prefix = f"nodes.{name}."
        if not any(key.startswith(prefix) for key in tensors):
            continue
        missing = [k for k in own if k.startswith(prefix) and k not in taken and own[k].data_ptr() not in places]
        if missing or any(key.startswith(prefix) and key not in own for key in tensors):
            raise GraphError(
                f"'{name}' is not the network that was trained before: it differs in {(missing or ['its modules'])[0]}",
                where=name, next="give the network another name, or start the stage from scratch",
            )  # fmt: skip
    for key, tensor in taken.items():
        if key != "_extra_state":
            own[key].copy_(tensor)
    for name, node in graph.roles.items():
        origin = node.form.origin if node.form else {}
        for key in origin.keys() & {whole.removeprefix(f"nodes.{name}.") for whole in taken}:
            origin[key].copy_(taken[f"nodes.{name}.{key}"])
    for name, node in graph.roles.items():
        if node.average is not None and not any(key.startswith(f"nodes.{name}.") for key in tensors):
            node.encoder.load_state_dict(graph.roles[node.average.of].encoder.state_dict())
