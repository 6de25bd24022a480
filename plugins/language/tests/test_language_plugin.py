import subprocess
import sys

import mmkd_language
import pytest

import mmkd


def registered():
    registry = mmkd.Registry("language")
    mmkd_language.mmkd_register(registry=registry)
    return registry.entries


def test_everything_registered_loads():
    entries = registered()
    encoders = ("causal_lm", "encoder", "sentence", "transformer", "tfidf")
    others = ("rollout", "tag_dropout", "generation", "generated", "toy_translation", "gkd", "seq_kd", "word_kd")
    assert {entry.id for entry in entries} == {f"language.{name}" for name in (*encoders, *others)}
    for entry in entries:
        assert entry.kind == "recipe" or entry.load()
        assert entry.summary.endswith(".")


@pytest.mark.parametrize("heavy", ["torch", "transformers", "huggingface_hub"])
def test_registering_imports_nothing_heavy(heavy):
    code = (
        "import sys, mmkd, mmkd_language; r = mmkd.Registry('language'); mmkd_language.mmkd_register(registry=r);"
        f"[e.summary for e in r.entries]; sys.exit({heavy!r} in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
