"""Sounds in tar shards; the shards themselves: tests/files."""

import json
import os
import pickle

import numpy as np
import pytest
import sounds
from mmkd_audio.bucketed import Bucketed
from mmkd_audio.webdataset import EXTENSIONS, WebDataset
from numpy.random import default_rng
from sounds import BAD, NOISE, encoded, shard

import mmkd
from mmkd.errors import DataError

FORMATS = {
    "wav": ("WAV", "PCM_16"), "flac": ("FLAC", "PCM_16"), "ogg": ("OGG", "VORBIS"), "oga": ("OGG", "VORBIS"),
    "aif": ("AIFF", "PCM_16"), "aiff": ("AIFF", "PCM_16"), "mp3": ("MP3", "MPEG_LAYER_III"),
}  # fmt: skip
SHARDS, PER_SHARD = 3, 10


@pytest.fixture
def folder(tmp_path):
    """Three shards of ten samples, every sound of another length and pitch; samples of ten are of two classes."""
    for place in range(SHARDS):
        files = {}
        for i in range(place * PER_SHARD, (place + 1) * PER_SHARD):
            more = {"text": f"tone {i}", "speaker": i % 4}
            files |= {
                f"{i:03}.wav": encoded(sounds.sound(1600 + 80 * i, i)["array"]), f"{i:03}.txt": f"said {i}\n".encode(),
                f"{i:03}.cls": str(i % 2).encode(), f"{i:03}.json": json.dumps(more).encode(),
                f"{i:03}.png": b"a picture, which nobody opens",
            }  # fmt: skip
        shard(tmp_path / "data" / f"tones-{place:03}.tar", files)
    return tmp_path / "data"


def pattern(folder):
    return str(folder / "tones-{000..002}.tar")


def test_every_extension_is_tested():
    assert set(FORMATS) == set(EXTENSIONS)


@pytest.mark.parametrize("suffix", FORMATS)
def test_formats(suffix, tmp_path):
    wave = sounds.sound(5000)["array"]
    files = {f"a.{suffix}": encoded(wave, *FORMATS[suffix], rate=22_050), "a.txt": b"a tone"}
    data = WebDataset(shard(tmp_path / "s.tar", files))
    sample = data[0]
    assert (sample.pop("key"), sample.pop("text")) == ("s/a", "a tone") and set(sample) == {"audio"}
    read, rate = sample["audio"]["array"], sample["audio"]["sampling_rate"]
    assert (rate, read.dtype, read.shape) == (22_050, np.float32, (5000,))
    assert np.abs(read - wave).max() < (0.1 if FORMATS[suffix][0] in ("OGG", "MP3") else 1e-4)
    assert data.seconds(0) == pytest.approx(5000 / 22_050)


def test_fields(folder):
    data = WebDataset(pattern(folder))
    assert len(data) == 30
    sample = data[17]
    assert np.abs(sample["audio"].pop("array") - sounds.sound(1600 + 80 * 17, 17)["array"]).max() < 1e-4
    assert sample == {
        "key": "tones-001/017", "audio": {"sampling_rate": 16_000}, "text": "said 17", "label": 1,
        "json": {"text": "tone 17", "speaker": 1},
    }  # fmt: skip
    assert WebDataset(pattern(folder), caption_key="text")[17]["text"] == "tone 17"
    assert "text" not in WebDataset(pattern(folder), captions=False)[17]
    with pytest.raises(DataError, match=r"000.json: has no text under 'txt'; did you mean 'text'"):
        WebDataset(pattern(folder), caption_key="txt")[0]
    with pytest.raises(DataError, match=r"000.json: has no text under 'speaker'"):
        WebDataset(pattern(folder), caption_key="speaker")[0]


def test_sounds_are_brought_to_one_rate(folder):
    data = WebDataset(pattern(folder), sampling_rate=8000)
    audio = data[10]["audio"]
    assert audio["sampling_rate"] == 8000 and audio["array"].shape == (1200,)
    assert data.seconds(10) == pytest.approx(2400 / 16_000)
    assert pickle.loads(pickle.dumps(data))[10]["audio"]["array"].tolist() == audio["array"].tolist()


@pytest.mark.parametrize("what", BAD)
def test_a_bad_sound_is_an_error_that_names_shard_and_file(what, tmp_path):
    path = shard(tmp_path / "s.tar", {"x/a.wav": BAD[what], "x/a.txt": b"a"})
    with pytest.raises(DataError) as caught:
        WebDataset(path)[0]
    assert str(caught.value).startswith(f"{path}: x/a.wav: {what}") and " at 0x" not in str(caught.value)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a.png": b"x", "a.txt": b"t"}, r"s.tar: 'a' has no sound: no file .aif or .aiff or .flac[^$]*is: .png, .txt"),
        ({"a.wav": encoded(NOISE)}, r"s.tar: 'a' has no caption: no file .txt[^$]*captions: false"),
        ({"a.wav": encoded(NOISE), "a.txt": b" "}, r"s.tar: a.txt: is empty"),
    ],
)
def test_what_is_missing_is_named(files, message, tmp_path):
    with pytest.raises(DataError, match=message):
        WebDataset(shard(tmp_path / "s.tar", files))[0]


@pytest.mark.parametrize("what", ["is empty", "cannot be read"])
def test_lengths_of_bad_sounds_are_errors_too(what, tmp_path):
    data = WebDataset(shard(tmp_path / "s.tar", {"a.wav": BAD[what], "b.png": b"x"}), captions=False)
    with pytest.raises(DataError, match=r"s.tar: a.wav: cannot be read: ") as caught:
        data.seconds(0)
    assert " at 0x" not in str(caught.value)
    with pytest.raises(DataError, match=r"s.tar: 'b' has no sound"):
        data.seconds(1)


def test_order_takes_shards_in_turn_and_shuffles_within_windows(folder):
    data = WebDataset(pattern(folder), window=5)
    order = data.order(default_rng(0))
    assert sorted(order) == list(range(30)) and order.dtype == np.int64
    assert order.tolist() == data.order(default_rng(0)).tolist() != data.order(default_rng(1)).tolist()
    for start in range(0, 30, 5):
        part = sorted(order[start : start + 5].tolist())
        assert part == list(range(part[0], part[0] + 5))


def test_keys_and_manifest_stay_when_the_folder_moves(folder, tmp_path):
    before, keys = WebDataset(pattern(folder)).manifest(), [WebDataset(pattern(folder))[i]["key"] for i in range(30)]
    assert [key for key, _ in before] == keys
    moved = folder.rename(tmp_path / "elsewhere")
    assert WebDataset(pattern(moved), index=str(tmp_path / "kept")).manifest() == before
    assert len(list((tmp_path / "kept").glob("tones-*.index.json"))) == 3
    options = ({}, {"sampling_rate": 8000}, {"captions": False}, {"caption_key": "text"})
    manifests = [WebDataset(pattern(moved), **given).manifest() for given in options]
    assert all(a != b for i, a in enumerate(manifests) for b in manifests[:i])
    path = moved / "tones-001.tar"
    path.write_bytes(path.read_bytes().replace(b"said 13\n", b"said 31\n"))
    changed = WebDataset(pattern(moved)).manifest()
    assert [i for i, (a, b) in enumerate(zip(before, changed, strict=True)) if a != b] == [13]


def test_sounds_of_like_length_in_one_batch_by_the_heads_of_the_files(folder, monkeypatch):
    data = WebDataset(pattern(folder))
    bucketed, read, pread = Bucketed(data, batch_size=5, window=6), [], os.pread

    def counted(*arguments):
        read.append(pread(*arguments))
        return read[-1]

    monkeypatch.setattr(os, "pread", counted)
    order = bucketed.order(default_rng(0))
    monkeypatch.undo()
    assert sum(map(len, read)) < 30 * 1024 < sum(path.stat().st_size for path in folder.glob("*.tar")) / 5
    assert sorted(order) == list(range(30))
    assert all(np.ptp(order[i : i + 5]) == 4 for i in range(0, 30, 5))
    assert bucketed[3]["key"] == "tones-000/003"


def test_a_run_on_shards_skips_bad_sounds_and_lists_them(folder, tmp_path):
    files = {f"{i}.wav": encoded(NOISE[:2000]) for i in range(2)} | {"2.wav": BAD["has 8 channels"]}
    shard(folder / "tones-003.tar", files | {f"{i}.{kind}": b"1" for i in range(3) for kind in ("cls", "txt")})
    recipe = {
        "student": {"use": "audio.convnet", "width": 8, "blocks": 1, "mels": 20, "num_classes": 2},
        "losses": {"label": {"use": "core.cross_entropy", "student": "student.logits"}},
        "data": {
            "train": {"use": "audio.webdataset", "shards": str(folder / "*.tar"), "sampling_rate": 16_000},
            "batch_size": 4, "on_bad_sample": "skip", "max_bad_samples": 0.2,
        },
        "train": {"steps": 8, "device": "cpu"},
    }  # fmt: skip
    mmkd.distill(recipe, output_dir=tmp_path / "run")
    (line,) = (tmp_path / "run" / "bad_samples.jsonl").read_text().splitlines()
    assert "tones-003.tar: 2.wav: has 8 channels" in line
    recipe["data"]["on_bad_sample"] = "error"
    with pytest.raises(DataError, match=r"tones-003\.tar: 2\.wav: has 8 channels"):
        mmkd.distill(recipe, output_dir=tmp_path / "again")
