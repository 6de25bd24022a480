"""Sentence encoders: a transformer of the Hugging Face hub and one vector per text."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel
from transformers.utils import logging

import mmkd
from mmkd.errors import MmkdError
from mmkd_language.checkpoint import checksum, folder, weights
from mmkd_language.tokens import Tokenizer, masked_mean

BLOCKS = ("encoder.layer", "encoder.layers", "transformer.layer", "layers")
"""Where encoders of transformers keep their blocks: BERT and its kin, BART-like, DistilBERT, ModernBERT."""


class SentenceEncoder(mmkd.Encoder):
    """One vector per text from any transformers encoder, pooled over its tokens (Reimers and Gurevych, 2019).

    Values: `embedding`; `tokens`, the last hidden states, padding included; `hidden.0` enters the first block,
    `hidden.i` leaves block i.

    Only safetensors are read, and no code that comes with a model is run.

    Args:
        pretrained: folder, `package:name` of an installed package with weights, or `org/name` of the hub.
        model: the same forms; whose architecture and tokenizer to use. None for those of `pretrained`. With `model`
            alone the weights are random.
        pooling: `mean` over tokens, the first token (`cls`), or `max` over tokens.
        normalize: scale the embedding to length 1.
        max_length: tokens kept of a text.
        sha256: checksum that the `model.safetensors` of `pretrained` must have.

    Shape: input_ids, attention_mask `[B, L]` -> embedding `[B, D]`, tokens and hidden `[B, L, D]`.

    Raises:
        MmkdError: the files are not there, or not the ones pinned.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"text", "hidden"})

    def __init__(
        self,
        pretrained: str | None = None,
        model: str | None = None,
        pooling: Literal["mean", "cls", "max"] = "mean",
        normalize: bool = True,
        max_length: Annotated[int, Field(ge=2)] = 128,
        sha256: str | None = None,
    ) -> None:
        super().__init__()
        source = model or pretrained
        if source is None:
            raise MmkdError(
                "needs 'pretrained', or 'model' to be built without weights",
                next="model: org/name beside pretrained, so that an exported student can be rebuilt",
            )
        self.pooling, self.normalize = pooling, normalize
        self._fingerprint = f"sha256:{checksum(weights(pretrained), sha256)}" if pretrained else None
        self.net = _load(source, pretrained)
        self.tokenizer = Tokenizer(source, max_length)

    @property
    def network(self) -> nn.Module:
        return self.net

    @property
    def embedding_dim(self) -> int:
        """Width of `embedding`."""
        return int(self.net.config.hidden_size)  # type: ignore[union-attr, arg-type]

    @functools.cached_property
    def _blocks(self) -> list[str]:
        modules = dict(self.net.named_modules())
        for name in BLOCKS:
            if isinstance(container := modules.get(name), nn.ModuleList):
                return [f"{name}.{i}" for i in range(len(container))]
        return []

    @functools.cached_property
    def _item(self) -> str:
        """What follows a block's path to reach its tensor: `.0` where it returns a tuple."""
        returned: list[Any] = []
        block = self.net.get_submodule(self._blocks[0])
        handle = block.register_forward_hook(lambda _, args, output: returned.append(output))
        training = self.net.training
        try:
            self.net.eval()
            with torch.no_grad():
                self.net(input_ids=torch.zeros(1, 2, dtype=torch.long, device=next(self.net.parameters()).device))
        finally:
            handle.remove()
            self.net.train(training)
        return ".0" if isinstance(returned[0], tuple) else ""

    def values(self) -> list[str]:
        return ["embedding", "tokens", *(f"hidden.{i}" for i in range(len(self._blocks) + 1) if self._blocks)]

    def locate(self, name: str) -> str | None:
        kind, _, index = name.partition(".")
        if kind != "hidden":
            return None
        return f"{self._blocks[int(index) - 1]}{self._item}" if int(index) else f"{self._blocks[0]}.input"

    def transform(self, sample: mmkd.Sample) -> dict[str, Any]:
        return dict(self.tokenizer.row(sample))

    def collate(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        return dict(self.tokenizer.batch(rows))

    def transform_key(self) -> Hashable:
        return self.tokenizer.key

    def fingerprint(self) -> str | None:
        """`sha256:` and the checksum of the file of weights; None for random weights."""
        return self._fingerprint

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        tokens: Tensor = self.net(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        values = {"tokens": tokens}
        if self.wants("embedding"):
            pooled = self._pool(tokens, attention_mask)
            values["embedding"] = F.normalize(pooled, dim=-1) if self.normalize else pooled
        return values

    def _pool(self, tokens: Tensor, attention_mask: Tensor) -> Tensor:
        if self.pooling == "cls":
            return tokens[:, 0]
        if self.pooling == "max":
            return tokens.masked_fill(attention_mask.unsqueeze(-1) == 0, -torch.inf).amax(1)
        return masked_mean(tokens, attention_mask)


def _load(model: str, pretrained: str | None) -> nn.Module:
    with _quiet():
        config = AutoConfig.from_pretrained(str(folder(model)), local_files_only=True)
        network: nn.Module
        if pretrained is None:
            network = AutoModel.from_config(config, dtype=torch.float32)  # type: ignore[no-untyped-call]
        else:
            network = AutoModel.from_pretrained(
                str(folder(pretrained)), config=config, dtype=torch.float32, use_safetensors=True, local_files_only=True
            )
    if isinstance(getattr(network, "pooler", None), nn.Module):
        network.pooler = None  # type: ignore[assignment]  # a head for next-sentence prediction, which no pooling here reads
    return network


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars or loading reports of transformers inside."""
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]
