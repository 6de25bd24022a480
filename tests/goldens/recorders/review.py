"""ReviewKD by its authors, GroupNorm in place of its BatchNorm."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import torch
from record import Checkout, case, normal
from torch import Tensor, nn
from torch.func import functional_call

REPOSITORY = "dvlab-research/ReviewKD"
FUNCTION = "ReviewKD, ABF, hcl"
OURS = {"conv1": "enter", "conv2": "leave", "att_conv": "share"}


def cases(checkout: Checkout) -> Iterator[dict[str, Any]]:
    layers = {name: getattr(nn, name) for name in ("Module", "ModuleList", "Sequential", "Conv2d", "Sigmoid", "init")}
    patched = SimpleNamespace(**layers, BatchNorm2d=lambda channels: nn.GroupNorm(1, channels))
    found = checkout.load("CIFAR-100/model/reviewkd.py", "ABF", "ReviewKD", "hcl", nn=patched)
    model = found["ReviewKD"].__new__(found["ReviewKD"])
    nn.Module.__init__(model)
    model.student = lambda features, is_feat: (features, None)
    model.shapes, model.out_shapes = [1, 4, 8], [1, 2, 8]
    widths = zip((3, 4, 5), (2, 3, 4), strict=True)
    model.abfs = nn.ModuleList(found["ABF"](s, 5, t, i < 2) for i, (s, t) in enumerate(widths))[::-1]
    model.double()
    theirs = list(model.state_dict())

    def function(*values: Tensor) -> Tensor:
        weights = dict(zip(theirs, values[6:], strict=True))
        made, _ = functional_call(model, weights, (list(values[:3]),))
        total: Tensor = found["hcl"](made, values[3:6])
        return total

    student, teacher = ((2, 3, 8, 8), (2, 4, 4, 4), (2, 5, 1, 1)), ((2, 2, 8, 8), (2, 3, 2, 2), (2, 4, 1, 1))
    inputs = {f"s{i}": normal(*shape, seed=i) for i, shape in enumerate(student)}
    inputs |= {f"t{i}": normal(*shape, seed=10 + i) for i, shape in enumerate(teacher)}
    for i, name in enumerate(theirs):
        _, stage, part, *rest = name.split(".")
        ours = ".".join([str(2 - int(stage)), OURS[part], *(rest[1:] if part == "att_conv" else rest)])
        inputs[ours] = normal(*model.state_dict()[name].shape, seed=20 + i, scale=0.5)
    yield case(function, inputs)

    def context(student: Tensor, teacher: Tensor) -> Tensor:
        value: Tensor = torch.as_tensor(found["hcl"]([student], [teacher]))
        return value

    for size in (1, 3, 8):
        yield case(context, {"student": normal(2, 3, size, size), "teacher": normal(2, 3, size, size, seed=1)})
