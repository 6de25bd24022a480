"""Token-level relationship graph: which tokens are taken, and the three losses."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mmkd.errors import GraphError
from mmkd.library.losses.info_nce import InfoNCE
from mmkd.library.losses.trg import TokenContext, TokenGraph, TokenNeighbours
from tests.library import relational_oracle as oracle


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_local_against_loops() -> None:
    student, teacher = normal(3, 4, 6), normal(3, 4, 8, seed=1)
    rows = [x.flatten(0, 1).tolist() for x in (student, teacher)]
    for neighbours in (1, 3, 20):
        expected = torch.tensor(oracle.trg_local(*rows, neighbours, 0.5), dtype=torch.float64).view(3, 4).mean(1)
        torch.testing.assert_close(TokenNeighbours(None, neighbours, 0.5)(student, teacher), expected)


def test_local_as_it_is_printed_against_loops() -> None:
    """Tokens as they are, and the student's distribution first."""
    student, teacher = normal(3, 4, 6), normal(3, 4, 8, seed=1)
    rows = [x.flatten(0, 1).tolist() for x in (student, teacher)]
    seen = []
    for normalize in (True, False):
        for direction in ("forward", "reverse"):
            expected = oracle.trg_local(*rows, 3, 6.0, normalize, direction == "reverse")
            loss = TokenNeighbours(None, 3, 6.0, normalize, direction)  # type: ignore[arg-type]
            value = loss(student, teacher)
            torch.testing.assert_close(value, torch.tensor(expected, dtype=torch.float64).view(3, 4).mean(1))
            seen.append(value)
    assert all(not torch.allclose(a, b) for i, a in enumerate(seen) for b in seen[:i])
    shifted = TokenNeighbours(None, 3, 6.0, normalize=False)
    torch.testing.assert_close(shifted(student + 5, teacher - 3), shifted(student, teacher))


def test_global_is_info_nce_over_the_tokens() -> None:
    student, teacher = normal(3, 4, 6), normal(3, 4, 6, seed=1)
    plain = InfoNCE(0.3, symmetric=False)(student.flatten(0, 1), teacher.flatten(0, 1))
    torch.testing.assert_close(TokenGraph(None, 0.3)(student, teacher), plain.view(3, 4).mean(1))


def test_positions_are_distinct_and_drawn_anew_by_update_alone() -> None:
    torch.manual_seed(0)
    loss = TokenGraph(tokens=4)
    numbers = torch.arange(11.0).expand(2, 11)[:, :, None]
    drawn = set()
    for _ in range(40):
        rows, same, count = loss.sample(numbers, numbers)
        assert count == 4
        assert torch.equal(rows, same)
        assert torch.equal(rows[:4], rows[4:])
        places = tuple(int(x) for x in rows[:4, 0])
        assert list(places) == sorted(set(places))
        assert torch.equal(loss.sample(numbers, numbers)[0], rows)
        drawn.add(places)
        loss.update()
    assert len(drawn) > 10
    assert {place for places in drawn for place in places} == set(range(11))


def test_more_positions_than_tokens_are_all_of_them() -> None:
    student, teacher = normal(3, 4, 6), normal(3, 4, 6, seed=1)
    torch.testing.assert_close(TokenGraph(tokens=9)(student, teacher), TokenGraph(None)(student, teacher))
    assert not torch.allclose(TokenGraph(tokens=2)(student, teacher), TokenGraph(None)(student, teacher))


def test_positions_are_saved_with_the_loss() -> None:
    torch.manual_seed(0)
    first, second = TokenNeighbours(tokens=2), TokenNeighbours(tokens=2)
    second.load_state_dict(first.state_dict())
    student, teacher = normal(3, 8, 6), normal(3, 8, 6, seed=1)
    torch.testing.assert_close(first(student, teacher), second(student, teacher), rtol=0, atol=0)


def test_a_map_is_a_sequence_of_its_positions() -> None:
    student, teacher = normal(2, 6, 3, 4), normal(2, 6, 3, 4, seed=1)
    for loss in (TokenContext(), TokenGraph(None), TokenNeighbours(None)):
        as_tokens = loss(*(x.flatten(2).transpose(1, 2) for x in (student, teacher)))
        torch.testing.assert_close(loss(student, teacher), as_tokens)


def test_neighbours_decide_what_is_compared() -> None:
    """Without any edge all tokens are the same; a token is not its own neighbour."""
    alone = TokenNeighbours(None)(normal(1, 1, 6), normal(1, 1, 6, seed=1))
    assert alone.item() == 0
    student, teacher = normal(3, 4, 6), normal(3, 4, 6, seed=1)
    few, many = (TokenNeighbours(None, n)(student, teacher) for n in (1, 11))
    assert not torch.allclose(few, many)


@pytest.mark.parametrize("loss", [TokenContext(), TokenGraph(None), TokenNeighbours(None)])
def test_tokens_must_be_the_same(loss: torch.nn.Module) -> None:
    with pytest.raises(GraphError, match="same tokens"):
        loss(normal(2, 4, 6), normal(2, 5, 6))
    with pytest.raises(GraphError, match="same tokens"):
        loss(normal(2, 6), normal(2, 6))


def test_global_needs_one_width() -> None:
    with pytest.raises(GraphError, match="one width"):
        TokenGraph(None)(normal(2, 4, 6), normal(2, 4, 5))
