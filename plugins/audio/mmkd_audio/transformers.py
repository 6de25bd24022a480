"""Any speech or sound network of transformers."""

from __future__ import annotations

import functools
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from mmkd_language.checkpoint import checksum, licence
from mmkd_language.network import configured, hidden, load
from pydantic import Field
from torch import Tensor, nn
from transformers import AutoModel

import mmkd
from mmkd.errors import DataError, GraphError, MmkdError
from mmkd_audio import feature_grad as gradient
from mmkd_audio.extractor import extractor_of
from mmkd_audio.frames import frame_mask, frame_times, masked_mean
from mmkd_audio.resample import resampled
from mmkd_audio.saved import save
from mmkd_audio.sound import sound_of

WAVES = ("wav2vec2", "hubert", "wavlm", "unispeech", "unispeech-sat", "data2vec-audio")
WHISPER, AST = "whisper", "audio-spectrogram-transformer"
FAMILIES = (*WAVES, WHISPER, AST)
RANDOM: dict[str, Any] = {"apply_spec_augment": False, "layerdrop": 0.0, "encoder_layerdrop": 0.0}
"""What draws random numbers beyond dropout, off unless asked for."""


class SoundEncoder(mmkd.Encoder):
    """Any speech or sound network of transformers under its own name, with its own preprocessing (Wolf et al., 2020).

    wav2vec 2.0, HuBERT, WavLM, UniSpeech and data2vec read waveforms, Whisper (its encoder) spectrograms of 30 seconds,
    and AST (the Audio Spectrogram Transformer) spectrograms of patches. CLAP is `audio.clap`.

    Values: `embedding`, the mean of the frames (of AST its own pooled vector); `tokens`, the last hidden states;
    `hidden.0` enters the first block, `hidden.i` leaves block i, before a final norm. But of AST, also `mask`, 1 for
    frames of the sound and 0 for padding, and `times`, when each frame is centred, in microseconds; `frame_rate` of
    the encoder says how many there are in a second. Tokens of AST are patches, two special ones first.

    Networks whose extractor gives no attention mask (wav2vec 2.0 and HuBERT base) were trained without one: padding
    reaches the frames a little through their first norm, as it does in transformers; `audio.bucketed` keeps it short.
    Whisper attends to the silence behind the sound. SpecAugment and layer drop are off unless `config` sets them, since
    masking is a curator's and a dropped layer has no hidden state. Only safetensors are read, and no code that comes
    with a model is run.

    Args:
        pretrained: folder, `package:name` of an installed package with weights, or `org/name` of the hub.
        model: the same forms; whose architecture and preprocessing to use. None for those of `pretrained`. With
            `model` alone the weights are random.
        config: entries of the architecture's config to replace, as in `{num_hidden_layers: 2}`; fewer layers of
            pretrained weights are the first ones.
        sha256: checksum that the `model.safetensors` of `pretrained` must have (of weights in several files, that of
            their checksums in a row).
        feature_grad: share of the gradient that reaches the convolutions of a network that reads waveforms; with 0
            they are frozen. Wav2vec 2.0's own training and DistilHuBERT let a tenth through.
        last_dropout: whether the feed-forward layer of the last block of such a network has its dropout. Without it
            what is distilled is not noised at the end (SEGUE: Tan et al., 2023).

    Shape: input_values `[B, T]` or input_features `[B, mels, T]`, samples `[B]` -> tokens and hidden `[B, L, D]`, mask
        and times `[B, L]`, embedding `[B, D]`.

    Raises:
        MmkdError: the files are not there or not the ones pinned, the weights do not fill the network, it is no such
            network, or an option asks for what it has not.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"hidden", "input_grad"})

    def __init__(
        self,
        pretrained: str | None = None,
        model: str | None = None,
        config: dict[str, Any] | None = None,
        sha256: str | None = None,
        feature_grad: Annotated[float, Field(ge=0, le=1)] = 1.0,
        last_dropout: bool = True,
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
        self.family = str(settings.model_type)
        if self.family not in FAMILIES or getattr(settings, "add_adapter", False):
            what = "has an adapter behind its frames" if self.family in FAMILIES else f"is a '{self.family}'"
            raise MmkdError(
                f"'{source}' {what}, which is not read here", name=self.family, exists=FAMILIES,
                next="use: audio.clap" if self.family == "clap" else "config: {add_adapter: false}",
            )  # fmt: skip
        for option, plain in (("feature_grad: 1.0", feature_grad == 1), ("last_dropout: true", last_dropout)):
            if not plain and self.family not in WAVES:
                what = f"'{source}' is a '{self.family}', which has no convolutions over a waveform"
                raise MmkdError(what, where=option.partition(":")[0], exists=WAVES, next=option)
        for name, value in RANDOM.items():
            if hasattr(settings, name) and name not in (config or {}):
                setattr(settings, name, value)
        network = load(AutoModel, settings, pretrained, lambda network, name: name.startswith("decoder."))
        self.net: Any = network.get_encoder() if self.family == WHISPER else network
        if self.family in WAVES:
            gradient.scale(self.net.feature_extractor, feature_grad)
        if not last_dropout:
            feed_forward = self.net.encoder.layers[-1].feed_forward
            feed_forward.intermediate_dropout.p = feed_forward.output_dropout.p = 0.0
        self.extractor = extractor_of(source)

    @property
    def network(self) -> nn.Module:
        return self.net  # type: ignore[no-any-return]

    @property
    def embedding_dim(self) -> int:
        """Width of `embedding`."""
        return int(self.net.config.hidden_size)

    @property
    def frame_rate(self) -> float | None:
        """Frames of `tokens` per second; None for patches."""
        return None if self.family == AST else 1 / self._grid[1]

    @functools.cached_property
    def _grid(self) -> tuple[float, float]:
        """Seconds at which the first frame is centred, and from one to the next."""
        rate = self.extractor.sampling_rate
        if self.family == WHISPER:
            return 0.0, 2 * self.extractor.hop_length / rate
        step, reach = 1, 0
        for kernel, stride in self._convolutions:
            reach += (kernel - 1) * step
            step *= stride
        return reach / 2 / rate, step / rate

    @property
    def _convolutions(self) -> list[tuple[int, int]]:
        return list(zip(self.net.config.conv_kernel, self.net.config.conv_stride, strict=True))

    @functools.cached_property
    def _hidden(self) -> list[str]:
        sound = {"audio": {"array": np.zeros(self.extractor.sampling_rate // 4, np.float32)}}
        sound["audio"]["sampling_rate"] = self.extractor.sampling_rate
        like = next(self.net.parameters())
        made = {name: x for name, x in self.collate([self.transform(sound)]).items() if name != "samples"}
        fields = {name: x.to(like) if x.is_floating_point() else x.to(like.device) for name, x in made.items()}
        return hidden(self.net, lambda: self.net(**fields))

    def values(self) -> list[str]:
        framed = [] if self.family == AST else ["mask", "times"]
        return ["embedding", "tokens", *framed, *(f"hidden.{i}" for i in range(len(self._hidden)))]

    def locate(self, name: str) -> str | None:
        kind, _, index = name.partition(".")
        return self._hidden[int(index)] if kind == "hidden" else None

    def transform(self, sample: mmkd.Sample) -> dict[str, Any]:
        rate = self.extractor.sampling_rate
        waveform = resampled(sound_of(sample), rate)
        samples = torch.tensor(len(waveform))
        if self.family in WAVES and self._frames(samples) < 1:
            raise DataError(f"audio has {len(waveform)} samples at {rate} Hz, fewer than one frame of '{self.source}'")
        made = self.extractor(waveform, sampling_rate=rate, return_tensors="np")
        name = "input_features" if self.family == WHISPER else "input_values"
        return {name: torch.from_numpy(np.asarray(made[name][0], np.float32)), "samples": samples}

    def transform_key(self) -> Hashable:
        return "sound of transformers", self.source

    def collate(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        (name,) = (field for field in rows[0] if field != "samples")
        samples = torch.stack([row["samples"] for row in rows])
        padded = torch.nn.utils.rnn.pad_sequence([row[name] for row in rows], batch_first=True)
        batch = {name: padded, "samples": samples}
        if self.family in WAVES and self.extractor.return_attention_mask:
            batch["attention_mask"] = frame_mask(samples, padded.shape[1])
        return batch

    def lengths(self, **inputs: Tensor) -> dict[str, Tensor]:
        if self.family == AST:
            return {}
        return dict.fromkeys([n for n in self.values() if n != "embedding"], self._frames(inputs["samples"]))

    def fingerprint(self) -> str | None:
        """`sha256:` and the checksum of the file of weights; None for random weights."""
        return self._fingerprint

    def formats(self) -> list[str]:
        return [] if self.family == WHISPER else ["transformers"]  # the encoder of Whisper alone is no model there

    def export(self, folder: Path, format: str) -> str:
        return save(self.net, self.extractor, self.family == AST, folder)

    def forward(
        self,
        samples: Tensor,
        input_values: Tensor | None = None,
        input_features: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> dict[str, Tensor]:
        name, given = ("input_features", input_features) if self.family == WHISPER else ("input_values", input_values)
        if given is None:
            raise GraphError(f"a '{self.family}' needs {name}", where="audio.transformers")
        fields = {name: given, "attention_mask": attention_mask}
        output = self.net(**{name: x for name, x in fields.items() if x is not None})
        tokens = output.last_hidden_state
        if self.family == AST:
            return {"tokens": tokens, "embedding": output.pooler_output}
        mask = frame_mask(self._frames(samples), tokens.shape[1])
        times = frame_times(tokens.shape[0], tokens.shape[1], *self._grid, tokens.device)
        return {"tokens": tokens, "mask": mask, "times": times, "embedding": masked_mean(tokens, mask)}

    def _frames(self, samples: Tensor) -> Tensor:
        """Frames that are centred in so many samples. Shape: `[B]` -> `[B]`."""
        if self.family == WHISPER:
            step = 2 * int(self.extractor.hop_length)
            most = int(self.net.config.max_source_positions)
            return ((samples + step - 1) // step).clamp(max=most)
        for kernel, stride in self._convolutions:
            samples = (samples - kernel) // stride + 1
        frames: Tensor = samples.clamp(min=0)
        return frames
