"""A cached teacher gives what the live one gives, under the same draws; what cannot be cached is refused."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from engine.test_streams import Shards, _curators
from engine.toys import Noise, data, networks, recipe
from torch import Tensor, nn

import mmkd
from mmkd.datasets import streams
from mmkd.engine.data import Batches
from mmkd.engine.remember import Kept, remember
from mmkd.errors import CacheError, GraphError, RecipeError
from mmkd.graph.training_graph import TrainingGraph
from mmkd.recipe import load_recipe

__all__ = ["_curators"]

STORES: list[Any] = ["memory", "disk"]
CURATORS: dict[str, list[dict[str, Any]]] = {
    "none": [], "augmented": [{"use": "core.jitter"}], "mixed": [{"use": "core.jitter"}, {"use": "core.pairs"}],
}  # fmt: skip


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Caches of the tests lie apart."""
    monkeypatch.setenv("MMKD_CACHE", str(tmp_path / "caches"))
    return tmp_path / "caches"


class Counting(nn.Module):
    """The toy teacher, which counts the samples that it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.seen = networks()["teacher"], 0

    def forward(self, x: Tensor) -> Any:
        self.seen += len(x)
        return self.net(x)


def document(cache: Any = None, *, curators: str = "none", replicas: int | None = None, **train: Any) -> dict[str, Any]:
    """The toy recipe with a teacher that is cached."""
    made = {**recipe(**train), "teacher": {"cache": cache} if cache else {}}
    made["data"] = {"batch_size": 16, "curators": CURATORS[curators]} | ({"replicas": replicas} if replicas else {})
    return made


def remembered(
    made: dict[str, Any], nodes: dict[str, nn.Module] | None = None, given: dict[str, Any] | None = None
) -> tuple[TrainingGraph, list[Kept], Any]:
    """A graph whose teacher's outputs are kept, and what its steps draw from."""
    loaded, given = load_recipe(made), given or data()
    graph = mmkd.build(loaded, nodes=nodes or networks(), data=given)
    drawn = streams(loaded, graph.plan, given)
    return graph, remember(graph, loaded, drawn), drawn


def final(made: dict[str, Any], folder: Path, given: dict[str, Any] | None = None) -> dict[str, Tensor]:
    """The student's weights after a run."""
    mmkd.distill(made, output_dir=folder, nodes=networks(), data=given or data(), preflight=False)
    return mmkd.from_pretrained(folder, nodes=networks()).state_dict()


def assert_close(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for key in one:
        torch.testing.assert_close(one[key], other[key], rtol=1e-5, atol=1e-6)


# -- the same as live -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("curators", CURATORS)
@pytest.mark.parametrize("store", STORES)
def test_a_cached_run_equals_the_live_one_of_as_many_replicas(store: str, curators: str, tmp_path: Path) -> None:
    live, cached = (
        final(document(c, curators=curators, replicas=2, steps=24), tmp_path / str(c)) for c in (None, store)
    )
    assert_close(live, cached)
    again = final(document(store, curators=curators, replicas=2, steps=24), tmp_path / "again")
    assert_close(live, again)


@pytest.mark.parametrize("curators", CURATORS)
@pytest.mark.parametrize("store", STORES)
def test_rows_are_bit_equal_to_the_live_values_of_the_same_batch(store: str, curators: str) -> None:
    graph, _, (stream,) = remembered(document(store, curators=curators, replicas=3))
    for replica in range(3):
        places = {"": [(replica + 3, index) for index in range(16)]}  # epochs 3 to 5, the second round
        live = graph.compute(Batches([stream], graph.collator()).batch(places))
        held = Batches([stream], graph.collator(remembered=True)).batch(places)
        assert held["teacher"].keys() == {"row"}
        cached = graph.compute(held)
        for key in ("teacher.logits", "teacher/0"):
            assert torch.equal(live[key], cached[key])


def test_without_replicas_every_epoch_draws_anew(tmp_path: Path) -> None:
    one, two = (document(curators="augmented", replicas=r, steps=24) for r in (None, 1))
    first, second = final(one, tmp_path / "anew"), final(two, tmp_path / "same")
    assert any(not torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("workers", [0, 2])
def test_workers_change_nothing(store: str, workers: int) -> None:
    made = document({"store": store}, curators="augmented", replicas=2)
    made["data"]["workers"] = workers
    graph, _, _ = remembered(made)
    table = graph.roles["teacher"].tables[""]
    rows = [table.row(f"noise/{i}", replica) for replica in range(2) for i in range(96)]
    values = table.read(rows)
    plain, _, _ = remembered(document("memory", curators="augmented", replicas=2))
    other = plain.roles["teacher"].tables[""].read(range(192))
    assert all(torch.equal(values[name], other[name]) for name in other)


@pytest.mark.parametrize("store", STORES)
def test_bad_samples_are_left_out_and_replaced_as_live(store: str, tmp_path: Path) -> None:
    def made(cache: Any) -> dict[str, Any]:
        one = document(cache, curators="mixed", replicas=2, steps=16)
        one["data"] |= {"on_bad_sample": "skip", "max_bad_samples": 0.2}
        return one

    given = {"train": Shards()}
    assert_close(final(made(None), tmp_path / "live", given), final(made(store), tmp_path / "kept", given))
    graph, _, _ = remembered(made(store), given=given)
    with pytest.raises(GraphError, match=r"is not among|could not be read"):
        graph.roles["teacher"].tables[""].row("noise/10")


@pytest.mark.parametrize("store", STORES)
def test_streams_and_views_are_cached_too(store: str, tmp_path: Path) -> None:
    def made(cache: Any) -> dict[str, Any]:
        one = document(cache, curators="augmented", replicas=2, steps=10)
        pairs = {"student": "student@{}.logits", "teacher": "teacher@{}.logits"}
        for view in ("free", "weak"):
            one["losses"][view] = {"use": "core.mse", **{port: text.format(view) for port, text in pairs.items()}}
        one["data"] |= {"streams": {"free": {"curators": []}}, "views": {"weak": [{"use": "core.jitter"}]}}
        return one

    given = {**data(), "streams": {"free": Noise(20, seed=3)}}
    assert_close(final(made(None), tmp_path / "live", given), final(made(store), tmp_path / "kept", given))
    graph, kept, _ = remembered(made(store), given=given)
    assert graph.roles["teacher"].tables.keys() == {"", "free", "weak"}
    assert {one.name: one.rows for one in kept} == {"teacher": 192, "teacher@free": 20, "teacher@weak": 192}


# -- what is kept -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("curators", "rows"), [("none", 96), ("augmented", 192)])
@pytest.mark.parametrize("store", STORES)
def test_the_teacher_runs_once_for_each_sample_and_replica(store: str, curators: str, rows: int) -> None:
    teacher = Counting()
    made = document(store, curators=curators, replicas=2)
    made["losses"].pop("hint")
    made.pop("projectors")
    loaded = load_recipe(made)
    graph = mmkd.build(loaded, nodes={**networks(), "teacher": teacher}, data=data())
    before = teacher.seen
    (kept,) = remember(graph, loaded, streams(loaded, graph.plan, data()))
    assert teacher.seen - before == rows == kept.rows == kept.written
    held = Batches(streams(loaded, graph.plan, data()), graph.collator(remembered=True)).batch({"": [(0, 1), (1, 2)]})
    before = teacher.seen
    graph(held)
    assert teacher.seen == before


def test_a_second_run_finds_what_the_first_has_left() -> None:
    _, (first,), _ = remembered(document("disk"))
    _, (second,), _ = remembered(document("disk"))
    assert (first.written, second.written) == (96, 0)
    assert first.place == second.place and "all of them found there" in second.describe()


def test_a_moved_store_with_new_times_is_found(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    remembered(document("disk"))
    home.rename(home.with_name("moved"))
    for path in home.with_name("moved").rglob("*"):
        os.utime(path, (1, 1))
    monkeypatch.setenv("MMKD_CACHE", str(home.with_name("moved")))
    assert remembered(document("disk"))[1][0].written == 0


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("fp32", 0.0), ("fp16", 1e-3), ("bf16", 1e-2), ("int8", 1e-2)]
)  # fmt: skip
@pytest.mark.parametrize("store", STORES)
def test_numbers_are_kept_as_asked(store: str, dtype: str, tolerance: float) -> None:
    tables = [
        remembered(document(c))[0].roles["teacher"].tables[""] for c in ("memory", {"store": store, "dtype": dtype})
    ]
    plain, kept = (table.read(range(96)) for table in tables)
    for name, value in plain.items():
        assert kept[name].dtype is torch.float32
        assert (kept[name] - value).norm() <= tolerance * value.norm()


@pytest.mark.parametrize("store", STORES)
def test_the_greatest_logits_are_kept_with_the_mass_of_the_others(store: str) -> None:
    graph, _, _ = remembered(document({"store": store, "top_k": 2}))
    plain, _, _ = remembered(document("memory"))
    rows = range(96)
    kept, value = (made.roles["teacher"].tables[""].read(rows) for made in (graph, plain))
    best = value[".logits"].topk(2).indices
    wanted = value[".logits"].softmax(-1)
    assert torch.equal(kept[".logits"].topk(2).indices.sort(-1).values, best.sort(-1).values)
    torch.testing.assert_close(kept[".logits"].exp().gather(-1, best), wanted.gather(-1, best), rtol=2e-3, atol=1e-4)
    torch.testing.assert_close(kept[".logits"].exp().sum(-1), torch.ones(96), rtol=2e-3, atol=1e-3)
    assert torch.equal(kept["/0"], value["/0"])


def test_top_k_without_logits_is_refused() -> None:
    made = document({"top_k": 2})
    made["losses"].pop("kd")
    with pytest.raises(RecipeError, match=r"teacher\.cache\.top_k: keeps classes of logits, and no loss reads any"):
        remembered(made)


class Texts(mmkd.Encoder):
    """Tokens of different numbers, padded with what is not zero."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(30, 5)

    def values(self) -> list[str]:
        return ["tokens", "embedding", "mask"]

    def transform(self, sample: mmkd.Sample) -> dict[str, Any]:
        return {"ids": torch.tensor(sample["ids"])}

    def collate(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        ids = [row["ids"] for row in rows]
        lengths = torch.tensor([len(one) for one in ids])
        padded = nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=29)
        return {"ids": padded, "real": torch.arange(padded.shape[1]) < lengths[:, None]} if rows else {}

    def lengths(self, **inputs: Tensor) -> dict[str, Tensor]:
        return dict.fromkeys(["tokens", "mask"], inputs["real"].sum(1))

    def forward(self, ids: Tensor, real: Tensor) -> dict[str, Tensor]:
        tokens = self.embed(ids)
        return {"tokens": tokens, "mask": real, "embedding": (tokens * real[..., None]).sum(1)}


class Sentences(mmkd.Dataset):
    def __len__(self) -> int:
        return 24

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"key": str(index), "ids": [(7 * index + i) % 29 for i in range(1 + index % 6)]}


def sentences(cache: Any) -> dict[str, Any]:
    token = {"use": "core.mse", "student": "student.tokens", "teacher": "teacher.tokens", "mask": "teacher.mask"}
    whole = {"use": "core.mse", "student": "student.embedding", "teacher": "teacher.embedding"}
    return {
        "teacher": {"cache": cache} if cache else {}, "student": {}, "losses": {"token": token, "whole": whole},
        "data": {"batch_size": 4}, "train": {"steps": 12, "device": "cpu"},
    }  # fmt: skip


@pytest.mark.parametrize("cache", [*STORES, {"store": "memory", "dtype": "bf16"}, {"store": "disk", "dtype": "bf16"}])
def test_sequences_are_kept_without_their_padding(cache: Any, tmp_path: Path) -> None:
    def nodes() -> dict[str, nn.Module]:
        torch.manual_seed(0)
        return {"teacher": Texts(), "student": Texts()}

    graph, (kept,), (stream,) = remembered(sentences(cache), nodes(), {"train": Sentences()})
    places = {"": [(0, index) for index in (5, 0, 13, 2)]}
    live = graph.compute(Batches([stream], graph.collator()).batch(places))
    cached = graph.compute(Batches([stream], graph.collator(remembered=True)).batch(places))
    mask = live["teacher.mask"]
    assert torch.equal(cached["teacher.mask"], mask)
    tolerance = {"rtol": 1e-2, "atol": 1e-2} if isinstance(cache, dict) else {"rtol": 0.0, "atol": 0.0}
    torch.testing.assert_close(cached["teacher.tokens"][mask], live["teacher.tokens"][mask], **tolerance)
    assert not cached["teacher.tokens"][~mask].any()
    tokens = sum(1 + index % 6 for index in range(24))
    assert kept.bytes >= tokens * 5 * (2 if isinstance(cache, dict) else 4)
    losses = []
    for name in (None, cache):
        made = mmkd.distill(
            sentences(name), output_dir=tmp_path / str(len(losses)), nodes=nodes(), data={"train": Sentences()}
        )
        assert made["steps"] == 12
        losses.append((tmp_path / str(len(losses)) / "log.jsonl").read_text().splitlines()[-1])
    one, other = (json.loads(line)["loss"] for line in losses)
    assert one == pytest.approx(other, rel=1e-2 if isinstance(cache, dict) else 1e-5)


def test_sequences_of_which_no_lengths_are_told_are_refused() -> None:
    class Mute(Texts):
        def lengths(self, **inputs: Tensor) -> dict[str, Tensor]:
            return {}

    for cache in STORES:
        with pytest.raises(CacheError, match=r"teacher\.cache: \.(mask|tokens): values of shape"):
            remembered(sentences(cache), {"teacher": Mute(), "student": Texts()}, {"train": Sentences()})


# -- what is refused --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("store", STORES)
def test_draws_without_end_are_refused(store: str) -> None:
    with pytest.raises(
        RecipeError, match=r"teacher\.cache: curators change \['image'\].*anew in every epoch"
    ) as caught:
        remembered(document(store, curators="augmented"))
    assert "data.replicas=4" in str(caught.value) and "`fixed`" in str(caught.value)


def test_a_trained_network_is_refused() -> None:
    made = {**document(), "student": {"cache": "memory"}}
    with pytest.raises(RecipeError, match=r"student\.cache: only a constant node"):
        remembered(made)


@pytest.mark.parametrize("store", STORES)
def test_a_fixed_teacher_sees_samples_as_they_are(store: str) -> None:
    plain, _, _ = remembered(document("memory"))
    fixed, _, _ = remembered(document({"store": store, "fixed": True}, curators="augmented"))
    one, other = (made.roles["teacher"].tables[""].read(range(96)) for made in (plain, fixed))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_fixed_teacher_has_no_output_for_mixed_samples() -> None:
    with pytest.raises(RecipeError, match=r"teacher\.cache: curators mix \['image'\], which 'teacher' reads"):
        remembered(document("fixed", curators="mixed", replicas=2))


def test_two_samples_of_one_key_are_refused() -> None:
    class Same(Noise):
        def __getitem__(self, index: int) -> mmkd.Sample:
            return {**super().__getitem__(index), "key": "same"}

    for cache in STORES:
        with pytest.raises(mmkd.MmkdError, match="two samples have the key 'same'"):
            remembered(document(cache), given={"train": Same()})


def test_an_unknown_sample_is_an_error_not_a_guess() -> None:
    for cache in STORES:
        graph, _, _ = remembered(document(cache))
        with pytest.raises(GraphError, match="sample 'noise/1000' is not among the 96"):
            graph.roles["teacher"].tables[""].row("noise/1000")


def test_a_folder_of_another_cache_is_refused_by_the_field(tmp_path: Path) -> None:
    spec = {"store": "disk", "folder": str(tmp_path / "mine")}
    assert remembered(document(spec))[1][0].place == str(tmp_path / "mine")
    assert remembered(document(spec))[1][0].written == 0
    other = networks()
    other["teacher"][0].bias.data += 1  # type: ignore[index, union-attr, operator]
    with pytest.raises(CacheError, match=r"teacher\.cache: .*holds another cache: weights differs"):
        remembered(document(spec), other)


def test_a_run_tells_what_was_kept_and_what_it_saved(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    results = mmkd.distill(document("disk", steps=24), output_dir=tmp_path / "run", nodes=networks(), data=data())
    said = " ".join(capfd.readouterr().err.split())
    assert f"cache: teacher: 96 outputs in {tmp_path / 'caches'}" in said.replace(" /", "/").replace("in/", "in /")
    assert "teacher ran on 96 samples in place of 384: the cache" in said
    told = results["student"]["caches"]["teacher"]
    assert (told["rows"], told["written"], told["lookups"], told["place"]) == (96, 96, 384, "disk")
    assert json.loads((tmp_path / "run" / "results.json").read_text())["student"]["caches"]["teacher"] == told


def test_a_dataset_is_read_once_for_all_caches_that_stand_on_it() -> None:
    class Read(Noise):
        seen: ClassVar[list[int]] = []

        def __getitem__(self, index: int) -> mmkd.Sample:
            Read.seen.append(index)
            return super().__getitem__(index)

    made = document("disk")
    made["teacher"] = None
    made["teachers"] = {"teacher": {"cache": "disk"}, "other": {"cache": "disk"}}
    made["losses"]["second"] = {"use": "core.kl", "student": "student.logits", "teacher": "other.logits"}
    nodes = {**networks(), "other": networks()["teacher"]}
    remembered(made, nodes, {"train": Read()})
    Read.seen.clear()
    _, kept, _ = remembered(made, nodes, {"train": Read()})
    assert [one.written for one in kept] == [0, 0]
    assert Read.seen.count(95) == 1  # the last one: no probe looks at it
