"""Pixels and points correspond: where a point falls, what hides it, what is brought back to it."""

import math

import pytest
import torch
from mmkd_pointcloud.projection import Projection
from mmkd_pointcloud.render import EXTENT, cameras, nearest, project, visible
from mmkd_pointcloud.shapes import Shapes
from mmkd_pointcloud.view_net import ViewNet
from mmkd_vision.convnet import ConvNet
from mmkd_vision.torchvision import TorchvisionEncoder

import mmkd
from mmkd.errors import GraphError, RecipeError

SHAPES = Shapes(per_family=1, points=300)


def batch(encoder, count=3):
    return encoder.collate([encoder.transform(SHAPES[i]) for i in range(count)])["points"]


def test_cameras_are_rotations_that_look_at_the_origin_with_up_above():
    frames = cameras(5, 20.0).double()
    torch.testing.assert_close(frames @ frames.mT, torch.eye(3, dtype=torch.float64).expand(5, 3, 3), atol=1e-6, rtol=0)
    torch.testing.assert_close(torch.linalg.det(frames), torch.full((5,), -1.0, dtype=torch.float64), atol=1e-6, rtol=0)
    assert (frames[:, 1, 2] > 0).all()
    torch.testing.assert_close(-frames[:, 2, 2], torch.full((5,), math.sin(math.radians(20)), dtype=torch.float64))


def test_a_point_falls_where_it_should():
    frames = cameras(1, 0.0)  # at x = infinity: y to the right, z up
    points = torch.tensor([[[0.0, 0.0, 0.0], [0.9, 0.52, 0.81], [-0.9, -1.0, -1.0]]])
    pixels, depth = project(points, frames, (22, 44))
    column = [math.floor((y / EXTENT + 1) / 2 * 44) for y in (0.0, 0.52, -1.0)]
    row = [math.floor((1 - z / EXTENT) / 2 * 22) for z in (0.0, 0.81, -1.0)]
    assert pixels[0, 0].tolist() == [r * 44 + c for r, c in zip(row, column, strict=True)]
    torch.testing.assert_close(depth[0, 0], torch.tensor([0.0, -0.9, 0.9]))


def test_the_z_buffer_beside_a_loop():
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(1, 40, 3, generator=generator) * 1.2 - 0.6
    pixels, depth = project(points, cameras(3, 30.0), (10, 12))
    buffer = nearest(pixels, depth, (10, 12), 1)
    for v in range(3):
        wanted = torch.full((10, 12), torch.inf)
        for n in range(40):
            r, c = divmod(int(pixels[0, v, n]), 12)
            for i in range(max(0, r - 1), min(10, r + 2)):
                for j in range(max(0, c - 1), min(12, c + 2)):
                    wanted[i, j] = min(wanted[i, j], depth[0, v, n])
        assert torch.equal(buffer[0, v].view(10, 12), wanted)
    seen = visible(pixels, depth, buffer, 0.05)
    assert 0 < seen.float().mean() < 1
    assert torch.equal(seen, depth <= buffer.gather(2, pixels) + 0.05)


def test_what_lies_behind_is_not_visible_and_comes_into_sight_from_behind():
    frames = cameras(2, 0.0)
    pixels, depth = project(torch.tensor([[[0.5, 0.0, 0.0], [-0.5, 0.0, 0.0]]]), frames, (16, 16))
    seen = visible(pixels, depth, nearest(pixels, depth, (16, 16), 1), 0.1)
    assert seen[0].tolist() == [[True, False], [False, True]]


def test_the_silhouette_is_where_points_are():
    for style in ("silhouette", "depth"):
        encoder = Projection(ViewNet(3, 24), points=None, views=2, splat=0.0, style=style).eval()
        values = encoder(batch(encoder))
        drawn = torch.zeros(3, 2, 24 * 24, dtype=torch.bool).scatter(2, values["pixels"], True)
        assert torch.equal(values["pictures"].flatten(2) > 0, drawn)
        assert (len(values["pictures"].unique()) == 2) == (style == "silhouette")


def test_a_map_is_read_at_the_pixel_of_each_point():
    encoder = Projection(ViewNet(3, 24), points=None, views=2, lift="pixel_logits").eval()
    points = batch(encoder)
    values = encoder(points)
    grey = (values["pictures"].float() / 255 - 0.5) / 0.5
    maps = encoder.image(grey.flatten(0, 1)[:, None].expand(-1, 3, -1, -1))["pixel_logits"].unflatten(0, (3, 2))
    for b, v, n in ((0, 0, 5), (1, 1, 77), (2, 0, 299)):
        row, column = divmod(int(values["pixels"][b, v, n]), 24)
        torch.testing.assert_close(values["lifted"][b, v, n], maps[b, v, :, row, column], atol=0.05, rtol=0.05)  # bytes
    seen = values["visible"][..., None]
    mean = (values["lifted"] * seen).sum(1) / seen.sum(1).clamp(min=1)
    torch.testing.assert_close(values["tokens"], mean)
    assert not values["tokens"][~values["visible"].any(1)].any()


def test_a_coarse_map_is_read_where_the_pixel_lies_in_it():
    encoder = Projection(ViewNet(3, 24, widths=[4, 8]), points=None, views=1, lift="tokens").eval()
    with torch.no_grad():
        values = encoder(batch(encoder))
    row, column = values["pixels"][0, 0] // 24 // 2, values["pixels"][0, 0] % 24 // 2
    cells = {}
    for cell, lifted in zip((row * 12 + column).tolist(), values["lifted"][0, 0], strict=True):
        assert torch.equal(cells.setdefault(cell, lifted), lifted)
    assert len({tuple(lifted.tolist()) for lifted in cells.values()}) > len(cells) / 2


@pytest.mark.parametrize("pool", ["mean", "max"])
def test_any_image_encoder_sees_the_views_as_its_own_pictures(pool):
    image = TorchvisionEncoder("mobilenet_v3_small", image_size=32)  # its embedding is read by a hook
    encoder = Projection(image, points=None, views=3, pool=pool).eval()
    with torch.no_grad():
        values = encoder(batch(encoder))
    pooled = values["views"].mean(1) if pool == "mean" else values["views"].amax(1)
    torch.testing.assert_close(values["embedding"], pooled)
    assert values["views"].shape == (3, 3, 1024)
    with torch.no_grad():
        preset = (values["pictures"][1, 2].float() / 255).expand(3, -1, -1)
        told = image.preprocessing()
        pixels = (preset - torch.tensor(told["mean"])[:, None, None]) / torch.tensor(told["std"])[:, None, None]
        direct = image.net.classifier[:-2](image.net.avgpool(image.net.features(pixels[None])).flatten(1))
    torch.testing.assert_close(values["views"][1, 2], direct[0], atol=0.05, rtol=0.05)


def test_only_what_is_wanted_is_looked_at():
    encoder = Projection(ConvNet(widths=[4, 4], blocks=0), points=None, views=2).eval()
    calls = []
    encoder.image.register_forward_hook(lambda *_: calls.append(1))
    with encoder.reading(frozenset({"visible"})):
        assert "embedding" not in encoder(batch(encoder)) and not calls
    with encoder.reading(frozenset({"embedding"})):
        assert "embedding" in encoder(batch(encoder)) and calls


def test_a_student_behind_views_learns():
    recipe = {
        "student": {
            "use": "pointcloud.projection", "points": None, "views": 2, "lift": "pixel_logits",
            "image": {"use": "pointcloud.view_net", "num_classes": 43, "image_size": 16, "widths": [4, 8]},
        },
        "losses": {
            "pixels": {
                "use": "pointcloud.view_cross_entropy", "student": "student.lifted", "label": "batch.part",
                "visible": "student.visible",
            }
        },
        "train": {"steps": 10, "lr": 0.01},
    }  # fmt: skip
    graph = mmkd.build(recipe, data={"train": SHAPES}).train()
    made = graph.collate([SHAPES[i] for i in range(4)])
    optimizers = mmkd.optimizers(graph, mmkd.load_recipe(recipe).train)
    losses = [float(graph.step(made, optimizers)["loss"]) for _ in range(10)]
    assert losses[-1] < losses[0]


def test_what_cannot_be_looked_through_is_refused():
    class Blind(ConvNet):
        def preprocessing(self):
            return None

    with pytest.raises(RecipeError, match="Blind does not say how large"):
        Projection(Blind(widths=[4], blocks=0))
    with pytest.raises(RecipeError, match="has no value 'pixel_logit'; did you mean 'pixel_logits'"):
        Projection(ViewNet(3, 16), lift="pixel_logit")
    encoder = Projection(ViewNet(3, 16), points=None, views=2, lift="embedding")
    with pytest.raises(GraphError, match=r"not a map \[C, h, w\]"):
        encoder(batch(encoder))
