"""Trains the recipe with several seeds; writes the table of all twelve directions and a picture of what was found.

`python model_zoo/four_modalities/run.py` needs the plugins vision, language, vision_language, audio and pointcloud, and
espeak-ng. Runs that are there are not trained again.
"""

from __future__ import annotations

import argparse
import json
import statistics
from itertools import permutations
from pathlib import Path
from typing import Any

import torch
from mmkd_vision_language.picture import sheet
from torch import Tensor

import mmkd
from mmkd import plugins
from mmkd.local import add

HERE = Path(__file__).parent
MODALITIES = {"text": "words.embedding", "image": "seen", "sound": "heard", "points": "touched"}
QUERIES = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--runs", type=Path, default=Path("runs/four_modalities"))
    parser.add_argument("--results", type=Path, default=HERE)
    parser.add_argument("overrides", nargs="*", help="changes to the recipe: train.steps=100")
    args = parser.parse_args()
    add(HERE / "things.py")
    scores = [scored(args.runs / str(seed), [f"train.seed={seed}", *args.overrides]) for seed in args.seeds]
    chance = chances(args.runs / str(args.seeds[0]))
    table = {
        f"{a} to {b}": {k: [round(100 * one[f"{a} to {b}"][k], 1) for one in scores] for k in ("1", "5")}
        for a, b in permutations(MODALITIES, 2)
    }
    results = {"seeds": args.seeds, "chance": {k: round(100 * v, 1) for k, v in chance.items()}, "recall": table}
    args.results.mkdir(parents=True, exist_ok=True)
    (args.results / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    print(written(results))
    print(picture(args.runs / str(args.seeds[0]), args.results / "found.png"))


def scored(folder: Path, overrides: list[str]) -> dict[str, dict[str, float]]:
    """Recall of every direction, trained first where the folder holds no results."""
    if not (folder / "results.json").is_file():
        mmkd.distill(HERE / "recipe.yaml", output_dir=folder, overrides=overrides, resume=folder.exists())
    found = json.loads((folder / "results.json").read_text())["student"]["scores"]["held_out"]
    told = {}
    for pair, recalls in found.items():
        a, b = pair.split("_")
        for side, (one, other) in {"a_to_b": (a, b), "b_to_a": (b, a)}.items():
            told[f"{one} to {other}"] = {k: recalls[f"{side}_recall_at_{k}"] for k in ("1", "5")}
    return told


def chances(folder: Path) -> dict[str, float]:
    """Recall of an order by lot: one minus the share of draws without any match."""
    labels = [sample["label"] for sample in samples(folder)]
    size, same = len(labels), labels.count(labels[0])
    missed, told = 1.0, {}
    for k in range(1, 6):
        missed *= (size - same - k + 1) / (size - k + 1)
        told[str(k)] = 1 - missed
    return {k: told[k] for k in ("1", "5")}


def samples(folder: Path) -> list[dict[str, Any]]:
    """The held-out things."""
    things = plugins.host().catalogue.get("dataset", "local.things").load()
    held_out = things(**mmkd.load_recipe(folder / "recipe.yaml").data.eval_sets()["held_out"].arguments)
    return [held_out[i] for i in range(len(held_out))]


def written(results: dict[str, Any]) -> str:
    """The table in Markdown: mean and, over seeds, standard deviation of R@1."""
    lines = ["| query \\ found | " + " | ".join(MODALITIES) + " |", "|---" * (len(MODALITIES) + 1) + "|"]
    for a in MODALITIES:
        cells = []
        for b in MODALITIES:
            runs = results["recall"].get(f"{a} to {b}", {}).get("1")
            spread = statistics.stdev(runs) if runs and len(runs) > 1 else 0.0
            cells.append(f"{statistics.mean(runs):.1f} ({spread:.1f})" if runs else "")
        lines.append(f"| {a} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, f"\nchance: {results['chance']['1']}"])


def picture(folder: Path, path: Path) -> Path:
    """Draw what spoken names find among pictures and among points; right ones are framed."""
    model, things = mmkd.from_pretrained(folder), samples(folder)
    found: dict[str, Tensor] = {}
    with torch.no_grad():
        for name in ("sound", "image", "points"):
            address = MODALITIES[name]
            parts = [model.values(model.collate(things[at : at + 64], [address]), [address])[address]
                     for at in range(0, len(things), 64)]  # fmt: skip
            found[name] = torch.nn.functional.normalize(torch.cat(parts), dim=1)
    asked = list(range(0, len(things), len(things) // QUERIES))[:QUERIES]
    columns, hits = {}, {}
    for name in ("image", "points"):
        best = (found["sound"][asked] @ found[name].T).topk(5).indices.tolist()
        columns[f"spoken name to {name}"] = [[things[i]["image"] for i in row] for row in best]
        hits[f"spoken name to {name}"] = [
            [things[i]["label"] == things[query]["label"] for i in row] for query, row in zip(asked, best, strict=True)
        ]
    sheet([f"(heard) {things[query]['class_name']}" for query in asked], columns, hits).save(path)
    return path


if __name__ == "__main__":
    main()
