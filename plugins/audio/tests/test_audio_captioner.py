"""A captioner: what it reads, predicts and writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sounds
import torch
from captioners import WORDS, Listed, batch, captioner, scenes
from mmkd_audio.captioner import Captioner
from mmkd_audio.convnet import ConvNet
from mmkd_audio.scenes import Scenes
from mmkd_audio.text_decoder import TextDecoder
from mmkd_audio.transformer import positions
from torch import Tensor

import mmkd
from mmkd.errors import DataError, GraphError, MmkdError, RecipeError

CE = {"use": "core.cross_entropy", "student": "student.logits", "label": "student.labels", "mask": "student.completion"}


def told(sample: dict[str, Any], caption: str) -> dict[str, Any]:
    return {**sample, "text": caption}


def test_logits_are_those_of_the_plain_networks() -> None:
    """Frames in the decoder's width with their places, and GPT-2 over the caption: by hand, one sound at a time."""
    encoder, samples = captioner(), scenes()
    out = encoder(**batch(encoder, samples))
    for i, sample in enumerate(samples):
        heard = encoder.audio(**encoder.audio.collate([encoder.audio.transform(sample)]))
        frames = encoder.decoder.bridge(heard["tokens"])
        ids = torch.tensor([encoder.text.start + encoder.text.encode(sample["text"])])
        wanted = encoder.decoder.net(input_ids=ids, encoder_hidden_states=frames + positions(*frames.shape[1:]))
        length = ids.shape[1]
        torch.testing.assert_close(out["logits"][i, :length], wanted.logits[0], atol=1e-4, rtol=1e-4)
        assert out["labels"][i, :length].tolist() == [*ids[0, 1:].tolist(), encoder.text.eos]
        assert out["completion"][i].tolist() == [t < length for t in range(out["completion"].shape[1])]
        torch.testing.assert_close(out["audio.embedding"][i], heard["embedding"][0])
    assert torch.equal(out["reference"], out["completion"])


def test_nothing_is_computed_that_nobody_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, samples = captioner(), scenes()
    fields, calls = batch(encoder, samples), []
    plain = encoder(**fields)
    for name in ("decoder", "audio"):
        module = getattr(encoder, name)
        module.register_forward_hook(lambda *_, name=name: calls.append(name))
    for wanted, run in [
        ({"audio.embedding"}, ["audio"]), ({"audio.tokens"}, ["audio"]), ({"labels", "completion"}, []),
        ({"logits"}, ["audio", "decoder"]), ({"/decoder.net.transformer.h.0"}, ["audio", "decoder"]),
        ({"/audio.blocks.0"}, ["audio"]),
    ]:  # fmt: skip
        calls.clear()
        with encoder.reading(frozenset(wanted)):
            rows = [encoder.transform(sample) for sample in samples]
            out = encoder(**encoder.collate(rows))
        assert calls == run, wanted
        assert all(torch.equal(out[name], plain[name]) for name in wanted if not name.startswith("/"))
        assert any("audio.mel" in row for row in rows) == bool(run)
        assert any("input_ids" in row for row in rows) == ("decoder" in run or "labels" in wanted)
    monkeypatch.setattr(TextDecoder, "search", lambda *_: pytest.fail("written and not wanted"))
    with encoder.reading(frozenset({"logits", "audio.embedding"})):
        encoder(**fields)


def test_a_later_word_changes_no_earlier_logit() -> None:
    encoder, (sample, *_) = captioner(), scenes()
    one, other = (batch(encoder, [told(sample, f"low hum then {end}")]) for end in ("high beep", "slow siren"))
    a, b = encoder(**one)["logits"], encoder(**other)["logits"]
    assert torch.equal(a[:, :4], b[:, :4]) and not torch.allclose(a[:, 4:], b[:, 4:])


def test_padding_of_sounds_and_captions_changes_nothing() -> None:
    encoder, samples = captioner(), scenes(6)
    whole = encoder(**batch(encoder, samples))
    made = encoder.beams(batch(encoder, samples), range(6), 3)
    for i, sample in enumerate(samples):
        alone = batch(encoder, [sample])
        logits = encoder(**alone)["logits"][0]
        torch.testing.assert_close(whole["logits"][i, : len(logits)], logits, atol=1e-4, rtol=1e-4)
        assert encoder.beams(alone, [0], 3) == [made[i]]
    assert encoder.beams(batch(encoder, samples), [4, 1], 3) == [made[4], made[1]]


def test_the_sound_decides_what_is_written() -> None:
    encoder, samples = captioner(), scenes(12)
    written = {tuple(best) for best, *_ in encoder.beams(batch(encoder, samples), range(12), 1)}
    assert len(written) > 1
    silent = [{**s, "audio": {**s["audio"], "array": np.zeros(8000, np.float32)}} for s in samples]
    assert len({tuple(best) for best, *_ in encoder.beams(batch(encoder, silent), range(12), 1)}) == 1


def test_what_is_written_is_the_likeliest_word_after_what_was_written() -> None:
    """Kept keys against whole passes, and one beam against both."""
    encoder, samples = captioner(), scenes()
    fields = batch(encoder, samples)
    greedy = encoder.beams(fields, range(4), 1)
    draws = torch.zeros(4, 16)
    again = encoder(**encoder.rewritten(fields, {i: ids for i, (ids,) in enumerate(greedy)}))
    for i, (ids,) in enumerate(greedy):
        assert again["logits"][i, : len(ids)].argmax(-1).tolist() == ids
    for cached in (True, False):
        assert encoder.generate(fields, range(4), draws, temperature=0, cached=cached) == [ids for (ids,) in greedy]
    with encoder.reading(frozenset({"generated"})):
        rows = encoder(**fields)["generated"].tolist()
    assert [[t for t in row if t >= 0] for row in rows] == [ids for (ids,) in greedy]
    assert all(len(row) <= 5 for (row,) in encoder.beams(fields, range(4), 1, 5))


def test_more_beams_find_likelier_captions() -> None:
    encoder, samples = captioner(3), scenes(8)

    def likelihood(ids: list[int], sample: dict[str, Any]) -> float:
        fields = encoder.rewritten(batch(encoder, [sample]), {0: ids})
        chosen: Tensor = encoder(**fields)["logits"].log_softmax(-1)[0, range(len(ids)), ids]
        return float(chosen.sum().detach())

    fields = batch(encoder, samples)
    found = {n: encoder.beams(fields, range(8), n, length_penalty=0.0) for n in (1, 4)}
    total = {n: sum(likelihood(best, s) for (best, *_), s in zip(found[n], samples, strict=True)) for n in found}
    assert total[4] > total[1]
    for several, sample in zip(found[4], samples, strict=True):
        scores = [likelihood(ids, sample) for ids in several]
        assert len(several) == 4 and scores == sorted(scores, reverse=True)


def test_the_target_is_the_caption_where_there_is_one() -> None:
    encoder, (sample, *_) = captioner(), scenes()
    rows = [
        encoder.transform(s) for s in (told(sample, "low hum"), {**sample, "text": "high beep", "target": "low hum"})
    ]
    assert rows[0]["labels"].tolist() == rows[1]["labels"].tolist() == encoder.spell("low hum")
    empty = encoder.transform({**sample, "target": ""})
    assert empty["labels"].tolist() == [encoder.text.eos] and empty["completion"].tolist() == [True]
    assert encoder.read(encoder.spell("low hum")) == ("low hum", True)
    assert encoder.read(encoder.spell("low hum", ended=False)) == ("low hum", False)
    long = encoder.transform(told(sample, "low " * 40))
    assert len(long["input_ids"]) == 16


def test_a_sound_without_a_caption() -> None:
    """Alone it is heard and captioned, and predicting is an error; beside others it has nothing to be predicted."""
    encoder, samples = captioner(), scenes()
    bare = [{k: v for k, v in s.items() if k != "text"} for s in samples]
    fields = batch(encoder, bare)
    assert set(fields) == {"audio.mel", "audio.frames"}
    captioned = batch(encoder, samples)
    assert encoder.beams(fields, range(4), 2) == encoder.beams(captioned, range(4), 2)
    assert "logits" not in encoder(**fields)
    for wanted in ("logits", "labels", "completion"):
        with encoder.reading(frozenset({wanted})), pytest.raises(GraphError, match="the samples have no caption"):
            encoder(**fields)
    mixed = encoder(**batch(encoder, [samples[0], bare[1]]))
    torch.testing.assert_close(mixed["logits"][0], encoder(**batch(encoder, samples[:1]))["logits"][0])
    assert not mixed["completion"][1].any() and mixed["completion"][0].all()
    recipe = {"student": {}, "losses": {"ce": CE}, "train": {"steps": 1}}
    graph = mmkd.build(recipe, nodes={"student": encoder}, data={"train": Listed(samples)}).eval()
    losses = [float(graph(graph.collate(rows))["loss"].detach()) for rows in (samples[:1], [samples[0], bare[1]])]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_captions_in_other_rows_words_are_nobodys_reference() -> None:
    encoder, samples = captioner(), scenes()
    fields = batch(encoder, samples)
    made = encoder.rewritten(fields, {1: encoder.spell("low hum")})
    assert made["labels"][1, :3].tolist() == encoder.spell("low hum")
    assert made["reference"].any(1).tolist() == [True, False, True, True]
    assert torch.equal(made["labels"][0][made["completion"][0]], fields["labels"][0][fields["completion"][0]])
    assert made["audio.mel"] is fields["audio.mel"]


def test_over_any_audio_encoder_and_tokenizer(tmp_path: Path) -> None:
    from mmkd_audio.transformers import SoundEncoder

    for audio in (SoundEncoder(sounds.waves(tmp_path / "w", width=12)), SoundEncoder(sounds.ast(tmp_path / "a"))):
        torch.manual_seed(0)
        encoder = Captioner(audio, width=16, heads=2).eval()
        fields = batch(encoder, sounds.samples(4000, 5000))
        out = encoder(**fields)
        assert (
            out["logits"].shape[2] == encoder.text.size == 259
            and encoder.decoder.bridge.in_features == audio.embedding_dim
        )
        assert encoder.read(encoder.spell("ein grünes Haus"))[0] == "ein grünes Haus"
        assert len(encoder.beams(fields, range(2), 2, 4)) == 2


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"audio": None}, DataError, "not a whole number|sampling_rate"),
        ({"audio": {"array": np.zeros((2, 100), np.float32), "sampling_rate": 16_000}}, DataError, "not one channel"),
        ({"audio": {"array": np.zeros(0, np.float32), "sampling_rate": 16_000}}, DataError, "has no samples"),
        ({"text": 3}, DataError, "text is int, not a string"),
        ({"target": None}, DataError, "target is NoneType, not a string"),
    ],
    ids=["none", "channels", "empty", "number", "no_target"],
)
def test_a_sample_that_cannot_be_used(change: dict[str, Any], kind: type[MmkdError], message: str) -> None:
    with pytest.raises(kind, match=message):
        captioner().transform({**scenes(1)[0], **change})


def test_a_sample_without_sound() -> None:
    encoder = captioner()
    with pytest.raises(DataError, match="has no field 'audio'"):
        encoder.transform({"text": "low hum"})
    with pytest.raises(GraphError, match="the samples have no sound"):
        encoder(input_ids=torch.ones(1, 2, dtype=torch.long))
    with encoder.reading(frozenset({"labels"})):
        row = encoder.transform({"text": "low hum"})
    assert set(row) == {"input_ids", "labels", "completion"}
    assert encoder.lengths(**encoder.collate([row]))["labels"].tolist() == [3]


def test_options_that_cannot_be() -> None:
    with pytest.raises(MmkdError, match="is not even, or no multiple of 3 heads"):
        captioner(width=16, heads=3)
    with pytest.raises(MmkdError, match="words are those of a corpus"):
        captioner(tokenizer="words")
    flat = mmkd.wrap(torch.nn.Linear(2, 2), inputs=["audio"], outputs="logits")
    with pytest.raises(RecipeError, match="publishes no 'tokens'"):
        Captioner(flat)
    assert ConvNet(width=16).training and captioner().audio.training is False


def test_building_leaves_the_audio_encoder_as_it_was() -> None:
    audio = ConvNet(width=16, mels=20)
    audio.norm.eval()
    before = {name: value.clone() for name, value in audio.state_dict().items()}
    Captioner(audio, width=16, heads=2)
    assert audio.training and not audio.norm.training and audio.wanted is None
    assert all(torch.equal(value, before[name]) for name, value in audio.state_dict().items())


def test_the_words_are_in_order_and_belong_to_the_weights() -> None:
    one, same = (captioner(tokenizer="words", corpus=Scenes(60, seed=seed)) for seed in (1, 1))
    assert one.vocabulary() == same.vocabulary() and list(one.vocabulary())
    same.load_state_dict(one.state_dict())
    other = captioner(tokenizer=["zebra", *WORDS[1:]])
    with pytest.raises(GraphError, match="trained over another vocabulary"):
        captioner(tokenizer=WORDS).load_state_dict(other.state_dict())


def test_a_trained_captioner_is_exported_and_comes_back(tmp_path: Path) -> None:
    """The same logits and the same text, as it is and as the teacher of another run."""
    from mmkd_language.generated import Generated

    from mmkd.library.encoders.exported import Exported

    student = {
        "use": "audio.captioner", "audio": {"use": "audio.convnet", "width": 16, "blocks": 1, "mels": 20},
        "width": 16, "heads": 2, "layers": 1, "tokenizer": "words", "corpus": {"use": "audio.scenes", "size": 50},
        "max_length": 12,
    }  # fmt: skip
    recipe = {"student": student, "losses": {"ce": CE}, "data": {"batch_size": 4}, "train": {"steps": 3, "lr": 0.01}}
    mmkd.distill(recipe, output_dir=tmp_path / "run", data={"train": Listed(scenes(8))}, preflight=False)
    first, second = (mmkd.from_pretrained(tmp_path / "run") for _ in range(2))
    trained = mmkd.build(tmp_path / "run" / "recipe.yaml", data={"train": Listed(scenes(8))})
    from mmkd.engine import checkpoint

    checkpoint.restore(checkpoint.checkpoints(tmp_path / "run")[-1], trained, {})
    names = ["student.logits", "student.generated", "student.audio.embedding"]
    made = first.collate(scenes(), names)
    read = [graph.eval().values(made, names) for graph in (first, second, trained)]
    for name in names:
        assert torch.equal(read[0][name], read[1][name]) and torch.equal(read[0][name], read[2][name])
    teacher = Exported(str(tmp_path / "run")).eval()
    data = Generated(Listed(scenes()), teacher, str(tmp_path / "a.jsonl"), beams=1)
    inner = first.roles["student"].encoder
    wanted = [inner.read(ids)[0] for (ids,) in inner.beams(batch(inner, scenes()), range(4), 1)]
    assert [data[i]["target"] for i in range(4)] == wanted
    fields = batch(inner, scenes())
    assert {k: v.tolist() for k, v in teacher.lengths(**fields).items()} == {
        k: v.tolist() for k, v in inner.lengths(**fields).items()
    }
    with pytest.raises(AttributeError, match="nowhere"):
        _ = teacher.nowhere


def test_it_learns_to_caption() -> None:
    """The proof: two sounds, two captions, a few dozen steps."""
    torch.manual_seed(0)
    samples = [told(s, caption) for s, caption in zip(scenes(2), ("low hum", "high beep then slow siren"), strict=True)]
    encoder = captioner()
    recipe = {"student": {}, "losses": {"ce": CE}, "data": {"batch_size": 2}, "train": {"steps": 60, "lr": 0.01}}
    graph = mmkd.build(recipe, nodes={"student": encoder}, data={"train": Listed(samples)}).train()
    optimizers = mmkd.optimizers(graph, mmkd.load_recipe(recipe).train)
    losses = [float(graph.step(graph.collate(samples), optimizers)["loss"].detach()) for _ in range(60)]
    assert losses[-1] < 0.1 * losses[0]
    encoder.eval()
    made = encoder.beams(batch(encoder, samples), range(2), 1)
    assert [encoder.read(ids) for (ids,) in made] == [("low hum", True), ("high beep then slow siren", True)]
