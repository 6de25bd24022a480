"""CLAP: sounds and texts in one space."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from mmkd_language.checkpoint import checksum, licence
from mmkd_language.network import configured, load
from mmkd_language.tokens import Tokenizer
from torch import Tensor, nn
from transformers import ClapModel

import mmkd
from mmkd.errors import DataError, GraphError, MmkdError
from mmkd_audio.extractor import extractor_of
from mmkd_audio.resample import resampled
from mmkd_audio.sound import sound_of

TOWERS = {"audio": "audio_", "text": "text_"}


class Clap(mmkd.Encoder):
    """CLAP of transformers: a sound tower and a text tower with one space (Wu et al., 2023).

    Values: `audio.embedding` and `text.embedding`, of length 1; `audio.tokens`, the last feature map, and
    `text.tokens`, the last hidden states, with `text.mask`, 1 for tokens and 0 for padding; `logit_scale_a` and
    `logit_scale_t`, the scales of the logits (logarithms).

    A tower that nobody reads is not run, nor are its fields asked of a sample; where both are read, a sample without
    `audio` (or `text`) goes through the other alone. Of a sound longer than the network takes (ten seconds) the first
    part is heard, where the authors take a random one: that is `audio.crop`'s to draw, for every network alike. Shorter
    ones are repeated. Only safetensors are read, and no code that comes with a model is run.

    Args:
        pretrained: folder, `package:name` of an installed package with weights, or `org/name` of the hub.
        model: the same forms; whose architecture, tokenizer and preprocessing to use. None for those of `pretrained`.
            With `model` alone the weights are random.
        config: entries of the architecture's config to replace.
        max_length: tokens kept of a text.
        sha256: checksum that the `model.safetensors` of `pretrained` must have (of weights in several files, that of
            their checksums in a row).

    Shape: input_features `[B, 1 or 4, T, mels]`, input_ids and attention_mask `[B, L]` -> embeddings `[B, D]`,
        audio.tokens `[B, C, H, W]`, text.tokens `[B, L, E]`, text.mask `[B, L]`.

    Raises:
        MmkdError: the files are not there or not the ones pinned, the weights do not fill the network, or it is no
            CLAP.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"text", "input_grad"})

    def __init__(
        self,
        pretrained: str | None = None,
        model: str | None = None,
        config: dict[str, Any] | None = None,
        max_length: int = 77,
        sha256: str | None = None,
    ) -> None:
        super().__init__()
        source = model or pretrained
        if source is None:
            raise MmkdError(
                "needs 'pretrained', or 'model' to be built without weights",
                next="model: org/name beside pretrained, so that an exported student can be rebuilt",
            )
        self.source = source
        self._fingerprint = f"sha256:{checksum(pretrained, sha256)}" if pretrained else None
        self.license = licence(pretrained) if pretrained else None
        settings = configured(source, config or {})
        if settings.model_type != "clap":
            raise MmkdError(f"'{source}' is a '{settings.model_type}', not a 'clap'", next="use: audio.transformers")
        self.net: Any = load(ClapModel, settings, pretrained, lambda network, name: False)
        self.tokenizer = Tokenizer(source, max_length)
        self.extractor = extractor_of(source)
        if settings.audio_config.enable_fusion != (self.extractor.truncation == "fusion"):
            raise MmkdError(
                f"'{source}' has truncation '{self.extractor.truncation}' and a network that does "
                f"{'' if settings.audio_config.enable_fusion else 'not '}fuse", where="preprocessor_config.json",
            )  # fmt: skip

    @property
    def network(self) -> nn.Module:
        return self.net  # type: ignore[no-any-return]

    def values(self) -> list[str]:
        towers = [f"{side}.{kind}" for side in TOWERS for kind in ("embedding", "tokens")]
        return [*towers, "text.mask", "logit_scale_a", "logit_scale_t"]

    def locate(self, name: str) -> str | None:
        return name if name.startswith("logit_scale") else None

    def transform(self, sample: mmkd.Sample) -> dict[str, Any]:
        read = self._read()
        made: dict[str, Any] = {}
        for side in [side for side in read if side in sample] or read:
            made |= self._heard(sample) if side == "audio" else dict(self.tokenizer.row(sample))
        return made

    def _heard(self, sample: mmkd.Sample) -> dict[str, Tensor]:
        rate = self.extractor.sampling_rate
        waveform = resampled(sound_of(sample), rate)[: self.extractor.nb_max_samples]
        state = np.random.get_state()  # the extractor draws which sound of a batch counts as a long one
        try:
            made = self.extractor(waveform, sampling_rate=rate, return_tensors="np")
        finally:
            np.random.set_state(state)
        return {"input_features": torch.from_numpy(np.asarray(made["input_features"][0], np.float32))}

    def transform_key(self) -> Hashable:
        return "clap of transformers", self.source, self.tokenizer.max_length, *self._read()

    def collate(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        if any(row.keys() != rows[0].keys() for row in rows):
            raise DataError("some samples of a batch have a sound or a text that others lack", where="audio.clap")
        batch = super().collate([{k: v for k, v in row.items() if k != "input_ids"} for row in rows])
        return batch | (dict(self.tokenizer.batch(rows)) if rows and "input_ids" in rows[0] else {})

    def lengths(self, **inputs: Tensor) -> dict[str, Tensor]:
        mask = inputs.get("attention_mask")
        return {} if mask is None else dict.fromkeys(["text.tokens", "text.mask"], mask.sum(1))

    def vocabulary(self) -> dict[str, int]:
        return self.tokenizer.vocabulary

    def fingerprint(self) -> str | None:
        """`sha256:` and the checksum of the file of weights; None for random weights."""
        return self._fingerprint

    def forward(
        self,
        input_features: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> dict[str, Tensor]:
        values: dict[str, Tensor] = {}
        for side in self._read():
            first = input_features if side == "audio" else input_ids
            if first is None:
                raise GraphError(
                    f"the samples have no {side}, and a value of the {side} tower is wanted",
                    next="have it made: graph.collate(samples, [value, ...])",
                )
            if side == "audio":
                short = torch.zeros(len(first), 1, dtype=torch.bool, device=first.device)
                output = self.net.get_audio_features(input_features=first, is_longer=short)
            else:
                output = self.net.get_text_features(input_ids=input_ids, attention_mask=attention_mask)
            values |= {f"{side}.embedding": output.pooler_output, f"{side}.tokens": output.last_hidden_state}
        if attention_mask is not None:
            values["text.mask"] = attention_mask
        return values

    def _read(self) -> list[str]:
        """The towers of which something is read."""
        return [side for side, name in TOWERS.items() if self.wants(f"{side}.") or self.wants(f"/{name}")]
