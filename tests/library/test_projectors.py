from __future__ import annotations

from typing import Any

import pytest
import torch

from mmkd import Projector
from mmkd.errors import GraphError, RecipeError
from mmkd.library.projectors.concat import Concatenation
from mmkd.library.projectors.linear import LinearProjector
from mmkd.library.projectors.mlp import MLPProjector

BOTH = pytest.mark.parametrize("cls", [LinearProjector, MLPProjector])


def set_up(projector: Projector, input: tuple[int, ...], like: tuple[int, ...]) -> Projector:
    projector.setup(input=torch.Size(input), like=torch.Size(like))
    return projector


@BOTH
@pytest.mark.parametrize("size", [0, 1, 5])
@pytest.mark.parametrize(
    ("input", "like"), [((2, 6), (2, 3)), ((2, 4, 6), (2, 4, 3)), ((2, 6, 4, 5), (2, 3, 4, 5))], ids=str
)
def test_changes_the_width_and_nothing_else(cls: Any, input: tuple[int, ...], like: tuple[int, ...], size: int) -> None:
    projected = set_up(cls(), input, like)(torch.randn(size, *input[1:]))
    assert projected.shape == (size, *like[1:])


@BOTH
def test_feature_map_is_mapped_position_by_position(cls: Any) -> None:
    """A map and the sequence of its positions give the same, from the same weights."""
    image, sequence = set_up(cls(), (2, 6, 4, 5), (2, 3, 4, 5)), set_up(cls(), (2, 20, 6), (2, 20, 3))
    for to, source in zip(sequence.parameters(), image.parameters(), strict=True):
        to.data.copy_(source.data.view_as(to))
    x = torch.randn(2, 6, 4, 5)
    torch.testing.assert_close(image(x).flatten(2).transpose(1, 2), sequence(x.flatten(2).transpose(1, 2)))


@BOTH
@pytest.mark.parametrize(
    ("input", "like", "message"),
    [
        ((2, 9, 6), (2, 5, 3), r"other tokens \(9\) than \[2, 5, 3\] \(5\)"),
        ((2, 6, 8, 8), (2, 3, 4, 4), r"other positions \(8 x 8\) than \[2, 3, 4, 4\] \(4 x 4\)"),
        ((2, 6), (2, 5, 3), r"cannot project \[2, 6\] to \[2, 5, 3\]"),
        ((2,), (2,), "cannot project"),
    ],
)
def test_layouts_must_fit(cls: Any, input: tuple[int, ...], like: tuple[int, ...], message: str) -> None:
    with pytest.raises(GraphError, match=message):
        set_up(cls(), input, like)


@BOTH
def test_needs_its_widths_first(cls: Any) -> None:
    with pytest.raises(GraphError, match="setup"):
        cls()(torch.randn(2, 6))


def test_linear_options() -> None:
    bias, plain = (set_up(LinearProjector(bias=b), (2, 6), (2, 3)) for b in (True, False))
    assert [p.shape for p in bias.parameters()] == [(3, 6), (3,)]
    assert len(list(plain.parameters())) == 1
    assert (plain(torch.zeros(1, 6)) == 0).all()


@pytest.mark.parametrize("norm", ["none", "layer"])
@pytest.mark.parametrize("activation", ["gelu", "relu", "silu"])
def test_mlp_options(norm: Any, activation: Any) -> None:
    mlp = set_up(MLPProjector(hidden=1.5, depth=2, activation=activation, norm=norm), (2, 6), (2, 4))
    matrices = [p.shape for p in mlp.parameters() if p.dim() == 2]
    assert matrices == [(6, 6), (6, 6), (4, 6)]
    x = torch.randn(3, 6)
    torch.testing.assert_close(mlp(x), torch.cat([mlp(row[None]) for row in x]))
    assert not torch.allclose(mlp(2 * x), 2 * mlp(x))


def test_mlp_needs_a_hidden_layer() -> None:
    with pytest.raises(RecipeError, match="no hidden layer"):
        set_up(MLPProjector(hidden=0.1), (2, 6), (2, 3))


def test_cosine_of_concatenations_is_the_mean_cosine() -> None:
    a, b, c, d = torch.randn(4, 5, 6, dtype=torch.float64)
    joined, other = Concatenation()([a, b]), Concatenation()([c, d])
    assert joined.shape == (5, 12)
    cosine = torch.nn.functional.cosine_similarity
    torch.testing.assert_close(cosine(joined, other), (cosine(a, c) + cosine(b, d)) / 2)
    torch.testing.assert_close(Concatenation(normalize=False)([a, b]), torch.cat([a, b], dim=-1), atol=0, rtol=0)


def test_concatenation_of_odd_inputs() -> None:
    assert Concatenation()([torch.randn(0, 3), torch.randn(0, 2)]).shape == (0, 5)
    zero = torch.zeros(2, 3, requires_grad=True)
    Concatenation()([zero, torch.randn(2, 2)]).sum().backward()
    assert zero.grad is not None and zero.grad.isfinite().all()
    with pytest.raises(RuntimeError, match="Sizes of tensors must match"):
        Concatenation()([torch.randn(2, 3), torch.randn(3, 3)])
    a, b = (torch.randn(2, 3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(lambda *parts: Concatenation()(list(parts)), (a, b))
