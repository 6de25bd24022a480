"""Any contrastive image-text network of transformers."""

from __future__ import annotations

import functools
import json
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar

import torch.nn.functional as F
from mmkd_language.checkpoint import checksum, licence
from mmkd_language.network import configured, hidden, load, quiet
from mmkd_language.tokens import Tokenizer
from PIL import Image
from pydantic import Field
from torch import Tensor, nn
from transformers import AutoModel, BlipForImageTextRetrieval

import mmkd
from mmkd.errors import DataError, GraphError, MmkdError
from mmkd_vision_language.processor import FIELDS, ImageProcessor

SIDES = {"image": ("vision_model", "visual_projection", "vision_proj"), "text": ("text_",)}
"""What the modules of a tower are called, or begin with."""
PADDED = ("siglip", "siglip2")
"""Families that read every text at full length, padding included, and know no mask."""
USAGE = """\
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

model = AutoModel.from_pretrained(".").eval()
processor = AutoImageProcessor.from_pretrained(".")
tokenizer = AutoTokenizer.from_pretrained(".")
picture = Image.open("picture.png").convert("RGBA")
page = Image.new("RGB", picture.size, "white")  # what is transparent lies on white
page.paste(picture, mask=picture.getchannel("A"))
texts = ["a sad cat"]
batch = tokenizer(texts, padding=PADDING, truncation=True, max_length=LENGTH, return_tensors="pt")
with torch.no_grad():
    image = model.get_image_features(**processor(images=page, return_tensors="pt")).pooler_output
    text = model.get_text_features(**{k: batch[k] for k in FIELDS}).pooler_output
values = {"image.embedding": image, "text.embedding": text}
"""
NORMALIZED = "values = {name: torch.nn.functional.normalize(value, dim=-1) for name, value in values.items()}\n"


class DualEncoder(mmkd.Encoder):
    """Any image-text network of transformers, with its own preprocessing: CLIP, SigLIP, ALIGN, BLIP, Chinese-CLIP.

    CLIP (Radford et al., 2021), SigLIP (Zhai et al., 2023) and whatever else has `get_image_features` and
    `get_text_features`, or is a `BlipForImageTextRetrieval`.

    Values: `image.embedding` and `text.embedding`, as the network gives them; `image.tokens` and `text.tokens`, the
    last hidden states of a tower, with `text.mask`, 1 for tokens and 0 for padding, where the network knows one;
    `image.hidden.0`, which enters the first block, and `image.hidden.i`, which leaves block i, before a final norm, and
    `text.hidden.<i>` alike; `logit_scale`, the scale of the logits (a logarithm), where there is one.

    A tower that nobody reads is not run, nor are its fields asked of a sample; where both are read, a sample without
    `image` (or `text`) goes through the other alone. Only safetensors are read, and no code that comes with a model is
    run.

    Args:
        pretrained: folder, `package:name` of an installed package with weights, or `org/name` of the hub.
        model: the same forms; whose architecture, tokenizer and image processor to use. None for those of `pretrained`.
            With `model` alone the weights are random.
        config: entries of the architecture's config to replace, as in `{vision_config: {num_hidden_layers: 6}}`.
        normalize: scale the embeddings to length 1, as they are compared.
        max_length: tokens kept of a text; None for all that the network takes.
        sha256: checksum that the `model.safetensors` of `pretrained` must have (of weights in several files, that of
            their checksums in a row).

    Shape: image `[B, 3, H, W]`, input_ids and attention_mask `[B, L]` -> embeddings `[B, D]`, tokens and hidden
        `[B, L, D]` (tokens of a convolutional tower `[B, C, H, W]`).

    Raises:
        MmkdError: the files are not there or not the ones pinned, the weights do not fill the network, or it is no
            such network.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"text", "hidden", "input_grad"})

    def __init__(
        self,
        pretrained: str | None = None,
        model: str | None = None,
        config: dict[str, Any] | None = None,
        normalize: bool = False,
        max_length: Annotated[int | None, Field(ge=2)] = None,
        sha256: str | None = None,
    ) -> None:
        super().__init__()
        source = model or pretrained
        if source is None:
            raise MmkdError(
                "needs 'pretrained', or 'model' to be built without weights",
                next="model: org/name beside pretrained, so that an exported student can be rebuilt",
            )
        self.source, self.normalize = source, normalize
        self._fingerprint = f"sha256:{checksum(pretrained, sha256)}" if pretrained else None
        self.license = licence(pretrained) if pretrained else None
        settings = configured(source, config or {})
        retrieval = BlipForImageTextRetrieval.__name__ in (settings.architectures or ())
        self.net: Any = load(
            BlipForImageTextRetrieval if retrieval else AutoModel, settings, pretrained, lambda network, name: False
        )
        if not retrieval and not (hasattr(self.net, "get_image_features") and hasattr(self.net, "get_text_features")):
            raise MmkdError(
                f"'{source}' is a {type(self.net).__name__}, which has no features of image and text apart",
                next="vision.timm, language.encoder, or vision_language.dual_tower of the two",
            )
        positions = settings.text_config.max_position_embeddings
        self.tokenizer = Tokenizer(source, positions, padded=settings.model_type in PADDED)
        limit = min(positions, self.tokenizer.limit)
        if max_length is not None and max_length > limit:
            raise MmkdError(f"'{source}' takes {limit} tokens, not {max_length}", next=f"max_length: {limit}")
        self.tokenizer.max_length = max_length or limit
        self.processor = ImageProcessor(source)

    @property
    def network(self) -> nn.Module:
        return self.net  # type: ignore[no-any-return]

    @functools.cached_property
    def _hidden(self) -> dict[str, list[str]]:
        sample = {"image": Image.new("RGB", (32, 32)), "text": "a"}
        device = next(self.net.parameters()).device
        towers = dict(self.net.named_children())
        paths = {}
        for side, beginnings in SIDES.items():
            with self.reading(frozenset({f"{side}.embedding"})):
                fields = {name: x.to(device) for name, x in self.collate([self.transform(sample)]).items()}
                within = next((name for name in towers if name.startswith(beginnings)), side)
                paths[side] = hidden(self.net, functools.partial(self._features, side, fields), within)
        return paths

    def values(self) -> list[str]:
        names = [f"{side}.{kind}" for side in SIDES for kind in ("embedding", "tokens")]
        names += [] if self.tokenizer.padded else ["text.mask"]
        names += [f"{side}.hidden.{i}" for side, paths in self._hidden.items() for i in range(len(paths))]
        return names + (["logit_scale"] if hasattr(self.net, "logit_scale") else [])

    def locate(self, name: str) -> str | None:
        side, _, value = name.partition(".")
        kind, _, index = value.partition(".")
        if kind == "hidden":
            return self._hidden[side][int(index)]
        return name if name == "logit_scale" else None

    def transform(self, sample: mmkd.Sample) -> dict[str, Any]:
        read = self._read()
        made: dict[str, Any] = {}
        for side in [side for side in read if side in sample] or read:
            made |= self.processor.row(sample["image"]) if side == "image" else self.tokenizer.row(sample)
        return made

    def transform_key(self) -> Hashable:
        return "transformers", self.source, self.tokenizer.max_length, *self._read()

    def collate(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        if any(row.keys() != rows[0].keys() for row in rows):
            raise DataError(
                "some samples of a batch have an image or a text that others lack", where="vision_language.transformers"
            )
        batch = super().collate([{k: v for k, v in row.items() if k != "input_ids"} for row in rows])
        if rows and "input_ids" in rows[0]:
            batch |= self.tokenizer.batch(rows)
        return batch

    def vocabulary(self) -> dict[str, int]:
        return self.tokenizer.vocabulary

    def preprocessing(self) -> dict[str, Any]:
        return self.processor.describe()

    def fingerprint(self) -> str | None:
        """`sha256:` and the checksum of the file of weights; None for random weights."""
        return self._fingerprint

    def formats(self) -> list[str]:
        return [] if isinstance(self.net, BlipForImageTextRetrieval) else ["transformers"]

    def export(self, folder: Path, format: str) -> str:
        with quiet():
            self.net.save_pretrained(str(folder))
        self.processor.save(folder)
        self.tokenizer.export(folder)
        padded, length = self.tokenizer.padded, self.tokenizer.max_length
        fields = ["input_ids"] if padded else ["input_ids", "attention_mask"]
        filled = {"PADDING": '"max_length"' if padded else "True", "LENGTH": str(length), "FIELDS": json.dumps(fields)}
        usage = functools.reduce(lambda code, item: code.replace(*item), filled.items(), USAGE)
        return usage + NORMALIZED * self.normalize

    def export_tokenizer(self, folder: Path) -> str:
        return self.tokenizer.export(folder)

    def forward(
        self,
        image: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        pixel_attention_mask: Tensor | None = None,
        spatial_shapes: Tensor | None = None,
    ) -> dict[str, Tensor]:
        fields = {
            "image": image, "pixel_attention_mask": pixel_attention_mask, "spatial_shapes": spatial_shapes,
            "input_ids": input_ids, "attention_mask": attention_mask,
        }  # fmt: skip
        values: dict[str, Tensor] = {}
        for side in self._read():
            given = {name: x for name, x in fields.items() if x is not None and (name in FIELDS) == (side == "image")}
            if ("image" if side == "image" else "input_ids") not in given:
                raise GraphError(
                    f"the samples have no {side}, and a value of the {side} tower is wanted",
                    next="have it made: graph.collate(samples, [value, ...])",
                )
            embedding, tokens = self._features(side, given)
            values |= {f"{side}.embedding": embedding, f"{side}.tokens": tokens}
        if attention_mask is not None:
            values["text.mask"] = attention_mask
        return values

    def _read(self) -> list[str]:
        """The towers of which something is read."""
        ours = {side: tuple(f"/{name}" for name in names) for side, names in SIDES.items()}
        return [side for side in SIDES if self.wants(f"{side}.") or any(map(self.wants, ours[side]))]

    def _features(self, side: str, fields: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Embedding and tokens of one tower."""
        given = {FIELDS.get(name, name): value for name, value in fields.items()}
        if isinstance(self.net, BlipForImageTextRetrieval):
            tower, project = (
                (self.net.vision_model, self.net.vision_proj)
                if side == "image"
                else (self.net.text_encoder, self.net.text_proj)
            )
            tokens = tower(**given).last_hidden_state
            embedding = project(tokens[:, 0])
        else:
            output = self.net.get_image_features(**given) if side == "image" else self.net.get_text_features(**given)
            embedding, tokens = output.pooler_output, output.last_hidden_state
        return (F.normalize(embedding, dim=-1) if self.normalize else embedding), tokens
