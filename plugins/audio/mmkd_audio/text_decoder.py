"""A small transformer that reads and writes text while attending to frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import transformers
from mmkd_language import generation
from mmkd_language.completion import Completions
from mmkd_language.network import load
from torch import Tensor, nn

from mmkd_audio.transformer import positions


class TextDecoder(nn.Module):
    """GPT-2 with cross-attention, from random weights, over frames that are mapped to its width and told their places.

    Args:
        text: texts to tokens, which it begins, ends and pads as it says.
        frames: width of the frames.
        layers, width, heads: blocks, hidden size and attention heads.
        dropout: of branches, attention and embeddings.

    Shape: input_ids `[B, T]`, tokens `[B, L, D]`, mask `[B, L]` -> logits `[B, T, V]`.
    """

    def __init__(self, text: Completions, frames: int, layers: int, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.text = text
        self.bridge = nn.Linear(frames, width)
        config = transformers.AutoConfig.for_model(
            "gpt2", vocab_size=text.size, n_positions=text.max_length, n_embd=width, n_layer=layers, n_head=heads,
            resid_pdrop=dropout, embd_pdrop=dropout, attn_pdrop=dropout, add_cross_attention=True, use_cache=False,
            pad_token_id=text.pad, bos_token_id=text.start[0], eos_token_id=text.eos,
        )  # fmt: skip
        self.net = load(transformers.AutoModelForCausalLM, config, None, lambda network, name: False)
        for module in self.net.modules():
            if isinstance(module, transformers.PreTrainedModel):
                module.warn_if_padding_and_no_attention_mask = _no_warning  # type: ignore[method-assign]

    @property
    def device(self) -> torch.device:
        return self.bridge.weight.device

    def context(self, tokens: Tensor, mask: Tensor | None = None) -> dict[str, Tensor]:
        """What is attended to: the frames, and which of them are no padding."""
        frames = self.bridge(tokens)
        made = {"encoder_hidden_states": frames + positions(*frames.shape[1:]).to(frames)}
        return made if mask is None else {**made, "encoder_attention_mask": mask}

    def forward(self, input_ids: Tensor, context: Mapping[str, Tensor]) -> Tensor:
        logits: Tensor = self.net(input_ids=input_ids, **context, use_cache=False).logits
        return logits

    def search(
        self, context: Mapping[str, Tensor], beams: int, max_new_tokens: int | None, length_penalty: float = 1.0
    ) -> list[list[list[int]]]:
        """For each sound the texts that beam search ends with, the likeliest first."""
        text, length = self.text, min(max_new_tokens or self.text.max_length, self.text.max_length)
        return generation.search(
            self.net, self._starts(context), beams, length, text.pad, text.eos, self.device, length_penalty, context
        )

    def sample(self, context: Mapping[str, Tensor], draws: Tensor, **options: Any) -> list[list[int]]:
        """For each sound a text that is drawn (`mmkd_language.generation.sample`)."""
        draws = draws[:, : self.text.max_length].to(self.device, torch.float32)
        return generation.sample(
            self.net, self._starts(context), draws, self.text.pad, self.text.eos, context=context, **options
        )

    def _starts(self, context: Mapping[str, Tensor]) -> Sequence[list[int]]:
        return [self.text.start] * len(context["encoder_hidden_states"])


def _no_warning(*_: object) -> None:
    """Padding without a mask is right where it stands on the right."""
