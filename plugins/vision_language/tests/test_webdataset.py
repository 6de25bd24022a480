"""Tar shards: samples, keys, order, indices, workers, resuming."""

import io
import json
import os
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from mmkd_vision_language.webdataset import WebDataset
from numpy.random import default_rng
from PIL import Image

import mmkd
from mmkd.errors import DataError
from mmkd.files import tar_index
from mmkd.files.patterns import expand, find_shards

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


def test_patterns(folder: Path) -> None:
    names = [f"grey-{i:03}.tar" for i in range(3)]
    assert [p.name for p in find_shards(pattern(folder))] == names
    assert [p.name for p in find_shards(str(folder / "*.tar"))] == names
    assert [p.name for p in find_shards([str(folder / names[2]), str(folder / "grey-{001,000}.tar")])] == names[::-1]
    assert expand("{a,b}/{8..10}") == ["a/8", "a/9", "a/10", "b/8", "b/9", "b/10"]
    assert expand("{08..10}") == ["08", "09", "10"]


@pytest.mark.parametrize(
    ("shards", "message"),
    [
        ("grey-{000..003}.tar", "grey-003.tar: does not exist"),
        ("blue-*.tar", "matches no file"),
        (["grey-000.tar", "grey-*.tar"], "grey-000.tar: is named twice"),
        ("{grey-000.tar", "do not pair up"),
        ("{0..999999999}.tar", "more than 100,000 shards"),
        ("{0..999}{0..999}.tar", "more than 100,000 shards"),
        ("{5..3}.tar", "counts down"),
        ("https://example.org/a.tar", "local files"),
        ("pipe:cat grey-000.tar", "local files"),
        (".", "is no file"),
        ([], "no shards"),
    ],
)
def test_pattern_errors(folder: Path, shards: str | list[str], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    with pytest.raises(DataError, match=message):
        WebDataset(shards)


def test_files_of_a_sample_need_not_be_neighbours(tmp_path: Path, write_tar: Callable[..., Path]) -> None:
    files = {
        "x/a.PNG": picture(1), "x/b.png": picture(2), "x/b.txt": b"b", "x/a.txt": b"a", "x/a.seg.png": b"?",
        "README": b"no sample", "x/._a.png": b"a Mac's", "./y/a.png": picture(3), "y/a.txt": b"c",
    }  # fmt: skip
    dataset = WebDataset(str(write_tar(tmp_path / "s.tar", files)))
    assert [(dataset[i]["key"], dataset[i]["text"]) for i in range(3)] == [
        ("s/x/a", "a"),
        ("s/x/b", "b"),
        ("s/y/a", "c"),
    ]


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_formats_and_long_names(tmp_path: Path, format: int) -> None:
    name = "folder/" * 12 + "n" * 60 + ("" if format == tarfile.USTAR_FORMAT else "é" * 90)
    with tarfile.open(tmp_path / "s.tar", "w", format=format) as tar:
        tar.addfile(_info("folder", 0, tarfile.DIRTYPE))
        for suffix, data in ((".png", picture(9)), (".txt", b"nine")):
            tar.addfile(_info(name + suffix, len(data)), io.BytesIO(data))
    sample = WebDataset(str(tmp_path / "s.tar"))[0]
    assert sample["key"] == f"s/{name}"
    assert (sample["text"], sample["image"].getpixel((0, 0))) == ("nine", (9, 9, 9))


def _info(name: str, size: int, type: bytes = tarfile.REGTYPE) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.type = size, type
    return info


def test_order_is_a_permutation_that_moves_within_windows(folder: Path) -> None:
    dataset = WebDataset(pattern(folder), window=5)
    order = dataset.order(default_rng(0))
    assert sorted(order) == list(range(30)) and order.dtype == np.int64
    assert order.tolist() == dataset.order(default_rng(0)).tolist() != dataset.order(default_rng(1)).tolist()
    shards = [int(i) // PER_SHARD for i in order]
    for start in range(0, 30, PER_SHARD):
        assert len(set(shards[start : start + PER_SHARD])) == 1
    for start in range(0, 30, 5):
        part = sorted(order[start : start + 5].tolist())
        assert part == list(range(part[0], part[0] + 5))
    firsts = {tuple(int(i) // PER_SHARD for i in dataset.order(default_rng(s))[::PER_SHARD]) for s in range(40)}
    assert len(firsts) == 6
    wide = WebDataset(pattern(folder), window=30).order(default_rng(0))
    assert len({int(i) // PER_SHARD for i in wide[:10]}) > 1


def test_index_is_kept_and_used(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = WebDataset(pattern(folder))
    kept = sorted(p.name for p in folder.glob("*.json"))
    assert kept == [f"grey-{i:03}.tar.index.json" for i in range(3)]
    monkeypatch.setattr(tar_index, "scan", None)
    again = WebDataset(pattern(folder))
    assert [again[i]["key"] for i in range(30)] == [first[i]["key"] for i in range(30)]


def test_index_elsewhere(folder: Path, tmp_path: Path) -> None:
    WebDataset(pattern(folder), index=str(tmp_path / "deep/cache"))
    assert len(list((tmp_path / "deep/cache").glob("grey-*.index.json"))) == 3
    assert not list(folder.glob("*.index.json"))
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"file/.*cannot be written"):
        WebDataset(pattern(folder), index=str(tmp_path / "file"))


def test_a_changed_tar_is_indexed_anew(folder: Path, write_tar: Callable[..., Path]) -> None:
    old = WebDataset(str(folder / "grey-000.tar"))
    write_tar(folder / "grey-000.tar", {"z.png": picture(7), "z.txt": b"new"})
    assert WebDataset(str(folder / "grey-000.tar"))[0]["text"] == "new"
    with pytest.raises(DataError, match=r"grey-000.tar: has changed since it was indexed"):
        old[0]


def spoiled(facts: dict) -> dict[str, object]:
    """Indices that contradict themselves or the tar."""
    size = facts["size"]
    return {
        "garbage": "{", "no object": [], "no columns": {k: facts[k] for k in ("format", "size", "mtime_ns")},
        "beyond the end": {**facts, "offsets": [size // 512 * 512] * len(facts["offsets"])},
        "before the beginning": {**facts, "offsets": [-512] * len(facts["offsets"])},
        "huge": {**facts, "sizes": [1 << 62] * len(facts["sizes"])},
        "beyond int64": {**facts, "sizes": [1 << 99] * len(facts["sizes"])},
        "lists in lists": {**facts, "counts": [facts["counts"]]},
        "too few": {**facts, "counts": facts["counts"][:-1]},
        "no such kind": {**facts, "kinds": [99] * len(facts["kinds"])},
        "twice": {**facts, "keys": [facts["keys"][0]] * len(facts["keys"])},
        "numbers for names": {**facts, "keys": list(range(len(facts["keys"])))},
        "old": {**facts, "mtime_ns": 1}, "older format": {**facts, "format": 0},
    }  # fmt: skip


def test_an_index_is_never_trusted_blindly(folder: Path) -> None:
    tar = folder / "grey-000.tar"
    dataset = WebDataset(str(tar))
    home = folder / "grey-000.tar.index.json"
    facts = json.loads(home.read_text())
    for name, bad in spoiled(facts).items():
        home.write_text(bad if isinstance(bad, str) else json.dumps(bad))
        again = WebDataset(str(tar))
        assert [again[i]["text"] for i in range(10)] == [dataset[i]["text"] for i in range(10)], name
        assert json.loads(home.read_text()) == facts, name
    moved = {**facts, "offsets": [offset + 512 for offset in facts["offsets"]]}
    home.write_text(json.dumps(moved))
    with pytest.raises(DataError, match=r"grey-000.tar: holds no file of \d+ bytes at byte \d+, where its index says"):
        WebDataset(str(tar))[0]


def test_a_folder_that_cannot_be_written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, text: str) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tar_index, "_write", refuse)
    assert len(WebDataset(pattern(folder))) == 30


def test_no_file_stays_open(folder: Path) -> None:
    dataset = WebDataset(pattern(folder))
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    for i in range(30):
        dataset[i]
    assert (len(os.listdir("/proc/self/fd")) if before else 0) == before
    assert pickle.loads(pickle.dumps(dataset))[4]["text"] == "shade 4"


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
