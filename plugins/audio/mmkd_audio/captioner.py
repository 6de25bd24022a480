"""Sound to text: any audio encoder and a small decoder that attends to its frames."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from mmkd_language.causal_lm import words
from mmkd_language.completion import BYTES, Completions
from pydantic import Field
from torch import Tensor, nn

import mmkd
from mmkd.errors import GraphError, MmkdError, RecipeError
from mmkd_audio.text_decoder import TextDecoder

Size = Annotated[int, Field(gt=0)]
CAPTION = ("input_ids", "labels", "completion", "reference")
"""Fields of the caption."""


class Captioner(mmkd.Encoder):
    """Any audio encoder and a small transformer that writes what is heard (Mei et al., 2021).

    A sample's sound is captioned by its `target`, or by its `text` where it has none; position t predicts token t + 1.
    A sound without either has nothing to be predicted, in a batch beside others; it has frames, an embedding, and a
    caption that is written.

    Values: `logits`; `labels`, the next tokens; `completion`, true where there is one (for the `mask:` of a loss);
    `reference`, true where it is the data's own; `generated`, the caption that is written greedily, filled up with -1;
    and all values of the audio encoder, `audio.embedding`, `audio.tokens`, `audio.mask` among them. What nobody reads
    is not computed: an `audio.embedding` alone runs no decoder.

    Args:
        audio: encoder with a value `tokens` `[B, L, D]`, and `mask` where sounds differ in length.
        layers: blocks of the decoder.
        width: its hidden size, even; `heads` divide it.
        heads: its attention heads.
        dropout: of its branches, attention and embeddings.
        tokenizer: `bytes`, a list of words, `words` for those of `corpus`, or whose tokenizer to use (a folder,
            `package:name`, or `org/name` of the hub).
        corpus: dataset whose texts and targets give the words. An exported captioner is rebuilt with it, and refused
            where its words have changed.
        max_length: tokens predicted of a caption, its end included.
        max_new_tokens: tokens of `generated` at most; None for `max_length`.

    Shape: input_ids `[B, T]` and the audio encoder's fields -> logits `[B, T, V]`, labels, completion, reference
        `[B, T]`, generated `[B, N]`, audio.tokens `[B, L, D]`, audio.embedding `[B, D]`.

    Raises:
        MmkdError: the heads do not divide the width, or words are wanted of no corpus.
        RecipeError: the audio encoder gives no frames.
        GraphError: logits are wanted of samples without captions, or weights over other words are loaded.
    """

    def __init__(
        self,
        audio: mmkd.Encoder,
        layers: Size = 2,
        width: Size = 128,
        heads: Size = 4,
        dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0,
        tokenizer: str | list[str] = BYTES,
        corpus: mmkd.Dataset | None = None,
        max_length: Annotated[int, Field(ge=2)] = 64,
        max_new_tokens: Size | None = None,
    ) -> None:
        super().__init__()
        if width % heads or width % 2:
            fit = -(-width // (2 * heads)) * 2 * heads
            raise MmkdError(f"a width of {width} is not even, or no multiple of {heads} heads", next=f"width: {fit}")
        if tokenizer == "words":
            if corpus is None:
                raise MmkdError("words are those of a corpus", where="tokenizer", next="corpus: {use: ...}")
            tokenizer = words(corpus)
        self.audio, self.max_new_tokens = audio, max_new_tokens
        self.license = audio.license
        self.capabilities = frozenset({"text", "logits", "generate"}) | (audio.capabilities & {"hidden", "input_grad"})  # type: ignore[misc]
        self.text = Completions(tokenizer, max_length, separator="")
        self.text.start = self.text.start or [self.text.eos]  # a caption has nothing else before its first word
        self.decoder = TextDecoder(self.text, _frame_width(audio), layers, width, heads, dropout)
        self._path = next(path for path, module in self.named_modules() if module is audio.network)

    # -- what is read -------------------------------------------------------------------------------------------

    @property
    def _predicts(self) -> bool:
        """Whether the decoder reads captions."""
        return self.wants("logits") or self.wants("/decoder")

    @property
    def _writes(self) -> bool:
        return self.wanted is not None and "generated" in self.wanted

    @property
    def _hears(self) -> bool:
        return self._predicts or self._writes or self.wants("audio.") or self.wants("/audio")

    @property
    def _reads(self) -> bool:
        """Whether captions are asked of a sample."""
        return self._predicts or any(map(self.wants, CAPTION))

    def _heard(self) -> frozenset[str] | None:
        """What is read of the audio encoder, in its words."""
        if self.wanted is None:
            return None
        path = f"/{self._path}."
        names = {name.removeprefix("audio.") for name in self.wanted if name.startswith("audio.")}
        taps = {f"/{name.removeprefix(path)}" for name in self.wanted if name.startswith(path)}
        frames = {"tokens", "mask"} & set(self.audio.values()) if self._predicts or self._writes else set()
        return frozenset(names | taps | frames)

    # -- a sample -----------------------------------------------------------------------------------------------

    def values(self) -> list[str]:
        return ["logits", *CAPTION[1:], "generated", *(f"audio.{name}" for name in self.audio.values())]

    def locate(self, name: str) -> str | None:
        side, _, value = name.partition(".")
        path = self.audio.locate(value) if side == "audio" else None
        return None if path is None else f"{self._path}.{path}"

    def inputs(self) -> dict[str, bool]:
        """The caption's fields, and those of the audio encoder with and (shared fields of the batch) without prefix."""
        own = list(self.audio.inputs())
        return dict.fromkeys([*CAPTION, *(f"audio.{field}" for field in own), *own], False)

    def transform(self, sample: mmkd.Sample) -> dict[str, Any]:
        made: dict[str, Any] = {}
        if self._hears:
            with self.audio.reading(self._heard()):
                made |= {f"audio.{field}": value for field, value in self.audio.transform(sample).items()}
        if self._reads and ("target" in sample or "text" in sample):
            made |= self.text.row({"text": "", "target": sample["target"]} if "target" in sample else sample)
        return made

    def transform_key(self) -> Hashable:
        with self.audio.reading(self._heard()):
            sound = self.audio.transform_key() if self._hears else "unheard"
        return None if sound is None else ("captioner", sound, self.text.key if self._reads else "unread")

    def collate(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        sounds = [{k.removeprefix("audio."): v for k, v in row.items() if k.startswith("audio.")} for row in rows]
        batch = {f"audio.{k}": v for k, v in self.audio.collate(sounds).items()} if any(sounds) else {}
        if any("input_ids" in row for row in rows):
            nothing = self.text.joined([*self.text.start, self.text.eos], [])
            batch |= self.text.batch([row if "input_ids" in row else nothing for row in rows])
        return batch

    def lengths(self, **inputs: Any) -> dict[str, Tensor]:
        """To the end of each caption, and of each sound."""
        found: dict[str, Tensor] = {}
        if any(f"audio.{field}" in inputs or field in inputs for field in self.audio.inputs()):
            found |= {f"audio.{name}": length for name, length in self.audio.lengths(**self._sound(inputs)).items()}
        if inputs.get("completion") is not None:
            found |= dict.fromkeys(["logits", *CAPTION[1:]], self.text.lengths(inputs["completion"]))
        return found

    def vocabulary(self) -> dict[str, int]:
        return self.text.vocabulary

    def export_tokenizer(self, folder: Path) -> str:
        return self.text.export(folder)

    # -- a batch ------------------------------------------------------------------------------------------------

    def forward(
        self,
        input_ids: Tensor | None = None,
        labels: Tensor | None = None,
        completion: Tensor | None = None,
        reference: Tensor | None = None,
        **sound: Any,
    ) -> dict[str, Tensor]:
        given = {
            "labels": labels,
            "completion": completion,
            "reference": completion if reference is None else reference,
        }
        values = {name: value for name, value in given.items() if value is not None}
        asked = self.wanted is not None and (self._predicts or bool(self.wanted & given.keys()))
        if asked and input_ids is None:
            raise GraphError(
                "the samples have no caption, neither 'target' nor 'text'", where="audio.captioner",
                exists=sorted(sound),
                next="read audio.embedding or generated of them, or let a teacher write: use: language.generated",
            )  # fmt: skip
        if not self._hears:
            return values
        with self.audio.reading(self._heard()):
            heard = dict(self.audio(**self._sound(sound)))
        values |= {f"audio.{name}": value for name, value in heard.items()}
        if self._writes:
            with torch.no_grad(), self.unread():
                made = self.decoder.search(self._context(heard), 1, self.max_new_tokens)
            written = [torch.tensor(row, dtype=torch.long, device=self.decoder.device) for (row,) in made]
            values["generated"] = nn.utils.rnn.pad_sequence(written, batch_first=True, padding_value=-1)
        if self._predicts and input_ids is not None:
            values["logits"] = self.decoder(input_ids, self._context(heard))
        return values

    def _sound(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """The fields of the audio encoder."""
        given: dict[str, Any] = {}
        for field, required in self.audio.inputs().items():
            if (name := f"audio.{field}") in fields or (name := field) in fields:
                given[field] = fields[name]
            elif required:
                raise GraphError("the samples have no sound, and it is wanted", where="audio.captioner",
                                 exists=sorted(fields))  # fmt: skip
        return given

    def _context(self, heard: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return self.decoder.context(heard["tokens"], heard.get("mask"))

    # -- writing ------------------------------------------------------------------------------------------------

    def generate(
        self, fields: Mapping[str, Tensor], rows: Sequence[int], draws: Tensor, *,
        temperature: float = 1.0, top_k: int | None = None, top_p: float = 1.0, cached: bool = True,
    ) -> list[list[int]]:  # fmt: skip
        """A caption for some rows of a batch, sampled as `language.causal_lm` samples a completion."""
        options: dict[str, Any] = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "cached": cached}
        return self.decoder.sample(self._context_of(fields, rows), draws, **options)

    def beams(
        self, fields: Mapping[str, Tensor], rows: Sequence[int], beams: int,
        max_new_tokens: int | None = None, length_penalty: float = 1.0,
    ) -> list[list[list[int]]]:  # fmt: skip
        """What beam search ends with for some rows of a batch, the likeliest caption first."""
        return self.decoder.search(self._context_of(fields, rows), beams, max_new_tokens, length_penalty)

    def _context_of(self, fields: Mapping[str, Any], rows: Sequence[int]) -> dict[str, Tensor]:
        own = {k: v.to(self.decoder.device) if isinstance(v, Tensor) else v for k, v in fields.items()}
        with torch.no_grad(), self.unread(), self.audio.reading(frozenset({"tokens", "mask"})):
            return {name: x[list(rows)] for name, x in self._context(self.audio(**self._sound(own))).items()}

    def rewritten(self, fields: Mapping[str, Tensor], completions: Mapping[int, Sequence[int]]) -> dict[str, Tensor]:
        """The batch with other captions in some of its rows, which are the data's own no more."""
        return {**fields, **self.text.rewritten(fields, completions)}

    def read(self, ids: Sequence[int]) -> tuple[str, bool]:
        """The text of a caption, and whether it came to its end."""
        return self.text.decode(ids), bool(len(ids)) and ids[-1] == self.text.eos

    def spell(self, text: str, ended: bool = True) -> list[int]:
        """A caption in this network's own tokens."""
        return self.text.written(text) if ended else self.text.encode(text)

    # -- weights ------------------------------------------------------------------------------------------------

    def get_extra_state(self) -> Tensor:
        """SHA-256 of the vocabulary."""
        written = json.dumps(self.text.vocabulary, sort_keys=True)
        return torch.tensor(list(hashlib.sha256(written.encode()).digest()), dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        if not torch.equal(state.cpu(), self.get_extra_state()):
            raise GraphError(
                "these weights were trained over another vocabulary", where="audio.captioner.tokenizer",
                next="give the words, or the corpus, that the captioner was trained with",
            )  # fmt: skip


def _frame_width(audio: mmkd.Encoder) -> int:
    """Width of the frames, seen on a second of noise.

    Raises:
        RecipeError: there are none.
    """
    if "tokens" not in audio.values():
        raise RecipeError("publishes no 'tokens'", where="audio.captioner.audio", exists=audio.values())
    wave = np.random.default_rng(0).standard_normal(16_000).astype(np.float32) / 10
    modes = {module: module.training for module in audio.modules()}
    try:
        with torch.no_grad(), audio.eval().reading(frozenset({"tokens", "mask"})):
            row = audio.transform({"key": "noise", "audio": {"array": wave, "sampling_rate": 16_000}})
            made = audio(**audio.collate([row]))
    finally:
        for module, mode in modes.items():
            module.training = mode
    if "tokens" not in made or made["tokens"].dim() != 3:
        shape = list(made["tokens"].shape) if "tokens" in made else "not what forward returns"
        raise RecipeError(f"its tokens are {shape}, and must be [B, L, D]", where="audio.captioner.audio")
    return int(made["tokens"].shape[2])
