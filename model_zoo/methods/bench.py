"""Every arm on both tasks: tuned on a validation split with one seed, then tested with several.

One result file per arm in `results/`, written after every run: a bench that was stopped goes on where it was, and an
arm whose recipe has changed starts anew. `python -m model_zoo.methods.bench kd dkd` runs these arms alone.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import mmkd
from model_zoo.methods import task as setting, teacher as teachers
from model_zoo.methods.arms import ARMS, GRID, RATES, Arm, merged, recipe
from model_zoo.methods.task import TASKS, TEST, VALIDATION, Pool, answers, asked, classes

HERE = Path(__file__).parent
SEEDS = (0, 1, 2)


def key(name: str) -> str:
    """A digest of all that the numbers of an arm depend on, code aside."""
    arm = ARMS[name]
    task = [TASKS, setting.POOL, VALIDATION, TEST, setting.REPLICAS, setting.AUGMENTATION]
    networks = [teachers.CONV, teachers.CONV_VALUES, teachers.PENALTY]
    if arm.kind == "vit":
        networks += [teachers.VIT, teachers.VIT_VALUES, teachers.VIT_STEPS]
    said = [recipe(name), arm.unit, arm.reads, arm.teacher, grid(name), task, networks]
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]


def methods(made: dict[str, Any]) -> list[str]:
    """The losses of a recipe whose weight is tuned."""
    return [term for term in made["losses"] if term.startswith("method")]


def grid(name: str) -> tuple[float, ...]:
    """What is tried for an arm."""
    return GRID if methods(recipe(name)) else RATES


class Bench:
    """Runs arms, and keeps what came of them.

    Args:
        folder: where teachers and runs go.
        results: where result files go.
        steps: optimiser steps instead of the recipe's.
    """

    def __init__(self, folder: Path, results: Path, steps: int | None = None) -> None:
        self.folder, self.results, self.steps = folder, results, steps
        self.looked_up = 0

    def arm(self, name: str, seeds: tuple[int, ...]) -> None:
        """All runs of an arm that its file does not hold yet."""
        file = self.results / f"{name}.json"
        held = json.loads(file.read_text()) if file.is_file() else {}
        if held.get("key") != key(name):
            held = {"arm": name, "key": key(name), "recipe": recipe(name), "tasks": {}}
        for task in TASKS:
            found = held["tasks"].setdefault(task, {"validation": {}, "test": {}})
            if "unit" not in found:
                found["unit"] = self.unit(name, task)
            for factor in grid(name):
                if str(factor) not in found["validation"]:
                    found["validation"][str(factor)] = self.run(name, task, 0, factor, found["unit"], VALIDATION)[0]
                    self._write(file, held)
            found["chosen"] = max(grid(name), key=lambda factor: found["validation"][str(factor)])
            for seed in seeds:
                if str(seed) not in found["test"]:
                    score, hits, seconds = self.run(name, task, seed, found["chosen"], found["unit"], TEST)
                    found["test"][str(seed)] = {"accuracy": score, "hits": packed(hits), "seconds": seconds}
                    self._write(file, held)
            if self.looked_up:
                spared = self.looked_up * teachers.seconds(ARMS[name].kind, self.folder / "teachers")
                print(
                    f"{name}: {self.looked_up:,} values of the teacher were looked up: about {spared:.0f} s saved",
                    flush=True,
                )
                self.looked_up = 0
            print(name, task, found["unit"], found["chosen"], found["validation"],
                  [run["accuracy"] for run in found["test"].values()], flush=True)  # fmt: skip

    def _write(self, file: Path, held: dict[str, Any]) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        aside = file.with_suffix(".part")
        aside.write_text(json.dumps(held, indent=1) + "\n")
        aside.rename(file)

    def recipe(self, name: str, task: str, seed: int, factor: float, unit: float) -> dict[str, Any]:
        """The recipe of one run."""
        made = recipe(name)
        students = made["students"].values() if "students" in made else [made["student"]]
        for student in students:
            student["num_classes"] = len(classes(task))
        for term in methods(made):
            loss = made["losses"][term]
            loss["weight"] = loss.get("weight", 1.0) * unit * factor
        changes: dict[str, Any] = {"seed": seed}
        if not methods(made):
            changes["lr"] = made["train"]["lr"] * factor
        if self.steps is not None:
            changes |= {"steps": self.steps, "warmup_steps": 0}
        return merged(made, {"train": changes})

    def given(self, arm: Arm, task: str, seed: int) -> dict[str, Any]:
        """Teacher and data, for `mmkd.distill`."""
        teacher = teachers.teacher(arm.kind, task, seed, self.folder / "teachers")
        told = None
        if arm.teacher:
            with torch.no_grad():
                told = teacher.head(teacher.tables["embedding"].float()).argmax(1)
        pool = Pool(teachers.pictures(self.folder / "teachers"), task, seed, told)
        read = arm.teacher and arm.patch.get("losses")
        return {"nodes": {"teacher": teacher} if read else {}, "data": {"train": pool}}

    def unit(self, name: str, task: str) -> float:
        """The weight with which the method's terms together are as large as the label's, before the first step."""
        arm = ARMS[name]
        if arm.unit is not None:
            return arm.unit
        torch.manual_seed(0)
        made, given = self.recipe(name, task, 0, 1.0, 1.0), self.given(arm, task, 0)
        made.pop("procedure", None)
        graph = mmkd.build(made, **given).train()
        pool = given["data"]["train"]
        chosen = torch.randperm(len(pool), generator=torch.Generator().manual_seed(0))[: made["data"]["batch_size"]]
        out = graph(graph.collate([pool[i] for i in chosen.tolist()]))
        method = sum(float(out[f"{term}_loss"].detach()) for term in methods(made))
        return float(f"{float(out['label_loss'].detach()) / method:.3g}")

    def run(
        self, name: str, task: str, seed: int, factor: float, unit: float, folds: tuple[int, ...]
    ) -> tuple[float, Tensor, float]:
        """Accuracy in percent, hits by picture, and processor seconds."""
        arm, folder = ARMS[name], self.folder / "run"
        shutil.rmtree(folder, ignore_errors=True)
        made, given = self.recipe(name, task, seed, factor, unit), self.given(arm, task, seed)
        started = time.process_time()
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
            results = mmkd.distill(made, output_dir=folder, baseline=False, preflight=False, **given)
        self.looked_up += results["steps"] * made["data"]["batch_size"] if given["nodes"] else 0
        seconds = time.process_time() - started
        model, samples = mmkd.from_pretrained(folder), asked(folds)
        with torch.no_grad():
            answer = model.values(model.collate(samples, [arm.reads]), [arm.reads])[arm.reads].argmax(1)
        hits = answer == answers(task, folds)
        shutil.rmtree(folder)
        return round(100 * hits.double().mean().item(), 2), hits, round(seconds, 1)

    def teacher_itself(self, seeds: tuple[int, ...]) -> None:
        """Accuracy of the teachers on the test pictures."""
        folder = self.folder / "teachers"
        held = {
            kind: {
                task: [
                    round(100 * (
                        teachers.head(kind, task, seed, folder)(teachers.embeddings(kind, folder, TEST)).argmax(1)
                        == answers(task, TEST)
                    ).double().mean().item(), 2)
                    for seed in seeds
                ]
                for task in TASKS
            }
            for kind in ("conv", "vit")
        }  # fmt: skip
        self._write(self.results / "teachers.json", held)
        print("teachers", held, flush=True)


def packed(hits: Tensor) -> str:
    """Hits as hexadecimal digits, the first picture the highest bit."""
    return f"{int(''.join(str(int(hit)) for hit in hits), 2):x}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("arms", nargs="*", default=list(ARMS), help="all unless given")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--folder", type=Path, default=Path("runs/methods"))
    parser.add_argument("--results", type=Path, default=HERE / "results")
    args = parser.parse_args()
    torch.set_num_threads(1)
    bench, seeds, failed = Bench(args.folder, args.results), tuple(args.seeds), []
    bench.teacher_itself(seeds)
    for name in args.arms:
        try:
            bench.arm(name, seeds)
        except mmkd.errors.MmkdError as error:  # the other arms do not depend on it
            failed.append(name)
            print(f"{name} failed: {error}", flush=True)
    if failed:
        raise SystemExit(f"these arms failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
