"""Plugin `audio`: sound and speech encoders, sound files, synthesised speech."""

from __future__ import annotations

import mmkd

TRANSFORMERS = ("mmkd-language", "transformers")


@mmkd.hookimpl
def mmkd_register(registry: mmkd.Registry) -> None:
    home = "mmkd_audio"
    registry.encoder("convnet", f"{home}.convnet:ConvNet")
    registry.encoder("transformer", f"{home}.transformer:AudioTransformer", paper="Attention Is All You Need")
    registry.encoder("crepe", f"{home}.crepe:Crepe", paper="CREPE", url="https://arxiv.org/abs/1802.06182")
    registry.encoder(
        "transformers", f"{home}.transformers:SoundEncoder", needs=TRANSFORMERS,
        url="https://github.com/huggingface/transformers",
    )  # fmt: skip
    registry.encoder(
        "clap", f"{home}.clap:Clap", paper="CLAP", url="https://arxiv.org/abs/2211.06687", needs=TRANSFORMERS
    )
    registry.encoder(
        "captioner", f"{home}.captioner:Captioner", paper="Audio Captioning Transformer",
        url="https://arxiv.org/abs/2107.09817", needs=TRANSFORMERS,
    )  # fmt: skip
    registry.projector("align_frames", f"{home}.align_frames:AlignFrames")
    registry.loss(
        "distilhubert", f"{home}.distilhubert:DistilHuBERT", paper="DistilHuBERT",
        url="https://arxiv.org/abs/2110.01900",
    )  # fmt: skip
    registry.curator("crop", f"{home}.crop:Crop")
    registry.curator("noise", f"{home}.noise:Noise")
    registry.curator("speed", f"{home}.speed:Speed")
    registry.dataset("bucketed", f"{home}.bucketed:Bucketed")
    registry.dataset("espeak", f"{home}.espeak:Espeak", url="https://github.com/espeak-ng/espeak-ng")
    registry.dataset("folder", f"{home}.folder:AudioFolder")
    registry.dataset("scenes", f"{home}.scenes:Scenes")
    registry.dataset("webdataset", f"{home}.webdataset:WebDataset", url="https://github.com/webdataset/webdataset")
    registry.recipe("captioning", f"{home}:recipes/captioning.yaml", needs=TRANSFORMERS)
    registry.recipe("clap", f"{home}:recipes/clap.yaml", needs=TRANSFORMERS)
    registry.recipe(
        "distilhubert", f"{home}:recipes/distilhubert.yaml", paper="DistilHuBERT",
        url="https://arxiv.org/abs/2110.01900", needs=TRANSFORMERS,
    )  # fmt: skip
    registry.recipe(
        "encoder_kd", f"{home}:recipes/encoder_kd.yaml", paper="AAC-EncoderKD", url="https://arxiv.org/abs/2407.14329",
        needs=TRANSFORMERS,
    )  # fmt: skip
    registry.recipe(
        "segue", f"{home}:recipes/segue.yaml", paper="SEGUE", url="https://arxiv.org/abs/2305.12301",
        needs=TRANSFORMERS,
    )  # fmt: skip
    registry.recipe("spoken_phrases", f"{home}:recipes/spoken_phrases.yaml", needs=("mmkd-language",))
