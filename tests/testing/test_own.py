"""The built-in plugin `core`, by the kit that strangers use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

import mmkd
from mmkd.testing import check_plugin


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


SEQUENCES = {"student": [normal(4, 6, 8), normal(4, 6, 8, seed=1)], "teacher": [normal(4, 6, 8, seed=2)] * 2}
HEADS = {
    "student": normal(4, 3, 8), "student_head": normal(7, 8, seed=1),
    "teacher": normal(4, 3, 6, seed=2), "teacher_head": normal(7, 6, seed=3),
}  # fmt: skip
DIVERGENCE = {"divergence": True}
SMALL = {"options": {"negatives": 32, "dim": 8}}
CASES: dict[str, Any] = {
    **dict.fromkeys(["loss.kl", "loss.reverse_kl", "loss.jsd", "loss.skew_kl", "loss.balanced_kl"], DIVERGENCE),
    "loss.kl": [DIVERGENCE, {"inputs": {"student": normal(4, 3, 8), "teacher": normal(4, 3, 8, seed=1)}}],
    "loss.ft": {"constant": ("teacher",)},
    "loss.hard_label": {"constant": ("teacher",)},
    "procedure.blocks": {"options": {"student": ["net"]}},
    "loss.crd": SMALL,
    "loss.mgd": [{}, {"options": {"ratio": 0.0}, "inert": ("blank",)}],
    "loss.linear_divergence": [
        {},
        *({"options": {"divergence": name}} for name in ("reverse_kl", "jsd", "skew_kl", "skew_reverse_kl")),
        {"inputs": {**HEADS, "mask": (torch.arange(12).view(4, 3) % 5 > 0).float()}},
    ],
    "loss.minilm": [
        {},
        {
            "inputs": {**SEQUENCES, "mask": (torch.arange(24).view(4, 6) % 7 > 0).float()},
            "options": {"relation_heads": 4},
        },
    ],
}


def test_core(tmp_path: Path) -> None:
    import datasets

    rows = {"text": ["a", "b", "c"], "label": [0, 1, 0]}
    datasets.Dataset.from_dict(rows).save_to_disk(tmp_path / "saved")
    student = {"use": "language.transformer", "dim": 8, "layers": 1, "heads": 2}
    feature = {"use": "core.mse", "student": "student.embedding", "teacher": "detach(student.embedding)"}
    run = {"student": student, "losses": {"feature": feature}, "train": {"steps": 1}, "data": {"batch_size": 2}}
    texts = [{"key": text, "text": text} for text in ("one", "two", "three")]
    mmkd.distill(run, output_dir=tmp_path / "run", data={"train": texts}, preflight=False)
    made = {
        "dataset.hf_dataset": {"options": {"path": str(tmp_path / "saved")}},
        "encoder.exported": {"options": {"path": str(tmp_path / "run")}},
    }
    ran = check_plugin("core", {**CASES, **made})
    assert sum(len(names) for names in ran.values()) > 1500
    assert {"temperature_squared", "zero_at_the_teacher", "masked_classes"} <= set(ran["core.kl"])
