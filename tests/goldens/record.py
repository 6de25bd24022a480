"""Record what authors' code gives: `python tests/goldens/record.py --source CHECKOUT METHOD`.

CHECKOUT is a git checkout of the repository that `recorders/<method>.py` names. That file has `REPOSITORY`, `FUNCTION`
and `cases(checkout)`; this one writes `<method>.json` beside itself. No foreign code is kept here.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import importlib
import json
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


class Checkout:
    """A repository on disk, and the files that were read from it."""

    def __init__(self, root: Path) -> None:
        self.root, self.files = root, dict[str, str]()

    def commit(self) -> str:
        command = ["git", "-C", str(self.root), "rev-parse", "HEAD"]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    def load(self, path: str, *names: str, **given: Any) -> dict[str, Any]:
        """The named functions and classes of one file, without the rest of it and without its imports."""
        text = (self.root / path).read_bytes()
        self.files[path] = hashlib.sha256(text).hexdigest()
        body = [node for node in ast.parse(text).body if getattr(node, "name", None) in names]
        found: dict[str, Any] = {"torch": torch, "nn": torch.nn, "F": torch.nn.functional, **given}
        exec(compile(ast.Module(body, []), path, "exec"), found)
        return {name: found[name] for name in names}


def case(function: Callable[..., Tensor], inputs: Mapping[str, Tensor], /, **options: Any) -> dict[str, Any]:
    """One entry: `function(*inputs)` in float64, and its gradient in every floating input that has one."""
    values = {name: v.clone().requires_grad_(v.is_floating_point()) for name, v in inputs.items()}
    output = function(*values.values())
    output.sum().backward()
    return {
        "options": options,
        "inputs": {name: value.tolist() for name, value in inputs.items()},
        "output": output.tolist(),
        "gradients": {name: v.grad.tolist() for name, v in values.items() if v.grad is not None},
    }


def normal(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    """Normal numbers with four decimals, so that the file is short."""
    drawn = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (drawn * scale).round(decimals=4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("method")
    args = parser.parse_args()
    recorder = importlib.import_module(f"recorders.{args.method}")
    checkout = Checkout(args.source)
    cases = list(recorder.cases(checkout))
    golden = {
        "source": {
            "repository": recorder.REPOSITORY,
            "commit": checkout.commit(),
            "function": recorder.FUNCTION,
            "files": checkout.files,
        },
        "cases": cases,
    }
    lines = ",\n".join(json.dumps(entry) for entry in cases)
    text = f'{{"source": {json.dumps(golden["source"])},\n"cases": [\n{lines}\n]}}\n'
    (Path(__file__).parent / f"{args.method}.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
