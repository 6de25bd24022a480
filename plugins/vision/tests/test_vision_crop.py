"""Random part of an image: the law of torchvision, exact boxes, relative draws."""

import numpy as np
import pytest
import torch
from mmkd_vision.crop import RandomCrop
from numpy.random import default_rng
from PIL import Image
from torchvision.transforms import RandomResizedCrop

from mmkd.errors import MmkdError


def boxes(crop: RandomCrop, size: tuple[int, int], count: int) -> np.ndarray:
    generator = default_rng(0)
    return np.array([crop._box(crop.draw(generator), *size) for _ in range(count)])


@pytest.mark.parametrize("size", [(100, 80), (60, 200), (400, 30)])
def test_the_law_is_torchvisions(size: tuple[int, int]) -> None:
    count = 3000
    ours = boxes(RandomCrop(), size, count)
    torch.manual_seed(0)
    page = torch.empty(3, size[1], size[0])
    drawn = [RandomResizedCrop.get_params(page, (0.08, 1.0), (3 / 4, 4 / 3)) for _ in range(count)]
    theirs = np.array([(left, top, left + w, top + h) for top, left, h, w in drawn])
    for a, b in zip(ours.T, theirs.T, strict=True):
        spread = np.sqrt((a.var() + b.var()) / count)
        assert abs(a.mean() - b.mean()) < 4 * spread + 1e-9
        assert abs(a.std() - b.std()) < 0.08 * (b.std() + 1)


def test_boxes_lie_inside() -> None:
    for size in [(1, 1), (2, 50), (33, 17)]:
        left, top, right, bottom = boxes(RandomCrop(scale=(0.01, 1.0)), size, 200).T
        assert (left >= 0).all() and (top >= 0).all() and (left < right).all() and (top < bottom).all()
        assert (right <= size[0]).all() and (bottom <= size[1]).all()


def test_a_crop_shows_the_same_part_at_every_resolution() -> None:
    ramp = np.tile(np.arange(240, dtype=np.uint8), (240, 1))
    large = Image.fromarray(np.stack([ramp, ramp.T, ramp], -1))
    small = large.resize((120, 120), Image.Resampling.BOX)
    crop = RandomCrop()
    for seed in range(10):
        draw = crop.draw(default_rng(seed))
        views = [
            np.asarray(crop.apply({"image": image}, draw)["image"].resize((32, 32), Image.Resampling.BICUBIC), float)
            for image in (large, small)
        ]
        assert np.abs(views[0] - views[1]).mean() < 4


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P"])
def test_a_square_in_rgb_or_rgba(mode: str) -> None:
    crop = RandomCrop()
    image = Image.new("RGB", (40, 30)).convert(mode)
    sample = crop.apply({"image": image, "label": 3}, crop.draw(default_rng(1)))
    assert sample["image"].width == sample["image"].height
    assert sample["image"].mode == ("RGBA" if mode == "RGBA" else "RGB")
    assert sample["label"] == 3


def test_all_of_a_square_is_the_image() -> None:
    image = Image.fromarray(default_rng(0).integers(0, 256, (9, 9, 3), dtype=np.uint8))
    crop = RandomCrop(scale=(1.0, 1.0), ratio=(1.0, 1.0))
    assert crop.apply({"image": image}, crop.draw(default_rng(0)))["image"].tobytes() == image.tobytes()


@pytest.mark.parametrize(
    "options", [{"scale": (0.5, 0.1)}, {"scale": (0.0, 1.0)}, {"scale": (0.5, 2.0)}, {"ratio": (0.0, 1.0)}]
)
def test_impossible_ranges(options: dict[str, tuple[float, float]]) -> None:
    with pytest.raises(MmkdError):
        RandomCrop(**options)
