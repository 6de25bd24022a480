import pytest
import torch
from mmkd_vision.image import rgb
from mmkd_vision.timm import TimmEncoder
from PIL import Image
from timm.data import create_transform, resolve_model_data_config

from mmkd.errors import MmkdError


@pytest.fixture(scope="module")
def vit():
    torch.manual_seed(0)
    return TimmEncoder("test_vit", num_classes=7, image_size=64).eval()


@pytest.fixture(scope="module")
def resnet():
    torch.manual_seed(0)
    return TimmEncoder("test_resnet", num_classes=7).eval()


def taps(encoder, image):
    """Located values, read by hooks."""
    read, handles = {}, []
    for name in encoder.values():
        path = encoder.locate(name)
        if path is None:
            continue
        module = encoder.network.get_submodule(path.removesuffix(".input"))
        if path.endswith(".input"):
            handles.append(module.register_forward_pre_hook(lambda m, args, name=name: read.update({name: args[0]})))
        else:
            handles.append(module.register_forward_hook(lambda m, args, out, name=name: read.update({name: out})))
    encoder(image)
    for handle in handles:
        handle.remove()
    return read


def test_forward_equals_the_network(vit, resnet):
    image = torch.randn(2, 3, 64, 64)
    for encoder in (vit, resnet):
        values = encoder(image)
        torch.testing.assert_close(values["logits"], encoder.network(image))
        torch.testing.assert_close(values["tokens"], encoder.network.forward_features(image))
        torch.testing.assert_close(encoder.network.get_classifier()(values["embedding"]), values["logits"])


def test_hidden_of_a_transformer(vit):
    image = torch.randn(2, 3, 64, 64)
    read, network = taps(vit, image), vit.network
    assert sorted(read) == [f"hidden.{i}" for i in range(7)]
    assert vit.prefix_tokens == 1
    assert read["hidden.0"].shape == (2, 1 + 16, 64)
    x = read["hidden.0"]
    for i, block in enumerate(network.blocks, start=1):
        x = block(x)
        torch.testing.assert_close(read[f"hidden.{i}"], x)
    torch.testing.assert_close(network.norm(x), vit(image)["tokens"])


def test_hidden_of_a_convolutional_network(resnet):
    image = torch.randn(1, 3, 64, 64)
    read = taps(resnet, image)
    paths = ["layer1.input", "layer1", "layer2", "layer3", "layer4"]
    assert [resnet.locate(f"hidden.{i}") for i in range(len(read))] == paths
    torch.testing.assert_close(read["hidden.4"], resnet(image)["tokens"])


def test_only_what_is_wanted_is_computed(vit):
    image = torch.randn(1, 3, 64, 64)
    everything = vit(image)
    for name in ("embedding", "logits", "tokens"):
        try:
            vit.wanted = frozenset({name})
            values = vit(image)
        finally:
            vit.wanted = None
        assert list(values) == [name]
        torch.testing.assert_close(values[name], everything[name])


def test_without_classes_there_are_no_logits():
    encoder = TimmEncoder("test_vit", num_classes=0, image_size=32).eval()
    assert "logits" not in encoder.values()
    assert "logits" not in encoder(torch.randn(1, 3, 32, 32))


def test_features_laid_out_channels_last_come_channels_first():
    encoder = TimmEncoder("test_mambaout", num_classes=0).eval()
    assert encoder(torch.randn(1, 3, 64, 64))["tokens"].shape == (1, 64, 2, 2)
    assert encoder.values() == ["embedding", "tokens"]


def test_transform_is_timms_own(vit):
    image = Image.effect_noise((90, 50), 80).convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    expected = create_transform(**{**resolve_model_data_config(vit.network), "input_size": (3, 64, 64)})(rgb(image))
    torch.testing.assert_close(vit.transform({"image": image})["image"], expected, rtol=0, atol=0)


def test_equal_preprocessing_is_shared(vit):
    assert vit.transform_key() == TimmEncoder("test_vit", image_size=64).transform_key()
    assert vit.transform_key() != TimmEncoder("test_vit").transform_key()


def test_fingerprint_follows_the_weights(tmp_path, monkeypatch):
    import timm

    made = []
    original = timm.create_model

    def create(model, *, pretrained, **options):
        torch.manual_seed(len(made) // 2)
        made.append(pretrained)
        return original(model, pretrained=False, **{k: v for k, v in options.items() if v is not None})

    monkeypatch.setattr(timm, "create_model", create)
    prints = [TimmEncoder("test_resnet", pretrained=True).fingerprint() for _ in range(3)]
    assert made == [True] * 3
    assert prints[0] == prints[1] != prints[2]
    assert prints[0].startswith("sha256:")
    assert TimmEncoder("test_resnet").fingerprint() is None


def test_unknown_model_names_the_nearest():
    with pytest.raises(MmkdError, match="did you mean 'resnet18'"):
        TimmEncoder("resnet_18")


def test_a_fixed_input_size_is_said():
    with pytest.raises(MmkdError, match="takes images of 224 pixels only"):
        TimmEncoder("mixer_s32_224", image_size=64)
