"""Which layer of the student learns from which of the teacher."""

from __future__ import annotations

import math
from typing import Literal

from mmkd.errors import GraphError

LayerMap = Literal["each", "uniform", "last", "uniform_last", "consecutive"]
"""For layer i of S, counted from one, and a teacher of T layers (Udagawa et al., 2023):

`each`: layer i, where S is T. `uniform`: layer `ceil(i T / S)`. `last`: layer `T - S + i`. `uniform_last`: both of
these. `consecutive`: with `k = ceil(T / S)` the k layers up to `k i`, as far as there are any, or else the last one.
"""


def layer_pairs(component: str, layers: LayerMap, students: int, teachers: int) -> list[tuple[int, int]]:
    """Student and teacher layers that belong together, counted from zero.

    Raises:
        GraphError: a side has no layer, or `each` and `last` find too few.
    """
    fits = {"each": students == teachers, "last": students <= teachers, "uniform_last": students <= teachers}
    if not students or not teachers or not fits.get(layers, True):
        raise GraphError(
            f"{students} values of the student and {teachers} of the teacher do not fit layers: {layers}",
            where=component,
            next="layers: uniform" if students and teachers else "list at least one value of each",
        )
    return [(i, j) for i in range(students) for j in _teachers(layers, i, students, teachers)]


def _teachers(layers: LayerMap, i: int, students: int, teachers: int) -> list[int]:
    uniform, last = math.ceil((i + 1) * teachers / students) - 1, teachers - students + i
    if layers == "consecutive":
        size = math.ceil(teachers / students)
        return list(range(size * i, min(size * (i + 1), teachers))) or [teachers - 1]
    return {"each": [i], "uniform": [uniform], "last": [last], "uniform_last": sorted({uniform, last})}[layers]
