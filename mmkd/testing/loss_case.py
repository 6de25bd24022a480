"""A loss under examination: its instances, its inputs, and what its author says of it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from mmkd import Loss
from mmkd.testing.module import ModuleCase, gradients, kept
from mmkd.testing.sameness import mapped, tensors
from mmkd.testing.specimen import Specimen, seeded
from mmkd.testing.surroundings import preserved


class LossCase(ModuleCase):
    """A loss, its inputs and what its author says of it."""

    def __init__(
        self,
        specimen: Specimen,
        inputs: Mapping[str, Any] | None,
        *,
        reference: Callable[..., Tensor] | None,
        divergence: bool,
        constant: tuple[str, ...],
        shared: tuple[str, ...],
        inert: tuple[str, ...],
    ) -> None:
        super().__init__(specimen, inputs or {}, inert)
        if inputs is None and not specimen.lacking:
            with preserved():
                self.inputs = dict(specimen.fresh().example())
        self.reference, self.divergence, self.constant, self.shared = reference, divergence, constant, shared

    def prepare(self, module: Any) -> None:
        shapes = {
            name: [t.shape for t in value] if isinstance(value, list) else value.shape
            for name, value in self.inputs.items()
        }
        module.setup(**shapes)

    def warm(self, changed: Mapping[str, Any] | None = None) -> Any:
        """An instance that has taken in one batch, where it takes any."""
        module = self.fresh(changed=changed)
        if self.updates:
            self.update(module, 0)
        return module

    @property
    def updates(self) -> bool:
        """Whether the loss has an update of its own."""
        return self.specimen.cls.update is not Loss.update  # type: ignore[attr-defined]

    def update(self, module: Any, turn: int) -> None:
        """One applied step, on another batch each turn."""
        wanted = inspect.signature(module.update).parameters
        everything = any(p.kind is p.VAR_KEYWORD for p in wanted.values())
        values = {name: mapped(lambda t: _later(t, turn), value) for name, value in self.inputs.items()}
        clock = {name: now for name, now in (("step", turn + 1), ("total", 10)) if name in wanted}
        with torch.no_grad(), seeded(turn):
            module.update(**{name: v for name, v in values.items() if everything or name in wanted}, **clock)

    def behaviour(self, module: Any) -> Any:
        now = super().behaviour(module)
        if not self.updates:
            return now
        for turn in range(3):
            self.update(module, turn)
        return now, kept(module.state_dict()), super().behaviour(module)

    @property
    def batch(self) -> int:
        """Samples in the inputs."""
        return len(next(t for name in self.inputs if name not in self.shared for t in tensors(self.inputs[name])))

    def taken(self, rows: Tensor, inputs: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The inputs of some samples; what is no sample's own stays whole."""
        size = self.batch
        return {
            name: value if name in self.shared else mapped(lambda t: t[rows] if len(t) == size else t, value)
            for name, value in (self.inputs if inputs is None else inputs).items()
        }

    def of(self, prefix: str) -> list[str]:
        """The floating ports whose name begins so."""
        return [
            name
            for name, value in self.inputs.items()
            if name.startswith(prefix) and all(t.is_floating_point() for t in tensors(value))
        ]

    def leaning(self, prefix: str, inputs: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The inputs, those ports asking for a gradient."""
        chosen = self.of(prefix)
        return {
            name: mapped(lambda t: t if t.requires_grad else t.clone().requires_grad_(), value)
            if name in chosen
            else value
            for name, value in (self.inputs if inputs is None else inputs).items()
        }

    def slopes(self, module: Any, inputs: Mapping[str, Any], prefix: str) -> tuple[Tensor, list[Tensor | None]]:
        """The loss, and its gradients into the ports of this prefix."""
        given = self.leaning(prefix, inputs)
        loss = self.run(module, given)
        return loss, gradients(loss, [t for name in self.of(prefix) for t in tensors(given[name])])


def _later(tensor: Tensor, turn: int) -> Tensor:
    rolled = tensor.detach().roll(turn, 0)
    return rolled * (1 + turn) if tensor.is_floating_point() else rolled
