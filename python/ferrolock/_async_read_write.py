"""The locks of readers and writers for tasks of an event loop."""

from __future__ import annotations

from functools import partial
from typing import Any, Generic, TypeVar

from . import _native
from ._async_proxies import (
    AsyncAcquireReadWriteReturnProxy,
    AsyncAcquireReturnProxy,
    AsyncAcquireSoftReadWriteReturnProxy,
)
from ._read_write import ReadWriteLock, ReadWriteLockBase
from ._soft_rw import SoftReadWriteLock
from ._tasks import crowd_before, give_back, off_loop, settle

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
    from asyncio import AbstractEventLoop
    from collections.abc import Awaitable, Callable
    from concurrent.futures import Executor
    from types import TracebackType
    from typing import NoReturn, ParamSpec

    from ._compromise import LeaseCompromise

    P = ParamSpec("P")
    R = TypeVar("R")

P_co = TypeVar("P_co", bound=AsyncAcquireReturnProxy[Any], covariant=True)
S = TypeVar("S", bound=ReadWriteLockBase)


class AsyncModeContext:
    """What ``read_lock()`` and ``write_lock()`` give: each ``async with`` acquires and releases. Also a decorator."""

    __slots__ = ("_acquire", "_release")

    def __init__(self, acquire: Callable[[], Awaitable[object]], release: Callable[[], Awaitable[None]]) -> None:
        self._acquire = acquire
        self._release = release

    async def __aenter__(self) -> None:
        """Acquire; gives nothing."""
        await self._acquire()

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc_value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Release one level; an exception of the body goes on."""
        await self._release()

    def __enter__(self) -> NoReturn:
        """Refuse: a task that waited here would stop its event loop."""
        raise NotImplementedError("it needs `async with`")

    def __exit__(
        self, exc_type: type[BaseException] | None, exc_value: BaseException | None, traceback: TracebackType | None, /
    ) -> NoReturn:
        """Refuse, as there is no way in."""
        self.__enter__()

    def __call__(self, function: Callable[P, Awaitable[R]]) -> Callable[P, Awaitable[R]]:
        """Decorate a coroutine function: each call runs with the lock held in this mode."""
        from functools import wraps

        @wraps(function)
        async def locked(*args: P.args, **kwargs: P.kwargs) -> R:
            async with self:
                return await function(*args, **kwargs)

        return locked


class AsyncReadWriteLockBase(_native.NativeDoor, Generic[S, P_co]):
    """What the locks of readers and writers for tasks have in common."""

    _lock: S
    _proxy: type[P_co]
    _loop: AbstractEventLoop | None
    _executor: Executor | None
    _is_inline: bool | None
    """Whether system calls are made on the thread of the event loop; None: where that is known not to take long."""

    def _set_up(self, lock: S, loop: AbstractEventLoop | None, executor: Executor | None) -> None:
        self._lock = lock
        self._lead_to(lock)
        self._loop = loop
        self._executor = executor

    if TYPE_CHECKING:

        def __del__(self) -> None:
            """Release what came in through here, for nobody else can any more."""
    else:
        __del__ = _native.NativeDoor._finalize

    def __repr__(self) -> str:
        state = "held" if self._is_held_by_anyone() else "unheld"
        return f"<{type(self).__module__}.{type(self).__qualname__} {self.lock_file!r} {state} at {id(self):#x}>"

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as settings: what comes out is unheld. Loop and executor belong to this process."""
        return _unpickle, (type(self), self.lock_file, self._lock._settings())

    @property
    def lock_file(self) -> str:
        """The path of the lock file, as it was given."""
        return self._lock.lock_file

    @property
    def timeout(self) -> float:
        """Seconds to wait where nothing else is said; -1 or infinity is no limit."""
        return self._lock.timeout

    @property
    def blocking(self) -> bool:
        """Whether to wait where nothing else is said."""
        return self._lock.blocking

    @property
    def loop(self) -> AbstractEventLoop | None:
        """The event loop that the lock was constructed with."""
        return self._loop

    @property
    def executor(self) -> Executor | None:
        """The executor for system calls; None: that of the event loop, and only where they may take long."""
        return self._executor

    async def acquire_read(self, timeout: float | None = None, *, blocking: bool | None = None) -> P_co:
        """
        Come in as a reader, or count one level more if this task is one.

        A task that is cancelled while it waits, or just when it is let in, is not inside.

        :param timeout: seconds to wait; 0 makes one attempt, -1 waits without limit, and None takes the lock's own
        :param blocking: False makes one attempt, whatever the timeout; None takes the lock's own
        :return: an object that releases the lock at the end of an ``async with``
        :raises Timeout: if a writer was inside or waited until the timeout was over
        :raises RuntimeError: if this task is the writer; if no task is running; if the lock was closed; if the wait
            would never end; if the executor was shut down
        :raises ValueError: for a timeout that is negative and not -1, or nan
        :raises OSError: if there can be no lock at the path, with errno and filename
        """
        return await self._enter(timeout, blocking=blocking, is_writer=False)

    async def acquire_write(self, timeout: float | None = None, *, blocking: bool | None = None) -> P_co:
        """
        Come in as the writer, or count one level more if this task is it.

        :param timeout: as for :meth:`acquire_read`
        :param blocking: as for :meth:`acquire_read`
        :return: an object that releases the lock at the end of an ``async with``
        :raises Timeout: if others were inside until the timeout was over
        :raises RuntimeError: if this task is a reader; otherwise as for :meth:`acquire_read`, as the rest
        """
        return await self._enter(timeout, blocking=blocking, is_writer=True)

    async def _enter(self, timeout: float | None, *, blocking: bool | None, is_writer: bool) -> P_co:
        crowd = crowd_before()
        if crowd is not None:
            await crowd.queue_up()
        begun = self._begin(is_writer, timeout, blocking, self._is_inline)
        if not isinstance(begun, bool):
            await settle(begun, self._executor, None)
        return self._proxy(self)

    def read_lock(self, timeout: float | None = None, *, blocking: bool | None = None) -> AsyncModeContext:
        """Be a reader inside an ``async with``, or while a decorated coroutine runs; arguments: `acquire_read`."""
        return AsyncModeContext(partial(self.acquire_read, timeout, blocking=blocking), self.release)

    def write_lock(self, timeout: float | None = None, *, blocking: bool | None = None) -> AsyncModeContext:
        """Be the writer inside an ``async with``, or while a decorated coroutine runs; arguments: `acquire_read`."""
        return AsyncModeContext(partial(self.acquire_write, timeout, blocking=blocking), self.release)

    async def release(self, *, force: bool = False) -> None:
        """
        Release one level of this task's that it has through this object; the last of all gives the lock back.

        A task that is cancelled meanwhile has released it all the same.

        :param force: release all levels that this task has through this object; without any, do nothing
        :raises RuntimeError: if this task has none
        :raises OSError: if the operating system failed; if it could not unlock, the lock is still held
        """
        owner = self._unnest(bool(force))
        if owner is not None:
            await self._where_said(partial(self._release, owner, bool(force)))

    async def close(self) -> None:
        """
        Release what all tasks have through this object, and refuse all acquisitions from now on.

        Other objects on the same path, and what is held through them, stay as they are. Closing again does nothing.
        """
        await self._where_said(self._close)
        if not self._lock._is_singleton:
            await self._where_said(self._lock.close)

    async def _where_said(self, call: Callable[[], None]) -> None:
        if self._is_quick() if self._is_inline is None else self._is_inline:
            call()
        else:
            await give_back(self._executor, call)


class AsyncReadWriteLock(AsyncReadWriteLockBase[ReadWriteLock, AsyncAcquireReadWriteReturnProxy]):
    """
    A :class:`ReadWriteLock` for tasks.

    What is held is a task's: who reads can acquire again to read, and who writes to write, through any object on the
    path; all other tasks wait. Waiting takes no thread. A task releases through the object by which it came in.

    Objects on one path lead to the same `ReadWriteLock`, so long as ``is_singleton`` is true; what its threads hold
    excludes tasks, and the other way round.
    """

    _proxy = AsyncAcquireReadWriteReturnProxy

    def __init__(
        self,
        lock_file: str | os.PathLike[str],
        timeout: float = -1,
        *,
        blocking: bool = True,
        is_singleton: bool = True,
        loop: AbstractEventLoop | None = None,
        executor: Executor | None = None,
    ) -> None:
        """
        Create the file if there is none, and make sure that it can be locked.

        The parameters before ``loop`` are those of :class:`ReadWriteLock`, and so are the errors.

        :param is_singleton: share the one `ReadWriteLock` of the path
        :param loop: kept for those who ask for it; what counts is the loop that is running
        :param executor: makes all system calls; None makes them on the thread of the event loop where they are known
            not to take long, and on the loop's executor elsewhere
        """
        lock = ReadWriteLock(lock_file, timeout, blocking=blocking, is_singleton=is_singleton)
        self._set_up(lock, loop, executor)
        self._owned: Executor | None = None
        self._is_inline = None if executor is None else False

    @property
    def executor(self) -> Executor | None:
        """The executor for system calls. Who asks for it without having given one is given one of the lock's own."""
        if self._executor is None:
            from concurrent.futures import ThreadPoolExecutor

            self._executor = self._owned = ThreadPoolExecutor(1)
        return self._executor

    async def close(self) -> None:
        await super().close()
        owned, self._owned = self._owned, None
        if owned is not None:
            self._executor = None
            await off_loop(None, owned.shutdown)

    close.__doc__ = AsyncReadWriteLockBase.close.__doc__


class AsyncSoftReadWriteLock(AsyncReadWriteLockBase[SoftReadWriteLock, AsyncAcquireSoftReadWriteReturnProxy]):
    """
    A :class:`SoftReadWriteLock` for tasks.

    Levels, tasks and objects are as with :class:`AsyncReadWriteLock`. All tasks that read through one
    `SoftReadWriteLock` share one lease, which stays alive until it is released, or the program ends.
    """

    _proxy = AsyncAcquireSoftReadWriteReturnProxy
    # A lease takes many system calls wherever the files are.
    _is_inline = False

    def __init__(
        self,
        lock_file: str | os.PathLike[str],
        timeout: float = -1,
        *,
        blocking: bool = True,
        is_singleton: bool = True,
        heartbeat_interval: float = 30,
        stale_threshold: float | None = None,
        poll_interval: float = 0.25,
        on_compromise: Callable[[LeaseCompromise], object] | None = None,
        loop: AbstractEventLoop | None = None,
        executor: Executor | None = None,
    ) -> None:
        """
        Touch no file: the first acquisition makes what is needed, missing folders too.

        The parameters before ``loop`` are those of :class:`SoftReadWriteLock`, and so are the errors.

        :param is_singleton: share the one `SoftReadWriteLock` of the path
        :param loop: kept for those who ask for it; what counts is the loop that is running
        :param executor: makes all system calls; None is that of the loop
        """
        lock = SoftReadWriteLock(
            lock_file,
            timeout,
            blocking=blocking,
            is_singleton=is_singleton,
            heartbeat_interval=heartbeat_interval,
            stale_threshold=stale_threshold,
            poll_interval=poll_interval,
            on_compromise=on_compromise,
        )
        self._set_up(lock, loop, executor)

    @property
    def generation(self) -> int | None:
        """The fencing token of the present hold, whichever task has it; None if nothing is held."""
        return self._lock.generation

    @property
    def compromise(self) -> LeaseCompromise | None:
        """How the present hold was lost, or the last one; None if it was not. The next hold forgets it."""
        return self._lock.compromise


def _unpickle(cls: type[AsyncReadWriteLockBase[Any, Any]], lock_file: str, settings: dict[str, Any]) -> Any:
    return cls(lock_file, **settings)


__all__ = ["AsyncReadWriteLock", "AsyncSoftReadWriteLock"]
