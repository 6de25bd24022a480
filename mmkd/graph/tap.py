"""Taps: tensors read inside a network by module path, stopping the pass at the deepest one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from mmkd.errors import GraphError


class StopForward(BaseException):
    """Ends a forward pass whose last needed tap has been read. Not an `Exception`: a network cannot swallow it."""


@dataclass
class Tap:
    """One tensor inside a network: which module, what of it, and at which of its calls."""

    key: str
    path: str
    module: nn.Module
    select: tuple[str, ...]
    call: int
    clone: bool = False  # later code writes into the tensor in place

    @property
    def reads_input(self) -> bool:
        return bool(self.select) and self.select[0] == "input"


def locate(network: nn.Module, path: str, call: int, key: str, where: str) -> Tap | Tensor:
    """Resolve a path: the longest prefix that is a module; then tuple indices, `input`, or a parameter's name.

    Returns:
        A tap, or the parameter itself.

    Raises:
        GraphError: no such module, or an unreadable remainder; names the nearest path.
    """
    parts = path.split(".")
    module: Any = network
    depth = 0
    for part in parts:
        child = module._modules.get(part)
        if child is None:
            break
        module, depth = child, depth + 1
    rest = tuple(parts[depth:])
    if len(rest) == 1 and isinstance(parameter := getattr(module, rest[0], None), Tensor):
        return parameter
    indices = rest[1:] if rest[:1] == ("input",) else rest
    if not all(i.lstrip("-").isdigit() for i in indices) or (not depth and not rest):
        children = [name for name, _ in network.named_modules() if name]
        raise GraphError(
            f"the network has no module, input or parameter '{path}'", where=where, name=path, exists=children
        )
    return Tap(key, path, module, rest, call)


class Recorder:
    """Reads the taps of one network during the host's own calls only; other calls of the network pass untouched."""

    def __init__(self, taps: list[Tap]) -> None:
        self.taps = taps
        self._on = False
        self._stop = False
        self._calls: dict[int, int] = {}
        self._seen: dict[str, tuple[Tensor, int]] = {}
        self._handles: list[RemovableHandle] = []
        by_module: dict[int, list[Tap]] = {}
        for tap in taps:
            by_module.setdefault(id(tap.module), []).append(tap)
        for group in by_module.values():
            self._watch(group[0].module, [t for t in group if t.reads_input], [t for t in group if not t.reads_input])

    def _watch(self, module: nn.Module, inputs: list[Tap], outputs: list[Tap]) -> None:
        identity = id(module)

        def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if self._on:
                self._calls[identity] = call = self._calls.get(identity, 0) + 1
                for tap in inputs:
                    if call == (tap.call or 1):
                        self._take(tap, args or tuple(kwargs.values()), tap.select[1:] or ("0",))

        def after(_: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            if self._on:
                for tap in outputs:
                    if self._calls[identity] == (tap.call or 1):
                        self._take(tap, output, tap.select)

        self._handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
        if outputs:
            self._handles.append(module.register_forward_hook(after))

    def close(self) -> None:
        """Take the hooks off the network."""
        for handle in self._handles:
            handle.remove()

    def _take(self, tap: Tap, value: Any, select: tuple[str, ...]) -> None:
        for index in select:
            try:
                value = value[int(index)]
            except (IndexError, TypeError, KeyError) as error:
                raise GraphError(f"'{tap.path}' has no item {index}: the module gives {type(value).__name__}") from error
        if not isinstance(value, Tensor):
            size = f" of {len(value)}" if hasattr(value, "__len__") else ""
            raise GraphError(
                f"'{tap.path}' gives {type(value).__name__}{size}, not a tensor", next=f"name one item: {tap.path}.0"
            )
        value = value.clone() if tap.clone else value
        self._seen[tap.key] = (value, value._version)
        if self._stop and len(self._seen) == len(self.taps):
            raise StopForward

    def record(self, call: Callable[[], Any], *, stop: bool) -> tuple[Any, dict[str, Tensor]]:
        """Run `call` and return its result (None where the pass was stopped) and the taps by key.

        Raises:
            GraphError: a tap was not reached, or has since been overwritten in place.
        """
        self._seen, self._calls, self._stop, self._on = {}, {}, stop, True
        result = None
        try:
            result = call()
        except StopForward:
            pass
        finally:
            self._on = False
        seen, self._seen = self._seen, {}
        for tap in self.taps:
            if tap.key not in seen:
                times = self._calls.get(id(tap.module), 0)
                raise GraphError(f"tap '{tap.key}' was not reached: its module ran {times} times in this pass")
            value, version = seen[tap.key]
            if value._version != version:
                raise GraphError(
                    f"tap '{tap.key}' was overwritten in place after it was read",
                    next="build the graph with an example batch that takes the same branch",
                )
        return result, {key: value for key, (value, _) in seen.items()}

    def learn(self, call: Callable[[], Any]) -> None:
        """One full pass that finds which taps are overwritten in place, and refuses modules that run twice."""
        for tap in self.taps:
            tap.clone = False
        self._seen, self._calls, self._stop, self._on = {}, {}, False, True
        try:
            call()
        finally:
            self._on = False
        for tap in self.taps:
            times = self._calls.get(id(tap.module), 0)
            if times > 1 and not tap.call:
                raise GraphError(
                    f"the module of '{tap.key}' runs {times} times in one pass",
                    exists=[f"{tap.key}#{i}" for i in range(1, times + 1)],
                )
            if tap.key in self._seen:
                value, version = self._seen[tap.key]
                tap.clone = value._version != version
        self._seen = {}
