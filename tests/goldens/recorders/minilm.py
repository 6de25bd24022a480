"""MiniLMv2 by Bloomberg; its authors published no training code."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from record import Checkout, case, normal
from torch import Tensor, nn, tensor

REPOSITORY = "bloomberg/minilmv2.bb"
FUNCTION = "minilmv2.minilmv2.MiniLM"


def cases(checkout: Checkout) -> Iterator[dict[str, Any]]:
    given = {"math": math, "Dict": dict, "Tuple": tuple}
    cls = checkout.load("minilmv2/minilmv2.py", "MiniLM", **given)["MiniLM"]
    model = cls.__new__(cls)
    nn.Module.__init__(model)
    model.kl_loss_fn, model.A_r = nn.KLDivLoss(reduction="sum"), 2

    def function(q_s: Tensor, k_s: Tensor, v_s: Tensor, q_t: Tensor, k_t: Tensor, v_t: Tensor, mask: Tensor) -> Tensor:
        total: Any = 0
        for s, t in ((q_s, q_t), (k_s, k_t), (v_s, v_t)):
            scores = []
            for x in (t, s):
                heads = model._transpose_for_scores_relation(x, x.shape[2] // 2)
                scores.append(heads @ heads.transpose(-1, -2) / math.sqrt(x.shape[2] // 2))
            total = total + model._get_kl_loss(*scores, mask) / 3
        return total

    inputs = {f"{x}_s": normal(3, 4, 4, seed=i) for i, x in enumerate("qkv")}
    inputs |= {f"{x}_t": normal(3, 4, 6, seed=3 + i) for i, x in enumerate("qkv")}
    inputs["mask"] = tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0]])
    yield case(function, inputs, relation_heads=2)
