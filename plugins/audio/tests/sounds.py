"""Sounds and tiny networks for the tests of this plugin."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors

RATE = 16_000
WORDS = ["<pad>", "<s>", "</s>", "<unk>", "a", "dog", "barks", "rain", "on", "the", "roof"]
LAYERS = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 24}
CONV = {"conv_dim": [16, 16], "conv_kernel": [10, 4], "conv_stride": [5, 4], "num_feat_extract_layers": 2}
POSITIONS = {"num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2}


def sound(samples: int, seed: int = 0, rate: int = RATE) -> dict[str, Any]:
    """A tone that rises, with some noise."""
    time = np.arange(samples) / rate
    noise = np.random.default_rng(seed).standard_normal(samples)
    wave = 0.3 * np.sin(2 * np.pi * (200 + 60 * seed + 100 * time) * time) + 0.02 * noise
    return {"array": wave.astype(np.float32), "sampling_rate": rate}


def samples(*lengths: int) -> list[dict[str, Any]]:
    texts = ("a dog barks", "rain", "rain on the roof", "the dog")
    return [
        {"key": f"sound/{i}", "audio": sound(n, i), "text": texts[i % 4], "label": i % 3} for i, n in enumerate(lengths)
    ]


def write(path: Path, samples: int = 8000, seed: int = 0, rate: int = RATE, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, sound(samples, seed, rate)["array"], rate, **options)
    return path


def encoded(wave: Any, format: str = "WAV", subtype: str = "PCM_16", rate: int = RATE) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, wave, rate, format=format, subtype=subtype)
    return file.getvalue()


def shard(path: Path, files: Mapping[str, bytes]) -> str:
    """A plain tar of some files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return str(path)


def nan_inside() -> bytes:
    wave = np.zeros(100, np.float32)
    wave[7] = np.nan
    return encoded(wave, subtype="FLOAT")


NOISE = np.random.default_rng(0).uniform(-0.5, 0.5, 20_000).astype(np.float32)
BAD = {
    "is empty": b"",
    "cannot be read": b"these are no sounds, whatever the file is called",
    "has no samples": encoded(np.zeros(0, np.float32)),
    "has 8 channels": encoded(np.zeros((50, 8), np.float32)),
    "1 of 100 samples are no finite numbers": nan_inside(),
    "is cut short: 20000 bytes of 40044": encoded(NOISE)[:20_000],
    "is cut short: the last page is missing": encoded(NOISE, "OGG", "VORBIS")[:-300],
}
"""Files that are refused, by what the error says."""


def waves(folder: Path, family: str = "wav2vec2", attention_mask: bool = True, layers: int = 3, width: int = 16) -> str:
    """A tiny wav2vec 2.0, HuBERT or WavLM with random weights."""
    kind = {"wav2vec2": "Wav2Vec2", "hubert": "Hubert", "wavlm": "WavLM"}[family]
    size = {**LAYERS, "num_hidden_layers": layers, "hidden_size": width}
    norm = {"feat_extract_norm": "layer", "do_stable_layer_norm": True} if attention_mask else {}
    config = getattr(transformers, f"{kind}Config")(**size, **CONV, **POSITIONS, **norm, mask_time_prob=0.0)
    torch.manual_seed(0)
    getattr(transformers, f"{kind}Model")(config).save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor(return_attention_mask=attention_mask).save_pretrained(folder)
    return str(folder)


def whisper(folder: Path) -> str:
    size = {"d_model": 16, "encoder_layers": 2, "decoder_layers": 1, "encoder_attention_heads": 2}
    ids = {"vocab_size": 20, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
    config = transformers.WhisperConfig(
        **size, **ids, decoder_attention_heads=2, encoder_ffn_dim=24, decoder_ffn_dim=24, num_mel_bins=20,
        max_source_positions=50, max_target_positions=10, suppress_tokens=None, begin_suppress_tokens=None,
    )  # fmt: skip
    torch.manual_seed(0)
    network = transformers.WhisperModel(config)
    network.generation_config = None
    network.save_pretrained(folder)
    transformers.WhisperFeatureExtractor(feature_size=20, chunk_length=1).save_pretrained(folder)
    return str(folder)


def ast(folder: Path) -> str:
    config = transformers.ASTConfig(**LAYERS, max_length=64, num_mel_bins=32, patch_size=16)
    torch.manual_seed(0)
    transformers.ASTModel(config).save_pretrained(folder)
    transformers.ASTFeatureExtractor(num_mel_bins=32, max_length=64).save_pretrained(folder)
    return str(folder)


def clap(folder: Path, fusion: bool = False) -> str:
    audio = {
        "window_size": 4, "num_mel_bins": 16, "spec_size": 64, "patch_size": 4, "patch_stride": [4, 4],
        "patch_embeds_hidden_size": 8, "depths": [1, 1], "num_attention_heads": [2, 2], "hidden_size": 16,
        "projection_dim": 12, "enable_fusion": fusion, "num_hidden_layers": 2,
    }  # fmt: skip
    text = {**LAYERS, "vocab_size": len(WORDS), "projection_dim": 12, "max_position_embeddings": 40}
    config = transformers.ClapConfig(audio_config=audio, text_config=text, projection_dim=12)
    torch.manual_seed(0)
    transformers.ClapModel(config).save_pretrained(folder)
    cut = "fusion" if fusion else "rand_trunc"
    options = {"feature_size": 16, "sampling_rate": RATE, "fft_window_size": 256, "hop_length": 64, "max_length_s": 1}
    transformers.ClapFeatureExtractor(**options, truncation=cut, frequency_min=50, frequency_max=8000).save_pretrained(
        folder
    )
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing("<s> $A </s>", None, [("<s>", 1), ("</s>", 2)])
    marks = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=words, **marks).save_pretrained(folder)
    return str(folder)
