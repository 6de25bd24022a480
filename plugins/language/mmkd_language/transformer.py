"""A small text transformer that is trained from scratch."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

import mmkd
from mmkd.errors import MmkdError
from mmkd_language.tokens import BYTES, Tokenizer, masked_mean

Size = Annotated[int, Field(gt=0)]


class TextTransformer(mmkd.Encoder):
    """A small pre-norm transformer over word pieces or bytes, trained from scratch (Vaswani et al., 2017).

    Values: `embedding`, the mean of the tokens; `tokens`, the states after the final norm, padding included;
    `hidden.0` enters the first block, `hidden.i` leaves block i, before the final norm.

    Args:
        layers: blocks; with 0 the embedding is that of a bag of tokens.
        dim: width of everything, the embedding included.
        heads: attention heads; they divide `dim`.
        max_length: tokens kept of a text.
        tokenizer: `bytes` (no files), or whose word pieces to use: folder, `package:name` or `org/name`.
        dropout: of embeddings, attention and branches.

    Shape: input_ids, attention_mask `[B, L]` -> embedding `[B, D]`, tokens and hidden `[B, L, D]`.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"text", "hidden"})

    def __init__(
        self,
        layers: Annotated[int, Field(ge=0)] = 2,
        dim: Size = 256,
        heads: Size = 4,
        max_length: Annotated[int, Field(ge=2)] = 64,
        tokenizer: str = BYTES,
        dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0,
    ) -> None:
        super().__init__()
        if dim % heads:
            raise MmkdError(f"{heads} heads do not divide a dim of {dim}", next=f"dim: {-(-dim // heads) * heads}")
        self.embedding_dim = dim
        self.tokenizer = Tokenizer(tokenizer, max_length)
        self.embed = nn.Embedding(self.tokenizer.size, dim)
        self.position = nn.Parameter(torch.empty(max_length, dim))
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(dim, heads, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(dim)
        nn.init.normal_(self.embed.weight, std=0.02)
        nn.init.normal_(self.position, std=0.02)

    def values(self) -> list[str]:
        return ["embedding", "tokens", *(f"hidden.{i}" for i in range(len(self.blocks) + 1))]

    def locate(self, name: str) -> str | None:
        kind, _, index = name.partition(".")
        if kind != "hidden":
            return "norm" if kind == "tokens" else None
        if int(index):
            return f"blocks.{int(index) - 1}"
        return "blocks.0.input" if len(self.blocks) else "norm.input"

    def transform(self, sample: mmkd.Sample) -> dict[str, Any]:
        return dict(self.tokenizer.row(sample))

    def collate(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        return dict(self.tokenizer.batch(rows))

    def lengths(self, **inputs: Tensor) -> dict[str, Tensor]:
        return {name: inputs["attention_mask"].sum(1) for name in self.values() if name != "embedding"}

    def transform_key(self) -> Hashable:
        return self.tokenizer.key

    def vocabulary(self) -> dict[str, int]:
        return self.tokenizer.vocabulary

    def export_tokenizer(self, folder: Path) -> str:
        return self.tokenizer.export(folder)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        x = self.dropout(self.embed(input_ids) + self.position[: input_ids.shape[1]])
        mask = attention_mask.bool()[:, None, None]
        for block in self.blocks:
            x = block(x, mask)
        tokens = self.norm(x)
        return {"tokens": tokens, "embedding": masked_mean(tokens, attention_mask)}


class Block(nn.Module):
    """Attention, then a layer of 4 times the width, each normed first and added to its input."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.rate = heads, dropout
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = x + self.dropout(self._attend(self.norm1(x), mask))
        return x + self.dropout(self.mlp(self.norm2(x)))  # type: ignore[no-any-return]

    def _attend(self, x: Tensor, mask: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        rate = self.rate if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=rate)
        attended: Tensor = self.out(y.transpose(1, 2).flatten(2))
        return attended
