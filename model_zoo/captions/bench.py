"""Audio captioning measured: a small captioner with few captions, taught by a larger one as Xu et al. (2024) do.

    teacher             `audio.captioning`, trained on many captioned scenes
    supervised          the student, on the few captions there are for it
    sequence            and on the teacher's captions of the same scenes
    mse, contrastive    and on the teacher's pooled sounds: `audio.encoder_kd`, by either encoder loss
    ..._audio_only      the same, with many scenes that have no caption but the teacher's

Scenes of the test are none of the training's, and are scored against their likeliest caption. Runs are kept in
`--runs`, so that the bench goes on where it was stopped. Writes `results.json` beside this file and prints the table.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
KINDS = ("sequence", "mse", "contrastive")
ARMS = ("supervised", *KINDS, *(f"{kind}_audio_only" for kind in KINDS))
SCORES = ("bleu", "exact")
CAPTIONED, SCENES, TAUGHT, TESTED = 200, 1000, 4000, 400
"""Scenes with a caption for the student; all that the teacher captions; the teacher's own; and those of the test."""
BATCH, WRITTEN, STEPS, TEACHER_STEPS = 16, 24, 400, 700
"""Scenes a step with the data's caption, and with the teacher's."""
FRONT = {"mels": 40, "hop": 200}
STUDENT: dict[str, Any] = {
    "use": "audio.captioner", "audio": {"use": "audio.convnet", "width": 32, "blocks": 2, **FRONT}, "width": 32,
    "layers": 1, "heads": 2, "dropout": 0.1, "tokenizer": "words", "corpus": {"use": "audio.scenes", "size": 1000},
    "max_length": 20,
}  # fmt: skip
MSE = {"use": "core.mse", "student": "space", "teacher": "teacher@written.audio.embedding"}


def teacher_recipe(seed: int) -> dict[str, Any]:
    """The packaged recipe, shorter."""
    return {"recipe": "audio.captioning", "train": {"steps": TEACHER_STEPS, "seed": 1000 + seed}}


def recipe_of(arm: str, teacher: Path, seed: int) -> dict[str, Any]:
    """What one student is; its training scenes are handed in."""
    losses: dict[str, Any] = {}
    projectors: dict[str, Any] = {}
    if arm.startswith("mse"):
        losses["encoder"], projectors["teacher_space"] = MSE, None
    if not arm.startswith(("mse", "contrastive")):
        losses["encoder"], projectors = None, {"space": None, "teacher_space": None}
    if arm == "supervised":
        losses["sequence"] = None
    return {
        "recipe": "audio.encoder_kd",
        "teacher": {"path": str(teacher), "cache": "memory"} if projectors.get("space", 1) else None,
        "student": STUDENT,
        "projectors": projectors,
        "losses": losses,
        "data": {"batch_size": BATCH, "streams": {"written": {"dataset": None, "batch_size": WRITTEN}}},
        "train": {
            "steps": STEPS, "optimizer": "adamw", "lr": 3e-3, "weight_decay": 0.01, "warmup_steps": 50,
            "max_grad_norm": 1.0, "seed": seed,
        },
        "baseline": None,
    }  # fmt: skip


def train(arm: str, teacher: Path, seed: int, folder: Path) -> dict[str, Any]:
    """One student."""
    from mmkd_audio.scenes import Scenes

    data: dict[str, Any] = {"train": kept(Scenes(CAPTIONED, seed))}
    if arm != "supervised":
        scenes = SCENES if arm.endswith("audio_only") else CAPTIONED
        data["streams"] = {"written": kept(captioned(Scenes(scenes, seed, captioned=False), teacher))}
    return scored(recipe_of(arm, teacher, seed), data, folder)


def teach(seed: int, folder: Path) -> dict[str, Any]:
    """The teacher of a seed, which stays in its folder."""
    from mmkd_audio.scenes import Scenes

    shutil.rmtree(folder, ignore_errors=True)  # what a run that was stopped left
    return scored(teacher_recipe(seed), {"train": kept(Scenes(TAUGHT, 1000 + seed))}, folder)


def scored(recipe: dict[str, Any], data: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Train, then score on the scenes held out: percent, and CPU seconds."""
    import mmkd

    data["eval"] = kept(test())
    before = time.process_time()
    results = mmkd.distill(recipe, output_dir=folder, data=data, preflight=False)
    seconds = time.process_time() - before
    scores = results["student"]["scores"]["eval"]["generation"]
    return {**{name: round(100 * scores[name], 2) for name in SCORES}, "cpu_seconds": round(seconds, 1)}


def test() -> Any:
    """Scenes held out, with their likeliest captions."""
    from mmkd_audio.scenes import Scenes

    return Scenes(TESTED, split="held_out", variation=0.0)


def captioned(sounds: Any, teacher: Path) -> Any:
    """The sounds with what the teacher writes, which is kept beside it."""
    from mmkd_language.generated import Generated

    import mmkd

    node = mmkd.from_pretrained(teacher).roles["student"].encoder
    return Generated(sounds, node, str(teacher / "written.jsonl"), beams=3, batch_size=200)


def kept(dataset: Any) -> Any:
    """The dataset's samples, made once."""
    import mmkd

    class Kept(mmkd.Dataset):
        license = dataset.license
        samples = [dataset[i] for i in range(len(dataset))]

        def __len__(self) -> int:
            return len(self.samples)

        def __getitem__(self, index: int) -> dict[str, Any]:
            return dict(self.samples[index])

    return Kept()


def mean(values: list[float]) -> str:
    """Mean over seeds, with the spread (sd) where there are several."""
    spread = f" ({statistics.stdev(values):.1f})" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.1f}{spread}"


def table(document: dict[str, Any]) -> str:
    """Scores by arm, and what an encoder loss adds seed by seed, as Markdown."""
    lines = ["| | BLEU | exact | CPU seconds |", "|---|---|---|---|"]
    arms = document["arms"]
    lines += [f"| {arm} | {' | '.join(mean(runs[name]) for name in runs)} |" for arm, runs in arms.items()]
    lines += ["", "| over sequence | BLEU | exact |", "|---|---|---|"]
    for suffix, kind in itertools.product(("", "_audio_only"), KINDS[1:]):
        if (arm := kind + suffix) in arms:
            gains = [
                [a - b for a, b in zip(arms[arm][name], arms[KINDS[0] + suffix][name], strict=True)] for name in SCORES
            ]
            lines.append(f"| {arm} | {' | '.join(map(mean, gains))} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--runs", type=Path, default=Path("runs/bench-captions"), help="where finished runs are kept")
    parser.add_argument("--output", type=Path, default=HERE / "results.json")
    args = parser.parse_args()
    args.runs.mkdir(parents=True, exist_ok=True)
    os.environ.update(OMP_NUM_THREADS="1", MMKD_THREADS="1", TOKENIZERS_PARALLELISM="false")
    runs: dict[str, list[dict[str, Any]]] = {arm: [] for arm in ("teacher", *ARMS)}
    for seed in args.seeds:
        teacher = args.runs / f"teacher-{seed}"
        for arm in runs:
            file = args.runs / f"{arm}-{seed}.json"
            if not file.is_file():
                with tempfile.TemporaryDirectory() as folder:
                    done = teach(seed, teacher) if arm == "teacher" else train(arm, teacher, seed, Path(folder) / "run")
                file.write_text(json.dumps(done))
            runs[arm].append(json.loads(file.read_text()))
            print(arm, seed, runs[arm][-1], flush=True)
    arms = {arm: {name: [run[name] for run in own] for name in own[0]} for arm, own in runs.items()}
    scenes = {"captioned": CAPTIONED, "written": SCENES, "teacher": TAUGHT, "test": TESTED}
    document = {"seeds": args.seeds, "scenes": scenes, "arms": arms}
    args.output.write_text(json.dumps(document, indent=2) + "\n")
    print(table(document))
    print(args.output)


if __name__ == "__main__":
    main()
