"""How a student's answers relate to the labels and to its teacher's: confusion, agreement, calibration, CKA."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from mmkd.report.chart import heatmap, reliability
from mmkd.report.markup import Html, table, tag
from mmkd.report.observation import Observation

CLASSES = 24
"""A matrix of more classes is not drawn; its largest entries off the diagonal are listed."""
LISTED = 10
BINS = 15


def confusion(arms: Mapping[str, Observation]) -> list[Html]:
    """Label against prediction of every network."""
    parts = []
    for name, _, seen, logits in _labelled(arms):
        given, predicted = torch.tensor(seen.labels), logits.argmax(-1)
        right = (given == predicted).double().mean().item()
        parts.append(_matrix(f"Confusion, {name}", seen, given, predicted, "label", f"accuracy {right:.3f}"))
    return parts


def agreement(seen: Observation) -> list[Html]:
    """Where each student says what each teacher says."""
    parts = []
    for student in (role for role in seen.logits if seen.trained[role]):
        for teacher in (role for role in seen.logits if not seen.trained[role]):
            s, t = seen.rows[seen.logits[student]], seen.rows[seen.logits[teacher]]
            if s.shape != t.shape:
                continue
            same = (s.argmax(-1) == t.argmax(-1)).double().mean().item()
            title = f"Agreement of {student} with {teacher}"
            parts.append(_matrix(title, seen, t.argmax(-1), s.argmax(-1), teacher, f"agreement {same:.3f}", student))
    return parts


def calibration(arms: Mapping[str, Observation]) -> list[Html]:
    """Reliability diagrams with expected calibration error (Guo et al., 2017)."""
    parts = []
    for name, colour, seen, logits in _labelled(arms):
        bins, error = calibrated(logits, torch.tensor(seen.labels))
        parts.append(reliability(f"Calibration, {name}", bins, colour, f"ECE {error:.3f}"))
    return parts


def _labelled(arms: Mapping[str, Observation]) -> Iterator[tuple[str, str, Observation, Tensor]]:
    """(name, colour, observation, logits) of every network whose classes hold the labels; teachers come first."""
    for arm, seen in arms.items():
        for role in sorted(seen.logits, key=lambda role: seen.trained[role]):
            logits, labels = seen.rows[seen.logits[role]].float(), seen.labels
            if labels and min(labels) >= 0 and max(labels) < logits.shape[1]:
                if arm == "student":
                    yield role, "student" if seen.trained[role] else "teacher", seen, logits
                else:
                    yield arm if len(seen.logits) == 1 else f"{arm}: {role}", arm, seen, logits


def calibrated(logits: Tensor, label: Tensor) -> tuple[list[tuple[int, float, float]], float]:
    """Bins (samples, mean confidence, accuracy), and `sum(samples / N * |accuracy - confidence|)`.

    Shape: logits `[N, V]`, label `[N]`.
    """
    confidence, predicted = logits.double().softmax(-1).max(-1)
    right = (predicted == label).double()
    place = (confidence * BINS).ceil().clamp(1, BINS).long() - 1
    bins = []
    for i in range(BINS):
        inside = place == i
        count = int(inside.sum())
        means = [float(v[inside].mean()) if count else 0.0 for v in (confidence, right)]
        bins.append((count, means[0], means[1]))
    return bins, sum(count * abs(a - c) for count, c, a in bins) / max(1, len(label))


def similarity(seen: Observation) -> Html | None:
    """Linear CKA between the values of students and teachers."""
    if seen.similarity is None:
        return None
    rows, columns, matrix = seen.similarity
    sides = [[address.partition(".")[2] or address for address in names] for names in (rows, columns)]
    if sum(seen.trained.values()) > 1 or sum(not trained for trained in seen.trained.values()) > 1:
        sides = [rows, columns]
    return heatmap(
        "Linear CKA", matrix.tolist(), *sides, row_title="student", column_title="teacher",
        note=f"unbiased over batches, {seen.size} samples",
    )  # fmt: skip


def _matrix(
    title: str, seen: Observation, given: Tensor, predicted: Tensor, rows: str, note: str, columns: str = "predicted"
) -> Html:
    classes = int(max(given.max(), predicted.max())) + 1
    named = getattr(seen.dataset, "classes", None)
    names = [str(n) for n in named] if isinstance(named, list | tuple) and len(named) >= classes else None
    names = names or [str(i) for i in range(classes)]
    counts = torch.zeros(classes, classes, dtype=torch.long)
    counts.index_put_((given, predicted), torch.ones_like(given), accumulate=True)
    if classes <= CLASSES:
        share = counts / counts.sum(1, keepdim=True).clamp_min(1)
        texts = [[str(v) for v in row] for row in counts.tolist()]
        return heatmap(
            title, share.tolist(), names[:classes], names[:classes], row_title=rows, column_title=columns,
            texts=texts, note=note,
        )  # fmt: skip
    off = counts.clone().fill_diagonal_(0).flatten()
    top = off.topk(min(LISTED, len(off)))
    listed = [
        [names[i // classes], names[i % classes], count]
        for count, i in zip(top.values.tolist(), top.indices.tolist(), strict=True)
        if count
    ]
    heading = tag("figcaption", title, tag("small", f"{note}; most frequent differences of {classes} classes"))
    return tag("figure", heading, table([rows, columns, "samples"], listed), class_="card")
