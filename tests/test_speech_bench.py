"""The numbers of the speech networks: what they are measured on, and that the card says what the results say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from mmkd_audio.phrases import phrases

import mmkd
from model_zoo.speech import bench, distilhubert, segue

HERE = Path(__file__).parents[1] / "model_zoo" / "speech"


@pytest.mark.parametrize(("script", "name"), [(bench, "results"), (segue, "segue"), (distilhubert, "distilhubert")])
def test_the_card_holds_the_tables_of_the_results(script, name) -> None:
    document = json.loads((HERE / f"{name}.json").read_text())
    card = (HERE / "README.md").read_text().splitlines()
    lines = [line for line in script.table(document).splitlines() if line]
    assert lines and not [line for line in lines if line not in card]


def test_no_phrase_or_voice_of_the_tests_was_in_training_or_is_an_example() -> None:
    known, tests = {phrase.text for phrase in phrases()}, segue.tests()
    assert not {text for _, text, _ in tests} & known and not {voice for *_, voice in tests} & set(
        segue.VOICES["train"]
    )
    for seed in range(3):
        assert not {text for _, text, _ in segue.examples(seed)} & ({text for _, text, _ in tests} | known)


def test_every_intent_has_as_many_tests_and_examples_as_any_other() -> None:
    tests, labels = segue.tests(), range(len(segue.intents()))
    assert len(labels) == 20 and {label for label, *_ in tests} == set(labels)
    assert len(set(tests)) == len(tests) == 20 * segue.TESTS * len(segue.VOICES["test"])
    shown = segue.examples(0)
    assert len(set(shown)) == len(shown) and shown != segue.examples(1)
    for shots in segue.SHOTS:
        assert sorted(label for label, *_ in shown[: shots * 20]) == sorted(list(labels) * shots)


def test_trained_arms_share_network_audio_and_budget() -> None:
    taught, alone = (segue.recipe_of(arm, 1, []) for arm in ("segue", "no_teacher"))
    assert taught.student is not None and taught.student.arguments == alone.students["speech"].arguments
    assert taught.data.train == alone.data.train and taught.data.batch_size == alone.data.batch_size
    assert not taught.data.curators and not alone.data.curators and not alone.teacher_nodes()
    for field in ("steps", "lr", "weight_decay", "warmup_steps", "max_grad_norm", "seed"):
        assert getattr(taught.train, field) == getattr(alone.train, field)


def test_students_of_layers_share_network_sound_and_budget() -> None:
    layers, last = (distilhubert.recipe_of(arm, 1, HERE, []) for arm in ("layers", "last"))
    assert layers.student == last.student and layers.data == last.data and layers.train == last.train
    assert layers.losses["layers"].use == "audio.distilhubert" and last.losses["layers"].use == "core.mse"
    assert layers.train.seed == 1 and layers.train.steps == 800


def test_longer_arms_have_the_steps_that_their_names_say() -> None:
    steps = mmkd.load_recipe("audio.spoken_phrases").train.steps
    assert steps
    for arm, times in (("teacher", 1), ("hard_labels", 1), ("hard_labels_4x", 4), ("hard_labels_10x", 10)):
        assert bench.recipe_of(arm, 0, []).train.steps == times * steps
    assert bench.recipe_of("hard_labels_4x", 0, ["train.steps=10"]).train.steps == 40
