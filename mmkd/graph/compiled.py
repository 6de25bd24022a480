"""A network compiled as one function from its inputs to what is read of it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mmkd.components import Encoder
from mmkd.graph.tap import Tap, Watch, locate

if TYPE_CHECKING:
    from mmkd.graph.node import NodeRun


class Compiled:
    """Computes the values of one pass, and nothing that lies behind the deepest of them.

    The function returns the wanted values alone, so that the compiler drops whatever they do not stand on: no pass is
    broken off. It compiles a copy of the modules, whose weights are the network's own, so that hooks that come and go
    on the network change nothing.

    Args:
        run: a pass that has been made once, which shows the taps that are overwritten in place.
    """

    def __init__(self, run: NodeRun) -> None:
        self._encoder = bare(run.node.encoder)
        object.__setattr__(self._encoder, "wanted", run.wanted)
        self._published = dict(run.published)
        self._catches = [Catch(self._encoder.network, tap) for tap in run.recorder.taps]
        self.keys = [*self._published, *(catch.key for catch in self._catches)]
        self.function: Callable[[dict[str, Any]], list[Tensor]] = torch.compile(self._values, fullgraph=True)

    def _values(self, inputs: dict[str, Any]) -> list[Tensor]:
        output = self._encoder(**inputs)
        return [*(output[name] for name in self._published.values()), *(catch.caught() for catch in self._catches)]

    def __call__(self, inputs: Mapping[str, Any], *, sizes_vary: bool = False) -> dict[str, Tensor]:
        """The values by address.

        Args:
            inputs: what the network is called with.
            sizes_vary: tell the compiler that batches will have other sizes than this one.
        """
        for value in inputs.values() if sizes_vary else ():
            if isinstance(value, Tensor) and value.dim() and len(value) > 1:
                torch._dynamo.maybe_mark_dynamic(value, 0)
        return dict(zip(self.keys, self.function(dict(inputs)), strict=True))


class Catch:
    """The hook that reads one tap of a network while that is compiled."""

    def __init__(self, network: nn.Module, tap: Tap) -> None:
        own = locate(network, tap.path, tap.call, tap.key, tap.path)
        assert isinstance(own, Tap)
        self.key, self._call, self._clone = tap.key, tap.call or 1, tap.clone
        self._select = own.select[1:] or ("0",) if own.reads_input else own.select
        self._calls = 0
        self._value: Tensor | None = None
        if own.reads_input:
            own.module.register_forward_pre_hook(self._before, with_kwargs=True)
        else:
            own.module.register_forward_hook(self._after)

    def caught(self) -> Tensor:
        """What the pass has come by; forgets it."""
        value, self._value, self._calls = self._value, None, 0
        assert value is not None
        return value

    def _before(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._take((*args, *kwargs.values()))

    def _after(self, _: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self._take(output)

    def _take(self, value: Any) -> None:
        self._calls += 1
        if self._calls == self._call:
            for index in self._select:
                value = value[int(index)]
            self._value = value.clone() if self._clone else value


def bare(encoder: Encoder) -> Encoder:
    """A copy of the modules around the same weights, without the hooks by which graphs read."""
    shared = {id(tensor): tensor for tensor in (*encoder.parameters(), *encoder.buffers())}
    made = copy.deepcopy(encoder, shared)
    for module in made.modules():
        for hooks in (module._forward_hooks, module._forward_pre_hooks):
            for number in [n for n, hook in hooks.items() if isinstance(getattr(hook, "__self__", None), Watch)]:
                del hooks[number]
    return made
