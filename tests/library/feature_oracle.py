"""Slow truths of the feature, attention and hint losses: loops over Python floats, written from the formulas."""

from __future__ import annotations

import math
from typing import Any

from tests.library.oracle import Row, kl

Map = list[list[Row]]  # [C][H][W]


def positions(x: Map) -> list[Row]:
    """One row per channel."""
    return [[v for line in channel for v in line] for channel in x]


def flatten(x: Any) -> Row:
    return [v for part in x for v in flatten(part)] if isinstance(x, list) else [x]


def halve(x: Map) -> Map:
    """Average of each 2 x 2."""
    return [
        [
            [sum(c[2 * i + a][2 * j + b] for a in (0, 1) for b in (0, 1)) / 4 for j in range(len(c[0]) // 2)]
            for i in range(len(c) // 2)
        ]
        for c in x
    ]


def mean(values: Row) -> float:
    return sum(values) / len(values)


def unit(a: Row) -> Row:
    norm = math.sqrt(sum(x * x for x in a))
    return [x / norm for x in a]


def squares(a: Row, b: Row) -> float:
    return sum((x - y) ** 2 for x, y in zip(a, b, strict=True))


def at(student: Map, teacher: Map, power: float) -> float:
    a, b = (
        unit([sum(abs(c[p]) ** power for c in positions(x)) for p in range(len(positions(x)[0]))])
        for x in (student, halve(teacher))
    )
    return squares(a, b)


def vid(student: Row, teacher: Row, variance: Row) -> float:
    return mean([
        ((t - s) ** 2 / v + math.log(v)) / 2 for s, t, v in zip(student, teacher, variance, strict=True)
    ])  # fmt: skip


def fsp(student: list[Map], teacher: list[Map]) -> float:
    total = 0.0
    for i in range(len(student) - 1):
        flows = []
        for net in (student, teacher):
            a, b = positions(halve(net[i])), positions(net[i + 1])
            flows.append([mean([x * y for x, y in zip(c, d, strict=True)]) for c in a for d in b])
        total += squares(*flows) / len(flows[0])
    return total


def ab(student: Row, teacher: Row, margin: float) -> float:
    total = 0.0
    for s, t in zip(student, teacher, strict=True):
        if t > 0 and s < margin:
            total += (margin - s) ** 2
        if t <= 0 and s > -margin:
            total += (margin + s) ** 2
    return total / len(student)


def ofd(student: Map, teacher: Map, margins: Row) -> float:
    costs = []
    for s_c, t_c, margin in zip(positions(student), positions(teacher), margins, strict=True):
        for s, t in zip(s_c, t_c, strict=True):
            target = max(t, margin)
            costs.append(0.0 if target <= 0 and s <= target else (s - target) ** 2)
    return mean(costs)


def hcl(student: Map, teacher: Map) -> float:
    """For maps of 4 x 4."""
    total, weights, factor = 0.0, 0.0, 1.0
    while True:
        a, b = flatten(student), flatten(teacher)
        total, weights, factor = total + factor * squares(a, b) / len(a), weights + factor, factor / 2
        if len(student[0]) == 1:
            return total / weights
        student, teacher = halve(student), halve(teacher)


def cwd(student: list[Row], teacher: list[Row], temperature: float) -> float:
    return mean([kl(s, t, temperature) for s, t in zip(student, teacher, strict=True)])


def patient(student: list[Row], teacher: list[Row]) -> float:
    return sum(squares(unit(s), unit(t)) for s, t in zip(student, teacher, strict=True))


def pearson_map(student: list[Map], teacher: list[Map]) -> float:
    """Mean over the batch."""
    total = 0.0
    for c in range(len(student[0])):
        a, b = ([v for x in batch for v in positions(x)[c]] for batch in (student, teacher))
        a, b = [v - mean(a) for v in a], [v - mean(b) for v in b]
        total += 1 - sum(x * y for x, y in zip(unit(a), unit(b), strict=True))
    return total / len(student[0])


def attention_kl(student: list[list[Row]], teacher: list[list[Row]]) -> Row:
    """For each query; `[heads][L][M]`."""
    return [
        mean([
            sum(p * math.log(p / q) for p, q in zip(t[i], s[i], strict=True) if p > 0)
            for s, t in zip(student, teacher, strict=True)
        ])
        for i in range(len(student[0]))
    ]  # fmt: skip


def cross_attention(student: list[list[Row]], teacher: list[list[Row]], heads: int, keys: list[int]) -> Row:
    """For each query; the networks as `[queries, keys]`, `[L][D]` and `[M][D]`; only the keys of these numbers."""
    losses = []
    for i in range(len(student[0])):
        total = 0.0
        for h in range(heads):
            scores = []
            for query, key in (student, teacher):
                d = len(query[0]) // heads
                own = range(h * d, (h + 1) * d)
                scores.append([sum(query[i][k] * key[j][k] for k in own) / math.sqrt(d) for j in keys])
            total += kl(*scores)
        losses.append(total / heads)
    return losses


def a2d(student: list[Row], teacher: list[Row], weight: list[Row], bias: Row, temperature: float) -> float:
    """Maps as one row per head."""
    total = 0.0
    for g, target in enumerate(teacher):
        mapped = [bias[g] + sum(weight[g][h] * student[h][i] for h in range(len(student))) for i in range(len(target))]
        total += kl(mapped, target, temperature)
    return total / len(teacher)


def convolve(x: Map, weight: Any, bias: Row) -> Map:
    """3 x 3, padded with zeros."""
    height, width = len(x[0]), len(x[0][0])
    made = []
    for kernel, b in zip(weight, bias, strict=True):
        channel = [[b] * width for _ in range(height)]
        for i in range(height):
            for j in range(width):
                for c in range(len(x)):
                    for u in range(3):
                        for v in range(3):
                            if 0 <= i + u - 1 < height and 0 <= j + v - 1 < width:
                                channel[i][j] += kernel[c][u][v] * x[c][i + u - 1][j + v - 1]
        made.append(channel)
    return made


def through(x: Map, layers: list[tuple[Any, Row]], slope: float, last: bool) -> Map:
    """Convolutions with a leaky ReLU after each, or after all but the last."""
    for n, (weight, bias) in enumerate(layers):
        x = convolve(x, weight, bias)
        if last or n < len(layers) - 1:
            x = [[[v if v > 0 else slope * v for v in line] for line in channel] for channel in x]
    return x


def gradcam(features: Map, gradient: Map) -> Row:
    importance = [mean(c) for c in positions(gradient)]
    return [
        max(0.0, sum(w * c[p] for w, c in zip(importance, positions(features), strict=True)))
        for p in range(len(positions(features)[0]))
    ]
