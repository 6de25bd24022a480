"""Exported models made without training them, and the code that their cards print."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

import mmkd
from mmkd.exported import write
from mmkd.report.card import card

TEXT = "a sad cat"
SAME = {"use": "core.mse", "student": "student.embedding", "teacher": "student.embedding"}


def run(
    folder: Path,
    student: Mapping[str, Any],
    nodes: Mapping[str, nn.Module] | None = None,
    datasets: Mapping[str, Any] | None = None,
    **recipe: Any,
) -> Path:
    """What a run leaves for `mmkd.export`: recipe and student."""
    declared = mmkd.load_recipe(
        {
            "student": dict(student),
            "losses": {"same": SAME},
            "data": {"train": {"use": "vision_language.emoji"}},
            "train": {"steps": 1, "device": "cpu"},
            **recipe,
        }
    )
    folder.mkdir()
    (folder / "recipe.yaml").write_text(declared.to_yaml())
    write(mmkd.build(declared, nodes=nodes, data=datasets).eval(), declared, folder / "student", card(declared, {}, ""))
    return folder


def usage(folder: Path) -> str:
    """The Python block of a card."""
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.S)
    return str(code)
