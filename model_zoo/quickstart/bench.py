"""The quickstart measured: 5 folds x 3 seeds of the same student, taught by different things.

    teacher        the recipe: a pretrained sentence encoder, and a bag of words beside it
    no_teacher     the recipe's baseline: a text tower from scratch, InfoNCE
    sentence       the recipe with the sentence encoder alone
    bag_of_tags    the recipe with the bag of words alone (tf-idf over the training captions), which knows no language

All arms are tuned by the same grid on a validation split of training emoji. `held_out` is a plain split;
`held_out_families` keeps near-duplicates (gender, size, direction) out of training too. Queries are whole captions or,
`new_words`, only those words of a caption that no training caption has. The two last arms and the other split take one
seed. Every run is kept in `--runs`, so that the bench can be stopped and goes on where it was. Writes `results.json`
beside this file and prints the table.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import itertools
import json
import math
import multiprocessing
import os
import re
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
CHANGES: dict[str, list[str]] = {
    "teacher": [],
    "no_teacher": [],
    "sentence": [
        "projectors.target.input=[sentence.embedding]", "teachers.words=null", "export=[student, up, sentence, target]"
    ],
    "bag_of_tags": [
        "projectors.target.input=[words.embedding]", "teachers.sentence=null", "export=[student, up, words, target]"
    ],
}  # fmt: skip
ARMS = tuple(CHANGES)
MAIN = ARMS[:2]
SPLITS = {"held_out": False, "held_out_families": True}
QUERIES = {"captions": "", "new_words": "_new_words"}
GRID = [
    {
        "train.weight_decay": decay,
        "losses.contrastive.temperature": temperature,
        "losses.contrastive.learnable": learnable,
    }
    for decay in ("0.05", "0.5")
    for temperature, learnable in (("0.05", "true"), ("0.1", "false"))
]
RECALL = (1, 5, 10)


def train_and_rank(job: dict[str, Any]) -> dict[str, Any]:
    """One run, in a process of its own: train on `job["train"]`, rank the images of `job["test"]` for each caption."""
    file = Path(job["file"])
    if file.is_file():
        return json.loads(file.read_text())  # type: ignore[no-any-return]
    folder = file.with_suffix("")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    with (folder / "run.log").open("w") as log, contextlib.redirect_stderr(log):
        result = _train_and_rank(job, folder / "run")
    file.write_text(json.dumps(result))
    shutil.rmtree(folder)
    return result


def _train_and_rank(job: dict[str, Any], folder: Path) -> dict[str, Any]:
    import torch
    from mmkd_vision_language.emoji_dataset import EmojiDataset

    import mmkd

    torch.set_num_threads(1)
    recipe = mmkd.load_recipe("vision_language.emoji", job["overrides"])
    if job["arm"] == "no_teacher":
        plain = recipe.baseline_recipe()
        assert plain is not None
        recipe = plain
    started = time.process_time()
    mmkd.distill(recipe, output_dir=folder, baseline=False)
    seconds = time.process_time() - started
    model = mmkd.from_pretrained(folder)
    a, b = (recipe.evaluate[0].arguments[port] for port in "ab")
    test = EmojiDataset(split=job["test"], fold=job["fold"], grouped=job["grouped"])
    samples = [test[i] for i in range(len(test))]
    train = EmojiDataset(split=job["train"], fold=job["fold"], grouped=job["grouped"])
    known = {word for i in range(len(train)) for word in _words(train[i]["text"])}
    new_words = [" ".join(word for word in _words(sample["text"]) if word not in known) for sample in samples]
    with torch.no_grad():
        values = model.values(model.collate(samples, [a, b]), [a, b])
        asked = model.values(model.collate([{"text": words or "-"} for words in new_words], [b]), [b])
    groups = [sample["group"] for sample in samples]
    found = {"captions": ranks(values[b], values[a], groups), "new_words": ranks(asked[b], values[a], groups)}
    keys = [sample["key"] for sample in samples]
    kept = {"captions": keys, "new_words": [key for key, words in zip(keys, new_words, strict=True) if words]}
    answers = {q: {key: rank for key, rank in zip(keys, found[q], strict=True) if key in set(kept[q])} for q in QUERIES}
    return {"ranks": answers, "cpu_seconds": seconds}


def ranks(queries: Any, candidates: Any, groups: Sequence[int]) -> list[int]:
    """Rank (from 1) of the right picture for each query; pictures of one group are one picture, ties count against."""
    import torch
    from torch.nn.functional import normalize

    scores = normalize(queries, dim=-1) @ normalize(candidates, dim=-1).T
    group = torch.tensor(groups)
    same = group[:, None] == group[None, :]
    best = scores.masked_fill(~same, -math.inf).amax(dim=1, keepdim=True)
    return ((scores >= best) & ~same).sum(dim=1).add(1).tolist()


def _words(caption: str) -> list[str]:
    return re.findall(r"\w+", caption.lower())


def job(
    args: argparse.Namespace,
    arm: str,
    config: dict[str, str],
    fold: int,
    seed: int,
    grouped: bool,
    tuning: bool = False,
) -> dict[str, Any]:
    """Everything that one run needs to know, and the file its result goes into."""
    train, test = ("fit", "validation") if tuning else ("train", "held_out")
    own = [f"{key}={value}" for key, value in config.items()]
    if arm == "no_teacher":
        own = [change.replace("losses.", "baseline.losses.") for change in own]
    place = {"split": train, "fold": fold, "grouped": str(grouped).lower()}
    texts = ["data.train", *(["teachers.words.corpus"] if arm in ("teacher", "bag_of_tags") else [])]
    overrides = [*own, *CHANGES[arm], *(f"{data}.{key}={value}" for data in texts for key, value in place.items())]
    overrides += [f"train.seed={seed}", "data.eval=null", *args.overrides]
    name = "-".join([arm, train, "families" if grouped else "plain", f"fold{fold}", f"seed{seed}", *config.values()])
    digest = hashlib.sha256(" ".join(overrides).encode()).hexdigest()[:8]
    file = str(args.runs / f"{name}-{digest}.json")
    return {
        "arm": arm, "train": train, "test": test, "fold": fold, "grouped": grouped, "overrides": overrides, "file": file
    }  # fmt: skip


def recall(result: dict[str, Any], k: int, queries: str = "captions") -> float:
    """Percent of queries whose picture is among the first k."""
    hits: list[bool] = [rank <= k for rank in result["ranks"][queries].values()]
    return 100 * sum(hits) / len(hits)


def tune(pool: Any, args: argparse.Namespace) -> dict[str, dict[str, str]]:
    """The grid point with the best validation recall (mean of R@1, R@5, R@10), for each arm."""
    pairs = list(itertools.product(ARMS, GRID))
    found = pool.imap(train_and_rank, [job(args, arm, point, 0, 0, False, tuning=True) for arm, point in pairs])
    best: dict[str, tuple[float, dict[str, str]]] = {}
    for (arm, point), result in zip(pairs, found, strict=True):
        score = sum(recall(result, k) for k in RECALL) / len(RECALL)
        print(f"tune {arm:23} {' '.join(point.values()):16} validation {score:.1f}", flush=True)
        if arm not in best or score > best[arm][0]:
            best[arm] = (score, point)
    return {arm: point for arm, (_, point) in best.items()}


def interval(one: dict[str, float], other: dict[str, float], draws: int = 10_000) -> dict[str, float]:
    """Paired bootstrap over emoji: mean difference in points and its 95% interval."""
    import numpy as np

    difference = np.array([one[key] - other[key] for key in one])
    picked = np.random.default_rng(0).integers(0, len(difference), (draws, len(difference)))
    low, high = np.percentile(difference[picked].mean(axis=1), [2.5, 97.5])
    return {"difference": round(difference.mean(), 2), "low": round(low, 2), "high": round(high, 2)}


def seeds_of(args: argparse.Namespace, arm: str, split: str) -> list[int]:
    """All seeds for the two main arms on the plain split, the first elsewhere."""
    return list(args.seeds if arm in MAIN and not SPLITS[split] else args.seeds[:1])


def summarise(args: argparse.Namespace, results: dict[tuple[str, str, int, int], dict[str, Any]]) -> dict[str, Any]:
    """Recall per seed (mean over folds) for each arm, split and kind of query, and the teacher's lead over others."""
    document: dict[str, Any] = {arm: {} for arm in ARMS}
    document["queries"], document["paired_bootstrap"] = {}, {}
    for (split, queries), k in itertools.product(itertools.product(args.splits, QUERIES), RECALL):
        name = split + QUERIES[queries]
        hits: dict[str, dict[str, float]] = {}
        for arm in ARMS:
            seeds = seeds_of(args, arm, split)
            by_seed = [[recall(results[arm, split, f, seed], k, queries) for f in args.folds] for seed in seeds]
            numbers = [round(sum(scores) / len(scores), 2) for scores in by_seed]
            document[arm].setdefault(name, {})[f"recall_at_{k}"] = numbers
            found = [[results[arm, split, f, seed]["ranks"][queries] for f in args.folds] for seed in seeds]
            ranks = [{key: rank for fold in folds for key, rank in fold.items()} for folds in found]
            hits[arm] = {key: sum(100 * (each[key] <= k) for each in ranks) / len(ranks) for key in ranks[0]}
        document["queries"][name] = len(hits["teacher"])
        for other in ARMS[1:]:
            lead = document["paired_bootstrap"].setdefault(name, {}).setdefault(f"teacher - {other}", {})
            lead[f"recall_at_{k}"] = interval(hits["teacher"], hits[other])
    for arm in ARMS:
        times = sorted(result["cpu_seconds"] for place, result in results.items() if place[0] == arm)
        document[arm]["cpu_seconds_per_run"] = round(times[len(times) // 2], 1)
    return document


def table(document: dict[str, Any]) -> str:
    """The results as Markdown: mean over folds, then mean and spread (sd) over seeds."""
    lines = []
    for name, count in document["queries"].items():
        lines += [f"| {name} ({count} queries) | R@1 | R@5 | R@10 |", "|---|---|---|---|"]
        for arm in ARMS:
            cells = []
            for scores in document[arm][name].values():
                mean = sum(scores) / len(scores)
                spread = (sum((s - mean) ** 2 for s in scores) / max(1, len(scores) - 1)) ** 0.5
                cells.append(f"{mean:.1f} ({spread:.1f})" if len(scores) > 1 else f"{mean:.1f}")
            lines.append(f"| {arm} | {' | '.join(cells)} |")
        for pair, leads in document["paired_bootstrap"][name].items():
            cells = [f"{s['difference']:+.1f} [{s['low']:.1f}, {s['high']:.1f}]" for s in leads.values()]
            lines.append(f"| {pair} | {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--splits", nargs="+", choices=SPLITS, default=list(SPLITS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="runs at a time, one thread each")
    parser.add_argument("--runs", type=Path, default=Path("runs/bench-quickstart"), help="where finished runs are kept")
    parser.add_argument("--output", type=Path, default=HERE / "results.json")
    parser.add_argument("overrides", nargs="*", help="changes to the recipe in every arm: train.precision=bf16")
    args = parser.parse_args()
    args.runs.mkdir(parents=True, exist_ok=True)
    os.environ.update(OMP_NUM_THREADS="1", MMKD_THREADS="1", TOKENIZERS_PARALLELISM="false")
    started = time.monotonic()
    with multiprocessing.get_context("spawn").Pool(args.processes, maxtasksperchild=4) as pool:
        config = tune(pool, args)
        every = itertools.product(ARMS, args.splits, args.folds, args.seeds)
        places = [place for place in every if place[3] in seeds_of(args, place[0], place[1])]
        places.sort(key=lambda place: (list(SPLITS).index(place[1]), place[3]))  # the plain split first, seed by seed
        work = [job(args, arm, config[arm], fold, seed, SPLITS[split]) for arm, split, fold, seed in places]
        results: dict[tuple[str, str, int, int], dict[str, Any]] = {}
        for place, result in zip(places, pool.imap(train_and_rank, work), strict=True):
            results[place] = result
            print(f"{len(results)}/{len(work)} {' '.join(map(str, place))}  R@1 {recall(result, 1):.1f}", flush=True)
    document = {"seeds": args.seeds, "folds": args.folds, "overrides": args.overrides, "config": config}
    document |= summarise(args, results) | {"seconds": round(time.monotonic() - started, 1)}
    args.output.write_text(json.dumps(document, indent=2) + "\n")
    print(table(document))
    print(args.output)


if __name__ == "__main__":
    main()
