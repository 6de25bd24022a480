"""A text network saved as transformers saves it, and the Python that loads it again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mmkd_language.network import quiet

if TYPE_CHECKING:
    from mmkd_language.encoder import TextEncoder

POOLED = {
    "mean": "(tokens * mask).sum(1) / mask.sum(1)",
    "cls": "tokens[:, 0]",
    "last": 'tokens[torch.arange(len(tokens)), batch["attention_mask"].sum(1) - 1]',
    "max": "tokens.masked_fill(mask == 0, -torch.inf).amax(1)",
    "pooler": "output.pooler_output",
}
USAGE = """\
import torch
from transformers import {auto}, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(".")
model = {auto}.from_pretrained("."{without_pooler}).eval()
texts = ["a sad cat"]
batch = tokenizer(texts, padding=True, truncation=True, max_length={length}, return_tensors="pt")
with torch.no_grad():
    output = model(**batch, output_hidden_states=True)
tokens = {tokens}
mask = batch["attention_mask"].unsqueeze(-1)
embedding = {pooled}
values = {{"embedding": {embedding}{logits}}}
"""


def save(encoder: TextEncoder, auto: str, folder: Path) -> str:
    """Write weights, config and tokenizer; returns the code that loads them with the class `auto` of transformers."""
    with quiet():
        encoder.net.save_pretrained(str(folder))
    encoder.tokenizer.export(folder)
    dropped = encoder.head is None and hasattr(encoder.net, "pooler") and encoder.net.pooler is None
    return USAGE.format(
        auto=auto,
        without_pooler=", add_pooling_layer=False" if dropped else "",
        length=encoder.tokenizer.max_length,
        tokens="output.last_hidden_state" if encoder.head is None else "output.hidden_states[-1]",
        pooled=POOLED[encoder.pooling],
        embedding="torch.nn.functional.normalize(embedding, dim=-1)" if encoder.normalize else "embedding",
        logits=', "logits": output.logits' if encoder.head else "",
    )
