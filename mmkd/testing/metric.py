"""What a metric must be."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mmkd import MmkdError
from mmkd.signature import ports
from mmkd.testing.module import idle_options, kept, refuses_to_build
from mmkd.testing.probe import NotApplicable, ProbeFailure, Probes, ask, require
from mmkd.testing.sameness import difference, inner_state, tensors
from mmkd.testing.specimen import Specimen
from mmkd.testing.surroundings import changed, surroundings

SAMPLES, WIDTH, CLASSES = 48, 12, 4
TOLERANCE = 1e-5


class MetricCase:
    """A metric, and the values of a whole evaluation set."""

    def __init__(
        self, specimen: Specimen, inputs: Mapping[str, Any] | None, inert: tuple[str, ...], per_batch: bool
    ) -> None:
        self.specimen, self.inert, self.per_batch = specimen, inert, per_batch
        self.inputs = dict(inputs) if inputs is not None else _inputs(specimen.cls)
        self.size = len(next(iter(self.inputs.values())))

    def fresh(self, seed: int = 0, changed: Mapping[str, Any] | None = None) -> Any:
        return self.specimen.fresh(seed, changed)

    def rows(self, chosen: list[int]) -> dict[str, Any]:
        """The values of some samples."""
        return {
            name: value[torch.tensor(chosen)] if isinstance(value, Tensor) else [value[i] for i in chosen]
            for name, value in self.inputs.items()
        }

    def seen(self, *batches: list[int], metric: Any = None) -> Any:
        """A metric that has seen these batches."""
        metric = metric if metric is not None else self.fresh()
        with torch.no_grad():
            for batch in batches:
                metric(**self.rows(batch))
        return metric

    @property
    def everything(self) -> list[int]:
        return list(range(self.size))

    def behaviour(self, metric: Any) -> Any:
        return self.seen(self.everything, metric=metric).compute()


METRIC = Probes()


@METRIC("give every option a default, or options={...} and inputs={...} to the check", first=True)
def runs(case: MetricCase) -> None:
    """Nothing else can be said of a metric that does not run on its own example."""
    refuses_to_build(case.specimen)
    case.seen(case.everything).compute()


@METRIC("return {name: float}, the one to choose checkpoints by first")
def scores(case: MetricCase) -> None:
    """Scores are written as JSON, drawn and compared."""
    made = case.seen(case.everything).compute()
    require(isinstance(made, dict) and made, f"compute returns {made!r}, not scores by name")
    for name, value in made.items():
        require(
            isinstance(name, str) and type(value) is float, f"score {name!r} is {type(value).__name__}, not a float"
        )
        require(math.isfinite(value), f"score '{name}' is {value} on an ordinary example")


@METRIC("keep what was seen, and compute anew in compute()")
def compute_keeps_state(case: MetricCase) -> None:
    """Scores are asked for in the middle of a pass too, by other metrics and by the report."""
    metric = case.seen(case.everything)
    before = kept(inner_state(metric))
    first = metric.compute()
    require(not difference(first, metric.compute()), "a second compute() gives other scores")
    found = difference(before, inner_state(metric))
    require(not found, f"compute changed the state: {found}")


@METRIC("break ties by the values, never by position")
def sample_order(case: MetricCase) -> None:
    """The order of an evaluation set is chance."""
    order = torch.randperm(case.size, generator=torch.Generator().manual_seed(1)).tolist()
    found = difference(case.seen(case.everything).compute(), case.seen(order).compute(), tolerance=TOLERANCE)
    require(not found, f"shuffled samples give another score: {found}")


@METRIC("add up sums and counts, or keep rows (mmkd.Rows); no mean over batches")
def batch_split(case: MetricCase) -> None:
    """The last batch is smaller, and users change eval_batch_size: the score must not."""
    if case.per_batch:
        raise NotApplicable
    a = case.size // 3
    parts = case.everything[:a], case.everything[a : a + 1], case.everything[a + 1 :]
    whole = case.seen(case.everything).compute()
    found = difference(whole, case.seen(*parts).compute(), tolerance=TOLERANCE)
    require(not found, f"three batches give another score than one: {found}")


@METRIC("forget everything in reset(), or keep it in mmkd.Rows, which do")
def reset(case: MetricCase) -> None:
    """The second evaluation of a run would count the first."""
    metric = case.seen(case.everything[::2])
    metric.compute()
    metric.reset()
    found = difference(case.seen(case.everything).compute(), case.seen(case.everything, metric=metric).compute())
    require(not found, f"after reset() the score is another than a fresh one's: {found}")


@METRIC("let merge(states) take in all of state(), or keep what was seen in mmkd.Rows")
def merge(case: MetricCase) -> None:
    """Several processes each see a part of the evaluation set."""
    metric = case.fresh()
    if not getattr(metric, "mergeable", False):
        raise NotApplicable
    half = case.size // 2
    first, second = case.seen(case.everything[:half]), case.seen(case.everything[half:])
    first.merge([copy.deepcopy(second.state())])
    whole = case.seen(case.everything[:half], case.everything[half:])
    found = difference(whole.compute(), first.compute(), tolerance=TOLERANCE)
    require(not found, f"two halves merged give another score than both in one process: {found}")


@METRIC("detach what is kept, or keep it in mmkd.Rows, which do")
def keeps_no_graph(case: MetricCase) -> None:
    """A graph that is kept for every batch fills the memory."""
    metric = case.fresh()
    given = {
        name: value.clone().requires_grad_() if isinstance(value, Tensor) and value.is_floating_point() else value
        for name, value in case.inputs.items()
    }
    metric(**given)
    held = [t for t in tensors(_opened(inner_state(metric))) if t.requires_grad]
    require(not held, "keeps tensors with their graph")


@METRIC("compute on copies; no `_` methods on what forward is given")
def inputs_untouched(case: MetricCase) -> None:
    """Other metrics read the same values."""
    before = kept(case.inputs)
    metric = case.fresh()
    metric(**case.inputs)
    metric.compute()
    found = difference(before, kept(case.inputs))
    require(not found, f"wrote into its input: {found}")


@METRIC("raise mmkd.errors.DataError('saw 0 samples ...'); mmkd.Rows does")
def nothing_seen(case: MetricCase) -> None:
    """An empty evaluation set should be an error that says so, not NaN and not a division by zero."""
    try:
        made = case.fresh().compute()
    except MmkdError:
        return
    except Exception as error:
        raise ProbeFailure(f"compute() before any batch raises {type(error).__name__}: {error}") from error
    raise ProbeFailure(f"compute() before any batch gives {made}")


@METRIC("draw from a generator of your own with a fixed seed; leave global settings alone")
def repeatable(case: MetricCase) -> None:
    """A score is evidence: the same values must give the same one, and evaluation must not change training."""
    before = surroundings()
    first = case.seen(case.everything).compute()
    require(not changed(before), f"changes {', '.join(changed(before))}")
    torch.default_generator.manual_seed(7)
    require(not difference(first, case.seen(case.everything).compute()), "the same values give another score")


@METRIC("use it in forward or compute, or remove it")
def options_matter(case: MetricCase) -> None:
    """An option that does nothing is a typo or a lost line, and users will tune it."""
    idle = idle_options(case)
    require(not idle, f"nothing changes with option {', '.join(idle)}")


def check_metric(
    target: Any,
    *,
    options: Mapping[str, Any] | None = None,
    inputs: Mapping[str, Any] | None = None,
    per_batch: bool = False,
    inert: tuple[str, ...] = (),
) -> list[str]:
    """Ask a metric everything that the contract promises; returns the names of the probes that ran.

    Args:
        target: a class or an instance.
        options: options of the class.
        inputs: values of an evaluation set by port, tensors or lists; random ones of four classes otherwise.
        per_batch: the score is a mean over batches by definition, and depends on their size.
        inert: options that need not change anything on this example.

    Raises:
        ConformanceError: some probes failed; it names all of them.
    """
    specimen = Specimen(target, options)
    return ask(f"metric {specimen.cls.__name__}", MetricCase(specimen, inputs, inert, per_batch), METRIC)


def _inputs(cls: type) -> dict[str, Any]:
    """Labels, keys and, for any other required port, features that tell the classes apart a little."""
    generator = torch.Generator().manual_seed(0)
    label = torch.arange(SAMPLES) % CLASSES
    centres = torch.randn(CLASSES, WIDTH, generator=generator)
    made: dict[str, Any] = {}
    for name, port in ports(cls).items():
        if name == "label":
            made[name] = label
        elif name == "key":
            made[name] = [f"sample/{i}" for i in range(SAMPLES)]
        elif port.required:
            made[name] = centres[label] + torch.randn(SAMPLES, WIDTH, generator=generator)
    return made


def _opened(value: Any) -> Any:
    """Attributes of plain objects, such as mmkd.Rows, as mappings."""
    if isinstance(value, Mapping):
        return {key: _opened(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_opened(item) for item in value]
    return _opened(vars(value)) if type(value).__module__.startswith("mmkd") and hasattr(value, "__dict__") else value
