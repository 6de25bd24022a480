"""PKT by its first author."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from record import Checkout, case, normal

REPOSITORY = "passalis/probabilistic_kt"
FUNCTION = "nn.pkt.cosine_similarity_loss"


def cases(checkout: Checkout) -> Iterator[dict[str, Any]]:
    loss = checkout.load("nn/pkt.py", "cosine_similarity_loss")["cosine_similarity_loss"]
    for size in (3, 6):
        yield case(loss, {"student": normal(size, 4), "teacher": normal(size, 5, seed=1)})
