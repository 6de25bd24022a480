"""The plugin, by the kit that strangers use."""

from pathlib import Path
from typing import Any

import pytest
import transformers
from language_models import DATA, model, rolled, samples as some
from tokenizers import Tokenizer, models, pre_tokenizers, processors

import mmkd
from mmkd.testing import check_plugin

WORDS = [
    "[PAD]",
    "[CLS]",
    "[SEP]",
    "[UNK]",
    "a",
    "red",
    "square",
    "on",
    "white",
    "cat",
    "animal",
    "small",
    "grey",
    "blue",
]
SIZE = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
CAPTIONS = ["a red square", "a cat on white", "small grey animal", "blue"]
SAMPLES = [
    {"text": text, "key": text} for text in ["a red square on white", "cat: animal, small, grey", "blue", "a cat"]
]


class Captions(mmkd.Dataset):
    def __len__(self) -> int:
        return len(CAPTIONS)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"text": CAPTIONS[index], "key": str(index)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bert")
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", None, [("[CLS]", 1), ("[SEP]", 2)])
    marks = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "cls", "sep", "unk")}
    transformers.PreTrainedTokenizerFast(tokenizer_object=words, **marks).save_pretrained(path)
    transformers.BertModel(transformers.BertConfig(**SIZE, vocab_size=len(WORDS))).save_pretrained(path)
    return path


def test_plugin(folder: Path, tmp_path: Path) -> None:
    saved = {"options": {"pretrained": str(folder)}}
    mine, other = model(1), model(2)
    written = {"dataset": DATA, "teacher": mine, "path": str(tmp_path / "a.jsonl"), "beams": 2, "max_new_tokens": 4}
    cases: dict[str, Any] = {
        "encoder.causal_lm": {"options": {"width": 16, "max_length": 60, "max_new_tokens": 6}},
        "curator.rollout": {
            "options": {"max_new_tokens": 6, "temperature": 2.0, "top_p": 0.9, "node": ["student", "teacher"]},
            "graph": lambda: rolled(mine, other),
            "samples": some(),
        },
        "dataset.generated": {"options": written},
        "encoder.encoder": saved,
        "encoder.sentence": saved,
        "encoder.tfidf": {"options": {"corpus": Captions(), "dim": 3}},
        "encoder.transformer": {"options": {"dim": 16, "layers": 2, "heads": 2}},
    }
    check_plugin("language", cases, samples=SAMPLES)
