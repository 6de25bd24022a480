"""A sound network saved as transformers saves it, and the Python that loads it again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmkd_language.network import quiet

USAGE = """\
import soundfile
import torch
from transformers import AutoFeatureExtractor, AutoModel

extractor = AutoFeatureExtractor.from_pretrained(".")
model = AutoModel.from_pretrained(".").eval()
waveform, rate = soundfile.read("sound.wav", dtype="float32")  # one channel, {rate} samples per second
batch = extractor(waveform, sampling_rate=rate, return_tensors="pt")
with torch.no_grad():
    output = model(**batch)
tokens = output.last_hidden_state
values = {{"tokens": tokens, "embedding": {embedding}}}
"""


def save(network: Any, extractor: Any, pooled: bool, folder: Path) -> str:
    """Write weights, config and preprocessing; returns the code that loads them.

    Args:
        network: a model of transformers.
        extractor: its feature extractor.
        pooled: whether it has a pooled vector of its own, where others' frames are averaged.
        folder: where.
    """
    with quiet():
        network.save_pretrained(str(folder))
        extractor.save_pretrained(str(folder))
    return USAGE.format(rate=extractor.sampling_rate, embedding="output.pooler_output" if pooled else "tokens.mean(1)")
