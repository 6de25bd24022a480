"""A plugin of your own, in one file beside its recipe: dataset, encoder and loss (attention transfer).

First the teacher is trained, then `mmkd distill` runs the recipe with it and, for comparison, without. Half a minute.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from attention_transfer import Digits, SmallNet
from safetensors.torch import save_file
from torch import nn

HERE = Path(__file__).parent


def train_teacher(steps: int, path: Path) -> float:
    """Train on all labels, save the weights, and return the accuracy in percent."""
    torch.manual_seed(0)
    network, train, test = SmallNet(width=32, depth=3), Digits(), Digits(train=False)
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    for _ in range(steps):
        rows = torch.randint(len(train), (50,))
        loss = nn.functional.cross_entropy(
            network(train.images[rows].reshape(-1, 1, 8, 8))["logits"], torch.tensor(train.labels)[rows]
        )
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    save_file(network.state_dict(), path)
    with torch.no_grad():
        guesses = network.eval()(test.images.reshape(-1, 1, 8, 8))["logits"].argmax(1)
    return 100 * float((guesses == torch.tensor(test.labels)).float().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1000, help="optimiser steps of teacher and student")
    parser.add_argument("--output-dir", type=Path, help="keep the run here")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "teacher.safetensors"
        print(
            f"teacher, 1347 labels: {train_teacher(min(args.steps, 500), weights):.1f}% of 450 test digits", flush=True
        )
        command = [
            sys.executable, "-m", "mmkd", "distill", str(HERE / "recipe.yaml"),
            "--plugin", str(HERE / "attention_transfer.py"), "--output-dir", str(args.output_dir or f"{folder}/run"),
            f"teacher.weights={weights}", f"train.steps={args.steps}",
        ]  # fmt: skip
        print("mmkd " + " ".join(command[3:]), flush=True)
        sys.exit(subprocess.run(command).returncode)


if __name__ == "__main__":
    main()
