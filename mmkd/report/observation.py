"""What a trained graph says about a bounded number of evaluation samples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from mmkd.components import Dataset
from mmkd.engine.data import read
from mmkd.engine.evaluation import Evaluation
from mmkd.errors import GraphError, MmkdError
from mmkd.graph.binding import Binding
from mmkd.graph.collate import to_device
from mmkd.graph.training_graph import TrainingGraph
from mmkd.graph.value import parse

BATCH = 32
WIDEST = 2**22
"""Numbers per sample of the largest value that is compared."""
HIDDEN = 12
"""Values of one network that are compared with those of another."""


@dataclass
class Pairs:
    """Two values that a metric compares sample by sample (ports `a` and `b`), and who matches whom."""

    name: str
    a: str
    b: str
    group: str | None
    direction: str


@dataclass
class Observation:
    """Values of the first evaluation dataset's first samples, and what can be read off them."""

    dataset: Dataset
    dataset_name: str
    size: int
    """Samples that were looked at."""
    rows: dict[str, Any] = field(default_factory=dict)
    """By address: one row per sample; tensors on the CPU, lists of text."""
    labels: list[int] | None = None
    trained: dict[str, bool] = field(default_factory=dict)
    """By network: whether it is a student."""
    logits: dict[str, str] = field(default_factory=dict)
    """By network: the address of its logits `[B, V]`."""
    pairs: list[Pairs] = field(default_factory=list)
    similarity: tuple[list[str], list[str], Tensor] | None = None
    """Student's values, teacher's values, and linear CKA between them."""
    shown: dict[str, list[str]] = field(default_factory=dict)
    """By address: the fields of a sample that it is computed from and that can be shown."""

    @property
    def extent(self) -> str:
        """Which samples these are, in words."""
        every = len(self.dataset)
        return f"all {every}" * (every == self.size) or f"the first {self.size} of {every}"


def observe(graph: TrainingGraph, evaluation: Evaluation, samples: int) -> Observation:
    """Run the graph on the first `samples` samples of the first evaluation dataset.

    Raises:
        GraphError: the recipe names no evaluation data.
    """
    name, dataset = next(iter(evaluation.datasets.items()), ("", None))
    if dataset is None or not len(dataset):
        raise GraphError("there is no evaluation data", where="data.eval")
    seen = Observation(dataset, name, min(samples, len(dataset)))
    sample = read(dataset, 0)
    for measure in evaluation.measures:
        pairs = _pairs(measure.binding)
        if pairs and all(_exists(graph, address) for address in (pairs.a, pairs.b, *filter(None, [pairs.group]))):
            seen.pairs.append(pairs)
            seen.shown |= {address: _shown(graph, address, sample) for address in (pairs.a, pairs.b)}
    for role, node in graph.roles.items():
        seen.trained[role] = node.trained
        if "logits" in node.encoder.values() and _exists(graph, f"{role}.logits"):
            seen.logits[role] = f"{role}.logits"
    students, teachers = _layers(graph, trained=True), _layers(graph, trained=False)
    paired = {a for p in seen.pairs for a in (p.a, p.b, p.group) if a}
    label = ["batch.label"] if "label" in sample and not isinstance(sample["label"], str) else []
    addresses = list(dict.fromkeys([*paired, *seen.logits.values(), *students, *teachers, *label]))
    graph.eval()
    with torch.no_grad():
        tried = next(_batches(graph, dataset, min(4, seen.size), addresses))
        seen.logits = {role: a for role, a in seen.logits.items() if tried[a].dim() == 2}
        students, teachers = ([a for a in side if tried[a][0].numel() <= WIDEST] for side in (students, teachers))
        cka = CKA(students, teachers) if students and teachers else CKA([], [])
        kept = list(dict.fromkeys([*paired, *seen.logits.values(), *label]))
        parts: dict[str, list[Any]] = {address: [] for address in kept}
        for values in _batches(graph, dataset, seen.size, list(dict.fromkeys([*kept, *cka.own]))):
            for address in kept:
                value = values[address]
                parts[address].append(value.cpu() if isinstance(value, Tensor) else value)
            cka.add(values)
    seen.rows = {address: _joined(rows) for address, rows in parts.items()}
    if label and seen.rows["batch.label"].dim() == 1 and not seen.rows["batch.label"].is_floating_point():
        seen.labels = seen.rows["batch.label"].tolist()
    if cka.batches:
        seen.similarity = students, teachers, cka.value()
    return seen


def _batches(graph: TrainingGraph, dataset: Dataset, samples: int, addresses: list[str]) -> Iterator[Mapping[str, Any]]:
    """Values of the first samples, a batch at a time."""
    for start in range(0, samples, BATCH):
        raw = [read(dataset, i) for i in range(start, min(start + BATCH, samples))]
        yield graph.values(to_device(graph.collate(raw, addresses), graph.device), addresses)


class CKA:
    """Linear centred kernel alignment between all pairs of two lists of values, batch by batch.

    `HSIC_1(K, L) / sqrt(HSIC_1(K, K) HSIC_1(L, L))` with the unbiased estimator over each batch, averaged over
    batches before the ratio (Song et al., 2012; Nguyen et al., 2021). Positions and channels count as features.
    """

    def __init__(self, rows: list[str], columns: list[str]) -> None:
        self.rows, self.columns, self.batches = rows, columns, 0
        self.cross = torch.zeros(len(rows), len(columns), dtype=torch.float64)
        self.own = {name: torch.zeros((), dtype=torch.float64) for name in [*rows, *columns]}

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Take in a batch; one of fewer than 4 samples has no unbiased estimate and is left out."""
        grams = {name: _gram(values[name]) for name in self.own}
        if not grams or min(map(len, grams.values())) < 4:
            return
        self.batches += 1
        for name, gram in grams.items():
            self.own[name] += _hsic(gram, gram)
        for i, row in enumerate(self.rows):
            for j, column in enumerate(self.columns):
                self.cross[i, j] += _hsic(grams[row], grams[column])

    def value(self) -> Tensor:
        """CKA by row and column."""
        rows, columns = (torch.stack([self.own[n] for n in names]) for names in (self.rows, self.columns))
        return self.cross / (rows[:, None] * columns).clamp_min(0).sqrt()


def _gram(value: Tensor) -> Tensor:
    flat = value.detach().flatten(1).float()
    flat = flat - flat.mean(0)
    return (flat @ flat.T).double().cpu().fill_diagonal_(0)


def _hsic(k: Tensor, l: Tensor) -> Tensor:  # noqa: E741
    n = len(k)
    ones = k.sum() * l.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * (k.sum(0) @ l.sum(0))
    return ((k * l).sum() + ones) / (n * (n - 3))


def _pairs(binding: Binding) -> Pairs | None:
    a, b, group = (binding.ports.get(port) for port in ("a", "b", "group"))
    if a is None or b is None or isinstance(a, list) or isinstance(b, list) or isinstance(group, list):
        return None
    direction = getattr(binding.module, "direction", "both")
    return Pairs(binding.name, a.key, b.key, group.key if group else None, str(direction))


def _exists(graph: TrainingGraph, address: str) -> bool:
    """Whether this graph has a value, its projectors set up included."""
    try:
        plan = graph.reading([address])
    except MmkdError:
        return False
    plan.close()
    widths = getattr(graph, "widths", None)
    return widths is None or all(binding.name in widths for binding in plan.derived)


def _layers(graph: TrainingGraph, *, trained: bool) -> list[str]:
    """Values of the networks of one side to compare: hidden ones, embedding and logits, and taps that losses read.

    Projectors stand on the side of the students.
    """
    found: list[str] = []
    for role, node in graph.roles.items():
        if node.trained is not trained:
            continue
        names = list(node.encoder.values())
        hidden = [n for n in names if ".hidden." in f".{n}"]
        if len(hidden) > HIDDEN:
            hidden = [hidden[round(i * (len(hidden) - 1) / (HIDDEN - 1))] for i in range(HIDDEN)]
        taps = [
            tap.key
            for run in graph.plan.runs
            if run.node is node and not run.view
            for tap in run.recorder.taps
            if parse(tap.key).path
        ]
        last = [n for n in names if n.rpartition(".")[2] in ("embedding", "logits")]
        found += [*(f"{role}.{n}" for n in hidden), *taps, *(f"{role}.{n}" for n in last)]
    if trained:
        found += graph.bound
    return [address for address in found if _exists(graph, address)]


def _shown(graph: TrainingGraph, address: str, sample: Mapping[str, Any]) -> list[str]:
    """Fields of a sample behind a value, of those that are pictures or text: without one of them it cannot be made."""
    fields = [f for f, v in sample.items() if f != "key" and isinstance(v, str | Image.Image)]
    prefix = parse(address).name.partition(".")[0]
    if prefix in fields:
        return [prefix]
    needed = []
    for name in fields:
        try:
            graph.collate([{k: v for k, v in sample.items() if k != name}], [address])
        except MmkdError:
            needed.append(name)
    return needed or fields


def _joined(parts: list[Any]) -> Any:
    if all(isinstance(part, Tensor) for part in parts):
        return torch.cat(parts)
    return [item for part in parts for item in part]
