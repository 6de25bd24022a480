"""Taps: tensors read inside a network by module path, the pass stopping at the deepest; feeds: tensors put there."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from mmkd.components import UNREAD
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
    graph: bool = False  # what the network makes of the tensor can be differentiated in it

    @property
    def reads_input(self) -> bool:
        return bool(self.select) and self.select[0] == "input"

    @property
    def whole(self) -> bool:
        """Whether the network can be given another tensor in its place."""
        return self.select in ((), ("input",), ("input", "0"))


@dataclass
class Feed:
    """A tensor that a module is called with, in place of the first one that the network calls it with."""

    key: str
    path: str
    module: nn.Module
    call: int
    clone: bool = True  # the module writes into the tensor in place, as far as is known


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


def entrance(network: nn.Module, path: str, call: int, where: str) -> Feed:
    """Resolve the path of a module that is to be fed.

    Raises:
        GraphError: no such module; names the nearest.
    """
    written = f"/{path}" + (f"#{call}" if call else "")
    children = dict(network.named_modules())
    if not path or path not in children:
        raise GraphError(
            f"the network has no module '{path}'", where=where, name=path, exists=[name for name in children if name]
        )
    return Feed(written, path, children[path], call)


class Watch:
    """The hooks on one module: they count its calls and hand over what its taps read.

    Bound methods, not closures, so that a deep copy of a network or graph has hooks of its own.
    """

    def __init__(self, recorder: Recorder, module: nn.Module, taps: list[Tap], feeds: list[Feed]) -> None:
        self.calls = 0
        self._recorder = recorder
        self._feeds = feeds
        self._inputs = [tap for tap in taps if tap.reads_input]
        self._outputs = [tap for tap in taps if not tap.reads_input]
        self._handles: list[RemovableHandle] = []
        if self._inputs or feeds:
            self._handles.append(module.register_forward_pre_hook(self._before, with_kwargs=True))
        if self._outputs:
            self._handles.append(module.register_forward_hook(self._after))

    def _before(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not self._recorder.on or UNREAD.get():
            return None
        self.calls += 1
        given = None
        for feed in self._feeds:
            if self.calls == (feed.call or 1):
                args, kwargs = given = _instead(self._recorder.feed(feed), args, kwargs, feed.key)
        for tap in self._inputs:
            if self.calls == (tap.call or 1):
                onward = self._recorder.take(tap, (*args, *kwargs.values()), tap.select[1:] or ("0",))
                if onward is not None:
                    args, kwargs = given = _instead(onward, args, kwargs, tap.key)
        return given

    def _after(self, _: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if not self._recorder.on or UNREAD.get():
            return None
        if not self._inputs and not self._feeds:
            self.calls += 1
        given = None
        for tap in self._outputs:
            if self.calls == (tap.call or 1):
                onward = self._recorder.take(tap, output if given is None else given, tap.select)
                given = onward if onward is not None else given
        return given

    def close(self) -> None:
        for handle in self._handles:
            handle.remove()


class Recorder:
    """Reads the taps of one network during the host's own calls only; other calls of the network pass untouched.

    The first pass is a full one: it finds the taps that later code overwrites in place, which are cloned from
    then on.
    """

    def __init__(self, taps: list[Tap], feeds: Sequence[Feed] = ()) -> None:
        self.taps, self.feeds = taps, list(feeds)
        self.learned = not taps and not feeds
        self.on = False
        self._stop = False
        self._padded = False  # whether attention hands on nested tensors unless it is told not to
        self._fed: Mapping[str, Tensor] = {}
        self._seen: dict[str, tuple[Tensor, Tensor, int]] = {}  # what is given, what must stay, and its version
        self._put: dict[str, tuple[Tensor, int]] = {}
        by_module: dict[int, tuple[nn.Module, list[Tap], list[Feed]]] = {}
        for tap in taps:
            by_module.setdefault(id(tap.module), (tap.module, [], []))[1].append(tap)
        for feed in self.feeds:
            by_module.setdefault(id(feed.module), (feed.module, [], []))[2].append(feed)
        self._watches = [(Watch(self, *group), group[1], group[2]) for group in by_module.values()]

    def close(self) -> None:
        """Take the hooks off the network."""
        for watch, *_ in self._watches:
            watch.close()

    def feed(self, feed: Feed) -> Tensor:
        """What a module is given."""
        value = self._fed[feed.key]
        given = value.clone() if feed.clone else value
        kept = value if self.learned else given
        self._put[feed.key] = (kept, _version(kept))
        return given

    def take(self, tap: Tap, value: Any, select: tuple[str, ...]) -> Tensor | None:
        """Keep what a tap reads of a module's input or output, and end the pass after the last one.

        Returns:
            What the network goes on with instead, None where it goes on with what it has.
        """
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
        onward: Tensor | None = None
        if tap.graph:
            value, onward = _source(tap, value)
            kept = value if onward is None or self.learned else onward
            self._seen[tap.key] = (value, kept, _version(kept))
        else:
            given = value.clone() if tap.clone else value
            kept = given if self.learned else value
            self._seen[tap.key] = (given, kept, _version(kept))
        if self._stop and len(self._seen) == len(self.taps):
            raise StopForward
        return onward

    def record(
        self, call: Callable[[], Any], *, stop: bool, fed: Mapping[str, Tensor] | None = None
    ) -> tuple[Any, dict[str, Tensor]]:
        """Run `call` and return its result (None where the pass was stopped) and the taps by key.

        Args:
            call: runs the network.
            stop: end the pass after the last tap.
            fed: what the fed modules are given, by key of the feed.

        Raises:
            GraphError: a tap was not reached, its module ran again, or it has since been overwritten in place; or a
                module that is fed was not reached or ran again.
        """
        self._stop, self.on = stop and self.learned, True
        self._fed = fed or {}
        result, stopped = None, False
        try:
            result = _padded(call) if self._padded else call()
        except StopForward:
            stopped = True
        finally:
            self.on = False
            seen, self._seen = self._seen, {}
            put, self._put, self._fed = self._put, {}, {}
            calls = [watch.calls for watch, *_ in self._watches]
            for watch, *_ in self._watches:
                watch.calls = 0
        if not self.learned and not self._padded and any(value.is_nested for value, *_ in seen.values()):
            self._padded = True
            return self.record(call, stop=stop, fed=fed)
        for (_, taps, feeds), times in zip(self._watches, calls, strict=True):
            for tap in taps:
                self._check(tap, times, seen)
            for feed in feeds:
                if feed.key in put or not stopped:
                    self._check_feed(feed, times, put)
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
        if overwritten and tap.graph and not tap.whole:
            raise GraphError(f"'{tap.key}' is overwritten in place, and cannot be differentiated in")
        if not self.learned:
            tap.clone = overwritten
        elif overwritten:
            raise GraphError(
                f"tap '{tap.key}' was overwritten in place after it was read",
                next="build the graph with an example batch that takes the same branch",
            )

    def _check_feed(self, feed: Feed, times: int, put: Mapping[str, tuple[Tensor, int]]) -> None:
        if feed.key not in put:
            raise GraphError(f"the module of inner input '{feed.key}' ran {times} times in this pass")
        if times > 1 and not feed.call:
            raise GraphError(
                f"the module of inner input '{feed.key}' runs {times} times in one pass",
                exists=[f"{feed.key}#{i}" for i in range(1, times + 1)],
            )
        kept, version = put[feed.key]
        overwritten = _version(kept) != version
        if not self.learned:
            feed.clone = overwritten
        elif overwritten and not feed.clone:
            raise GraphError(
                f"what is given to '{feed.key}' was overwritten in place",
                next="build the graph with an example batch that takes the same branch",
            )


def _padded(call: Callable[[], Any]) -> Any:
    """A call in which torch's own transformer layers keep padded tensors instead of nested ones."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        return call()
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _source(tap: Tap, value: Tensor) -> tuple[Tensor, Tensor | None]:
    """The value of a tap that is differentiated in, and what the network goes on with where that is another tensor.

    Where nothing before it asks for a gradient, the graph begins here.
    """
    begins = torch.is_grad_enabled() and value.is_floating_point() and not value.requires_grad and tap.whole
    if begins:
        value = value.detach().requires_grad_()
    if not tap.whole:
        return value, None
    return value, value.clone() if tap.clone else value if begins else None


def _instead(
    value: Tensor, args: tuple[Any, ...], kwargs: Mapping[str, Any], key: str
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a call with another first tensor."""
    for i, argument in enumerate(args):
        if isinstance(argument, Tensor):
            return (*args[:i], value, *args[i + 1 :]), dict(kwargs)
    for name, argument in kwargs.items():
        if isinstance(argument, Tensor):
            return args, {**kwargs, name: value}
    raise GraphError(f"the module of '{key}' takes no tensor")


def _item(value: Any, index: int) -> Any:
    if isinstance(value, Tensor):
        raise TypeError("an item of a tensor would be one sample of the batch")
    return value[index]


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version
