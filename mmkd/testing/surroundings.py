"""What a component shares with everybody else in the process, and must leave as it found it."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from mmkd.testing.sameness import difference

TORCH_RANDOM = "torch's random numbers"
STIRRED = 271_828_182
"""Seed of all generators while a component is asked."""


_SETTINGS: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "torch's default dtype": (torch.get_default_dtype, torch.set_default_dtype),
    "torch's default device": (torch.get_default_device, torch.set_default_device),
    "torch's threads": (torch.get_num_threads, torch.set_num_threads),
    "torch's deterministic algorithms": (
        torch.are_deterministic_algorithms_enabled, torch.use_deterministic_algorithms
    ),
    "torch's anomaly mode": (torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly),
    "torch's matmul precision": (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
}  # fmt: skip


def surroundings() -> dict[str, Any]:
    """The state of the process, by the name a reader knows it by."""
    handlers = {s.name: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGABRT)}
    return {
        "Python's random numbers": random.getstate(),
        "NumPy's random numbers": np.random.get_state(legacy=False),
        TORCH_RANDOM: torch.get_rng_state(),
        **{name: read() for name, (read, _) in _SETTINGS.items()},
        "torch's gradient mode": torch.is_grad_enabled(),
        "cudnn.benchmark": torch.backends.cudnn.benchmark,
        "NumPy's error handling": np.geterr(),
        "the working directory": os.getcwd(),
        "the environment": dict(os.environ),
        "the warning filters": list(warnings.filters),
        "the signal handlers": handlers,
        "sys.path": list(sys.path),
    }


def changed(before: dict[str, Any], *, allowed: frozenset[str] = frozenset()) -> list[str]:
    """Names of what is no longer as it was."""
    after = surroundings()
    return [name for name in before if name not in allowed and difference(before[name], after[name])]


@contextlib.contextmanager
def preserved() -> Iterator[None]:
    """Inside, a component may change the process; afterwards it is as before."""
    before = surroundings()
    try:
        random.seed(STIRRED)  # whoever seeds a generator with 0 is not to find it there already
        np.random.seed(STIRRED)
        torch.default_generator.manual_seed(STIRRED)
        yield
    finally:
        random.setstate(before["Python's random numbers"])
        np.random.set_state(before["NumPy's random numbers"])
        torch.set_rng_state(before[TORCH_RANDOM])
        for name, (read, write) in _SETTINGS.items():
            if read() != before[name]:
                write(before[name])
        torch.set_grad_enabled(before["torch's gradient mode"])
        torch.backends.cudnn.benchmark = before["cudnn.benchmark"]
        np.seterr(**before["NumPy's error handling"])
        os.chdir(before["the working directory"])
        if dict(os.environ) != before["the environment"]:
            os.environ.clear()
            os.environ.update(before["the environment"])
        for name, handler in before["the signal handlers"].items():
            if signal.getsignal(signal.Signals[name]) is not handler:
                signal.signal(signal.Signals[name], handler)
        sys.path[:] = before["sys.path"]
