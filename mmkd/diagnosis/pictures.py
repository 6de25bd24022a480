"""The pictures that each network really sees, side by side."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from mmkd.diagnosis.examination import Examination
from mmkd.diagnosis.probe import declared, pictures, responses

ROWS, SIDE, GAP, HEAD = 6, 160, 8, 30


def draw(exam: Examination, folder: Path) -> Path | None:
    """Draw the first samples of the batch, normalisation undone, into `inputs.png`: a column per input, teachers first.

    What is undone is what the network declares; what its transform was seen to do where it declares nothing.
    Returns the file; None where no network takes pictures.
    """
    columns: dict[str, Tensor] = {}
    for node in sorted(exam.graph.roles.values(), key=lambda node: node.trained):
        seen = responses(node, exam.samples[0])
        for name, picture in pictures(exam.batch, node).items():
            title = node.name if name == "image" else f"{node.name} {name}"
            said = declared(node.encoder) or (vars(seen[name]) if name in seen else None)
            columns[f"{title} {picture.shape[3]}x{picture.shape[2]}"] = _shown(picture[:ROWS], said)
    if not columns:
        return None
    rows = max(map(len, columns.values()))
    page = Image.new("RGB", (GAP + len(columns) * (SIDE + GAP), HEAD + rows * (SIDE + GAP)), (255, 255, 255))
    pen = ImageDraw.Draw(page)
    for x, (title, column) in enumerate(columns.items()):
        pen.text((GAP + x * (SIDE + GAP), 9), title, fill=(0, 0, 0))
        for y, pixels in enumerate(column):
            image = Image.fromarray(pixels.permute(1, 2, 0).numpy())
            image.thumbnail((SIDE, SIDE), Image.Resampling.BOX)
            scale = min(SIDE / image.width, SIDE / image.height)
            size = (round(image.width * scale), round(image.height * scale))
            page.paste(image.resize(size, Image.Resampling.NEAREST), (GAP + x * (SIDE + GAP), HEAD + y * (SIDE + GAP)))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "inputs.png"
    page.save(path)
    return path


def _shown(picture: Tensor, said: Mapping[str, object] | None) -> Tensor:
    """Pixels 0 to 255; stretched between the least and the largest where no normalisation is known."""
    pixels = picture.detach().float().cpu()
    if said is not None:
        mean, std = (torch.as_tensor(said[name], dtype=torch.float32).reshape(-1, 1, 1) for name in ("mean", "std"))
        pixels = pixels * std + mean
    else:
        low = pixels.amin()
        pixels = (pixels - low) / (pixels.amax() - low).clamp(min=1e-6)
    return (pixels.clamp(0, 1) * 255).round().to(torch.uint8)
