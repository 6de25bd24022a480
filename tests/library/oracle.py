"""Slow truths: Python loops over Python floats, written from the formulas and sharing nothing with the library."""

from __future__ import annotations

import math

Row = list[float]


def softmax(logits: Row) -> Row:
    top = max(logits)
    powers = [math.exp(x - top) for x in logits]
    return [x / sum(powers) for x in powers]


def kl(student: Row, teacher: Row, temperature: float = 1.0) -> float:
    p = softmax([x / temperature for x in teacher])
    q = softmax([x / temperature for x in student])
    total = 0.0
    for p_v, q_v in zip(p, q, strict=True):
        if p_v > 0:
            total += p_v * (math.log(p_v) - math.log(q_v)) if q_v > 0 else math.inf
    return temperature**2 * total


def cross_entropy(logits: Row, label: int, smoothing: float = 0.0) -> float:
    q = softmax(logits)
    total = 0.0
    for v in range(len(q)):
        target = smoothing / len(q) + (1 - smoothing if v == label else 0.0)
        total -= target * math.log(q[v])
    return total


def mse(student: Row, teacher: Row) -> float:
    return sum((s - t) ** 2 for s, t in zip(student, teacher, strict=True)) / len(student)


def cosine(a: Row, b: Row) -> float:
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(x * x for x in a)) / math.sqrt(sum(y * y for y in b))


def info_nce(queries: list[Row], keys: list[Row], temperature: float, group: list[int] | None = None) -> list[float]:
    """One direction; with ids, the mean over the positives of each query."""
    group = list(range(len(queries))) if group is None else group
    losses = []
    for i, query in enumerate(queries):
        p = softmax([cosine(query, key) / temperature for key in keys])
        costs = [-math.log(p[j]) for j in range(len(keys)) if group[j] == group[i]]
        losses.append(sum(costs) / len(costs))
    return losses


def similarity_kl(
    student: tuple[list[Row], list[Row]],
    teacher: tuple[list[Row], list[Row]],
    temperatures: tuple[float, float],
    itself: bool,
) -> list[float]:
    """From the first of each pair to the second; without `itself` a row is not compared with the one of its number."""
    losses = []
    for i in range(len(student[0])):
        others = [j for j in range(len(student[0])) if itself or j != i]
        b = [cosine(student[0][i], student[1][j]) / temperatures[0] for j in others]
        a = [cosine(teacher[0][i], teacher[1][j]) / temperatures[1] for j in others]
        losses.append(kl(b, a))
    return losses


def recall(queries: list[Row], candidates: list[Row], query_ids: list[int], candidate_ids: list[int], k: int) -> float:
    """Sort the candidates, wrong ones first where they are tied with right ones."""
    hits = 0
    for query, id in zip(queries, query_ids, strict=True):
        found = [(-cosine(query, c), c_id == id) for c, c_id in zip(candidates, candidate_ids, strict=True)]
        hits += any(right for _, right in sorted(found)[:k])
    return hits / len(queries)


def places(
    queries: list[Row], candidates: list[Row], query_ids: list[int], candidate_ids: list[int]
) -> list[list[int]]:
    """Places of all matches of each query, from 1, among its sorted candidates."""
    found = []
    for query, id in zip(queries, query_ids, strict=True):
        ordered = sorted((-cosine(query, c), c_id == id) for c, c_id in zip(candidates, candidate_ids, strict=True))
        found.append([place for place, (_, right) in enumerate(ordered, 1) if right])
    return found


def knn(embeddings: list[Row], labels: list[int], k: int, temperature: float) -> float:
    right = 0
    for i, query in enumerate(embeddings):
        others = sorted(((cosine(query, e), labels[j]) for j, e in enumerate(embeddings) if j != i), reverse=True)
        votes: dict[int, float] = {}
        for similarity, label in others[:k]:
            votes[label] = votes.get(label, 0.0) + math.exp(similarity / temperature)
        right += max(votes, key=lambda label: votes[label]) == labels[i]
    return right / len(embeddings)
