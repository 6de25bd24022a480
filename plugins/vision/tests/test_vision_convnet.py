import pytest
import torch
from mmkd_vision.convnet import ConvNet
from PIL import Image

from mmkd.errors import MmkdError


def test_values_and_locations():
    net = ConvNet(widths=[8, 16, 24], blocks=[1, 0, 2], dim=10, num_classes=5).eval()
    assert net.values() == ["embedding", "logits", "tokens", "hidden.0", "hidden.1", "hidden.2", "hidden.3"]
    image = torch.randn(2, 3, 32, 32)
    values = net(image)
    x = net.stem(image)
    assert x.shape == (2, 8, 16, 16)
    assert net.locate("hidden.0") == "stages.0.input"
    for i in range(1, 4):
        x = net.get_submodule(net.locate(f"hidden.{i}"))(x)
    assert x.shape == (2, 24, 4, 4)
    assert net.locate("tokens") == net.locate("hidden.3")
    torch.testing.assert_close(values["tokens"], x)
    torch.testing.assert_close(values["embedding"], net.project(x.mean((2, 3))))
    torch.testing.assert_close(values["logits"], net.head(values["embedding"]))


def test_without_classes_or_dim():
    net = ConvNet(widths=[4, 8])
    values = net(torch.randn(2, 3, 32, 32))
    assert "logits" not in net.values()
    assert sorted(values) == ["embedding", "tokens"]
    assert values["embedding"].shape == (2, 8)


def test_residual_blocks_start_as_identity():
    torch.manual_seed(0)
    net = ConvNet(widths=[4], blocks=3, activation="relu").eval()
    x = net.stem(torch.randn(1, 3, 32, 32))
    torch.testing.assert_close(net.stages(x), x)


def test_strides_set_the_resolution():
    assert ConvNet(widths=[4, 4], strides=[2, 4])(torch.randn(2, 3, 32, 32))["tokens"].shape == (2, 4, 4, 4)


@pytest.mark.parametrize("options", [{"widths": [0]}, {"blocks": -1}, {"strides": [1, 0, 2]}])
def test_numbers_too_small_are_refused(options):
    with pytest.raises(MmkdError, match="at least"):
        ConvNet(**options)


@pytest.mark.parametrize("options", [{"blocks": [1]}, {"strides": [1, 2, 2]}])
def test_lists_of_the_wrong_length_are_refused(options):
    with pytest.raises(MmkdError, match="for 2 widths"):
        ConvNet(widths=[4, 8], **options)


def test_transform_maps_white_to_one_and_averages():
    net = ConvNet(image_size=32)
    clear = net.transform({"image": Image.new("RGBA", (50, 20), (0, 0, 0, 0))})["image"]
    assert clear.shape == (3, 32, 32)
    assert clear.dtype == torch.float32
    assert (clear == 1).all()
    checks = Image.new("L", (256, 256))
    checks.putdata([255 * ((i + i // 256) % 2) for i in range(256 * 256)])
    assert net.transform({"image": checks})["image"].abs().max() < 0.05
    black = Image.new("RGB", (32, 32))
    black.putpixel((3, 1), (255, 0, 0))
    pixels = net.transform({"image": black})["image"]
    assert pixels[0, 1, 3] == 1
    assert pixels.sum() == 2 - pixels.numel()


def test_every_parameter_learns():
    net = ConvNet(widths=[4, 8], blocks=1, dim=6, num_classes=3)
    net(torch.randn(4, 3, 32, 32))["logits"].square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
