"""Sentence encoders: a text network of transformers and one vector of length 1 per text."""

from __future__ import annotations

from typing import Any, Literal

from mmkd_language.encoder import Length, TextEncoder


class SentenceEncoder(TextEncoder):
    """One vector per text from any transformers encoder, pooled over its tokens (Reimers and Gurevych, 2019).

    `language.encoder` with the defaults of sentence encoders. Values: `embedding`; `tokens`, the last hidden states,
    padding included, and their `mask`; `hidden.0` enters the first block, `hidden.i` leaves block i; `attention.<i>`.

    Args:
        pretrained: folder, `package:name` of an installed package with weights, or `org/name` of the hub.
        model: the same forms; whose architecture and tokenizer to use. None for those of `pretrained`. With `model`
            alone the weights are random.
        config: entries of the architecture's config to replace.
        pooling: `mean` over tokens, the first token (`cls`), or `max` over tokens.
        normalize: scale the embedding to length 1.
        max_length: tokens kept of a text.
        sha256: checksum that the `model.safetensors` of `pretrained` must have.

    Shape: input_ids, attention_mask `[B, L]` -> embedding `[B, D]`, tokens and hidden `[B, L, D]`.

    Raises:
        MmkdError: the files are not there, or not the ones pinned.
    """

    def __init__(
        self,
        pretrained: str | None = None,
        model: str | None = None,
        config: dict[str, Any] | None = None,
        pooling: Literal["mean", "cls", "max"] = "mean",
        normalize: bool = True,
        max_length: Length = 128,
        sha256: str | None = None,
    ) -> None:
        super().__init__(
            pretrained, model, config, pooling=pooling, normalize=normalize, max_length=max_length, sha256=sha256
        )
