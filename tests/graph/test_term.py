"""A term: weight times the mean of a loss over what counts, against a slow oracle."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from graph.nets import CLASSES, KD, WIDTH, batch, build, mlp
from torch import Tensor

import mmkd
from mmkd.errors import GraphError
from mmkd.graph.binding import bind
from mmkd.graph.term import Term
from mmkd.graph.value import parse

GENERATOR = torch.Generator().manual_seed(0)


class Given(mmkd.Loss):
    """Returns its only value."""

    def forward(self, student: Tensor) -> Tensor:
        return student


class Pairs(Given):
    min_batch = 2


def term(loss: mmkd.Loss | None = None, **given: Any) -> Term:
    binding = bind("given", loss or Given(), {"student": "batch.loss"}, "losses.given")
    return Term(binding, **{name: parse(value) for name, value in given.items()})


def oracle(loss: Tensor, mask: Tensor | None, weight: Tensor | None) -> float:
    """Sum over the elements that count, element by element."""
    total = count = 0.0
    for place in itertools.product(*map(range, loss.shape)):
        m = 1.0 if mask is None else float(mask[place[: mask.dim()]])
        w = 1.0 if weight is None else float(weight[place[: weight.dim()]])
        if m > 0:
            total += float(loss[place]) * m * w
        count += m
    return total / max(count, 1e-12)


SHAPES: list[tuple[int, ...]] = [(5,), (5, 7)]


@pytest.mark.parametrize(
    ("shape", "mask", "weight"),
    [(shape, *by) for shape in SHAPES for by in itertools.product([None, *range(1, len(shape) + 1)], repeat=2)],
)
def test_reduction_is_that_of_the_oracle(shape: tuple[int, ...], mask: int | None, weight: int | None) -> None:
    loss = torch.randn(shape, generator=GENERATOR)
    values = {"batch.loss": loss}
    given = {}
    if mask:
        values["batch.mask"] = torch.rand(shape[:mask], generator=GENERATOR) > 0.4
        given["mask"] = "batch.mask"
    if weight:
        values["batch.weight"] = torch.rand(shape[:weight], generator=GENERATOR)
        given["sample_weight"] = "batch.weight"
    expected = oracle(loss, values.get("batch.mask"), values.get("batch.weight"))
    assert float(term(**given)(values)) == pytest.approx(expected, rel=1e-5)


def test_masked_elements_may_hold_anything() -> None:
    loss = torch.tensor([1.0, torch.nan, torch.inf, 3.0], requires_grad=True)
    out = term(mask="batch.mask")({"batch.loss": loss, "batch.mask": torch.tensor([1, 0, 0, 1])})
    assert out == 2
    out.backward()
    assert torch.equal(loss.grad, torch.tensor([0.5, 0.0, 0.0, 0.5]))


def test_a_batch_of_nothing_but_masked_samples_is_zero() -> None:
    loss = torch.ones(3, requires_grad=True)
    out = term(mask="batch.mask")({"batch.loss": loss, "batch.mask": torch.zeros(3)})
    assert out == 0
    out.backward()
    assert torch.equal(loss.grad, torch.zeros(3))


def test_a_scalar_loss_stays_as_it_is() -> None:
    assert term()({"batch.loss": torch.tensor(3.0)}) == 3


@pytest.mark.parametrize("factor", ["mask", "sample_weight"])
@pytest.mark.parametrize(("loss", "shape"), [((), (4,)), ((4,), (4, 7)), ((4,), (3,)), ((4, 7), (4, 1)), ((4,), ())])
def test_factors_that_do_not_fit_are_refused(factor: str, loss: tuple[int, ...], shape: tuple[int, ...]) -> None:
    values = {"batch.loss": torch.ones(loss), "batch.factor": torch.ones(shape)}
    with pytest.raises(GraphError, match="not one factor per sample or token") as caught:
        term(**{factor: "batch.factor"})(values)
    assert caught.value.where == "losses.given"


def test_a_loss_of_more_dimensions_is_refused() -> None:
    with pytest.raises(GraphError, match=r"\[\], \[B\] or \[B, T\], not \[2, 3, 4\]"):
        term()({"batch.loss": torch.ones(2, 3, 4)})


def test_too_small_a_batch_is_an_error_and_an_empty_one_a_zero() -> None:
    pairs = term(Pairs())
    with pytest.raises(GraphError, match="Pairs needs at least 2 samples, the batch has 1") as caught:
        pairs({"batch.loss": torch.ones(1)})
    assert "data.batch_size" in str(caught.value)
    assert pairs({"batch.loss": torch.ones(2)}) == 1
    empty = torch.ones(0, 3, requires_grad=True)
    out = pairs({"batch.loss": empty})
    assert out == 0
    out.backward()
    assert empty.grad is not None


def test_an_empty_batch_gives_every_weight_a_gradient_of_zero() -> None:
    losses = {
        "kd": {"use": "core.kl", "student": "student.logits", "teacher": "teacher.logits"},
        "ce": {"use": "core.cross_entropy", "student": "student.logits"},
        "pairs": {"use": "core.info_nce", "student": "student.logits", "teacher": "teacher.logits"},
    }
    graph = build(losses)
    out = graph({name: value[:0] for name, value in batch().items()})
    assert all(value == 0 for value in out.values())
    out["loss"].backward()
    for parameter in graph.nodes["student"].parameters():
        assert torch.equal(parameter.grad, torch.zeros_like(parameter))


def test_weights_and_schedules_scale_the_sum_but_not_the_terms() -> None:
    mse = {"use": "core.mse", "student": "student.logits", "teacher": "teacher.logits"}
    losses = {
        "plain": mse,
        "half": {**mse, "weight": 0.5},
        "falling": {**mse, "weight": {"use": "core.linear", "start": 2.0, "end": 0.0}},
    }
    graph = build(losses, train={"steps": 4})
    for step in range(6):
        out = graph(batch())
        unit = out["plain_loss"].item()
        assert out["half_loss"] == out["falling_loss"] == out["plain_loss"]
        assert out["loss"].item() == pytest.approx(unit * (1.5 + 2.0 * max(0.0, 1 - step / 4)), rel=1e-6)
        graph.update()
        assert graph.steps == step + 1


def test_options_follow_a_schedule() -> None:
    temperature = {"use": "core.linear", "start": 4.0, "end": 1.0}
    graph = build({"kd": {**KD["kd"], "temperature": temperature}}, train={"steps": 3})
    seen = []
    for _ in range(5):
        graph(batch())
        seen.append(graph.losses["kd"].temperature)
        graph.update()
    assert seen == pytest.approx([4.0, 3.0, 2.0, 1.0, 1.0])


def test_mask_and_sample_weight_of_a_recipe_reach_the_loss_that_asks_for_them() -> None:
    class Own(mmkd.Loss):
        def forward(self, student: Tensor, mask: Tensor | None = None) -> Tensor:
            assert mask is not None
            return student[mask].sum()

    bound = bind("own", Own(), {"student": "batch.loss", "mask": "batch.mask"}, "losses.own")
    values = {"batch.loss": torch.arange(4.0), "batch.mask": torch.tensor([True, False, True, True])}
    assert Term(bound)(values) == 5


def test_a_recipe_masks_samples() -> None:
    losses = {"ce": {"use": "core.cross_entropy", "student": "student.logits", "mask": "batch.known"}}
    known = torch.tensor([True] * 3 + [False] * 5)
    given = {**batch(), "known": known}
    graph = build(losses, {"student": mlp(WIDTH, CLASSES)}, example=given)
    logits = graph.nodes["student"].net(given["image"])
    expected = torch.nn.functional.cross_entropy(logits[:3], given["label"][:3])
    assert torch.allclose(graph(given)["loss"], expected)
