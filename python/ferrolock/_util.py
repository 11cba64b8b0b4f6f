"""Helpers that filelock has for its own classes, and that backends of other projects use."""

from __future__ import annotations

import errno
import os
import stat
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path


def ensure_directory_exists(filename: Path | str) -> None:
    """Make the folders above a file, if they are missing."""
    os.makedirs(os.path.dirname(filename) or ".", exist_ok=True)


def raise_on_not_writable_file(filename: str) -> None:
    """
    Refuse what is at a path, if nobody could ever lock it by writing to it.

    :raises PermissionError: for a file that may not be written; on Windows also for a folder
    :raises IsADirectoryError: for a folder
    """
    try:
        mode = os.stat(filename).st_mode
    except OSError:  # nothing is there, or nobody can tell
        return
    if stat.S_ISDIR(mode):
        code = errno.EACCES if sys.platform == "win32" else errno.EISDIR
        raise OSError(code, os.strerror(code), filename)
    if not mode & stat.S_IWUSR and not os.access(filename, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), filename)


__all__ = ["ensure_directory_exists", "raise_on_not_writable_file"]
