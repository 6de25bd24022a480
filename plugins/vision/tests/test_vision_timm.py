import pytest
import timm
import torch
import torch.nn.functional as F
from mmkd_vision import weights
from mmkd_vision.image import rgb
from mmkd_vision.timm import TimmEncoder
from PIL import Image
from timm.data import create_transform, resolve_model_data_config
from timm.models import save_for_hf

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


def read(encoder, image, *names):
    """Values as the host reads them."""
    seen, handles, paths = {}, [], {name: encoder.locate(name) for name in names}
    for name, path in paths.items():
        module = encoder.network.get_submodule(path.removesuffix(".input"))
        handles.append(module.register_forward_pre_hook(lambda m, args, name=name: seen.update({name: args[0]})))
    with encoder.reading(frozenset(["tokens", *(f"/{path}" for path in paths.values())])):
        seen["tokens"] = encoder(image)["tokens"]
    for handle in handles:
        handle.remove()
    return seen


def fused_calls(monkeypatch):
    calls, fused = [], F.scaled_dot_product_attention
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda *a, **k: calls.append(a) or fused(*a, **k))
    return calls


@pytest.mark.parametrize(
    ("model", "prefix"), [("test_vit", 1), ("test_vit3", 1), ("test_vit_relpos", 0), ("eva02_tiny_patch14_224", 1)]
)
def test_attention_maps_are_the_softmax_of_the_fused_kernel(model, prefix, monkeypatch):
    torch.manual_seed(0)
    encoder = TimmEncoder(model, image_size=56 if "14" in model else 64).eval()
    names = [name for name in encoder.values() if name.startswith("attention.")]
    assert len(names) == len(encoder.network.blocks)
    image, wanted = torch.randn(2, 3, *encoder.data_config["input_size"][1:]), ("attention.0", names[-1])
    calls = fused_calls(monkeypatch)
    with encoder.reading(frozenset({"tokens"})):
        tokens = encoder(image)["tokens"]
    inputs = [calls[0], calls[-1]]
    assert len(calls) == len(names)
    calls.clear()
    seen = read(encoder, image, *wanted)
    assert len(calls) == len(names) - 2  # the others stay fused
    torch.testing.assert_close(seen["tokens"], tokens, rtol=1e-4, atol=1e-5)
    for name, (query, key, *_) in zip(wanted, inputs, strict=True):
        assert seen[name].shape == (2, query.shape[1], query.shape[2], query.shape[2])
        assert seen[name].shape[-1] == tokens.shape[1] and encoder.prefix_tokens == prefix
        if "relpos" not in model:
            scores = query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5
            torch.testing.assert_close(seen[name], scores.softmax(-1), rtol=0, atol=1e-5)
        torch.testing.assert_close(seen[name].sum(-1), torch.ones(seen[name].shape[:-1]))


def test_attention_is_fused_again_once_nobody_reads_it(vit, monkeypatch):
    image, calls = torch.randn(1, 3, 64, 64), fused_calls(monkeypatch)
    read(vit, image, "attention.2")
    with vit.reading(frozenset({"tokens"})):
        calls.clear()
        vit(image)
    assert len(calls) == 6
    vit(image)
    assert len(calls) == 12


def test_networks_without_a_map_over_all_tokens_publish_none(resnet):
    for encoder in (resnet, TimmEncoder("xcit_nano_12_p16_224")):
        assert not [name for name in encoder.values() if name.startswith("attention")]


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


def test_a_local_folder_is_a_model(tmp_path):
    torch.manual_seed(0)
    source = timm.create_model("test_resnet", num_classes=5)
    save_for_hf(source, tmp_path, model_config={"pretrained_cfg": {"mean": [0.1, 0.2, 0.3], "num_classes": 5}})
    encoder = TimmEncoder(f"local-dir:{tmp_path}", pretrained=True).eval()
    image = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(encoder(image)["logits"], source.eval()(image))
    assert encoder.preprocessing()["mean"] == [0.1, 0.2, 0.3]
    assert encoder.fingerprint() == weights.digest(source)


def test_a_tag_and_a_hub_id_reach_timm(monkeypatch):
    asked = []
    original = timm.create_model

    def create(model, **options):
        asked.append((model, options["pretrained"]))
        return original("test_resnet")

    monkeypatch.setattr(timm, "create_model", create)
    TimmEncoder("resnet18.a1_in1k", pretrained=True)
    TimmEncoder("hf-hub:timm/test_resnet.r160_in1k", pretrained=True)
    assert asked == [("resnet18.a1_in1k", True), ("hf-hub:timm/test_resnet.r160_in1k", True)]


def test_weights_from_a_file_and_a_new_head(tmp_path):
    torch.manual_seed(0)
    source = timm.create_model("test_resnet").eval()
    torch.save(source.state_dict(), tmp_path / "test.pth")
    encoder = TimmEncoder("test_resnet", pretrained=str(tmp_path / "test.pth"), num_classes=3).eval()
    image = torch.randn(1, 3, 64, 64)
    values = encoder(image)
    torch.testing.assert_close(values["tokens"], source.forward_features(image))
    assert values["logits"].shape == (1, 3)
    again = TimmEncoder("test_resnet", num_classes=3)  # as an exported student is built
    again.load_state_dict(encoder.state_dict())


def test_frozen_norms_stay_while_the_rest_trains():
    torch.manual_seed(0)
    encoder = TimmEncoder("test_resnet", num_classes=3, freeze_norm=True)
    before = {name: buffer.clone() for name, buffer in encoder.named_buffers()}
    encoder.train()
    encoder(torch.randn(2, 3, 64, 64))["logits"].sum().backward()
    assert all(torch.equal(buffer, before[name]) for name, buffer in encoder.named_buffers())
    trained = {name for name, p in encoder.named_parameters() if p.grad is not None}
    assert trained and not [name for name in trained if ".bn" in name]
    free = TimmEncoder("test_resnet", num_classes=3).train()
    free(torch.randn(2, 3, 64, 64))
    assert any(not torch.equal(buffer, before[name]) for name, buffer in free.named_buffers())
