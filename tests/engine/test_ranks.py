"""A run of two processes is the run of one: the same weights, one voice, and an end for all."""

from __future__ import annotations

import contextlib
import io
import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from engine.toys import CLASSES, FEATURES, Noise, data, networks, recipe
from safetensors.torch import load_file
from torch import nn

import mmkd
from mmkd.engine import checkpoint
from mmkd.engine.guard import Guard
from mmkd.errors import MmkdError

OWN = """
import mmkd
from engine.toys import FEATURES, Noise
from torch import nn


class Rows(Noise):
    def __init__(self, size: int = 32, bad: int | None = None) -> None:
        super().__init__(size)
        self.bad = bad

    def __getitem__(self, index):
        if index == self.bad:
            raise OSError("image file is truncated")
        return super().__getitem__(index)


class Line(mmkd.Encoder):
    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.layer = nn.Linear(FEATURES, width)

    def values(self):
        return ["logits"]

    def forward(self, image):
        return {"logits": self.layer(image)}


@mmkd.hookimpl
def mmkd_register(registry):
    registry.encoder("line", Line)
    registry.dataset("rows", Rows)
"""

RECIPE = """
teacher: {use: local.line}
student: {use: local.line}
losses:
  kd: {use: core.kl, student: student.logits, teacher: teacher.logits}
data: {train: {use: local.rows}, eval: {use: local.rows, size: 10}, batch_size: 8}
train: {steps: 4, device: cpu, log_every: 1}
evaluate: [{use: core.top_k, student: student.logits, k: [1]}]
"""


def plain() -> dict[str, nn.Module]:
    """Networks whose results do not depend on how a batch is cut up."""
    torch.manual_seed(5)
    return {"teacher": nn.Sequential(nn.Linear(FEATURES, 16), nn.ReLU(), nn.Linear(16, CLASSES)),
            "student": nn.Sequential(nn.Linear(FEATURES, 8), nn.ReLU(), nn.Linear(8, CLASSES))}  # fmt: skip


def coupled(**changes: Any) -> dict[str, Any]:
    """A bank, a critic, gradients kept apart, an average, and a batch that does not divide by two."""
    values = {"student": "student/1", "teacher": "teacher/0"}
    document = recipe(optimizer="sgd", lr=0.05, max_grad_norm=1.0, eval_every=6)
    document["data"]["batch_size"] = 15
    document |= {
        "teacher": None,
        "teachers": {"teacher": {}, "ema": {"average": {"of": "student", "momentum": 0.9}}},
        "projectors": {"up": {"use": "core.linear", "input": "student/1", "like": "teacher/0"}},
        "losses": {
            "kd": {"use": "core.kl", "student": "student.logits", "teacher": "teacher.logits"},
            "own": {"use": "core.kl", "student": "student.logits", "teacher": "ema.logits"},
            "label": {"use": "core.cross_entropy", "student": "student.logits"},
            "crd": {"use": "core.crd", **values, "dim": 4, "negatives": 32, "weight": 0.05},
            "vid": {"use": "core.vid", "student": "up", "teacher": "teacher/0"},
            "nce": {"use": "core.info_nce", "student": "up", "teacher": "teacher/0", "temperature": 0.5},
        },
        "procedure": {"use": "core.dot", "distill": ["kd", "crd", "vid", "nce"]},
        "baseline": {"losses": {"label": {"use": "core.cross_entropy", "student": "student.logits"}}},
    }
    return {**document, **changes}


def kept(**teacher: Any) -> dict[str, Any]:
    """A teacher whose outputs are on disk."""
    return {**recipe(optimizer="sgd", lr=0.05), "teacher": teacher or {"cache": "disk"}}


class Broken(Noise):
    """One sample cannot be read."""

    def __getitem__(self, index: int) -> mmkd.Sample:
        if index == 17:
            raise OSError("image file is truncated")
        return super().__getitem__(index)


class Killed(BaseException):
    pass


def killed(rank: int, folder: Path) -> None:
    """A run that ends between two checkpoints, then goes on."""
    watch = Guard.watch

    def dies(self: Guard, step: int, out: Any) -> None:
        watch(self, step, out)
        if step == 7:
            raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Guard, "watch", dies)
        with pytest.raises((Killed, SystemExit)):
            dropping(folder)


def dropping(folder: Path, resume: bool = False) -> None:
    """Dropout and BatchNorm: what a rank draws and sees is its own."""
    mmkd.distill(recipe(), output_dir=folder, nodes=networks(), data=data(), resume=resume)


def command(*arguments: str) -> dict[str, Any]:
    """What the command line prints and how it ends."""
    from mmkd.cli import main

    out, err = io.StringIO(), io.StringIO()
    code: Any = None
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(list(arguments))
        except SystemExit as end:
            code = end.code
    return {"out": out.getvalue(), "err": err.getvalue(), "code": code}


def _process(rank: int, folder: Path, ports: list[int]) -> None:
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    left = iter(ports)

    def again() -> None:
        os.environ["MASTER_PORT"] = str(next(left))

    def said(document: dict[str, Any], name: str, **given: Any) -> str:
        again()
        try:
            mmkd.distill(document, output_dir=folder / name, nodes=plain(), data={**data(), **given})
        except MmkdError as error:
            return str(error)
        except SystemExit as end:
            return f"left with {end.code}"
        return "trained"

    os.environ["MMKD_CACHE"] = str(folder / "caches")
    for turn in ("first", "second"):
        again()
        made = mmkd.distill(kept(), output_dir=folder / f"{turn} cached", nodes=plain(), data=data())
        found[turn] = made["student"]["caches"]["teacher"]
    again()
    found["results"] = mmkd.distill(coupled(), output_dir=folder / "two", nodes=plain(), data=data())
    again()
    dropping(folder / "whole")
    again()
    killed(rank, folder / "cut")
    again()
    dropping(folder / "cut", resume=True)
    document = recipe(steps=6)
    found["bad sample"] = said(document, "bad", train=Broken())
    document["data"] |= {"on_bad_sample": "skip", "max_bad_samples": 0.05}
    found["skipped"] = said(document, "skipped", train=Broken())
    document["data"] |= {"batch_size": 1}
    found["small batch"] = said(document, "small")
    for name, changes in {"ran": [], "typo": ["train.sets=3"], "broken": ["data.train.bad=17"]}.items():
        again()
        where = ["--plugin", str(folder / "own_parts.py"), "--output-dir", str(folder / name)]
        found[name] = command("distill", str(folder / "recipe.yaml"), *changes, *where, "--json")
    (folder / f"{rank}.json").write_text(json.dumps(found))


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """The folder of all runs, and what each of two processes has to say."""
    folder: Path = tmp_path_factory.mktemp("ranks")
    (folder / "own_parts.py").write_text(OWN)
    (folder / "recipe.yaml").write_text(RECIPE)
    held = [socket.socket() for _ in range(14)]
    for each in held:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in held]
    for each in held:
        each.close()
    torch.multiprocessing.spawn(_process, (folder, ports), nprocs=2)
    return folder, [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


def final(folder: Path) -> dict[str, torch.Tensor]:
    (last,) = checkpoint.checkpoints(folder)
    return {**load_file(last / "graph.safetensors"), **load_file(last / "state.safetensors")}


def test_two_processes_end_where_one_ends(two: Any, tmp_path: Path) -> None:
    folder, found = two
    alone = mmkd.distill(coupled(), output_dir=tmp_path / "one", nodes=plain(), data=data())
    for arm in ("", "baseline"):
        ours, theirs = final(tmp_path / "one" / arm), final(folder / "two" / arm)
        names = [name for name in ours if "rng." not in name]
        assert set(names) == {name for name in theirs if "rng." not in name} and len(names) > 8
        assert not {n: gap for n in names if (gap := (ours[n].double() - theirs[n].double()).abs().max()) > 1e-6}
    for each in (f["results"] for f in found):
        assert each["student"]["scores"] == alone["student"]["scores"]
        assert each["teachers"] == alone["teachers"] and each["steps"] == 20
    logs = [[json.loads(line) for line in (f / "log.jsonl").read_text().splitlines()]
            for f in (tmp_path / "one", folder / "two")]  # fmt: skip
    for ours, theirs in zip(*logs, strict=True):
        assert ours.keys() == theirs.keys()
        assert theirs.get("loss") == pytest.approx(ours.get("loss"), abs=1e-5)
        assert theirs.get("grad_norm") == pytest.approx(ours.get("grad_norm"), abs=1e-5)


def test_the_export_is_that_of_one_process(two: Any) -> None:
    folder, found = two
    graph = mmkd.from_pretrained(folder / "two", nodes=plain())
    trained = final(folder / "two")
    for name, value in graph.roles["student"].encoder.state_dict().items():
        assert torch.equal(value, trained[f"nodes.student.{name}"])
    assert json.loads((folder / "two" / "results.json").read_text()) == found[0]["results"]


def test_killed_and_resumed_is_the_whole_run_bit_for_bit(two: Any) -> None:
    folder, _ = two
    whole, cut = final(folder / "whole"), final(folder / "cut")
    assert whole.keys() == cut.keys() and "rank1/rng.torch" in whole
    assert [name for name in whole if not torch.equal(whole[name], cut[name])] == []
    assert not torch.equal(whole["rng.torch"], whole["rank1/rng.torch"])


def test_a_cache_is_filled_by_all_and_read_by_all(two: Any, tmp_path: Path) -> None:
    folder, found = two
    assert sum(each["first"]["written"] for each in found) == 96
    assert [each["second"]["written"] for each in found] == [0, 0]
    mmkd.distill(kept(precision="fp32"), output_dir=tmp_path / "live", nodes=plain(), data=data())
    live = final(tmp_path / "live")
    for turn in ("first", "second"):
        cached = final(folder / f"{turn} cached")
        assert not [n for n in live if "rng." not in n and (live[n].double() - cached[n]).abs().max() > 1e-6]


def test_an_error_on_one_rank_ends_all_with_one_message(two: Any) -> None:
    folder, found = two
    said = sorted(each["bad sample"] for each in found)
    assert said == ["left with 1", "sample 17 of Broken: OSError: image file is truncated"]
    said = [line for each in found for line in each["broken"]["err"].splitlines() if "error" in line.lower()]
    assert said == [f"mmkd: error: {folder / 'recipe.yaml'}: sample 17 of Rows: OSError: image file is truncated"]
    assert [each["broken"]["code"] for each in found] == [1, 1]


def test_samples_that_one_rank_skips_are_listed_once(two: Any) -> None:
    folder, found = two
    assert [each["skipped"] for each in found] == ["trained", "trained"]
    (line,) = (folder / "skipped" / "bad_samples.jsonl").read_text().splitlines()
    assert json.loads(line)["index"] == 17


def test_a_batch_too_small_for_all_ranks_is_refused(two: Any) -> None:
    folder, found = two
    errors = [each["small batch"] for each in found if each["small batch"] != "left with 1"]
    assert len(errors) == 1 and "data.batch_size" in errors[0] and "2 processes" in errors[0]
    assert not (folder / "small").exists()


def test_one_process_speaks(two: Any) -> None:
    folder, (first, second) = two
    assert json.loads(first["ran"]["out"])["steps"] == 4 and first["ran"]["code"] == 0
    assert second["ran"] == {"out": "", "err": "", "code": 0}
    assert "did you mean 'steps'" in first["typo"]["err"]
    assert second["typo"] == {"out": "", "err": "", "code": 1}
    assert len((folder / "ran" / "log.jsonl").read_text().splitlines()) == 4


def test_without_torchrun_nothing_is_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    from mmkd.engine.group import joined

    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setenv("RANK", "0")
    with joined("cpu"):
        assert not torch.distributed.is_initialized()
