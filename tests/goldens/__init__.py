"""What authors' code gives on small inputs. `record.py` writes these files; tests of the library read them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


def cases(method: str) -> Iterator[tuple[dict[str, Any], dict[str, Tensor], Tensor, dict[str, Tensor]]]:
    """(options, inputs, output, gradients) of each case of `goldens/<method>.json`; numbers in float64."""
    golden = json.loads((Path(__file__).parent / f"{method}.json").read_text(encoding="utf-8"))
    for case in golden["cases"]:
        yield (
            case["options"],
            {name: tensor(value) for name, value in case["inputs"].items()},
            tensor(case["output"]),
            {name: tensor(value) for name, value in case["gradients"].items()},
        )


def tensor(value: Any) -> Tensor:
    made = torch.tensor(value)
    return torch.tensor(value, dtype=torch.float64) if made.is_floating_point() else made
