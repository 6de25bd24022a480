"""Any image network of timm."""

from __future__ import annotations

import difflib
import math
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

import timm
from pydantic import Field
from timm.data.config import resolve_model_data_config
from timm.data.transforms_factory import create_transform
from timm.models import save_for_hf
from torch import Tensor, nn

import mmkd
from mmkd.errors import MmkdError
from mmkd_vision import norm, weights
from mmkd_vision.image import rgb

IRREGULAR = frozenset(
    {"CrossVit", "EfficientViM", "HighResolutionNet", "MultiScaleVit", "PyramidVisionTransformerV2", "SelecSls", "VOLO"}
)
"""Networks whose blocks pass lists, pairs or `[B, H, W, C]` to one another."""
ATTENTION = frozenset(
    {
        "timm.layers.attention.Attention", "timm.layers.attention.AttentionRope", "timm.models.beit.Attention",
        "timm.models.eva.EvaAttention", "timm.models.gemma4_vit.Gemma4Attention",
        "timm.models.vision_transformer_relpos.RelPosAttention",
    }
)  # fmt: skip
"""Attention over all tokens that, with `fused_attn` off, passes its map through `attn_drop`."""
_USAGE = """\
import timm
import torch
from PIL import Image

model = timm.create_model("local-dir:.", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
picture = Image.open("picture.png").convert("RGBA")
page = Image.new("RGB", picture.size, "white")  # what is transparent lies on white
page.paste(picture, mask=picture.getchannel("A"))
values = {}
with torch.no_grad():
    features = model.forward_features(transform(page).unsqueeze(0))
VALUES"""
_LOGITS = '    values["logits"] = model.forward_head(features)\n'
_EMBEDDING = '    values["embedding"] = model.forward_head(features, pre_logits=True)\n'
Rate = Annotated[float | None, Field(ge=0, lt=1)]


class TimmEncoder(mmkd.Encoder):
    """Any timm model under its own name, with its own preprocessing (Wightman, 2019).

    Values: `logits` unless it has no classes; `embedding`, what enters the classifier; `tokens`, the last feature
    map, prefix tokens first (`prefix_tokens` of them); `hidden.0` enters the first block (of a transformer) or
    stage (of a convolutional network), `hidden.i` leaves the i-th; `attention.i`, the weights of block i + 1 of a
    transformer after the softmax, prefix tokens first. Only blocks whose map is read compute one. Networks that lay
    features out as `[B, H, W, C]` or several tensors inside (Swin, CrossViT) publish no `hidden`; tap their modules.

    Args:
        model: `arch`, `arch.tag`, `hf-hub:org/name` or `local-dir:folder`.
        pretrained: true for the weights of that tag; `package:name` (an installed package that ships a file of
            weights; nothing of it is imported), `local-dir:folder`, `hf-hub:org/name` or a file for others.
        num_classes: classes of a new head; 0 for none, None for the model's own.
        image_size: side in pixels of the square input; None for the model's own.
        drop_rate: dropout before the classifier.
        drop_path_rate: stochastic depth.
        freeze_norm: leave BatchNorm as it is: running statistics, scale and shift. A teacher's is left alone anyway.
        sha256: checksum that the file behind `pretrained` must have.

    Shape: image `[B, 3, H, W]` -> logits `[B, classes]`, embedding `[B, D]`, tokens and hidden `[B, L, D]` or
        `[B, C, H, W]`, attention `[B, heads, L, L]`.

    Raises:
        MmkdError: there is no such model or file of weights, or it is not the one that was pinned.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"logits", "hidden", "attention", "input_grad"})
    conformance = {"options": {"model": "resnet10t", "image_size": 32}}

    def __init__(
        self,
        model: str,
        pretrained: bool | str = False,
        num_classes: Annotated[int | None, Field(ge=0)] = None,
        image_size: Annotated[int | None, Field(gt=0)] = None,
        drop_rate: Rate = None,
        drop_path_rate: Rate = None,
        freeze_norm: bool = False,
        sha256: str | None = None,
    ) -> None:
        super().__init__()
        from_file = pretrained if isinstance(pretrained, str) else None
        self.net: Any = _create(
            model,
            pretrained=pretrained is True,
            num_classes=None if from_file else num_classes,
            drop_rate=drop_rate,
            drop_path_rate=drop_path_rate,
        )
        if from_file is not None:
            weights.load(self.net, from_file, sha256)
            if num_classes not in (None, self.net.num_classes):
                self.net.reset_classifier(num_classes)
        data: dict[str, Any] = resolve_model_data_config(self.net)  # type: ignore[no-untyped-call]
        if image_size is not None and (image_size, image_size) != data["input_size"][1:]:
            _resize(self.net, model, image_size)
            data["input_size"] = (3, image_size, image_size)
        self.data_config = data
        self._transform = create_transform(**data, is_training=False)
        self._stages = _stages(self.net)
        self._maps = _maps(self.net, self._stages)
        self._fused = {f"/{path}": attention for path, attention in self._maps.values() if attention.fused_attn}
        self._opened: frozenset[str] | None = None  # the values for which attention was last unfused
        self.freeze_norm = freeze_norm
        if freeze_norm:
            norm.freeze(self.net)
        self._fingerprint = weights.digest(self.net) if pretrained else None
        self.license = self.net.pretrained_cfg.get("license") if pretrained is True else None

    @property
    def network(self) -> nn.Module:
        return self.net  # type: ignore[no-any-return]

    @property
    def embedding_dim(self) -> int:
        """Width of `embedding`."""
        return int(getattr(self.net, "head_hidden_size", None) or self.net.num_features)

    @property
    def prefix_tokens(self) -> int:
        """Tokens in front of the patches (class, distillation, registers) in `tokens` and `hidden`."""
        return int(getattr(self.net, "num_prefix_tokens", 0))

    def values(self) -> list[str]:
        hidden = [f"hidden.{i}" for i in range(len(self._stages) + 1)] if self._stages else []
        return [*(["logits"] if self.net.num_classes else []), "embedding", "tokens", *hidden, *self._maps]

    def locate(self, name: str) -> str | None:
        if name in self._maps:
            return self._maps[name][0]
        kind, _, index = name.partition(".")
        if kind != "hidden":
            return None
        return self._stages[int(index) - 1] if int(index) else f"{self._stages[0]}.input"

    def transform(self, sample: mmkd.Sample) -> dict[str, Any]:
        return {"image": self._transform(rgb(sample["image"]))}

    def transform_key(self) -> Hashable:
        return "timm", repr(sorted(self.data_config.items()))

    def preprocessing(self) -> dict[str, Any]:
        about = self.data_config
        known = {
            "size": list(about["input_size"][1:]), "interpolation": about["interpolation"],
            "mean": list(about["mean"]), "std": list(about["std"]), "channels": "RGB",
        }  # fmt: skip
        scaled = [math.floor(side / about["crop_pct"]) for side in known["size"]]
        if about["crop_mode"] == "squash":
            known["resize"] = scaled
        elif about["crop_mode"] == "center" and scaled[0] == scaled[1]:
            known["resize"] = scaled[0]
        return known

    def formats(self) -> list[str]:
        return ["timm"]

    def export(self, folder: Path, format: str) -> str:
        data = {key: value for key, value in self.data_config.items() if value is not None}
        save_for_hf(self.net, str(folder), safe_serialization=True, data_config=data)
        return _USAGE.replace("VALUES", _LOGITS if self.net.num_classes else "") + _EMBEDDING

    def fingerprint(self) -> str | None:
        """SHA-256 over names and bytes of the state that was loaded; None for random weights."""
        return self._fingerprint

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if self.freeze_norm:
            norm.freeze(self.net)
        return self

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        if self.wanted is not self._opened:
            self._open()
        features = self.net.forward_features(image)
        values: dict[str, Tensor] = {}
        if self.wants("embedding"):
            values["embedding"] = self.net.forward_head(features, pre_logits=True)
        if self.wants("logits") and self.net.num_classes:
            values["logits"] = self._logits(features, values.get("embedding"))
        if self.wants("tokens"):
            values |= self._tokens(features)
        return values

    def _open(self) -> None:
        """Unfuse the attention whose map is read, so that there is one, and only that."""
        for path, attention in self._fused.items():
            attention.fused_attn = path not in (self.wanted or ())
        self._opened = self.wanted

    def _logits(self, features: Any, embedding: Tensor | None) -> Tensor:
        classifier = self.net.get_classifier()
        # VOLO adds an auxiliary head; others classify with several, or with a convolution
        if embedding is not None and isinstance(classifier, nn.Linear) and not hasattr(self.net, "aux_head"):
            logits: Tensor = classifier(embedding)
        else:
            logits = self.net.forward_head(features)
        return logits

    def _tokens(self, features: Any) -> Mapping[str, Tensor]:
        if isinstance(features, Tensor):
            channels_last = getattr(self.net, "output_fmt", "") == "NHWC"
            return {"tokens": features.permute(0, 3, 1, 2) if channels_last else features}
        if self.wanted is None:
            return {}
        raise MmkdError(
            f"{type(self.net).__name__} ends in {len(features)} feature maps, not in one 'tokens'",
            next="tap one of its modules: teacher/<path>",
        )


def _create(model: str, **options: Any) -> Any:
    architecture, colon, _ = model.partition(":")
    architecture = architecture.partition(".")[0]
    if not colon and not timm.is_model(architecture):
        near = difflib.get_close_matches(architecture, timm.list_models(), n=5)
        raise MmkdError(
            f"timm {timm.__version__} has no model '{architecture}'", name=architecture, exists=near,
            next="""python -c "import timm; print(timm.list_models('*vit*'))\"""",
        )  # fmt: skip
    return timm.create_model(model, **options)


def _resize(network: Any, model: str, image_size: int) -> None:
    if hasattr(network, "set_input_size"):
        network.set_input_size(img_size=image_size)
    elif network.pretrained_cfg.get("fixed_input_size"):
        side = network.pretrained_cfg["input_size"][-1]
        raise MmkdError(f"'{model}' takes images of {side} pixels only, not {image_size}", next=f"image_size: {side}")


def _stages(network: nn.Module) -> list[str]:
    """Paths of the blocks of a transformer or the stages of a convolutional network, in order."""
    if getattr(network, "output_fmt", "") == "NHWC" or type(network).__name__ in IRREGULAR:
        return []
    modules = dict(network.named_modules())
    for name in ("blocks", "stages", "layers"):
        if isinstance(container := modules.get(name), nn.Sequential | nn.ModuleList):
            paths = [f"{name}.{i}" for i in range(len(container))]
            return [] if any(isinstance(modules[path], nn.ModuleList) for path in paths) else paths
    info = getattr(network, "feature_info", [])
    paths = [entry["module"] for entry in info if isinstance(entry, dict)]
    return [path for path in paths if path and path != "stem" and _nested(modules.get(path))]


def _maps(network: nn.Module, blocks: Sequence[str]) -> dict[str, tuple[str, Any]]:
    """By `attention.i`: where the map enters the dropout, and the attention that computes it."""
    found: dict[str, tuple[str, Any]] = {}
    for i, block in enumerate(blocks):
        attention = getattr(network.get_submodule(block), "attn", None)
        if f"{type(attention).__module__}.{type(attention).__qualname__}" in ATTENTION:
            found[f"attention.{i}"] = (f"{block}.attn.attn_drop.input", attention)
    return found


def _nested(module: nn.Module | None) -> bool:
    """Whether it is a group of layers rather than the activation or norm after a stem."""
    if module is None or isinstance(module, nn.ModuleList):
        return False
    return any(True for child in module.children() for _ in child.parameters())
