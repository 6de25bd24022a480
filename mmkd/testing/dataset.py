"""What a dataset must be."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import pickle
import threading
from collections.abc import Mapping
from typing import Any

import numpy as np

from mmkd.testing.module import refuses_to_build
from mmkd.testing.probe import NotApplicable, ProbeFailure, Probes, ask, require
from mmkd.testing.sameness import difference
from mmkd.testing.specimen import Specimen
from mmkd.testing.surroundings import changed, surroundings

READ = 32
"""Samples that are read of a large dataset."""


class DatasetCase:
    """A dataset, and the indices that are looked at."""

    def __init__(self, specimen: Specimen) -> None:
        self.specimen = specimen

    def fresh(self) -> Any:
        return self.specimen.fresh()

    def indices(self, dataset: Any) -> list[int]:
        """First, last, and some between."""
        return sorted({int(i) for i in np.linspace(0, len(dataset) - 1, READ)})


DATASET = Probes()


@DATASET("give every option a default, or options={...} to the check", first=True)
def runs(case: DatasetCase) -> None:
    """Nothing else can be said of a dataset that cannot be read."""
    refuses_to_build(case.specimen)
    dataset = case.fresh()
    require(isinstance(len(dataset), int) and len(dataset) > 0, f"len is {len(dataset)!r}")
    sample = dataset[0]
    require(isinstance(sample, Mapping), f"a sample is {type(sample).__name__}, not a mapping of fields")


@DATASET("count what can be read, once, in __init__; raise IndexError beyond it")
def length(case: DatasetCase) -> None:
    """Orders are drawn from len(): a wrong one leaves samples out or stops the run on the last."""
    dataset = case.fresh()
    size = len(dataset)
    dataset[size - 1]
    require(size == len(dataset), "len changes as samples are read")
    try:
        dataset[size]
    except IndexError:
        return
    except Exception as error:
        raise ProbeFailure(f"reading past the end raises {type(error).__name__}, not IndexError: {error}") from error
    raise ProbeFailure(f"len is {size}, and there is a sample {size}")


@DATASET("decode the same bytes to the same sample; leave random changes to curators")
def samples_stable(case: DatasetCase) -> None:
    """Sample i is read by several processes and in every epoch, and remembered by its key."""
    dataset, other = case.fresh(), case.fresh()
    for i in case.indices(dataset):
        first = dataset[i]
        found = difference(first, dataset[i]) or difference(first, other[i])
        require(not found, f"sample {i} is another when it is read again: {found}")


@DATASET("make `key` from what identifies the sample: a path, an id")
def keys(case: DatasetCase) -> None:
    """Draws, memory tables and reports go by the key."""
    dataset = case.fresh()
    names = [dataset[i].get("key") for i in case.indices(dataset)]
    if all(name is None for name in names):
        raise NotApplicable
    odd = [name for name in names if not isinstance(name, str) or not name]
    require(not odd, f"a key is {odd[:1]}, not text")
    twice = [name for name in names if names.count(name) > 1]
    require(not twice, f"key {twice[:1]} belongs to several samples")


@DATASET("build the sample anew at each read, or copy it")
def samples_own(case: DatasetCase) -> None:
    """A curator that writes into its sample's dict must not change the dataset."""
    dataset = case.fresh()
    first = dict(dataset[0])
    given = dataset[0]
    if isinstance(given, dict):
        given.clear()
    found = difference(first, dict(dataset[0]))
    require(not found, f"emptying a sample's dict changes the dataset: {found}")


@DATASET("give the same fields for every sample; an absent value is a field left out everywhere")
def same_fields(case: DatasetCase) -> None:
    """A field that some samples lack cannot be stacked, and stops the run on the first batch with both."""
    dataset = case.fresh()
    wanted = set(dataset[0])
    for i in case.indices(dataset):
        found = wanted ^ set(dataset[i])
        require(not found, f"samples 0 and {i} differ in {', '.join(sorted(map(str, found)))}")


@DATASET("return each index once, as int64, from the generator alone: `generator.permutation(len(self))`")
def order(case: DatasetCase) -> None:
    """An epoch sees every sample once, and a resumed run sees the same order."""
    dataset = case.fresh()
    made = dataset.order(np.random.default_rng(3))
    require(
        isinstance(made, np.ndarray) and made.dtype == np.int64,
        f"order is {getattr(made, 'dtype', type(made))}, not int64",
    )
    require(np.array_equal(np.sort(made), np.arange(len(dataset))), "order is not each index exactly once")
    np.random.seed(5)
    again = dataset.order(np.random.default_rng(3))
    require(np.array_equal(made, again), "the same generator gives another order")
    if len(dataset) > 8:
        require(not np.array_equal(made, dataset.order(np.random.default_rng(4))), "the order is always the same")


@DATASET("name every sample in order by its own key; return None where only reading tells what is in it")
def manifest(case: DatasetCase) -> None:
    """Caches of teachers are checked against it: one that is wrong gives samples the outputs of others."""
    dataset = case.fresh()
    entries = dataset.manifest()
    if entries is None:
        raise NotApplicable
    require(len(entries) == len(dataset), f"names {len(entries)} samples of {len(dataset)}")
    for i in case.indices(dataset):
        key = str(dataset[i].get("key", i))
        require(entries[i][0] == key, f"sample {i} is '{key}', and the manifest calls it '{entries[i][0]}'")
    try:
        json.dumps(list(entries))
    except (TypeError, ValueError) as error:
        raise ProbeFailure(f"is not plain JSON: {error}") from error
    require(list(entries) == list(case.fresh().manifest()), "is another for the same data")


@DATASET("open files at first read and leave them out of __getstate__; keep no lambdas in attributes")
def pickles(case: DatasetCase) -> None:
    """Data-loading processes receive a copy."""
    dataset = case.fresh()
    dataset[0]
    try:
        sent = pickle.loads(pickle.dumps(dataset))
    except Exception as error:
        raise ProbeFailure(f"cannot be sent to another process: {error}") from error
    last = len(dataset) - 1
    found = difference(dataset[last], sent[last])
    require(not found, f"a copy gives another sample: {found}")


@DATASET("share no file position: open per process, or read with os.pread")
def forks(case: DatasetCase) -> None:
    """Forked workers share open files; one that seeks moves the others."""
    if "fork" not in multiprocessing.get_all_start_methods() or threading.active_count() > 1:
        raise NotApplicable
    dataset = case.fresh()
    chosen = case.indices(dataset)[:8]
    here = [_digest(dataset[i]) for i in chosen]
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_read, args=(dataset, chosen, sender))
    process.start()
    try:
        answered = receiver.poll(60)
        there = receiver.recv() if answered else "no answer within a minute"
    except EOFError:
        there = "the process ended"
    finally:
        process.join(1)
        process.kill()
    require(isinstance(there, list), f"a forked process cannot read it: {there}")
    require(there == here, "a forked process reads other samples")


@DATASET("leave global settings and generators alone")
def surroundings_kept(case: DatasetCase) -> None:
    """Seeds, dtypes, threads and the environment belong to the run; who changes them changes everybody's numbers."""
    before = surroundings()
    dataset = case.fresh()
    dataset[0]
    dataset.order(np.random.default_rng(0))
    require(not changed(before), f"changes {', '.join(changed(before))}")


def check_dataset(target: Any, *, options: Mapping[str, Any] | None = None) -> list[str]:
    """Ask a dataset everything that the contract promises; returns the names of the probes that ran.

    Args:
        target: a class or an instance.
        options: options of the class, such as the path of a small copy of the data.

    Raises:
        ConformanceError: some probes failed; it names all of them.
    """
    specimen = Specimen(target, options)
    return ask(f"dataset {specimen.cls.__name__}", DatasetCase(specimen), DATASET)


def _digest(sample: Mapping[str, Any]) -> str:
    return hashlib.sha256(pickle.dumps({str(name): _plain(value) for name, value in sample.items()})).hexdigest()


def _plain(value: Any) -> Any:
    return value.tobytes() if hasattr(value, "tobytes") else repr(value)


def _read(dataset: Any, chosen: list[int], sender: Any) -> None:
    try:
        sender.send([_digest(dataset[i]) for i in chosen])
    except Exception as error:
        sender.send(f"{type(error).__name__}: {error}")
