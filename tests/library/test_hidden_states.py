"""Layer maps, and the two losses that take them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mmkd.errors import GraphError, RecipeError
from mmkd.library.losses.hidden_states import HiddenStates
from mmkd.library.losses.layer_map import LayerMap, layer_pairs
from mmkd.library.losses.minilm import RelationTransfer
from mmkd.library.losses.mse import MeanSquaredError
from tests.library import relational_oracle as oracle


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def states(count: int, width: int, seed: int = 0) -> list[Tensor]:
    return [normal(3, 4, width, seed=seed + i) for i in range(count)]


# -- maps -------------------------------------------------------------------------------------------------------

MAPS: dict[tuple[LayerMap, int, int], list[list[int]]] = {
    ("each", 3, 3): [[1], [2], [3]],
    ("uniform", 3, 12): [[4], [8], [12]],
    ("uniform", 5, 12): [[3], [5], [8], [10], [12]],
    ("uniform", 3, 2): [[1], [2], [2]],
    ("last", 3, 12): [[10], [11], [12]],
    ("uniform_last", 3, 12): [[4, 10], [8, 11], [12]],
    ("consecutive", 3, 12): [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12]],
    ("consecutive", 5, 12): [[1, 2, 3], [4, 5, 6], [7, 8, 9], [10, 11, 12], [12]],
}
"""The teacher's layers for each of the student's, counted from one as in the paper."""


@pytest.mark.parametrize(("case", "expected"), MAPS.items())
def test_layers_belong_together_as_the_paper_says(case: tuple[LayerMap, int, int], expected: list[list[int]]) -> None:
    pairs = [(i, j - 1) for i, layers in enumerate(expected) for j in layers]
    assert layer_pairs("core.minilm", *case) == pairs


@pytest.mark.parametrize("layers", ["each", "uniform", "last", "uniform_last", "consecutive"])
def test_between_equal_depths_every_map_is_one_to_one(layers: LayerMap) -> None:
    assert layer_pairs("core.minilm", layers, 4, 4) == [(i, i) for i in range(4)]


@pytest.mark.parametrize(("layers", "students"), [("each", 2), ("last", 4), ("uniform_last", 4), ("uniform", 0)])
def test_depths_that_do_not_fit_are_named(layers: LayerMap, students: int) -> None:
    with pytest.raises(GraphError, match=f"{students} values of the student and 3 of the teacher"):
        layer_pairs("core.minilm", layers, students, 3)


# -- hidden states ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layers", ["uniform", "last", "uniform_last", "consecutive"])
def test_value_against_loops(layers: LayerMap) -> None:
    torch.manual_seed(0)
    student, teacher = states(2, 5), states(5, 7, seed=9)
    loss = HiddenStates(layers)
    loss.setup([x.shape for x in student], [x.shape for x in teacher])
    loss.double()
    assert loss.maps is not None
    assert {name.rpartition(".")[2] for name, _ in loss.named_parameters()} == {"weight"}
    maps = [matrix.weight.tolist() for matrix in loss.maps]
    pairs, value = layer_pairs("core.hidden_states", layers, 2, 5), loss(student, teacher)
    for b in range(3):
        for token in range(4):
            rows = [[x[b, token].tolist() for x in side] for side in (student, teacher)]
            expected = oracle.hidden_states(*rows, pairs, maps)
            assert value[b, token].item() == pytest.approx(expected, rel=1e-10)
    assert torch.autograd.gradcheck(lambda *s: loss(list(s), teacher), [x.requires_grad_() for x in student])


def test_of_one_width_it_is_the_sum_of_squared_errors_without_a_map() -> None:
    student, teacher = states(2, 5), states(4, 5, seed=9)
    expected = MeanSquaredError()(student[0], teacher[1]) + MeanSquaredError()(student[1], teacher[3])
    loss = HiddenStates()
    torch.testing.assert_close(loss(student, teacher), expected)
    loss.setup([x.shape for x in student], [x.shape for x in teacher])
    torch.testing.assert_close(loss(student, teacher), expected)
    assert not list(loss.parameters())
    assert loss([teacher[1], teacher[3]], teacher).abs().max() == 0
    pooled = loss([x[:, 0] for x in student], [x[:, 0] for x in teacher])
    torch.testing.assert_close(pooled, expected[:, 0])


def test_the_map_of_layers_matters() -> None:
    student, teacher = states(2, 5), states(4, 5, seed=9)
    values = [HiddenStates(m)(student, teacher) for m in ("uniform", "last", "uniform_last", "consecutive")]
    assert all(not torch.allclose(a, b) for i, a in enumerate(values) for b in values[:i])


def test_maps_must_be_set_up_and_tokens_the_same() -> None:
    with pytest.raises(RecipeError, match="has no maps yet"):
        HiddenStates()(states(1, 5), states(1, 6))
    with pytest.raises(GraphError, match="same shape"):
        HiddenStates()([normal(3, 4, 5)], [normal(3, 2, 5)])


@pytest.mark.parametrize("size", [0, 1])
def test_smallest_batches_and_halves(size: int) -> None:
    half = [1e4 * x[:size].half() for x in states(2, 5)]
    loss = HiddenStates()(half, [-x for x in half])
    assert loss.shape == (size, 4) and loss.dtype == torch.float32 and loss.isfinite().all()


# -- relations --------------------------------------------------------------------------------------------------


def test_relations_of_mapped_layers() -> None:
    """Two layers of three values each learn from the second and the fourth of four."""
    student, teacher = states(6, 4), states(12, 6, seed=20)
    expected = RelationTransfer(2)(student, [*teacher[3:6], *teacher[9:12]])
    mapped = RelationTransfer(2, "uniform", per_layer=3)(student, teacher)
    torch.testing.assert_close(mapped, expected)
    assert not torch.allclose(RelationTransfer(2, "last", per_layer=3)(student, teacher), expected)
    assert not torch.allclose(RelationTransfer(2, "uniform")(student, teacher), expected)
    with pytest.raises(GraphError, match="not 3 per layer"):
        RelationTransfer(2, "uniform", per_layer=3)(student[:5], teacher)
