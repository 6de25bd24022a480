"""Taps: tensors read inside a network by module path, stopping the pass at the deepest one."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
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
    clone: bool = True  # later code writes into the tensor in place, as far as is known

    @property
    def reads_input(self) -> bool:
        return bool(self.select) and self.select[0] == "input"


@dataclass(frozen=True)
class Weight:
    """A parameter or buffer of a network, read where it lies so that moving or loading the network keeps it true."""

    module: nn.Module
    name: str

    def read(self) -> Tensor:
        tensor: Tensor = getattr(self.module, self.name)
        return tensor


def locate(network: nn.Module, path: str, call: int, key: str, where: str) -> Tap | Weight:
    """Resolve a path: the longest prefix that is a module; then tuple indices, `input`, or a parameter's name.

    Raises:
        GraphError: no such module, or an unreadable remainder; names the nearest path.
    """
    parts = path.split(".")
    module = network
    depth = 0
    for part in parts:
        child = module._modules.get(part)
        if child is None:
            break
        module, depth = child, depth + 1
    rest = tuple(parts[depth:])
    if len(rest) == 1 and isinstance(getattr(module, rest[0], None), Tensor):
        return Weight(module, rest[0])
    indices = rest[1:] if rest[:1] == ("input",) else rest
    if not all(re.fullmatch(r"-?[0-9]+", index) for index in indices):
        children = [name for name, _ in network.named_modules() if name]
        raise GraphError(
            f"the network has no module, input or parameter '{path}'", where=where, name=path, exists=children
        )
    return Tap(key, path, module, rest, call)


class Watch:
    """The hooks on one module: they count its calls and hand over what its taps read.

    Bound methods, not closures, so that a deep copy of a network or graph has hooks of its own.
    """

    def __init__(self, recorder: Recorder, module: nn.Module, taps: list[Tap]) -> None:
        self.calls = 0
        self._recorder = recorder
        self._inputs = [tap for tap in taps if tap.reads_input]
        self._outputs = [tap for tap in taps if not tap.reads_input]
        self._handles: list[RemovableHandle] = []
        if self._inputs:
            self._handles.append(module.register_forward_pre_hook(self._before, with_kwargs=True))
        if self._outputs:
            self._handles.append(module.register_forward_hook(self._after))

    def _before(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._recorder.on:
            self.calls += 1
            for tap in self._inputs:
                if self.calls == (tap.call or 1):
                    self._recorder.take(tap, (*args, *kwargs.values()), tap.select[1:] or ("0",))

    def _after(self, _: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if self._recorder.on:
            if not self._inputs:
                self.calls += 1
            for tap in self._outputs:
                if self.calls == (tap.call or 1):
                    self._recorder.take(tap, output, tap.select)

    def close(self) -> None:
        for handle in self._handles:
            handle.remove()


class Recorder:
    """Reads the taps of one network during the host's own calls only; other calls of the network pass untouched.

    The first pass is a full one: it finds the taps that later code overwrites in place, which are cloned from
    then on.
    """

    def __init__(self, taps: list[Tap]) -> None:
        self.taps = taps
        self.learned = not taps
        self.on = False
        self._stop = False
        self._seen: dict[str, tuple[Tensor, Tensor, int]] = {}  # what is given, what must stay, and its version
        by_module: dict[int, list[Tap]] = {}
        for tap in taps:
            by_module.setdefault(id(tap.module), []).append(tap)
        self._watches = [(Watch(self, group[0].module, group), group) for group in by_module.values()]

    def close(self) -> None:
        """Take the hooks off the network."""
        for watch, _ in self._watches:
            watch.close()

    def take(self, tap: Tap, value: Any, select: tuple[str, ...]) -> None:
        """Keep what a tap reads of a module's input or output, and end the pass after the last one."""
        for index in select:
            try:
                value = _item(value, int(index))
            except (IndexError, TypeError, KeyError) as error:
                gives = type(value).__name__
                raise GraphError(f"'{tap.path}' has no item {index}: the module gives {gives}") from error
        if not isinstance(value, Tensor):
            size = f" of {len(value)}" if hasattr(value, "__len__") else ""
            raise GraphError(
                f"'{tap.path}' gives {type(value).__name__}{size}, not a tensor", next=f"name one item: {tap.path}.0"
            )
        given = value.clone() if tap.clone else value
        kept = given if self.learned else value
        self._seen[tap.key] = (given, kept, _version(kept))
        if self._stop and len(self._seen) == len(self.taps):
            raise StopForward

    def record(self, call: Callable[[], Any], *, stop: bool) -> tuple[Any, dict[str, Tensor]]:
        """Run `call` and return its result (None where the pass was stopped) and the taps by key.

        Raises:
            GraphError: a tap was not reached, its module ran again, or it has since been overwritten in place.
        """
        self._stop, self.on = stop and self.learned, True
        result = None
        try:
            result = call()
        except StopForward:
            pass
        finally:
            self.on = False
            seen, self._seen = self._seen, {}
            calls = [watch.calls for watch, _ in self._watches]
            for watch, _ in self._watches:
                watch.calls = 0
        for (_, group), times in zip(self._watches, calls, strict=True):
            for tap in group:
                self._check(tap, times, seen)
        self.learned = True
        return result, {key: given for key, (given, _, _) in seen.items()}

    def _check(self, tap: Tap, times: int, seen: Mapping[str, tuple[Tensor, Tensor, int]]) -> None:
        if tap.key not in seen:
            raise GraphError(f"tap '{tap.key}' was not reached: its module ran {times} times in this pass")
        if times > 1 and not tap.call:
            raise GraphError(
                f"the module of '{tap.key}' runs {times} times in one pass",
                exists=[f"{tap.key}#{i}" for i in range(1, times + 1)],
            )
        _, kept, version = seen[tap.key]
        overwritten = _version(kept) != version
        if not self.learned:
            tap.clone = overwritten
        elif overwritten:
            raise GraphError(
                f"tap '{tap.key}' was overwritten in place after it was read",
                next="build the graph with an example batch that takes the same branch",
            )


def _item(value: Any, index: int) -> Any:
    if isinstance(value, Tensor):
        raise TypeError("an item of a tensor would be one sample of the batch")
    return value[index]


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version
