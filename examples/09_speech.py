"""A sentence encoder that never heard a sound teaches a small speech network; questions in words find what was said.

MiniLM places 356 phrases; the network learns to place utterances of them where their texts are, spoken by espeak-ng in
four voices. Afterwards a question in words of your own searches phrases that it was never trained on, by speakers that
it never heard, and the best match is written as a wav file beside a page to look at and listen to. About a minute
(besides MiniLM, which reads every text once); needs `apt-get install espeak-ng`.
"""

from __future__ import annotations

import argparse
import base64
import html
from pathlib import Path

import soundfile
import torch
from mmkd_audio.espeak import Espeak

import mmkd

QUESTIONS = ["the puppy naps", "repair the bicycle", "prepare supper this evening", "a frog in the woods"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100, help="optimiser steps")
    parser.add_argument("--output-dir", type=Path, default=Path("runs/speech"))
    parser.add_argument("--resume", action="store_true", help="go on with the run in --output-dir")
    parser.add_argument("questions", nargs="*", default=QUESTIONS, help="what to look for, in words")
    args = parser.parse_args()

    recipe = mmkd.load_recipe("audio.spoken_phrases", [f"train.steps={args.steps}"])
    results = mmkd.distill(recipe, output_dir=args.output_dir, baseline=False, resume=args.resume)
    model = mmkd.from_pretrained(args.output_dir)

    heard = Espeak(**recipe.data.eval_sets()["held_out"].arguments)
    samples = [heard[i] for i in range(len(heard))]
    sounds = embedded(model, samples, "up")
    asked = embedded(model, [{"text": question} for question in args.questions], "teacher.embedding")
    cosines, places = (asked @ sounds.T).topk(3)

    rows = []
    for question, cosine, row in zip(args.questions, cosines.tolist(), places.tolist(), strict=True):
        found = [samples[i] for i in row]
        print(f"{question!r}: {found[0]['text']!r} (cosine {cosine[0]:.2f}), then {found[1]['text']!r}")
        audio = found[0]["audio"]
        file = args.output_dir / f"{question.replace(' ', '_')}.wav"
        soundfile.write(file, audio["array"], audio["sampling_rate"])
        rows.append((question, file, [(one["text"], one["voice"], c) for one, c in zip(found, cosine, strict=True)]))
    page = args.output_dir / "speech.html"
    page.write_text(written(rows), encoding="utf-8")
    recall = results["student"]["scores"]["held_out"]["retrieval"]["recall_at_1"]
    chance = 1 / len({sample["text"] for sample in samples})
    print(f"{recall:.1%} of the held-out texts find their phrase first; {chance:.1%} would by chance")
    print(page)


def embedded(model: mmkd.TrainingGraph, samples: list[dict[str, object]], name: str) -> torch.Tensor:
    """One value of all samples, at length 1."""
    with torch.no_grad():
        value = model.values(model.collate(samples, [name]), [name])[name]
    return torch.nn.functional.normalize(value, dim=-1)


def written(rows: list[tuple[str, Path, list[tuple[str, str, float]]]]) -> str:
    """A page that needs nothing besides itself: each question, its best match to listen to, and the next ones."""
    parts = ["<!doctype html><meta charset=utf-8><title>Spoken phrases</title>"]
    parts.append("<style>body{font:16px sans-serif;max-width:46em;margin:2em auto}td{padding:.3em 1em .3em 0}</style>")
    parts.append("<h1>Written questions, spoken answers</h1><table>")
    for question, file, found in rows:
        sound = base64.b64encode(file.read_bytes()).decode()
        player = f"<audio controls src='data:audio/wav;base64,{sound}'></audio>"
        parts.append(f"<tr><th colspan=3 align=left>{html.escape(question)}</th></tr>")
        for i, (text, voice, cosine) in enumerate(found):
            cells = (html.escape(text), f"{html.escape(voice)}, {cosine:.2f}", "" if i else player)
            parts.append(f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
    return "".join([*parts, "</table>"])


if __name__ == "__main__":
    main()
