"""Mixup and CutMix: exact pixels, exact shares, both labels."""

import numpy as np
import pytest
from mmkd_vision.mix import CutMix, Mixup
from numpy.random import default_rng
from PIL import Image

import mmkd
from mmkd.errors import DataError

BLACK = {"key": "a", "image": Image.new("RGB", (20, 10), "black"), "label": 1, "text": "night"}
WHITE = {"key": "b", "image": Image.new("RGB", (7, 30), "white"), "label": 2, "text": "snow"}


def test_mixup_blends_pixels_and_labels() -> None:
    mixed = Mixup(classes=4).apply(BLACK, {"mix": 0.25, "partner": "b"}, [WHITE])
    assert mixed["image"].size == (20, 10)
    assert (np.asarray(mixed["image"]) == 191).all()
    assert (mixed["label"], mixed["label_b"], mixed["mix"], mixed["mix_b"], mixed["text"]) == (
        1,
        2,
        0.25,
        0.75,
        "night",
    )
    assert mixed["target"].tolist() == [0, 0.25, 0.75, 0] and mixed["target"].dtype == np.float32


def test_equal_labels_add_up() -> None:
    assert Mixup(classes=2).apply(BLACK, {"mix": 0.3}, [{**WHITE, "label": 1}])["target"].tolist() == [0, 1]


def test_mixup_draws_beta() -> None:
    mixup, generator = Mixup(alpha=0.4, probability=0.75), default_rng(0)
    drawn = np.array([mixup.draw(generator)["mix"] for _ in range(4000)])
    mixed = drawn[drawn < 1]
    assert abs(len(mixed) / 4000 - 0.75) < 0.03
    assert abs(mixed.mean() - 0.5) < 0.03 and abs(mixed.var() - 0.25 / 1.8) < 0.01  # Beta(a, a): 1 / (4 (2a + 1))


def test_cutmix_share_is_counted_in_pixels() -> None:
    cutmix, generator = CutMix(classes=3), default_rng(0)
    for _ in range(100):
        mixed = cutmix.apply(BLACK, cutmix.draw(generator), [WHITE])
        black = (np.asarray(mixed["image"]) == 0).all(-1).mean()
        assert mixed["mix"] == pytest.approx(black, abs=1e-12)
        assert np.allclose(mixed["target"], [0, black, 1 - black], atol=1e-6)


def test_cutmix_takes_the_same_place_of_the_partner() -> None:
    noise = Image.fromarray(default_rng(0).integers(1, 256, (10, 20, 3), dtype=np.uint8))
    box = {"left": 0.1, "top": 0.2, "right": 0.5, "bottom": 0.9}
    mixed = np.asarray(CutMix().apply(BLACK, box, [{**WHITE, "image": noise}])["image"])
    assert np.array_equal(mixed[2:9, 2:10], np.asarray(noise)[2:9, 2:10])
    assert mixed.astype(bool).any(-1).sum() == 7 * 8


def test_cutmix_boxes_are_relative() -> None:
    cutmix, generator = CutMix(), default_rng(0)
    for _ in range(200):
        box = cutmix.draw(generator)
        assert 0 <= box["left"] <= box["right"] <= 1 and 0 <= box["top"] <= box["bottom"] <= 1
        shares = [
            cutmix.apply({**BLACK, "image": Image.new("RGB", size)}, box, [WHITE])["mix"]
            for size in [(64, 64), (256, 256)]
        ]
        assert abs(shares[0] - shares[1]) < 0.05


@pytest.mark.parametrize("curator", [Mixup(probability=0.0, classes=3), CutMix(probability=0.0, classes=3)])
def test_a_sample_left_alone_has_the_same_fields(curator: mmkd.Curator) -> None:
    sample = curator.apply(BLACK, curator.draw(default_rng(0)), [WHITE])
    assert sample["image"] is BLACK["image"]
    assert (sample["label_b"], sample["mix"], sample["mix_b"]) == (1, 1.0, 0.0)
    assert sample["target"].tolist() == [0, 1, 0]


def test_one_after_the_other_makes_either() -> None:
    mixup, cutmix = Mixup(probability=0.5), CutMix()
    once = mixup.apply(BLACK, {"mix": 0.5}, [WHITE])
    assert cutmix.apply(once, cutmix.draw(default_rng(0)), [WHITE]) == once
    patched = cutmix.apply({**BLACK}, {"left": 0.0, "right": 1.0, "top": 0.0, "bottom": 0.5}, [{**WHITE, **once}])
    assert (np.asarray(patched["image"]) == 0).all()  # the partner as it was before its own mixing


def test_without_labels() -> None:
    bare = [{"key": "k", "image": Image.new("RGBA", (4, 4))} for _ in range(2)]
    mixed = Mixup().apply(bare[0], {"mix": 0.5}, bare[1:])
    assert "label_b" not in mixed and mixed["image"].mode == "RGB"
    with pytest.raises(DataError, match="k: has no label to mix"):
        Mixup(classes=3).apply(bare[0], {"mix": 0.5}, bare[1:])
    with pytest.raises(DataError, match="label 2 is none of 2 classes"):
        Mixup(classes=2).apply(BLACK, {"mix": 0.5}, [WHITE])


class Shades(mmkd.Dataset):
    """Grey pictures whose label is whether they are light."""

    def __len__(self) -> int:
        return 16

    def __getitem__(self, index: int) -> mmkd.Sample:
        return {"key": str(index), "image": Image.new("RGB", (8 + index, 8), (index * 16,) * 3), "label": index // 8}


@pytest.mark.parametrize("use", ["vision.mixup", "vision.cutmix"])
def test_both_labels_reach_the_loss(use: str, tmp_path) -> None:
    task = {"use": "core.cross_entropy", "student": "student.logits"}
    recipe = {
        "student": {"use": "vision.convnet", "num_classes": 2, "widths": [4], "blocks": [0], "image_size": 8},
        "losses": {
            "own": {**task, "label": "batch.label", "sample_weight": "batch.mix"},
            "partner": {**task, "label": "batch.label_b", "sample_weight": "batch.mix_b"},
        },
        "data": {"curators": [{"use": use}], "batch_size": 4},
        "train": {"steps": 2, "device": "cpu", "log_every": 1},
    }
    results = mmkd.distill(recipe, output_dir=tmp_path / "run", data={"train": Shades()})
    assert results["steps"] == 2
