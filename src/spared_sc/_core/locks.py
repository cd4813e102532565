"""One writer at a time: a lock on a file beside the target, which ends with the process that holds it."""

from __future__ import annotations

import errno
import os
import socket
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from spared_sc._core.report import logger

if TYPE_CHECKING:
    from collections.abc import Iterator

try:
    import fcntl
except ImportError:  # a system without such locks
    fcntl = None  # type: ignore[assignment]

_WAIT = 30.0  # seconds until another writer is an error
_LOOK = 0.05  # seconds between two attempts
_WITHOUT = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}  # of file systems that have no locks

_held: dict[tuple[Path, int], int] = {}  # lock file and thread -> its descriptor


def _forget() -> None:
    """In a forked child: the locks are its parent's, and end with the parent alone."""
    for descriptor in _held.values():
        os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


@contextmanager
def only_writer(target: Path, *, wait: float | None = None) -> Iterator[None]:
    """Be the only process and the only thread that writes a file or folder, for the length of a block.

    The lock is the file `.<name>.lock` beside the target. It ends with its process, however that ends. Whoever comes
    second waits, and gets a TimeoutError that names the writer after `wait` seconds (30 by default). A thread that holds
    the lock may ask for it again. What lies beside the target under a temporary name of ours was left by a dead writer
    once the lock is held.

    An OSError says why the folder of the target cannot be written; it must exist.
    """
    target = Path(os.path.abspath(target))  # noqa: PTH100 - a link that is replaced is not followed
    lock = target.parent.resolve() / f".{target.name}.lock"
    key = (lock, threading.get_ident())
    if fcntl is None or key in _held:
        yield
        return
    descriptor = _locked(lock, target, _WAIT if wait is None else wait)
    _held[key] = descriptor
    try:
        yield
    finally:
        if _held.pop(key, None) is not None:  # otherwise this is a child that was forked inside of the block
            lock.unlink(missing_ok=True)  # first: whoever opens it afterwards makes a new one
            os.close(descriptor)


def _locked(lock: Path, target: Path, wait: float) -> int:
    """A descriptor of the lock file that holds the lock."""
    until, told = time.monotonic() + wait, False
    while True:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            if _taken(descriptor) and _is_still(lock, descriptor):
                _sign(descriptor)
                return descriptor
            writer = _writer(descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        if time.monotonic() >= until:
            raise TimeoutError(
                f"{target} is being written by {writer}: wait until that has ended and call this again, or choose another "
                "place."
            )
        if not told and writer:
            logger.warning("waiting for %s, which writes %s", writer, target)
            told = True
        time.sleep(_LOOK)


def _taken(descriptor: int) -> bool:
    """Whether this descriptor now holds the lock."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _WITHOUT:
            logger.warning("the file system has no locks: let no other process write to the same place")
            return True
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        raise
    return True


def _is_still(lock: Path, descriptor: int) -> bool:
    """Whether the file was not removed by its former holder in the meantime."""
    try:
        return os.path.samestat(os.fstat(descriptor), lock.stat())
    except FileNotFoundError:
        return False


def _sign(descriptor: int) -> None:
    """Write into the lock file who holds it; a full disk is no reason not to hold it."""
    text = f"process {os.getpid()} on {socket.gethostname()}, since {time.strftime('%Y-%m-%d %H:%M:%S')}"
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, text.encode(), 0)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise


def _writer(descriptor: int) -> str:
    """Who holds a lock, by its file."""
    text = os.pread(descriptor, 200, 0).decode(errors="replace")
    return " ".join(text.split()) or "another process"
