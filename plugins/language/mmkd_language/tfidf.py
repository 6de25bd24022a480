"""Latent semantic analysis: a bag of words, weighted by how rare they are, in few dimensions."""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Hashable, Iterable
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

import mmkd
from mmkd.errors import DataError, GraphError


class TfIdf(mmkd.Encoder):
    """Unit tf-idf vector of a text over the words of a corpus, in its main directions (Deerwester et al., 1990).

    `embedding = V_k^T v / |v|` with `v_w = count(w) * (ln((1 + N) / (1 + df(w))) + 1)` over the `N` texts of the corpus
    (Salton & Buckley, 1988), and `V_k` the first right singular vectors of the corpus's own matrix of unit rows.
    It knows no language: a word that the corpus lacks is lost, and a text of such words is the zero vector. Beside a
    sentence encoder it adds what that one blurs, which words exactly were used. The matrix is dense, so the corpus is
    of thousands of texts and words, not of millions.

    Shape: words `[B, V]` (counts times inverse document frequency) -> embedding `[B, dim]`.

    Args:
        corpus: dataset whose texts give the vocabulary; the training data, so that nothing else leaks in.
        dim: main directions to keep, at most the smaller of texts and words; null keeps one dimension a word.
        field: field of a sample that holds the text.

    Raises:
        DataError: no text in the corpus has a word.
        GraphError: the state of another corpus is loaded.
    """

    capabilities = frozenset({"text"})
    directions: Tensor | None

    def __init__(
        self, corpus: mmkd.Dataset, dim: Annotated[int, Field(ge=1)] | None = 512, field: str = "text"
    ) -> None:
        super().__init__()
        texts = [str(corpus[i][field]) for i in range(len(corpus))]
        found = Counter(word for text in texts for word in set(words(text)))
        if not found:
            raise DataError(f"no '{field}' has a word in it", where="language.tfidf.corpus")
        self.field = field
        self.index = {word: i for i, word in enumerate(sorted(found))}
        self.idf = [math.log((1 + len(texts)) / (1 + found[word])) + 1 for word in self.index]
        self._digest = hashlib.sha256(repr((list(self.index), self.idf)).encode()).digest()
        self.register_buffer("directions", self._main(texts, dim) if dim else None)

    def _main(self, texts: Iterable[str], dim: int) -> Tensor:
        """The `dim` first right singular vectors `[V, dim]` of the corpus, up to their signs."""
        rows = torch.nn.functional.normalize(torch.stack([self._counted(text) for text in texts]).double(), dim=1)
        wide = len(rows) < rows.shape[1]
        values, vectors = torch.linalg.eigh(rows @ rows.T if wide else rows.T @ rows)
        kept = values > values.amax() * len(values) * torch.finfo(values.dtype).eps
        values, vectors = values[kept].flip(0)[:dim], vectors[:, kept].flip(1)[:, :dim]
        directions: Tensor = rows.T @ vectors / values.sqrt() if wide else vectors
        return directions.float()

    def _counted(self, text: str) -> Tensor:
        counted = torch.zeros(len(self.index))
        for word in words(text):
            if (place := self.index.get(word)) is not None:
                counted[place] += self.idf[place]
        return counted

    def values(self) -> list[str]:
        return ["embedding"]

    def transform_key(self) -> Hashable:
        return "tfidf", self.field, self._digest

    def transform(self, sample: mmkd.Sample) -> dict[str, Any]:
        return {"words": self._counted(str(sample[self.field]))}

    def forward(self, words: Tensor) -> dict[str, Tensor]:
        unit = torch.nn.functional.normalize(words, dim=-1)
        return {"embedding": unit if self.directions is None else unit @ self.directions}

    def get_extra_state(self) -> Tensor:
        """SHA-256 of the vocabulary and its weights."""
        return torch.tensor(list(self._digest), dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        if bytes(state.tolist()) != self._digest:
            raise GraphError(
                "the corpus has other words than the one that this state was made with", where="language.tfidf.corpus",
                next="give the data that the model was trained on",
            )  # fmt: skip


def words(text: str) -> list[str]:
    """Runs of letters, digits and underscores, in lower case."""
    return re.findall(r"\w+", text.lower())
