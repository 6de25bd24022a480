"""The form in which a network runs: its arithmetic, its layout in memory, and whether it is compiled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def computes(precision: str) -> bool:
    """Whether this CPU has fast arithmetic of a half precision, as far as torch can tell."""
    supported = getattr(torch.ops.mkldnn, f"_is_mkldnn_{precision}_supported", None)
    return supported is None or bool(supported())


@dataclass
class Form:
    """What a recipe asks of one network; nothing of it holds before `take` has been called."""

    precision: Literal["fp32", "bf16", "fp16"] | None = None
    """Arithmetic of weights and inputs, whatever `train.precision` says."""
    layout: Literal["channels_last", "contiguous"] | None = None
    """Order in memory of pictures `[B, C, H, W]`, and of the weights of a network that is not trained."""
    compile: bool = False
    """Whether the losses' passes are compiled."""
    taken: bool = False
    device: str = "cpu"
    origin: dict[str, Tensor] = field(default_factory=dict)
    """On the CPU, by name in the state: weights as they were before they were cast, where somebody asks for them."""

    def __str__(self) -> str:
        return ", ".join(filter(None, (self.precision, self.layout, "compiled" if self.compile else None)))

    @property
    def dtype(self) -> torch.dtype | None:
        return DTYPES[self.precision] if self.precision else None

    @property
    def half(self) -> bool:
        return self.precision in ("bf16", "fp16")

    @property
    def imitated(self) -> bool:
        """Whether the processor has no such arithmetic, so that it is several times slower than float32."""
        return self.half and self.device == "cpu" and not computes(self.precision or "")

    @property
    def memory_format(self) -> torch.memory_format:
        return torch.channels_last if self.layout == "channels_last" else torch.contiguous_format

    @torch.no_grad()
    def take(self, network: nn.Module, *, trained: bool, keep: bool) -> None:
        """Give a network this form; the weights of one that is trained stay where and as they are.

        Args:
            network: it is changed itself, and not copied.
            trained: whether an optimiser moves its weights.
            keep: whether `origin` is to hold the weights that are cast.
        """
        weight = next(network.parameters(), None)
        self.device = "cpu" if weight is None else weight.device.type
        if not trained:
            before = network.state_dict() if keep else {}
            for name, tensor in before.items():
                if self.dtype is not None and tensor.is_floating_point() and tensor.dtype != self.dtype:
                    self.origin[name] = tensor.detach().to("cpu", copy=True).contiguous()
            if self.dtype is not None:
                network.to(dtype=self.dtype)
            if self.layout is not None:
                network.to(memory_format=self.memory_format)
        self.taken = True

    def inputs(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """What the network is called with, cast and laid out."""
        return {name: self._input(value) if isinstance(value, Tensor) else value for name, value in given.items()}

    def _input(self, value: Tensor) -> Tensor:
        if not value.is_floating_point():
            return value
        if self.dtype is not None:
            value = value.to(self.dtype)
        if self.layout is not None and value.dim() == 4:
            value = value.contiguous(memory_format=self.memory_format)
        return value
