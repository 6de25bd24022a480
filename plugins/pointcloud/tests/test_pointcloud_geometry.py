"""Indices and distances, beside loops over single points."""

import pytest
import torch
from mmkd_pointcloud.geometry import ball, distances, farthest, gather, interpolate, neighbours

from mmkd.errors import GraphError


def cloud(seed=0, shape=(2, 30, 3)):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def apart(a, b):
    return sum(float(x - y) ** 2 for x, y in zip(a, b, strict=True)) ** 0.5


@pytest.mark.parametrize("width", [3, 7])
def test_neighbours_are_the_nearest_in_order(width):
    points, around = cloud(0, (2, 30, width)), cloud(1, (2, 5, width))
    found = neighbours(points, 4, around)
    for b in range(2):
        for m in range(5):
            ranked = sorted(range(30), key=lambda n: apart(points[b, n], around[b, m]))
            assert found[b, m].tolist() == ranked[:4]


def test_a_point_is_its_own_nearest_neighbour():
    assert torch.equal(neighbours(cloud(), 3)[..., 0], torch.arange(30).expand(2, 30))


def test_farthest_points_are_chosen_one_by_one():
    points = cloud()
    found = farthest(points, 8)
    for b in range(2):
        mean = points[b].mean(0)
        chosen = [max(range(30), key=lambda n: apart(points[b, n], mean))]
        while len(chosen) < 8:
            chosen.append(max(range(30), key=lambda n: min(apart(points[b, n], points[b, c]) for c in chosen)))
        assert found[b].tolist() == chosen


def test_farthest_points_do_not_depend_on_the_order():
    points, order = cloud(), torch.randperm(30, generator=torch.Generator().manual_seed(3))
    before, after = gather(points, farthest(points, 8)), gather(points[:, order], farthest(points[:, order], 8))
    assert torch.equal(before, after)


def test_a_ball_holds_the_first_points_within_its_radius():
    points, centres = cloud(), cloud(2, (2, 6, 3))
    found = ball(points, centres, 1.0, 5)
    filled = 0
    for b in range(2):
        for m in range(6):
            distances = [apart(points[b, n], centres[b, m]) for n in range(30)]
            inside = [n for n in range(30) if distances[n] <= 1.0][:5] or [distances.index(min(distances))]
            filled += len(inside) < 5
            assert found[b, m].tolist() == inside + [inside[0]] * (5 - len(inside))
    assert filled


def test_a_ball_may_ask_for_more_points_than_there_are():
    points = cloud(0, (1, 3, 3))
    assert ball(points, points, 100.0, 5).tolist() == [[[0, 1, 2, 0, 0]] * 3]


def test_interpolation_weighs_by_inverse_squared_distance():
    values, points, to = cloud(3, (2, 30, 4)), cloud(), cloud(4, (2, 5, 3))
    found = interpolate(values, points, to)
    for b in range(2):
        for m in range(5):
            near = sorted(range(30), key=lambda n: apart(points[b, n], to[b, m]))[:3]
            weights = [1 / (apart(points[b, n], to[b, m]) ** 2 + 1e-8) for n in near]
            wanted = sum(w * values[b, n] for w, n in zip(weights, near, strict=True)) / sum(weights)
            torch.testing.assert_close(found[b, m], wanted)


def test_interpolation_at_the_points_themselves_returns_the_values():
    values, points = cloud(3, (2, 30, 4)), cloud()
    torch.testing.assert_close(interpolate(values, points, points), values, atol=1e-5, rtol=1e-5)


def test_gather_carries_gradients_to_the_rows_it_took():
    values = cloud().requires_grad_()
    gather(values, torch.tensor([[0, 0, 2], [1, 5, 5]])).sum().backward()
    assert values.grad[0, :, 0].tolist()[:3] == [2, 0, 1] and values.grad[1, 5, 0] == 2


def test_too_few_points_are_named():
    with pytest.raises(GraphError, match="4 neighbours of a cloud of 3 points"):
        neighbours(cloud(0, (1, 3, 3)), 4)
    with pytest.raises(GraphError, match="4 of a cloud of 3 points"):
        farthest(cloud(0, (1, 3, 3)), 4)


@pytest.mark.parametrize("width", [3, 40])
def test_distances_in_an_exported_program_are_the_same(monkeypatch, width):
    a, b = cloud(0, (2, 30, width)), cloud(1, (2, 5, width)).requires_grad_()
    plain = distances(a, b)
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
    expanded = distances(a, b)
    torch.testing.assert_close(expanded, plain)
    assert not (plain.requires_grad or expanded.requires_grad)
