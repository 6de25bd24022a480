"""Hidden squares: how many, where, the same at every resolution; and what a masked view teaches."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from mmkd_vision.patch_mask import PatchMask
from numpy.random import default_rng
from PIL import Image

import mmkd
from mmkd.testing import check_curator


def picture(size: tuple[int, int], mode: str = "RGB") -> Image.Image:
    channels = len(mode)
    pixels = default_rng(3).integers(0, 100, (size[1], size[0], channels), dtype=np.uint8)
    return Image.fromarray(pixels, mode)


def masked(size: tuple[int, int], mode: str = "RGB", **options: Any) -> tuple[np.ndarray, np.ndarray]:
    curator = PatchMask(**options)
    image = picture(size, mode)
    made = curator.apply({"image": image}, curator.draw(default_rng(0)))["image"]
    return np.asarray(image), np.asarray(made)


@pytest.mark.parametrize("ratio", [0.0, 0.25, 0.75, 1.0])
def test_so_many_squares_are_grey_and_the_rest_is_as_it_was(ratio: float) -> None:
    before, after = masked((56, 28), ratio=ratio, grid=14, grey=1.0)
    hidden = (after == 255).all(-1)
    assert hidden.mean() == pytest.approx(round(ratio * 196) / 196)
    assert (before[~hidden] == after[~hidden]).all()
    blocks = hidden.reshape(14, 2, 14, 4).mean((1, 3))
    assert set(np.unique(blocks)) <= {0.0, 1.0}


def test_the_same_squares_at_every_resolution() -> None:
    small, large = (masked(size, grid=7, grey=1.0)[1] for size in ((14, 14), (70, 70)))
    assert ((small == 255).all(-1) == (large == 255).all(-1)[::5, ::5]).all()


def test_what_is_painted_is_opaque() -> None:
    assert (masked((14, 14), "RGBA", ratio=1.0)[1] == [128, 128, 128, 255]).all()


def test_pictures_smaller_than_the_grid() -> None:
    assert masked((3, 1), ratio=1.0)[1].shape == (1, 3, 3)


def test_the_kit_finds_nothing() -> None:
    assert check_curator(PatchMask)


class Pictures(mmkd.Dataset):
    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> mmkd.Sample:
        return {"key": str(index), "image": picture((16, 16)).rotate(90 * index), "label": index % 2}


def test_a_student_learns_from_what_is_left_while_the_teacher_sees_all() -> None:
    net = {"use": "vision.convnet", "image_size": 16, "widths": [8, 8]}
    loss = {"use": "core.cosine", "student": "student@masked.embedding", "teacher": "teacher.embedding"}
    document = {
        "student": net, "teacher": net, "losses": {"masked_feature": loss}, "train": {"steps": 2, "device": "cpu"},
        "data": {"batch_size": 4, "views": {"masked": [{"use": "vision.patch_mask", "grid": 4}]}},
    }  # fmt: skip
    graph = mmkd.build(document, data={"train": Pictures()})
    samples = [Pictures()[i] for i in range(4)]
    same = graph(graph.collate(samples, streams={"masked": samples}))["loss"]
    curator = PatchMask(grid=4)
    hidden = [curator.apply(sample, curator.draw(default_rng(0))) for sample in samples]
    other = graph(graph.collate(samples, streams={"masked": hidden}))["loss"]
    assert torch.isfinite(other) and abs(other - same) > 1e-6
