"""BatchNorm of averaged weights: refreshed statistics are those computed by hand, and only what is used sees them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from engine.toys import CLASSES, FEATURES, Noise, data as toy_data, networks
from safetensors.torch import load_file
from torch import Tensor, nn

import mmkd
from mmkd.engine import checkpoint
from mmkd.engine.batch_norm import refresh, refreshed, stale
from mmkd.engine.optimizer import optimizers
from mmkd.engine.stream import Stream
from mmkd.errors import RecipeError
from mmkd.graph.training_graph import TrainingGraph
from mmkd.report.explain import explain

REFRESH = {"of": "student", "kind": "uniform", "batch_norm": "refresh"}
LOSSES = {"label": {"use": "core.cross_entropy", "student": "student.logits"}}


def student() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(FEATURES, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.ReLU(),
        nn.Linear(8, 6), nn.BatchNorm1d(6, momentum=0.3), nn.Linear(6, CLASSES),
    )  # fmt: skip


def trained(rule: dict[str, Any], network: nn.Module | None = None) -> tuple[TrainingGraph, Stream]:
    """A graph after six steps, and the stream that they were drawn from."""
    recipe = mmkd.load_recipe(
        {"student": {}, "teachers": {"mean": {"average": rule}}, "losses": LOSSES, "train": {"steps": 6, "lr": 0.05}}
    )
    stream = Stream("", Noise(), 16, seed=3)
    example = {"image": torch.zeros(4, FEATURES), "label": torch.zeros(4, dtype=torch.long)}
    graph = mmkd.build(recipe, nodes={"student": network or student()}, example=example)
    made = optimizers(graph, recipe.train)
    graph.train()
    for step in range(6):
        graph.step(batch(stream, step), made)
    return graph, stream


def batch(stream: Stream, step: int) -> dict[str, Tensor]:
    samples = [stream.dataset[index] for _, index in stream.places(step)]
    labels = torch.tensor([sample["label"] for sample in samples])
    return {"image": torch.stack([torch.tensor(sample["image"]) for sample in samples]), "label": labels}


def by_hand(net: Any, images: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Mean over batches of each batch's mean and unbiased variance, before the first and the second layer."""
    seen: list[list[tuple[Tensor, Tensor]]] = [[], []]
    for image in images:
        value = image
        for k, (linear, norm) in enumerate(((net[0], net[1]), (net[4], net[5]))):
            value = value @ linear.weight.T + linear.bias
            mean, spread = value.mean(0), (value - value.mean(0)).square()
            seen[k].append((mean, spread.sum(0) / (len(value) - 1)))
            value = (value - mean) / (spread.mean(0) + norm.eps).sqrt() * norm.weight + norm.bias
            value = value.relu() if k == 0 else value
    return [(torch.stack([m for m, _ in s]).mean(0), torch.stack([v for _, v in s]).mean(0)) for s in seen]


def buffers(graph: TrainingGraph) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in graph.nodes["mean"].named_buffers()}


@torch.no_grad()
@pytest.mark.parametrize(("count", "read"), [(1, 1), (4, 4), (100, 6)])
def test_statistics_are_those_computed_by_hand(count: int, read: int) -> None:
    """A hundred batches are one pass over the six that there are."""
    with torch.enable_grad():
        graph, stream = trained({**REFRESH, "refresh_batches": count})
    before = buffers(graph)
    net: Any = graph.nodes["mean"].network
    weights = [p.clone() for p in net.parameters()]
    torch.manual_seed(5)
    state = torch.get_rng_state()
    refresh(graph, stream)
    assert torch.equal(torch.get_rng_state(), state)
    expected = by_hand(net, [batch(stream, step)["image"] for step in range(read)])
    for norm, (mean, variance) in zip((net[1], net[5]), expected, strict=True):
        torch.testing.assert_close(norm.running_mean, mean, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(norm.running_var, variance, rtol=1e-5, atol=1e-6)
    assert not any(torch.allclose(before[key], value) for key, value in buffers(graph).items() if "running" in key)
    assert all(torch.equal(a, b) for a, b in zip(weights, net.parameters(), strict=True))
    assert [norm.momentum for norm in (net[1], net[5])] == [0.1, 0.3] and not net.training
    assert not any(module.training for module in graph.nodes["mean"].modules())


def test_the_average_goes_on_as_if_nothing_had_been_refreshed() -> None:
    graph, stream = trained(REFRESH)
    before = buffers(graph)
    with refreshed(graph, stream):
        inside = buffers(graph)
    after = buffers(graph)
    assert all(torch.equal(before[key], value) for key, value in after.items())
    assert not torch.equal(inside["net.1.running_mean"], before["net.1.running_mean"])
    with pytest.raises(KeyboardInterrupt), refreshed(graph, stream):
        raise KeyboardInterrupt
    assert all(torch.equal(before[key], value) for key, value in buffers(graph).items())


class Untouched(Noise):
    def __getitem__(self, index: int) -> mmkd.Sample:
        raise AssertionError("read")


def test_nothing_is_read_where_nothing_is_to_be_refreshed() -> None:
    plain = nn.Linear(FEATURES, CLASSES)
    for graph, _ in (trained({"of": "student", "kind": "uniform"}), trained(REFRESH, plain)):
        before = buffers(graph)
        assert not stale(graph)
        refresh(graph, Stream("", Untouched(), 16))
        assert all(torch.equal(before[key], value) for key, value in buffers(graph).items())


def test_the_recipe_says_so_and_reports_say_it_too() -> None:
    recipe = mmkd.load_recipe({"student": {}, "teacher": {"average": REFRESH}, "losses": LOSSES})
    assert mmkd.load_recipe(recipe.to_dict()) == recipe
    plain = mmkd.load_recipe({"student": {}, "teacher": {"average": {"of": "student"}}, "losses": LOSSES}).to_dict()
    assert set(plain["teacher"]["average"]) == {"of", "kind", "momentum", "start", "every"}
    graph, _ = trained({**REFRESH, "refresh_batches": 7})
    assert "uniform, BatchNorm refreshed over 7 batches" in explain(graph)
    with pytest.raises(RecipeError, match="refresh_batches belongs to batch_norm: refresh"):
        mmkd.load_recipe(
            {"student": {}, "teacher": {"average": {"of": "student", "refresh_batches": 7}}, "losses": LOSSES}
        )
    with pytest.raises(RecipeError, match="batch_norm"):
        mmkd.load_recipe({"student": {}, "teacher": {"average": {"of": "student", "batch_norm": "none"}}})


# -- in a whole run ---------------------------------------------------------------------------------------------


def run(folder: Path, *, resume: bool = False, steps: int = 12, every: int = 4, **rule: Any) -> dict[str, Any]:
    recipe = {
        "student": {},
        "teachers": {"mean": {"average": {**REFRESH, **rule}}},
        "losses": {**LOSSES, "self": {"use": "core.kl", "student": "student.logits", "teacher": "mean.logits"}},
        "data": {"batch_size": 16},
        "train": {"steps": steps, "lr": 0.05, "checkpoint_every": 6, "log_every": 4, "device": "cpu"},
        "evaluate": [{"use": "core.top_k", "student": "student.logits", "k": [1], "every": every}],
        "export": ["mean"],
    }
    given = {"student": networks()["student"]}
    return mmkd.distill(recipe, output_dir=folder, nodes=given, data=toy_data(), resume=resume, preflight=False)


def exported(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "student" / "model.safetensors")


def last(folder: Path) -> dict[str, Tensor]:
    return load_file(checkpoint.checkpoints(folder)[-1] / "graph.safetensors")


def test_a_run_exports_and_scores_refreshed_statistics(tmp_path: Path) -> None:
    results = run(tmp_path / "fresh")
    run(tmp_path / "mean", batch_norm="average")
    fresh, mean = exported(tmp_path / "fresh"), exported(tmp_path / "mean")
    different = {key for key in fresh if not torch.equal(fresh[key], mean[key])}
    assert different == {f"nodes.mean.net.1.{name}" for name in ("running_mean", "running_var", "num_batches_tracked")}
    stream = Stream("", toy_data()["train"], 16)
    weight, bias = fresh["nodes.mean.net.0.weight"], fresh["nodes.mean.net.0.bias"]
    values = [batch(stream, step)["image"] @ weight.T + bias for step in range(6)]
    by_batch = torch.stack([value.mean(0) for value in values]).mean(0)
    torch.testing.assert_close(fresh["nodes.mean.net.1.running_mean"], by_batch, rtol=1e-5, atol=1e-6)
    again = mmkd.evaluate(tmp_path / "fresh", nodes={"student": networks()["student"]}, data=toy_data())
    assert again["teachers"]["mean"]["scores"] == results["teachers"]["mean"]["scores"]
    run(tmp_path / "fresh", resume=True)
    assert all(torch.equal(value, fresh[key]) for key, value in exported(tmp_path / "fresh").items())


def test_evaluations_on_the_way_leave_the_run_as_it_is(tmp_path: Path) -> None:
    for name, every in (("often", 2), ("once", 12)):
        run(tmp_path / name, every=every)
    often, once = last(tmp_path / "often"), last(tmp_path / "once")
    assert all(torch.equal(value, once[key]) for key, value in often.items())
    plain = run(tmp_path / "plain", batch_norm="average") and last(tmp_path / "plain")
    assert all(torch.equal(value, once[key]) for key, value in plain.items())
