"""Importing a plugin leaves the process as it was: what it prints, seeds or switches stays with it."""

from __future__ import annotations

import contextlib
import random
import sys
from collections.abc import Callable, Iterator
from typing import Any


@contextlib.contextmanager
def isolated() -> Iterator[None]:
    """Send what is printed to stderr, and put random states and torch's default settings back at the end.

    Results then do not depend on which plugins are installed. Settings: default dtype and device, gradient mode,
    deterministic algorithms. torch and NumPy are never imported for this.
    """
    python, states, settings = random.getstate(), _states(), _settings()
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        random.setstate(python)
        for restore, state in states:
            restore(state)
        for name, value in _settings().items():
            if value != (before := settings.get(name, _DEFAULTS[name])):
                _SETTERS[name](sys.modules["torch"], before)


def _states() -> list[tuple[Callable[[Any], None], Any]]:
    """How to put back the global random states of the libraries imported so far."""
    states: list[tuple[Callable[[Any], None], Any]] = []
    if numpy := sys.modules.get("numpy"):
        states.append((numpy.random.set_state, numpy.random.get_state()))
    if torch := sys.modules.get("torch"):
        states.append((torch.set_rng_state, torch.get_rng_state()))
    return states


def _settings() -> dict[str, Any]:
    torch = sys.modules.get("torch")
    if torch is None:
        return {}
    return {
        "dtype": str(torch.get_default_dtype()).removeprefix("torch."),
        "device": str(torch.get_default_device()),
        "gradient": torch.is_grad_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }


_DEFAULTS: dict[str, Any] = {"dtype": "float32", "device": "cpu", "gradient": True, "deterministic": False}
_SETTERS: dict[str, Callable[[Any, Any], None]] = {
    "dtype": lambda torch, value: torch.set_default_dtype(getattr(torch, value)),
    "device": lambda torch, value: torch.set_default_device(None if value == "cpu" else value),
    "gradient": lambda torch, value: torch.set_grad_enabled(value),
    "deterministic": lambda torch, value: torch.use_deterministic_algorithms(value),
}
