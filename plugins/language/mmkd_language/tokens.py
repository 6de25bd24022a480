"""Text to token ids, and rows of ids to a padded batch."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mmkd.errors import DataError
from mmkd_language.checkpoint import folder

BYTES = "bytes"


class Tokenizer:
    """Words, pieces or bytes to ids, cut at `max_length`.

    Args:
        source: `bytes`, or the pretrained network whose tokenizer is meant (as in `checkpoint.folder`).
        max_length: tokens kept of a text, special ones included.
    """

    def __init__(self, source: str, max_length: int) -> None:
        self.source, self.max_length = source, max_length
        self.pad, self.size = 0, 2 + 256  # bytes: 0 is padding, 1 begins a text
        self._pretrained: Any = None
        if source != BYTES:
            from transformers import AutoTokenizer

            self._pretrained = AutoTokenizer.from_pretrained(str(folder(source)), local_files_only=True)
            self.pad, self.size = self._pretrained.pad_token_id or 0, len(self._pretrained)

    @property
    def key(self) -> Hashable:
        """Equal for tokenizers that give equal ids."""
        return "tokens", self.source, self.max_length

    def row(self, sample: Mapping[str, Any]) -> dict[str, Tensor]:
        """Ids of `sample["text"]`: `input_ids` `[L]`.

        Raises:
            DataError: it is not a string.
        """
        text = sample["text"]
        if not isinstance(text, str):
            raise DataError(f"text is {type(text).__name__}, not a string")
        if self._pretrained is None:
            ids = [1, *(2 + byte for byte in text.encode()[: self.max_length - 1])]
        else:
            ids = self._pretrained(text, truncation=True, max_length=self.max_length)["input_ids"]
        return {"input_ids": torch.tensor(ids)}

    def batch(self, rows: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """`input_ids` and `attention_mask` `[B, L]`, padded on the right to the longest row."""
        ids = [row["input_ids"] for row in rows]
        padded = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=self.pad)
        lengths = torch.tensor([len(row) for row in ids])
        return {"input_ids": padded, "attention_mask": (torch.arange(padded.shape[1]) < lengths[:, None]).long()}


def masked_mean(tokens: Tensor, attention_mask: Tensor) -> Tensor:
    """Mean over the tokens of each text. Shape: `[B, L, D]`, `[B, L]` -> `[B, D]`."""
    mask = attention_mask.to(tokens.dtype).unsqueeze(-1)
    return (tokens * mask).sum(1) / mask.sum(1).clamp(min=1)
