"""Completions written by a causal language model: sampled, greedy, or by beam search."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList
from transformers.generation.logits_process import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from mmkd_language.network import quiet


class Drawn(LogitsProcessor):
    """Leaves each row the one token that its own random number falls on, and so makes a greedy search a sample.

    With `F` the cumulative distribution over the vocabulary in its order, it is the first token with `F > draw`.
    What a row becomes is then a function of its draws and of the network, not of the rows beside it.

    Shape: draws `[B, N]` in [0, 1), one for each new token.
    """

    def __init__(self, draws: Tensor, prompt: int) -> None:
        self.draws, self.prompt = draws, prompt

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        draw = self.draws[:, input_ids.shape[1] - self.prompt].unsqueeze(1)
        cumulative = scores.float().softmax(-1).cumsum(-1)
        token = (cumulative <= draw * cumulative[:, -1:]).sum(-1, keepdim=True).clamp(max=scores.shape[-1] - 1)
        return torch.full_like(scores, -torch.inf).scatter(1, token, 0.0)


def sample(
    network: Any, prompts: Sequence[Sequence[int]], draws: Tensor, pad: int, eos: int, *,
    temperature: float = 1.0, top_k: int | None = None, top_p: float = 1.0, cached: bool = True,
    context: Mapping[str, Tensor] | None = None,
) -> list[list[int]]:  # fmt: skip
    """One completion of each prompt, its end included where it came to one.

    Args:
        network: a causal language model of transformers.
        prompts: token ids, at least one a prompt.
        draws: `[B, N]` in [0, 1): one number for each token that may be written.
        pad: id of the padding, which stands on the left.
        eos: id of the token that ends a completion.
        temperature: of the softmax; 0 takes the likeliest token and looks at no draw.
        top_k: likeliest tokens that can be drawn; None for all.
        top_p: share of the probability whose likeliest tokens can be drawn.
        cached: keep keys and values of past tokens instead of computing them anew.
        context: what else the network is given, a row for each prompt: `encoder_hidden_states` and their mask.
    """
    ids, mask = _padded(prompts, pad, draws.device)
    steps = LogitsProcessorList()
    if temperature > 0:
        steps.append(TemperatureLogitsWarper(float(temperature)))
        if top_k is not None:
            steps.append(TopKLogitsWarper(top_k))
        if top_p < 1:
            steps.append(TopPLogitsWarper(top_p))
        steps.append(Drawn(draws, ids.shape[1]))
    made = _generate(network, ids, mask, pad, eos, draws.shape[1], steps, context, use_cache=cached)
    return [_ended(row, eos) for row in made.tolist()]


def search(
    network: Any, prompts: Sequence[Sequence[int]], beams: int, length: int, pad: int, eos: int, device: torch.device,
    length_penalty: float = 1.0, context: Mapping[str, Tensor] | None = None,
) -> list[list[list[int]]]:  # fmt: skip
    """For each prompt the `beams` completions that beam search ends with, the likeliest first; greedy with one beam."""
    ids, mask = _padded(prompts, pad, device)
    several: dict[str, Any] = {"num_beams": beams, "num_return_sequences": beams, "length_penalty": length_penalty}
    several = several if beams > 1 else {}
    made = _generate(network, ids, mask, pad, eos, length, LogitsProcessorList(), context, **several)
    rows = [_ended(row, eos) for row in made.tolist()]
    return [rows[i : i + beams] for i in range(0, len(rows), beams)]


def _generate(
    network: Any, ids: Tensor, mask: Tensor, pad: int, eos: int, length: int, steps: LogitsProcessorList,
    context: Mapping[str, Tensor] | None, **options: Any,
) -> Tensor:  # fmt: skip
    config = GenerationConfig(  # type: ignore[no-untyped-call]
        max_new_tokens=length, do_sample=False, pad_token_id=pad, eos_token_id=eos, **{"use_cache": True, **options}
    )
    with quiet(), torch.no_grad(), _without_habits(network):
        made = network.generate(
            input_ids=ids, attention_mask=mask, generation_config=config, logits_processor=steps, **(context or {})
        )
    return made[:, ids.shape[1] :]  # type: ignore[no-any-return]


@contextlib.contextmanager
def _without_habits(network: Any) -> Iterator[None]:
    """Inside, what the network's files say about generation (a penalty, a temperature) is not applied."""
    before = network.generation_config
    network.generation_config = GenerationConfig()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        network.generation_config = before


def _padded(prompts: Sequence[Sequence[int]], pad: int, device: torch.device) -> tuple[Tensor, Tensor]:
    width = max(map(len, prompts))
    ids = torch.tensor([[pad] * (width - len(row)) + list(row) for row in prompts], device=device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in prompts], device=device)
    return ids, mask


def _ended(row: list[int], eos: int) -> list[int]:
    """Up to the end of the completion."""
    return row[: row.index(eos) + 1] if eos in row else row
