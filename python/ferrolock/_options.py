"""The options of file locks, as types. Imported when they are first asked for: ``typing`` is slow to load."""

from __future__ import annotations

from collections.abc import Callable  # noqa: TC003 - who asks for the types of the fields needs it
from typing import Literal, TypedDict

ContextErrorPolicy = Literal["chain", "group"]
"""What a ``with`` raises whose body and whose release have both failed."""

CloseErrorPolicy = Literal["default", "raise", "suppress"]
"""Whether a release fails if closing the file does, when the lock is free already."""


class LockOptions(TypedDict, total=False):
    """The options that all file locks take, for who passes them on as ``**options: Unpack[LockOptions]``."""

    timeout: float
    mode: int
    thread_local: bool
    blocking: bool
    is_singleton: bool
    poll_interval: float
    lifetime: float | None
    context_error_policy: ContextErrorPolicy
    close_error_policy: CloseErrorPolicy
    fallback_to_soft: bool
    preserve_lock_file: bool
    on_acquired: Callable[[int], object] | None
    unlink_on_release: bool


__all__ = ["CloseErrorPolicy", "ContextErrorPolicy", "LockOptions"]
