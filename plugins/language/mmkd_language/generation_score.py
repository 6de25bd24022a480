"""Scores of what a network writes against what should have been written."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

import mmkd
from mmkd.errors import DataError
from mmkd_language.bleu import corpus_bleu

_TOKENS = torch.arange(96).view(12, 8).square() % 7


class Generation(mmkd.Metric):
    """BLEU and exact matches of what a network writes, against the completions of the data (Papineni et al., 2002).

    Both are over the network's own tokens, its end of text included, so that networks compare where their tokenizers
    are equal. `bleu` is that of the whole dataset, `exact` the share of completions that are the reference throughout.

    Args:
        order: length of the longest runs of tokens that BLEU counts.

    Shape: generated `[B, N]`, filled up with -1; labels, completion `[B, T]` (next tokens, and which of them are the
        reference) -> `bleu` and `exact`, from 0 to 1.

    Raises:
        DataError: no sample was seen.
    """

    conformance: ClassVar[dict[str, Any]] = {
        "inputs": {
            "generated": torch.cat([_TOKENS[:, :6], _TOKENS[:, 6:].flip(1)], 1),
            "labels": _TOKENS,
            "completion": torch.ones(12, 8, dtype=torch.bool),
        }
    }

    def __init__(self, order: Annotated[int, Field(ge=1)] = 4) -> None:
        super().__init__()
        self.order = order
        self.written, self.wanted = mmkd.Rows("language.generation"), mmkd.Rows("language.generation")

    def forward(self, generated: Tensor, labels: Tensor, completion: Tensor) -> None:
        self.written.add([[token for token in row if token >= 0] for row in generated.tolist()])
        rows = zip(labels.tolist(), completion.tolist(), strict=True)
        self.wanted.add([[token for token, kept in zip(*row, strict=True) if kept] for row in rows])

    def compute(self) -> dict[str, float]:
        pairs = list(zip(self.written.listed(), self.wanted.listed(), strict=True))
        if not pairs:
            raise DataError("saw no sample", where="language.generation", next="check data.eval")
        exact = sum(made == wanted for made, wanted in pairs) / len(pairs)
        return {"bleu": corpus_bleu(pairs, self.order), "exact": exact}
