"""Speech, order by length, and what curators do to sounds."""

import shutil

import numpy as np
import pytest
import sounds
from mmkd_audio import speech
from mmkd_audio.bucketed import Bucketed
from mmkd_audio.crop import Crop
from mmkd_audio.espeak import Espeak
from mmkd_audio.folder import AudioFolder
from mmkd_audio.noise import Noise
from mmkd_audio.phrases import PATTERNS, phrases
from mmkd_audio.speed import Speed
from numpy.random import default_rng

import mmkd
from mmkd.errors import DataError, MmkdError

spoken = pytest.mark.skipif(not shutil.which("espeak-ng"), reason="the program espeak-ng is not installed")
TEXTS = ["good morning", "turn left", "it is raining"]


@spoken
def test_speech_is_kept_and_is_the_same_again(tmp_path, monkeypatch):
    given = {"texts": TEXTS, "voices": ["en-us+m1", "en-gb"], "folder": str(tmp_path), "sampling_rate": 8000}
    data = Espeak(**given)
    first = [data[i] for i in range(len(data))]
    assert len(first) == 6 and len(list(tmp_path.glob("*.wav"))) == 6 and not list(tmp_path.glob("*.part"))
    assert first[1]["key"] == "en-gb/175/50/good morning" and first[1]["label"] == 0 and first[5]["label"] == 2
    assert all(0.3 < len(s["audio"]["array"]) / 8000 < 3 for s in first)
    assert all(np.abs(s["audio"]["array"]).max() > 0.05 for s in first)

    def silent(*args):
        raise AssertionError("spoke again")

    monkeypatch.setattr("mmkd_audio.espeak.speak", silent)
    again = Espeak(**given)
    assert all(np.array_equal(again[i]["audio"]["array"], s["audio"]["array"]) for i, s in enumerate(first))
    with pytest.raises(AssertionError, match="spoke again"):
        Espeak(**{**given, "speeds": [200]})[0]


@spoken
def test_voice_speed_and_pitch_are_heard(tmp_path):
    def said(**options):
        return Espeak(texts=["one two three four"], folder=str(tmp_path), **options)[0]["audio"]["array"]

    plain = said()
    assert len(said(speeds=[300])) < 0.8 * len(plain)
    assert not np.array_equal(said(pitches=[90])[:4000], plain[:4000])
    assert not np.array_equal(said(voices=["en-us+f2"])[:4000], plain[:4000])


@spoken
def test_splits_are_apart_and_labels_are_those_of_the_whole_list():
    texts = {split: {row["text"] for _, row, *_ in Espeak(split=split).rows} for split in ("train", "held_out", "all")}
    assert texts["train"] | texts["held_out"] == texts["all"] and not texts["train"] & texts["held_out"]
    assert len(texts["all"]) == 450 and 60 < len(texts["held_out"]) < 120
    every = {row["text"]: label for label, row, *_ in Espeak().rows}
    assert all(every[row["text"]] == label for label, row, *_ in Espeak(split="held_out", fold=3).rows)
    fit, tuned = ({row["text"] for _, row, *_ in Espeak(split=s).rows} for s in ("fit", "validation"))
    assert fit | tuned == texts["train"] and not fit & tuned


@spoken
def test_texts_from_files(tmp_path):
    (tmp_path / "a.txt").write_text("hello\n\nyou there\n")
    (tmp_path / "a.csv").write_text("text,meaning\nhello,a greeting\n-v tricky,an option\n")
    assert len(Espeak(texts=str(tmp_path / "a.txt"))) == 2
    data = Espeak(texts=str(tmp_path / "a.csv"), folder=str(tmp_path / "kept"))
    assert data[1]["meaning"] == "an option" and len(data[1]["audio"]["array"]) > 4000
    for texts, what in (
        (["a", "a"], "a text twice"),
        (["a", " "], "an empty text"),
        ([], "no texts"),
        (str(tmp_path / "b.csv"), "no table that is there"),
    ):
        with pytest.raises(DataError, match=what):
            Espeak(texts=texts)


@spoken
def test_voices_that_are_not_there_are_errors():
    with pytest.raises(DataError, match=r"'en-us\+m99' has no such speaker"):
        Espeak(voices=["en-us+m99"])  # espeak-ng itself would take its plain voice
    with pytest.raises(DataError, match="'qqq' is no such language"):
        Espeak(voices=["qqq"])
    with pytest.raises(DataError, match="no such language"):
        Espeak(voices=["--help"])


def test_without_espeak_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    speech.version.cache_clear()
    with pytest.raises(DataError, match="apt-get install espeak-ng"):
        Espeak(texts=TEXTS)
    speech.version.cache_clear()


def test_paraphrases_share_no_words_but_small_ones():
    def words(texts):
        return {word for text in texts for word in text.split()}

    assert len(phrases()) == 450 == len({p.text for p in phrases()}) == 150 * len(PATTERNS)
    spoken = words(p.text for p in phrases())
    assert spoken & words(p.paraphrase for p in phrases()) == {"a", "in", "my", "the", "to", "wants"}


# -- order ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def lengths(tmp_path):
    made = default_rng(0).permutation(np.arange(1, 42)) * 100
    for i, size in enumerate(made):
        sounds.write(tmp_path / f"{i:02}.wav", int(size), i)
    return AudioFolder(str(tmp_path)), made


def test_batches_hold_sounds_of_like_length(lengths):
    data, sizes = lengths
    order = Bucketed(data, batch_size=4, window=20).order(default_rng(1))
    assert sorted(order) == list(range(41)) and order.dtype == np.int64
    spread = [np.ptp(sizes[order[i : i + 4]]) for i in range(0, 40, 4)]
    plain = [np.ptp(sizes[data.order(default_rng(1))[i : i + 4]]) for i in range(0, 40, 4)]
    assert max(spread) <= 400 < np.mean(plain)
    assert not np.array_equal(order, Bucketed(data, batch_size=4, window=20).order(default_rng(2)))
    firsts = sizes[order[:40:4]]
    assert not np.array_equal(firsts, np.sort(firsts)), "batches come in order of length"


def test_a_window_of_one_batch_is_a_plain_shuffle(lengths):
    data, _ = lengths
    plain = default_rng(1).permutation(41)
    order = Bucketed(data, batch_size=4, window=1).order(default_rng(1))
    batches = {frozenset(order[i : i + 4].tolist()) for i in range(0, 40, 4)}
    assert batches == {frozenset(plain[i : i + 4].tolist()) for i in range(0, 40, 4)}


def test_a_dataset_without_lengths_is_refused():
    with pytest.raises(DataError, match="seconds"):
        Bucketed(mmkd.Dataset(), 4)


# -- curators ---------------------------------------------------------------------------------------------------------


def test_noise_has_the_level_that_was_drawn():
    curator, sample = Noise((3.0, 20.0)), {"key": "a", "audio": sounds.sound(8000)}
    for i in range(10):
        draw = curator.draw(default_rng(i))
        made = curator.apply(sample, draw)["audio"]["array"].astype(float)
        clean = sample["audio"]["array"].astype(float)
        assert 3 <= draw["snr"] <= 20 and 0 <= draw["colour"] <= 2
        level = 10 * np.log10((clean**2).mean() / ((made - clean) ** 2).mean())
        assert level == pytest.approx(draw["snr"], abs=0.05)
    assert sum(bool(Noise(probability=0.25).draw(default_rng(i))) for i in range(200)) == pytest.approx(50, abs=20)
    silent = {"audio": {"array": np.zeros(50, np.float32), "sampling_rate": 8000}}
    assert not curator.apply(silent, draw)["audio"]["array"].any()
    one = {"audio": {"array": np.ones(1, np.float32), "sampling_rate": 8000}}
    assert np.isfinite(curator.apply(one, draw)["audio"]["array"]).all()


def test_brown_noise_is_lower_than_white():
    sample = {"audio": sounds.sound(16_000)}
    clean = sample["audio"]["array"]

    def centre(colour):
        noise = Noise().apply(sample, {"snr": 0.0, "colour": colour, "seed": 3})["audio"]["array"] - clean
        power = np.abs(np.fft.rfft(noise)) ** 2
        return (power * np.arange(len(power))).sum() / power.sum()

    assert centre(2.0) < 200 < 3500 < centre(0.0) < 4500


def test_a_crop_is_a_part():
    sample = {"audio": sounds.sound(8000)}
    whole, starts = sample["audio"]["array"], set()
    for i in range(50):
        draw = Crop(0.25).draw(default_rng(i))
        part = Crop(0.25).apply(sample, draw)["audio"]["array"]
        start = int(draw["start"] * 4001)
        assert np.array_equal(part, whole[start : start + 4000])
        starts.add(start)
    assert min(starts) < 400 and max(starts) > 3600
    assert np.array_equal(Crop(3.0).apply(sample, {"start": 0.9})["audio"]["array"], whole)


def test_speed_moves_pitch_and_length():
    time = np.arange(16_000) / 16_000
    sample = {"audio": {"array": np.sin(2 * np.pi * 400 * time).astype(np.float32), "sampling_rate": 16_000}}
    made = Speed((1.25, 1.25)).apply(sample, {"factor": 1.25})["audio"]["array"]
    assert len(made) == 12_800
    assert int(np.abs(np.fft.rfft(made)).argmax()) == pytest.approx(500 * 0.8, abs=1)
    assert np.array_equal(Speed().apply(sample, {"factor": 1.0})["audio"]["array"], sample["audio"]["array"])
    assert 0.9 <= Speed().draw(default_rng(0))["factor"] <= 1.1


def test_ranges_the_wrong_way_round_are_errors():
    with pytest.raises(MmkdError, match="snr"):
        Noise((20.0, 10.0))
    with pytest.raises(MmkdError, match="factor"):
        Speed((0.0, 1.0))
