import pytest
import torch
from mmkd_vision import weights
from mmkd_vision.image import rgb
from mmkd_vision.torchvision import TorchvisionEncoder
from PIL import Image
from torch import nn
from torchvision.models import MobileNet_V2_Weights, VisionTransformer, mobilenet_v2, squeezenet1_1

import mmkd
from mmkd.errors import MmkdError


def batch(size=64):
    return {"image": torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))}


def read(encoder, **fields):
    """All values as the host reads them."""
    recipe = {"student": {}, "losses": {"a": {"use": "core.mse", "student": "student.tokens", "teacher": "batch.x"}}}
    graph = mmkd.build(recipe, nodes={"student": encoder}, example={**fields, "x": 0 * encoder_tokens(encoder, fields)})
    graph.eval()
    with torch.no_grad():
        values = graph.values(fields, [f"student.{name}" for name in encoder.values()])
    return {name.removeprefix("student."): value for name, value in values.items()}


def encoder_tokens(encoder, fields):
    seen = []
    handle = encoder.network.get_submodule(encoder.locate("tokens")).register_forward_hook(
        lambda m, args, out: seen.append(out.detach().clone())
    )
    encoder.eval()(**fields)
    handle.remove()
    return seen[0]


@pytest.mark.parametrize(
    ("model", "tokens", "hidden"),
    [
        ("resnet18", (512, 2, 2), 5),
        ("mobilenet_v2", (1280, 2, 2), 19),
        ("mobilenet_v3_small", (576, 2, 2), 13),
        ("efficientnet_b0", (1280, 2, 2), 9),
        ("shufflenet_v2_x0_5", (1024, 2, 2), 4),
        ("regnet_y_400mf", (440, 2, 2), 5),
        ("swin_t", (768, 2, 2), 0),
        ("squeezenet1_1", (512, 3, 3), 0),
        ("densenet121", (1024, 2, 2), 0),
    ],
)
def test_values_by_family(model, tokens, hidden):
    torch.manual_seed(0)
    encoder = TorchvisionEncoder(model, num_classes=7, image_size=64)
    values = read(encoder, **batch())
    assert values["logits"].shape == (2, 7)
    assert values["tokens"].shape == (2, *tokens)
    assert len([name for name in values if name.startswith("hidden.")]) == hidden
    torch.testing.assert_close(values["logits"], encoder.network(batch()["image"]))
    if model == "squeezenet1_1":
        assert "embedding" not in values
    else:
        classifier = encoder.network.get_submodule(encoder._head)
        torch.testing.assert_close(classifier(values["embedding"]), values["logits"])


def test_hidden_of_a_resnet_are_its_stages():
    torch.manual_seed(0)
    encoder = TorchvisionEncoder("resnet18", num_classes=0)
    values, net = read(encoder, **batch()), encoder.network
    assert "logits" not in values
    x = values["hidden.0"]
    for i, stage in enumerate((net.layer1, net.layer2, net.layer3, net.layer4), start=1):
        x = stage(x)
        torch.testing.assert_close(values[f"hidden.{i}"], x)
    torch.testing.assert_close(values["tokens"], x)
    torch.testing.assert_close(values["embedding"], x.mean((2, 3)))


@pytest.fixture
def small_vit(monkeypatch):
    def get_model(name, *, weights, image_size=224):
        return VisionTransformer(image_size, patch_size=16, num_layers=2, num_heads=2, hidden_dim=24, mlp_dim=48)

    monkeypatch.setattr("mmkd_vision.torchvision.get_model", get_model)
    return get_model


def test_a_vit_of_another_size(small_vit):
    torch.manual_seed(0)
    encoder = TorchvisionEncoder("vit_b_16", num_classes=3, image_size=32)
    values = read(encoder, **batch(32))
    assert encoder.prefix_tokens == 1
    assert values["hidden.0"].shape == values["tokens"].shape == (2, 1 + 4, 24)
    torch.testing.assert_close(values["tokens"][:, 0], values["embedding"])
    torch.testing.assert_close(values["tokens"], encoder.network.encoder.ln(values["hidden.2"]))
    with pytest.raises(MmkdError, match="do not tile images of 40"):
        TorchvisionEncoder("vit_b_16", image_size=40)


def test_pretrained_position_embeddings_are_interpolated(tmp_path, small_vit):
    torch.manual_seed(0)
    torch.save(small_vit("vit_b_16", weights=None).state_dict(), tmp_path / "vit.pth")
    encoder = TorchvisionEncoder("vit_b_16", pretrained=str(tmp_path), image_size=64)
    source = torch.load(tmp_path / "vit.pth", weights_only=True)
    assert encoder.network.encoder.pos_embedding.shape == (1, 17, 24)
    torch.testing.assert_close(encoder.network.encoder.pos_embedding[:, :1], source["encoder.pos_embedding"][:, :1])
    torch.testing.assert_close(encoder.network.conv_proj.weight, source["conv_proj.weight"])


def test_the_transform_is_that_of_the_tag():
    image = Image.effect_noise((300, 280), 80).convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    for tag, preset in (("IMAGENET1K_V1", MobileNet_V2_Weights.IMAGENET1K_V1), ("", MobileNet_V2_Weights.DEFAULT)):
        encoder = TorchvisionEncoder(f"mobilenet_v2.{tag}".rstrip("."))
        row = encoder.transform({"image": image})["image"]
        torch.testing.assert_close(row, preset.transforms()(rgb(image)), rtol=0, atol=0)
    half = TorchvisionEncoder("resnet18", image_size=112)
    assert half.transform({"image": image})["image"].shape == (3, 112, 112)
    assert half.preprocessing()["resize"] == 128
    assert half.preprocessing()["size"] == [112, 112]
    assert half.transform_key() == TorchvisionEncoder("mobilenet_v2.IMAGENET1K_V1", image_size=112).transform_key()


def test_pretrained_loads_the_weights_of_the_tag(monkeypatch):
    asked = []
    torch.manual_seed(0)
    state = mobilenet_v2().state_dict()
    monkeypatch.setattr(MobileNet_V2_Weights, "get_state_dict", lambda self, **_: asked.append(self) or state)
    encoder = TorchvisionEncoder("mobilenet_v2.IMAGENET1K_V2", pretrained=True, num_classes=4).eval()
    assert asked == [MobileNet_V2_Weights.IMAGENET1K_V2]
    torch.testing.assert_close(encoder.network.features[0][0].weight, state["features.0.0.weight"])
    assert encoder(**batch())["logits"].shape == (2, 4)
    assert encoder.fingerprint() == weights.digest(encoder.network)
    assert TorchvisionEncoder("mobilenet_v2").fingerprint() is None


def test_weights_that_cannot_be_downloaded(monkeypatch):
    def offline(self, **_):
        raise OSError("no route")

    monkeypatch.setattr(MobileNet_V2_Weights, "get_state_dict", offline)
    with pytest.raises(MmkdError, match="could not be had from torchvision: OSError: no route"):
        TorchvisionEncoder("mobilenet_v2", pretrained=True)


def test_norms_are_frozen_where_asked():
    torch.manual_seed(0)
    encoder = TorchvisionEncoder("resnet18", num_classes=2, freeze_norm=True).train()
    assert not [m for m in encoder.modules() if isinstance(m, nn.BatchNorm2d) and m.training]
    assert encoder.network.fc.weight.requires_grad and not encoder.network.bn1.weight.requires_grad
    assert TorchvisionEncoder("resnet18").train().network.bn1.training


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("resnet_18", "has no classification model 'resnet_18'; did you mean 'resnet18'"),
        ("fasterrcnn_resnet50_fpn", "has no classification model"),
        ("resnet18.IMAGENET1K_V9", "resnet18 has no weights 'IMAGENET1K_V9'; did you mean 'IMAGENET1K_V1'"),
    ],
)
def test_unknown_names_say_what_there_is(model, said):
    with pytest.raises(MmkdError, match=said):
        TorchvisionEncoder(model)


def test_the_weights_of_another_network_are_refused(tmp_path):
    torch.save(squeezenet1_1().state_dict(), tmp_path / "squeezenet.pth")
    with pytest.raises(MmkdError, match="does not fit MobileNetV2"):
        TorchvisionEncoder("mobilenet_v2", pretrained=str(tmp_path / "squeezenet.pth"))
