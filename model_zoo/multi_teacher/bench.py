"""Two teachers against each of them alone: one image student, a sentence encoder and an image classifier, 3 seeds.

    both        the recipe `vision_language.emoji_two_teachers`
    sentence    its sentence encoder alone
    picture     its image classifier alone
    teachers    the image classifier itself, and chance

`retrieval` asks the held-out pictures with held-out captions. `subcategory` and `category` label a held-out picture by
a vote of the 5 nearest training pictures (95 and 8 classes), in the space of the student's own embedding. Runs are
kept in `--runs`; writes `results.json` beside this file and prints the table.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import multiprocessing
import os
import shutil
import statistics
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
NEIGHBOURS = 5
ARMS: dict[str, list[str]] = {
    "both": [],
    "sentence": ["teachers.picture=null", "projectors.look=null", "losses.feature=null"],
    "picture": [
        "teachers.sentence=null", "projectors.up=null", "losses.contrastive=null", "losses.similarity=null",
        "evaluate=[{use: core.knn, student: student.embedding, label: batch.label, k: 5}]", "export=[student]",
    ],
}  # fmt: skip
SCORES = ("recall_at_1", "recall_at_5", "recall_at_10", "subcategory", "category")
Hits = dict[str, dict[str, float]]
"""Score to emoji to 0 or 100."""


def run(job: dict[str, Any]) -> Hits:
    """Train one arm with one seed on one fold; a run that is already there is read."""
    file = Path(job["file"])
    if not file.is_file():
        folder = file.with_suffix("")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        with (folder / "run.log").open("w") as log, contextlib.redirect_stderr(log):
            file.write_text(json.dumps(train(job, folder / "run")))
        shutil.rmtree(folder)
    return json.loads(file.read_text())  # type: ignore[no-any-return]


def train(job: dict[str, Any], folder: Path) -> Hits:
    """Hits of a trained student on the held-out emoji."""
    import torch

    import mmkd

    torch.set_num_threads(1)
    recipe = mmkd.load_recipe("vision_language.emoji_two_teachers", job["overrides"])
    mmkd.distill(recipe, output_dir=folder, baseline=False)
    model = mmkd.from_pretrained(folder)
    bank, asked = samples("fit" if job["tuning"] else "train", job["fold"]), samples(job["test"], job["fold"])
    hits = neighbours(read(model, bank, "student.embedding"), read(model, asked, "student.embedding"), bank, asked)
    if job["arm"] != "picture":
        hits |= retrieval(read(model, asked, "sentence.embedding"), read(model, asked, "up"), asked)
    return hits


def samples(split: str, fold: int) -> list[dict[str, Any]]:
    """The emoji of a split."""
    from mmkd_vision_language.emoji import load
    from mmkd_vision_language.emoji_dataset import EmojiDataset

    dataset = EmojiDataset(split=split, fold=fold)  # type: ignore[arg-type]
    category = {name: i for i, name in enumerate(dataset.categories)}
    found = [dataset[i] for i in range(len(dataset))]
    return [
        {**sample, "category": category[load()[place].category]}
        for sample, place in zip(found, dataset.indices, strict=True)
    ]


def read(model: Any, samples: list[dict[str, Any]], value: str) -> Any:
    """One value of every sample, at unit length."""
    import torch

    with torch.no_grad():
        parts = [
            model.values(model.collate(samples[i : i + 128], [value]), [value])[value]
            for i in range(0, len(samples), 128)
        ]
    return torch.nn.functional.normalize(torch.cat(parts).float(), dim=-1)


def neighbours(bank: Any, asked: Any, known: list[dict[str, Any]], samples: list[dict[str, Any]]) -> Hits:
    """Whether the nearest training pictures vote right; of tied classes the one with the nearest member wins."""
    nearest = (asked @ bank.T).topk(NEIGHBOURS).indices.tolist()
    hits: Hits = {}
    for score, field in (("subcategory", "label"), ("category", "category")):
        votes = [[known[place][field] for place in places] for places in nearest]
        winners = [max(dict.fromkeys(vote), key=vote.count) for vote in votes]
        hits[score] = {
            sample["key"]: 100.0 * (winner == sample[field]) for sample, winner in zip(samples, winners, strict=True)
        }
    return hits


def retrieval(texts: Any, pictures: Any, samples: list[dict[str, Any]]) -> Hits:
    """Whether the right picture is among the first k; equal pictures are one, ties count against."""
    import torch

    scores = texts @ pictures.T
    group = torch.tensor([sample["group"] for sample in samples])
    same = group[:, None] == group[None, :]
    best = scores.masked_fill(~same, -torch.inf).amax(dim=1, keepdim=True)
    ranks = ((scores >= best) & ~same).sum(dim=1).add(1).tolist()
    return {
        f"recall_at_{k}": {sample["key"]: 100.0 * (rank <= k) for sample, rank in zip(samples, ranks, strict=True)}
        for k in (1, 5, 10)
    }


def teacher_itself(fold: int) -> Hits:
    """The image classifier's own embedding in the place of the student's."""
    import mmkd

    recipe = mmkd.load_recipe("vision_language.emoji_two_teachers", ["data.eval=null"])
    graph = mmkd.build(recipe).eval()
    bank, asked = samples("train", fold), samples("held_out", fold)
    return neighbours(read(graph, bank, "picture.embedding"), read(graph, asked, "picture.embedding"), bank, asked)


def jobs(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Every run, and the file its result goes into."""
    made = []
    for seed in args.seeds:
        for arm, changes in ARMS.items():
            train, test = ("fit", "validation") if args.tuning else ("train", "held_out")
            overrides = [*changes, f"data.train.split={train}", f"data.train.fold={args.fold}", f"train.seed={seed}"]
            overrides += ["data.eval=null", *args.overrides]
            digest = hashlib.sha256(" ".join(overrides).encode()).hexdigest()[:8]
            file = str(args.runs / f"{arm}-{train}-fold{args.fold}-seed{seed}-{digest}.json")
            made.append(
                {"arm": arm, "seed": seed, "fold": args.fold, "test": test, "tuning": args.tuning,
                 "overrides": overrides, "file": file}
            )  # fmt: skip
    return made


def interval(one: dict[str, float], other: dict[str, float], draws: int = 10_000) -> dict[str, float]:
    """Paired bootstrap over emoji: mean difference in points and its 95% interval."""
    import numpy as np

    difference = np.array([one[key] - other[key] for key in one])
    picked = np.random.default_rng(0).integers(0, len(difference), (draws, len(difference)))
    low, high = np.percentile(difference[picked].mean(axis=1), [2.5, 97.5])
    return {"difference": round(difference.mean(), 2), "low": round(low, 2), "high": round(high, 2)}


def mean(found: list[dict[str, float]]) -> dict[str, float]:
    """Mean over seeds, emoji by emoji."""
    return {key: sum(hits[key] for hits in found) / len(found) for key in found[0]}


def summarise(results: dict[str, list[Hits]]) -> dict[str, Any]:
    """Scores by arm and seed, and the lead of both teachers over each."""
    document: dict[str, Any] = {"scores": {}, "paired_bootstrap": {}}
    for arm, runs in results.items():
        document["scores"][arm] = {
            score: [round(statistics.mean(hits[score].values()), 2) for hits in runs]
            for score in SCORES
            if score in runs[0]
        }
    for arm in ("sentence", "picture"):
        document["paired_bootstrap"][f"both - {arm}"] = {
            score: interval(mean([h[score] for h in results["both"]]), mean([h[score] for h in results[arm]]))
            for score in SCORES
            if score in results[arm][0]
        }
    return document


def table(document: dict[str, Any]) -> str:
    """The results as Markdown: mean (sd) over seeds, differences with their 95% interval."""
    lines = ["| | R@1 | R@5 | R@10 | subcategory | category |", "|---|---|---|---|---|---|"]
    for arm, scores in document["scores"].items():
        cells = []
        for score in SCORES:
            found = scores.get(score, [])
            spread = f" ({statistics.stdev(found):.1f})" if len(found) > 1 else ""
            cells.append(f"{statistics.mean(found):.1f}{spread}" if found else "")
        lines.append(f"| {arm} | {' | '.join(cells)} |")
    for pair, leads in document["paired_bootstrap"].items():
        found = [leads.get(score) for score in SCORES]
        cells = [f"{s['difference']:+.1f} [{s['low']:.1f}, {s['high']:.1f}]" if s else "" for s in found]
        lines.append(f"| {pair} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fold", type=int, default=0)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--tuning", action="store_true", help="a validation split of training emoji; writes no file")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="runs at a time, one thread each")
    parser.add_argument("--runs", type=Path, default=Path("runs/bench-multi-teacher"))
    parser.add_argument("--output", type=Path, default=HERE / "results.json")
    parser.add_argument("overrides", nargs="*", help="changes to the recipe in every arm: train.precision=bf16")
    args = parser.parse_args()
    args.runs.mkdir(parents=True, exist_ok=True)
    os.environ.update(OMP_NUM_THREADS="1", MMKD_THREADS="1", TOKENIZERS_PARALLELISM="false")
    work = jobs(args)
    results: dict[str, list[Hits]] = {arm: [] for arm in ARMS}
    with multiprocessing.get_context("spawn").Pool(args.processes, maxtasksperchild=4) as pool:
        for job, hits in zip(work, pool.imap(run, work), strict=True):
            results[job["arm"]].append(hits)
            print(
                job["arm"], job["seed"], {s: round(statistics.mean(h.values()), 1) for s, h in hits.items()}, flush=True
            )
    if args.tuning:
        return
    results["MobileNetV2 itself"] = [teacher_itself(args.fold)]
    document = {"seeds": args.seeds, "fold": args.fold, "overrides": args.overrides, **summarise(results)}
    args.output.write_text(json.dumps(document, indent=2) + "\n")
    print(table(document))


if __name__ == "__main__":
    main()
