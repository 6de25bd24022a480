"""SeqKD: completions that a teacher has written, and BLEU."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from language_models import DATA, WORDS, batch, model
from mmkd_language.bleu import corpus_bleu, sentence_bleu
from mmkd_language.causal_lm import CausalLM
from mmkd_language.generated import Generated
from mmkd_language.generation_score import Generation
from mmkd_language.toy_translation import ToyTranslation

import mmkd
from mmkd.errors import DataError, RecipeError

SOME = ToyTranslation(12)
OPTIONS: dict[str, Any] = {"beams": 3, "max_new_tokens": 8}


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_completions_are_the_teachers_likeliest(tmp_path: Path) -> None:
    teacher = model()
    made = Generated(SOME, teacher, str(tmp_path / "a.jsonl"), **OPTIONS)
    fields = batch(teacher, [SOME[i] for i in range(12)])
    for i, several in enumerate(teacher.beams(fields, range(12), 3, 8)):
        assert made[i]["target"] == teacher.text.decode(several[0]) != SOME[i]["target"]
        assert (made[i]["text"], made[i]["reference"], made[i]["key"]) == (*list(SOME[i].values())[1:], SOME[i]["key"])
    head, *rows = lines(tmp_path / "a.jsonl")
    assert head["beams"] == 3 and head["teacher"].startswith("sha256:") and len(rows) == 12
    assert all(len(row["written"]) == 3 for row in rows)


def test_the_closest_beam_is_nearest_to_the_reference(tmp_path: Path) -> None:
    path = str(tmp_path / "a.jsonl")
    best = Generated(SOME, model(), path, **OPTIONS)
    closest = Generated(SOME, model(), path, keep="closest", **OPTIONS)
    for i, row in enumerate(lines(tmp_path / "a.jsonl")[1:]):
        scores = [sentence_bleu(text.split(), SOME[i]["target"].split()) for text in row["written"]]
        assert closest[i]["target"] == row["written"][scores.index(max(scores))]
        assert best[i]["target"] == row["written"][0]
    references = Generated(SOME, model(), str(tmp_path / "none.jsonl"), keep="reference")
    assert [references[i]["target"] for i in range(12)] == [SOME[i]["target"] for i in range(12)]
    assert not (tmp_path / "none.jsonl").exists()


def test_a_killed_writer_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Generated(SOME, model(), str(tmp_path / "whole.jsonl"), **OPTIONS)
    path, beams, calls = tmp_path / "cut.jsonl", CausalLM.beams, []

    def third_kills(*args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return beams(*args, **kwargs)

    monkeypatch.setattr(CausalLM, "beams", third_kills)
    with pytest.raises(KeyboardInterrupt):
        Generated(SOME, model(), str(path), batch_size=4, **OPTIONS)
    assert len(lines(path)) == 9
    path.write_bytes(path.read_bytes()[:-20])  # the last line was cut short
    monkeypatch.setattr(CausalLM, "beams", lambda *a, **k: calls.append(a) or beams(*a, **k))
    calls.clear()
    resumed = Generated(SOME, model(), str(path), batch_size=4, **OPTIONS)
    assert len(calls) == 2 and len(lines(path)) == 13
    assert [resumed[i] for i in range(12)] == [whole[i] for i in range(12)]
    calls.clear()
    Generated(SOME, model(), str(path), **OPTIONS)
    assert not calls


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"teacher": model(7)}, "teacher"),
        ({"teacher": model(max_length=20)}, "teacher"),
        ({"beams": 2}, "beams"),
        ({"max_new_tokens": 9}, "max_new_tokens"),
        ({"length_penalty": 0.5}, "length_penalty"),
        ({"dataset": ToyTranslation(12, variation=0, seed=0)}, None),
        ({"dataset": ToyTranslation(24)}, None),
        ({"dataset": [{**SOME[i], "text": "a cat"} for i in range(12)]}, "prompt for sample '0/0'"),
    ],
    ids=["weights", "tokenizer", "beams", "length", "penalty", "targets", "more", "prompts"],
)
def test_a_file_of_something_else_is_refused(tmp_path: Path, changed: dict[str, Any], field: str | None) -> None:
    class Listed(mmkd.Dataset):
        def __init__(self, rows: Any) -> None:
            self.rows = rows

        def __len__(self) -> int:
            return len(self.rows)

        def __getitem__(self, index: int) -> Any:
            return self.rows[index]

    given: dict[str, Any] = {"dataset": SOME, "teacher": model(), **OPTIONS}
    path = str(tmp_path / "a.jsonl")
    Generated(path=path, **given)
    changed = {**changed, "dataset": Listed(changed.get("dataset", SOME))}
    if field is None:
        Generated(path=path, **{**given, **changed})
        return
    with pytest.raises(DataError, match=f"written with another {field}"):
        Generated(path=path, **{**given, **changed})


def test_bare_prompts_are_completed_and_have_nothing_to_be_close_to(tmp_path: Path) -> None:
    class Prompts(mmkd.Dataset):
        def __len__(self) -> int:
            return 3

        def __getitem__(self, index: int) -> dict[str, Any]:
            return {"text": SOME[index]["text"]}

    made = Generated(Prompts(), model(), str(tmp_path / "a.jsonl"), **OPTIONS)
    assert made[2]["key"] == "2" and made[2]["target"] and "reference" not in made[2]
    with pytest.raises(DataError, match="no 'target'"):
        Generated(Prompts(), model(), str(tmp_path / "a.jsonl"), keep="closest", **OPTIONS)[0]


def test_a_teacher_that_does_not_write(tmp_path: Path) -> None:
    teacher = mmkd.wrap(torch.nn.Linear(2, 2), inputs=["image"], outputs="logits")
    with pytest.raises(RecipeError, match="does not write"):
        Generated(SOME, teacher, str(tmp_path / "a.jsonl"))


def test_the_packaged_recipe_learns_from_the_teacher_and_its_baseline_from_the_references(tmp_path: Path) -> None:
    teacher = {"use": "language.causal_lm", "tokenizer": WORDS, "width": 16, "max_length": 32}
    data = {"use": "language.toy_translation", "size": 32}
    recipe = {
        "recipe": "language.seq_kd",
        "student": {**teacher, "width": 24, "max_new_tokens": 8},
        "data": {
            "train": {"dataset": data, "teacher": teacher, "path": str(tmp_path / "a.jsonl"), "beams": 2,
                      "max_new_tokens": 8},
            "eval": {**data, "size": 8},
            "batch_size": 8,
        },
        "train": {"steps": 3},
    }  # fmt: skip
    torch.manual_seed(0)
    from mmkd import distill, load_recipe
    from mmkd.datasets import train_dataset

    loaded = load_recipe(recipe)
    torch.manual_seed(0)
    written = train_dataset(loaded)
    plain = loaded.baseline_recipe()
    assert plain is not None
    references = train_dataset(plain)
    assert written[3]["target"] != references[3]["target"] == ToyTranslation(32)[3]["target"]
    distilled = mmkd.build(loaded, data={"train": written})
    assert distilled.collate([written[0]])["student"]["labels"].shape[1] > 8
    results = distill({**recipe, "data": {**recipe["data"], "train": None}}, output_dir=tmp_path / "run",
                      data={"train": written, "eval": ToyTranslation(8)}, baseline=False)  # fmt: skip
    assert "bleu" in results["student"]["scores"]["eval"]["generation"]


def test_training_on_references_instead_is_another_training(tmp_path: Path) -> None:
    """The mechanism switched off: the loss reads other tokens."""
    losses = {}
    for keep in ("best", "reference"):
        data = Generated(SOME, model(), str(tmp_path / "a.jsonl"), keep=keep, **OPTIONS)  # type: ignore[arg-type]
        graph = mmkd.build("language.seq_kd", nodes={"student": model(3)}, data={"train": data})
        losses[keep] = graph(graph.collate([data[i] for i in range(8)]))["loss"].item()
    assert abs(losses["best"] - losses["reference"]) > 1e-3


def test_the_word_level_recipe_is_the_sum_of_its_terms() -> None:
    nodes = {"student": model(1), "teacher": model(2)}
    graph = mmkd.build("language.word_kd", nodes=nodes, data={"train": DATA})
    out = graph(graph.collate([DATA[i] for i in range(8)]))
    assert out["loss"].item() == pytest.approx(0.5 * (out["word_loss"] + out["supervised_loss"]).item(), rel=1e-5)
    equal = mmkd.build("language.word_kd", nodes={"student": model(1), "teacher": model(1)}, data={"train": DATA})
    assert equal(equal.collate([DATA[i] for i in range(8)]))["word_loss"].item() == pytest.approx(0, abs=1e-6)


def test_bleu_of_a_worked_example() -> None:
    """Papineni et al. (2002), example 2: "the" counts as often as it is in the reference."""
    made, wanted = ["the"] * 7, ["the", "cat", "is", "on", "the", "mat"]
    assert corpus_bleu([(made, wanted)], order=1) == pytest.approx(2 / 7)
    assert corpus_bleu([(["the", "cat"], wanted)], order=2) == pytest.approx(math.exp(1 - 6 / 2))
    shares = (4 + 4) / 9, (3 + 3) / 7, (2 + 2) / 5, (1 + 1) / 3
    assert corpus_bleu([("abcde", "abcdf"), ("xyzw", "xyzw")]) == pytest.approx(math.prod(shares) ** 0.25)
    assert corpus_bleu([("abc", "def")]) == 0
    assert corpus_bleu([("", "a")]) == 0 and corpus_bleu([("", "")]) == 1


def test_sentence_bleu_is_smoothed() -> None:
    assert sentence_bleu("abcde", "abcde") == 1
    shares = 4 / 5, (2 + 1) / (4 + 1), (0 + 1) / (3 + 1), (0 + 1) / (2 + 1)
    assert sentence_bleu("abxde", "abcde") == pytest.approx(math.prod(shares) ** 0.25)
    assert sentence_bleu("xy", "abcde") == 0
    assert sentence_bleu("abc", "abcde") > sentence_bleu("bac", "abcde")


def test_generation_counts_exact_matches() -> None:
    metric = Generation()
    metric(
        generated=torch.tensor([[5, 6, 2], [5, 2, -1]]),
        labels=torch.tensor([[9, 5, 6, 2], [9, 5, 7, 2]]),
        completion=torch.tensor([[0, 1, 1, 1], [0, 1, 1, 1]]).bool(),
    )
    expected = corpus_bleu([([5, 6, 2], [5, 6, 2]), ([5, 2], [5, 7, 2])])
    assert metric.compute() == {"bleu": pytest.approx(expected), "exact": 0.5}


def test_toy_sentences_are_seeded_and_have_several_translations() -> None:
    data, other = ToyTranslation(200), ToyTranslation(200, seed=1)
    assert data[5] == ToyTranslation(6)[5] and data[5] != other[5]
    assert len({data[i]["text"] for i in range(200)}) > 190
    plain = ToyTranslation(200, variation=0)
    differ = [data[i]["target"] != plain[i]["target"] for i in range(200)]
    assert all(data[i]["text"] == plain[i]["text"] for i in range(200))
    assert 0.5 < sum(differ) / 200 < 0.8
    with pytest.raises(IndexError):
        data[200]
