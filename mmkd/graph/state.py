"""What of a graph is saved, and what a saved state may leave out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

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
