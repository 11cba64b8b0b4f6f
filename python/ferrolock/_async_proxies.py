"""What ``await acquire()`` and its like give."""

from __future__ import annotations

from typing import Generic, TypeVar

from ._error import both_failed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Awaitable
    from types import TracebackType
    from typing import Protocol

    from ._async_read_write import AsyncReadWriteLock, AsyncSoftReadWriteLock  # noqa: F401 - named in strings

    class Released(Protocol):
        """What has a release to be awaited."""

        def release(self) -> Awaitable[None]:
            """Release."""


L = TypeVar("L", bound="Released")


async def leave(lock: Released, error: BaseException | None) -> None:
    """Release at the end of an ``async with`` whose body has raised ``error``, or None."""
    try:
        await lock.release()
    except BaseException as failure:
        if error is None or getattr(lock, "context_error_policy", "chain") == "chain":
            raise
        raise both_failed(error, failure) from None


class AsyncAcquireReturnProxy(Generic[L]):
    """The result of ``await acquire()``: leaves the lock when an ``async with`` on it ends; does not acquire again."""

    __slots__ = ("lock",)

    def __init__(self, lock: L) -> None:
        self.lock: L = lock

    async def __aenter__(self) -> L:
        """Give the lock."""
        return self.lock

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc_value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Release the lock once; an exception of the body goes on. Where both fail, the policy says what is raised."""
        await leave(self.lock, exc_value)


class AsyncAcquireReadWriteReturnProxy(AsyncAcquireReturnProxy["AsyncReadWriteLock"]):
    """The result of ``await acquire_read()`` and ``await acquire_write()``."""

    __slots__ = ()


class AsyncAcquireSoftReadWriteReturnProxy(AsyncAcquireReturnProxy["AsyncSoftReadWriteLock"]):
    """The same of an ``AsyncSoftReadWriteLock``."""

    __slots__ = ()


__all__ = ["AsyncAcquireReadWriteReturnProxy", "AsyncAcquireReturnProxy", "AsyncAcquireSoftReadWriteReturnProxy"]
