"""Two teachers of different modality for one student: MiniLM reads the captions, MobileNetV2 looks at the pictures.

One image network of half a million parameters learns to place emoji where MiniLM places their captions and to see in
them what MobileNetV2 sees, through a projector each; every teacher makes one forward pass per picture, once. Trains
it with both, then with either alone, for a while each. About a minute; `--steps 800` is the whole recipe, and
model_zoo/multi_teacher has it with 3 seeds.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import mmkd

ARMS: dict[str, list[str]] = {
    "both": [],
    "sentence": ["teachers.picture=null", "projectors.look=null", "losses.feature=null"],
    "picture": [
        "teachers.sentence=null", "projectors.up=null", "losses.contrastive=null", "losses.similarity=null",
        "evaluate=[{use: core.knn, student: student.embedding, label: batch.label, k: 5}]", "export=[student]",
    ],
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100, help="optimiser steps of each student")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS), help="which teachers")
    parser.add_argument("--output-dir", type=Path, help="keep the runs there")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as aside:
        compare(args.arms, args.steps, args.output_dir or Path(aside))


def compare(arms: list[str], steps: int, folder: Path) -> None:
    """Train one student per arm and print what each has learnt."""
    lines = [f"{'teachers':10}{'right picture in 10':>22}{'right neighbours':>18}{'seconds':>9}"]
    for arm in arms:
        started = time.monotonic()
        overrides = [*ARMS[arm], f"train.steps={steps}", f"train.warmup_steps={steps // 10}"]
        recipe = mmkd.load_recipe("vision_language.emoji_two_teachers", overrides)
        results = mmkd.distill(recipe, output_dir=folder / arm)
        scores = results["student"]["scores"]["held_out"]
        recall = f"{100 * scores['retrieval']['recall_at_10']:.1f}%" if "retrieval" in scores else "needs text"
        near = f"{100 * scores['knn']['knn_accuracy']:.1f}%"
        lines.append(f"{arm:10}{recall:>22}{near:>18}{time.monotonic() - started:9.1f}")
    print("\nheld-out emoji: captions that find their picture, and pictures among neighbours of their own kind (of 95)")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
