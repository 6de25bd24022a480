"""The plugin, by the kit that strangers use."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import sounds
import torch
from mmkd_audio.convnet import ConvNet
from mmkd_audio.folder import AudioFolder
from mmkd_audio.transformers import SoundEncoder

from mmkd.testing import check_plugin

SPOKEN = "needs the program espeak-ng, which is not installed"


def test_plugin(tmp_path: Path) -> None:
    torch.manual_seed(0)
    files = tmp_path / "files"
    for i, name in enumerate(("bd_one", "bd_two", "sn_three")):
        sounds.write(files / f"{name}.flac", 4000 + 500 * i, i)
    spoken = {f"{i}.flac": sounds.encoded(sounds.NOISE[: 900 + i], "FLAC") for i in range(3)}
    spoken |= {f"{i}.txt": b"a dog" for i in range(3)}
    shard = sounds.shard(tmp_path / "spoken.tar", spoken)
    here = {"pretrained": sounds.waves(tmp_path / "w")}
    said = {"texts": ["good morning", "good night"], "voices": ["en-us+m1"], "folder": str(tmp_path / "s")}
    small = {"width": 16, "mels": 20}
    words: dict[str, Any] = {"width": 16, "heads": 2, "tokenizer": sounds.WORDS[4:], "max_length": 8}
    cases: dict[str, Any] = {
        "encoder.convnet": {"options": {**small, "dim": 5, "num_classes": 3, "kernel": 3}},
        "encoder.transformer": {"options": {**small, "heads": 2, "num_classes": 4}},
        "encoder.transformers": [
            {"options": here},
            {"options": {"pretrained": sounds.whisper(tmp_path / "whisper")}},
            {"options": {"model": sounds.ast(tmp_path / "ast")}},
        ],
        "encoder.clap": {"options": {"pretrained": sounds.clap(tmp_path / "clap")}},
        "encoder.captioner": [
            {"options": {"audio": ConvNet(**small, blocks=1), **words}},
            {"options": {"audio": SoundEncoder(**here), **words, "layers": 1}},
        ],
        "curator.crop": {"options": {"seconds": 0.1}},
        "dataset.webdataset": {"options": {"shards": shard}},
        "dataset.scenes": {"options": {"size": 20}},
        "dataset.folder": {"options": {"path": str(files), "labels": "prefix", "text": "name"}},
        "dataset.bucketed": {"options": {"dataset": AudioFolder(str(files)), "batch_size": 2}},
        "dataset.espeak": {"options": said} if shutil.which("espeak-ng") else SPOKEN,
    }
    check_plugin("audio", cases, samples=sounds.samples(1600, 2080, 2400, 1920))
