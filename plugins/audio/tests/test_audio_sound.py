"""Sound files, good and bad."""

import numpy as np
import pytest
import soundfile
import sounds
from mmkd_audio.folder import AudioFolder
from mmkd_audio.sound import read_sound, sound_of
from sounds import BAD, NOISE, encoded

import mmkd
from mmkd.errors import DataError

FORMATS = {"wav": "PCM_16", "flac": "PCM_16", "ogg": "VORBIS", "aiff": "PCM_16"}


@pytest.mark.parametrize("suffix", FORMATS)
def test_formats(suffix, tmp_path):
    wave = sounds.sound(5000)["array"]
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, wave, 22_050, subtype=FORMATS[suffix])
    read = read_sound(path)
    assert read.rate == 22_050 and read.waveform.dtype == np.float32 and read.waveform.shape == (5000,)
    assert np.abs(read.waveform - wave).max() < (0.1 if suffix == "ogg" else 1e-4)


def test_two_channels_are_averaged():
    left, right = np.random.default_rng(0).uniform(-0.9, 0.9, (2, 300)).astype(np.float32)
    read = read_sound(encoded(np.stack([left, right], 1), subtype="FLOAT"))
    assert np.array_equal(read.waveform, np.stack([left, right], 1).mean(1))


@pytest.mark.parametrize("what", BAD)
def test_bad_sounds_are_errors_that_name_the_file(what, tmp_path):
    path = tmp_path / "bad.wav"
    path.write_bytes(BAD[what])
    with pytest.raises(DataError) as caught:
        read_sound(path)
    assert str(caught.value).startswith(f"{path}: {what}")


@pytest.mark.parametrize("kept", [0.3, 0.7, 0.99])
@pytest.mark.parametrize("format", ["WAV", "FLAC", "OGG", "AIFF", "MP3"])
def test_no_format_is_read_when_it_is_cut_short(format, kept):
    subtype = {"OGG": "VORBIS", "MP3": "MPEG_LAYER_III"}.get(format, "PCM_16")
    data = encoded(NOISE, format, subtype)
    assert len(read_sound(data).waveform) == len(NOISE)
    with pytest.raises(DataError):
        read_sound(data[: int(kept * len(data))])


def test_a_run_skips_bad_sounds_and_lists_them(tmp_path):
    for i in range(12):
        sounds.write(tmp_path / "data" / f"{'ab'[i % 2]}_{i}.wav", 3000, i)
    (tmp_path / "data" / "a_4.wav").write_bytes(BAD["has 8 channels"])
    recipe = {
        "student": {"use": "audio.convnet", "width": 8, "blocks": 1, "mels": 20, "num_classes": 2},
        "losses": {"label": {"use": "core.cross_entropy", "student": "student.logits"}},
        "data": {
            "train": {"use": "audio.folder", "path": str(tmp_path / "data"), "labels": "prefix"},
            "batch_size": 4, "on_bad_sample": "skip", "max_bad_samples": 0.2,
        },
        "train": {"steps": 4},
    }  # fmt: skip
    mmkd.distill(recipe, output_dir=tmp_path / "run")
    (line,) = (tmp_path / "run" / "bad_samples.jsonl").read_text().splitlines()
    assert "a_4.wav" in line and "8 channels" in line
    recipe["data"]["on_bad_sample"] = "error"
    with pytest.raises(DataError, match=r"a_4\.wav: has 8 channels"):
        mmkd.distill(recipe, output_dir=tmp_path / "again")


def test_the_sound_of_a_sample_in_either_form():
    told = sounds.sound(10)
    assert sound_of({"audio": told}).rate == 16_000
    beside = sound_of({"audio": told["array"].astype(np.float64), "sampling_rate": 8000})
    assert beside.rate == 8000 and beside.waveform.dtype == np.float32
    for sample, what in (
        ({"text": "a"}, "has no field 'audio'"),
        ({"audio": told["array"]}, "sampling_rate of None"),
        ({"audio": np.zeros((2, 5), np.float32), "sampling_rate": 8000}, "not one channel"),
        ({"audio": np.zeros(5, np.int16), "sampling_rate": 8000}, "int16"),
        ({"audio": np.full(5, np.inf), "sampling_rate": 8000}, "5 of 5 samples"),
    ):
        with pytest.raises(DataError, match=what):
            sound_of(sample)


@pytest.fixture
def files(tmp_path):
    for i, name in enumerate(("bd/bd_haus.flac", "bd/bd_808.wav", "sn/sn_dub2.ogg", "sn/.hidden.wav")):
        sounds.write(tmp_path / name, 2000 + i, i)
    return tmp_path


def test_a_folder(files):
    data = AudioFolder(str(files), text="name", labels="folder", sampling_rate=8000)
    assert [data[i]["key"] for i in range(3)] == ["bd/bd_808.wav", "bd/bd_haus.flac", "sn/sn_dub2.ogg"]
    assert data.classes == ("bd", "sn") and [data[i]["label"] for i in range(3)] == [0, 0, 1]
    assert data[1]["text"] == "bd haus" and data[2]["class_name"] == "sn"
    assert data[0]["audio"]["sampling_rate"] == 8000 and len(data[0]["audio"]["array"]) in (1000, 1001)
    assert AudioFolder(str(files), labels="prefix").classes == ("bd", "sn")
    assert set(AudioFolder(str(files))[0]) == {"key", "audio"}
    assert data.seconds(0) == pytest.approx(2001 / 16_000)


def test_a_table(files):
    table = files / "metadata.csv"
    table.write_text("audio,text,label\nbd/bd_haus.flac,a deep drum,drum\nsn/sn_dub2.ogg,a snare,snare\n")
    data = AudioFolder(str(files))
    assert len(data) == 2 and data[1]["text"] == "a snare" and data[1]["label"] == 1
    assert len(AudioFolder(str(files), table=False)) == 3
    table.write_text('{"file": "bd/bd_808.wav", "label": 7}\n')
    assert AudioFolder(str(table.rename(files / "t.jsonl")), audio_column="file")[0]["label"] == 7


@pytest.mark.parametrize(
    ("rows", "what"),
    [
        ("audio\nnone.wav\n", "'none.wav' is not there"),
        ("audio\n../x.wav\n", "outside"),
        ("file\nbd/bd_808.wav\n", "'audio' is missing"),
        ("audio,text\nbd/bd_808.wav,a\nbd/bd_haus.flac,\n", "a text or label and others none"),
        ("audio,label\nbd/bd_808.wav,1\nbd/bd_haus.flac,dog\n", "several kinds"),
        ("audio\nbd/bd_808.wav\nbd/bd_808.wav\n", "twice"),
        ("audio,text\nbd/bd_808.wav\n", "cells"),
        ("audio\n", "holds no sounds"),
    ],
)
def test_bad_tables_are_errors(files, rows, what):
    (files / "metadata.csv").write_text(rows)
    with pytest.raises(DataError, match=what):
        AudioFolder(str(files))


def test_bad_folders_are_errors(tmp_path, files):
    with pytest.raises(DataError, match="does not exist"):
        AudioFolder(str(tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no sounds"):
        AudioFolder(str(tmp_path / "empty"))
    sounds.write(files / "loose.wav")
    with pytest.raises(DataError, match=r"'loose\.wav' lies in no class folder"):
        AudioFolder(str(files), labels="folder")
