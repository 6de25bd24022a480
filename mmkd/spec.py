"""The parts of a recipe: components with their options and ports, data, training and evaluation."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import pydantic
from pydantic import AfterValidator, ConfigDict, Discriminator, Field, Tag
from pydantic_core import PydanticCustomError

from mmkd.registry import RESERVED


def check_id(value: str) -> str:
    """The id of a registered component, or a ValueError that says what an id looks like."""
    if ":" in value:
        raise ValueError("recipes hold registered ids only ('plugin.name'), never a module or a class to import")
    if not re.fullmatch(r"[a-z][a-z0-9_]*\.[a-z][a-z0-9_]*", value):
        raise ValueError("an id is 'plugin.name', in lower-case letters, digits and underscores")
    return value


def check_name(value: str) -> str:
    """A name of the user's choice, or a ValueError that says what a name looks like."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", value):
        raise ValueError("a name is lower-case letters, digits and underscores, and starts with a letter")
    return value


def check_share(value: str) -> str:
    """The weight that a schedule gives, or a ValueError that says how it is written."""
    if not re.fullmatch(r"(1\s*-\s*)?[a-z][a-z0-9_]*", value):
        raise ValueError("a weight is a number, a schedule's map, or the name of a schedule ('alpha', '1 - alpha')")
    return value


def weighed_by(share: str) -> str:
    """The schedule that a weight names: `alpha` of `1 - alpha`."""
    return share.rpartition("-")[2].strip()


Id = Annotated[str, AfterValidator(check_id)]
Name = Annotated[str, AfterValidator(check_name)]
Count = Annotated[int, Field(ge=1)]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class Spec(pydantic.BaseModel):
    """A part of a recipe: frozen, strictly typed, and closed to keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)

    @pydantic.model_validator(mode="before")
    @classmethod
    def _known_keys(cls, data: Any) -> Any:
        if isinstance(data, Mapping):
            closed = cls.model_config.get("extra") == "forbid"
            for key in data:
                if key not in cls.model_fields and (closed or key in RESERVED):
                    exists = {"name": str(key), "exists": list(cls.model_fields)}
                    raise PydanticCustomError("unknown_key", "unknown key", exists)
        return data

    @pydantic.model_serializer(mode="wrap")
    def _without_absent(self, handler: pydantic.SerializerFunctionWrapHandler) -> dict[str, Any]:
        absent = self._absent()
        return {key: value for key, value in handler(self).items() if key not in absent}

    def _absent(self) -> set[str]:
        """Keys that need not be written, since nothing is there."""
        fields = type(self).model_fields.items()
        defaults = {name: field.get_default(call_default_factory=True, validated_data={}) for name, field in fields}
        empty = {name: default for name, default in defaults.items() if default in (None, {}, [])}
        return {name for name, default in empty.items() if getattr(self, name) == default}


class Component(Spec):
    """A registered component. Every key that is not the host's is one of its options or ports."""

    model_config = ConfigDict(extra="allow")

    use: Id
    """Id of the component, `plugin.name`; `mmkd list` shows them."""

    @property
    def arguments(self) -> dict[str, Any]:
        """Options and ports as they were given; nested components are still plain maps."""
        return dict(self.__pydantic_extra__ or {})


def _number_or_schedule(value: Any) -> str:
    return "schedule" if isinstance(value, Mapping | Component) else "number"


Number = Annotated[
    Annotated[Finite, Tag("number")] | Annotated[Component, Tag("schedule")],
    Discriminator(_number_or_schedule),
]
"""A finite number, or a schedule that gives it: `{use: core.cosine, start: 1.0, end: 0.1}`."""

Share = Annotated[str, AfterValidator(check_share)]

Weight = Annotated[
    Annotated[Finite, Tag("number")] | Annotated[Component, Tag("schedule")] | Annotated[Share, Tag("name")],
    Discriminator(lambda value: "name" if isinstance(value, str) else _number_or_schedule(value)),
]
"""A number, a schedule, or one of the `schedules` by name: `alpha`, `1 - alpha`."""

Components = Annotated[
    Annotated[Component, Tag("one")] | Annotated[dict[Name, Component], Tag("several")],
    Discriminator(lambda value: "several" if isinstance(value, Mapping) and "use" not in value else "one"),
]
"""One component, or several by name."""


class Average(Spec):
    """How a network follows a student: a copy of it, whose weights are averages of the student's."""

    of: Name
    """The student that is followed."""
    kind: Literal["ema", "uniform"] = "ema"
    """`ema`, momentum * average + (1 - momentum) * student; or `uniform`, the mean of the student's weights."""
    momentum: Number = 0.999
    """Share of itself that the average keeps at an update, from 0 to 1: a number or a schedule."""
    start: Annotated[int, Field(ge=0)] = 0
    """Optimiser steps during which the average is a plain copy of the student."""
    every: Count = 1
    """Optimiser steps from one update to the next."""
    batch_norm: Literal["average", "refresh"] = "average"
    """BatchNorm's statistics at evaluation and export: `average`, those of the student averaged like its weights; or
    `refresh`, those of the averaged weights themselves, taken over `refresh_batches`."""
    refresh_batches: Count = 100
    """Training batches that a refresh reads, or the whole training set where that has fewer."""

    @pydantic.model_validator(mode="after")
    def _within_bounds(self) -> Average:
        if isinstance(self.momentum, float) and not 0 <= self.momentum <= 1:
            raise ValueError(f"momentum must be from 0 to 1, not {self.momentum}")
        if self.kind == "uniform" and "momentum" in self.model_fields_set:
            raise ValueError("a uniform average has no momentum")
        if self.batch_norm == "average" and "refresh_batches" in self.model_fields_set:
            raise ValueError("refresh_batches belongs to batch_norm: refresh")
        return self

    def _absent(self) -> set[str]:
        absent = super()._absent() | ({"momentum"} if self.kind == "uniform" else set())
        return absent | ({"batch_norm", "refresh_batches"} if self.batch_norm == "average" else set())


class Cache(Spec):
    """Where and how the outputs of a constant network are kept, so that it runs once over the training set."""

    store: Literal["memory", "disk"] = "disk"
    """`memory` keeps them for this run; `disk` for all runs, found by a key of everything that they depend on."""
    fixed: bool = False
    """Show the network every sample as it is, whatever the curators make of it for the others."""
    dtype: Literal["fp32", "fp16", "bf16", "int8"] | None = None
    """What numbers are kept as; as the network gives them unless given. `int8` has a scale for each last dimension."""
    top_k: Count | None = None
    """Classes kept of each value called `logits`, with the mass of the others, in place of all."""
    folder: str | None = None
    """A folder for this cache alone; without it caches lie in `$MMKD_CACHE`, or the user's own cache folder."""

    @pydantic.model_validator(mode="after")
    def _folder_on_disk(self) -> Cache:
        if self.folder is not None and self.store == "memory":
            raise ValueError("a folder belongs to store: disk")
        return self

    @classmethod
    def of(cls, written: str | Cache) -> Cache:
        """What a word stands for: `memory`, `disk`, or `fixed`, which is in memory."""
        if isinstance(written, Cache):
            return written
        return cls(store="disk" if written == "disk" else "memory", fixed=written == "fixed")

    def __str__(self) -> str:
        notes = ["fixed" * self.fixed, self.dtype or "", f"top {self.top_k}" if self.top_k else ""]
        return ", ".join(filter(None, [self.store, *notes]))

    def _absent(self) -> set[str]:
        return super()._absent() | ({"fixed"} if not self.fixed else set())


class Node(Spec):
    """A network of the graph: an encoder and its options."""

    model_config = ConfigDict(extra="allow")

    use: Id | None = None
    """Id of the encoder; without it the network is handed in from Python, `nodes={"teacher": ...}`."""
    inputs: dict[str, str] = {}
    """Batch fields that the encoder's ports read instead of those of their own name: `image: batch.thermal`. And inner
    inputs: values that modules of the network are given while losses are computed, in place of what the module before
    gives (`/layer2: up`); evaluation and export take none."""
    cache: (
        Annotated[
            Annotated[Literal["memory", "fixed", "disk"], Tag("word")] | Annotated[Cache, Tag("map")],
            Discriminator(lambda value: "map" if isinstance(value, Mapping | Cache) else "word"),
        ]
        | None
    ) = None
    """Run this constant network once over the training set and keep its outputs: in `memory` for this run, or on
    `disk` for all runs. Where curators change what it reads, `data.replicas` says how many draws each sample has, or
    `fixed` lets it see every sample as it is. A map says more: `{store: disk, dtype: fp16}`."""
    precision: Literal["fp32", "bf16", "fp16"] | None = None
    """Arithmetic of a network that is not trained, its weights and inputs cast once; `train.precision` unless given.
    Values come out in float32, exports keep the weights as they were."""
    layout: Literal["channels_last", "contiguous"] | None = None
    """Order in memory of the pictures that the network is given, and of its weights where it is not trained."""
    compile: bool | None = None
    """Compile (`torch.compile`) what the losses read of a network that is not trained, down to its deepest tap."""
    average: Average | None = None
    """Instead of `use`: this network is the running average of a student (mean teacher, averaged weights)."""
    stage: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)?$")] | None = None
    """Instead of `use`: this network is what an earlier stage of the procedure exported; `STAGE.NETWORK` where that
    exports several."""
    frozen: bool = False
    """A student that is not trained: one whose projectors are, in a stage of a procedure."""

    @pydantic.model_validator(mode="after")
    def _own_or_averaged(self) -> Node:
        if self.stage is not None and (own := [*(["use"] if self.use else []), *self.arguments]):
            raise ValueError(f"a network of stage '{self.stage}' is as it was exported and takes no {', '.join(own)}")
        if self.average is None:
            return self
        if own := [key for key in ("precision", "layout", "compile") if getattr(self, key)]:
            raise ValueError(f"an averaged network runs as the student that it follows and takes no {', '.join(own)}")
        if self.stage is not None:
            raise ValueError("a network is the average of a student or comes from a stage, not both")
        if self.cache is not None:
            raise ValueError("an averaged network changes at every step, so that none of its outputs can be remembered")
        if own := [*(["use"] if self.use else []), *self.arguments]:
            raise ValueError(f"an averaged network is a copy of '{self.average.of}' and takes no {', '.join(own)}")
        return self

    def _absent(self) -> set[str]:
        return super()._absent() | ({"frozen"} if not self.frozen else set())

    @property
    def arguments(self) -> dict[str, Any]:
        """Options of the encoder as they were given; nested components are still plain maps."""
        return dict(self.__pydantic_extra__ or {})


class ProjectorSpec(Component):
    """A projector, its ports and its options."""

    like: str | list[str] | None = None
    """Value whose shape the projector must produce."""


class LossSpec(Component):
    """A loss, its ports and its options."""

    weight: Weight = 1.0
    """Factor in front of the loss: a number, a schedule, or the name of one of `schedules` (`alpha`, `1 - alpha`)."""
    phase: Name | None = None
    """The schedule that learns from this loss; it counts in that schedule's phase alone."""
    mask: str | None = None
    """Value that is true where a sample or token counts."""
    sample_weight: str | None = None
    """Value with one factor per sample."""


class Evaluation(Component):
    """A metric, its ports and its options."""

    every: Count | None = None
    """Evaluate after every so many steps too, not only at the end."""
    name: Name | None = None
    """Name of the scores in the results; the metric's own name unless given."""
    teacher_score: bool | dict[str, str] = True
    """Whether the teacher is scored too, by its values of the same names; or the ports to do it by."""

    def _absent(self) -> set[str]:
        return super()._absent() | ({"teacher_score"} if self.teacher_score is True else set())

    @property
    def title(self) -> str:
        """Name of the scores in the results."""
        return self.name or self.use.partition(".")[2]


class StreamSpec(Spec):
    """Samples drawn beside the training set at every step: `student@unlabeled.logits`, `batch@unlabeled.label`."""

    dataset: Component | None = None
    """Dataset of the stream; without it one is handed in from Python, `data={"streams": {"unlabeled": ...}}`."""
    batch_size: Count | None = None
    """Samples per optimiser step; `data.batch_size` unless given."""
    curators: list[Component] | None = None
    """Changes to its raw samples; `data.curators` unless given."""
    fields: dict[str, str | int] | None = None
    """Where its samples hold each field; `data.fields` unless given."""
    views: dict[Name, list[Component]] = {}
    """The same raw samples under curators of their own, by name."""


class Data(Spec):
    """What is trained and evaluated on."""

    train: Component | None = None
    """Dataset to train on."""
    eval: Components | None = None
    """Dataset to evaluate on, or several by name."""
    streams: dict[Name, StreamSpec] = {}
    """Further datasets that every step draws from, by name; those that no loss reads are not loaded."""
    fields: dict[str, str | int] = {}
    """Where samples that are not maps of fields hold each field: keys, indices and attributes, joined by dots
    (`{image: "0", label: "1"}`, `{image: inputs.pixels}`)."""
    curators: list[Component] = []
    """Changes to raw samples (augmentation), in order, before any network's own transform."""
    views: dict[Name, list[Component]] = {}
    """The same raw training samples under curators of their own, by name: `student@weak.logits`."""
    replicas: Count | None = None
    """Draws that each sample has: epochs take them in turn, so that a cached teacher runs so many times over the
    training set and no more. Without it every epoch draws anew."""
    on_bad_sample: Literal["error", "skip"] = "error"
    """What a training sample that cannot be read or changed does: stop the run, or give its place to another one."""
    max_bad_samples: Annotated[Finite, Field(ge=0, le=1)] = 0.01
    """Share of a dataset that may be skipped; beyond it the run stops."""
    batch_size: Count = 64
    """Samples per optimiser step, over all processes and accumulation steps."""
    eval_batch_size: Count | None = None
    """Samples per batch in evaluation; `batch_size` unless given."""
    workers: Annotated[int, Field(ge=0)] = 0
    """Processes that load samples; 0 loads them in the training process."""

    @pydantic.model_validator(mode="after")
    def _distinct(self) -> Data:
        seen = set(self.streams)
        for views in (self.views, *(stream.views for stream in self.streams.values())):
            for name in views:
                if name in seen:
                    raise ValueError(f"two streams or views are called '{name}'")
                seen.add(name)
        return self

    def eval_sets(self) -> dict[str, Component]:
        """Evaluation datasets by name; a single one is called `eval`."""
        if self.eval is None or isinstance(self.eval, Component):
            return {"eval": self.eval} if self.eval else {}
        return dict(self.eval)


class Train(Spec):
    """Budget, optimiser and bookkeeping of the training loop."""

    steps: Count | None = None
    """Optimiser steps to take; either this or `epochs`."""
    epochs: Count | None = None
    """Passes over the training set; either this or `steps`."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """Optimiser of the trained networks and projectors."""
    lr: Annotated[Finite, Field(gt=0)] = 1e-3
    """Peak learning rate."""
    weight_decay: Annotated[Finite, Field(ge=0)] = 0.0
    """Decoupled weight decay of adamw, L2 penalty of sgd."""
    momentum: Annotated[Finite, Field(ge=0, lt=1)] = 0.9
    """Momentum of sgd."""
    betas: Annotated[list[Annotated[Finite, Field(ge=0, lt=1)]], Field(min_length=2, max_length=2)] = [0.9, 0.999]
    """Averaging coefficients of adamw."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Steps over which the learning rate rises linearly from zero."""
    lr_schedule: Literal["cosine", "constant"] = "cosine"
    """Course of the learning rate after the warm-up."""
    gradient_accumulation_steps: Count = 1
    """Micro-batches that a batch is cut into, to need less memory; losses that need the whole batch still see it."""
    kept_graphs: Annotated[int, Field(ge=0)] = 0
    """Micro-batches that are not computed a second time where a loss needs the whole batch: more memory, less time."""
    max_grad_norm: Annotated[Finite, Field(gt=0)] | None = None
    """Norm to which gradients are clipped."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Arithmetic of the forward pass; weights stay fp32."""
    attention: Literal["auto", "sdpa", "xformers"] = "auto"
    """Who computes attention: torch (`sdpa`), `xformers`, or `auto`: xformers where a probe shows that it works."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Seed of initialisation, data order and augmentation."""
    device: Annotated[str, Field(pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")] = "auto"
    """Where to run: `auto`, `cpu`, `mps`, `cuda` or `cuda:1`."""
    log_every: Count = 50
    """Steps between two log lines."""
    checkpoint_every: Count | None = None
    """Steps between two checkpoints; only the end is saved unless given."""
    eval_every: Count | None = None
    """Steps between two evaluations; an evaluation's own `every` takes precedence."""

    @pydantic.model_validator(mode="after")
    def _one_budget(self) -> Train:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give exactly one of 'steps' and 'epochs'")
        return self

    @pydantic.model_validator(mode="after")
    def _no_more_graphs_than_micro_batches(self) -> Train:
        if self.kept_graphs > self.gradient_accumulation_steps:
            raise ValueError(
                f"kept_graphs is {self.kept_graphs}, and a step has "
                f"gradient_accumulation_steps={self.gradient_accumulation_steps} micro-batches"
            )
        return self
