"""Slow truths of the relational losses: loops over Python floats, written from the papers' formulas."""

from __future__ import annotations

import math

from tests.library.oracle import Row, cosine, softmax

Rows = list[Row]


def dot(a: Row, b: Row) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def distance(a: Row, b: Row) -> float:
    return math.sqrt(sum((x - y) ** 2 for x, y in zip(a, b, strict=True)))


def huber(x: float) -> float:
    return x * x / 2 if abs(x) < 1 else abs(x) - 0.5


def unit(a: Row) -> Row:
    return [x / math.sqrt(dot(a, a)) for x in a]


def kl(p: Row, q: Row) -> float:
    return sum(x * math.log(x / y) for x, y in zip(p, q, strict=True) if x > 0)


def rkd_distance(student: Rows, teacher: Rows) -> list[float]:
    n = len(student)
    means = [sum(distance(a, b) for a in x for b in x) / (n * (n - 1)) for x in (student, teacher)]
    losses = []
    for i in range(n):
        gaps = [distance(student[i], student[j]) / means[0] - distance(teacher[i], teacher[j]) / means[1]
                for j in range(n)]  # fmt: skip
        losses.append(sum(huber(gap) for gap in gaps) / n)
    return losses


def angle(x: Rows, i: int, j: int, k: int) -> float:
    a, b = ([u - v for u, v in zip(x[m], x[i], strict=True)] for m in (j, k))
    return 0.0 if i in (j, k) else cosine(a, b)


def rkd_angle(student: Rows, teacher: Rows) -> list[float]:
    n = len(student)
    return [
        sum(huber(angle(student, i, j, k) - angle(teacher, i, j, k)) for j in range(n) for k in range(n)) / n**2
        for i in range(n)
    ]


def similarity_preserving(student: Rows, teacher: Rows) -> list[float]:
    losses = []
    for i in range(len(student)):
        a, b = (unit([dot(x[i], other) for other in x]) for x in (student, teacher))
        losses.append(sum((u - v) ** 2 for u, v in zip(a, b, strict=True)) / len(student))
    return losses


def correlation_congruence(student: Rows, teacher: Rows, gamma: float, order: int | None) -> list[float]:
    def kernel(a: Row, b: Row) -> float:
        a, b = unit(a), unit(b)
        if order is None:
            return math.exp(-gamma * distance(a, b) ** 2)
        terms = [(2 * gamma) ** p / math.factorial(p) * dot(a, b) ** p for p in range(order + 1)]
        return math.exp(-2 * gamma) * sum(terms)

    n = len(student)
    return [
        sum((kernel(student[i], student[j]) - kernel(teacher[i], teacher[j])) ** 2 for j in range(n)) / n
        for i in range(n)
    ]


def pkt(student: Rows, teacher: Rows, include_self: bool) -> list[float]:
    losses = []
    for i in range(len(student)):
        others = [j for j in range(len(student)) if include_self or j != i]
        p, q = ([(cosine(x[i], x[j]) + 1) / 2 for j in others] for x in (teacher, student))
        losses.append(kl([x / sum(p) for x in p], [x / sum(q) for x in q]))
    return losses


def nst(student: Rows, teacher: Rows, kernel: str) -> float:
    """One sample: rows are channels."""
    s, t = [unit(x) for x in student], [unit(x) for x in teacher]
    variance = sum(distance(a, b) ** 2 for a in s for b in t) / len(s) / len(t)
    k = {
        "linear": dot,
        "polynomial": lambda a, b: dot(a, b) ** 2,
        "gaussian": lambda a, b: math.exp(-(distance(a, b) ** 2) / 2 / variance),
    }[kernel]

    def mean(x: Rows, y: Rows) -> float:
        return sum(k(a, b) for a in x for b in y) / len(x) / len(y)

    return mean(t, t) + mean(s, s) - 2 * mean(s, t)


def ickd(student: Rows, teacher: Rows) -> float:
    """One sample: rows are channels."""
    total = 0.0
    for c in range(len(student)):
        a, b = (unit([dot(x[c], other) for other in x]) for x in (student, teacher))
        total += sum((u - v) ** 2 for u, v in zip(a, b, strict=True))
    return total / len(student)


def crd(student: Rows, teacher: Rows, banks: tuple[Rows, Rows], temperature: float, constants: Row) -> list[float]:
    """Embeddings and banks of length one; constants are the means that divide `e`."""
    losses = []
    for s, t in zip(student, teacher, strict=True):
        total = 0.0
        for anchor, partner, bank, c in ((s, t, banks[1], constants[0]), (t, s, banks[0], constants[1])):
            noise = len(bank) * c
            e = math.exp(dot(anchor, partner) / temperature)
            total -= math.log(e / (e + noise))
            for entry in bank:
                e = math.exp(dot(anchor, entry) / temperature)
                total -= math.log(1 - e / (e + noise))
        losses.append(total)
    return losses


def plan(cost: Rows, epsilon: float, iterations: int) -> Rows:
    n, m = len(cost), len(cost[0])
    p = [[math.exp(-x / epsilon) for x in row] for row in cost]
    for _ in range(iterations):
        p = [[x / sum(row) / n for x in row] for row in p]
        totals = [sum(row[j] for row in p) for j in range(m)]
        p = [[row[j] / totals[j] / m for j in range(m)] for row in p]
    return p


def trg_inner(student: Rows, teacher: Rows) -> float:
    """One sample: rows are tokens."""
    n = len(student)
    c = [[softmax([dot(a, b) / math.sqrt(len(a)) for b in x]) for a in x] for x in (student, teacher)]
    return sum((c[0][i][j] - c[1][i][j]) ** 2 for i in range(n) for j in range(n)) / n**2


def trg_local(
    student: Rows, teacher: Rows, neighbours: int, sigma: float, normalize: bool = True, reverse: bool = False
) -> list[float]:
    """Rows are the tokens of all samples; one loss each."""
    n = len(student)

    def graph(x: Rows) -> Rows:
        x = [unit(row) for row in x] if normalize else x
        near = [
            sorted((k for k in range(n) if k != j), key=lambda k: distance(x[k], x[j]))[:neighbours] for j in range(n)
        ]
        return [[math.exp(-(distance(x[i], x[j]) ** 2) / 2 / sigma) if i in near[j] else 0.0 for j in range(n)]
                for i in range(n)]  # fmt: skip

    a, b = (graph(x) for x in ((student, teacher) if reverse else (teacher, student)))
    return [kl(softmax(a[i]), softmax(b[i])) for i in range(n)]


def minilm(student: Rows, teacher: Rows, heads: int) -> float:
    """One value of one sample: rows are tokens."""
    total, n = 0.0, len(student)
    for head in range(heads):
        parts = [
            [row[head * len(row) // heads : (head + 1) * len(row) // heads] for row in x] for x in (teacher, student)
        ]
        for i in range(n):
            p, q = (softmax([dot(x[i], other) / math.sqrt(len(x[i])) for other in x]) for x in parts)
            total += kl(p, q)
    return total / heads / n


def hidden_states(student: list[Row], teacher: list[Row], pairs: list[tuple[int, int]], maps: list[Rows]) -> float:
    """One token: a row for each layer, and a matrix for each pair."""
    total = 0.0
    for (i, j), matrix in zip(pairs, maps, strict=True):
        mapped = [dot(line, student[i]) for line in matrix]
        total += sum((a - b) ** 2 for a, b in zip(mapped, teacher[j], strict=True)) / len(mapped)
    return total
