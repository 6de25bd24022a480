"""A network of transformers: loaded in silence and in full, and where its blocks are."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, PretrainedConfig
from transformers.utils import logging

from mmkd.errors import MmkdError
from mmkd_language.checkpoint import FILES_ONLY, folder

LISTS = ("layer", "layers", "block", "blocks", "h")
"""What networks of transformers call their blocks."""


def configured(model: str, overrides: Mapping[str, Any]) -> Any:
    """The config of an architecture (as in `checkpoint.folder`), some entries replaced, nested ones by nested maps.

    Raises:
        MmkdError: there is no such entry.
    """
    with quiet(), _translated(model):
        config = AutoConfig.from_pretrained(str(folder(model)), **FILES_ONLY)
        override(config, overrides, "config")
    if getattr(config, "use_cache", False):
        config.use_cache = False
    return config


def override(config: Any, overrides: Mapping[str, Any], where: str) -> None:
    """Replace entries of a config, nested ones by nested maps.

    Raises:
        MmkdError: there is no such entry.
    """
    for name, value in overrides.items():
        if not hasattr(config, name):
            known = [entry for entry in config.to_dict() if not entry.startswith("_")]
            raise MmkdError(f"a {type(config).__name__} has no '{name}'", where=where, name=name, exists=known)
        if isinstance(value, Mapping) and isinstance(inner := getattr(config, name), PretrainedConfig):
            override(inner, value, f"{where}.{name}")
        else:
            setattr(config, name, value)


def load(kind: Any, config: Any, pretrained: str | None, new: Callable[[Any, str], bool]) -> Any:
    """A network in float32, from safetensors only and without code of the checkpoint's own.

    Args:
        kind: the class, or `AutoModel` and its like.
        config: its architecture.
        pretrained: whose weights (as in `checkpoint.folder`); None for random ones.
        new: whether a parameter of the network may be missing from the weights, or be of another size there, and so
            stay random.

    Raises:
        MmkdError: the weights do not fill the network.
    """
    if pretrained is None:
        with quiet():
            if hasattr(kind, "from_config"):
                return kind.from_config(config, dtype=torch.float32, trust_remote_code=False)
            return kind._from_config(config, dtype=torch.float32)
    with quiet(), _translated(pretrained):
        network, report = kind.from_pretrained(
            str(folder(pretrained)), config=config, dtype=torch.float32, use_safetensors=True,
            ignore_mismatched_sizes=True, output_loading_info=True, **FILES_ONLY,
        )  # fmt: skip
    differ = {name for name, *_ in report["mismatched_keys"]}
    if lacking := sorted(name for name in {*report["missing_keys"], *differ} if not new(network, name)):
        what = "have another size in" if set(lacking) <= differ else "are not in"
        raise MmkdError(
            f"{len(lacking)} parameters of {type(network).__name__} {what} the weights of '{pretrained}', and would be "
            f"random: {', '.join(lacking[:3])}{', ...' if len(lacking) > 3 else ''}",
            where="pretrained",
            next="'model' without 'pretrained' means random weights",
        )
    return network


def hidden(network: nn.Module, run: Callable[[], object], within: str = "") -> list[str]:
    """Tap paths of `hidden.0` (what enters the first block) to `hidden.n`; none where the blocks are not regular.

    Regular are blocks that run once each and hand one tensor `[B, L, D]` on to the next. `run` makes a pass over one
    sample, of whatever content; it is called in evaluation mode and without gradient.
    """
    blocks = _blocks(network, within)
    given: list[tuple[str, Any, Any]] = []
    handles = [
        module.register_forward_hook(
            lambda _, args, kwargs, output, path=path: given.append((path, [*args, *kwargs.values()][0], output)),
            with_kwargs=True,
        )
        for path, module in blocks.items()
    ]
    training = {module: module.training for module in network.modules()}
    try:
        network.eval()
        with torch.no_grad():
            run()
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in training.items():
            module.training = mode
    tensors = [output[0] if isinstance(output, tuple) else output for _, _, output in given]
    states = [*(entered for _, entered, _ in given[:1]), *tensors]
    alike = all(isinstance(state, Tensor) and state.shape == states[0].shape for state in states)
    if not blocks or [path for path, _, _ in given] != list(blocks) or not alike:
        return []
    if states[0].dim() != 3 or len(states[0]) != 1:
        return []
    paths = [f"{path}.0" if isinstance(output, tuple) else path for path, _, output in given]
    return [f"{given[0][0]}.input", *paths]


def _blocks(network: nn.Module, within: str) -> dict[str, nn.Module]:
    """The first list of equal blocks below the module `within`, by path."""
    for name, module in network.named_modules():
        parent, _, last = name.rpartition(".")
        named = last in LISTS and f"{parent}.".startswith(f"{within}." if within else "")
        if named and isinstance(module, nn.ModuleList) and len({type(block) for block in module}) == 1:
            return {f"{name}.{i}": block for i, block in enumerate(module)}
    return {}


@contextlib.contextmanager
def eager(network: Any) -> Iterator[None]:
    """Inside, attention is computed in plain PyTorch, which alone gives its maps."""
    before = network.config._attn_implementation
    with quiet():
        network.set_attn_implementation("eager")
    try:
        yield
    finally:
        with quiet():
            network.set_attn_implementation(before)


@contextlib.contextmanager
def _translated(source: str) -> Iterator[None]:
    """Errors of transformers as ours."""
    try:
        yield
    except MmkdError:
        raise
    except (OSError, ValueError, RuntimeError) as error:
        raise MmkdError(f"transformers cannot load '{source}': {str(error).strip().splitlines()[0]}") from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No progress bars or loading reports of transformers inside."""
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]
