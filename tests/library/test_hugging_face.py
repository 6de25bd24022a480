"""`core.hf_dataset` over what lies on this disk: saved datasets and tables."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import mmkd
from mmkd import plugins
from mmkd.errors import DataError

hf = pytest.importorskip("datasets")

ROWS = {
    "img": [Image.new("RGB", (4, 3), (i, 0, 0)) for i in range(3)],
    "meta": [{"caption": f"number {i}", "id": 10 + i} for i in range(3)],
    "label": [0, 1, 2],
    "latent": [[0.5, 1.5], [2.5, 3.5], [4.5, 5.5]],
}


def dataset(path: Path, **options: Any) -> Any:
    return plugins.host().catalogue.get("dataset", "core.hf_dataset").load()(str(path), **options)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hf.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(hf.config, "HF_HUB_OFFLINE", True)
    hf.disable_progress_bars()


def test_a_saved_dataset_gives_images_arrays_and_nested_columns(tmp_path: Path) -> None:
    hf.Dataset.from_dict(ROWS).save_to_disk(tmp_path / "saved")
    columns = {"image": "img", "text": "meta.caption", "key": "meta.id", "latent": "latent", "label": "label"}
    made = dataset(tmp_path / "saved", columns=columns)
    sample = made[1]
    assert len(made) == 3 and sample.keys() == columns.keys()
    assert sample["image"].size == (4, 3) and sample["image"].getpixel((0, 0)) == (1, 0, 0)
    assert (sample["text"], sample["key"], sample["label"]) == ("number 1", "11", 1)
    np.testing.assert_array_equal(sample["latent"], [2.5, 3.5])
    assert isinstance(made, mmkd.Dataset)
    assert sorted(made.order(np.random.default_rng(0)).tolist()) == [0, 1, 2]


def test_a_split_of_several(tmp_path: Path) -> None:
    parts = {name: hf.Dataset.from_dict({"x": [name]}) for name in ("train", "test")}
    hf.DatasetDict(parts).save_to_disk(tmp_path / "saved")
    assert dataset(tmp_path / "saved", split="test")[0] == {"x": "test"}
    with pytest.raises(DataError, match=r"has no split 'tets'; did you mean 'test'"):
        dataset(tmp_path / "saved", split="tets")


@pytest.mark.parametrize("suffix", ["parquet", "jsonl", "csv"])
def test_tables_in_files(suffix: str, tmp_path: Path) -> None:
    table = hf.Dataset.from_dict({"text": ["a", "b"], "label": [3, 4]})
    file = tmp_path / f"table.{suffix}"
    if suffix == "jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in table))
    else:
        getattr(table, f"to_{suffix}")(file)
    assert list(dataset(tmp_path / f"*.{suffix}")[1].items()) == [("text", "b"), ("label", 4)]
    with pytest.raises(DataError, match=r"columns\.text: has no column 'txt'; did you mean 'text'"):
        dataset(file, columns={"text": "txt"})


def test_what_is_not_there_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"nowhere\.parquet: cannot be loaded"):
        dataset(tmp_path / "nowhere.parquet")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"(?s)'datasets', which is not installed.*pip install 'mmkd\[datasets\]'"):
        dataset(tmp_path)
