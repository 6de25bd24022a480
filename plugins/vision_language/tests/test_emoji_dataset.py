"""Emoji dataset: disjoint splits, stable labels, shared pictures, cheap samples."""

import pickle
import time

import numpy as np
import pytest
from mmkd_vision_language.emoji import load, sheet
from mmkd_vision_language.emoji_dataset import EmojiDataset

from mmkd.errors import DataError


def _keys(**options: object) -> set[str]:
    dataset = EmojiDataset(**options)  # type: ignore[arg-type]
    return {dataset[i]["key"] for i in range(len(dataset))}


@pytest.mark.parametrize("grouped", [True, False])
@pytest.mark.parametrize("fold", range(5))
def test_splits_partition(fold: int, grouped: bool) -> None:
    split = {name: _keys(split=name, fold=fold, grouped=grouped) for name in ("held_out", "validation", "fit", "train")}
    assert split["train"] == split["validation"] | split["fit"]
    assert not split["train"] & split["held_out"]
    assert not split["validation"] & split["fit"]
    assert split["train"] | split["held_out"] == _keys(split="all")
    assert {len(split["held_out"]), len(split["validation"])} <= {327, 328}


def test_folds_hold_out_everything_once() -> None:
    held_out = [_keys(split="held_out", fold=fold) for fold in range(5)]
    assert sum(map(len, held_out)) == len(set().union(*held_out)) == 1636


def test_sample() -> None:
    dataset = EmojiDataset("twemoji", split="all")
    index = next(i for i, emoji in enumerate(load()) if emoji.label == "crying cat")
    sample = dataset[index]
    assert sample["key"] == "twemoji/1F63F"
    assert sample["text"].startswith("crying cat: ") and ", " in sample["text"]
    assert sample["image"].mode == "RGBA" and sample["image"].size == (32, 32)
    assert (np.asarray(sample["image"]) == sheet("twemoji")[index]).all()
    assert dataset.subcategories[sample["label"]] == load()[index].subcategory
    assert EmojiDataset(caption="label", split="all")[index]["text"] == "crying cat"


def test_caption_without_tags_is_the_label() -> None:
    dataset = EmojiDataset(split="all")
    index = next(i for i, emoji in enumerate(load()) if not emoji.tags)
    assert dataset[index]["text"] == load()[index].label


def test_labels_are_the_same_in_every_split() -> None:
    everything = EmojiDataset(split="all")
    labels = {everything[i]["key"]: everything[i]["label"] for i in range(len(everything))}
    held_out = EmojiDataset(split="held_out", fold=3)
    assert all(labels[held_out[i]["key"]] == held_out[i]["label"] for i in range(len(held_out)))
    assert set(labels.values()) == set(range(95)) and len(everything.categories) == 8


@pytest.mark.parametrize(("style", "shared"), [("noto", 9), ("twemoji", 30)])
def test_group_is_the_picture(style: str, shared: int) -> None:
    dataset = EmojiDataset(style, split="all")  # type: ignore[arg-type]
    samples = [dataset[i] for i in range(len(dataset))]
    pictures = [sample["image"].tobytes() for sample in samples]
    groups = [sample["group"] for sample in samples]
    assert len(set(zip(pictures, groups, strict=True))) == len(set(pictures)) == len(set(groups))
    assert sum(groups.count(group) > 1 for group in groups) == shared


def test_samples_are_independent() -> None:
    dataset = EmojiDataset()
    dataset[0]["image"].putpixel((0, 0), (1, 2, 3, 255))
    assert dataset[0]["image"].getpixel((0, 0)) != (1, 2, 3, 255)


def test_pickle_is_small_and_equal() -> None:
    dataset = EmojiDataset(split="held_out", fold=2)
    data = pickle.dumps(dataset)
    again = pickle.loads(data)
    assert len(data) < 20_000 and len(again) == len(dataset)
    assert again[7]["key"] == dataset[7]["key"] and again[7]["image"] == dataset[7]["image"]


def test_sample_is_cheap() -> None:
    dataset = EmojiDataset()
    times = []
    for _ in range(5):
        start = time.perf_counter()
        for i in range(200):
            dataset[i]
        times.append((time.perf_counter() - start) / 200)
    assert min(times) < 30e-6


def test_wrong_fold_and_split() -> None:
    with pytest.raises(DataError, match="no fold 5"):
        EmojiDataset(fold=5)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="did you mean 'held_out'"):
        EmojiDataset(split="heldout")  # type: ignore[arg-type]
