"""Text to token ids, and rows of ids to a padded batch."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mmkd.errors import DataError
from mmkd_language.checkpoint import FILES_ONLY, folder

BYTES = "bytes"
MOST = 1 << 30
_BATCHED = """\
width = WIDTH
tokens = {"input_ids": numpy.array([FILLED for row in rows])}
"""
_MASK = 'tokens["attention_mask"] = numpy.array([[1] * len(row) + [0] * (width - len(row)) for row in rows])\n'


class Tokenizer:
    """Words, pieces or bytes to ids, cut at `max_length`.

    Args:
        source: `bytes`, or the pretrained network whose tokenizer is meant (as in `checkpoint.folder`).
        max_length: tokens kept of a text, special ones included.
        padded: bring every text to `max_length`, on the tokenizer's own side, for networks that know no mask.
    """

    def __init__(self, source: str, max_length: int, *, padded: bool = False) -> None:
        self.source, self.max_length, self.padded = source, max_length, padded
        self.pad, self.size = 0, 2 + 256  # bytes: 0 is padding, 1 begins a text
        self.limit, self._left = MOST, False
        self._pretrained: Any = None
        if source != BYTES:
            from transformers import AutoTokenizer

            self._pretrained = AutoTokenizer.from_pretrained(str(folder(source)), **FILES_ONLY)
            self.limit = self._pretrained.model_max_length
            self._left = padded and self._pretrained.padding_side == "left"
            self.pad, self.size = self._pretrained.pad_token_id or 0, len(self._pretrained)

    @property
    def key(self) -> Hashable:
        """Equal for tokenizers that give equal ids."""
        return "tokens", self.source, self.max_length, self.padded

    @property
    def vocabulary(self) -> dict[str, int]:
        """Token to id; bytes are written `<0x41>`."""
        if self._pretrained is None:
            return {"<pad>": 0, "<s>": 1, **{f"<0x{byte:02X}>": 2 + byte for byte in range(256)}}
        return dict(self._pretrained.get_vocab())

    def export(self, folder: Path) -> str:
        """Write the tokenizer's files, if any; returns Python from a list `texts` to a dict `tokens` of arrays."""
        if self._pretrained is None:
            rows = f"rows = [[1, *(2 + byte for byte in text.encode()[:{self.max_length - 1}])] for text in texts]\n"
        else:
            self._pretrained.save_pretrained(str(folder))
            rows = (
                'tokenizer = Tokenizer.from_file("tokenizer.json")\n'
                f"tokenizer.enable_truncation({self.max_length})\n"
                "tokenizer.no_padding()\n"
                "rows = [tokenizer.encode(text).ids for text in texts]\n"
            )
        width = str(self.max_length) if self.padded else "max(len(row) for row in rows)"
        fill = f"[{self.pad}] * (width - len(row))"
        filled = f"{fill} + row" if self._left else f"row + {fill}"
        return rows + _BATCHED.replace("WIDTH", width).replace("FILLED", filled) + _MASK * (not self.padded)

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
        """`input_ids` and (unless `padded`) `attention_mask` `[B, L]`, padded on the right to the longest row."""
        ids = [row["input_ids"] for row in rows]
        if self.padded:
            lacking = [self.max_length - len(row) for row in ids]
            sides = [(n, 0) if self._left else (0, n) for n in lacking]
            return {"input_ids": torch.stack([F.pad(x, n, value=self.pad) for x, n in zip(ids, sides, strict=True)])}
        padded = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=self.pad)
        lengths = torch.tensor([len(row) for row in ids])
        return {"input_ids": padded, "attention_mask": (torch.arange(padded.shape[1]) < lengths[:, None]).long()}


def masked_mean(tokens: Tensor, attention_mask: Tensor) -> Tensor:
    """Mean over the tokens of each text. Shape: `[B, L, D]`, `[B, L]` -> `[B, D]`."""
    mask = attention_mask.to(tokens.dtype).unsqueeze(-1)
    return (tokens * mask).sum(1) / mask.sum(1).clamp(min=1)
