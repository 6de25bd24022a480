"""The Trainer of transformers, with a training graph as its model. Needs `pip install 'mmkd[examples]'`."""

from __future__ import annotations

import argparse
import tempfile
from typing import Any

from digits import Digits, accuracy, student, teacher
from transformers import Trainer, TrainerCallback, TrainingArguments

import mmkd

RECIPE = {
    "teacher": {},
    "student": {},
    "losses": {
        "kd": {
            "use": "core.kl",
            "student": "student.logits",
            "teacher": "teacher.logits",
            "temperature": {"use": "core.linear", "start": 8.0, "end": 2.0},
        },
    },
}


class Update(TrainerCallback):
    """Tells the graph that a step was applied, so that its schedules move on."""

    def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        given["model"].update()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1500, help="optimiser steps")
    steps = parser.parse_args().steps

    taught, teaching, data = student(), teacher(), Digits()
    recipe = {**RECIPE, "train": {"steps": steps}}  # how long the schedule is; the Trainer does the rest
    graph = mmkd.build(recipe, nodes={"teacher": teaching, "student": taught}, data={"train": data})
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            model=graph,
            args=TrainingArguments(
                output_dir=folder,
                max_steps=steps,
                per_device_train_batch_size=64,
                learning_rate=3e-3,
                logging_steps=max(1, steps // 5),
                save_strategy="no",
                report_to="none",
                remove_unused_columns=False,  # the fields of a sample are the graph's to choose
            ),
            train_dataset=data,
            data_collator=lambda samples: {"batch": graph.collate(samples)},  # the model is called with these names
            callbacks=[Update()],
        )
        trainer.train()
    print(f"teacher {accuracy(teaching.cpu()):.1f}%, student {accuracy(taught.cpu()):.1f}%, {graph.steps} steps")


if __name__ == "__main__":
    main()
