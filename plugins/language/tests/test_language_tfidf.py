from __future__ import annotations

from typing import Any

import pytest
import torch
from mmkd_language.tfidf import TfIdf
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer

import mmkd
from mmkd.errors import DataError, GraphError

TEXTS = ["a cat, a hat", "the cat sat: on a mat", "Dogs & cats", "hat stand"]


class Texts(mmkd.Dataset):
    """Texts by index."""

    def __init__(self, texts: list[str] = TEXTS) -> None:
        self.texts = texts

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"key": str(index), "text": self.texts[index]}


def embed(encoder: TfIdf, texts: list[str]) -> torch.Tensor:
    return encoder(**encoder.collate([encoder.transform({"text": text}) for text in texts]))["embedding"]


def test_equals_scikit_learn() -> None:
    oracle = TfidfVectorizer(token_pattern=r"\w+", smooth_idf=True, norm="l2").fit(TEXTS)
    asked = [*TEXTS, "cat cat dogs", "a new hat"]
    expected = torch.tensor(oracle.transform(asked).toarray(), dtype=torch.float32)
    torch.testing.assert_close(embed(TfIdf(Texts(), dim=None), asked), expected)


def test_equals_latent_semantic_analysis_of_scikit_learn() -> None:
    """Directions are the same up to their signs, so inner products are."""
    texts = ["a b c", "a b d", "a c", "b e f a", "f g", "a g"]
    rows = TfidfVectorizer(token_pattern=r"\w+", norm="l2").fit_transform(texts)
    expected = torch.tensor(TruncatedSVD(2, algorithm="arpack").fit_transform(rows), dtype=torch.float32)
    found = embed(TfIdf(Texts(texts), dim=2), texts)
    torch.testing.assert_close(found @ found.T, expected @ expected.T, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("texts", [TEXTS, ["a b", "b", "a", "a a b", "b a", "b b"]], ids=["wide", "tall"])
def test_all_directions_keep_inner_products(texts: list[str]) -> None:
    exact, reduced = (embed(TfIdf(Texts(texts), dim=dim), texts) for dim in (None, 512))
    assert reduced.shape[1] <= min(len(texts), exact.shape[1])
    torch.testing.assert_close(reduced @ reduced.T, exact @ exact.T, atol=1e-5, rtol=1e-5)


def test_words_that_the_corpus_lacks_are_lost() -> None:
    encoder = TfIdf(Texts(), dim=8)
    assert not embed(encoder, ["zebra", ""]).any()
    torch.testing.assert_close(embed(encoder, ["zebra cat"]), embed(encoder, ["cat"]))


def test_same_corpus_same_encoder() -> None:
    one, other = TfIdf(Texts(), dim=3), TfIdf(Texts(list(reversed(TEXTS))), dim=3)
    assert one.transform_key() == other.transform_key()
    other.load_state_dict(one.state_dict())
    torch.testing.assert_close(embed(one, TEXTS), embed(other, TEXTS), atol=0, rtol=0)


def test_state_of_another_corpus_is_refused() -> None:
    one, other = (TfIdf(Texts(texts), dim=2) for texts in (TEXTS, ["a cat, a dog", *TEXTS[1:]]))
    with pytest.raises(GraphError, match="the corpus has other words"):
        other.load_state_dict(one.state_dict(), strict=False)


def test_empty_batch() -> None:
    assert TfIdf(Texts(), dim=3)(torch.zeros(0, 10))["embedding"].shape == (0, 3)


def test_corpus_without_words() -> None:
    with pytest.raises(DataError, match=r"language\.tfidf\.corpus: no 'text' has a word"):
        TfIdf(Texts(["", "?!"]))


def test_teaches_in_a_graph() -> None:
    recipe = {
        "teacher": {},
        "student": {},
        "losses": {"match": {"use": "core.mse", "student": "student.logits", "teacher": "teacher.embedding"}},
    }
    nodes = {"student": mmkd.wrap(torch.nn.Linear(8, 3), inputs=["x"]), "teacher": TfIdf(Texts(), dim=3)}
    samples = [{"text": text, "x": torch.randn(8)} for text in TEXTS]
    graph = mmkd.build(recipe, nodes=nodes, data={"train": samples})
    loss = graph(graph.collate(samples))["loss"]
    loss.backward()
    assert loss > 0
