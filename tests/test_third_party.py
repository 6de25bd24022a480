"""A stranger's plugin, as the documentation prints it: installed by pip, listed, shown, trained from a recipe."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

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
    done = barlow.mmkd("evaluate", "run", "--plugin", "mine.py")
    assert done.returncode == 0, done.stderr
    head, *rows = done.stdout.splitlines()
    assert head.split() == ["dataset", "metric", "student"]
    names = [f"retrieval.{name}" for name in results["student"]["scores"]["eval"]["retrieval"]]
    assert [row.split()[:2] for row in rows] == [["eval", name] for name in names]


def test_it_works_from_plain_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(PACKAGE)
    from mmkd_barlow import CrossCorrelationLoss

    features = torch.randn(256, 4, generator=torch.Generator().manual_seed(0))
    loss = CrossCorrelationLoss(off_diagonal=1e-2)
    assert loss(features, features) < 0.01
    assert loss(features, features.flip(1)) > 1


def test_the_plugin_that_the_readme_prints(site: Any, tmp_path: Path) -> None:
    readme = (PACKAGE.parents[2] / "README.md").read_text(encoding="utf-8")
    printed = re.findall(r"^```\w+\n# mmkd-rkd/(\S+)\n(.*?)^```$", readme, re.M | re.S)
    assert [name for name, _ in printed] == ["pyproject.toml", "mmkd_rkd.py"]
    source = tmp_path / "mmkd-rkd"
    source.mkdir()
    for name, text in printed:
        (source / name).write_text(text)
    _install(source, site.folder)
    (about,) = site.json("show", "rkd.distance")
    assert about["summary"] == "Match pairwise distances within the batch, RKD-D (Park et al., 2019)."
    assert about["coupled"] is True


def _install(source: Path, target: Path) -> None:
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--target", target, source], check=True, capture_output=True, timeout=120)
