"""`mmkd cache`: fills what a recipe caches; lists, verifies, mends and removes what is kept."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PLUGIN = """
import mmkd, numpy as np, torch
from torch import nn

class Line(mmkd.Encoder):
    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.layer = nn.Linear(8, width)
    def values(self):
        return ["logits"]
    def forward(self, image):
        return {"logits": self.layer(image)}

class Rows(mmkd.Dataset):
    def __init__(self, size: int = 300) -> None:
        self.x = np.random.default_rng(0).standard_normal((size, 8)).astype("float32")
    def __len__(self):
        return len(self.x)
    def __getitem__(self, index):
        return {"key": f"row/{index}", "image": self.x[index]}

@mmkd.hookimpl
def mmkd_register(registry):
    registry.encoder("line", Line)
    registry.dataset("rows", Rows)
"""

RECIPE = """
teacher: {use: local.line, cache: disk}
student: {use: local.line}
losses:
  kd: {use: core.kl, student: student.logits, teacher: teacher.logits}
data: {train: {use: local.rows}, batch_size: 20}
train: {steps: 30, device: cpu}
"""


class Bench:
    """A folder with a recipe, a plugin file and a store."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "mine.py").write_text(PLUGIN)
        (folder / "recipe.yaml").write_text(RECIPE)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        clean = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
        return subprocess.Popen(
            [sys.executable, "-m", "mmkd", *arguments], cwd=self.folder, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={**clean, "MMKD_CACHE": str(self.folder / "caches"), "OMP_NUM_THREADS": "1", "MMKD_THREADS": "1"},
        )  # fmt: skip

    def __call__(self, *arguments: str, code: int = 0) -> tuple[str, str]:
        """What it prints on stdout and stderr."""
        process = self.start(*arguments)
        out, err = process.communicate(timeout=120)
        assert process.returncode == code, err
        return out, err

    def fill(self, *arguments: str) -> Any:
        return json.loads(self("cache", "recipe.yaml", *arguments, "--plugin", "mine.py", "--json")[0])["teacher"]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_a_recipe_is_filled_once_and_runs_find_it(bench: Bench) -> None:
    first = bench.fill()
    assert (first["rows"], first["written"]) == (300, 300)
    assert Path(first["folder"]).parent == bench.folder / "caches"
    assert bench.fill()["written"] == 0
    out, _ = bench("cache", "recipe.yaml", "--plugin", "mine.py")
    assert out.split()[:4] == ["network", "outputs", "written", "now"] and "teacher" in out
    _, err = bench("distill", "recipe.yaml", "--plugin", "mine.py", "--output-dir", "run")
    said = " ".join(err.split())
    assert "all of them found there" in said and "teacher ran on 0 samples in place of 600" in said
    _, err = bench("distill", "recipe.yaml", "--plugin", "mine.py", "--output-dir", "other", "data.train.size=299")
    assert "has another dataset" in " ".join(err.split())


def test_two_fill_one_cache_together(bench: Bench) -> None:
    command = ("cache", "fill", "recipe.yaml", "data.train.size=20000", "--plugin", "mine.py", "--json")
    processes = [bench.start(*command) for _ in range(2)]
    written = []
    for process in processes:
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        written.append(json.loads(out)["teacher"]["written"])
    assert sum(written) == 20000
    bench("cache", "verify")


def test_what_is_kept_is_listed_verified_mended_and_removed(bench: Bench) -> None:
    assert "there is no cache in" in bench("cache", "list")[0]
    folder = Path(bench.fill()["folder"])
    out, _ = bench("cache", "list")
    assert folder.name in out and "local.line" in out and "300/300" in out
    (entry,) = json.loads(bench("cache", "list", "--json")[0])
    assert (entry["name"], entry["rows"], entry["locked"]) == (folder.name, 300, False)
    assert bench("cache", "verify")[0] == f"{folder.name}: whole\n"

    (file,) = folder.glob("*.values.float32")
    content = bytearray(file.read_bytes())
    content[1000] ^= 1
    file.write_bytes(content)
    out, _ = bench("cache", "verify", folder.name[:6], code=1)
    assert file.name in out and "1 damages" in out
    assert "dropped" in bench("cache", "verify", "--mend")[0]
    bench("cache", "verify")
    assert 0 < bench.fill()["written"] < 300

    assert "0 caches" in bench("cache", "gc")[0]
    assert "1 caches" in bench("cache", "gc", "--keep", "1kB", "--dry-run")[0] and folder.exists()
    assert "1 caches" in bench("cache", "gc", "--older-than", "0h")[0] and not folder.exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["cache", "recipe.yaml", "teacher.cache=memory"], "recipe: no network is cached on disk"),
        (["cache", "recipe.yaml", "teacher.cache=disc"], "teacher.cache: cannot be \"disc\"; did you mean 'disk'"),
        (["cache", "recipe.yaml", "teacher.cache={top_k: 9}"], "teacher.cache: .logits: cannot keep 9 of 4 classes"),
        (["cache", "no.yaml"], "no.yaml"),
        (["cache", "verify", "abc"], "no cache begins with 'abc'"),
    ],
)
def test_errors_say_what_is_wrong(bench: Bench, arguments: list[str], said: str) -> None:
    plugin = ["--plugin", "mine.py"] if arguments[1] != "verify" else []
    out, err = bench(*arguments, *plugin, code=1)
    assert said in " ".join(err.split()) and "Traceback" not in err and not out
    assert not list(bench.folder.glob("caches/[!.]*"))


def test_sizes_and_ages_are_checked(bench: Bench) -> None:
    for option, value in (("--keep", "many"), ("--older-than", "3x")):
        assert f"'{value}'" in bench("cache", "gc", option, value, code=2)[1]
