"""Passes of a network that has a form of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mmkd.errors import GraphError
from mmkd.graph.binding import HALF
from mmkd.graph.compiled import Compiled
from mmkd.graph.form import Form
from mmkd.graph.node import Node, NodeRun
from mmkd.graph.value import Address


class FormedRun(NodeRun):
    """One forward pass of a node that has a form; before that is taken, as any other.

    Values come out in float32, whatever the network computes them in.

    Raises:
        GraphError: as `NodeRun`, or the form is one in which no gradient can flow through the network.
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
        super().__init__(node, view, addresses, where, fed=fed, graph=graph)
        assert node.form is not None
        self.form: Form = node.form
        self.compiled: Compiled | None = None
        for key, asked in {"precision": self.form.half, "compile": self.form.compile}.items():
            if asked and (self.inner or graph):
                does = "takes inner inputs" if self.inner else "is differentiated in by a loss"
                what = f"a network that {does} runs in float32 and is not compiled"
                raise GraphError(what, where=f"{node.name}.{key}", next=f"remove `{key}`")

    def given(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        given = super().given(batch)
        return self.form.inputs(given) if self.form.taken else given

    def __call__(self, batch: Mapping[str, Any], values: dict[str, Tensor]) -> None:
        form = self.form
        if not form.taken:
            super().__call__(batch, values)
            return
        exact = form.dtype is not None and torch.is_autocast_enabled(form.device)
        with torch.autocast(form.device, enabled=False) if exact else contextlib.nullcontext():
            super().__call__(batch, values)
        if form.half:
            for key in self.makes:
                if values[key].dtype in HALF:
                    values[key] = values[key].float()

    def once(self, batch: Mapping[str, Any], values: dict[str, Tensor]) -> None:
        if self.compiled is None:
            super().once(batch, values)
        else:
            values.update(self.compiled(self.given(batch)))
            values.update({key: weight.read() for key, weight in self.constants.items()})

    def compile(self, batch: Mapping[str, Any]) -> None:
        """Compile it, down to the deepest value that is read.

        Raises:
            GraphError: torch cannot make one graph of it; says what stands in the way.
        """
        compiled = Compiled(self)
        try:
            compiled(self.given(batch), sizes_vary=True)
        except Exception as error:
            raise GraphError(
                f"cannot be compiled as one graph: {_reason(error)}", where=f"{self.node.name}.compile",
                next="remove `compile`; the pass stops at its deepest tap without it too",
            ) from error  # fmt: skip
        self.compiled = compiled


def _reason(error: Exception) -> str:
    """What torch says in its first lines."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return "; ".join(lines[:2]) or type(error).__name__
