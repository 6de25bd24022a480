"""Causal language models: what they publish, and what they write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from language_models import WORDS, batch, model, samples
from mmkd_language.causal_lm import CausalLM
from mmkd_language.completion import Completions
from mmkd_language.generation import Drawn

import mmkd
from mmkd.errors import DataError, MmkdError, RecipeError

TEXTS = [{"text": "ab", "target": "hello"}, {"text": "a longer prompt", "target": "x"}, {"text": "plain"}]


def reading(encoder: CausalLM) -> mmkd.TrainingGraph:
    """A graph that any value can be read from."""
    loss = {"use": "core.mse", "student": "student.logits", "teacher": "detach(student.logits)"}
    example = {"student": batch(encoder, samples())}
    return mmkd.build({"student": {}, "losses": {"a": loss}}, nodes={"student": encoder}, example=example).eval()


@pytest.mark.parametrize("source", ["bytes", ["a", "longer", "prompt", "x", "hello", "plain", "ab"]], ids=["b", "w"])
def test_prompt_and_completion_come_back_from_a_row(source: Any) -> None:
    text = Completions(source, 40)
    rows = [text.row(sample) for sample in TEXTS]
    made = text.batch(rows)
    for sample, (prompt, completion) in zip(TEXTS, text.rows(made), strict=True):
        wanted = sample.get("target", sample["text"])
        assert completion == [*text.encode(wanted), text.eos]
        assert text.decode(completion) == wanted
        assert prompt[0] == text.start[0]
        assert text.decode(prompt).split() == (sample["text"].split() if "target" in sample else [])


def test_only_next_tokens_of_the_completion_count() -> None:
    text = Completions("bytes", 40)
    row = text.row({"text": "ab", "target": "cd"})
    ids = [*row["input_ids"].tolist(), text.eos]
    assert text.decode(ids) == "ab\ncd"
    assert row["labels"].tolist() == ids[1:]
    assert row["completion"].tolist() == [False, False, False, True, True, True]  # c, d and the end
    assert text.row({"text": "cd"})["completion"].tolist() == [True] * 3
    made = text.batch([row, text.row({"text": "c"})])
    assert made["completion"][1].tolist() == [True, True, False, False, False, False]


def test_what_is_too_long_is_cut_on_the_right() -> None:
    row = Completions("bytes", 4).row({"text": "ab", "target": "cdef"})
    assert row["completion"].tolist() == [False, False, False, True]
    assert not Completions("bytes", 4).row({"text": "abcdef", "target": "x"})["completion"].any()


@pytest.mark.parametrize("sample", [{"text": 3}, {"text": "a", "target": None}], ids=["text", "target"])
def test_a_field_that_is_no_text(sample: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="not a string"):
        Completions("bytes", 8).row(sample)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_padding_and_neighbours_change_nothing(architecture: str) -> None:
    encoder = model(architecture=architecture)
    rows = samples()
    with torch.no_grad():
        together = encoder(**batch(encoder, rows))["logits"]
        for i, row in enumerate(rows):
            alone = encoder(**batch(encoder, [row]))["logits"][0]
            torch.testing.assert_close(together[i, : len(alone)], alone, rtol=0, atol=1e-5)


def test_lengths_reach_to_the_end_of_each_completion() -> None:
    encoder = model()
    rows = samples()
    fields = batch(encoder, rows)
    told = encoder.lengths(**fields)
    wanted = [len(encoder.transform(row)["input_ids"]) for row in rows]
    assert {tuple(length.tolist()) for length in told.values()} == {tuple(wanted)} and len(set(wanted)) > 1
    assert {"logits", "completion", "hidden.0"} <= told.keys() <= set(encoder.values())
    assert encoder.lengths(input_ids=fields["input_ids"]) == {}


def test_words_that_nobody_knows_are_one_word() -> None:
    text = Completions(["cat"], 8)
    assert text.encode("cat zebra\ncat") == [5, 3, 4, 5]
    assert text.size == 6


def test_words_of_a_corpus() -> None:
    class Corpus(mmkd.Dataset):
        def __len__(self) -> int:
            return 2

        def __getitem__(self, index: int) -> dict[str, Any]:
            return [{"text": "b a", "target": "c"}, {"text": "a d"}][index]

    known = CausalLM(tokenizer="words", corpus=Corpus()).vocabulary()
    assert {word: known[word] for word in "abcd"} == {"a": 5, "b": 6, "c": 7, "d": 8} and len(known) == 9
    with pytest.raises(MmkdError, match="words are those of a corpus"):
        CausalLM(tokenizer="words")


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
@pytest.mark.parametrize(
    "options", [{}, {"temperature": 0.7, "top_k": 5}, {"top_p": 0.5}, {"temperature": 0.0}], ids=str
)
def test_with_kept_states_it_writes_what_it_writes_without(architecture: str, options: dict[str, Any]) -> None:
    encoder = model(architecture=architecture)
    fields, draws = batch(encoder, samples()), torch.rand(8, 14, generator=torch.Generator().manual_seed(0))
    made = encoder.generate(fields, range(8), draws, **options)
    assert made == encoder.generate(fields, range(8), draws, cached=False, **options)
    assert made == [encoder.generate(fields, [i], draws[i : i + 1], **options)[0] for i in range(8)]


def test_a_completion_is_drawn_from_the_model_itself() -> None:
    """Against a loop that knows nothing of caches, padding or transformers' own generation."""
    encoder = model()
    fields, draws = batch(encoder, samples()), torch.rand(8, 10, generator=torch.Generator().manual_seed(1))
    for temperature in (1.0, 0.5):
        made = encoder.generate(fields, range(8), draws, temperature=temperature)
        for i, (prompt, _) in enumerate(encoder.text.rows(fields)):
            ids: list[int] = []
            while len(ids) < 10 and encoder.text.eos not in ids:
                with torch.no_grad():
                    logits = encoder.net(input_ids=torch.tensor([prompt + ids])).logits[0, -1]
                cumulative = (logits / temperature).double().softmax(-1).cumsum(-1)
                ids.append(int((cumulative > draws[i, len(ids)]).nonzero()[0]))
            assert made[i] == ids


def test_draws_follow_the_distribution() -> None:
    probabilities = torch.tensor([0.1, 0.0, 0.6, 0.3])
    draws = torch.linspace(0, 1, 10_001)[:-1, None]
    scores = probabilities.log().expand(len(draws), -1)
    made = Drawn(draws, 3)(torch.zeros(len(draws), 3), scores).argmax(-1)
    shares = torch.bincount(made, minlength=4) / len(draws)
    torch.testing.assert_close(shares, probabilities, atol=2e-4, rtol=0)


def test_top_k_and_top_p_leave_the_likeliest() -> None:
    encoder = model()
    fields = batch(encoder, samples(0))
    greedy = encoder.generate(fields, [0], torch.zeros(1, 5), temperature=0)
    draws = torch.full((1, 5), 0.999)
    assert encoder.generate(fields, [0], draws, top_k=1) == greedy
    assert encoder.generate(fields, [0], draws, top_p=1e-6) == greedy
    assert encoder.generate(fields, [0], draws) != greedy


def test_greedy_is_beam_search_with_one_beam_and_beams_come_in_order() -> None:
    encoder = model()
    fields = batch(encoder, samples())
    greedy = encoder.generate(fields, range(8), torch.zeros(8, 8), temperature=0)
    assert [several[0] for several in encoder.beams(fields, range(8), 1, 8)] == greedy
    for i, several in enumerate(encoder.beams(fields, range(8), 4, 8)):
        assert len({tuple(ids) for ids in several}) == 4
        scores = [_likelihood(encoder, fields, i, ids) / len(ids) for ids in several]
        assert scores == sorted(scores, reverse=True)
        assert scores[0] >= _likelihood(encoder, fields, i, greedy[i]) / len(greedy[i]) - 1e-5


def _likelihood(encoder: CausalLM, fields: Any, row: int, ids: list[int]) -> float:
    made = encoder.rewritten(fields, {row: ids})
    with torch.no_grad():
        logs = encoder(**made)["logits"].log_softmax(-1).gather(-1, made["labels"].unsqueeze(-1)).squeeze(-1)
    return float((logs * made["completion"])[row].sum())


def test_what_the_files_say_of_generation_is_not_applied() -> None:
    encoder = model()
    fields, draws = batch(encoder, samples()), torch.rand(8, 8, generator=torch.Generator().manual_seed(0))
    made = encoder.generate(fields, range(8), draws)
    encoder.net.generation_config = habits = transformers.GenerationConfig(repetition_penalty=5.0, min_new_tokens=8)
    assert encoder.generate(fields, range(8), draws) == made
    assert encoder.net.generation_config is habits


def test_no_room_is_left_after_a_long_prompt() -> None:
    encoder = model(tokenizer="bytes", max_length=8)
    fields = batch(encoder, [{"text": "far too long", "target": "x"}, {"text": "abc", "target": "x"}])
    made = encoder.generate(fields, [0, 1], torch.rand(2, 20))
    assert made[0] == [] and 1 <= len(made[1]) <= 4


def test_other_completions_take_the_place_of_the_datas() -> None:
    encoder = model()
    fields = batch(encoder, samples(0, 1, 2))
    made = encoder.rewritten(fields, {1: [7, 8, 9, 7, 8, 9, 7, 8, 9, 7, 8, 9]})
    before, after = (list(encoder.text.rows(each)) for each in (fields, made))
    assert (after[0], after[2]) == (before[0], before[2])
    assert after[1] == (before[1][0], [7, 8, 9] * 4)
    assert torch.equal(made["reference"].any(1), torch.tensor([True, False, True]))
    again = encoder.rewritten(made, {2: [7]})
    assert torch.equal(again["reference"].any(1), torch.tensor([True, False, False]))
    with torch.no_grad():
        assert torch.equal(encoder(**fields)["reference"], fields["completion"])


def test_the_greedy_completion_is_a_value() -> None:
    encoder = model(max_new_tokens=6)
    graph = reading(encoder)
    values = graph.values(graph.collate(samples()), ["student.generated", "student.logits"])
    expected = encoder.generate(batch(encoder, samples()), range(8), torch.zeros(8, 6), temperature=0)
    assert [[t for t in row if t >= 0] for row in values["student.generated"].tolist()] == expected


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_values_are_those_of_transformers(architecture: str) -> None:
    encoder = model(architecture=architecture)
    fields = batch(encoder, samples())
    graph = reading(encoder)
    names = [name for name in encoder.values() if name != "generated"]
    found = graph.values({"student": fields}, [f"student.{name}" for name in names])
    encoder.net.set_attn_implementation("eager")
    with torch.no_grad():
        output = encoder.net(input_ids=fields["input_ids"], output_hidden_states=True, output_attentions=True)
    torch.testing.assert_close(found["student.logits"], output.logits, atol=1e-5, rtol=1e-4)
    for i, state in enumerate(output.hidden_states[:-1]):
        torch.testing.assert_close(found[f"student.hidden.{i}"], state, atol=1e-5, rtol=1e-4)
    for i, maps in enumerate(output.attentions):
        torch.testing.assert_close(found[f"student.attention.{i}"], maps, atol=1e-5, rtol=1e-4)


def test_a_saved_model_is_loaded_with_its_tokenizer(tmp_path: Path) -> None:
    encoder = model()
    encoder.export(tmp_path, "transformers")
    loaded = CausalLM(str(tmp_path), max_length=32).eval()
    assert loaded.vocabulary() == encoder.vocabulary()
    fields = batch(encoder, samples())
    assert all(torch.equal(a, fields[name]) for name, a in batch(loaded, samples()).items())
    with torch.no_grad():
        assert torch.equal(loaded(**fields)["logits"], encoder(**fields)["logits"])
    smaller = CausalLM(model=str(tmp_path), config={"num_hidden_layers": 1}, max_length=32)
    assert len(smaller._hidden) == 2 and smaller.fingerprint() is None
    other = CausalLM(model=str(tmp_path), tokenizer="bytes", max_length=32)
    assert other.net.config.vocab_size == other.text.size
    with pytest.raises(MmkdError, match="the tokenizer has 259 tokens"):
        CausalLM(str(tmp_path), tokenizer="bytes", max_length=32)
    with pytest.raises(MmkdError, match="takes 33 tokens, not 64"):
        CausalLM(str(tmp_path), max_length=64)


def test_a_tokenizer_without_an_end_of_text_is_refused(tmp_path: Path) -> None:
    encoder = model()
    encoder.text._tokenizer.eos_token = None
    encoder.export(tmp_path, "transformers")
    with pytest.raises(MmkdError, match="no end-of-text token"):
        CausalLM(str(tmp_path))


@pytest.mark.parametrize("option", [{"width": 15}, {"layers": 0}, {"architecture": "rnn"}], ids=str)
def test_a_network_that_cannot_be(option: dict[str, Any]) -> None:
    loss = {"use": "core.mse", "student": "student.logits", "teacher": "detach(student.logits)"}
    recipe = {"student": {"use": "language.causal_lm", **option}, "losses": {"a": loss}}
    with pytest.raises((RecipeError, MmkdError), match=next(iter(option))):
        mmkd.build(recipe, example={})


@pytest.mark.parametrize("loss", ["core.kl", "core.jsd", "core.reverse_kl", "core.skew_kl"])
def test_word_level_losses_are_the_mean_over_tokens_of_completions(loss: str) -> None:
    student, teacher = model(1), model(2, width=24)
    bound = {"use": loss, "student": "student.logits", "teacher": "teacher.logits", "mask": "student.completion"}
    nodes = {"student": student, "teacher": teacher}
    fields = batch(student, samples())
    example = {"student": fields, "teacher": fields}
    graph = mmkd.build({"teacher": {}, "student": {}, "losses": {"a": bound}}, nodes=nodes, example=example)
    found = graph(example)["loss"]
    total, count = 0.0, 0
    for row in samples():
        one = batch(student, [row])
        with torch.no_grad():
            per_token = graph.losses["a"](student(**one)["logits"], teacher(**one)["logits"])
        total, count = total + float(per_token[one["completion"]].sum()), count + int(one["completion"].sum())
    assert found.item() == pytest.approx(total / count, rel=1e-4)


def test_the_words_of_the_data_are_what_it_needs() -> None:
    assert model().vocabulary()["<unk>"] == 3
    encoder = model()
    assert not (batch(encoder, samples())["labels"] == 3).any() and len(WORDS) > 100
