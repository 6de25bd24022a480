"""Slow truths for the losses on logits: Python loops over Python floats, from the formulas alone."""

from __future__ import annotations

import math

from .oracle import Row, softmax


def divergence(p: Row, q: Row) -> float:
    """sum p log(p / q) of two distributions; `p` may also be weights that do not sum to one."""
    total = 0.0
    for p_v, q_v in zip(p, q, strict=True):
        if p_v > 0:
            total += p_v * (math.log(p_v) - math.log(q_v)) if q_v > 0 else math.inf
    return total


def soft(logits: Row, temperature: float = 1.0) -> Row:
    return softmax([x / temperature for x in logits])


def mix(a: Row, b: Row, share: float) -> Row:
    return [share * x + (1 - share) * y for x, y in zip(a, b, strict=True)]


def entropy(p: Row) -> float:
    return -sum(x * math.log(x) for x in p if x > 0)


def z_score(row: Row, epsilon: float = 0.0) -> Row:
    mean = sum(row) / len(row)
    variance = sum((x - mean) ** 2 for x in row) / len(row)
    return [(x - mean) / math.sqrt(variance + epsilon) for x in row]


def columns(rows: list[Row]) -> list[Row]:
    return [list(column) for column in zip(*rows, strict=True)]


def dkd(student: Row, teacher: Row, label: int, alpha: float, beta: float, temperature: float) -> float:
    q, p = soft(student, temperature), soft(teacher, temperature)
    target = divergence([p[label], 1 - p[label]], [q[label], 1 - q[label]])
    rest = [v for v in range(len(p)) if v != label]
    others = divergence([p[v] / (1 - p[label]) for v in rest], [q[v] / (1 - q[label]) for v in rest])
    return temperature**2 * (alpha * target + beta * others)


def pearson(a: Row, b: Row) -> float:
    x, y = sum(a) / len(a), sum(b) / len(b)
    covariance = sum((i - x) * (j - y) for i, j in zip(a, b, strict=True))
    return covariance / math.sqrt(sum((i - x) ** 2 for i in a) * sum((j - y) ** 2 for j in b))


def dist(student: list[Row], teacher: list[Row], beta: float, gamma: float, temperature: float) -> list[float]:
    q, p = [soft(row, temperature) for row in student], [soft(row, temperature) for row in teacher]
    intra = [1 - pearson(a, b) for a, b in zip(columns(q), columns(p), strict=True)]
    return [
        temperature**2 * (beta * (1 - pearson(a, b)) + gamma * sum(intra) / len(intra))
        for a, b in zip(q, p, strict=True)
    ]


def luminet(student: list[Row], teacher: list[Row], alpha: float, temperature: float) -> list[float]:
    s = columns([z_score(column, 1e-5) for column in columns(student)])
    t = columns([z_score(column, 1e-5) for column in columns(teacher)])
    return [alpha**2 * divergence(soft(b, temperature), soft(a, temperature)) for a, b in zip(s, t, strict=True)]


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def binary_kl(student: Row, teacher: Row, temperature: float, normalized: bool) -> float:
    total = 0.0
    for s, t in zip(student, teacher, strict=True):
        p = 0.5 if normalized else sigmoid(t / temperature)
        q = sigmoid((s - t) / temperature) if normalized else sigmoid(s / temperature)
        total += divergence([p, 1 - p], [q, 1 - q])
    return temperature**2 * total


def label_embedding(
    student: list[list[Row]],
    teacher: list[list[Row]],
    label: list[list[int]],
    class_weight: float,
    sample_weight: float,
) -> list[float]:
    losses = [0.0] * len(label)
    for c in range(len(label[0])):
        members = [i for i in range(len(label)) if label[i][c]]
        shares = _shares([student[i][c] for i in members], [teacher[i][c] for i in members])
        for i, value in zip(members, shares, strict=True):
            losses[i] += class_weight * value
    for i in range(len(label)):
        members = [c for c in range(len(label[0])) if label[i][c]]
        shares = _shares([student[i][c] for c in members], [teacher[i][c] for c in members])
        losses[i] += sample_weight * sum(shares)
    return losses


def _shares(student: list[Row], teacher: list[Row]) -> list[float]:
    s, t = _relative(student), _relative(teacher)
    shares = []
    for i in range(len(s)):
        total = 0.0
        for j in range(len(s)):
            gap = abs(s[i][j] - t[i][j])
            total += 0.5 * gap**2 if gap < 1 else gap - 0.5
        shares.append(total / len(s))
    return shares


def _relative(vectors: list[Row]) -> list[Row]:
    size = len(vectors)
    distance = [[math.dist(a, b) for b in vectors] for a in vectors]
    if size < 2:
        return [[0.0] * size for _ in range(size)]
    mean = sum(sum(row) for row in distance) / (size * (size - 1))
    return [[d / mean for d in row] for row in distance]


def ofa(student: Row, teacher: Row, label: int, epsilon: float, temperature: float) -> float:
    q, p = soft(student, temperature), soft(teacher, temperature)
    weight = [(p[v] + 1) ** epsilon - 1 if v == label else p[v] ** epsilon for v in range(len(p))]
    total = sum(weight)
    return temperature**2 * total * divergence([w / total for w in weight], q)


def nd(student: Row, teacher: Row, mean: Row) -> float:
    def length(row: Row) -> float:
        return math.sqrt(sum(x * x for x in row))

    along = sum(x * y for x, y in zip(student, mean, strict=True)) / length(mean)
    return 1 - along / max(length(student), length(teacher))


def balanced(student: Row, teacher: Row, delta: float, temperature: float) -> float:
    q, p = soft(student, temperature), soft(teacher, temperature)
    forward, reverse = (delta, 1.0) if entropy(p) > entropy(q) else (1.0, delta)
    return temperature**2 * (forward * divergence(p, q) + reverse * divergence(q, p))


def peaked(confidence: float, label: int, classes: int) -> Row:
    return [confidence if v == label else (1 - confidence) / (classes - 1) for v in range(classes)]


def sinkd(student: list[Row], teacher: list[Row], temperature: float, epsilon: float, iterations: int) -> list[float]:
    q, p = [soft(row, temperature) for row in student], [soft(row, temperature) for row in teacher]
    size = len(q)
    cost = [[sum(abs(x - y) for x, y in zip(a, b, strict=True)) for b in p] for a in q]
    plan = [[math.exp(-c / epsilon) for c in row] for row in cost]
    for _ in range(iterations):
        plan = [[x / sum(row) for x in row] for row in plan]
        totals = [sum(plan[i][j] for i in range(size)) for j in range(size)]
        plan = [[plan[i][j] / totals[j] for j in range(size)] for i in range(size)]
    return [sum(plan[i][j] * cost[i][j] for j in range(size)) for i in range(size)]


def uld(student: Row, teacher: Row, temperature: float) -> float:
    q, p = sorted(soft(student, temperature)), sorted(soft(teacher, temperature))
    size = max(len(q), len(p))
    q, p = [0.0] * (size - len(q)) + q, [0.0] * (size - len(p)) + p
    return sum(abs(x - y) for x, y in zip(q, p, strict=True))


def binary_cross_entropy(student: list[float], label: list[float]) -> float:
    """Negative log-likelihood of every class's yes or no."""
    likely = [1 / (1 + math.exp(-s)) for s in student]
    return -sum(y * math.log(p) + (1 - y) * math.log(1 - p) for p, y in zip(likely, label, strict=True))
