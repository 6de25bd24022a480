"""Any text network of transformers."""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
import transformers
from pydantic import Field
from torch import Tensor, nn

import mmkd
from mmkd.errors import MmkdError
from mmkd_language.checkpoint import checksum, licence
from mmkd_language.network import configured, eager, hidden, load
from mmkd_language.saved import save
from mmkd_language.tokens import Tokenizer, masked_mean

HEADS: dict[str | None, Any] = {
    None: transformers.AutoModel,
    "masked_lm": transformers.AutoModelForMaskedLM,
    "causal_lm": transformers.AutoModelForCausalLM,
    "sequence_classification": transformers.AutoModelForSequenceClassification,
}
Pooling = Literal["mean", "cls", "max", "last", "pooler"]
Length = Annotated[int, Field(ge=2)]


class TextEncoder(mmkd.Encoder):
    """Any text network of transformers under its own name, with its own tokenizer (Wolf et al., 2020).

    Values: `embedding`; `tokens`, the last hidden states, padding included; `mask`, 1 for tokens and 0 for padding,
    for the `mask:` of a loss; `hidden.0` enters the first block, `hidden.i` leaves block i, before a final norm;
    `attention.<i>` are the maps of block i + 1; `logits` with a `head`. Of an encoder-decoder it is the encoder.

    Attention maps are made where the graph reads them, by plain attention in place of a fused kernel, and then only.
    Only safetensors are read, and no code that comes with a model is run.

    Args:
        pretrained: folder, `package:name` of an installed package with weights, or `org/name` of the hub.
        model: the same forms; whose architecture and tokenizer to use. None for those of `pretrained`. With `model`
            alone the weights are random.
        config: entries of the architecture's config to replace, as in `{num_hidden_layers: 2, hidden_size: 128,
            num_attention_heads: 2}`; fewer layers of pretrained weights are the first ones.
        head: what makes `logits`: `masked_lm` or `causal_lm` `[B, L, V]`, `sequence_classification` `[B, C]`; a head
            that the weights lack is an error, unless `config: {num_labels: C}` asks for a new one.
        pooling: `mean` over tokens, the first (`cls`) or `last` token, `max` over tokens, or the network's `pooler`.
        normalize: scale the embedding to length 1.
        max_length: tokens kept of a text.
        sha256: checksum that the `model.safetensors` of `pretrained` must have (of weights in several files, that of
            their checksums in a row).

    Shape: input_ids, attention_mask `[B, L]` -> embedding `[B, D]`, tokens and hidden `[B, L, D]`, attention
        `[B, heads, L, L]`, mask `[B, L]`.

    Raises:
        MmkdError: the files are not there or not the ones pinned, or the weights do not fill the network.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"text", "hidden", "attention", "logits"})

    def __init__(
        self,
        pretrained: str | None = None,
        model: str | None = None,
        config: dict[str, Any] | None = None,
        head: Literal["masked_lm", "causal_lm", "sequence_classification"] | None = None,
        pooling: Pooling = "mean",
        normalize: bool = False,
        max_length: Length = 128,
        sha256: str | None = None,
    ) -> None:
        super().__init__()
        source = model or pretrained
        if source is None:
            raise MmkdError(
                "needs 'pretrained', or 'model' to be built without weights",
                next="model: org/name beside pretrained, so that an exported student can be rebuilt",
            )
        self.head, self.pooling, self.normalize = head, pooling, normalize
        self._fingerprint = f"sha256:{checksum(pretrained, sha256)}" if pretrained else None
        self.license = licence(pretrained) if pretrained else None
        self.tokenizer = Tokenizer(source, max_length)
        self.net = self._load(source, pretrained, config or {})
        self._announced = False

    def _load(self, source: str, pretrained: str | None, overrides: Mapping[str, Any]) -> Any:
        def new(network: Any, name: str) -> bool:
            if self.head is not None:
                return "num_labels" in overrides and not name.startswith(f"{network.base_model_prefix}.")
            return name.startswith("decoder.") or (name.startswith("pooler.") and self.pooling != "pooler")

        settings = configured(source, overrides)
        if settings.is_encoder_decoder and self.head is not None:
            raise MmkdError(f"'{source}' is an encoder-decoder, whose encoder has no head", where="head")
        network = load(HEADS[self.head], settings, pretrained, new)
        if settings.is_encoder_decoder:
            network = network.get_encoder()
        pooler = getattr(network, "pooler", None)
        if self.pooling == "pooler":
            if self.head is not None or not isinstance(pooler, nn.Module):
                raise MmkdError(f"{type(network).__name__} has no pooler", where="pooling", next="pooling: cls")
        elif self.head is None and isinstance(pooler, nn.Module):
            network.pooler = None  # no other pooling reads it, and it would be exported untrained
        limit = getattr(network.config, "max_position_embeddings", None) or 0
        limit = min(limit, self.tokenizer.limit) if limit > 0 else self.tokenizer.limit
        if self.tokenizer.max_length > limit:
            raise MmkdError(
                f"'{source}' takes {limit} tokens, not {self.tokenizer.max_length}", where="max_length",
                next=f"max_length: {limit}",
            )  # fmt: skip
        if network.config.pad_token_id is None:
            network.config.pad_token_id = self.tokenizer.pad
        return network

    @property
    def network(self) -> nn.Module:
        return self.net  # type: ignore[no-any-return]

    @property
    def embedding_dim(self) -> int:
        """Width of `embedding`."""
        return int(self.net.config.hidden_size)

    @functools.cached_property
    def _hidden(self) -> list[str]:
        device = next(self.net.parameters()).device
        ids = torch.full((1, 2), self.tokenizer.pad, device=device)
        return hidden(self.net, lambda: self.net(input_ids=ids, attention_mask=torch.ones_like(ids)))

    def values(self) -> list[str]:
        states = [f"hidden.{i}" for i in range(len(self._hidden))]
        maps = [f"attention.{i}" for i in range(len(self._hidden) - 1)]
        return ["embedding", "tokens", "mask", *(["logits"] if self.head else []), *states, *maps]

    def locate(self, name: str) -> str | None:
        kind, _, index = name.partition(".")
        return self._hidden[int(index)] if kind == "hidden" else None

    def transform(self, sample: mmkd.Sample) -> dict[str, Any]:
        return dict(self.tokenizer.row(sample))

    def collate(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        return dict(self.tokenizer.batch(rows))

    def lengths(self, **inputs: Tensor) -> dict[str, Tensor]:
        kinds = {"tokens", "mask", "hidden", *(["logits"] if self.head in ("masked_lm", "causal_lm") else [])}
        padded = [name for name in self.values() if name.partition(".")[0] in kinds]
        return dict.fromkeys(padded, inputs["attention_mask"].sum(1))

    def transform_key(self) -> Hashable:
        return self.tokenizer.key

    def vocabulary(self) -> dict[str, int]:
        return self.tokenizer.vocabulary

    def formats(self) -> list[str]:
        whole = HEADS[self.head]._model_mapping.get(type(self.net.config), None)
        return ["transformers"] if whole is not None and isinstance(self.net, whole) else []

    def export(self, folder: Path, format: str) -> str:
        return save(self, HEADS[self.head].__name__, folder)

    def export_tokenizer(self, folder: Path) -> str:
        return self.tokenizer.export(folder)

    def fingerprint(self) -> str | None:
        """`sha256:` and the checksum of the file of weights; None for random weights."""
        return self._fingerprint

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        maps = self.wanted is not None and self.wants("attention.")
        with self._eager() if maps else contextlib.nullcontext():
            states = self.head is not None and (self.wants("tokens") or self.wants("embedding"))
            given = {"output_attentions": maps, "output_hidden_states": states}
            output = self.net(input_ids=input_ids, attention_mask=attention_mask, **given)
        values = {"mask": attention_mask}
        if maps:
            values |= {f"attention.{i}": attention for i, attention in enumerate(output.attentions)}
        if self.head is not None:
            values["logits"] = output.logits
        if self.head is None or states:
            values["tokens"] = tokens = output.last_hidden_state if self.head is None else output.hidden_states[-1]
        if self.wants("embedding"):
            pooled = output.pooler_output if self.pooling == "pooler" else self._pool(tokens, attention_mask)
            values["embedding"] = F.normalize(pooled, dim=-1) if self.normalize else pooled
        return values

    def _pool(self, tokens: Tensor, attention_mask: Tensor) -> Tensor:
        if self.pooling == "cls":
            return tokens[:, 0]
        if self.pooling == "last":
            return tokens[torch.arange(len(tokens), device=tokens.device), attention_mask.sum(1) - 1]
        if self.pooling == "max":
            return tokens.masked_fill(attention_mask.unsqueeze(-1) == 0, -torch.inf).amax(1)
        return masked_mean(tokens, attention_mask)

    def _eager(self) -> contextlib.AbstractContextManager[None]:
        if not self._announced and self.net.config._attn_implementation != "eager":
            self._announced = True
            warnings.warn(
                f"attention maps are read: {type(self.net).__name__} runs plain attention, without a fused kernel",
                stacklevel=2,
            )
        return eager(self.net)
