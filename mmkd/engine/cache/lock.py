"""File locks that die with the process which holds them (POSIX)."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path
from weakref import WeakSet


class Lock:
    """A lock on a file, made where there is none; exclusive, or shared with others who share it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._handle: int | None = None
        _LOCKS.add(self)

    def acquire(self, *, shared: bool = False, wait: bool = False) -> bool:
        """Whether it is held now; another holder is waited for where `wait`.

        Raises:
            FileNotFoundError: the folder of the file is gone.
        """
        while True:
            handle = _opened(self.path)
            try:
                fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                os.close(handle)
                return False
            if _is(handle, self.path):
                self._handle = handle
                return True
            os.close(handle)  # the file was removed meanwhile, and its lock locks nothing

    def release(self) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def __enter__(self) -> Lock:
        self.acquire(wait=True)
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def __del__(self) -> None:
        self.release()


_LOCKS: WeakSet[Lock] = WeakSet()


def _opened(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EROFS):
            raise
        return os.open(path, os.O_RDONLY)  # read-only media: enough to share it


def _is(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False


def _leave_to_parent() -> None:
    for lock in list(_LOCKS):
        lock.release()


os.register_at_fork(after_in_child=_leave_to_parent)  # a worker that outlives its parent would keep the lock
