"""Causal language models of transformers, which write as well as read."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch
import transformers
from pydantic import Field
from torch import Tensor, nn

import mmkd
from mmkd.errors import MmkdError
from mmkd_language import generation
from mmkd_language.checkpoint import checksum, licence
from mmkd_language.completion import BYTES, Completions
from mmkd_language.network import configured, eager, hidden, load, override, quiet

Size = Annotated[int, Field(gt=0)]
_USAGE = """\
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(".")
model = AutoModelForCausalLM.from_pretrained(".").eval()
texts = ["a sad cat"]
rows = [({start} + tokenizer(text, add_special_tokens=False)["input_ids"])[:{length}] for text in texts]
width = max(len(row) for row in rows)
ids = torch.tensor([row + [{pad}] * (width - len(row)) for row in rows])
with torch.no_grad():
    values = {{"logits": model(input_ids=ids).logits}}
"""


class CausalLM(mmkd.Encoder):
    """Any causal language model of transformers under its own name, or a small new one (Radford et al., 2019).

    A sample's `text` is the prompt and its `target` the completion; a sample without `target` is text to be predicted
    from its beginning. Position t predicts token t + 1. Values: `logits`; `labels`, the next tokens; `completion`,
    true where the next token is one of the completion (for the `mask:` of a loss, since prompt and padding do not
    count); `reference`, true where it is the data's own and no network wrote it; `generated`, the greedy completion of
    the prompt, filled up with -1; `hidden.0` enters the first block, `hidden.i` leaves block i, before the final norm;
    `attention.<i>` are the maps of block i + 1, made where the graph reads them. Padding stands on the right, where no
    token can see it, so that no mask is needed.

    Args:
        pretrained: folder, `package:name` of an installed package with weights, or `org/name` of the hub.
        model: the same forms; whose architecture (and tokenizer) to use. None for those of `pretrained`; with `model`
            alone the weights are random. With neither, the network is a small new one.
        config: entries of the architecture's config to replace; fewer layers of pretrained weights are the first ones.
        architecture: what a small new network is.
        layers: blocks of a small new network.
        width: its hidden size; `heads` divide it.
        heads: its attention heads.
        tokenizer: `bytes`, a list of words, `words` for those of `corpus`, or whose tokenizer to use; None for that of
            the model, and bytes for a small new network.
        corpus: dataset whose texts and targets give the words.
        max_length: tokens predicted of a text, prompt and completion together.
        max_new_tokens: tokens of `generated` at most; None for as many as `max_length` leaves.
        separator: what is put between prompt and completion.
        sha256: checksum that the `model.safetensors` of `pretrained` must have.

    Shape: input_ids `[B, T]` -> logits `[B, T, V]`, labels, completion, reference `[B, T]`, generated `[B, N]`, hidden
        `[B, T, D]`, attention `[B, heads, T, T]`.

    Raises:
        MmkdError: files are not there or not the ones pinned, weights do not fill the network, a tokenizer has more
            tokens than the network or no end-of-text token.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"text", "hidden", "attention", "logits", "generate"})

    def __init__(
        self,
        pretrained: str | None = None,
        model: str | None = None,
        config: dict[str, Any] | None = None,
        architecture: Literal["llama", "gpt2"] = "llama",
        layers: Size = 2,
        width: Size = 64,
        heads: Size = 2,
        tokenizer: str | list[str] | None = None,
        corpus: mmkd.Dataset | None = None,
        max_length: Annotated[int, Field(ge=2)] = 128,
        max_new_tokens: Size | None = None,
        separator: str = "\n",
        sha256: str | None = None,
    ) -> None:
        super().__init__()
        source = model or pretrained
        if tokenizer == "words":
            if corpus is None:
                raise MmkdError("words are those of a corpus", where="tokenizer", next="corpus: {use: ...}")
            tokenizer = words(corpus)
        self.max_new_tokens = max_new_tokens
        self.text = Completions(tokenizer or source or BYTES, max_length, separator)
        self._fingerprint = f"sha256:{checksum(pretrained, sha256)}" if pretrained else None
        self.license = licence(pretrained) if pretrained else None
        overrides = dict(config or {})
        if source is None:
            if width % heads:
                raise MmkdError(
                    f"{heads} heads do not divide a width of {width}", next=f"width: {-(-width // heads) * heads}"
                )
            settings = self._small(architecture, layers, width, heads)
            override(settings, overrides, "config")
        else:
            own = {} if pretrained or tokenizer is None else self._marks()
            settings = configured(source, {**own, **overrides})
        self.net = load(transformers.AutoModelForCausalLM, settings, pretrained, lambda network, name: False)
        for module in self.net.modules():
            if isinstance(module, transformers.PreTrainedModel):
                module.warn_if_padding_and_no_attention_mask = _no_warning  # type: ignore[method-assign]
        self._check(source or architecture)

    def _marks(self) -> dict[str, Any]:
        """What a config says of its tokenizer."""
        bos = self.text.start[0] if self.text.start else None
        return {
            "vocab_size": self.text.size, "pad_token_id": self.text.pad, "bos_token_id": bos,
            "eos_token_id": self.text.eos,
        }  # fmt: skip

    def _small(self, architecture: str, layers: int, width: int, heads: int) -> Any:
        size: dict[str, Any] = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads}
        if architecture == "gpt2":
            size |= {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
        else:
            size |= {"intermediate_size": 8 * width // 3, "tie_word_embeddings": True}
        length = self.text.max_length + 1
        return transformers.AutoConfig.for_model(
            architecture, **size, **self._marks(), max_position_embeddings=length, use_cache=False
        )

    def _check(self, source: str) -> None:
        config = self.net.config.get_text_config()
        if self.text.size > config.vocab_size:
            raise MmkdError(
                f"the tokenizer has {self.text.size} tokens, '{source}' {config.vocab_size}", where="tokenizer"
            )
        limit = getattr(config, "max_position_embeddings", None) or self.text.limit
        if self.text.max_length > (limit := min(limit, self.text.limit)):
            raise MmkdError(
                f"'{source}' takes {limit} tokens, not {self.text.max_length}", where="max_length",
                next=f"max_length: {limit}",
            )  # fmt: skip

    @property
    def network(self) -> nn.Module:
        return self.net  # type: ignore[no-any-return]

    @functools.cached_property
    def _hidden(self) -> list[str]:
        ids = torch.full((1, 2), self.text.pad, device=self._device)
        return hidden(self.net, lambda: self.net(input_ids=ids, use_cache=False))

    @property
    def _device(self) -> torch.device:
        return next(self.net.parameters()).device  # type: ignore[no-any-return]

    def values(self) -> list[str]:
        states = [f"hidden.{i}" for i in range(len(self._hidden))]
        maps = [f"attention.{i}" for i in range(len(self._hidden) - 1)]
        return ["logits", "labels", "completion", "reference", "generated", *states, *maps]

    def locate(self, name: str) -> str | None:
        kind, _, index = name.partition(".")
        return self._hidden[int(index)] if kind == "hidden" else None

    def transform(self, sample: mmkd.Sample) -> dict[str, Any]:
        return dict(self.text.row(sample))

    def collate(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        return dict(self.text.batch(rows))

    def lengths(self, **inputs: Any) -> dict[str, Tensor]:
        """To the end of each completion."""
        if (completion := inputs.get("completion")) is None:
            return {}
        last = self.text.lengths(completion)
        return {name: last for name in self.values() if not name.startswith(("attention.", "generated"))}

    def transform_key(self) -> Hashable:
        return self.text.key

    def vocabulary(self) -> dict[str, int]:
        return self.text.vocabulary

    def fingerprint(self) -> str | None:
        """`sha256:` and the checksum of the file of weights; None for random weights."""
        return self._fingerprint

    def formats(self) -> list[str]:
        return ["transformers"]

    def export(self, folder: Path, format: str) -> str:
        with quiet():
            self.net.save_pretrained(str(folder))
        self.text.export(folder)
        return _USAGE.format(start=self.text.start, length=self.text.max_length, pad=self.text.pad)

    def export_tokenizer(self, folder: Path) -> str:
        return self.text.export(folder)

    def forward(
        self,
        input_ids: Tensor,
        labels: Tensor | None = None,
        completion: Tensor | None = None,
        reference: Tensor | None = None,
    ) -> dict[str, Tensor]:
        reference = completion if reference is None else reference
        given = {"labels": labels, "completion": completion, "reference": reference}
        values = {name: value for name, value in given.items() if value is not None}
        if self.wanted is not None and "generated" in self.wanted:
            fields = {"input_ids": input_ids, **values}
            with self.unread():
                made = [row for (row,) in self.beams(fields, range(len(input_ids)), 1, self.max_new_tokens)]
            rows = [torch.tensor(row, dtype=torch.long, device=input_ids.device) for row in made]
            values["generated"] = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-1)
        if self.wanted is None or self.wanted - values.keys():
            maps = self.wanted is not None and self.wants("attention.")
            with eager(self.net) if maps else contextlib.nullcontext():
                output = self.net(input_ids=input_ids, output_attentions=maps, use_cache=False)
            values["logits"] = output.logits
            if maps:
                values |= {f"attention.{i}": attention for i, attention in enumerate(output.attentions)}
        return values

    # -- writing ------------------------------------------------------------------------------------------------

    def generate(
        self, fields: Mapping[str, Tensor], rows: Sequence[int], draws: Tensor, *,
        temperature: float = 1.0, top_k: int | None = None, top_p: float = 1.0, cached: bool = True,
    ) -> list[list[int]]:  # fmt: skip
        """A completion of its own for the prompts of some rows of a batch, as token ids with the end of text.

        Args:
            fields: this network's fields of a batch.
            rows: which of its samples.
            draws: `[len(rows), N]` in [0, 1), one for each token that may be written; a row is a function of its own.
            temperature: of the softmax; 0 takes the likeliest token.
            top_k: likeliest tokens that can be drawn; None for all.
            top_p: share of the probability whose likeliest tokens can be drawn.
            cached: keep keys and values of past tokens instead of computing them anew.
        """
        draws = draws.to(self._device, torch.float32)

        def write(prompts: list[list[int]], chosen: list[int], length: int) -> list[list[int]]:
            return generation.sample(
                self.net, prompts, draws[chosen, :length], self.text.pad, self.text.eos,
                temperature=temperature, top_k=top_k, top_p=top_p, cached=cached,
            )  # fmt: skip

        return self._written(fields, rows, draws.shape[1], write, [])

    def beams(
        self, fields: Mapping[str, Tensor], rows: Sequence[int], beams: int,
        max_new_tokens: int | None = None, length_penalty: float = 1.0,
    ) -> list[list[list[int]]]:  # fmt: skip
        """For the prompts of some rows of a batch, what beam search ends with, the likeliest completion first.

        The score of a completion is its log-probability over its length to the power of `length_penalty`.
        """

        def write(prompts: list[list[int]], chosen: list[int], length: int) -> list[list[list[int]]]:
            text = self.text
            return generation.search(self.net, prompts, beams, length, text.pad, text.eos, self._device, length_penalty)

        return self._written(fields, rows, max_new_tokens or self.text.max_length, write, [[]])

    def _written(
        self, fields: Mapping[str, Tensor], rows: Sequence[int], length: int,
        write: Callable[[list[list[int]], list[int], int], list[Any]], nothing: Any,
    ) -> list[Any]:  # fmt: skip
        """What is written after some prompts; those that leave the same room are continued together."""
        found = list(self.text.rows(fields))
        prompts = [found[row][0] for row in rows]
        together: dict[int, list[int]] = {}
        for i, row in enumerate(rows):
            room = self.text.max_length + 1 - len(prompts[i]) if found[row][1] else 0  # else the prompt itself was cut
            together.setdefault(min(length, room), []).append(i)
        made = [nothing] * len(prompts)
        for room, chosen in together.items():
            if room > 0:
                written = write([prompts[i] for i in chosen], chosen, room)
                for i, completion in zip(chosen, written, strict=True):
                    made[i] = completion
        return made

    def rewritten(self, fields: Mapping[str, Tensor], completions: Mapping[int, Sequence[int]]) -> dict[str, Tensor]:
        """The batch with other completions in some of its rows, which are the data's own no more."""
        return {**fields, **self.text.rewritten(fields, completions)}

    def read(self, ids: Sequence[int]) -> tuple[str, bool]:
        """The text of a completion, and whether it came to its end."""
        return self.text.decode(ids), bool(len(ids)) and ids[-1] == self.text.eos

    def spell(self, text: str, ended: bool = True) -> list[int]:
        """A completion in this network's own tokens."""
        return self.text.written(text) if ended else self.text.encode(text)


def _no_warning(*_: object) -> None:
    """Padding without a mask is right where it stands on the right."""


def words(corpus: mmkd.Dataset) -> list[str]:
    """The words of the texts and targets of a dataset, in alphabetical order."""
    samples = (corpus[i] for i in range(len(corpus)))
    found = {word for sample in samples for field in ("text", "target") for word in sample.get(field, "").split()}
    return sorted(found)
