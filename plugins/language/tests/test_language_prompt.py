"""What a prompt is known by."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from language_models import model
from mmkd_language.prompt import prompt_of
from PIL import Image

import mmkd
from mmkd.errors import DataError


class Reads(mmkd.Encoder):
    """Reads some fields of a sample."""

    def __init__(self, *fields: str) -> None:
        super().__init__()
        self.own = fields

    def transform(self, sample: mmkd.Sample) -> dict[str, Any]:
        return {name: sample[name] for name in self.own}


def name(value: Any, **others: Any) -> str:
    return prompt_of(Reads("thing"), {"key": "a", "thing": value, **others}).name


def test_a_text_is_its_own_name() -> None:
    sample = {"key": "a", "text": "a cat", "target": "eine Katze", "audio": "unread"}
    kind, told, row = prompt_of(model(), sample)
    assert (kind, told) == ("text", "a cat")
    assert torch.equal(row["input_ids"], model().transform({"text": "a cat", "target": ""})["input_ids"])


def test_what_is_read_is_the_name_and_nothing_else() -> None:
    wave = np.arange(4.0)
    sound = {"array": wave, "sampling_rate": 8}
    first = name(sound, text="a dog", target="barks")
    assert first.startswith("sha256:") and len(first) == 71
    assert first == name({"sampling_rate": 8, "array": wave.copy()}, text="a cat")
    others = [
        {"array": wave, "sampling_rate": 9}, {"array": wave + 1, "sampling_rate": 8}, {"array": wave},
        {"array": wave.astype(np.float32), "sampling_rate": 8}, {"array": wave.reshape(2, 2), "sampling_rate": 8},
    ]  # fmt: skip
    assert len({first, *map(name, others)}) == 6


@pytest.mark.parametrize(
    ("one", "same", "other"),
    [
        (torch.arange(3), np.arange(3), np.arange(4)),
        (Image.new("RGB", (2, 3), "red"), Image.new("RGB", (2, 3), "red"), Image.new("RGB", (3, 2), "red")),
        ([1, "a", None], (1, "a", None), [1, "a"]),
        (b"x", b"x", "x"),
    ],
    ids=["tensor", "picture", "list", "bytes"],
)
def test_values_of_any_kind(one: Any, same: Any, other: Any) -> None:
    assert name(one) == name(same) != name(other)


def test_a_value_that_cannot_be_told_from_another() -> None:
    with pytest.raises(DataError, match=r"thing\.inner: is object"):
        name({"inner": object()})


def test_a_sample_that_lacks_what_is_read_is_named() -> None:
    with pytest.raises(DataError, match="sample 'a': has no field 'text', which a CausalLM reads"):
        prompt_of(model(), {"key": "a", "audio": 1})
    with pytest.raises(DataError, match="sample 'a': text is int, not a string"):
        prompt_of(model(), {"key": "a", "text": 1})


def test_text_beside_something_else_counts() -> None:
    both = Reads("text", "thing")
    names = {prompt_of(both, {"text": text, "thing": 1}).name for text in ("a", "b")}
    assert len(names) == 2 and all(told.startswith("sha256:") for told in names)
