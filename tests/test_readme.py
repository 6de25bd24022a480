"""What README prints works as printed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import mmkd

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README, re.M | re.S)


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The README's own plugin, installed with pip into a folder of its own."""
    source = tmp_path_factory.mktemp("readme")
    for _, text in BLOCKS:
        if name := re.match(r"# (mmkd-rkd/\S+)\n", text):
            path = source / name[1]
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
    site = source / "site"
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--target", str(site)]
    subprocess.run([*pip, str(source / "mmkd-rkd")], check=True)
    return site


def python(plugin: Path, code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": str(plugin), "PATH": "", "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=120, cwd=plugin,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_plugin_is_25_lines() -> None:
    (text,) = (text for language, text in BLOCKS if language == "python" and "mmkd_rkd.py" in text)
    assert len([line for line in text.splitlines() if line.strip()]) <= 25


def test_the_plugin_is_listed_and_trains(plugin: Path) -> None:
    listed = python(plugin, "import sys; sys.argv[1:] = ['list', 'loss', '--json']; from mmkd.cli import main; main()")
    assert '"rkd.distance"' in listed
    assert '"RKD"' in listed
    code = """
import numpy as np, torch, mmkd
from torch import nn
torch.manual_seed(0)
nodes = {"teacher": nn.Linear(6, 5), "student": nn.Linear(6, 3)}
recipe = {"teacher": {}, "student": {}, "train": {"steps": 60, "lr": 0.05, "device": "cpu", "log_every": 60},
          "losses": {"distance": {"use": "rkd.distance", "student": "student.logits", "teacher": "teacher.logits"}},
          "data": {"batch_size": 16}}
class Noise(mmkd.Dataset):
    def __len__(self): return 64
    def __getitem__(self, i): return {"image": np.random.default_rng(i).standard_normal(6).astype("float32")}
batch = {"image": torch.randn(32, 6)}
graph = mmkd.build(recipe, nodes=nodes, data={"train": Noise()})
before = graph(batch)["loss"].item()
mmkd.distill(recipe, output_dir="run", nodes=nodes, data={"train": Noise()})
model = mmkd.from_pretrained("run", nodes=nodes)
nodes["student"] = model.roles["student"].encoder
after = mmkd.build(recipe, nodes=nodes, example=batch)
print(before, after(batch)["loss"].item())
"""
    before, after = map(float, python(plugin, code).split())
    assert after < 0.5 * before


def test_the_recipe_is_one() -> None:
    (text,) = (text for language, text in BLOCKS if language == "yaml" and text.startswith("teacher:"))
    from mmkd.yaml import parse

    recipe = mmkd.load_recipe(parse(text, "README.md"))
    assert recipe.student_nodes().keys() == {"student"}


def test_every_python_block_compiles() -> None:
    for language, text in BLOCKS:
        if language == "python":
            compile(text, "README.md", "exec")


def test_the_set_up_commands_and_every_linked_file_exist() -> None:
    makefile = (Path(__file__).parent.parent / "Makefile").read_text()
    for command in re.findall(r"^make ([\w-]+)", README, re.M):
        assert re.search(rf"^{command}:", makefile, re.M), command
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (Path(__file__).parent.parent / target).exists(), target
