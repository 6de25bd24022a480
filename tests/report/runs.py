"""A run of toy networks on pictures with captions, and folders that look like runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from PIL import Image

import mmkd
from report.toys import Tower

WORDS = ["red", "green", "blue", "grey"]


class Captioned(mmkd.Dataset):
    """A vector that the networks read, beside a picture and a caption to show."""

    classes = WORDS

    def __init__(self, size: int = 40, text: str = "") -> None:
        self.size, self.text = size, text

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> dict[str, Any]:
        label = index % 4
        generator = torch.Generator().manual_seed(index)
        vector = torch.randn(8, generator=generator) + 3 * torch.eye(8)[label]
        colour = [(200, 40, 40), (40, 160, 60), (40, 80, 200), (128, 128, 128)][label]
        caption = self.text or f"a {WORDS[label]} square, number {index}"
        picture = Image.new("RGBA", (300, 200), (*colour, 255))
        return {"image": vector, "picture": picture, "text": caption, "label": label, "key": f"<i>{index}</i>"}


RECIPE: dict[str, Any] = {
    "name": "toys",
    "description": "A tower teaches another.",
    "teacher": {},
    "student": {},
    "projectors": {"up": {"use": "core.linear", "input": "student.embedding", "like": "teacher.embedding"}},
    "losses": {
        "kd": {
            "use": "core.kl", "student": "student.logits", "teacher": "teacher.logits",
            "temperature": {"use": "core.linear", "start": 4, "end": 1},
            "weight": {"use": "core.cosine", "start": 1.0, "end": 0.1},
        },
        "hint": {"use": "core.mse", "student": "up", "teacher": "teacher.embedding"},
        "ce": {"use": "core.cross_entropy", "student": "student.logits"},
    },
    "data": {"batch_size": 8},
    "train": {"steps": 30, "log_every": 1, "lr": 0.01, "eval_every": 10},
    "evaluate": [
        {"use": "core.top_k", "name": "top", "student": "student.logits"},
        {"use": "core.retrieval", "name": "retrieval", "a": "up", "b": "teacher.embedding", "direction": "b_to_a"},
    ],
    "baseline": {"losses": {"ce": {"use": "core.cross_entropy", "student": "student.logits"}}},
}  # fmt: skip


def nodes() -> dict[str, Any]:
    torch.manual_seed(7)
    return {"teacher": Tower(16), "student": Tower(12)}


def data(text: str = "") -> dict[str, Any]:
    return {"train": Captioned(64, text), "eval": Captioned(40, text)}


def make(folder: Path, text: str = "", **changes: Any) -> Path:
    """Train the toys into a folder."""
    mmkd.distill({**RECIPE, **changes}, output_dir=folder, nodes=nodes(), data=data(text))
    return folder


def written(folder: Path, lines: list[Any], **documents: Any) -> Path:
    """A folder with the log and the JSON documents of a run that never took place."""
    folder.mkdir(parents=True)
    rows = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    (folder / "log.jsonl").write_text("\n".join(rows))
    for name, document in documents.items():
        (folder / f"{name}.json").write_text(document if isinstance(document, str) else json.dumps(document))
    return folder
