"""A file that lies within another one."""

from __future__ import annotations

import io
import os


class Part(io.RawIOBase):
    """`size` bytes from `offset` on of an open file, as a file of their own.

    Readers that need a head, or a head and a tail, read no more than that. Its position is its own: nothing else that
    reads the descriptor moves it. The descriptor stays with who opened it.
    """

    def __init__(self, descriptor: int, offset: int, size: int) -> None:
        super().__init__()
        self._descriptor, self._offset, self._size, self._place = descriptor, offset, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._size}[whence]
        self._place = max(start + offset, 0)
        return self._place

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        wanted = min(len(buffer), max(self._size - self._place, 0))
        data = os.pread(self._descriptor, wanted, self._offset + self._place)
        buffer[: len(data)] = data
        self._place += len(data)
        return len(data)
