"""Tiny language models and graphs of them."""

from __future__ import annotations

from typing import Any

import torch
from mmkd_language.causal_lm import CausalLM, words
from mmkd_language.toy_translation import ToyTranslation

import mmkd

DATA = ToyTranslation(64)
WORDS = words(DATA)
JSD = {"use": "core.jsd", "student": "student.logits", "teacher": "teacher.logits", "mask": "student.completion"}


def model(seed: int = 0, **options: Any) -> CausalLM:
    """Two blocks, 16 wide, over the words of the data unless said otherwise."""
    torch.manual_seed(seed)
    return CausalLM(**{"tokenizer": WORDS, "width": 16, "max_length": 32, **options}).eval()


def batch(encoder: CausalLM, samples: list[dict[str, Any]]) -> dict[str, Any]:
    return encoder.collate([encoder.transform(sample) for sample in samples])


def rolled(student: CausalLM, teacher: CausalLM, losses: dict[str, Any] | None = None, **options: Any) -> Any:
    """A graph of GKD; with options, its curator's."""
    curators = [{"use": "language.rollout", "max_new_tokens": 12, **options}] if options else []
    recipe = {
        "teacher": {},
        "student": {},
        "losses": losses or {"gkd": JSD},
        "data": {"batch_size": 8, "curators": curators},
        "train": {"steps": 8, "seed": 5},
    }
    return mmkd.build(recipe, nodes={"student": student, "teacher": teacher}, data={"train": DATA}).train()


def samples(*indices: int) -> list[dict[str, Any]]:
    return [DATA[i] for i in indices or range(8)]
