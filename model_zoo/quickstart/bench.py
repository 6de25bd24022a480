"""The quickstart measured: 5 folds x 3 seeds, with the teacher, without it, and with a bag of tags in its place.

All arms are tuned by the same grid on a validation split of training emoji. Every run is kept in `--runs`, so that the
bench can be stopped and goes on where it was. Writes `results.json` beside this file and prints the table.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import multiprocessing
import os
import re
import shutil
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ARMS = ("teacher", "no_teacher", "bag_of_tags")
GRID = {"train.lr": ("1e-3", "3e-3"), "losses.contrastive.temperature": ("0.05", "0.1")}
RECALL = (1, 5, 10)


def train_and_rank(job: dict[str, Any]) -> dict[str, Any]:
    """One run, in a process of its own: train on `job["train"]`, rank the images of `job["test"]` for each caption."""
    file = Path(job["file"])
    if file.is_file():
        return json.loads(file.read_text())  # type: ignore[no-any-return]
    import torch

    import mmkd
    from mmkd.plugins import host

    torch.set_num_threads(1)
    emoji = host().catalogue.get("dataset", "vision_language.emoji").load()
    recipe = mmkd.load_recipe("vision_language.emoji", job["overrides"])
    nodes: dict[str, torch.nn.Module] = {}
    if job["arm"] == "no_teacher":
        plain = recipe.baseline_recipe()
        assert plain is not None
        recipe = plain
    elif job["arm"] == "bag_of_tags":
        train = emoji(split=job["train"], fold=job["fold"])
        nodes = {"teacher": bag_of_tags([train[i]["text"] for i in range(len(train))])}
        recipe = mmkd.load_recipe(
            {**recipe.to_dict(), "teacher": {"cache": "memory"}}, [f"name={json.dumps('bag of tags')}"]
        )
    folder = file.with_suffix("")
    shutil.rmtree(folder, ignore_errors=True)
    started = time.monotonic()
    mmkd.distill(recipe, output_dir=folder, nodes=nodes, baseline=False)
    seconds = time.monotonic() - started
    model = mmkd.from_pretrained(folder, nodes=nodes)
    retrieval = recipe.evaluate[0].arguments
    test = emoji(split=job["test"], fold=job["fold"])
    samples = [test[i] for i in range(len(test))]
    with torch.no_grad():
        values = model.values(model.collate(samples), [retrieval["a"], retrieval["b"]])
    result = {
        "keys": [sample["key"] for sample in samples],
        "ranks": ranks(values[retrieval["b"]], values[retrieval["a"]], [sample["group"] for sample in samples]),
        "seconds": seconds,
    }
    file.write_text(json.dumps(result))
    shutil.rmtree(folder)
    return result


def ranks(queries: Any, candidates: Any, groups: Sequence[int]) -> list[int]:
    """Rank (from 1) of the right picture for each query; pictures of one group are the same picture, ties count against."""
    import torch
    from torch.nn.functional import normalize

    scores = normalize(queries, dim=-1) @ normalize(candidates, dim=-1).T
    group = torch.tensor(groups)
    same = group[:, None] == group[None, :]
    best = scores.masked_fill(~same, -math.inf).amax(dim=1, keepdim=True)
    return ((scores >= best) & ~same).sum(dim=1).add(1).tolist()  # type: ignore[no-any-return]


def bag_of_tags(captions: Sequence[str]) -> Any:
    """A stand-in for the teacher that knows no language: tf-idf over the words of the training captions."""
    import torch

    import mmkd

    words = Counter(word for caption in captions for word in set(_words(caption)))
    index = {word: i for i, word in enumerate(sorted(words))}
    idf = torch.tensor([math.log((1 + len(captions)) / (1 + words[word])) + 1 for word in index])

    class BagOfTags(mmkd.Encoder):
        """Unit tf-idf vector of a caption; words that no training caption has are lost."""

        def values(self) -> list[str]:
            return ["embedding"]

        def transform(self, sample: mmkd.Sample) -> dict[str, Any]:
            bag = torch.zeros(len(index))
            for word in _words(sample["text"]):
                if word in index:
                    bag[index[word]] += idf[index[word]]
            return {"bag": torch.nn.functional.normalize(bag, dim=0)}

        def forward(self, bag: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"embedding": bag}

    return BagOfTags()


def _words(caption: str) -> list[str]:
    return re.findall(r"\w+", caption.lower())


def jobs(args: argparse.Namespace, arm: str, config: dict[str, str], fold: int, seed: int, tuning: bool) -> dict[str, Any]:
    """Everything that one run needs to know, and the file its result goes into."""
    train, test = ("fit", "validation") if tuning else ("train", "held_out")
    overrides = [f"{key}={value}" for key, value in config.items()]
    if arm == "no_teacher":
        overrides = [o.replace("losses.", "baseline.losses.") for o in overrides]
    overrides += [f"data.train.split={train}", f"data.train.fold={fold}", f"train.seed={seed}", "data.eval=null"]
    if args.steps:
        overrides.append(f"train.steps={args.steps}")
    name = "-".join([arm, train, f"fold{fold}", f"seed{seed}", *config.values(), *([f"{args.steps}steps"] if args.steps else [])])
    file = str(args.runs / f"{name}.json")
    return {"arm": arm, "train": train, "test": test, "fold": fold, "overrides": overrides, "file": file}


def recall(result: dict[str, Any], k: int) -> float:
    """Percent of queries whose picture is among the first k."""
    return 100 * sum(rank <= k for rank in result["ranks"]) / len(result["ranks"])


def tune(pool: Any, args: argparse.Namespace) -> dict[str, dict[str, str]]:
    """The grid point with the best validation recall (mean of R@1, R@5, R@10), for each arm."""
    points = [dict(zip(GRID, values, strict=True)) for values in itertools.product(*GRID.values())]
    pairs = list(itertools.product(ARMS, points))
    found = pool.map(train_and_rank, [jobs(args, arm, point, 0, 0, True) for arm, point in pairs], chunksize=1)
    best: dict[str, tuple[float, dict[str, str]]] = {}
    for (arm, point), result in zip(pairs, found, strict=True):
        score = sum(recall(result, k) for k in RECALL) / len(RECALL)
        print(f"tune {arm:12} {point}  validation recall {score:.1f}", flush=True)
        if arm not in best or score > best[arm][0]:
            best[arm] = (score, point)
    return {arm: point for arm, (_, point) in best.items()}


def interval(one: dict[str, float], other: dict[str, float], draws: int = 10_000) -> dict[str, float]:
    """Paired bootstrap over emoji: mean difference in points and its 95% interval."""
    import numpy as np

    difference = np.array([one[key] - other[key] for key in one])
    picked = np.random.default_rng(0).integers(0, len(difference), (draws, len(difference)))
    low, high = np.percentile(difference[picked].mean(axis=1), [2.5, 97.5])
    return {"difference": float(difference.mean()), "low": float(low), "high": float(high)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, help="steps per run instead of the recipe's")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="runs at a time, one thread each")
    parser.add_argument("--runs", type=Path, default=Path("runs/bench-quickstart"), help="where finished runs are kept")
    parser.add_argument("--output", type=Path, default=HERE / "results.json")
    args = parser.parse_args()
    args.runs.mkdir(parents=True, exist_ok=True)
    os.environ.update(OMP_NUM_THREADS="1", MMKD_THREADS="1", TOKENIZERS_PARALLELISM="false")
    started = time.monotonic()
    with multiprocessing.get_context("spawn").Pool(args.processes, maxtasksperchild=1) as pool:
        config = tune(pool, args)
        places = list(itertools.product(ARMS, args.folds, args.seeds))
        results: dict[tuple[str, int, int], dict[str, Any]] = {}
        work = [jobs(args, arm, config[arm], fold, seed, False) for arm, fold, seed in places]
        for place, result in zip(places, pool.imap(train_and_rank, work), strict=True):
            results[place] = result
            print(f"{place[0]:12} fold {place[1]} seed {place[2]}  R@1 {recall(result, 1):.1f}", file=sys.stderr, flush=True)
    document: dict[str, Any] = {"seeds": args.seeds, "folds": args.folds, "config": config}
    hits: dict[tuple[str, int], dict[str, float]] = {}
    for arm in ARMS:
        held_out = {}
        for k in RECALL:
            by_seed = [[recall(results[arm, fold, seed], k) for fold in args.folds] for seed in args.seeds]
            held_out[f"recall_at_{k}"] = [round(sum(scores) / len(scores), 2) for scores in by_seed]
            hits[arm, k] = {
                key: sum(100 * (results[arm, fold, seed]["ranks"][i] <= k) for seed in args.seeds) / len(args.seeds)
                for fold in args.folds
                for i, key in enumerate(results[arm, fold, args.seeds[0]]["keys"])
            }
        document[arm] = {"held_out": held_out, "seconds_per_run": round(_median([r["seconds"] for p, r in results.items() if p[0] == arm]), 1)}
    document["paired_bootstrap"] = {
        f"teacher - {other}": {f"recall_at_{k}": interval(hits["teacher", k], hits[other, k]) for k in RECALL}
        for other in ARMS[1:]
    }
    document["seconds"] = round(time.monotonic() - started, 1)
    args.output.write_text(json.dumps(document, indent=2) + "\n")
    print(table(document))
    print(args.output)


def _median(numbers: Sequence[float]) -> float:
    return sorted(numbers)[len(numbers) // 2]


def table(document: dict[str, Any]) -> str:
    """The results as Markdown: mean over folds, then mean and spread over seeds."""
    lines = ["| arm | R@1 | R@5 | R@10 | s/run |", "|---|---|---|---|---|"]
    for arm in ARMS:
        cells = []
        for k in RECALL:
            scores = document[arm]["held_out"][f"recall_at_{k}"]
            mean = sum(scores) / len(scores)
            spread = (sum((s - mean) ** 2 for s in scores) / max(1, len(scores) - 1)) ** 0.5
            cells.append(f"{mean:.1f} ({spread:.1f})")
        lines.append(f"| {arm} | {' | '.join(cells)} | {document[arm]['seconds_per_run']} |")
    for pair, scores in document["paired_bootstrap"].items():
        cells = [f"{s['difference']:+.1f} [{s['low']:.1f}, {s['high']:.1f}]" for s in scores.values()]
        lines.append(f"| {pair} | {' | '.join(cells)} | |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
