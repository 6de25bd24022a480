"""DistilHuBERT measured: one block learns what four have learnt, from sound alone; a probe tells what both hear.

    teacher        four blocks over log-mel frames, trained by the recipe `audio.segue` as in `segue.py`
    layers         one block, trained by the recipe `audio.distilhubert`: blocks 2, 3 and 4 by a head each
    last           the same block, steps and sound: MSE to block 4 alone, through a linear map
    undistilled    the same block with random weights

Sound, intents, examples and tests are those of `segue.py`; students see no text. Runs are kept in `--runs`. Writes
`distilhubert.json` beside this file and prints the table.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model_zoo.speech import segue

if TYPE_CHECKING:
    import mmkd

ARMS = ("teacher", "layers", "last", "undistilled")
BLOCK = {"use": "audio.transformer", "width": 128, "heads": 4, "mels": 40}
RUN: dict[str, Any] = {**segue.RUN, "train": {**segue.RUN["train"], "lr": 1e-3}}
TEACHER = {**segue.SEGUE, **RUN, "student": {**BLOCK, "layers": 4, "dim": 384}}
STUDENT = {**BLOCK, "layers": 1}
LAST: dict[str, Any] = {
    "projectors": {"up": {"use": "core.linear", "input": "student.tokens", "like": "teacher.hidden.4"}},
    "losses": {
        "layers": {"use": "core.mse", "student": "up", "teacher": "teacher.hidden.4", "mask": "student.mask"}
    },
}  # fmt: skip


def recipe_of(arm: str, seed: int, teacher: Path, overrides: list[str]) -> mmkd.Recipe:
    """What one run is."""
    import mmkd

    own = [f"train.seed={seed}", *overrides]
    if arm == "teacher":
        return mmkd.load_recipe(TEACHER, own)
    layers = {"layers": {"teacher": [f"teacher.hidden.{i}" for i in (2, 3, 4)]}}
    change = LAST if arm == "last" else {"losses": layers}
    base = {"teacher": {"use": "core.exported", "path": str(teacher)}, "student": STUDENT, **RUN}
    return mmkd.load_recipe({"recipe": "audio.distilhubert", **base, **change}, own)


def measured(seed: int, overrides: list[str]) -> dict[str, dict[str, Any]]:
    """All arms of a seed: accuracy by number of examples, and the CPU seconds of training."""
    import torch
    from mmkd_audio.transformer import AudioTransformer

    import mmkd

    found = {}
    said = segue.samples([*segue.examples(seed), *segue.tests()])
    with tempfile.TemporaryDirectory() as home:
        for arm in ARMS:
            before, seconds = time.process_time(), 0.0
            if arm == "undistilled":
                torch.manual_seed(seed)
                encoder: mmkd.Encoder = AudioTransformer(**{k: v for k, v in STUDENT.items() if k != "use"}).eval()  # type: ignore[arg-type]
            else:
                recipe = recipe_of(arm, seed, Path(home) / "teacher", overrides)
                mmkd.distill(recipe, output_dir=Path(home) / arm, baseline=False)
                seconds = time.process_time() - before
                encoder = mmkd.from_pretrained(Path(home) / arm).roles["student"].encoder
            accuracy = segue.probed(segue.embedded(encoder, said), seed)
            found[arm] = {"accuracy": accuracy, "cpu_seconds": round(seconds, 1)}
    return found


def table(document: dict[str, Any]) -> str:
    """Mean and spread (sd) over seeds, as Markdown."""
    return segue.table(document, ARMS)


def main() -> None:
    args = segue.asked(__doc__, "distilhubert.json")
    document = segue.empty(ARMS, args.seeds, args.overrides)
    for seed in args.seeds:
        file = args.runs / f"{'-'.join(['layers', str(seed), *args.overrides]).replace('/', '_')}.json"
        if not file.is_file():
            file.write_text(json.dumps(measured(seed, args.overrides)))
        for arm, run in json.loads(file.read_text()).items():
            segue.add(document[arm], run)
            print(arm, seed, run, flush=True)
    args.output.write_text(json.dumps(document, indent=2) + "\n")
    print(table(document))
    print(args.output)


if __name__ == "__main__":
    main()
