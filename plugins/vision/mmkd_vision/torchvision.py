"""Any classification network of torchvision."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Annotated, Any, ClassVar, Self

import torchvision
from pydantic import Field
from torch import Tensor, nn
from torchvision.models import VisionTransformer, get_model, get_model_weights, list_models
from torchvision.models.vision_transformer import interpolate_embeddings
from torchvision.transforms._presets import ImageClassification

import mmkd
from mmkd.errors import MmkdError
from mmkd_vision import norm, weights
from mmkd_vision.image import rgb

LAST_MAP = (
    "encoder", "permute", "features", "layer4", "trunk_output", "conv5", "layers", "blocks", "inception5b", "Mixed_7c",
)  # fmt: skip
"""Where networks of torchvision have their tokens or last feature map: the first of these that a network has."""
STAGES = ("encoder.layers", "layer1 layer2 layer3 layer4", "trunk_output", "stage2 stage3 stage4", "blocks")
"""Where they keep their blocks or stages, in order; `features` is looked at apart."""


class TorchvisionEncoder(mmkd.Encoder):
    """Any classification network of torchvision under its own name, with its own preprocessing.

    Values: `logits` unless it has no classes; `embedding`, what enters the classifier; `tokens`, the last feature map
    or, of a ViT, the class token and the patches after the final norm. Where a network is regular, `hidden.0` enters
    the first block or stage and `hidden.i` leaves the i-th; tap the modules of others.

    Args:
        model: `arch`, or `arch.TAG` where TAG names weights of it; the preprocessing is that of these weights, of
            torchvision's default ones without a tag.
        pretrained: true for the weights of that tag; `package:name` (an installed package that ships a file of
            weights; nothing of it is imported), `local-dir:folder`, `hf-hub:org/name` or a file for others.
        num_classes: classes of a new head; 0 for none, None for the model's own 1000.
        image_size: side in pixels of the square input; None for that of the weights.
        freeze_norm: leave BatchNorm as it is: running statistics, scale and shift. A teacher's is left alone anyway.
        sha256: checksum that the file behind `pretrained` must have.

    Shape: image `[B, 3, H, W]` -> logits `[B, classes]`, embedding `[B, D]`, tokens and hidden `[B, L, D]` or
        `[B, C, H, W]`.

    Raises:
        MmkdError: there is no such model, tag or file of weights, or it is not the one that was pinned.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"logits", "hidden", "input_grad"})
    conformance = {"options": {"model": "mobilenet_v3_small", "image_size": 32}}

    def __init__(
        self,
        model: str,
        pretrained: bool | str = False,
        num_classes: Annotated[int | None, Field(ge=0)] = None,
        image_size: Annotated[int | None, Field(gt=0)] = None,
        freeze_norm: bool = False,
        sha256: str | None = None,
    ) -> None:
        super().__init__()
        name, _, tag = model.partition(".")
        from_file = pretrained if isinstance(pretrained, str) else None
        entry = _weights(name, tag or "DEFAULT")
        self.net: Any = _pretrained(name, entry) if pretrained is True else get_model(name, weights=None)
        if from_file is not None:
            weights.load(self.net, from_file, sha256)
        self.preset = _preset(entry, image_size)
        self.net = _resized(self.net, name, self.preset.crop_size[0])
        self._head, self._embedding = _head(self.net)
        if num_classes is not None:
            _classify(self.net, self._head, num_classes)
        self.num_classes = len(entry.meta["categories"]) if num_classes is None else num_classes
        modules = dict(self.net.named_modules())
        self._stages = _stages(modules)
        self._tokens = next(path for path in LAST_MAP if path in modules)
        if isinstance(modules[self._tokens], nn.ModuleList):  # it has no output of its own
            self._tokens = self._stages[-1]
        self.freeze_norm = freeze_norm
        if freeze_norm:
            norm.freeze(self.net)
        self._fingerprint = weights.digest(self.net) if pretrained else None

    @property
    def network(self) -> nn.Module:
        return self.net  # type: ignore[no-any-return]

    @property
    def prefix_tokens(self) -> int:
        """Tokens in front of the patches (the class token) in `tokens` and `hidden`."""
        return int(isinstance(self.net, VisionTransformer))

    def values(self) -> list[str]:
        logits = ["logits"] if self.num_classes else []
        embedding = ["embedding"] if self._embedding else []
        return [*logits, *embedding, "tokens", *(f"hidden.{i}" for i in range(len(self._stages) + 1) if self._stages)]

    def locate(self, name: str) -> str | None:
        kind, _, index = name.partition(".")
        if kind == "hidden":
            return self._stages[int(index) - 1] if int(index) else f"{self._stages[0]}.input"
        return {"embedding": self._embedding, "tokens": self._tokens}.get(name)

    def transform(self, sample: mmkd.Sample) -> dict[str, Any]:
        return {"image": self.preset(rgb(sample["image"]))}

    def transform_key(self) -> Hashable:
        return "torchvision", repr(self.preset)

    def preprocessing(self) -> dict[str, Any]:
        preset = self.preset
        return {
            "size": preset.crop_size * 2, "resize": preset.resize_size[0], "interpolation": preset.interpolation.value,
            "mean": list(preset.mean), "std": list(preset.std), "channels": "RGB",
        }  # fmt: skip

    def fingerprint(self) -> str | None:
        """SHA-256 over names and bytes of the state that was loaded; None for random weights."""
        return self._fingerprint

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if self.freeze_norm:
            norm.freeze(self.net)
        return self

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        output = self.net(image)
        # GoogLeNet and Inception add auxiliary logits while they train
        logits = output if isinstance(output, Tensor) else output.logits
        return {"logits": logits} if self.num_classes else {}


def _weights(name: str, tag: str) -> Any:
    """The entry of torchvision's weights."""
    models = list_models(module=torchvision.models)
    if name not in models:
        raise MmkdError(
            f"torchvision {torchvision.__version__} has no classification model '{name}'", name=name, exists=models
        )
    entries = get_model_weights(name)
    if tag not in entries.__members__:
        raise MmkdError(f"{name} has no weights '{tag}'", name=tag, exists=list(entries.__members__))
    return entries[tag]


def _pretrained(name: str, entry: Any) -> Any:
    try:
        return get_model(name, weights=entry)
    except OSError as error:
        raise MmkdError(
            f"the weights {entry.name} of {name} could not be had from torchvision: {type(error).__name__}: {error}",
            next="pretrained: package:name, local-dir:folder, hf-hub:org/name or a file",
        ) from error


def _preset(entry: Any, image_size: int | None) -> Any:
    """The preprocessing of these weights, in proportion at another size."""
    preset = entry.transforms()
    if image_size is None or image_size == preset.crop_size[0]:
        return preset
    return ImageClassification(
        crop_size=image_size, resize_size=round(preset.resize_size[0] * image_size / preset.crop_size[0]),
        mean=preset.mean, std=preset.std, interpolation=preset.interpolation, antialias=preset.antialias,
    )  # fmt: skip


def _resized(network: Any, name: str, image_size: int) -> Any:
    """A ViT for images of this size, its position embeddings interpolated; others take any."""
    if not isinstance(network, VisionTransformer) or network.image_size == image_size:
        return network
    if image_size % network.patch_size:
        raise MmkdError(
            f"patches of {network.patch_size} pixels do not tile images of {image_size}",
            next=f"image_size: {max(1, image_size // network.patch_size) * network.patch_size}",
        )
    resized = get_model(name, weights=None, image_size=image_size)
    resized.load_state_dict(interpolate_embeddings(image_size, network.patch_size, network.state_dict()))
    return resized


def _head(network: nn.Module) -> tuple[str, str]:
    """Paths of the classifier's last layer, and of what enters it (before its dropout; empty where that is a map)."""
    layers = [(path, m) for path, m in network.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    path, layer = [(p, m) for p, m in layers if not p.startswith(("AuxLogits", "aux"))][-1]
    if isinstance(layer, nn.Conv2d):
        return path, ""
    parent, _, index = path.rpartition(".")
    before = f"{parent}.{int(index) - 1}" if index.isdigit() and int(index) else ""
    if before and isinstance(network.get_submodule(before), nn.Dropout):
        return path, f"{before}.input"
    return path, f"{path}.input"


def _classify(network: nn.Module, path: str, num_classes: int) -> None:
    """Put a new last layer in place of the classifier's."""
    parent, _, name = path.rpartition(".")
    old = network.get_submodule(path)
    new: nn.Module = nn.Identity()
    if num_classes and isinstance(old, nn.Linear):
        new = nn.Linear(old.in_features, num_classes, bias=old.bias is not None)
    elif num_classes and isinstance(old, nn.Conv2d):
        new = nn.Conv2d(old.in_channels, num_classes, old.kernel_size)  # type: ignore[arg-type]
    setattr(network.get_submodule(parent), name, new)


def _stages(modules: dict[str, nn.Module]) -> list[str]:
    """Paths of blocks or stages, in order; none where they are irregular or lay features out as `[B, H, W, C]`."""
    if "permute" in modules:
        return []
    for names in STAGES:
        paths = names.split()
        if len(paths) > 1 and paths[0] in modules and paths[-1] in modules:
            return paths
        container = modules.get(names)
        if isinstance(container, nn.Sequential | nn.ModuleList):
            return [f"{names}.{name}" for name, _ in container.named_children()]
    children = dict(modules["features"].named_children()) if "features" in modules else {}
    if all(isinstance(child, nn.Module) and any(True for _ in child.children()) for child in children.values()):
        return [f"features.{name}" for name in children][1:]
    return []
