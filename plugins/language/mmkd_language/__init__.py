"""Plugin `language`: text encoders and caption augmentation."""

from __future__ import annotations

import mmkd


@mmkd.hookimpl
def mmkd_register(registry: mmkd.Registry) -> None:
    registry.encoder("encoder", "mmkd_language.encoder:TextEncoder", url="https://github.com/huggingface/transformers")
    registry.encoder("sentence", "mmkd_language.sentence:SentenceEncoder", paper="Sentence-BERT")
    registry.encoder("tfidf", "mmkd_language.tfidf:TfIdf", paper="Term-Weighting Approaches")
    registry.encoder("transformer", "mmkd_language.transformer:TextTransformer", paper="Attention Is All You Need")
    registry.curator("tag_dropout", "mmkd_language.tag_dropout:TagDropout", paper="Deep Averaging Network")
