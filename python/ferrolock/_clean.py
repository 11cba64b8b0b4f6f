"""``python -m ferrolock clean``: lock files that nobody holds, found and removed."""

from __future__ import annotations

import os
import sys
from collections import Counter
from contextlib import contextmanager
from fnmatch import fnmatch
from typing import TYPE_CHECKING

from . import _native

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

LEFT_OVER = ("lock file", "marker")
"""What the native half calls what can go."""

REASONS = {
    "in use": "somebody holds it or waits for it",
    "young": "it has not been there for long",
    "no lock file": "it holds data, has another name or is no regular file",
    "unknown": "locks on this file system do not tell",
}
"""Why the rest stays."""


def run(folder: str, patterns: Sequence[str], min_age_s: float, *, recursive: bool, delete: bool) -> int:
    """Say what is left over in the folder, or remove it; return the exit status."""
    if not os.path.isdir(folder):
        print(f"{folder}: there is no such folder", file=sys.stderr)
        return 2
    told = Counter[str]()

    def fail(error: OSError) -> None:
        told["failed"] += 1
        print(f"failed        {error.filename or folder}: {error.strerror or error}", file=sys.stderr)

    with _working_directory_kept():
        for path, name in _files(folder, fail, recursive=recursive):
            if not any(fnmatch(os.path.basename(path), pattern) for pattern in patterns):
                continue
            try:
                found = _native.visit_leftover(name, min_age_s, delete)
            except OSError as error:
                error.filename = path
                fail(error)
                continue
            if found in LEFT_OVER:
                told["left over"] += 1
                print(f"{'removed' if delete else 'would remove':<13} {path} ({found})")
            elif found in REASONS:
                told["stays"] += 1
                print(f"{'stays':<13} {path}: {REASONS[found]}")
    print(_summary(told, delete=delete))
    return 1 if told["failed"] else 0


def _summary(told: Counter[str], *, delete: bool) -> str:
    if not told:
        return "no file matches"
    parts = [f"{told['left over']} {'removed' if delete else 'left over'}", f"{told['stays']} in place"]
    if told["failed"]:
        parts.append(f"{told['failed']} failed")
    hint = "; nothing was removed: --delete does that" if told["left over"] and not delete else ""
    return ", ".join(parts) + hint


def _files(folder: str, fail: Callable[[OSError], None], *, recursive: bool) -> Iterator[tuple[str, str]]:
    """Walk through the files that are no links; give their paths, and what leads there from the working directory."""
    if not hasattr(os, "fwalk"):
        for root, folders, names in os.walk(folder, onerror=fail):
            yield from ((os.path.join(root, name), os.path.join(root, name)) for name in sorted(names))
            folders[:] = sorted(folders) if recursive else []
        return
    # Each folder is the working directory while its files are looked at, so that nobody can put a link in its place.
    # The separator leads through a link that the caller has named.
    for root, folders, names, descriptor in os.fwalk(os.path.join(folder, ""), onerror=fail):
        os.fchdir(descriptor)
        yield from ((os.path.join(root, name), name) for name in sorted(names) if not os.path.islink(name))
        folders[:] = sorted(folders) if recursive else []


@contextmanager
def _working_directory_kept() -> Iterator[None]:
    before = os.open(".", getattr(os, "O_PATH", os.O_RDONLY)) if hasattr(os, "fchdir") else None
    try:
        yield
    finally:
        if before is not None:
            os.fchdir(before)
            os.close(before)
