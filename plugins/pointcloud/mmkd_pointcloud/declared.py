"""How many numbers a text file of a mesh says it has: one that was cut short has fewer."""

from __future__ import annotations

from pathlib import Path

from mmkd.errors import DataError


def check_whole(path: Path) -> None:
    """Refuse an OFF or text PLY with fewer numbers than its header declares; other forms are let pass.

    Raises:
        DataError: numbers are missing.
    """
    data = path.read_bytes()
    counted = {".off": _off, ".ply": _ply}.get(path.suffix.lower())
    told = counted(data) if counted else None
    if told is not None and told[1] < told[0]:
        raise DataError(f"is cut short: {told[1]} numbers, and its header declares at least {told[0]}", where=str(path))


def _off(data: bytes) -> tuple[int, int] | None:
    """Numbers declared (three a vertex, four or more a face) and found; counts may stick to the word OFF."""
    lines = [line.partition(b"#")[0] for line in data.splitlines()]
    head, *words = b" ".join(lines).split() or [b""]
    stuck = head.upper().removeprefix(b"OFF")
    words = [stuck, *words] if stuck and head[:3].upper() == b"OFF" else words
    try:
        vertices, faces = int(words[0]), int(words[1])
    except (IndexError, ValueError):
        return None  # no header that is understood here: the reader's own error says so
    return 3 * vertices + 4 * faces, len(words) - 3


def _ply(data: bytes) -> tuple[int, int] | None:
    """Numbers declared by a header of format ascii (four or more a face) and found."""
    head, end, body = data.partition(b"end_header")
    if not end or b"format ascii" not in head:
        return None
    least, count, name = 0, 0, b""
    for line in head.splitlines():
        words = line.split()
        if words[:1] == [b"element"] and len(words) == 3 and words[2].isdigit():
            name, count = words[1], int(words[2])
        elif words[:1] == [b"property"]:
            least += count * (1 if words[1] != b"list" else 4 if name == b"face" else 1)
    return least, len(body.split())
