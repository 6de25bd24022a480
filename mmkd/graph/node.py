"""A node of the graph and one forward pass of it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _NormBase

from mmkd.components import Encoder
from mmkd.errors import GraphError, nearest
from mmkd.graph.average import Average
from mmkd.graph.form import Form
from mmkd.graph.table import Table
from mmkd.graph.tap import Recorder, Tap, Weight, entrance, locate
from mmkd.graph.value import Address, with_graph


@dataclass
class Node:
    """A network with a role: a student is trained, a teacher is frozen or the running average of a student."""

    name: str
    encoder: Encoder
    trained: bool
    inputs: Mapping[str, str] = field(default_factory=dict)
    """Field of the encoder to the batch field it is rebound to (`image: thermal`)."""
    inner: Mapping[str, Address] = field(default_factory=dict)
    """Path of a module (`layer2`, `block#2` at its second call) to the value that it is given while losses are
    computed, in place of what the network would give it."""
    average: Average | None = None
    """How it follows a student."""
    tables: dict[str, Table] = field(default_factory=dict)
    """By view: what its pass over it need not be run for."""
    use: str = ""
    """Id of the encoder; empty where the network was handed in."""
    changed: bool = False
    """Whether its weights are others than its options give: trained in an earlier stage."""
    cache: str = ""
    """Where the engine keeps its outputs before it trains, in words; empty where it does not."""
    form: Form | None = None
    """What its passes compute in, where the recipe says so."""

    @property
    def constant(self) -> bool:
        """Neither trained nor averaged: its weights may be left out of checkpoints, and its outputs be remembered where
        it takes no inner inputs."""
        return not self.trained and self.average is None

    def state(self) -> dict[str, Tensor]:
        """Its weights as they were before they were cast, where that was kept; in the order of its state."""
        state = self.encoder.state_dict()
        return state if self.form is None else {name: self.form.origin.get(name, t) for name, t in state.items()}

    def freeze(self) -> None:
        self.encoder.requires_grad_(False)
        self.encoder.eval()

    def published(self, name: str, where: str) -> str:
        """The published name meant by `name` (negative indices count from the end), or an error with the nearest."""
        names = list(self.encoder.values())
        if match := re.fullmatch(r"(.*)\.-(\d+)", name):
            stem, back = match[1], int(match[2])
            indexed = [n for n in names if re.fullmatch(re.escape(stem) + r"\.\d+", n)]
            if 0 < back <= len(indexed):
                return f"{stem}.{len(indexed) - back}"
        if name not in names:
            what = f"'{self.name}' publishes no '{name}'" if name else f"'{self.name}' is a node; say which value of it"
            guess = nearest(name, names) or (names[0] if len(names) == 1 else None)
            raise GraphError(
                what,
                where=where,
                name=name,
                exists=[f"{self.name}.{n}" for n in names],
                next=f"write {self.name}.{guess}" if guess else f"or tap a module: {self.name}/<path>",
            )
        return name


class NodeRun:
    """One forward pass of a node over one view of the batch, serving every value that somebody reads from it.

    Args:
        node: the network.
        view: stream or view, "" for the batch itself.
        addresses: what is read.
        where: their places in the recipe.
        fed: whether it takes its inner inputs.
        graph: keys of the addresses that are read with a graph, which is kept although the network may be frozen.

    Raises:
        GraphError: a value or a module does not exist, or outputs are to be remembered that cannot be.
    """

    def __init__(
        self,
        node: Node,
        view: str,
        addresses: Sequence[Address],
        where: Mapping[str, str],
        *,
        fed: bool = False,
        graph: frozenset[str] = frozenset(),
    ) -> None:
        self.node, self.view, self.graph = node, view, graph
        self.id = f"{node.name}@{view}" if view else node.name
        self.published: dict[str, str] = {}  # address -> name that forward returns
        self.constants: dict[str, Weight] = {}  # address -> parameter
        self.plain = {a.key: replace(a, plain=False) for a in addresses if a.plain}
        """By key, what is read in a pass without inner inputs."""
        taps: list[Tap] = []
        for address in addresses:
            place = where.get(address.key, "")
            path = address.path
            if not path:
                name = node.published(address.name, place)
                path = node.encoder.locate(name) or ""
                if not path:
                    self.published[address.key] = name
                    continue
            found = locate(node.encoder.network, path, address.call, address.key, place)
            if isinstance(found, Weight):
                self.constants[address.key] = found
            else:
                found.graph = address.key in graph
                taps.append(found)
        self.inner: dict[str, Address] = {}
        """By key of a feed: the value that it is given."""
        feeds = []
        for written, address in node.inner.items() if fed and (taps or self.published) else ():
            path, _, call = written.partition("#")
            feeds.append(entrance(node.encoder.network, path, int(call or 0), f"{node.name}.inputs./{written}"))
            self.inner[feeds[-1].key] = address
        self.recorder = Recorder(taps, feeds)
        self.moving = node.trained or bool(feeds)
        """Whether a gradient may have to flow back through it."""
        begun = any(tap.graph for tap in taps) and sum(key in self.published for key in graph) <= 1
        self.leaves = bool(graph) and not node.trained and not begun
        """Whether the graph begins at the network's inputs: no tap is there to begin it."""
        if node.cache and (feeds or graph):
            does = "takes inner inputs, which change" if feeds else "is differentiated in by a loss"
            what = f"the outputs of a network that {does} cannot be remembered"
            raise GraphError(what, where=f"{node.name}.cache", next="remove `cache`")
        self.wanted = frozenset([*self.published.values(), *(f"/{tap.path}" for tap in taps)])
        self.arguments = [(p, node.inputs.get(p, p), required) for p, required in node.encoder.inputs().items()]
        self.batch_norm = any(isinstance(m, _NormBase) and m.track_running_stats for m in node.encoder.modules())

    @property
    def stops_early(self) -> bool:
        """Whether the pass ends at the deepest tap; BatchNorm in training mode needs the full pass."""
        return not self.published and not (self.batch_norm and self.node.encoder.training)

    @property
    def makes(self) -> frozenset[str]:
        """Keys of the values that the network computes, its parameters aside."""
        return frozenset([*self.published, *(tap.key for tap in self.recorder.taps)])

    def sources(self, batch: Mapping[str, Any]) -> dict[str, tuple[str, tuple[int, ...] | None]]:
        """By input: the field of the batch that feeds it (`teacher.image` where it is its own), and its shape."""
        own = self._own(batch) or {}
        fields = {parameter: field_name for parameter, field_name, _ in self.arguments}
        return {
            parameter: (
                f"{self.id}.{parameter}" if parameter in own else fields[parameter],
                tuple(value.shape) if isinstance(value, Tensor) else None,
            )
            for parameter, value in self.given(batch).items()
        }

    def _own(self, batch: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """The fields of this node and view alone; a shared field may have the node's name."""
        own = batch.get(self.id)
        return own if isinstance(own, Mapping) else None

    def given(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """What `forward` is called with for this batch, by input: the network's own fields, then the shared ones."""
        own = self._own(batch)
        shared = batch.get(f"@{self.view}", batch) if self.view else batch
        if own is None and shared is batch and self.view:
            raise GraphError(
                f"the batch has no view '{self.id}'", exists=[k for k in batch if "@" in k],
                next=f"collate its samples too: graph.collate(samples, streams={{'{self.view}': ...}})",
            )  # fmt: skip
        given: dict[str, Any] = {}
        for parameter, field_name, required in self.arguments:
            if own is not None and parameter in own:
                given[parameter] = own[parameter]
            elif field_name in shared:
                given[parameter] = shared[field_name]
            elif required:
                raise GraphError(
                    f"the batch has no field '{field_name}', which '{self.id}' takes as '{parameter}'",
                    name=field_name,
                    exists=[*shared, *(f"{self.id}.{k}" for k in own or ())],
                    next=f"rebind it: inputs: {{{parameter}: batch.<field>}}",
                )
        return given

    def _call(self, batch: Mapping[str, Any]) -> Mapping[str, Tensor]:
        encoder = self.node.encoder
        inputs = self.given(batch)
        if self.leaves:
            inputs = {name: _leaf(value) for name, value in inputs.items()}
        object.__setattr__(encoder, "wanted", self.wanted)  # past nn.Module's, which is slow
        try:
            return encoder(**inputs)  # type: ignore[no-any-return]
        finally:
            object.__setattr__(encoder, "wanted", None)

    def __call__(self, batch: Mapping[str, Any], values: dict[str, Tensor]) -> None:
        """Add this node's values to `values`."""
        table = self.node.tables.get(self.view)
        if table is not None and (own := self._own(batch)) is not None and "row" in own:
            values.update({self.id + name: value for name, value in table.read(own["row"]).items()})
            values.update({key: weight.read() for key, weight in self.constants.items()})
            return
        if self.graph:
            self._run_with_graph(batch, values)
        elif self.moving:
            self.once(batch, values)
        else:
            with torch.no_grad():
                self.once(batch, values)

    def _run_with_graph(self, batch: Mapping[str, Any], values: dict[str, Tensor]) -> None:
        """Values with a graph for those who need it; for others without, unless they teach something by it."""
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):  # other kernels have no second derivative
            self.once(batch, values)
        values.update({with_graph(key): values[key] for key in self.graph})
        if not (self.moving and torch.is_grad_enabled()):
            for key in (*self.published, *(tap.key for tap in self.recorder.taps)):
                values[key] = values[key].detach()

    def once(self, batch: Mapping[str, Any], values: dict[str, Tensor]) -> None:
        """One call of the network: gradient and arithmetic are as around it."""
        output: Mapping[str, Tensor] | None
        if self.inner:
            fed = {key: values[a.key].detach() if a.detached else values[a.key] for key, a in self.inner.items()}
            output, taps = self.recorder.record(lambda: self._call(batch), stop=self.stops_early, fed=fed)
            values.update(taps)
        elif self.recorder.taps:
            output, taps = self.recorder.record(lambda: self._call(batch), stop=self.stops_early)
            values.update(taps)
        elif self.published:
            output = self._call(batch)
        for key, name in self.published.items():
            try:
                values[key] = output[name]  # type: ignore[index]
            except KeyError:
                raise GraphError(
                    f"{type(self.node.encoder).__name__} says it publishes '{name}' but did not return it",
                    exists=list(output or ()),
                ) from None
        if self.constants:
            values.update({key: weight.read() for key, weight in self.constants.items()})


def _leaf(value: Any) -> Any:
    """A tensor that asks for a gradient, where it can."""
    if isinstance(value, Tensor) and value.is_floating_point():
        return value.detach().requires_grad_()
    return value
