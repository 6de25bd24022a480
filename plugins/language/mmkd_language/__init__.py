"""Plugin `language`: text encoders."""

from __future__ import annotations

import mmkd


@mmkd.hookimpl
def mmkd_register(registry: mmkd.Registry) -> None:
    registry.encoder("sentence", "mmkd_language.sentence:SentenceEncoder", paper="Sentence-BERT")
    registry.encoder("transformer", "mmkd_language.transformer:TextTransformer", paper="Attention Is All You Need")
