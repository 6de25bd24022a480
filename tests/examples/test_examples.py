"""Every example runs, in a short form, and says what it achieved."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent.parent / "examples"


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("02_own_plugin/train.py", r"eval +top_k\.top_1_accuracy +0\.\d+"),
        ("03_own_teacher_and_data.py", r"teacher [\d.]+%, student [\d.]+%, the same student on 100 labels"),
        ("04_multi_teacher.py --arms both", r"both +[\d.]+% +[\d.]+%"),
        ("05_hints_early_stop.py", r"the whole pass: [\d.]+ ms \(-?\d+% saved\)"),
        ("06_hf_trainer.py", r"student [\d.]+%, 3 steps"),
        ("08_language_model.py", r"on-policy +[\d.]+ +[\d.]+%"),
        ("07_lightning.py", r"student [\d.]+%, 3 steps"),
    ],
)
def test_example_runs(script: str, said: str, tmp_path: Path) -> None:
    name, *options = script.split()
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name), "--steps", "3", *options], cwd=tmp_path, capture_output=True, text=True,
        timeout=400, env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert re.search(said, done.stdout), done.stdout
    assert not list(tmp_path.iterdir()), "an example leaves nothing behind unless asked"


def test_every_example_says_what_it_is() -> None:
    scripts = [path for path in EXAMPLES.rglob("*.py") if re.match(r"\d\d_", path.name) or path.name == "train.py"]
    assert len(scripts) >= 6
    for script in scripts:
        text = script.read_text()
        assert text.startswith('"""') and "description=__doc__" in text, script
