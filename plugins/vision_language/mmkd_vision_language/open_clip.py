"""Any contrastive image-text network of open_clip."""

from __future__ import annotations

import functools
import json
from collections.abc import Hashable
from pathlib import Path
from typing import Any, ClassVar

import open_clip
import torch
from huggingface_hub import hf_hub_download
from mmkd_vision.image import rgb
from mmkd_vision.weights import digest
from open_clip.tokenizer import HFTokenizer, SimpleTokenizer
from open_clip.transform import PreprocessCfg, image_transform_v2
from safetensors.torch import save_file
from torch import Tensor, nn

import mmkd
from mmkd.errors import DataError, GraphError, MmkdError
from mmkd_vision_language.open_clip_layout import states, tokens

FIELDS = ("image", "text")
_USAGE = """\
import open_clip
import torch
from PIL import Image

model, transform = open_clip.create_model_from_pretrained("local-dir:.")
tokenizer = open_clip.get_tokenizer("local-dir:.")
picture = Image.open("picture.png").convert("RGBA")
page = Image.new("RGB", picture.size, "white")  # what is transparent lies on white
page.paste(picture, mask=picture.getchannel("A"))
texts = ["a sad cat"]
with torch.no_grad():
    values = {
        "image.embedding": model.eval().encode_image(transform(page).unsqueeze(0), normalize=True),
        "text.embedding": model.encode_text(tokenizer(texts), normalize=True),
    }
"""


class OpenCLIPEncoder(mmkd.Encoder):
    """Any open_clip model under its own name, both towers, with its own preprocessing (Ilharco et al., 2021).

    Values: `image.embedding` and `text.embedding`, of length 1 as CLIP compares them; `image.hidden.0`, which enters
    the first block (stage, of a convolutional tower), and `image.hidden.i`, which leaves block i before a final norm,
    class token first, and `text.hidden.<i>` alike; `image.tokens` and `text.tokens`, all tokens after the final norm,
    of towers that norm before they pool; `logit_scale`, the scale of the logits (a logarithm). CoCa also has `logits`
    of its caption, those at t for token t + 1 of `text`; its text tower appends a class token.

    A tower that nobody reads is not run, nor are its fields asked of a sample; where both are read, a sample without
    `image` (or `text`) goes through the other alone. A tokenizer that lies on the hub is fetched with the first text.

    Args:
        model: name of an architecture (`ViT-B-32`), or `hf-hub:org/name` or `local-dir:folder`, which bring weights.
        pretrained: tag of an architecture's weights (`laion2b_s34b_b79k`) or a file of them, read without running
            code; None for random weights.
        quickgelu: the activation of OpenAI's weights and some others; a tag that was trained otherwise is refused.

    Shape: image `[B, 3, H, W]`, text `[B, L]` (ids) -> embeddings `[B, D]`, tokens and hidden `[B, L, D]` or
        `[B, C, H, W]`, logits `[B, L - 1, V]`.

    Raises:
        MmkdError: there is no such model, tag or file, or the activation is not the one that the weights know.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"text", "hidden", "input_grad"})

    def __init__(self, model: str, pretrained: str | None = None, quickgelu: bool = False) -> None:
        super().__init__()
        brings_weights = model.startswith(("hf-hub:", "local-dir:"))
        _check(model, pretrained, quickgelu, brings_weights)
        loaded = brings_weights or pretrained is not None
        try:
            self.net: Any = open_clip.create_model(
                model,
                pretrained=pretrained,
                force_quick_gelu=quickgelu,
                pretrained_text=False,
                require_pretrained=loaded,
                weights_only=True,
            )
        except (RuntimeError, ValueError, OSError) as error:
            reason = str(error).strip().splitlines()[0]
            raise MmkdError(f"open_clip cannot load '{model}': {reason}", where=pretrained or "") from error
        self.model, self.quickgelu = model, quickgelu
        self._prepare(dict(self.net.visual.preprocess_cfg))
        self._states = {side: states(self.net, side) for side in FIELDS}
        self._tokens = {side: tokens(self.net, side) for side in FIELDS}
        self._fingerprint = digest(self.net) if loaded else None

    @property
    def network(self) -> nn.Module:
        return self.net  # type: ignore[no-any-return]

    @functools.cached_property
    def tokenizer(self) -> Any:
        """The model's own: open_clip's, or that of the text network that it was built on."""
        try:
            return open_clip.get_tokenizer(self.model)
        except (RuntimeError, ValueError, OSError, ImportError) as error:
            reason = str(error).strip().splitlines()[0]
            raise MmkdError(
                f"the tokenizer of '{self.model}' could not be had from the Hugging Face hub: {reason}",
                next="once loaded it is kept; or model: local-dir:folder, with the tokenizer's files in the folder",
            ) from error

    def values(self) -> list[str]:
        names = ["image.embedding", "text.embedding"]
        names += [f"{side}.tokens" for side, path in self._tokens.items() if path]
        names += [f"{side}.hidden.{i}" for side, paths in self._states.items() for i in range(len(paths))]
        return [*names, "logit_scale", *(["logits"] if self._captions else [])]

    def locate(self, name: str) -> str | None:
        side, _, value = name.partition(".")
        kind, _, index = value.partition(".")
        if kind == "hidden":
            return self._states[side][int(index)]
        return self._tokens[side] if kind == "tokens" else name if name == "logit_scale" else None

    def transform(self, sample: mmkd.Sample) -> dict[str, Any]:
        read = self._read()
        made: dict[str, Any] = {}
        for side in [side for side in read if side in sample] or read:
            if side == "image":
                made["image"] = self._picture(rgb(sample["image"]))
            elif not isinstance(text := sample["text"], str):
                raise DataError(f"text is {type(text).__name__}, not a string")
            else:
                made["text"] = self.tokenizer(text)[0]
        return made

    def transform_key(self) -> Hashable:
        return "open_clip", self.model, json.dumps(self.preprocess, sort_keys=True), *self._read()

    def vocabulary(self) -> dict[str, int] | None:
        inner = getattr(self.tokenizer, "tokenizer", None)
        return dict(self.tokenizer.encoder if inner is None else inner.get_vocab())

    def preprocessing(self) -> dict[str, Any]:
        about = self.preprocess
        size = [about["size"]] * 2 if isinstance(about["size"], int) else list(about["size"])
        known = {
            "size": size, "interpolation": about["interpolation"],
            "mean": list(about["mean"]), "std": list(about["std"]), "channels": about["mode"],
        }  # fmt: skip
        if about["resize_mode"] == "squash":
            known["resize"] = size
        elif about["resize_mode"] == "shortest" and size[0] == size[1]:
            known["resize"] = size[0]
        return known

    def formats(self) -> list[str]:
        return ["open_clip"]

    def export(self, folder: Path, format: str) -> str:
        config = _config(self.model)
        if self.quickgelu:
            config["quick_gelu"] = True
        if isinstance(self.tokenizer, HFTokenizer):
            self.tokenizer.save_pretrained(folder)
        elif not isinstance(self.tokenizer, SimpleTokenizer):
            raise MmkdError(f"open_clip has no file form for a {type(self.tokenizer).__name__}", where=self.model)
        preprocess = {key: value for key, value in self.preprocess.items() if key != "size"}
        document = {"model_cfg": config, "preprocess_cfg": preprocess}
        (folder / "open_clip_config.json").write_text(json.dumps(document, indent=2) + "\n")
        state = {key: value.contiguous() for key, value in self.net.state_dict().items()}
        save_file(state, folder / "open_clip_model.safetensors")
        return _USAGE

    def export_tokenizer(self, folder: Path) -> str | None:
        if not isinstance(self.tokenizer, SimpleTokenizer):
            return None
        length = self.tokenizer.context_length
        return (
            "import open_clip  # for its tokenizer alone\n\n"
            f'tokens = {{"text": open_clip.SimpleTokenizer(context_length={length})(texts).numpy()}}\n'
        )

    def fingerprint(self) -> str | None:
        """SHA-256 over names and bytes of the state that was loaded; None for random weights."""
        return self._fingerprint

    def forward(self, image: Tensor | None = None, text: Tensor | None = None) -> dict[str, Tensor]:
        if self._captions and self._caption_read():
            output = self.net(_given(image, "image"), _given(text, "text"))
            return {f"{side}.embedding": output[f"{side}_features"] for side in FIELDS} | {"logits": output["logits"]}
        read = self._read()
        values: dict[str, Tensor] = {}
        if "image" in read:
            values["image.embedding"] = self.net.encode_image(_given(image, "image"), normalize=True)
        if "text" in read:
            values["text.embedding"] = self.net.encode_text(_given(text, "text"), normalize=True)
        return values

    @property
    def _captions(self) -> bool:
        return hasattr(self.net, "text_decoder")

    def _caption_read(self) -> bool:
        return self.wants("logits") or self.wants("/text_decoder")

    def _read(self) -> list[str]:
        """The towers of which something is read; a caption reads both."""
        if self._caption_read():
            return list(FIELDS)
        others = [name for name in self.wanted or () if name.startswith("/") and not name.startswith("/visual")]
        read = {"image": self.wants("image.") or self.wants("/visual"), "text": self.wants("text.") or bool(others)}
        return [side for side in FIELDS if read[side]]

    def _prepare(self, preprocess: dict[str, Any]) -> None:
        self.preprocess = preprocess
        self._picture = image_transform_v2(PreprocessCfg(**preprocess), is_train=False)

    def get_extra_state(self) -> Tensor:
        """Preprocessing, which belongs to the weights and not to the architecture."""
        return torch.tensor(list(json.dumps(self.preprocess).encode()), dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        self._prepare(json.loads(bytes(state.tolist())))


def _config(model: str) -> dict[str, Any]:
    """What open_clip builds the architecture from."""
    scheme, colon, name = model.partition(":")
    if not colon:
        return dict(open_clip.get_model_config(model))
    path = hf_hub_download(name, "open_clip_config.json") if scheme == "hf-hub" else f"{name}/open_clip_config.json"
    return dict(json.loads(Path(path).read_text())["model_cfg"])


def _given(value: Tensor | None, field: str) -> Tensor:
    if value is None:
        raise GraphError(
            f"the samples have no {field}, and a value of the {field} tower is wanted",
            next="have it made: graph.collate(samples, [value, ...])",
        )
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
