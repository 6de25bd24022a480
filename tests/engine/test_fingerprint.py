"""Each part of a cache's key, changed alone, makes it another, and is named."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from engine.test_remember import document, home
from engine.test_streams import _curators
from engine.toys import Noise, data, networks
from torch import nn

import mmkd
from mmkd import plugins
from mmkd.datasets import streams
from mmkd.engine.cache import Column, Key
from mmkd.engine.cacheable import cacheable
from mmkd.engine.content import checksum
from mmkd.engine.filling import Filling
from mmkd.engine.fingerprint import key_of, told
from mmkd.engine.manifest import Manifest
from mmkd.errors import DataError
from mmkd.recipe import load_recipe

__all__ = ["_curators", "home"]


class Scaled(mmkd.Encoder):
    """The toy teacher behind a transform with a setting."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale, self.net = scale, networks()["teacher"]

    @property
    def network(self) -> nn.Module:
        return self.net

    def values(self) -> list[str]:
        return ["logits"]

    def transform(self, sample: mmkd.Sample) -> dict[str, Any]:
        return {"image": torch.as_tensor(sample["image"]) * self.scale}

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"logits": self.net(image)}


class Renamed(Noise):
    def __getitem__(self, index: int) -> mmkd.Sample:
        return {**super().__getitem__(index), "key": f"other/{index}"}


class Edited(Noise):
    """One number of one sample is another."""

    def __init__(self) -> None:
        super().__init__()
        self.x[95, 3] += 1


def base() -> dict[str, Any]:
    return document("disk", curators="augmented", replicas=2)


def key(
    made: dict[str, Any] | None = None, teacher: nn.Module | None = None, dataset: Any = None, stored: Any = "same"
) -> Key:
    loaded, given = load_recipe(made or base()), {"train": dataset or Noise()}
    graph = mmkd.build(loaded, nodes={**networks(), "teacher": teacher or Scaled()}, data=given)
    (kept,) = cacheable(graph, "teacher", streams(loaded, graph.plan, given), fixed=False)
    values = Filling(graph, kept).first().values
    columns = {name: Column.of(value, stored) for name, value in values.items()}
    return key_of(loaded, graph, kept, columns, Manifest.of(kept.stream.dataset))


def weights() -> Key:
    teacher = Scaled()
    with torch.no_grad():
        teacher.net[2].bias[0] += 1e-6  # type: ignore[index]
    return key(teacher=teacher)


def structure() -> Key:
    teacher = Scaled()
    teacher.net[1] = nn.GELU()  # type: ignore[index, operator]
    return key(teacher=teacher)


def of(change: Callable[[dict[str, Any]], object]) -> Callable[[], Key]:
    def made() -> Key:
        changed = copy.deepcopy(base())
        change(changed)
        return key(changed)

    return made


def version() -> Key:
    host = plugins.host()
    before = host.plugins
    host.plugins = [replace(one, version="999") if one.id == "core" else one for one in before]
    try:
        return key()
    finally:
        host.plugins = before


CHANGES: dict[str, tuple[str, Callable[[], Key]]] = {
    "weights": ("weights", weights),
    "activation": ("network", structure),
    "transform": ("transform", lambda: key(teacher=Scaled(2.0))),
    "taps": ("values", of(lambda r: r["losses"]["hint"].update(teacher="teacher/1"))),
    "stored": ("dtype", lambda: key(stored="fp16")),
    "precision": ("dtype", of(lambda r: r["teacher"].update(precision="bf16"))),
    "autocast": ("dtype", of(lambda r: r["train"].update(precision="bf16"))),
    "seed": ("draws", of(lambda r: r["train"].update(seed=1))),
    "replicas": ("draws", of(lambda r: r["data"].update(replicas=3))),
    "curators": ("draws", of(lambda r: r["data"].update(curators=[{"use": "core.jitter"}] * 2))),
    "keys": ("dataset", lambda: key(dataset=Renamed())),
    "content": ("dataset", lambda: key(dataset=Edited())),
    "size": ("dataset", lambda: key(dataset=Noise(95))),
    "plugin": ("plugins", version),
}


def test_the_same_thing_has_the_same_key() -> None:
    assert key() == key()


@pytest.mark.parametrize("change", CHANGES)
def test_each_part_is_named(change: str) -> None:
    field, made = CHANGES[change]
    assert told(key().differs(made())) == [field]


@pytest.mark.parametrize(
    "change", [lambda r: r["train"].update(lr=0.5), lambda r: r["losses"]["kd"].update(weight=2.0)]
)
def test_what_the_outputs_do_not_depend_on_is_not_in_it(change: Any) -> None:
    assert key() == of(change)()


def test_draws_count_where_they_change_what_is_read() -> None:
    plain, other = document("disk"), document("disk", seed=5)
    assert key(plain) == key(other)
    assert key(plain).fields["draws"] is None


def test_a_path_among_the_options_is_in_no_key(tmp_path: Any) -> None:
    from mmkd.engine.fingerprint import _portable

    (tmp_path / "weights").touch()
    written = _portable({"pretrained": str(tmp_path / "weights"), "layers": 3, "of": ["local-dir:x", "hf-hub:a/b"]})
    assert written == {"pretrained": "(a file or folder)", "layers": 3, "of": ["(a file or folder)", "hf-hub:a/b"]}


def test_a_word_stays_in_the_key_beside_a_file_of_its_name(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from mmkd.engine.fingerprint import _portable

    (tmp_path / "mean").touch()
    monkeypatch.chdir(tmp_path)
    assert _portable({"pooling": "mean"}) == {"pooling": "mean"}


# -- manifests and checksums ------------------------------------------------------------------------------------


def test_a_dataset_speaks_for_itself_where_it_can() -> None:
    class Named(Noise):
        def manifest(self) -> list[tuple[str, Any]]:
            return [(f"noise/{i}", i) for i in range(len(self))]

        def __getitem__(self, index: int) -> mmkd.Sample:
            raise AssertionError("read")

    made = Manifest.of(Named())
    assert list(made.keys)[:2] == ["noise/0", "noise/1"]
    assert made != Manifest.of(Noise())


def test_a_manifest_that_does_not_fit_is_an_error() -> None:
    class Short(Noise):
        def manifest(self) -> list[tuple[str, Any]]:
            return [("a", 0)]

    with pytest.raises(DataError, match=r"data\.train: manifest\(\) of Short names 1 samples of 96"):
        Manifest.of(Short())


def test_content_without_content_is_an_error_that_names_the_sample() -> None:
    class Odd(Noise):
        def __getitem__(self, index: int) -> mmkd.Sample:
            return {**super().__getitem__(index), "open": object()}

    with pytest.raises(DataError, match=r"sample 'noise/0' of Odd: a object has no content.*\n.*manifest\(\)"):
        Manifest.of(Odd())


def test_checksums_tell_values_apart() -> None:
    import numpy as np
    from PIL import Image

    picture = Image.new("RGB", (3, 2))
    values = [
        None, True, 1, 1.0, "1", b"1", [1], ["1"], [], {}, {"a": 1}, {"a": [1]}, {"b": 1}, [[1], []], [[], [1]],
        torch.tensor(1), torch.tensor([1]), torch.tensor([1.0]), torch.ones(1, 1), torch.empty(0), torch.empty(0, 2),
        torch.ones(1).bfloat16(), np.ones(2), np.ones(2, np.float32), np.array(["a"], object), picture,
        picture.resize((2, 3)), picture.convert("RGBA"),
    ]  # fmt: skip
    sums = [checksum(value) for value in values]
    assert len(set(sums)) == len(values)
    assert sums == [checksum(copy.deepcopy(value)) for value in values]
    assert checksum(torch.arange(6).view(2, 3).T) == checksum(torch.arange(6).view(2, 3).T.contiguous())
    assert checksum(np.arange(4)) == checksum(torch.arange(4))
    assert checksum(data()["train"][0]) == checksum(Noise()[0])
