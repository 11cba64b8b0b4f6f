"""The exceptions."""

from __future__ import annotations

import os
import sys

from . import _native

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Timeout(TimeoutError):  # noqa: N818 - filelock's name
    """The lock was held by others until the timeout was over, or the wait was cancelled."""

    _contended: tuple[int, int] | None = None
    """Device and inode of the file that somebody else had locked."""

    _pid: int | None = None
    """The process that the lock itself names."""

    _is_held_here = False
    """Whether it was this process that had it locked."""

    def __init__(self, lock_file: str | os.PathLike[str], holder: str | None = None) -> None:
        """
        Tell which lock it was.

        :param lock_file: the path of the lock, as it was given
        :param holder: who holds it, where the lock itself says so
        """
        super().__init__()
        self._lock_file = lock_file
        self._holder = holder
        self._hint: str | None = None

    @property
    def lock_file(self) -> str | os.PathLike[str]:
        """The path of the lock, as it was given."""
        return self._lock_file

    @property
    def _whose(self) -> str:
        """Who may have it: asked once, when somebody reads it, for the kernel can take milliseconds."""
        if self._hint is None:
            self._hint = self._find_holder()
        return self._hint

    def _find_holder(self) -> str:
        if self._holder is not None:
            return f" It is held by {self._holder}, which this host cannot probe."
        if self._is_held_here:
            return " It is held by this process."
        if self._pid is not None:
            return f" It is held by process {self._pid}{_command(self._pid)}."
        if self._contended is None:
            return ""
        pid = _native.possible_holder(*self._contended)
        return "" if pid is None else f" It may be held by process {pid}{_command(pid)}."

    def __str__(self) -> str:
        return f"The file lock '{os.fspath(self._lock_file)}' could not be acquired.{self._whose}"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._lock_file!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        """Take along who had it here and now: elsewhere the question means nothing."""
        self._hint = self._whose
        return type(self), (self._lock_file,), self.__dict__


def group_class() -> Any:
    """
    Find the class of exception groups.

    :raises ValueError: where there is none
    """
    if sys.version_info >= (3, 11):
        return BaseExceptionGroup  # noqa: F821 - not in 3.10, which is why it is asked for
    else:  # noqa: RET505 - as a branch, so that type checkers leave it alone
        try:
            from exceptiongroup import BaseExceptionGroup as Backport
        except ImportError:
            msg = "context_error_policy='group' needs Python 3.11, or the backport: pip install exceptiongroup"
            raise ValueError(msg) from None
        return Backport


def both_failed(
    body: BaseException, release: BaseException, message: str = "lock body and release both failed"
) -> BaseException:
    """Make one exception of the two that a hold and the release of it have ended with."""
    try:
        group: BaseException = group_class()(message, [body, release])
    except ValueError:  # `on_acquired` needs no groups, unless two fail
        release.__context__ = body
        return release
    if release.__context__ is body:
        release.__context__ = None  # it is shown beside it
    group.__cause__ = None  # and neither of them again
    return group


def _command(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as comm:
            return f" ({comm.read().strip()})"
    except OSError:
        return ""


class SoftFileLockProtocolError(OSError):
    """The files of a lock are not what those who take part leave: whoever went on could take it from a holder."""

    def __init__(self, lock_file: str, claim_name: str | None, reason: str) -> None:
        """
        Tell what was found.

        :param lock_file: the path of the lock, as it was given
        :param claim_name: the file among the claims that it is about, where it is about one
        :param reason: what is wrong
        """
        claim = "" if claim_name is None else f": claim {claim_name!r}"
        super().__init__(f"Invalid strict soft-lock state at {lock_file}{claim}: {reason}")
        self._lock_file = lock_file
        self._claim_name = claim_name
        self._reason = reason

    @property
    def lock_file(self) -> str:
        """The path of the lock, as it was given."""
        return self._lock_file

    @property
    def claim_name(self) -> str | None:
        """The file among the claims that it is about, where it is about one."""
        return self._claim_name

    @property
    def reason(self) -> str:
        """What is wrong."""
        return self._reason

    def __reduce__(self) -> tuple[Any, ...]:
        """As what it was made of."""
        return type(self), (self._lock_file, self._claim_name, self._reason), self.__dict__


class LockClosedError(RuntimeError):
    """The lock object was closed."""

    def __reduce__(self) -> tuple[Any, ...]:
        """As an error of this class: the one that is also sqlite3's is made where it is raised."""
        return LockClosedError, self.args


_closed_class: type[LockClosedError] | None = None


def closed(lock_file: str) -> LockClosedError:
    """
    Make the error of an acquisition through a closed lock object.

    filelock's is `sqlite3.ProgrammingError`. Who expects that has imported sqlite3, and then this one is that too.
    """
    global _closed_class  # noqa: PLW0603 - made once, when it is first needed
    message = f"The lock on '{lock_file}' has been closed: make a new lock object to use it again"
    sqlite3 = sys.modules.get("sqlite3")
    if sqlite3 is None:
        return LockClosedError(message)
    if _closed_class is None:
        bases = (LockClosedError, sqlite3.ProgrammingError)
        _closed_class = type("LockClosedError", bases, {"__module__": __name__, "__doc__": LockClosedError.__doc__})
    return _closed_class(message)


__all__ = ["LockClosedError", "SoftFileLockProtocolError", "Timeout"]
