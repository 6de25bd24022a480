"""What a curator must be."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from mmkd.graph.training_graph import TrainingGraph
from mmkd.testing.curator_batch import BATCH, BatchCase
from mmkd.testing.module import idle_options, refuses_to_build
from mmkd.testing.probe import ProbeFailure, Probes, ask, require
from mmkd.testing.sameness import difference
from mmkd.testing.samples import samples as any_samples
from mmkd.testing.specimen import Specimen
from mmkd.testing.surroundings import changed, surroundings

DRAWS = 24


class CuratorCase:
    """A curator, and samples for it."""

    def __init__(self, specimen: Specimen, samples: Sequence[Mapping[str, Any]] | None, inert: tuple[str, ...]) -> None:
        self.specimen, self.inert = specimen, inert
        self.given = list(samples or any_samples())

    @property
    def samples(self) -> list[Mapping[str, Any]]:
        """Copies, so that a curator that writes into them is found by the probe that is about it."""
        return copy.deepcopy(self.given)

    def fresh(self, seed: int = 0, changed: Mapping[str, Any] | None = None) -> Any:
        return self.specimen.fresh(seed, changed)

    def draws(self, curator: Any) -> list[dict[str, Any]]:
        """Some draws, each of a generator of its own; the host notes partners' keys in them."""
        made = []
        for i in range(DRAWS):
            draw = dict(curator.draw(np.random.default_rng(i)))
            if curator.partners:
                keys = [s.get("key", "") for s in self.partners(curator, i)]
                draw["partner"] = keys[0] if curator.partners == 1 else keys
            made.append(draw)
        return made

    def partners(self, curator: Any, i: int, samples: Sequence[Any] = ()) -> list[Mapping[str, Any]]:
        samples = samples or self.given
        return [samples[(i + 1 + k) % len(samples)] for k in range(curator.partners)]

    def applied(self, curator: Any, draw: Mapping[str, Any], i: int, samples: Sequence[Any] = ()) -> Any:
        """One of the samples under a draw."""
        samples = samples or self.samples
        more = [self.partners(curator, i, samples)] if curator.partners else []
        return curator.apply(samples[i % len(samples)], draw, *more)

    def behaviour(self, curator: Any) -> Any:
        return [[draw, self.applied(curator, draw, i)] for i, draw in enumerate(self.draws(curator))]


CURATOR = Probes()


@CURATOR("give every option a default, or options={...} and samples=[...] to the check", first=True)
def runs(case: CuratorCase) -> None:
    """Nothing else can be said of a curator that does not run on a sample."""
    refuses_to_build(case.specimen)
    curator = case.fresh()
    made = case.applied(curator, case.draws(curator)[0], 0)
    require(isinstance(made, Mapping), f"apply returns {type(made).__name__}, not a sample")


@CURATOR("draw from the generator that is given, and from nothing else; no counter, no time")
def draw_pure(case: CuratorCase) -> None:
    """A draw is a function of (seed, key, epoch): so resuming, workers and other networks change nothing."""
    curator = case.fresh()
    first = [curator.draw(np.random.default_rng(i)) for i in range(DRAWS)]
    np.random.seed(99)
    again = [curator.draw(np.random.default_rng(i)) for i in reversed(range(DRAWS))][::-1]
    found = difference(first, again) or difference(
        first, [case.fresh().draw(np.random.default_rng(i)) for i in range(DRAWS)]
    )
    require(not found, f"the same generator gives another draw: {found}")


@CURATOR("return a dict of plain numbers and names")
def draw_plain(case: CuratorCase) -> None:
    """A draw is noted, sent to other processes and shown."""
    for draw in case.draws(case.fresh()):
        require(isinstance(draw, dict), f"a draw is {type(draw).__name__}")
        require(not difference(draw, pickle.loads(pickle.dumps(draw))), "a draw changes when it is sent")


@CURATOR("compute from sample and draw alone; put random numbers into the draw")
def apply_pure(case: CuratorCase) -> None:
    """All networks, and a later look at this sample, must see the same change."""
    curator = case.fresh()
    draws = case.draws(curator)
    for i, draw in enumerate(draws):
        torch.default_generator.manual_seed(i)
        first = case.applied(curator, draw, i)
        np.random.seed(i)
        found = difference(first, case.applied(case.fresh(), draw, i))
        require(not found, f"the same draw gives another sample: {found}")


@CURATOR("return a new mapping: `{**sample, 'image': changed}`; copy pictures and arrays before writing into them")
def sample_untouched(case: CuratorCase) -> None:
    """The raw sample is read again, by other views, for a memory table, in the next epoch."""
    curator = case.fresh()
    samples = case.samples
    for i, draw in enumerate(case.draws(curator)):
        kept = copy.deepcopy(draw)
        case.applied(curator, draw, i, samples)
        found = difference(case.given, samples)
        require(not found, f"apply wrote into the sample: {found}")
        require(not difference(kept, draw), "apply wrote into the draw")


@CURATOR("name every field that apply may change in the class attribute `fields`")
def fields_declared(case: CuratorCase) -> None:
    """`fields` decides what may be remembered: a teacher's values of a field that secretly changes would be stale."""
    curator = case.fresh()
    require(isinstance(curator.fields, frozenset | set), f"fields is {type(curator.fields).__name__}, not a frozenset")
    seen = set()
    for i, draw in enumerate(case.draws(curator)):
        sample, made = case.samples[i % len(case.samples)], case.applied(curator, draw, i)
        seen |= {
            n for n in sample.keys() | made.keys() if n not in made or n not in sample or difference(sample[n], made[n])
        }
    undeclared = sorted(seen - set(curator.fields))
    require(not undeclared, f"changes {', '.join(undeclared)}, and fields names {sorted(curator.fields) or 'none'}")


@CURATOR("leave `key` as it is")
def key_kept(case: CuratorCase) -> None:
    """The key is who a sample is; draws and memory tables go by it."""
    curator = case.fresh()
    for i, draw in enumerate(case.draws(curator)):
        sample, made = case.samples[i % len(case.samples)], case.applied(curator, draw, i)
        require(made.get("key") == sample.get("key"), f"key {sample.get('key')!r} becomes {made.get('key')!r}")


@CURATOR("leave global settings and generators alone")
def surroundings_kept(case: CuratorCase) -> None:
    """Seeds, dtypes, threads and the environment belong to the run; who changes them changes everybody's numbers."""
    before = surroundings()
    curator = case.fresh()
    for i, draw in enumerate(case.draws(curator)):
        case.applied(curator, draw, i)
    require(not changed(before), f"changes {', '.join(changed(before))}")


@CURATOR("keep no lambdas, open files or generators in attributes")
def pickles(case: CuratorCase) -> None:
    """Data-loading processes receive a copy."""
    curator = case.fresh()
    try:
        sent = pickle.loads(pickle.dumps(curator))
    except Exception as error:
        raise ProbeFailure(f"cannot be sent to another process: {error}") from error
    require(not difference(case.behaviour(curator), case.behaviour(sent)), "a copy gives other samples")


@CURATOR("use it in draw or apply, or remove it")
def options_matter(case: CuratorCase) -> None:
    """An option that does nothing is a typo or a lost line, and users will tune it."""
    idle = idle_options(case)
    require(not idle, f"nothing changes with option {', '.join(idle)}")


def check_curator(
    target: Any,
    *,
    options: Mapping[str, Any] | None = None,
    samples: Sequence[Mapping[str, Any]] | None = None,
    graph: TrainingGraph | Callable[[], TrainingGraph] | None = None,
    inert: tuple[str, ...] = (),
) -> list[str]:
    """Ask a curator everything that the contract promises; returns the names of the probes that ran.

    One that changes raw samples is asked about `draw` and `apply`, one that changes batches about `curate`.

    Args:
        target: a class or an instance.
        options: options of the class.
        samples: raw samples; four with image, text, label and key otherwise.
        graph: for a curator of batches, a graph that is set up and can collate the samples, or a function that makes it
        inert: options that need not change anything on these samples.

    Raises:
        ConformanceError: some probes failed; it names all of them.
    """
    specimen: Any = Specimen(target, options)
    title, cls, ran = f"curator {specimen.cls.__name__}", specimen.cls, []
    if cls.of_samples():
        ran += ask(title, CuratorCase(specimen, samples, inert), CURATOR)
    if cls.of_batches():
        ran += ask(title, BatchCase(specimen, graph, samples, inert), BATCH)
    return ran
