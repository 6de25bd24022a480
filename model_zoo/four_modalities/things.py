"""Plugin `local`: things that can be read about, looked at, heard of and touched."""

from __future__ import annotations

import hashlib
from typing import Any, Literal

import numpy as np
import torch
from mmkd_audio.espeak import Espeak
from mmkd_pointcloud.render import cameras, nearest, project, shade
from mmkd_pointcloud.shapes import Shapes
from PIL import Image

import mmkd

VOICES = {
    "train": ["en-us+m1", "en-us+m7", "en-us+f1", "en-us+f4"],
    "held_out": ["en-us+m2", "en-us+f3", "en-us+m6"],
}
SIDE, VIEWS = 48, 8


class Things(mmkd.Dataset):
    """Shapes of 32 families, each with a caption, a rendered picture, its spoken name and its points.

    Shapes of `held_out` are others than those of `train`, and so are the voices. A picture shows the depth of the shape
    from one of eight sides. What has been made once is kept.

    Fields of a sample: `key`, `points` `[N, 3]`, `image`, `text`, `audio`, `label` and `class_name`.

    Args:
        split: which shapes and voices.
        per_family: shapes of each family.
    """

    license = "Apache-2.0"

    def __init__(self, split: Literal["train", "held_out"] = "train", per_family: int = 20) -> None:
        self.split = split
        self.shapes = Shapes(per_family=per_family, points=512, seed=0 if split == "train" else 1000)
        self.speech = Espeak(texts=list(self.shapes.classes), voices=VOICES[split], speeds=[170, 200])
        self.spoken: dict[str, list[int]] = {}
        for index, (_, row, *_) in enumerate(self.speech.rows):
            self.spoken.setdefault(row["text"], []).append(index)
        self.frames = cameras(VIEWS, 20.0)
        self._made: dict[int, dict[str, Any]] = {}

    def __len__(self) -> int:
        return len(self.shapes)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if index not in self._made:
            self._made[index] = self._make(index)
        return dict(self._made[index])

    def _make(self, index: int) -> dict[str, Any]:
        sample = self.shapes[index]
        drawn = np.random.default_rng(int.from_bytes(hashlib.blake2b(sample["key"].encode()).digest()[:8], "little"))
        said = self.spoken[sample["class_name"]]
        audio = self.speech[said[int(drawn.integers(len(said)))]]["audio"]
        view = int(drawn.integers(VIEWS))
        del sample["part"]
        return {**sample, "image": self.picture(sample["points"], view), "audio": audio}

    def picture(self, points: np.ndarray[Any, Any], view: int) -> Image.Image:
        """The depth of a cloud from one side."""
        cloud = torch.from_numpy(points)[None]
        cloud = cloud - (cloud.amax(1, keepdim=True) + cloud.amin(1, keepdim=True)) / 2
        cloud = cloud / cloud.norm(dim=-1).amax().clamp(min=1e-6)
        size = (SIDE, SIDE)
        pixels, depth = project(cloud, self.frames[view : view + 1], size)
        seen = shade(nearest(pixels, depth, size, 1), silhouette=False).view(size)
        return Image.fromarray((seen * 255).round().byte().numpy()).convert("RGB")


@mmkd.hookimpl
def mmkd_register(registry: mmkd.Registry) -> None:
    registry.dataset("things", Things)
