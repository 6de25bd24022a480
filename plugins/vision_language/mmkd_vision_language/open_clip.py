"""Any contrastive image-text network of open_clip."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Hashable
from pathlib import Path
from typing import Any, ClassVar

import open_clip
import torch
from mmkd_vision.image import rgb
from open_clip.transform import PreprocessCfg, image_transform_v2
from torch import Tensor, nn

import mmkd
from mmkd.errors import GraphError, MmkdError

FIELDS = ("image", "text")


class OpenCLIPEncoder(mmkd.Encoder):
    """Any open_clip model under its own name, both towers, with its own preprocessing (Ilharco et al., 2021).

    Values: `image.embedding` and `text.embedding`, of length 1 as CLIP compares them; for transformers
    `image.hidden.0`, which enters the first block, and `image.hidden.i`, which leaves block i, class token first,
    and `text.hidden.<i>` alike. The scale of the logits is the parameter `teacher/logit_scale` (a logarithm).

    A tower that nobody reads is not run, and a sample without `image` (or `text`) goes through the other alone.

    Args:
        model: name of an architecture (`ViT-B-32`), or `hf-hub:org/name` or `local-dir:folder`, which bring weights.
        pretrained: tag of an architecture's weights (`laion2b_s34b_b79k`) or a file of them, read without running
            code; None for random weights.
        quickgelu: the activation of OpenAI's weights and some others; a tag that was trained otherwise is refused.

    Shape: image `[B, 3, H, W]`, text `[B, L]` (ids) -> embeddings `[B, D]`, hidden `[B, L, D]`.

    Raises:
        MmkdError: there is no such model, tag or file, or the activation is not the one that the weights know.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"hidden", "input_grad"})

    def __init__(self, model: str, pretrained: str | None = None, quickgelu: bool = False) -> None:
        super().__init__()
        brings_weights = model.startswith(("hf-hub:", "local-dir:"))
        _check(model, pretrained, quickgelu, brings_weights)
        loaded = brings_weights or pretrained is not None
        try:
            self.net: nn.Module = open_clip.create_model(
                model,
                pretrained=pretrained,
                force_quick_gelu=quickgelu,
                pretrained_text=False,
                require_pretrained=loaded,
                weights_only=True,
            )
            self.tokenizer = open_clip.get_tokenizer(model)
        except (RuntimeError, ValueError, OSError) as error:
            reason = str(error).strip().splitlines()[0]
            raise MmkdError(f"open_clip cannot load '{model}': {reason}", where=pretrained or "") from error
        self.model = model
        self._prepare(dict(self.net.visual.preprocess_cfg))
        self._blocks = {"image": _blocks(self.net, "visual"), "text": _blocks(self.net, "text") or _blocks(self.net)}
        self._fingerprint = _digest(self.net) if loaded else None

    @property
    def network(self) -> nn.Module:
        return self.net

    def values(self) -> list[str]:
        hidden = [f"{side}.hidden.{i}" for side, paths in self._blocks.items() for i in range(len(paths) + bool(paths))]
        return ["image.embedding", "text.embedding", *hidden]

    def locate(self, name: str) -> str | None:
        side, kind, *index = name.split(".")
        if kind != "hidden":
            return None
        i = int(index[0])
        return self._blocks[side][i - 1] if i else f"{self._blocks[side][0]}.input"

    def transform(self, sample: mmkd.Sample) -> dict[str, Any]:
        present = [field for field in FIELDS if field in sample] or FIELDS
        made: dict[str, Any] = {}
        if "image" in present:
            made["image"] = self._picture(rgb(sample["image"]))
        if "text" in present:
            made["text"] = self.tokenizer(sample["text"])[0]
        return made

    def transform_key(self) -> Hashable:
        return "open_clip", self.model, json.dumps(self.preprocess, sort_keys=True)

    def fingerprint(self) -> str | None:
        """SHA-256 over names and bytes of the state that was loaded; None for random weights."""
        return self._fingerprint

    def forward(self, image: Tensor | None = None, text: Tensor | None = None) -> dict[str, Tensor]:
        values: dict[str, Tensor] = {}
        taps = [name for name in self.wanted or () if name.startswith("/")]
        if self.wants("image.") or self.wants("/visual"):
            values["image.embedding"] = self.net.encode_image(_given(image, "image"), normalize=True)  # type: ignore[operator]
        if self.wants("text.") or any(not name.startswith("/visual") for name in taps):
            values["text.embedding"] = self.net.encode_text(_given(text, "text"), normalize=True)  # type: ignore[operator]
        return values

    def _prepare(self, preprocess: dict[str, Any]) -> None:
        self.preprocess = preprocess
        self._picture = image_transform_v2(PreprocessCfg(**preprocess), is_train=False)

    def get_extra_state(self) -> Tensor:
        """Preprocessing, which belongs to the weights and not to the architecture."""
        return torch.tensor(list(json.dumps(self.preprocess).encode()), dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        self._prepare(json.loads(bytes(state.tolist())))


def _given(value: Tensor | None, field: str) -> Tensor:
    if value is None:
        raise GraphError(f"the samples have no {field}, and a value of the {field} tower is wanted")
    return value


def _check(model: str, pretrained: str | None, quickgelu: bool, brings_weights: bool) -> None:
    """Raise where open_clip would fail late or only warn."""
    if brings_weights:
        if pretrained is not None:
            raise MmkdError(f"'{model}' brings its own weights", where="pretrained", next="leave 'pretrained' out")
        return
    config = open_clip.get_model_config(model)
    if config is None:
        raise MmkdError(
            f"open_clip {open_clip.__version__} has no model '{model}'", where="model", name=model,
            exists=open_clip.list_models(), next='python -c "import open_clip; print(open_clip.list_models())"',
        )  # fmt: skip
    if pretrained is None or Path(pretrained).is_file():
        return
    tag = open_clip.get_pretrained_cfg(model, pretrained)
    if not tag:
        raise MmkdError(
            f"'{pretrained}' is neither a file nor a tag of '{model}'", where="pretrained", name=pretrained,
            exists=open_clip.list_pretrained_tags_by_model(model),
        )  # fmt: skip
    trained_with = bool(tag.get("quick_gelu", False))
    if trained_with != (quickgelu or bool(config.get("quick_gelu", False))):
        raise MmkdError(
            f"the weights '{pretrained}' of '{model}' were trained {'with' if trained_with else 'without'} QuickGELU",
            where="quickgelu",
            next=f"quickgelu: {str(trained_with).lower()}",
        )


def _blocks(network: nn.Module, tower: str = "") -> list[str]:
    """Paths of a tower's transformer blocks, in order; none where it is no transformer of open_clip."""
    path = f"{tower}.transformer" if tower else "transformer"
    transformer = dict(network.named_modules()).get(path)
    blocks = getattr(transformer, "resblocks", None)
    if not isinstance(blocks, nn.ModuleList) or not getattr(transformer, "batch_first", False):
        return []
    return [f"{path}.resblocks.{i}" for i in range(len(blocks))]


def _digest(network: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return f"sha256:{digest.hexdigest()}"
