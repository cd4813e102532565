"""Files and folders that a user gets whole or not at all, and that replace nothing of the user's."""

from __future__ import annotations

import errno
import os
import shutil
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from spared_sc._core.files import writing
from spared_sc._core.locks import only_writer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


class Unusable(OSError):
    """A place that cannot be written to as it is."""


@contextmanager
def complete_or_absent(
    output: Path, *, replaceable: Callable[[Path], bool] = lambda _: False, option: str = "--output"
) -> Iterator[Path]:
    """A place to write to beside the output, which is moved there at the end; an error or an interrupt removes it.

    The place is checked before the block. What is at the output stays, unless it is `replaceable`. Errors name the
    `option` that gave the place.
    """
    with ExitStack() as stack:
        with writing(output):
            _check_free(output, replaceable, option)
            stack.enter_context(only_writer(output))
            _check_free(output, replaceable, option)  # another process may have written it
            part, old = (output.with_name(f".{output.name}.spared-sc-{name}") for name in ("part", "old"))
            if old.exists() and not output.exists():  # by a process that was killed
                old.rename(output)
            for left in (part, old):
                _remove(left)
            part.mkdir()
        stack.callback(_remove, part)
        with _explained(output):
            yield part / output.name
        with writing(output, "Nothing was changed."):
            _check_free(output, replaceable, option)
            if output.exists():
                output.rename(old)
            (part / output.name).rename(output)
            _remove(old)


def _check_free(output: Path, replaceable: Callable[[Path], bool], option: str) -> None:
    if not output.parent.is_dir():
        raise Unusable(f"there is no folder {output.parent} to write to")
    if os.path.lexists(output) and not replaceable(output):
        raise Unusable(f"{output} exists: remove it, or give another name as {option}")


@contextmanager
def _explained(output: Path) -> Iterator[None]:
    """Say of a full disk what to do about it; the libraries of the file formats hide it in long messages."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        full = os.strerror(errno.ENOSPC)
        if getattr(error, "errno", None) == errno.ENOSPC or full in str(error):
            raise OSError(f"{output} cannot be written ({full}): free some space. Nothing was changed.") from error
        raise


def _remove(path: Path) -> None:
    """Remove what is at a temporary name of ours."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
