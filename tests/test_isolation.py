"""A plugin's import changes neither results nor output."""

from __future__ import annotations

import json
import random
from typing import Any

import numpy as np
import pytest
import torch

from mmkd.isolation import isolated


def _state() -> list[Any]:
    numbers = [random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()]
    settings = [torch.get_default_dtype(), torch.get_default_device(), torch.is_grad_enabled()]
    return [*numbers, *settings, torch.are_deterministic_algorithms_enabled()]


def _meddle() -> None:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    torch.set_default_device("meta")
    torch.set_grad_enabled(False)
    torch.use_deterministic_algorithms(True)


def test_states_and_settings_are_put_back() -> None:
    before = _state()
    with isolated():
        _meddle()
    assert _state() == before


def test_they_are_put_back_after_an_error_too() -> None:
    before = _state()

    def fail() -> None:
        with isolated():
            _meddle()
            raise RuntimeError("after all")

    with pytest.raises(RuntimeError, match="after all"):
        fail()
    assert _state() == before


def test_settings_of_the_user_survive() -> None:
    torch.use_deterministic_algorithms(True)
    try:
        with isolated():
            torch.use_deterministic_algorithms(False)
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)


def test_prints_go_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    with isolated():
        print("chatter")
    assert capsys.readouterr() == ("", "chatter\n")


def test_a_hostile_plugin_that_imports_torch_first(site: Any) -> None:
    code = """
import json
from mmkd.plugins import host
status = {plugin.id: plugin.status for plugin in host().plugins}
import torch
print(json.dumps([status["hostile"], str(torch.ones(1).dtype), str(torch.ones(1).device), torch.is_grad_enabled()]))
"""
    done = site.install("hostile").python("-c", code, MMKD_PLUGINS="hostile")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == ["ok", "torch.float32", "cpu", True]
