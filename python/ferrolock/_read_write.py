"""The locks of readers and writers."""

from __future__ import annotations

from ._native import NativeReadWriteLock

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from inspect import Signature
    from typing import Any, ParamSpec, TypeVar

    from typing_extensions import Self

    P = ParamSpec("P")
    R = TypeVar("R")


class ReadWriteLockMeta(type):
    """Gives one lock object for each path, unless it is told not to."""

    def __call__(
        cls,
        lock_file: str | os.PathLike[str],
        timeout: float = -1,
        *,
        blocking: bool = True,
        is_singleton: bool = True,
        **options: Any,
    ) -> Any:
        def construct() -> Any:
            made = super(ReadWriteLockMeta, cls).__call__
            return made(lock_file, timeout, blocking=blocking, is_singleton=is_singleton, **options)

        if not is_singleton:
            return construct()
        from ._singleton import get_or_construct

        lock: Any = cls  # one of the classes below
        given = lock._given(timeout=timeout, blocking=blocking, **options)
        return get_or_construct(cls, lock_file, given, construct, lock._describe)

    @property
    def __signature__(cls) -> Signature:
        from inspect import signature

        own = signature(cls.__init__)  # type: ignore[misc]  # of this very class
        return own.replace(parameters=list(own.parameters.values())[1:])


class ReadWriteLockBase(NativeReadWriteLock, metaclass=ReadWriteLockMeta):
    """What the locks of readers and writers have in common."""

    _is_singleton: bool
    _singleton_options: dict[str, Any]

    if TYPE_CHECKING:

        def __del__(self) -> None:
            """Release what is held, for nobody else can any more."""
    else:
        __del__ = NativeReadWriteLock._finalize

    def __repr__(self) -> str:
        state = "held" if self._is_held_by_anyone() else "unheld"
        return f"<{type(self).__module__}.{type(self).__qualname__} {self.lock_file!r} {state} at {id(self):#x}>"

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as settings: what comes out is unheld."""
        return _unpickle, (type(self), self.lock_file, self._settings())

    @classmethod
    def _given(cls, *, timeout: float, blocking: bool, **_options: Any) -> dict[str, Any]:
        """Check what was asked for, and give what a living lock must have been made with."""
        NativeReadWriteLock._check(timeout, blocking)
        return {"timeout": float(timeout), "blocking": blocking}

    @classmethod
    def _describe(cls, _different: list[str], existing: dict[str, Any], passed: dict[str, Any]) -> str:
        def words(options: dict[str, Any]) -> str:
            return f"timeout={options['timeout']}, blocking={options['blocking']}"

        return f"Singleton lock created with {words(existing)}, cannot be changed to {words(passed)}"

    def _settings(self) -> dict[str, Any]:
        return {"timeout": self.timeout, "blocking": self.blocking, "is_singleton": self._is_singleton}


class ReadWriteLock(ReadWriteLockBase):
    """
    Any number of readers, or one writer, among processes.

    The lock is on the bytes that SQLite locks: filelock's ``ReadWriteLock`` takes part, and so does every program that
    uses the file as a database. The file is created if need be (its folder is not), it is never written to, and it
    stays. A writer that waits keeps new readers out.

    Who reads can acquire again to read, and who writes to write; each thread counts for itself. Threads that share a
    lock object share a hold to read. They cannot exclude each other: for that they need objects of their own
    (``is_singleton=False``).
    """

    _mechanism = "byte_range"

    def __init__(
        self,
        lock_file: str | os.PathLike[str],
        timeout: float = -1,
        *,
        blocking: bool = True,
        is_singleton: bool = True,
    ) -> None:
        """
        Create the file if there is none, and make sure that it can be locked.

        :param lock_file: path of the file, which may be a SQLite database
        :param timeout: seconds to wait where nothing else is said; -1 or infinity is no limit
        :param blocking: wait at all, where nothing else is said
        :param is_singleton: give the living lock of this class on the same path, if there is one
        :raises TypeError, ValueError: for an option of the wrong kind; ``ValueError`` also for a database in WAL mode,
            which SQLite locks in another way
        :raises OSError: if there can be no lock file at the path, with errno and filename
        """
        self._is_singleton = is_singleton
        self._configure(lock_file, timeout, blocking, mechanism=self._mechanism)

    @classmethod
    def get_lock(cls, lock_file: str | os.PathLike[str], timeout: float = -1, *, blocking: bool = True) -> Self:
        """Give the one lock object of this class on the path, as calling the class does."""
        lock: Self = cls(lock_file, timeout, blocking=blocking)
        return lock


def _unpickle(cls: type[ReadWriteLockBase], lock_file: str, settings: dict[str, Any]) -> ReadWriteLockBase:
    lock: ReadWriteLockBase = cls(lock_file, **settings)
    return lock


def _decorated(context: AbstractContextManager[None], function: Callable[P, R]) -> Callable[P, R]:
    from functools import wraps

    @wraps(function)
    def locked(*args: P.args, **kwargs: P.kwargs) -> R:
        with context:
            return function(*args, **kwargs)

    return locked


__all__ = ["ReadWriteLock"]
