"""Tiny captioners for the tests of this plugin."""

from __future__ import annotations

from typing import Any

import torch
from mmkd_audio.captioner import Captioner
from mmkd_audio.convnet import ConvNet
from mmkd_audio.scenes import Scenes
from mmkd_language.causal_lm import words

import mmkd

WORDS = words(Scenes(200))


def captioner(seed: int = 0, width: int = 16, **options: Any) -> Captioner:
    """A block and a block, over the words of the scenes."""
    torch.manual_seed(seed)
    audio = ConvNet(width=width, blocks=1, mels=20, hop=320)
    small = {"layers": 1, "width": 16, "heads": 2, "tokenizer": WORDS, "max_length": 16}
    made = Captioner(audio, **{**small, **options}).eval()
    with torch.no_grad():  # a network of the usual start writes one word again and again
        for parameter in made.decoder.parameters():
            parameter.mul_(6 if parameter.dim() > 1 else 1)
    return made


class Listed(mmkd.Dataset):
    """Samples at hand."""

    def __init__(self, samples: list[dict[str, Any]]) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return dict(self.samples[index])


def scenes(count: int = 4, **options: Any) -> list[dict[str, Any]]:
    data = Scenes(count, **options)
    return [data[i] for i in range(count)]


def batch(encoder: Captioner, samples: list[dict[str, Any]]) -> dict[str, Any]:
    return encoder.collate([encoder.transform(sample) for sample in samples])
