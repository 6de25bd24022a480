"""Parts of shapes, taught to a network of points by a network that only sees pictures (PartDistill: Umam et al., 2024).

A small U-Net learns the parts of two shapes per family from rendered views. Then it labels views of many shapes that
nobody has labelled, a PointNet++ learns from that, rescores what it was told, and goes on. A minute; writes
`parts.png`: true parts, what the views say, what the student says. `model_zoo/pointcloud` has numbers over seeds.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from mmkd_pointcloud.families import PART_NAMES, PARTS
from mmkd_pointcloud.part_iou import PartIoU
from mmkd_pointcloud.render import cameras, project
from mmkd_pointcloud.shapes import Shapes
from PIL import Image, ImageDraw
from torch import Tensor

import mmkd

FAMILIES = ["chair", "lamp", "mug", "teapot", "rocket", "airplane", "umbrella", "snowman"]
TEST = Shapes(FAMILIES, per_family=5, points=256, seed=9)
SAMPLES = [TEST[i] for i in range(len(TEST))]
COLOURS = [(228, 87, 70), (66, 133, 201), (90, 170, 80), (240, 180, 60)]


def said(folder: Path, name: str) -> Tensor:
    """Scores of every part for every point of the test shapes."""
    model = mmkd.from_pretrained(folder)
    with torch.no_grad():
        return model.values(model.collate(SAMPLES, [name]), [name])[name]


def score(logits: Tensor) -> float:
    """Part mIoU in percent."""
    metric = PartIoU()
    part = torch.stack([torch.as_tensor(sample["part"]) for sample in SAMPLES])
    metric(logits, part, torch.tensor([sample["label"] for sample in SAMPLES]))
    return 100 * metric.compute()["instance_miou"]


def drawn(points: Tensor, parts: list[int], own: list[int], side: int) -> Image.Image:
    """One shape, each part in its colour, far points first."""
    centred = points - points.mean(0)
    frame = cameras(8, 25.0)[1:2]
    pixels, depth = project((centred / centred.norm(dim=1).max())[None], frame, (side, side))
    picture = Image.new("RGB", (side, side), "white")
    brush = ImageDraw.Draw(picture)
    for n in depth[0, 0].argsort(descending=True).tolist():
        y, x = divmod(int(pixels[0, 0, n]), side)
        brush.ellipse([x - 3, y - 3, x + 3, y + 3], fill=COLOURS[own.index(parts[n])])
    return picture


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200, help="optimiser steps of the 2D network and of each stage")
    parser.add_argument("--output", type=Path, default=Path("runs/point_clouds"))
    args = parser.parse_args()
    budget = [f"train.steps={args.steps}", "train.seed=0"]

    def shapes(count: int, seed: int) -> str:
        own = f"families: {FAMILIES}, per_family: {count}, points: 256, seed: {seed}"
        return f"data.train={{use: pointcloud.shapes, {own}}}"

    print("a U-Net learns parts from views of two shapes per family", flush=True)
    views = args.output / "views"
    mmkd.distill(
        mmkd.load_recipe("pointcloud.view_teacher", [shapes(2, 1), "data.eval=null", *budget]), output_dir=views
    )

    print("a PointNet++ learns from what it says of 24 shapes per family", flush=True)
    teacher = f"teachers.views={{use: core.exported, path: {views}, cache: {{store: memory, fixed: true}}}}"
    recipe = mmkd.load_recipe("pointcloud.part_distill", [shapes(24, 2), teacher, *budget])
    mmkd.distill(recipe, output_dir=args.output / "student")

    rows = {
        "true": torch.nn.functional.one_hot(
            torch.stack([torch.as_tensor(s["part"]) for s in SAMPLES]), len(PART_NAMES)
        ),
        "2D teacher": said(views, "student.tokens"),
        "student": said(args.output / "student", "student.logits"),
    }
    side, picked = 150, range(0, len(TEST), 5)
    page = Image.new("RGB", (side * len(picked), side * len(rows)), "white")
    for r, (name, logits) in enumerate(rows.items()):
        print(f"{name:12} part mIoU {score(logits.float()):.1f}%")
        for c, i in enumerate(picked):
            own = [PART_NAMES.index(part) for part in PARTS[SAMPLES[i]["class_name"]]]
            parts = [own[k] for k in logits[i][:, own].argmax(-1).tolist()]
            page.paste(drawn(torch.as_tensor(SAMPLES[i]["points"]), parts, own, side), (c * side, r * side))
        ImageDraw.Draw(page).text((4, side * r + 4), name, fill="black")
    page.save(args.output / "parts.png")
    print(args.output / "parts.png")


if __name__ == "__main__":
    main()
