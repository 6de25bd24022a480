"""The plugin, by the kit that strangers use."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import trimesh

from mmkd.testing import check_plugin

SMALL: dict[str, dict[str, Any]] = {
    "encoder.pointnet": {"widths": [4, 6, 8]},
    "encoder.pointnet2": {"counts": [16, 6], "radii": [0.3, 0.6], "k": 8, "widths": [6, 8]},
    "encoder.dgcnn": {"k": 6, "widths": [4, 6], "pooled": 8},
    "encoder.transformer": {"k": 6, "widths": [4, 8], "ratio": 4},
}
FORMS: list[dict[str, Any]] = [{}, {"num_classes": 3}, {"num_classes": 3, "per_point": True}]
SIZE = {"points": 48, "dim": 6, "token_dim": 5}
PROJECTION = {"points": 60, "views": 2, "image": {"use": "pointcloud.view_net", "num_classes": 3, "image_size": 16}}


def test_plugin(tmp_path: Path) -> None:
    box = trimesh.creation.box()
    for split in ("train", "test"):
        for name in ("chair", "table"):
            for root in ("folder", "modelnet"):
                folder = tmp_path / root / name / split
                folder.mkdir(parents=True)
                box.export(folder / f"{name}_1.off")
    (tmp_path / "parts" / "0269").mkdir(parents=True)
    for i in range(3):
        table = np.random.default_rng(i).normal(size=(20, 7)).round(3)
        table[:, -1] = np.arange(20) % 3
        np.savetxt(tmp_path / "parts" / "0269" / f"{i}.txt", table)
    generator = torch.Generator().manual_seed(0)
    student, seen = torch.randn(4, 2, 9, 3, generator=generator), torch.rand(4, 2, 9, generator=generator) < 0.7
    backward = {"student": student[:, 0], "teacher": student, "visible": seen, "knowledge": student[:, 1]}
    cases: dict[str, Any] = {
        **{name: [{"options": {**SIZE, **own, **form}} for form in FORMS] for name, own in SMALL.items()},
        "encoder.projection": [{"options": PROJECTION}, {"options": {**PROJECTION, "lift": "pixel_logits"}}],
        "loss.part_distill": [{}, {"inputs": backward}],
        "curator.jitter_scale_rotate": {"options": {"rotate": 20.0}},
        "dataset.folder": {"options": {"path": str(tmp_path / "folder")}},
        "dataset.modelnet": {"options": {"path": str(tmp_path / "modelnet")}},
        "dataset.shapenet_part": {"options": {"path": str(tmp_path / "parts")}},
    }
    check_plugin("pointcloud", cases)
