"""A bad sample stops the run by name, or gives its place to another one and is listed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from engine.toys import Noise, networks, recipe

import mmkd
from mmkd.engine.bad_samples import BadSamples
from mmkd.engine.stream import BadSample, Stream
from mmkd.errors import DataError


class Broken(Noise):
    """Some samples cannot be read, some have no image."""

    def __init__(self, unreadable: Callable[[int], bool] = lambda i: i in (3, 50)) -> None:
        super().__init__()
        self.unreadable = unreadable

    def __getitem__(self, index: int) -> mmkd.Sample:
        if self.unreadable(index):
            raise OSError("image file is truncated")
        return super().__getitem__(index)


class Picky(mmkd.Curator):
    """Refuses one sample."""

    def apply(self, sample: mmkd.Sample, draw: Any) -> dict[str, Any]:
        if sample["key"] == "noise/7":
            raise ValueError("too small")
        return dict(sample)


def run(folder: Path, train: Any, **changes: Any) -> dict[str, Any]:
    document = recipe(steps=12)
    document["data"] |= changes
    return mmkd.distill(document, output_dir=folder, nodes=networks(), data={"train": train, "eval": Noise(40, seed=1)})


@pytest.mark.parametrize("workers", [0, 2])
def test_by_default_the_first_bad_sample_stops_the_run(workers: int, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        run(tmp_path / "run", Broken(lambda i: i == 50), workers=workers)
    assert str(caught.value) == "sample 50 of Broken: OSError: image file is truncated"


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_skipped_samples_are_replaced_and_listed_once(workers: int, tmp_path: Path) -> None:
    run(tmp_path / "run", Broken(), on_bad_sample="skip", max_bad_samples=0.05, workers=workers)
    lines = [json.loads(line) for line in (tmp_path / "run" / "bad_samples.jsonl").read_text().splitlines()]
    assert sorted((line["dataset"], line["index"], line["key"]) for line in lines) == [
        ("data.train", 3, None), ("data.train", 50, None),
    ]  # fmt: skip
    assert lines[0]["reason"].endswith("OSError: image file is truncated")


def test_nothing_bad_leaves_no_file(tmp_path: Path) -> None:
    run(tmp_path / "run", Noise(), on_bad_sample="skip")
    assert not (tmp_path / "run" / "bad_samples.jsonl").exists()


def test_a_replacement_depends_on_seed_epoch_and_index_alone() -> None:
    def key(seed: int, epoch: int, index: int = 3) -> str:
        stream = Stream("", Broken(), 8, seed=seed, skip=True)
        return stream.fetch((epoch, index), lambda views: str(views[""]["key"]))

    assert key(0, 1) == key(0, 1)
    assert len({key(0, 1), key(1, 1), key(0, 2), key(0, 1, 50)}) > 1
    assert key(0, 1, 4) == "noise/4"


def test_curators_and_transforms_make_bad_samples_too() -> None:
    stream = Stream("", Noise(), 8, [Picky()], skip=True)
    assert stream.fetch((0, 7), lambda views: views[""]["key"]) != "noise/7"
    (bad,) = stream.bad
    assert (bad.index, bad.key) == (7, "noise/7")
    assert bad.reason == "sample 'noise/7' of Noise in Picky: ValueError: too small"

    def transform(sample: mmkd.Sample) -> torch.Tensor:
        if sample["key"] == "noise/0":
            raise OSError("broken data stream")
        return torch.as_tensor(sample["image"])

    nodes = {**networks(), "teacher": mmkd.wrap(networks()["teacher"], transform=transform)}
    document = recipe()
    with pytest.raises(DataError, match="sample 'noise/0' for 'teacher': OSError: broken data stream"):
        mmkd.build(document, nodes=nodes, data={"train": Noise()})
    document["data"]["on_bad_sample"] = "skip"
    assert mmkd.build(document, nodes=nodes, data={"train": Noise()}).shapes["teacher.logits"][0] == 4


def test_a_bad_partner_is_replaced_and_the_sample_kept() -> None:
    class Mixed(mmkd.Curator):
        partners = 1

        def apply(self, sample: mmkd.Sample, draw: Any, partners: Any) -> dict[str, Any]:
            return {**sample, "other": partners[0]["key"]}

    stream = Stream("", Broken(lambda i: i % 3 == 0), 8, [Mixed()], skip=True)
    for index in range(1, 96, 3):
        made = stream.fetch((0, index), lambda views: views[""])
        assert made["key"] == f"noise/{index}"
        assert int(made["other"].split("/")[1]) % 3
    assert stream.bad and all(bad.index % 3 == 0 for bad in stream.bad)


@pytest.mark.parametrize("workers", [0, 2])
def test_too_many_stop_the_run_with_one_error(workers: int, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        run(tmp_path / "run", Broken(), on_bad_sample="skip", workers=workers)
    said = str(caught.value)
    assert said.startswith("data.train: 1 of 96 samples are bad, more than a share of 0.01")
    assert "bad_samples.jsonl" in said and "data.max_bad_samples=0.03" in said


def test_a_dataset_of_bad_samples_is_not_searched_for_ever() -> None:
    stream = Stream("", Broken(lambda i: True), 8, skip=True)
    with pytest.raises(DataError, match=r"data\.train: 20 samples in a row are bad; the last one: sample \d+ of"):
        stream.fetch((0, 0), lambda views: views)


def test_a_remembered_teacher_leaves_bad_samples_out(tmp_path: Path) -> None:
    def first(folder: str, **teacher: Any) -> Any:
        document = {**recipe(steps=6), "teacher": teacher}
        document["data"] |= {"on_bad_sample": "skip", "max_bad_samples": 0.1}
        mmkd.distill(document, output_dir=tmp_path / folder, nodes=networks(), data={"train": Broken(lambda i: i < 5)})
        return mmkd.from_pretrained(tmp_path / folder, nodes=networks()).state_dict()

    live, remembered = first("live"), first("remembered", cache="memory")
    for key in live:
        torch.testing.assert_close(live[key], remembered[key], rtol=1e-5, atol=1e-6)


def test_the_list_survives_a_torn_line(tmp_path: Path) -> None:
    file = tmp_path / "bad.jsonl"
    BadSamples(file, {"data.train": 10}, 0.5).add([BadSample("data.train", 1, "a", "x")] * 2)
    assert len(file.read_text().splitlines()) == 1
    with file.open("a") as handle:
        handle.write('{"dataset": "data.tr')
    again = BadSamples(file, {"data.train": 10}, 0.5)
    again.add([BadSample("data.train", 1, "a", "x"), BadSample("data.train", 2, "b", "y")])
    assert [json.loads(line)["index"] for line in file.read_text().splitlines()] == [1, 2]
    assert len(again) == 2


def test_evaluation_data_is_never_skipped(tmp_path: Path) -> None:
    document = recipe(steps=1)
    document["data"] |= {"on_bad_sample": "skip", "max_bad_samples": 1.0}
    with pytest.raises(DataError, match="sample 3 of Broken"):
        mmkd.distill(document, output_dir=tmp_path / "r", nodes=networks(), data={"train": Noise(), "eval": Broken()})
