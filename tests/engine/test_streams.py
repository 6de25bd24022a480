"""Streams and views: what each step draws beside the training set, and that a killed run goes on bit for bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from engine.test_data import Jitter
from engine.test_resume import Killed, final, kill_at
from engine.toys import Noise, networks, recipe

import mmkd
from mmkd import plugins
from mmkd.datasets import streams
from mmkd.engine.data import batches
from mmkd.engine.stream import Stream
from mmkd.errors import DataError, GraphError, RecipeError

CONSISTENCY = {"use": "core.mse", "student": "student@unlabeled.logits", "teacher": "teacher@unlabeled.logits"}


class Pairs(mmkd.Curator):
    """Half of the sample and half of a partner; notes what it was given."""

    fields = frozenset({"image"})
    partners: ClassVar[int] = 1

    def apply(self, sample: mmkd.Sample, draw: Any, partners: list[mmkd.Sample]) -> dict[str, Any]:
        (partner,) = partners
        image = (sample["image"] + partner["image"]) / 2
        return {**sample, "image": image.astype(np.float32), "own": sample["image"], "partner": draw["partner"]}


class Shards(Noise):
    """Reads two halves one after the other, each shuffled; every tenth sample of the first is broken."""

    broken: ClassVar[range] = range(0, 40, 10)

    def __getitem__(self, index: int) -> mmkd.Sample:
        if index in self.broken:
            raise OSError("truncated")
        return super().__getitem__(index)

    def order(self, generator: np.random.Generator) -> np.ndarray:
        half = len(self) // 2
        return np.concatenate([generator.permutation(half), half + generator.permutation(len(self) - half)])


class Plain:
    """A dataset of another convention: no class of ours, a tuple per sample."""

    def __init__(self, size: int = 10) -> None:
        self.rows = Noise(size, seed=5)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.rows[index]["image"], self.rows[index]["label"]


@pytest.fixture(autouse=True)
def _curators(monkeypatch: pytest.MonkeyPatch) -> None:
    """`core.jitter` and `core.pairs`, as a plugin would register them."""
    get = plugins.host().catalogue.get

    def found(kind: str, id: str, **where: Any) -> Any:
        own = {"core.jitter": Jitter, "core.pairs": Pairs}
        return type("Entry", (), {"load": lambda self: own[id]})() if id in own else get(kind, id, **where)

    monkeypatch.setattr(type(plugins.host().catalogue), "get", lambda self, *given, **where: found(*given, **where))


def with_stream(data: dict[str, Any] | None = None, **train: Any) -> dict[str, Any]:
    """The toy recipe with a consistency loss on an unlabelled stream of 10 samples, 12 a step."""
    made = recipe(**train)
    made["losses"] = {**made["losses"], "consistency": CONSISTENCY}
    stream = {"batch_size": 12, "fields": {"image": 0, "label": 1}}
    made["data"] = {**made["data"], "streams": {"unlabeled": stream}, **(data or {})}
    return made


def given() -> dict[str, Any]:
    return {"train": Noise(), "eval": Noise(40, seed=1), "streams": {"unlabeled": Plain()}}


def loaded(document: dict[str, Any], data: dict[str, Any], start: int, stop: int, workers: int = 0) -> list[Any]:
    graph = mmkd.build(document, nodes=networks(), data=data)
    made = streams(mmkd.load_recipe(document), graph.plan, data)
    return list(batches(made, graph.collator(), start, stop, workers=workers))


def same(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


def test_a_batch_carries_the_stream_for_the_networks_that_read_it() -> None:
    (batch,) = loaded(with_stream(), given(), 0, 1)
    assert len(batch["image"]) == 16
    assert len(batch["@unlabeled"]["image"]) == 12
    assert batch["@unlabeled"].keys() == {"key", "image", "label"}
    graph = mmkd.build(with_stream(), nodes=networks(), data=given())
    values = graph.values(batch, ["student@unlabeled.logits", "batch@unlabeled.label", "teacher@unlabeled.logits"])
    assert values["student@unlabeled.logits"].shape == (12, 4)
    expected = networks()["teacher"](batch["@unlabeled"]["image"])
    torch.testing.assert_close(values["teacher@unlabeled.logits"], expected)
    assert torch.equal(values["batch@unlabeled.label"], batch["@unlabeled"]["label"])


def test_networks_with_a_transform_get_fields_of_their_own() -> None:
    teacher = mmkd.wrap(networks()["teacher"], transform=lambda s: torch.as_tensor(s["image"]) * 2)
    graph = mmkd.build(with_stream(), nodes={**networks(), "teacher": teacher}, data=given())
    rows = [Noise()[i] for i in range(4)]
    batch = graph.collate(rows[:2], streams={"unlabeled": rows[2:]})
    assert torch.equal(batch["teacher@unlabeled"]["image"], 2 * batch["@unlabeled"]["image"])
    assert batch["teacher"]["image"].shape == (2, 12)
    assert torch.isfinite(graph(batch)["consistency_loss"])
    with pytest.raises(GraphError, match=r"(?s)no view '(teacher|student)@unlabeled'.*streams=\{'unlabeled'"):
        graph(graph.collate(rows))


def test_a_short_stream_wraps_around_and_visits_each_sample_once_an_epoch() -> None:
    stream = Stream("unlabeled", Noise(10), 12, seed=3)
    places = [place for step in range(5) for place in stream.places(step)]
    assert [epoch for epoch, _ in places] == [i // 10 for i in range(60)]
    epochs = [[index for _, index in places[k : k + 10]] for k in range(0, 60, 10)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1
    other = Stream("replay", Noise(10), 10, seed=3)
    assert [i for _, i in other.places(0)] != epochs[0]


def test_a_stream_that_nobody_reads_is_not_loaded() -> None:
    class Untouchable(Noise):
        def __getitem__(self, index: int) -> mmkd.Sample:
            raise AssertionError("read")

    document = with_stream()
    del document["losses"]["consistency"]
    (batch,) = loaded(document, {**given(), "streams": {"unlabeled": Untouchable()}}, 0, 1)
    assert not [key for key in batch if "@" in key]


def test_views_are_the_same_samples_under_their_own_curators() -> None:
    document = recipe()
    document["losses"] = {
        "fit": {"use": "core.mse", "student": "student@weak.logits", "teacher": "detach(student@strong.logits)"},
        "hard": {"use": "core.cross_entropy", "student": "student@far.logits", "label": "batch@far.label"},
    }
    document["projectors"] = {}
    document["data"] |= {
        "views": {"weak": [], "strong": [{"use": "core.jitter"}], "unread": [{"use": "core.pairs"}]},
        "streams": {"unlabeled": {"batch_size": 4, "views": {"far": [{"use": "core.jitter"}]}}},
    }
    data = {"train": Noise(), "streams": {"unlabeled": Noise(20, seed=2)}}
    (batch,) = loaded(document, data, 0, 1)
    assert {key for key in batch if key.startswith("@")} == {"@weak", "@strong", "@far"}
    assert batch["key"] == batch["@weak"]["key"] == batch["@strong"]["key"]
    assert torch.equal(batch["@weak"]["image"], batch["image"])
    shift = batch["@strong"]["image"] - batch["image"]
    assert shift.std(1).max() < 1e-5 and shift[:, 0].std() > 0.1
    assert len(batch["@far"]["key"]) == 4
    raw = torch.stack([torch.from_numpy(Noise(20, seed=2)[int(key[6:])]["image"]) for key in batch["@far"]["key"]])
    shift = batch["@far"]["image"] - raw
    assert shift.std(1).max() < 1e-5 and shift[:, 0].std() > 0.1


def test_two_views_of_one_curator_draw_apart_and_a_stream_draws_by_the_rule_of_the_training_set() -> None:
    stream = Stream("", Noise(), 4, [Jitter()], {"again": [Jitter()]}, seed=1)
    views = stream.fetch((0, 5), lambda views: views)
    assert not np.array_equal(views[""]["image"], views["again"]["image"])
    other = Stream("replay", Noise(), 4, [Jitter()], seed=1).fetch((0, 5), lambda views: views)
    np.testing.assert_array_equal(other["replay"]["image"], views[""]["image"])


def test_a_partner_is_another_sample_changed_by_the_curators_before() -> None:
    stream = Stream("", Noise(), 4, [Jitter(), Pairs()], seed=1)
    jittered = Stream("", Noise(), 4, [Jitter()], seed=1)
    for index in range(20):
        made = stream.fetch((2, index), lambda views: views[""])
        assert made["partner"] != made["key"] == f"noise/{index}"
        partner = jittered.fetch((2, int(made["partner"].split("/")[1])), lambda views: views[""])
        np.testing.assert_allclose(made["image"], (made["own"] + partner["image"]) / 2, rtol=1e-5)
        again = stream.fetch((2, index), lambda views: views[""])
        np.testing.assert_array_equal(again["image"], made["image"])
    chosen = [[stream.fetch((e, i), lambda views: views[""]["partner"]) for i in range(20)] for e in range(2)]
    assert chosen[0] != chosen[1]


def test_several_partners_are_named_in_a_list() -> None:
    class Three(Pairs):
        partners: ClassVar[int] = 2

        def apply(self, sample: mmkd.Sample, draw: Any, partners: list[mmkd.Sample]) -> dict[str, Any]:
            assert draw["partner"] == [partner["key"] for partner in partners] and len(partners) == 2
            return dict(sample)

    Stream("", Noise(), 4, [Three()]).fetch((0, 0), lambda views: views)


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_order_streams_partners_and_replacements_resume_bit_for_bit(
    workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {
        "curators": [{"use": "core.jitter"}, {"use": "core.pairs"}],
        "on_bad_sample": "skip", "max_bad_samples": 0.2, "workers": workers,
    }  # fmt: skip
    train = {"gradient_accumulation_steps": 2, "steps": 14, "checkpoint_every": 5}

    def run(folder: Path, resume: bool = False, **more: Any) -> dict[str, Any]:
        document = with_stream({**changes, **more}, **train)
        data = {**given(), "train": Shards()}
        return mmkd.distill(document, output_dir=folder, nodes=networks(), data=data, resume=resume)

    with monkeypatch.context() as patch:
        kill_at(8, patch)
        with pytest.raises(Killed):
            run(tmp_path / "cut")
    run(tmp_path / "cut", resume=True)
    run(tmp_path / "whole", workers=0)
    whole, cut = final(tmp_path / "whole"), final(tmp_path / "cut")
    assert whole.keys() == cut.keys()
    assert [key for key in whole if not torch.equal(whole[key], cut[key])] == []
    listed = [(tmp_path / name / "bad_samples.jsonl").read_text().splitlines() for name in ("whole", "cut")]
    assert sorted(listed[0]) == sorted(listed[1])
    assert {json.loads(line)["index"] for line in listed[0]} == set(Shards.broken)


def test_the_order_of_a_dataset_is_followed_and_checked() -> None:
    halves = [index for step in range(4) for _, index in Stream("", Shards(), 24, seed=2).places(step)]
    assert sorted(halves[:48]) == list(range(48)) and halves[:48] != list(range(48))

    class Wrong(Noise):
        made: Any = None

        def order(self, generator: np.random.Generator) -> Any:
            return self.made

    for made in (np.arange(95), np.zeros(96, int), np.arange(96.0), np.arange(1, 97)):
        Wrong.made = made
        with pytest.raises(DataError, match=r"data\.train: Wrong\.order\(\) must give each index from 0 to 95"):
            Stream("", Wrong(), 8).places(0)


def error_of(document: dict[str, Any], data: dict[str, Any]) -> str:
    with pytest.raises(mmkd.MmkdError) as caught:
        loaded(document, data, 0, 1)
    return str(caught.value)


def test_what_is_wrong_with_a_stream_is_named() -> None:
    document = with_stream()
    document["losses"]["consistency"] = {**CONSISTENCY, "student": "student@unlabelled.logits"}
    said = error_of(document, given())
    assert "losses.consistency.student: 'student@unlabelled.logits' is read on a stream or view" in said
    assert "did you mean 'unlabeled'" in said and "data.streams: {unlabelled:" in said

    said = error_of(with_stream(), {"train": Noise()})
    assert said.startswith("data.streams.unlabeled.dataset: no dataset")
    assert "data={'streams': {'unlabeled': ...}}" in said

    assert "data['strems']: is no part of the data; did you mean 'streams'" in error_of(
        with_stream(), {"train": Noise(), "strems": {}}
    )
    loader = torch.utils.data.DataLoader(Noise(), batch_size=2)  # type: ignore[arg-type]
    said = error_of(with_stream(), {**given(), "streams": {"unlabeled": loader}})
    assert "data.streams.unlabeled.dataset: a DataLoader cannot be read by index" in said and "its `.dataset`" in said
    assert "data.streams.unlabeled: the dataset is empty" in error_of(
        with_stream(), {**given(), "streams": {"unlabeled": Plain(0)}}
    )
    twice = with_stream({"views": {"unlabeled": []}})
    assert "data: two streams or views are called 'unlabeled'" in error_of(twice, given())


def test_accumulation_must_divide_every_stream(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"does not divide data\.streams\.unlabeled\.batch_size=12"):
        mmkd.distill(
            with_stream(gradient_accumulation_steps=8), output_dir=tmp_path / "r", nodes=networks(), data=given()
        )


def test_workers_and_start_change_no_batch() -> None:
    document = with_stream({"curators": [{"use": "core.jitter"}]})
    whole = loaded(document, given(), 0, 9)
    assert all(same(a, b) for a, b in zip(whole[4:], loaded(document, given(), 4, 9, workers=2), strict=True))
