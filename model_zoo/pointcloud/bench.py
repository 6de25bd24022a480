"""Point clouds measured: names for shapes never seen in training, parts learnt from pictures; writes `results.json`.

    both, sentence,          the recipe `pointcloud.named_shapes` with both teachers, with the sentence encoder alone,
    no_teacher               and its baseline, a text network from scratch. A quarter of the families is held out, and
                             their shapes are given to the nearest of their names: 2 of 4 folds x seeds.
    view_teacher, forward,   the 2D network on rendered views, lifted to the points; the student of the recipe
    backward, more_forward,  `pointcloud.part_distill` before and after its backward stage; without rescoring for as
    unbalanced, labels,      many steps; without `balance`; the same student on the labels that the 2D network had; and
    from_shipped             taught by the 2D network that is shipped here.
    large, alone, points,    a network taught by labels, and one a quarter as wide on the same labels: alone, with the
    graphs, even_graphs      large one's features of every point, and with the recipe `pointcloud.point_distiller`.

Every finished run is kept under `--runs`, so that the bench can be stopped and goes on where it was.
`python model_zoo/pointcloud/bench.py`: about half an hour of a core.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from mmkd_pointcloud.families import FAMILIES, PARTS
from mmkd_pointcloud.part_distill import rescored
from mmkd_pointcloud.part_iou import PartIoU
from mmkd_pointcloud.shapes import CAPTIONS, Shapes, described
from torch.nn.functional import normalize

import mmkd

HERE = Path(__file__).parent
FOLDS, USED = 4, 2
"""A quarter of the families is held out at a time; this many of the quarters are."""
ARMS: dict[str, list[str]] = {
    "both": [],
    "sentence": ["teachers.looks=null", "projectors.look=null", "losses.image=null"],
    "no_teacher": [],
}
WHAT = ("parts", "shipped", "local_graph", "zero_shot")
MANY_PARTS = [name for name, own in PARTS.items() if len(own) > 2]
"""Families of three parts or more."""
PART_ARMS = (
    *("view_teacher", "view_teacher_filled", "forward", "unbalanced", "backward", "more_forward", "labels"),
    *("right_by_confidence", "right_rescored"),
)
SHIPPED_ARMS = ("shipped", "shipped_filled", "from_shipped")
GRAPH_ARMS = ("large", "alone", "points", "graphs", "even_graphs")
TURNED = "data.curators=[{use: pointcloud.jitter_scale_rotate, rotate: 0}]"
LABELLED = 4
"""Labelled shapes of a family, where features are distilled."""
SHAPES = f"use: pointcloud.shapes, points: 256, families: {MANY_PARTS}"
ONE_STAGE = "procedure.stages.backward=null"
MANY = 24
"""Unlabelled shapes of a family that a student of parts learns from."""
SHIPPED = HERE / "view_teacher"
TEST = Shapes(MANY_PARTS, per_family=6, points=256, seed=1000)


def held_out(fold: int) -> list[str]:
    """A quarter of the families, relatives in different quarters."""
    return list(FAMILIES)[fold::FOLDS]


def zero_shot(arm: str, fold: int, seed: int, folder: Path, steps: int) -> dict[str, float]:
    """Percent of shapes of unseen families that are given their own name."""
    unseen = held_out(fold)
    seen = [name for name in FAMILIES if name not in unseen]
    data = f"data.train={{use: pointcloud.shapes, caption: parts, per_family: 12, points: 1024, families: {seen}}}"
    recipe = mmkd.load_recipe(
        "pointcloud.named_shapes", [*ARMS[arm], data, "data.eval=null", f"train.seed={seed}", f"train.steps={steps}"]
    )
    point, word = "up", "words.embedding"
    if arm == "no_teacher":
        plain = recipe.baseline_recipe()
        assert plain is not None
        recipe, point, word = plain, "student.embedding", "own_words.embedding"
    mmkd.distill(recipe, output_dir=folder, baseline=False)
    model = mmkd.from_pretrained(folder)
    shapes = Shapes(unseen, per_family=20, points=1024, seed=1000, turn=True)
    label = torch.arange(len(unseen)).repeat_interleave(20)
    scores = {}
    with torch.no_grad():
        z = normalize(
            model.values(model.collate([shapes[i] for i in range(len(shapes))], [point]), [point])[point], dim=1
        )
        for kind, say in (("names", str), ("names_and_parts", described)):
            texts = [{"text": caption.format(say(name))} for name in unseen for caption in CAPTIONS]
            said = normalize(model.values(model.collate(texts, [word]), [word])[word], dim=1)
            named = normalize(said.view(len(unseen), len(CAPTIONS), -1).mean(1), dim=1)
            scores[kind] = 100 * (z @ named.T).argmax(1).eq(label).double().mean().item()
    return scores


def parts(seed: int, folder: Path, steps: int) -> dict[str, float]:
    """Percent of part mIoU on new shapes of the families of many parts, of teachers and students."""
    few, common = f"data.train={{{SHAPES}, per_family: 1, seed: {10 + seed}}}", [f"train.seed={seed}"]
    views = mmkd.load_recipe("pointcloud.view_teacher", [few, f"train.steps={steps}", "data.eval=null", *common])
    mmkd.distill(views, output_dir=folder / "views")
    again = "procedure.stages.more_forward={start: forward}"
    whole = _student(seed, folder / "whole", steps, folder / "views", again)
    forward = whole / "stages" / "forward"
    alone = ["procedure=null", "teachers=null", few, f"train.steps={2 * steps}", *common]
    label = "losses.distill={use: core.cross_entropy, student: student.logits, label: batch.part}"
    mmkd.distill(mmkd.load_recipe("pointcloud.part_distill", [*alone, label]), output_dir=folder / "labels")
    scores = {"forward": _score(forward), "backward": _score(whole / "stages" / "backward")}
    scores |= {"more_forward": _score(whole), "labels": _score(folder / "labels")}
    plain = _student(seed, folder / "unbalanced", steps, folder / "views", ONE_STAGE, "losses.distill.balance=false")
    scores["unbalanced"] = _score(plain)
    scores["view_teacher"], scores["view_teacher_filled"] = _lifted(folder / "views")
    learnt = Shapes(MANY_PARTS, per_family=MANY, points=256, seed=20 + seed)
    scores["right_by_confidence"], scores["right_rescored"] = _right(learnt, folder / "views", forward)
    return scores


def shipped(seed: int, folder: Path, steps: int) -> dict[str, float]:
    """Percent of part mIoU on the same shapes, of the 2D network that is shipped here and of its student."""
    student = _student(seed, folder, steps, SHIPPED, ONE_STAGE)
    return dict(zip(SHIPPED_ARMS, (*_lifted(SHIPPED), _score(student)), strict=True))


def local_graph(seed: int, folder: Path, steps: int) -> dict[str, float]:
    """Percent of part mIoU of a large network and of small ones on the same labels, with and without it."""
    data = f"data.train={{{SHAPES}, per_family: {LABELLED}, seed: {10 + seed}}}"
    common = ["data.batch_size=8", f"train.steps={steps}", "train.lr=3e-3", "train.warmup_steps=20", TURNED]
    label = "losses.label={use: core.cross_entropy, student: student.logits, label: batch.part}"
    common += [data, label, "baseline=null", f"train.seed={seed}"]
    arms = {
        "large": [f"student={_network(16, [64, 128], 128)}", "teacher=null", "losses.local=null"],
        "alone": ["teacher=null", "losses.local=null"],
        "points": [
            "losses.local={use: core.mse, student: up, teacher: teacher.tokens}",
            "projectors={up: {use: core.linear, input: student.tokens, like: teacher.tokens}}",
        ],
        "graphs": [],
        "even_graphs": ["losses.local.reweight=false"],
    }
    scores = {}
    for arm, change in arms.items():
        own = [f"student={_network(8, [16, 32], 32)}", f"teacher={{use: core.exported, path: {folder / 'large'}}}"]
        recipe = mmkd.load_recipe("pointcloud.point_distiller", [*own, *common, *change])
        mmkd.distill(recipe, output_dir=folder / arm)
        scores[arm] = _score(folder / arm)
    return scores


def _network(k: int, widths: list[int], width: int) -> str:
    size = f"k: {k}, widths: {widths}, dim: {width}, token_dim: {width}"
    own = "use: pointcloud.pointnet2, points: 256, num_classes: 43, per_point: true, counts: [64, 16]"
    return f"{{{own}, radii: [0.25, 0.5], {size}}}"


def _student(seed: int, folder: Path, steps: int, teacher: Path, *more: str) -> Path:
    """A network of points that has learnt from a teacher's views of unlabelled shapes."""
    told = f"teachers.views={{use: core.exported, path: {teacher}, cache: {{store: memory, fixed: true}}}}"
    many = f"data.train={{{SHAPES}, per_family: {MANY}, seed: {20 + seed}}}"
    change = [many, told, f"train.steps={steps}", f"train.seed={seed}", *more]
    mmkd.distill(mmkd.load_recipe("pointcloud.part_distill", change), output_dir=folder)
    return folder


def _right(shapes: Shapes, views: Path, student: Path) -> tuple[float, float]:
    """Percent of what the views say that is right, weighed by their confidence, and by the student's agreement."""
    lifted, seen = _values(views, ["student.lifted", "student.visible"], shapes)
    known = _values(student, ["student.logits"], shapes)[0].argmax(-1)
    part = torch.stack([torch.as_tensor(shapes[i]["part"]) for i in range(len(shapes))])
    confidence, said = lifted.softmax(-1).max(-1)
    right = said == part[:, None]
    weights = (confidence * seen, rescored(said, seen, known, lifted.shape[-1]) * seen)
    first, second = (100 * float((weight * right).sum() / weight.sum()) for weight in weights)
    return first, second


def _values(folder: Path, names: list[str], shapes: Shapes = TEST) -> list[torch.Tensor]:
    model = mmkd.from_pretrained(folder)
    read: list[list[torch.Tensor]] = [[] for _ in names]
    with torch.no_grad():
        for start in range(0, len(shapes), 16):
            batch = model.collate([shapes[i] for i in range(start, min(len(shapes), start + 16))], names)
            values = model.values(batch, names)
            for kept, name in zip(read, names, strict=True):
                kept.append(values[name])
    return [torch.cat(kept) for kept in read]


def _miou(logits: torch.Tensor) -> float:
    samples = [TEST[i] for i in range(len(TEST))]
    part = torch.stack([torch.as_tensor(sample["part"]) for sample in samples])
    metric = PartIoU()
    metric(logits, part, torch.tensor([sample["label"] for sample in samples]))
    return 100 * metric.compute()["instance_miou"]


def _score(folder: Path) -> float:
    return _miou(_values(folder, ["student.logits"])[0])


def _lifted(folder: Path) -> tuple[float, float]:
    """The 2D network alone: mean distribution over the views that see a point; then, for those that none sees, that of
    the nearest point that one does."""
    lifted, seen = _values(folder, ["student.lifted", "student.visible"])
    mean = (lifted.softmax(-1) * seen[..., None]).sum(1)
    points = torch.stack([torch.as_tensor(TEST[i]["points"]) for i in range(len(TEST))])
    apart = torch.cdist(points, points).masked_fill(~seen.any(1)[:, None, :], torch.inf)
    filled = mean.gather(1, apart.argmin(-1)[..., None].expand_as(mean))
    return _miou(mean), _miou(filled)  # where no view sees a point all parts are equal: the family's first


def kept(file: Path, run: Callable[[Path], dict[str, float]]) -> dict[str, Any]:
    """A run's scores and CPU seconds, from its file where it has finished."""
    if file.is_file():
        return json.loads(file.read_text())  # type: ignore[no-any-return]
    folder = file.with_suffix("")
    shutil.rmtree(folder, ignore_errors=True)
    started = time.process_time()
    result = {"scores": run(folder), "cpu_seconds": round(time.process_time() - started, 1)}
    file.write_text(json.dumps(result))
    shutil.rmtree(folder)
    print(file.stem, result, flush=True)
    return result


def summary(numbers: list[float]) -> dict[str, Any]:
    """Mean and sample standard deviation over seeds."""
    spread = statistics.stdev(numbers) if len(numbers) > 1 else 0.0
    return {"mean": round(statistics.mean(numbers), 2), "sd": round(spread, 2), "runs": [round(n, 2) for n in numbers]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=150, help="optimiser steps of a student that learns names")
    parser.add_argument("--part-steps", type=int, default=400, help="steps of the 2D network, and of each stage")
    parser.add_argument("--what", nargs="+", choices=WHAT, default=list(WHAT), help="either half alone")
    parser.add_argument("--runs", type=Path, default=Path("runs/bench-pointcloud"), help="where finished runs are kept")
    parser.add_argument("--output", type=Path, default=HERE / "results.json")
    args = parser.parse_args()
    args.runs.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    document: dict[str, Any] = json.loads(args.output.read_text()) if args.output.is_file() else {}
    document |= {"seeds": args.seeds, "steps": args.steps, "part_steps": args.part_steps}
    seconds: dict[str, float] = {}
    kinds = (("parts", parts, PART_ARMS), ("shipped", shipped, SHIPPED_ARMS), ("local_graph", local_graph, GRAPH_ARMS))
    for what, run, arms in kinds:
        if what in args.what:
            files = {seed: args.runs / f"{what}-seed{seed}-{args.part_steps}.json" for seed in args.seeds}
            runs = [kept(file, partial(run, seed, steps=args.part_steps)) for seed, file in files.items()]
            seconds[what] = sum(run["cpu_seconds"] for run in runs)
            document[what] = {arm: summary([run["scores"][arm] for run in runs]) for arm in arms}
    if "zero_shot" in args.what:
        places = [(arm, fold, seed) for seed in args.seeds for fold in range(USED) for arm in ARMS]
        found = {}
        for arm, fold, seed in places:
            file = args.runs / f"{arm}-fold{fold}-seed{seed}-{args.steps}.json"
            found[arm, fold, seed] = kept(file, partial(zero_shot, arm, fold, seed, steps=args.steps))
        seconds["zero_shot"] = sum(run["cpu_seconds"] for run in found.values())
        document["zero_shot"] = {"chance": 100 * FOLDS / len(FAMILIES)}
        for arm in ARMS:
            scores = {
                kind: [statistics.mean(found[arm, f, seed]["scores"][kind] for f in range(USED)) for seed in args.seeds]
                for kind in ("names", "names_and_parts")
            }
            document["zero_shot"][arm] = {kind: summary(numbers) for kind, numbers in scores.items()}
    document["cpu_seconds"] = document.get("cpu_seconds", {}) | {what: round(s) for what, s in seconds.items()}
    args.output.write_text(json.dumps(document, indent=2) + "\n")
    print(json.dumps(document, indent=2))


if __name__ == "__main__":
    main()
