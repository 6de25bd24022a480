"""Made-up scenes: what is heard, what the captions say, and what is held out."""

from __future__ import annotations

import numpy as np
import pytest
from mmkd_audio.events import EVENTS
from mmkd_audio.scenes import Scenes

RATE = 16_000


def loudest(wave: np.ndarray, low: float, high: float) -> float:
    """The frequency of most energy in a band, in Hz."""
    power = np.abs(np.fft.rfft(wave * np.hanning(len(wave)))) ** 2
    frequencies = np.fft.rfftfreq(len(wave), 1 / RATE)
    power[(frequencies < low) | (frequencies > high)] = 0
    return float(frequencies[power.argmax()])


def rendered(name: str, kind: str, seed: int) -> np.ndarray:
    event = next(event for event in EVENTS if event.names[0] == name)
    return event.render(np.random.default_rng(seed), event.kinds.index(kind), RATE)


def test_a_scene_is_the_same_at_every_time() -> None:
    few, many = Scenes(5), Scenes(50)
    for i in range(5):
        assert few[i]["text"] == many[i]["text"] and few[i]["key"] == many[i]["key"] == f"0/train/{i}"
        assert np.array_equal(few[i]["audio"]["array"], many[i]["audio"]["array"])
        assert not np.array_equal(few[i]["audio"]["array"], Scenes(5, seed=1)[i]["audio"]["array"])
    with pytest.raises(IndexError):
        few[5]


def test_sounds_are_short_and_neither_silent_nor_clipped() -> None:
    data = Scenes(100, split="all")
    for i in range(100):
        wave = data[i]["audio"]["array"]
        assert wave.dtype == np.float32 and 0.2 < len(wave) / RATE < 2.2 and data[i]["audio"]["sampling_rate"] == RATE
        assert 0.199 < np.abs(wave).max() < 0.801


def test_a_caption_and_its_variation() -> None:
    """The sound, and what happens in it, is the same whatever words are drawn for it."""
    varied, plain = Scenes(300), Scenes(300, variation=0.0)
    rarer = {event.names[1] for event in EVENTS} | {"followed", "after"}
    for i in range(300):
        assert np.array_equal(varied[i]["audio"]["array"], plain[i]["audio"]["array"])
        assert not rarer & set(plain[i]["text"].split())
        assert sorted(usual(varied[i]["text"])) == sorted(usual(plain[i]["text"]))
    differ = sum(varied[i]["text"] != plain[i]["text"] for i in range(300)) / 300
    assert 0.4 < differ < 0.8
    assert any(" after " in varied[i]["text"] for i in range(300))


def usual(caption: str) -> list[str]:
    """The words for events in their usual form, without those that order them."""
    names = {event.names[1]: event.names[0] for event in EVENTS}
    return [names.get(word, word) for word in caption.split() if word not in ("then", "followed", "by", "after")]


def test_after_turns_the_order_around() -> None:
    varied, plain = Scenes(300), Scenes(300, variation=0.0)
    turned = [i for i in range(300) if " after " in varied[i]["text"]]
    for i in turned:
        second, first = varied[i]["text"].partition(" over ")[0].split(" after ")
        assert usual(f"{first} then {second}") == usual(plain[i]["text"].partition(" over ")[0])


def test_what_is_held_out_is_heard_nowhere_else() -> None:
    told = {
        split: {data[i]["text"] for i in range(400)}
        for split in ("train", "held_out", "all")
        for data in [Scenes(400, split=split, variation=0.0)]  # type: ignore[arg-type]
    }
    assert not told["train"] & told["held_out"]
    assert told["all"] & told["train"] and told["all"] & told["held_out"]
    words = {split: {word for text in texts for word in text.split()} for split, texts in told.items()}
    assert words["held_out"] <= words["train"]


def test_sounds_alone_are_the_same_sounds() -> None:
    alone, captioned = Scenes(5, captioned=False), Scenes(5)
    assert set(alone[2]) == {"key", "audio"} and alone[2]["key"] == captioned[2]["key"]
    assert np.array_equal(alone[2]["audio"]["array"], captioned[2]["audio"]["array"])


@pytest.mark.parametrize("seed", range(5))
def test_a_kind_is_what_its_word_says(seed: int) -> None:
    for name, low, high, border in (("beep", 300, 4000, 1000), ("hum", 40, 400, 140)):
        assert (
            loudest(rendered(name, "low", seed), low, high) < border < loudest(rendered(name, "high", seed), low, high)
        )
    for kind, sign in (("rising", 1), ("falling", -1)):
        wave = rendered("whistle", kind, seed)
        third = len(wave) // 3
        assert sign * (loudest(wave[-third:], 300, 4000) - loudest(wave[:third], 300, 4000)) > 100
    assert len(rendered("hiss", "short", seed)) < 0.2 * RATE < 0.4 * RATE <= len(rendered("hiss", "long", seed))
    clicks = {kind: np.count_nonzero(rendered("clicks", kind, seed) == 1) for kind in ("slow", "fast")}
    assert clicks["fast"] >= 2 * clicks["slow"]
    assert len(rendered("knock", "double", seed)) == 2 * len(rendered("knock", "single", seed))
