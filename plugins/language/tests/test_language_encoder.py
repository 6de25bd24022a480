"""Text networks of transformers, offline: tiny random ones of several families in folders of the test's own."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from mmkd_language.encoder import TextEncoder
from tokenizers import Tokenizer, models, pre_tokenizers, processors

import mmkd
from mmkd.errors import MmkdError

WORDS = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]", "a", "cat", "dog", "on", "mat", "the"]
SIZE = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 11}
MARKS = {"pad_token_id": 0, "bos_token_id": 1, "cls_token_id": 1, "eos_token_id": 2, "sep_token_id": 2}
T5 = {"d_model": 16, "num_layers": 2, "num_heads": 2, "d_ff": 32, "d_kv": 8, "vocab_size": 11}
SIDES = {f"{side}_{k}": v for side in ("encoder", "decoder") for k, v in
         {"layers": 2, "attention_heads": 2, "ffn_dim": 32}.items()}  # fmt: skip
CONFIGS: dict[str, Any] = {
    "bert": transformers.BertConfig(**SIZE),
    "mpnet": transformers.MPNetConfig(**SIZE, bos_token_id=1, eos_token_id=2, pad_token_id=0),
    "distilbert": transformers.DistilBertConfig(dim=16, n_layers=2, n_heads=2, hidden_dim=32, vocab_size=11),
    "modernbert": transformers.ModernBertConfig(**SIZE, **MARKS),
    "albert": transformers.AlbertConfig(**SIZE, embedding_size=8, bos_token_id=1, eos_token_id=2),
    "llama": transformers.LlamaConfig(**SIZE, bos_token_id=1, eos_token_id=2),
    "gpt2": transformers.GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=11, bos_token_id=1, eos_token_id=2),
    "t5": transformers.T5Config(**T5),
    "bart": transformers.BartConfig(
        d_model=16, vocab_size=11, pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=2, **SIDES
    ),
}
TEXTS = ["cat", "the cat on a mat", "a dog"]


def save_tokenizer(folder: Path) -> None:
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", None, [("[CLS]", 1), ("[SEP]", 2)])
    marks = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "cls", "sep", "unk", "mask")}
    transformers.PreTrainedTokenizerFast(tokenizer_object=words, **marks).save_pretrained(folder)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("models")
    for name, config in CONFIGS.items():
        torch.manual_seed(0)
        transformers.AutoModel.from_config(config).save_pretrained(root / name)
        save_tokenizer(root / name)
    return {name: str(root / name) for name in CONFIGS}


def batch(encoder: TextEncoder, texts: list[str] = TEXTS) -> dict[str, Any]:
    return encoder.collate([encoder.transform({"text": text}) for text in texts])


def reading(encoder: TextEncoder, *names: str) -> mmkd.TrainingGraph:
    value = f"student.{names[0]}"
    recipe = {"student": {}, "losses": {"a": {"use": "core.mse", "student": value, "teacher": f"detach({value})"}}}
    return mmkd.build(recipe, nodes={"student": encoder}, example={"student": batch(encoder)})


def values(encoder: TextEncoder, *names: str) -> dict[str, torch.Tensor]:
    """What the host reads."""
    graph = reading(encoder, "tokens").eval()
    read = graph.values({"student": batch(encoder)}, [f"student.{name}" for name in names])
    return {name.removeprefix("student."): value for name, value in read.items()}


@pytest.mark.parametrize("family", CONFIGS)
def test_values_are_those_of_transformers(folders: dict[str, str], family: str) -> None:
    encoder = TextEncoder(folders[family]).eval()
    reference: Any = transformers.AutoModel.from_pretrained(folders[family], attn_implementation="eager").eval()
    if reference.config.is_encoder_decoder:
        reference = reference.get_encoder()
    with torch.no_grad():
        expected = reference(**batch(encoder), output_hidden_states=True, output_attentions=True)
    names = [name for name in encoder.values() if name.startswith(("hidden.", "attention."))]
    assert len(names) == (0 if family == "albert" else 5)  # one block that runs twice is no row of blocks
    with pytest.warns(UserWarning, match="plain attention") if names and family != "mpnet" else _nothing():
        read = values(encoder, "tokens", "mask", *names)
    torch.testing.assert_close(read["tokens"], expected.last_hidden_state)
    assert torch.equal(read["mask"], batch(encoder)["attention_mask"])
    for i, attention in enumerate(expected.attentions if names else ()):
        torch.testing.assert_close(read[f"attention.{i}"], attention)
    for i, state in enumerate(expected.hidden_states[:-1] if names else ()):
        torch.testing.assert_close(read[f"hidden.{i}"], state)


def _nothing() -> Any:
    import contextlib

    return contextlib.nullcontext()


@pytest.mark.parametrize(("family", "norm"), [("llama", "norm"), ("t5", "final_layer_norm"), ("gpt2", "ln_f")])
def test_the_last_hidden_value_comes_before_the_final_norm(folders: dict[str, str], family: str, norm: str) -> None:
    encoder = TextEncoder(folders[family]).eval()
    read = values(encoder, "tokens", "hidden.-1")
    with torch.no_grad():
        torch.testing.assert_close(encoder.network.get_submodule(norm)(read["hidden.-1"]), read["tokens"])


def test_the_pass_stops_at_the_deepest_value(folders: dict[str, str]) -> None:
    encoder = TextEncoder(folders["llama"]).eval()
    graph = reading(encoder, "hidden.1")
    ran: list[str] = []
    for name in ("layers.0", "layers.1"):
        encoder.network.get_submodule(name).register_forward_pre_hook(lambda *_, name=name: ran.append(name))
    graph({"student": batch(encoder)})
    assert ran == ["layers.0"]


def test_attention_is_made_only_where_it_is_read(folders: dict[str, str]) -> None:
    encoder = TextEncoder(folders["bert"]).eval()
    assert not [name for name in encoder(**batch(encoder)) if name.startswith("attention")]
    with pytest.warns(UserWarning, match="attention maps are read: BertModel runs plain attention"):
        read = values(encoder, "attention.0", "tokens")
    torch.testing.assert_close(read["attention.0"].sum(-1), torch.ones(3, 2, 7))
    assert not read["attention.0"][0, :, :, 3:].any()  # the first text has three tokens
    assert encoder.network.config._attn_implementation == "sdpa"
    torch.testing.assert_close(read["tokens"], encoder(**batch(encoder))["tokens"])
    values(encoder, "attention.1")  # announced once


@pytest.mark.parametrize("pooling", ["mean", "cls", "max", "last", "pooler"])
def test_pooling(folders: dict[str, str], pooling: Any) -> None:
    encoder = TextEncoder(model=folders["bert"], pooling=pooling).eval()
    output = encoder(**batch(encoder))
    first = output["tokens"][0, :3]
    expected = {"mean": first.mean(0), "cls": first[0], "max": first.amax(0), "last": first[2]}
    if pooling == "pooler":
        pooler: Any = encoder.network.pooler
        expected["pooler"] = pooler(output["tokens"])[0]
    torch.testing.assert_close(output["embedding"][0], expected[pooling])
    normal = TextEncoder(model=folders["bert"], normalize=True).eval()(**batch(encoder))["embedding"]
    torch.testing.assert_close(normal.norm(dim=-1), torch.ones(3))


def test_there_must_be_a_pooler(folders: dict[str, str]) -> None:
    with pytest.raises(MmkdError, match="DistilBertModel has no pooler"):
        TextEncoder(folders["distilbert"], pooling="pooler")


HEADS: dict[str, Any] = {
    "masked_lm": ("bert", transformers.BertForMaskedLM, (3, 7, 11)),
    "causal_lm": ("llama", transformers.LlamaForCausalLM, (3, 7, 11)),
    "sequence_classification": ("bert", transformers.BertForSequenceClassification, (3, 2)),
}


@pytest.mark.parametrize("head", HEADS)
def test_heads_give_logits(tmp_path: Path, head: Any) -> None:
    family, cls, shape = HEADS[head]
    cls(CONFIGS[family]).save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    encoder = TextEncoder(str(tmp_path), head=head).eval()
    reference = cls.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        expected = reference(**batch(encoder)).logits
        tokens = reference.base_model(**batch(encoder)).last_hidden_state
    read = values(encoder, "logits", "tokens", "hidden.1")
    assert read["logits"].shape == shape and read["hidden.1"].shape == (3, 7, 16)
    torch.testing.assert_close(read["logits"], expected)
    torch.testing.assert_close(read["tokens"], tokens)


def test_a_head_without_weights_is_an_error_unless_it_is_meant_to_be_new(folders: dict[str, str]) -> None:
    with pytest.raises(MmkdError, match=r"are not in the weights of .* and would be random: classifier"):
        TextEncoder(folders["bert"], head="sequence_classification")
    encoder = TextEncoder(folders["bert"], head="sequence_classification", config={"num_labels": 5}).eval()
    assert encoder(**batch(encoder))["logits"].shape == (3, 5)
    with pytest.raises(MmkdError, match="is an encoder-decoder"):
        TextEncoder(model=folders["bart"], head="masked_lm")


def test_a_small_student_from_random_weights(folders: dict[str, str]) -> None:
    narrow = {"num_hidden_layers": 1, "hidden_size": 8, "num_attention_heads": 1, "intermediate_size": 16}
    student = TextEncoder(model=folders["bert"], config=narrow).eval()
    assert student.embedding_dim == 8 and student.fingerprint() is None
    assert student(**batch(student))["embedding"].shape == (3, 8)
    assert [v for v in student.values() if "." in v] == ["hidden.0", "hidden.1", "attention.0"]


def test_fewer_layers_are_the_first_ones(folders: dict[str, str]) -> None:
    short, whole = TextEncoder(folders["bert"], config={"num_hidden_layers": 1}), TextEncoder(folders["bert"])
    torch.testing.assert_close(values(short, "tokens")["tokens"], values(whole, "hidden.1")["hidden.1"])


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"num_hidden_layers": 3}, "16 parameters of BertModel are not in the weights"),
        ({"intermediate_size": 64}, "6 parameters of BertModel have another size in the weights"),
        ({"num_hidden_layer": 1}, "did you mean 'num_hidden_layers'"),
    ],
)
def test_weights_fill_the_network(folders: dict[str, str], config: dict[str, Any], message: str) -> None:
    with pytest.raises(MmkdError, match=message):
        TextEncoder(folders["bert"], config=config)


def test_longer_texts_than_the_network_takes(folders: dict[str, str]) -> None:
    with pytest.raises(MmkdError, match=r"takes 512 tokens, not 1000\n.*max_length: 512"):
        TextEncoder(folders["bert"], max_length=1000)


def test_vocabulary(folders: dict[str, str]) -> None:
    assert TextEncoder(folders["bert"]).vocabulary() == {word: i for i, word in enumerate(WORDS)}


def test_weights_in_several_files(folders: dict[str, str], tmp_path: Path) -> None:
    network = transformers.AutoModel.from_pretrained(folders["bert"])
    network.save_pretrained(tmp_path, max_shard_size="8KB")
    save_tokenizer(tmp_path)
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    sharded, whole = TextEncoder(str(tmp_path)).eval(), TextEncoder(folders["bert"]).eval()
    torch.testing.assert_close(sharded(**batch(sharded))["embedding"], whole(**batch(whole))["embedding"])
    before = sharded.fingerprint()
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    first = tmp_path / min(index["weight_map"].values())
    first.write_bytes(first.read_bytes()[:-1] + b"\x01")
    assert before != TextEncoder(str(tmp_path)).fingerprint()
    with pytest.raises(MmkdError, match="pinned"):
        TextEncoder(str(tmp_path), sha256=str(before))


@pytest.mark.parametrize("key", ["AutoConfig", "AutoModel", "AutoTokenizer"])
def test_code_of_a_checkpoint_is_neither_run_nor_asked_about(
    folders: dict[str, str], tmp_path: Path, key: str, monkeypatch: Any
) -> None:
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    save_tokenizer(tmp_path)
    transformers.AutoModel.from_pretrained(folders["bert"]).save_pretrained(tmp_path)
    (tmp_path / "mine.py").write_text(
        "import pathlib; pathlib.Path(__file__).with_name('ran').touch()\nclass Mine: ..."
    )
    name = "tokenizer_config.json" if key == "AutoTokenizer" else "config.json"
    config = json.loads((tmp_path / name).read_text())
    config |= {"auto_map": {key: ["mine.Mine", None] if key == "AutoTokenizer" else "mine.Mine"}}
    config |= {"model_type": "mine"} if key == "AutoConfig" else {}
    (tmp_path / name).write_text(json.dumps(config))
    if key == "AutoConfig":
        with pytest.raises(MmkdError, match="cannot load"):
            TextEncoder(str(tmp_path))
    else:
        encoder = TextEncoder(str(tmp_path))  # a class that transformers has itself
        assert type(encoder.network) is transformers.BertModel
    assert not list(Path(transformers.utils.hub.HF_MODULES_CACHE).rglob(f"{tmp_path.name}/ran"))
    assert not (tmp_path / "ran").exists()


def test_lengths_are_those_of_the_texts(folders: dict[str, str]) -> None:
    encoder = TextEncoder(pretrained=next(iter(folders.values())))
    fields = batch(encoder)
    told = encoder.lengths(**fields)
    assert {tuple(length.tolist()) for length in told.values()} == {tuple(fields["attention_mask"].sum(1).tolist())}
    assert {"tokens", "mask", "hidden.0"} <= told.keys() <= set(encoder.values()) and "embedding" not in told
