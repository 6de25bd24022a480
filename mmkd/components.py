"""Base classes of the kinds. Options are the parameters of `__init__`, ports those of `forward`.

A component works from plain Python too: `CosineLoss()(student, teacher)` needs neither host nor recipe.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from numpy.random import Generator
from torch import Tensor, nn

Sample = Mapping[str, Any]
"""A raw sample: a mapping with some of the keys `image text audio video points latent label key`, and any others."""


def _no_setup(self: Any, **shapes: torch.Size) -> None:
    """Called once with the shape of each port, before optimisers exist."""


def _no_update(self: Any, **values: Tensor) -> None:
    """Called once per applied optimiser step, without gradient, with the values of the ports it names."""


class Encoder(nn.Module):
    """Wraps a network: takes batch fields by name in `forward` and returns named values.

    `forward` returns a dict with at least the names in `wanted` that `locate` does not place; the host sets
    `wanted` before the first call, so that towers nobody reads need not be computed.
    """

    wanted: frozenset[str] | None = None
    """What the graph reads: names from `forward`, paths of taps (`/blocks.3`); set by the host, None is everything."""
    capabilities: ClassVar[frozenset[str]] = frozenset()
    """What the network can give: `text top_k logits hidden attention input_grad generate`."""

    @property
    def network(self) -> nn.Module:
        """The module that tap paths (`teacher/layer3.1`) start from."""
        return self

    def values(self) -> Sequence[str]:
        """Names this encoder publishes: `logits embedding tokens attention.<i> hidden.<i>`, prefixed by modality
        (`image.embedding`) where there are several."""
        raise TypeError(f"{type(self).__name__} must define values()")

    def locate(self, name: str) -> str | None:
        """Tap path inside `network` at which a published value appears (`blocks.3`, `blocks.0.input`), or None.

        Located values are read by a hook, so that the pass can stop at the deepest one.
        """
        return None

    def transform(self, sample: Sample) -> dict[str, Any]:
        """Raw sample to this network's own input fields; an empty dict means the shared batch fields will do."""
        return {}

    def transform_key(self) -> Hashable | None:
        """Equal keys promise equal transforms, so that two encoders share one; None shares nothing."""
        return None

    def inputs(self) -> Mapping[str, bool]:
        """Batch fields that `forward` takes, each with whether it is required."""
        from mmkd.signature import ports

        return {name: port.required for name, port in ports(type(self)).items()}

    def collate(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Stack what `transform` returned for each sample; override it to pad."""
        return {key: torch.stack([torch.as_tensor(row[key]) for row in rows]) for key in rows[0]} if rows else {}

    def fingerprint(self) -> str | None:
        """Checksum of the pretrained weights behind this encoder, where it has one (`sha256:...`)."""
        return None

    def wants(self, prefix: str) -> bool:
        """Whether the graph reads a value whose name starts with `prefix`."""
        return self.wanted is None or any(name.startswith(prefix) for name in self.wanted)


class Projector(nn.Module):
    """Maps values from one space to another. Widths come from `setup(input=shape, like=shape)`, never from the user."""

    setup: Callable[..., None] = _no_setup
    update: Callable[..., None] = _no_update


class Loss(nn.Module):
    """Values in, loss out: `[]`, `[B]` or `[B, T]`. Weights, masks and the mean over samples belong to the host.

    A port annotated `list[Tensor]` takes a list of values; one with default `None` is optional; `label` is bound
    to `batch.label` unless rebound. A loss that must know masks or weights itself declares ports `mask` or
    `sample_weight`. `forward` changes no state; `update(**values)` does.
    """

    coupled: ClassVar[bool] = False
    """Needs all samples of the global batch at once (contrastive, relational)."""
    min_batch: ClassVar[int] = 1
    """The smallest batch this loss is defined for."""
    setup: Callable[..., None] = _no_setup
    update: Callable[..., None] = _no_update

    def example(self) -> dict[str, Any]:
        """Valid inputs for the conformance kit, by port."""
        from mmkd.signature import ports

        generator = torch.Generator().manual_seed(0)
        made: dict[str, Any] = {}
        for name, port in ports(type(self)).items():
            if name == "label":
                made[name] = torch.randint(0, 8, (4,), generator=generator)
            elif port.required:
                made[name] = torch.randn(4, 8, generator=generator)
        return made


class Schedule(nn.Module):
    """Turns a number of a recipe into a function of the step: `forward(step, total) -> float`."""

    def forward(self, step: int, total: int) -> float:
        raise TypeError(f"{type(self).__name__} must define forward(step, total)")


class Curator:
    """Decides what is trained on. Today: changes one raw sample under a recorded draw, before every `transform`.

    All networks see the same changed sample at their own resolution, so a draw is shared by construction.
    """

    fields: ClassVar[frozenset[str]] = frozenset()
    """The fields of a sample that `apply` may change."""

    def draw(self, generator: Generator) -> dict[str, Any]:
        """Random numbers for one sample, in relative coordinates: a pure function of the generator's state."""
        return {}

    def apply(self, sample: Sample, draw: Mapping[str, Any]) -> dict[str, Any]:
        """The changed sample."""
        raise TypeError(f"{type(self).__name__} must define apply(sample, draw)")


class Metric(nn.Module):
    """Evaluation over a dataset: `forward(**ports)` takes in a batch, `compute()` gives the numbers."""

    def reset(self) -> None:
        """Forget all batches."""
        raise TypeError(f"{type(self).__name__} must define reset()")

    def compute(self) -> dict[str, float]:
        """Scores by name."""
        raise TypeError(f"{type(self).__name__} must define compute()")


class Dataset:
    """Yields raw samples by index; `key` is unique and stable where it is given."""

    def __len__(self) -> int:
        raise TypeError(f"{type(self).__name__} must define __len__()")

    def __getitem__(self, index: int) -> Sample:
        raise TypeError(f"{type(self).__name__} must define __getitem__(index)")


class Critic(nn.Module):
    """A network that a loss owns and trains in a phase of its own; call it like the network."""

    def __init__(self, network: nn.Module, *, ascend: bool, steps: int, lr: float) -> None:
        super().__init__()
        self.network, self.ascend, self.steps, self.lr = network, ascend, steps, lr

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.network(*args, **kwargs)


def critic(network: nn.Module, *, ascend: bool = True, steps: int = 1, lr: float = 1e-4) -> Critic:
    """Declare a critic inside a loss: `self.critic = mmkd.critic(net)`.

    Before each student update the host takes `steps` steps of Adam on the critic's parameters alone, up the
    loss where `ascend`, down it otherwise, with the student's and teacher's values held fixed.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, not {steps}")
    return Critic(network, ascend=ascend, steps=steps, lr=lr)


BASES: dict[str, type] = {
    "encoder": Encoder,
    "projector": Projector,
    "loss": Loss,
    "schedule": Schedule,
    "curator": Curator,
    "metric": Metric,
    "dataset": Dataset,
}
"""Base class of each kind."""


def kind_of(cls: type) -> str | None:
    """The kind whose base class `cls` derives from."""
    return next((kind for kind, base in BASES.items() if issubclass(cls, base)), None)


def trainable(modules: Iterable[nn.Module]) -> list[nn.Parameter]:
    """Parameters that require a gradient, each once, in order."""
    seen = {id(p): p for module in modules for p in module.parameters() if p.requires_grad}
    return list(seen.values())
