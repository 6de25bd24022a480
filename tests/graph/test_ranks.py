"""Two ranks compute what one process computes over the same global batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from graph.nets import made
from graph.rank_cases import CASES, SIZE, Case, batch, cut, lengths, normalised
from torch import Tensor, distributed
from torch.nn.parallel import DistributedDataParallel

from mmkd.graph import ranks


def _process(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    found: dict[str, Any] = {name: case.run(rank) for name, case in CASES.items()}
    others = {function.__name__: function for function in (gathers, lists, ddp, statistics, non_finite, by_itself)}
    found |= {name: function(rank) for name, function in others.items()}
    torch.save(found, f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two processes has found."""
    folder: Path = tmp_path_factory.mktemp("ranks")
    torch.multiprocessing.spawn(_process, (str(folder),), nprocs=2)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("name", CASES)
def test_losses_gradients_and_weights_are_those_of_one_process(name: str, two: list[dict[str, Any]]) -> None:
    alone = CASES[name].run(None)
    for rank, found in enumerate(two):
        assert found[name].keys() == alone.keys()
        far = {key: _distance(found[name][key], value) for key, value in alone.items()}
        assert not {key: gap for key, gap in far.items() if gap > 1e-9}, f"rank {rank}"
    assert [key for key in alone if not torch.equal(two[0][name][key], two[1][name][key])] == []


def _distance(a: Tensor, b: Tensor) -> float:
    return (a.double() - b.double()).abs().nan_to_num(0.0).max().item() if a.numel() else 0.0


@pytest.mark.parametrize("name", CASES)
def test_each_rank_alone_would_be_wrong(name: str) -> None:
    """What the first rank has is not the whole: the comparison above can fail."""
    case = CASES[name]
    if case.rows[0] == SIZE:
        pytest.skip("the first rank has it all")
    alone, part = case.run(None, 1), case.run(0, 1)
    assert _distance(alone["step 0: loss"], part["step 0: loss"]) > 1e-5


# -- gathering ----------------------------------------------------------------------------------------------------


def gathers(rank: int) -> dict[str, Any]:
    """Gradients of a gathered value: one that every rank uses otherwise, and its second derivative."""
    rows = torch.arange(6.0).reshape(3, 2)[slice(0, 2) if rank == 0 else slice(2, 3)].clone().requires_grad_()
    whole = ranks.whole({"x": rows, "n": torch.tensor(3.0), "b": rows > 2, "h": rows.detach().half()}, ["x", "b", "h"])
    x = whole["x"]
    (slope,) = torch.autograd.grad((x**3 * (rank + 1)).sum(), rows, create_graph=True)
    (curve,) = torch.autograd.grad((slope * (rank + 1)).sum(), rows)
    nothing = torch.zeros(0, 2, requires_grad=True) if rank else torch.ones(2, 2, requires_grad=True)
    some = ranks.whole({"x": nothing}, ["x"])["x"]
    some.square().sum().backward()
    words = ranks.listed(["a", "b"] if rank else ["c"])
    return {
        "x": x, "b": whole["b"], "h": whole["h"], "n": whole["n"], "slope": slope, "curve": curve, "some": some,
        "own": nothing.grad, "words": words, "part": [list(range(n))[ranks.part(n)] for n in (5, 1)],
    }  # fmt: skip


def test_gathering_is_differentiable_twice_over_uneven_rows(two: list[dict[str, Any]]) -> None:
    all_rows = torch.arange(6.0).reshape(3, 2)
    for rank, found in enumerate(each["gathers"] for each in two):
        own = all_rows[:2] if rank == 0 else all_rows[2:]
        torch.testing.assert_close(found["x"], all_rows)
        assert found["b"].dtype is torch.bool and torch.equal(found["b"], all_rows > 2)
        assert found["h"].dtype is torch.float16 and torch.equal(found["h"], all_rows.half())
        torch.testing.assert_close(found["slope"], 3 * own**2 * (1 + 2))
        torch.testing.assert_close(found["curve"], (rank + 1) * 6 * own * (1 + 2))
        assert found["n"] == 3.0 and found["words"] == ["c", "a", "b"]
        torch.testing.assert_close(found["some"], torch.ones(2, 2))
        assert found["own"].shape == (2 - 2 * rank, 2) and (found["own"] == 4).all()
    assert [found["gathers"]["part"] for found in two] == [
        [[0, 1], []], [[2, 3, 4], [0]],
    ]  # fmt: skip


def lists(rank: int | None) -> dict[str, Any]:
    graph = lengths()
    part = batch(0) if rank is None else cut(batch(0), *((0, 5) if rank == 0 else (5, SIZE)))
    out = graph.step(part, made(graph, optimizer="sgd", lr=0.1))
    loss: Any = graph.terms[0].loss
    gradients = [p.grad for p in graph.parameters() if p.grad is not None]
    return {"loss": out["loss"], "gradients": gradients, "seen": loss.seen}


def test_lists_of_values_of_uneven_lengths_are_gathered(two: list[dict[str, Any]]) -> None:
    alone = lists(None)
    for found in (each["lists"] for each in two):
        torch.testing.assert_close(found["loss"], alone["loss"])
        torch.testing.assert_close(found["gradients"], alone["gradients"], atol=1e-6, rtol=0)
        *values, mask = found["seen"]
        assert torch.equal(mask, batch(0)["mask"]) and len(values) == 2
        for value, whole in zip(values, alone["seen"], strict=False):
            torch.testing.assert_close(value * mask[..., None], whole * mask[..., None])


# -- other loops --------------------------------------------------------------------------------------------------

OWN_LOOP = Case({
    "kd": {**CASES["kd"].losses["kd"], "mask": "batch.valid"}, "label": CASES["kd"].losses["label"],
    "crd": CASES["CRD"].losses["crd"], "nce": CASES["InfoNCE"].losses["nce"],
})  # fmt: skip


def ddp(rank: int | None) -> dict[str, Tensor]:
    graph = OWN_LOOP.graph()
    module = graph if rank is None else DistributedDataParallel(graph)
    optimizer = torch.optim.SGD([p for p in graph.parameters() if p.requires_grad], 0.1)
    out: dict[str, Tensor] = {}
    for step in range(3):
        optimizer.zero_grad()
        (part,) = OWN_LOOP.parts(step, rank)
        out = module(part)
        out["loss"].backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        graph.update()
    state = graph.state_dict()
    return {**{k: v.detach() for k, v in out.items()}, **{k: v for k, v in state.items() if "_extra" not in k}}


def test_torchs_ddp_around_the_graph_is_right(two: list[dict[str, Any]]) -> None:
    alone = ddp(None)
    for found in (each["ddp"] for each in two):
        assert not {k: gap for k, v in alone.items() if (gap := _distance(found[k], v)) > 1e-9}


def statistics(rank: int | None) -> dict[str, Tensor]:
    case = Case({"label": CASES["kd"].losses["label"]}, nodes=normalised, rows=(5, 4))
    graph = case.graph()
    graph.step(case.parts(0, rank), made(graph, optimizer="sgd", lr=0.0001))
    return {name: buffer.clone() for name, buffer in graph.named_buffers() if "running" in name}


def test_running_statistics_are_the_mean_over_ranks(two: list[dict[str, Any]]) -> None:
    case = Case({"label": CASES["kd"].losses["label"]}, nodes=normalised)
    own = []
    for rank in range(2):
        graph = case.graph()
        graph.compute(case.parts(0, rank)[0])
        own.append({name: buffer.clone() for name, buffer in graph.named_buffers() if "running" in name})
    assert len(own[0]) == 2
    for name in own[0]:
        assert torch.equal(two[0]["statistics"][name], two[1]["statistics"][name])
        torch.testing.assert_close(two[0]["statistics"][name], (own[0][name] + own[1][name]) / 2)


def non_finite(rank: int) -> dict[str, Any]:
    graph = CASES["kd"].graph()
    before = {name: value.clone() for name, value in graph.state_dict().items()}
    (part,) = CASES["kd"].parts(0, rank)
    if rank == 1:
        part["image"][0, 0] = torch.inf
    out = graph.step(part, made(graph, lr=0.1))
    moved = [name for name, value in graph.state_dict().items() if not torch.equal(value, before[name])]
    return {"finite": bool(out["finite"]), "moved": moved, "steps": graph.steps}


def test_what_is_not_finite_on_one_rank_skips_the_step_on_all(two: list[dict[str, Any]]) -> None:
    assert [each["non_finite"] for each in two] == [{"finite": False, "moved": ["_extra_state"], "steps": 1}] * 2


def by_itself(rank: int) -> float:
    """The first rank looks at a batch on its own, which would wait forever if the others had to take part."""
    found = 0.0
    if rank == 0:
        graph = CASES["InfoNCE"].graph()
        with torch.no_grad():
            found += graph(batch(0))["loss"].item()
        with ranks.alone():
            found += graph(batch(0))["loss"].item()
            ranks.wait()
    return found


def test_a_rank_evaluates_by_itself(two: list[dict[str, Any]]) -> None:
    alone = CASES["InfoNCE"].graph()(batch(0))["loss"].item()
    assert two[0]["by_itself"] == pytest.approx(2 * alone)
