"""A Lightning module around a training graph. Needs `pip install 'mmkd[examples]'`."""

from __future__ import annotations

import argparse
from typing import Any

import lightning
import torch
from digits import Digits, accuracy, student, teacher
from torch.utils.data import DataLoader

import mmkd

RECIPE = {
    "teacher": {},
    "student": {},
    "losses": {
        "kd": {"use": "core.kl", "student": "student.logits", "teacher": "teacher.logits", "temperature": 4},
    },
}


class Distillation(lightning.LightningModule):
    """Losses by name from the graph; the rest is Lightning's."""

    def __init__(self, graph: mmkd.TrainingGraph) -> None:
        super().__init__()
        self.graph = graph

    def training_step(self, batch: dict[str, Any], index: int) -> torch.Tensor:
        losses: dict[str, torch.Tensor] = self.graph(batch)
        self.log_dict(losses, prog_bar=True, batch_size=len(batch["label"]))
        return losses["loss"]

    def on_train_batch_end(self, *_: Any) -> None:
        self.graph.update()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW([p for p in self.graph.parameters() if p.requires_grad], lr=3e-3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1500, help="optimiser steps")
    steps = parser.parse_args().steps

    lightning.seed_everything(0)
    taught, teaching, data = student(), teacher(), Digits()
    graph = mmkd.build(RECIPE, nodes={"teacher": teaching, "student": taught}, data={"train": data})
    loader = DataLoader(data, batch_size=64, shuffle=True, drop_last=True, collate_fn=graph.collate)
    trainer = lightning.Trainer(
        max_steps=steps, max_epochs=-1, logger=False, enable_checkpointing=False, enable_model_summary=False
    )
    trainer.fit(Distillation(graph), loader)
    print(f"teacher {accuracy(teaching.cpu()):.1f}%, student {accuracy(taught.cpu()):.1f}%, {graph.steps} steps")


if __name__ == "__main__":
    main()
