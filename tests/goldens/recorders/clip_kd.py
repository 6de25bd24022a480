"""CLIP-KD by its authors: gradient distillation and contrastive relational distillation, as their loss calls them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch.nn.functional as F
from record import Checkout, case, normal
from torch import Tensor, arange

REPOSITORY = "winycg/CLIP-KD"
FUNCTION = "src.open_clip.loss.get_grad, src.open_clip.loss.DistillKL"


def cases(checkout: Checkout) -> Iterator[dict[str, Any]]:
    found = checkout.load("src/open_clip/loss.py", "get_grad", "DistillKL")
    temperature, other = 0.3, 0.2

    def gradients(image: Tensor, text: Tensor, tau: float) -> list[Tensor]:
        image, text = F.normalize(image, dim=1), F.normalize(text, dim=1)
        label = arange(len(image))
        return [*found["get_grad"](image, text, tau, label), *found["get_grad"](text, image, tau, label)]

    def gd(*values: Tensor) -> Tensor:
        pairs = zip(gradients(*values[:2], temperature), gradients(*values[2:], other), strict=True)
        return sum(F.mse_loss(s, t) for s, t in pairs)  # type: ignore[return-value]

    def crd(*values: Tensor) -> Tensor:
        image_s, text_s, image_t, text_t = (F.normalize(v, dim=1) for v in values)
        logits_s, logits_t = image_s @ text_s.T / temperature, image_t @ text_t.T / other
        kl = found["DistillKL"](1)
        return (kl(logits_s, logits_t) + kl(logits_s.T, logits_t.T)) / 2

    inputs = {
        "student_image": normal(4, 3),
        "student_text": normal(4, 3, seed=1),
        "teacher_image": normal(4, 3, seed=2),
        "teacher_text": normal(4, 3, seed=3),
    }
    options = {"temperature": temperature, "teacher_temperature": other}
    yield case(gd, inputs, loss="gd", **options)
    yield case(crd, inputs, loss="crd", **options)
