"""The preprocessing that belongs to a sound network of transformers."""

from __future__ import annotations

from typing import Any

from mmkd_language.checkpoint import FILES_ONLY, folder
from mmkd_language.network import quiet
from transformers import AutoFeatureExtractor

from mmkd.errors import MmkdError


def extractor_of(source: str) -> Any:
    """What makes the network's inputs of a waveform, as the files beside the weights say (`preprocessor_config.json`).

    Raises:
        MmkdError: there is no such file.
    """
    home = folder(source)
    if not (home / "preprocessor_config.json").is_file() and not (home / "processor_config.json").is_file():
        names = sorted(path.name for path in home.iterdir())
        what = f"'{source}' has no preprocessor_config.json, which says how sounds are prepared"
        raise MmkdError(what, exists=names, next="save its feature extractor beside it with save_pretrained")
    made: Any = AutoFeatureExtractor
    with quiet():
        return made.from_pretrained(str(home), **FILES_ONLY)
