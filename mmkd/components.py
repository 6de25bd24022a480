"""Base classes of the kinds. Options are the parameters of `__init__`, ports those of `forward`.

A component works from plain Python too: `CosineLoss()(student, teacher)` needs neither host nor recipe.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor, nn

from mmkd.procedure import Procedure
from mmkd.rows import Rows

if TYPE_CHECKING:
    from mmkd.graph.training_graph import TrainingGraph

Sample = Mapping[str, Any]
"""A raw sample: a mapping with some of the keys `image text audio video points latent label key`, and any others."""


UNREAD: ContextVar[bool] = ContextVar("unread", default=False)
"""Whether taps look away."""


def _no_setup(self: Any, **shapes: torch.Size) -> None:
    """Called once with the shape of each port, before optimisers exist."""


def _no_update(self: Any, **values: Tensor) -> None:
    """Called once per applied optimiser step, without gradient, with the values of the ports it names; and with `step`
    (steps applied, this one included) and `total` (steps of the run) where it names those."""


def _no_apply(self: Any, sample: Sample, draw: Mapping[str, Any], *partners: Sequence[Sample]) -> dict[str, Any]:
    """The changed sample: `apply(sample, draw)`, or `apply(sample, draw, partners)` with a list of samples."""
    raise TypeError(f"{type(self).__name__} must define apply(sample, draw{', partners' * bool(self.partners)})")


def _no_number(self: Any, step: int, total: int, **ports: Any) -> float | Tensor:
    """The number at a step, of values that the recipe binds to its ports."""
    raise TypeError(f"{type(self).__name__} must define forward(step, total)")


class Encoder(nn.Module):
    """Wraps a network: takes batch fields by name in `forward` and returns named values.

    `forward` returns a dict with at least the names in `wanted` that `locate` does not place.
    """

    wanted: frozenset[str] | None = None
    """What the graph reads: names from `forward`, paths of taps (`/blocks.3`); None is everything. The host sets it
    around `forward` and around `transform`, so that neither a tower that nobody reads is run nor its fields made."""
    capabilities: ClassVar[frozenset[str]] = frozenset()
    """What the network can give: `text top_k logits hidden attention input_grad generate`."""
    license: str | None = None
    """Licence of the weights behind this encoder, where they state one (`apache-2.0`); for the model card."""

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
        """Equal keys promise equal transforms, so that two encoders share one; None shares nothing. What `transform`
        makes of `wanted` alone belongs to the key."""
        return None

    def inputs(self) -> Mapping[str, bool]:
        """Batch fields that `forward` takes, each with whether it is required."""
        from mmkd.signature import ports

        return {name: port.required for name, port in ports(type(self)).items()}

    def collate(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Stack what `transform` returned for each sample; override it to pad."""
        return {key: torch.stack([torch.as_tensor(row[key]) for row in rows]) for key in rows[0]} if rows else {}

    def lengths(self, **inputs: Any) -> Mapping[str, Tensor]:
        """By published name: how many entries of dimension 1 are no padding, where samples differ in it.

        Such values (tokens, hidden states) are cached without their padding; those that are not named, whole.

        Shape:
            inputs: as `forward` takes them; each length: `[B]` integers.
        """
        return {}

    def fingerprint(self) -> str | None:
        """Checksum of the pretrained weights behind this encoder, where it has one (`sha256:...`)."""
        return None

    def vocabulary(self) -> Mapping[str, int] | None:
        """Token to id, where the network reads text by a vocabulary; equal ones can be compared token by token."""
        return None

    def preprocessing(self) -> Mapping[str, Any] | None:
        """What `transform` does to an image, where it is known: `size` (height, width), `mean` and `std` of the
        channels in [0, 1], `interpolation`, `channels` (`RGB`); keys that are not known stay out.

        With `resize` too, an export says how to do it without mmkd: height and width, or the shorter side, that the
        whole image is scaled to before the centre is cut to `size` (`reducing_gap` as PIL's)."""
        return None

    def formats(self) -> Sequence[str]:
        """Forms of model libraries that `export` can write this network in."""
        return ()

    def export(self, folder: Path, format: str) -> str:
        """Write network and preprocessing into `folder` in one of the `formats`, as the library itself would.

        Returns Python that is run beside the files with that library alone: it reads raw data from there, or holds a
        list of it, and leaves the values in a dict `values`, by their names here.
        """
        raise TypeError(f"{type(self).__name__} must define export(folder, format) for its formats()")

    def export_tokenizer(self, folder: Path) -> str | None:
        """Write the tokenizer into `folder`, where the network reads text; None where it does not.

        Returns Python that turns a list `texts` into a dict `tokens`: this network's text fields, as NumPy arrays.
        """
        return None

    def wants(self, prefix: str) -> bool:
        """Whether the graph reads a value whose name starts with `prefix`."""
        return self.wanted is None or any(name.startswith(prefix) for name in self.wanted)

    @contextlib.contextmanager
    def unread(self) -> Iterator[None]:
        """Inside, passes of the network are the encoder's own affair, for one that runs it more than once in `forward`
        (it writes, it asks twice): no tap reads them."""
        before = UNREAD.set(True)
        try:
            yield
        finally:
            UNREAD.reset(before)

    @contextlib.contextmanager
    def reading(self, wanted: frozenset[str] | None) -> Iterator[None]:
        """Inside, these values are `wanted`."""
        before = self.wanted
        object.__setattr__(self, "wanted", wanted)  # past nn.Module's, which is slow
        try:
            yield
        finally:
            object.__setattr__(self, "wanted", before)


class Part(nn.Module):
    """What stands between the networks and the objective, its ports beside its options: projector, mixer, schedule,
    loss."""

    needs_graph: ClassVar[frozenset[str]] = frozenset()
    """Ports between which `forward` takes derivatives itself, as `torch.autograd.grad(logits, features,
    create_graph=True)`. What they read is handed over as the network made it, in its precision and with its graph, also
    by a network that is frozen (whose outputs are then not remembered) and where gradients are off. Bind the one to
    what a network publishes and the other to a tap of the same pass (`teacher.logits`, `teacher/layer4`)."""
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


class Projector(Part):
    """Maps values from one space to another. Widths come from `setup(input=shape, like=shape)`, never from the user."""


class Mixer(Part):
    """Builds a target before the loss, of several teachers, the label, the student itself; its name is its address.

    It reads half precision as float32, as a loss does. One that builds a distribution returns logits: log-probabilities
    are logits, so that every loss over logits takes them.
    """


class Loss(Part):
    """Values in, loss out: `[]`, `[B]` or `[B, T]`. Weights, masks and the mean over samples belong to the host.

    A port annotated `list[Tensor]` takes a list of values; one with default `None` is optional; `label` is bound
    to `batch.label` unless rebound. A loss that must know masks or weights itself declares ports `mask` or
    `sample_weight`. `forward` changes no state; `update(**values)` does.
    """

    coupled: ClassVar[bool] = False
    """Needs all samples of the global batch at once (contrastive, relational)."""
    min_batch: ClassVar[int] = 1
    """The smallest batch this loss is defined for."""
    skips_masked: ClassVar[bool] = False
    """Its port `mask` only saves it work: it returns one number per element of the mask, and the mean over the valid
    ones is the host's as for a loss without that port."""


class Schedule(Part):
    """Turns a number of a recipe into a function of the step: `forward(step, total) -> float`.

    The weight of a loss may also follow values: `forward(step, total, **ports) -> []` or, one per sample, `[B]`. The
    ports are bound in the recipe as a loss's are, and read without gradient. Parameters of such a schedule are moved by
    a phase of their own, so that losses of that `phase` fall after the students' next step; they are train-only.
    """

    lr: float = 1e-3
    """Learning rate (Adam) of its parameters; 0 keeps them as they are."""
    interval: int = 1
    """Steps from one update of its parameters to the next."""
    forward: Callable[..., float | Tensor] = _no_number


class Curator:
    """Decides what is trained on: `apply` changes one raw sample, `curate` a whole batch; one defines either or both.

    A raw sample is changed under a recorded draw, before every `transform`: all networks see the same changed sample at
    their own resolution, so a draw is shared by construction. A batch is changed on the device, in training alone, with
    the networks at hand: rollouts, labels of a teacher.
    """

    fields: ClassVar[frozenset[str]] = frozenset()
    """The fields of a sample that `apply` may change."""
    partners: ClassVar[int] = 0
    """Other samples of the dataset that `apply` mixes in (mixup, CutMix). Each has been through the curators before
    this one, under its own draw; the host adds its key to the draw as `partner` (a list of keys where there are more).
    """
    apply: Callable[..., dict[str, Any]] = _no_apply

    def draw(self, generator: Generator) -> dict[str, Any]:
        """Random numbers for one sample, in relative coordinates: a pure function of the generator's state."""
        return {}

    def curate(
        self, batch: Mapping[str, Any], graph: TrainingGraph, generator_of: Callable[[str], Generator]
    ) -> Mapping[str, Any]:
        """The batch of a step as it is trained on, a new mapping: fields may change and be added, `key` stays.

        Called without gradient and with all networks in evaluation mode; changes no state.

        Args:
            batch: what `graph.collate` gives: shared fields on top, those of each network under its name.
            graph: its networks are `graph.roles[name].encoder`; an option that follows a schedule has its value.
            generator_of: random numbers by the key of a sample, a pure function of (seed, step, key). Drawing from
                nothing else, a sample becomes the same in every batch, process and micro-batch.
        """
        return batch

    @classmethod
    def of_samples(cls) -> bool:
        """Whether it changes raw samples."""
        return cls.apply is not Curator.apply or not cls.of_batches()

    @classmethod
    def of_batches(cls) -> bool:
        """Whether it changes batches."""
        return cls.curate is not Curator.curate


class Metric(nn.Module):
    """Evaluation over a dataset: `forward(**ports)` takes in a batch, `compute()` gives the numbers.

    Where all that it remembers lies in attributes that are `mmkd.Rows`, that is all there is to write. One that
    remembers otherwise defines `reset`, and `state` and `merge` too where several processes are to share a dataset.
    """

    def compute(self) -> dict[str, float]:
        """Scores by name; the first one decides which checkpoint is best, larger being better."""
        raise TypeError(f"{type(self).__name__} must define compute()")

    def reset(self) -> None:
        """Forget all batches."""
        for rows in self._rows("reset()").values():
            rows.clear()

    def state(self) -> dict[str, Any]:
        """What has been seen, as tensors and lists by name: what `merge` of a metric in another process takes in."""
        return {name: list(rows.parts) for name, rows in self._rows("state() and merge(states)").items()}

    def merge(self, states: Sequence[Mapping[str, Any]]) -> None:
        """Take in what others have seen, in order, after what this one has seen itself."""
        own = self._rows("state() and merge(states)")
        for state in states:
            for name, rows in own.items():
                rows.parts.extend(state[name])

    @property
    def mergeable(self) -> bool:
        """Whether several processes may each see a part of the dataset."""
        cls = type(self)
        if cls.merge is not Metric.merge:
            return cls.state is not Metric.state
        return cls.reset is Metric.reset and bool(self._all_rows())

    def _rows(self, method: str) -> dict[str, Rows]:
        found = self._all_rows()
        if not found or (type(self).reset is not Metric.reset and method != "reset()"):
            raise TypeError(f"{type(self).__name__} must define {method}, or keep what it has seen in mmkd.Rows alone")
        return found

    def _all_rows(self) -> dict[str, Rows]:
        return {name: value for name, value in vars(self).items() if isinstance(value, Rows)}


class Dataset:
    """Yields raw samples by index; `key` is unique and stable where it is given."""

    license: str | None = None
    """Licence of the data, where it states one; for the model card."""

    def __len__(self) -> int:
        raise TypeError(f"{type(self).__name__} must define __len__()")

    def __getitem__(self, index: int) -> Sample:
        raise TypeError(f"{type(self).__name__} must define __getitem__(index)")

    def order(self, generator: Generator) -> np.ndarray:
        """The indices of one epoch as int64, each exactly once: a pure function of the generator's state.

        A dataset that reads fast only where indices are near (shards) overrides it, and shuffles within a window.
        """
        return generator.permutation(len(self))

    def manifest(self) -> Sequence[tuple[str, Any]] | None:
        """The key of every sample in order, with what tells its content from any other (its size in bytes, a checksum;
        plain JSON, no times), without reading the samples. None where only reading them tells: then a cache on disk
        reads all of them once per run to be sure that it holds theirs."""
        return None


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
    "mixer": Mixer,
    "loss": Loss,
    "schedule": Schedule,
    "curator": Curator,
    "procedure": Procedure,
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
