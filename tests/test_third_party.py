"""A stranger's plugin, as the documentation prints it: installed by pip, listed, shown, trained from a recipe."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

PACKAGE = Path(__file__).parent / "fixtures" / "third_party"


@pytest.fixture(scope="module")
def barlow(shared_site: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The site after `pip install mmkd-barlow`, with the user's recipe and file beside it."""
    source = shutil.copytree(PACKAGE, tmp_path_factory.mktemp("source") / "mmkd-barlow")
    _install(source, shared_site.folder)
    for name in ("recipe.yaml", "mine.py"):
        shutil.copy(PACKAGE / name, shared_site.folder)
    return shared_site


def test_installing_is_all_it_takes(barlow: Any) -> None:
    (row,) = [row for row in barlow.json("list", "loss") if row["plugin"] == "barlow"]
    assert row == {
        "id": "barlow.cross_correlation",
        "kind": "loss",
        "plugin": "barlow",
        "distribution": "mmkd-barlow",
        "version": "0.2.0",
        "paper": "Barlow Twins",
        "counts_as": "distinct formula",
        "summary": "Push the teacher-student cross-correlation to identity (Zbontar et al., 2021).",
    }


def test_show_reads_the_class(barlow: Any) -> None:
    (about,) = barlow.json("show", "barlow.cross_correlation")
    assert about["coupled"] is True
    assert about["min_batch"] == 2
    assert about["shapes"] == "student, teacher `[B, D]` -> scalar."
    assert [port["name"] for port in about["ports"]] == ["student", "teacher"]
    assert about["options"] == [{"name": "off_diagonal", "type": "float", "required": False, "default": 0.005}]


def test_it_trains_from_a_recipe(barlow: Any) -> None:
    arguments = ["recipe.yaml", "train.seed=1", "--plugin", "mine.py", "--output-dir", "run"]
    results = barlow.json("distill", *arguments)
    assert results["steps"] == 40
    run = barlow.folder / "run"
    losses = [json.loads(line).get("correlation_loss") for line in (run / "log.jsonl").read_text().splitlines()]
    losses = [loss for loss in losses if loss is not None]
    assert losses[-1] < 0.5 * losses[0]
    used = {plugin["id"]: plugin for plugin in json.loads((run / "provenance.json").read_text())["plugins"]}
    assert (used["barlow"]["distribution"], used["barlow"]["version"]) == ("mmkd-barlow", "0.2.0")
    assert used["local"]["version"].startswith("sha256:")
    again = barlow.json("evaluate", "run", "--plugin", "mine.py")
    assert again["student"]["scores"] == results["student"]["scores"]


def test_it_works_from_plain_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(PACKAGE)
    from mmkd_barlow import CrossCorrelationLoss

    features = torch.randn(256, 4, generator=torch.Generator().manual_seed(0))
    loss = CrossCorrelationLoss(off_diagonal=1e-2)
    assert loss(features, features) < 0.01
    assert loss(features, features.flip(1)) > 1


def test_it_works_in_a_hand_written_loop(barlow: Any) -> None:
    code = """
import mmkd, torch
torch.manual_seed(0)
graph = mmkd.build("recipe.yaml", example={"points": torch.randn(16, 8)})
batch = {"points": torch.randn(64, 8)}
optimizer = torch.optim.Adam(graph.nodes["student"].parameters(), lr=0.01)
for step in range(60):
    out = graph(batch)
    optimizer.zero_grad()
    out["loss"].backward()
    optimizer.step()
    graph.update()
    if step in (0, 59):
        print(out["correlation_loss"].item())
"""
    done = barlow.python("-c", code)
    assert done.returncode == 0, done.stderr
    first, last = map(float, done.stdout.split())
    assert last < 0.5 * first


def test_a_run_is_bit_equal_beside_a_dozen_broken_plugins(barlow: Any) -> None:
    kinds = [
        "missing_dependency", "raises_at_import", "raises_in_hook", "syntax_error", "exits", "raises_base", "prints",
        "misspelt_hook", "wrong_type", "twice", "missing_file", "wrong_api", "hostile",
    ]  # fmt: skip
    alone = barlow.mmkd("distill", "recipe.yaml", "--plugin", "mine.py", "--output-dir", "alone")
    assert alone.returncode == 0, alone.stderr
    for kind in kinds:
        barlow.install(kind)
    beside = barlow.mmkd("distill", "recipe.yaml", "--plugin", "mine.py", "--output-dir", "beside")
    assert beside.returncode == 0, beside.stderr
    listed = {plugin["id"]: plugin["status"] for plugin in barlow.json("plugins")}
    assert sum(listed[kind] == "error" for kind in kinds) == len(kinds) - 2  # `prints` and `hostile` are well
    one, other = (load_file(barlow.folder / run / "student" / "model.safetensors") for run in ("alone", "beside"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)


def _install(source: Path, target: Path) -> None:
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--target", target, source], check=True, capture_output=True, timeout=120)
