"""Prompt and completion as token ids, and back."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers
from tokenizers import decoders, models, pre_tokenizers
from torch import Tensor

from mmkd.errors import DataError, MmkdError
from mmkd_language.checkpoint import FILES_ONLY, folder

BYTES = "bytes"
SPECIAL = ("<pad>", "<s>", "</s>", "<unk>")
_EXPORTED = """\
tokenizer = Tokenizer.from_file("tokenizer.json")
rows = [({start} + tokenizer.encode(text, add_special_tokens=False).ids)[:{length}] for text in texts]
width = max(len(row) for row in rows)
tokens = {{"input_ids": numpy.array([row + [{pad}] * (width - len(row)) for row in rows])}}
"""


class Completions:
    """Texts to `<s> prompt separator completion </s>`, where each token but the first is to be predicted.

    Args:
        source: `bytes`, a list of words, or the pretrained network whose tokenizer is meant (`checkpoint.folder`).
        max_length: tokens predicted of a text at most; what is longer is cut off on the right.
        separator: what stands between prompt and completion; a list of words has the line break as a word.

    Raises:
        MmkdError: the pretrained tokenizer has no end-of-text token, so that nothing that it writes would end.
    """

    def __init__(self, source: str | Sequence[str], max_length: int, separator: str = "\n") -> None:
        self.max_length, self.separator = max_length, separator
        self._tokenizer: Any = _tokenizer(source)
        self.size = len(self._tokenizer)
        if self._tokenizer.eos_token_id is None:
            raise MmkdError(f"the tokenizer of '{source}' has no end-of-text token")
        self.eos: int = self._tokenizer.eos_token_id
        self.pad: int = self.eos if self._tokenizer.pad_token_id is None else self._tokenizer.pad_token_id
        self.start: list[int] = [] if self._tokenizer.bos_token_id is None else [self._tokenizer.bos_token_id]
        self.limit = int(min(self._tokenizer.model_max_length, 1 << 30))

    @functools.cached_property
    def vocabulary(self) -> dict[str, int]:
        """Token to id."""
        return dict(self._tokenizer.get_vocab())

    @functools.cached_property
    def key(self) -> Hashable:
        """Equal where equal samples become equal rows."""
        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        text = backend.to_str() if backend is not None else json.dumps(self.vocabulary, sort_keys=True)
        made = hashlib.sha256(text.encode()).hexdigest()
        return "completions", made, self.max_length, self.separator, tuple(self.start), self.eos

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without any that mark its beginning or end."""
        return list(self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def decode(self, ids: Sequence[int]) -> str:
        """The text of some ids, without special tokens."""
        text = self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return str(text)

    def row(self, sample: Mapping[str, Any]) -> dict[str, Tensor]:
        """A sample's `text` as the prompt and its `target` as the completion; without `target`, all of `text` is to be
        predicted.

        Raises:
            DataError: one of them is not a string.
        """
        for field in ("text", "target"):
            value = sample[field] if field == "text" else sample.get(field, "")
            if not isinstance(value, str):
                raise DataError(f"{field} is {type(value).__name__}, not a string")
        if "target" in sample:
            prompt = self.start + self.encode(sample["text"] + self.separator)
            return self.joined(prompt, self.written(sample["target"]))
        return self.joined(self.start, self.written(sample["text"]))

    def written(self, text: str) -> list[int]:
        """Ids of a completion, with its end."""
        return [*self.encode(text), self.eos]

    def joined(self, prompt: Sequence[int], completion: Sequence[int]) -> dict[str, Tensor]:
        """Prompt and completion as one row: `input_ids`, the next tokens `labels`, and which of these count."""
        ids = torch.tensor([*prompt, *completion][: self.max_length + 1])
        completed = torch.arange(1, len(ids)) >= len(prompt)
        return {"input_ids": ids[:-1], "labels": ids[1:], "completion": completed}

    def batch(self, rows: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """Rows as `[B, T]`, padded on the right to the longest one; padding is no completion. `reference` marks what
        the data wrote: all of it."""
        fills: dict[str, Any] = {"input_ids": self.pad, "labels": self.pad, "completion": False}
        made = {
            name: torch.nn.utils.rnn.pad_sequence([row[name] for row in rows], batch_first=True, padding_value=fill)
            for name, fill in fills.items()
        }
        return {**made, "reference": made["completion"]}

    def rows(self, fields: Mapping[str, Tensor]) -> Iterator[tuple[list[int], list[int]]]:
        """Prompt and completion of each row of a batch."""
        columns = (fields[name].tolist() for name in ("input_ids", "labels", "completion"))
        for ids, labels, completed in zip(*columns, strict=True):
            first = completed.index(True) if True in completed else len(ids)
            last = len(completed) - completed[::-1].index(True) if True in completed else len(ids)
            yield ids[: first + 1], labels[first:last]

    def rewritten(self, fields: Mapping[str, Tensor], completions: Mapping[int, Sequence[int]]) -> dict[str, Tensor]:
        """The rows of a batch with other completions in some of them, which are the data's own no more."""
        rows = [
            self.joined(prompt, completions.get(i, completion))
            for i, (prompt, completion) in enumerate(self.rows(fields))
        ]
        made = self.batch(rows)
        own = torch.tensor([i not in completions for i in range(len(rows))])
        if "reference" in fields:
            own &= fields["reference"].any(1).cpu()
        made["reference"] = made["completion"] & own.unsqueeze(1)
        return {name: value.to(fields["input_ids"].device) for name, value in made.items()}

    @staticmethod
    def lengths(completion: Tensor) -> Tensor:
        """To the end of each completion; all of a row that has none. Shape: `[B, T]` -> `[B]`."""
        length = completion.shape[1]
        ends = torch.arange(1, length + 1, device=completion.device) * completion
        return torch.where(completion.any(1), ends.amax(1), length) if length else ends.sum(1)

    def export(self, folder: Path) -> str:
        """Write the tokenizer; returns Python from a list `texts` to a dict `tokens` of arrays."""
        self._tokenizer.save_pretrained(str(folder))
        return _EXPORTED.format(start=self.start, length=self.max_length, pad=self.pad)


def _tokenizer(source: str | Sequence[str]) -> Any:
    if source == BYTES:
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        vocabulary = {token: i for i, token in enumerate([*SPECIAL[:3], *alphabet])}
        made = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        made.decoder = decoders.ByteLevel()
        return _fast(made)
    if isinstance(source, str):
        return transformers.AutoTokenizer.from_pretrained(str(folder(source)), **FILES_ONLY)
    words = dict.fromkeys([*SPECIAL, "\n", *source])
    made = tokenizers.Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=SPECIAL[3]))
    spaces, lines = tokenizers.Regex(r"[^\S\n]+"), pre_tokenizers.Split("\n", "isolated")
    made.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(spaces, "removed"), lines])
    return _fast(made, unk_token=SPECIAL[3])


def _fast(made: tokenizers.Tokenizer, **marks: str) -> Any:
    marks |= dict(zip(("pad_token", "bos_token", "eos_token"), SPECIAL, strict=False))
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made, **marks)  # type: ignore[no-untyped-call]
