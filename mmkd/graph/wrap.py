"""Any `nn.Module` as a node of the graph."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from mmkd.components import Encoder, Sample
from mmkd.errors import GraphError


class Wrapped(Encoder):
    """Encoder around a network that knows nothing of mmkd; made by `mmkd.wrap`."""

    def __init__(
        self,
        network: nn.Module,
        inputs: Sequence[str],
        outputs: str | Sequence[str] | Mapping[str, str | int],
        transform: Callable[[Sample], Any] | None,
    ) -> None:
        super().__init__()
        self.net = network
        self._inputs = (inputs,) if isinstance(inputs, str) else tuple(inputs)
        self._outputs = outputs
        self._transform = transform

    @property
    def network(self) -> nn.Module:
        return self.net

    def values(self) -> Sequence[str]:
        return [self._outputs] if isinstance(self._outputs, str) else list(self._outputs)

    def inputs(self) -> Mapping[str, bool]:
        return dict.fromkeys(self._inputs, True)

    def transform(self, sample: Sample) -> dict[str, Any]:
        if self._transform is None:
            return {}
        made = self._transform(sample)
        return dict(made) if isinstance(made, Mapping) else {self._inputs[0]: made}

    def transform_key(self) -> Hashable | None:
        return None if self._transform is None else (id(self._transform), self._inputs)

    def forward(self, **fields: Tensor) -> dict[str, Tensor]:
        output = self.net(*(fields[name] for name in self._inputs))
        if isinstance(self._outputs, str):
            return {self._outputs: output}
        if isinstance(output, Tensor):
            raise GraphError(
                f"{type(self.net).__name__} returned one tensor, not items to be named {self.values()}",
                next="name the one: mmkd.wrap(net, outputs='logits')",
            )
        given = self._outputs
        named = given.items() if isinstance(given, Mapping) else [(name, i) for i, name in enumerate(given)]
        try:
            return {name: _item(output, place) for name, place in named}
        except (KeyError, IndexError, AttributeError, TypeError) as error:
            raise GraphError(
                f"{type(self.net).__name__} returned {type(output).__name__}, which has no {error}",
                next="say where each value lies: mmkd.wrap(net, outputs={'logits': 0})",
            ) from error


def _item(output: Any, place: str | int) -> Tensor:
    if isinstance(place, int) or isinstance(output, Mapping):
        return output[place]  # type: ignore[no-any-return]
    return getattr(output, place)  # type: ignore[no-any-return]


def wrap(
    network: nn.Module,
    *,
    inputs: Sequence[str] = ("image",),
    outputs: str | Sequence[str] | Mapping[str, str | int] = "logits",
    transform: Callable[[Sample], Any] | None = None,
) -> Encoder:
    """Make a node of any `nn.Module`.

    Args:
        network: called with the batch fields `inputs`, in that order.
        inputs: fields of the batch.
        outputs: the name of its single output; names of the items of its output tuple; or a mapping from name to
            key, index or attribute of its output. Inner values need no name: tap them, `teacher/layer3.1`.
        transform: raw sample to input fields (or to the single input); without it the batch's shared fields are used.

    Returns:
        An encoder for `mmkd.build(recipe, nodes={"teacher": ...})`.
    """
    return Wrapped(network, inputs, outputs, transform)
