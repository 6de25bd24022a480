"""Quickstart: a pretrained sentence encoder teaches a tiny image encoder to answer text queries.

Trains the recipe `vision_language.emoji` twice, with the teacher and (same student, same budget) without, then puts
what both retrieve for the same queries beside each other. A few minutes on 2 cores.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from mmkd_vision_language.emoji_dataset import EmojiDataset
from mmkd_vision_language.picture import sheet

import mmkd

BENCH = Path(__file__).parent.parent / "model_zoo" / "quickstart" / "results.json"
FREE = ("an angry cat", "rain is coming")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output-dir", type=Path, default=Path("runs/quickstart"))
    parser.add_argument("--resume", action="store_true", help="go on with a run that was stopped")
    parser.add_argument("overrides", nargs="*", help="changes to the recipe: train.steps=100")
    args = parser.parse_args()

    started = time.monotonic()
    results = mmkd.distill(
        "vision_language.emoji", output_dir=args.output_dir, resume=args.resume, overrides=args.overrides
    )
    recipe = mmkd.load_recipe(args.output_dir / "recipe.yaml")
    arms = {"teacher": results["student"], "no_teacher": results["baseline"]}
    summary: dict[str, Any] = {"seeds": [recipe.train.seed]}
    for arm, result in arms.items():
        recall = {name: [round(100 * value, 2)] for name, value in result["scores"]["held_out"]["retrieval"].items()}
        summary[arm] = {"held_out": recall}
    summary["seconds"] = round(time.monotonic() - started, 1)
    (args.output_dir / "results.json").write_text(json.dumps({**results, **summary}, indent=2) + "\n")

    bench = json.loads(BENCH.read_text())
    print(f"{'text to image, held-out emoji':30}{'with teacher':>14}{'without':>10}     5 folds: with   without")
    for name in summary["teacher"]["held_out"]:
        here = [summary[arm]["held_out"][name][0] for arm in arms]
        folds = [statistics.mean(bench[arm]["held_out_families"][name]) for arm in arms]
        print(f"{name:30}{here[0]:14.1f}{here[1]:10.1f}{folds[0]:18.1f}{folds[1]:10.1f}")
    print("every fold, seed and arm: model_zoo/quickstart/README.md")
    print(picture(args.output_dir, recipe))


def picture(run: Path, recipe: mmkd.Recipe) -> Path:
    """Draw every 41st held-out caption, and two free queries, beside what each arm retrieves; right ones are framed."""
    held_out = EmojiDataset(**recipe.data.eval_sets()["held_out"].arguments)
    samples = [held_out[i] for i in range(len(held_out))]
    asked = samples[20::41]
    queries = [*(sample["text"] for sample in asked), *FREE]
    columns, hits = {}, {}
    for title, folder, arm in (
        ("with teacher", run, recipe),
        ("without", run / "baseline", recipe.baseline_recipe()),
    ):
        assert arm is not None
        ports = arm.evaluate[0].arguments
        model = mmkd.from_pretrained(folder)
        with torch.no_grad():
            images = read(model, samples, ports["a"])
            texts = read(model, [{"text": query} for query in queries], ports["b"])
        scores = torch.nn.functional.normalize(texts, dim=-1) @ torch.nn.functional.normalize(images, dim=-1).T
        found = [[samples[i] for i in row] for row in scores.topk(5).indices.tolist()]
        right = [sample["group"] for sample in asked] + [None] * len(FREE)
        columns[title] = [[sample["image"] for sample in row] for row in found]
        hits[title] = [[sample["group"] == group for sample in row] for row, group in zip(found, right, strict=True)]
    path = run / "retrieved.png"
    sheet(queries, columns, hits).save(path)
    return path


def read(model: mmkd.TrainingGraph, samples: list[Any], value: str) -> torch.Tensor:
    """One value of every sample; only the network that gives it runs."""
    return model.values(model.collate(samples, [value]), [value])[value]


if __name__ == "__main__":
    main()
