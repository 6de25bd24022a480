"""Plugin `language`: text encoders, causal language models that learn from what is written, caption augmentation."""

from __future__ import annotations

import mmkd


@mmkd.hookimpl
def mmkd_register(registry: mmkd.Registry) -> None:
    registry.encoder("causal_lm", "mmkd_language.causal_lm:CausalLM", paper="GPT-2")
    registry.encoder("encoder", "mmkd_language.encoder:TextEncoder", url="https://github.com/huggingface/transformers")
    registry.encoder("sentence", "mmkd_language.sentence:SentenceEncoder", paper="Sentence-BERT")
    registry.encoder("tfidf", "mmkd_language.tfidf:TfIdf", paper="Term-Weighting Approaches")
    registry.encoder("transformer", "mmkd_language.transformer:TextTransformer", paper="Attention Is All You Need")
    registry.curator("rollout", "mmkd_language.rollout:Rollout", paper="GKD", url="https://arxiv.org/abs/2306.13649")
    registry.curator("tag_dropout", "mmkd_language.tag_dropout:TagDropout", paper="Deep Averaging Network")
    registry.metric("generation", "mmkd_language.generation_score:Generation", paper="BLEU")
    registry.dataset(
        "generated", "mmkd_language.generated:Generated", paper="SeqKD", url="https://arxiv.org/abs/1606.07947"
    )
    registry.dataset("toy_translation", "mmkd_language.toy_translation:ToyTranslation")
    for name, paper in (("gkd", "GKD"), ("seq_kd", "SeqKD"), ("word_kd", "SeqKD")):
        registry.recipe(name, f"mmkd_language:recipes/{name}.yaml", paper=paper)
