"""Pictures in tar shards: samples, keys, workers, resuming; the shards themselves: tests/files."""

import io
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from mmkd_vision_language.webdataset import WebDataset
from numpy.random import default_rng
from PIL import Image

import mmkd
from mmkd.errors import DataError

SHARDS, PER_SHARD = 3, 10


def picture(shade: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), (shade, shade, shade)).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture
def folder(tmp_path: Path, write_tar: Callable[..., Path]) -> Path:
    """Three shards of ten samples; the shade of a picture is its place."""
    for shard in range(SHARDS):
        files: dict[str, bytes] = {}
        for i in range(shard * PER_SHARD, (shard + 1) * PER_SHARD):
            files |= {
                f"{i:03}.png": picture(i), f"{i:03}.txt": f"shade {i}\n".encode(), f"{i:03}.cls": str(i % 3).encode(),
                f"{i:03}.json": json.dumps({"caption": f"grey {i}"}).encode(), f"{i:03}.pickle": b"cos\nsystem\n",
            }  # fmt: skip
        write_tar(tmp_path / f"grey-{shard:03}.tar", files)
    return tmp_path


def pattern(folder: Path) -> str:
    return str(folder / "grey-{000..002}.tar")


def test_samples(folder: Path) -> None:
    dataset = WebDataset(pattern(folder))
    assert len(dataset) == 30
    sample = dataset[17]
    assert sample["image"].getpixel((3, 3)) == (17, 17, 17)
    del sample["image"]
    assert sample == {"key": "grey-001/017", "text": "shade 17", "label": 2, "json": {"caption": "grey 17"}}
    assert len({dataset[i]["key"] for i in range(30)}) == 30
    with pytest.raises(IndexError):
        dataset[30]


def test_caption_from_json_or_none(folder: Path) -> None:
    assert WebDataset(pattern(folder), caption_key="caption")[3]["text"] == "grey 3"
    assert "text" not in WebDataset(pattern(folder), captions=False)[3]
    with pytest.raises(DataError, match=r"000.json: has no text under 'captoin'; did you mean 'caption'"):
        WebDataset(pattern(folder), caption_key="captoin")[0]


def test_no_file_stays_open(folder: Path) -> None:
    dataset = WebDataset(pattern(folder))
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    for i in range(30):
        dataset[i]
    assert (len(os.listdir("/proc/self/fd")) if before else 0) == before
    assert pickle.loads(pickle.dumps(dataset))[4]["text"] == "shade 4"


def test_window_and_index(folder: Path) -> None:
    dataset = WebDataset(pattern(folder), window=5, index=str(folder / "kept"))
    assert len(list((folder / "kept").glob("*.index.json"))) == 3 and not list(folder.glob("*.index.json"))
    first = sorted(dataset.order(default_rng(0))[:5].tolist())
    assert first == list(range(first[0], first[0] + 5))


class Killed(BaseException):
    pass


def train(folder: Path, home: Path, workers: int, resume: bool = False, stop: int | None = None) -> list[list[str]]:
    """Keys of the samples of each step of a run over the shards, killed after step `stop`."""
    steps: list[list[str]] = []

    def shade(sample: mmkd.Sample) -> dict[str, object]:
        return {"image": torch.tensor([sample["image"].getpixel((0, 0))[0] / 30])}

    def watched(
        graph: mmkd.TrainingGraph, parts: list[dict[str, list[str]]], *args: object, **options: object
    ) -> object:
        if len(steps) == stop:
            raise Killed
        steps.append([key for part in parts for key in part["key"]])
        return original(graph, parts, *args, **options)

    original = mmkd.TrainingGraph.step
    torch.manual_seed(0)
    student = mmkd.wrap(torch.nn.Linear(1, 3), inputs=["image"], outputs="logits", transform=shade)
    recipe = {
        "student": {},
        "losses": {"task": {"use": "core.cross_entropy", "student": "student.logits"}},
        "data": {"batch_size": 4, "workers": workers},
        "train": {"steps": 16, "checkpoint_every": 5, "log_every": 1, "device": "cpu"},
    }
    data = {"train": WebDataset(pattern(folder), window=6)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mmkd.TrainingGraph, "step", watched)
        try:
            mmkd.distill(recipe, output_dir=home, resume=resume, nodes={"student": student}, data=data)
        except Killed:
            assert stop is not None
    return steps


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_resumed_within_a_shard_nothing_is_lost_or_repeated(folder: Path, tmp_path: Path, workers: int) -> None:
    whole = train(folder, tmp_path / "whole", workers=0)
    assert len(whole) == 16
    for epoch in range(2):  # 28 of 30 samples make up the 7 batches of an epoch
        keys = [key for step in whole[7 * epoch : 7 * epoch + 7] for key in step]
        assert len(keys) == len(set(keys)) == 28
    cut = train(folder, tmp_path / "cut", workers, stop=8)
    rest = train(folder, tmp_path / "cut", workers, resume=True)
    assert cut == whole[:8]
    assert rest == whole[5:]  # the last checkpoint is that of step 5


def test_the_manifest_follows_what_lies_in_the_shards(folder: Path, write_tar: Callable[..., Path]) -> None:
    dataset = WebDataset(pattern(folder))
    before = dataset.manifest()
    assert [key for key, _ in before] == [dataset[i]["key"] for i in range(30)]
    moved = folder / "moved"
    moved.mkdir()
    for tar in folder.glob("*.tar"):
        tar.rename(moved / tar.name)
    assert WebDataset(pattern(moved)).manifest() == before
    assert WebDataset(pattern(moved), captions=False).manifest() != before
    content = (moved / "grey-001.tar").read_bytes()
    (moved / "grey-001.tar").write_bytes(content.replace(b"shade 13\n", b"shade 31\n"))
    changed = WebDataset(pattern(moved)).manifest()
    assert [i for i, (a, b) in enumerate(zip(before, changed, strict=True)) if a != b] == [13]
