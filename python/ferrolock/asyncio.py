"""The locks for tasks of an event loop: nobody's thread waits for them."""

from __future__ import annotations

from functools import partial
from inspect import iscoroutinefunction

from . import _native
from ._api import _DEFAULTS, BaseFileLock, FileLockMeta, _base_inits, _new
from ._async_proxies import (
    AsyncAcquireReadWriteReturnProxy,
    AsyncAcquireReturnProxy,
    AsyncAcquireSoftReadWriteReturnProxy,
    leave,
)
from ._async_read_write import AsyncReadWriteLock, AsyncSoftReadWriteLock
from ._error import both_failed
from ._lease import SoftFileLease
from ._soft import SoftFileLock
from ._strict import StrictSoftFileLock
from ._tasks import Home, Threads, crowd_before, finish, give_back, off_loop, settle
from ._unix import UnixFileLock
from ._windows import WindowsFileLock

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
    from asyncio import AbstractEventLoop
    from collections.abc import Callable
    from concurrent.futures import Executor
    from types import TracebackType
    from typing import Any, NoReturn

    from typing_extensions import Self

    from ._options import CloseErrorPolicy, ContextErrorPolicy


class AsyncFileLockMeta(FileLockMeta):
    """Knows the options that only async locks have."""

    _defaults = {  # noqa: RUF012 - nobody changes it
        **_DEFAULTS,
        "thread_local": False,
        "loop": None,
        "run_in_executor": True,
        "executor": None,
    }

    def __call__(
        cls,  # noqa: N805 - it is a metaclass
        lock_file: str | os.PathLike[str],
        timeout: float = -1,
        mode: int = -1,
        thread_local: bool = False,  # noqa: FBT001, FBT002 - filelock's signature
        **options: Any,
    ) -> Any:
        if cls._is_plain and not options and not thread_local:
            lock = _new(cls)
            lock._configure(lock_file, timeout, mode, False)  # noqa: FBT003 - filelock's order
            return lock
        if thread_local and options.get("run_in_executor", True):
            raise ValueError("run_in_executor is not supported when thread_local is True")
        given = {"timeout": timeout, "mode": mode, "thread_local": thread_local, **options}
        return cls._construct(lock_file, {**cls._defaults, **given})


class BaseAsyncFileLock(BaseFileLock, metaclass=AsyncFileLockMeta):
    """
    Abstract base of the file locks for tasks.

    A lock is an async context manager. It is one hold: while one task has it, the next that acquires *this object* has
    it too, and each releases as often as it acquired. Tasks exclude each other with an object each, as processes do.

    Waiting takes no thread: the task is woken in its turn. System calls are made on the event loop's thread where they
    are known to be answered by this machine, and by an executor elsewhere, and where it has to be found out whether the
    owner of a marker lives.
    """

    def __init__(
        self,
        lock_file: str | os.PathLike[str],
        timeout: float = -1,
        mode: int = -1,
        thread_local: bool = False,  # noqa: FBT001, FBT002 - filelock's signature
        *,
        blocking: bool = True,
        is_singleton: bool = False,
        poll_interval: float = 0.05,
        lifetime: float | None = None,
        context_error_policy: ContextErrorPolicy = "chain",
        close_error_policy: CloseErrorPolicy = "default",
        fallback_to_soft: bool = True,
        preserve_lock_file: bool = False,
        on_acquired: Callable[[int], object] | None = None,
        unlink_on_release: bool = False,
        loop: AbstractEventLoop | None = None,
        run_in_executor: bool = True,
        executor: Executor | None = None,
    ) -> None:
        """
        Touch no file; that is for :meth:`acquire`.

        The parameters before ``loop`` are those of :class:`BaseFileLock`.

        :param thread_local: give each thread a hold of its own; only with ``run_in_executor=False``
        :param loop: kept for those who ask for it; what counts is the loop that is running
        :param run_in_executor: make system calls that may take long on a thread of an executor; False makes all on the
            thread of the event loop
        :param executor: the executor; with one of one's own all system calls go there, and None is that of the loop
        :raises TypeError, ValueError: for an option of the wrong kind or out of range
        """
        super().__init__(
            lock_file,
            timeout,
            mode,
            thread_local,
            blocking=blocking,
            is_singleton=is_singleton,
            poll_interval=poll_interval,
            lifetime=lifetime,
            context_error_policy=context_error_policy,
            close_error_policy=close_error_policy,
            fallback_to_soft=fallback_to_soft,
            preserve_lock_file=preserve_lock_file,
            on_acquired=on_acquired,
            unlink_on_release=unlink_on_release,
        )
        self._loop = loop
        self._run_in_executor = run_in_executor
        self.executor = executor
        if thread_local and self._has_coroutines:
            raise ValueError(
                "thread_local=True is not supported where _acquire() or _release() is a coroutine function"
            )

    _initialize = __init__

    @property
    def loop(self) -> AbstractEventLoop | None:
        """The event loop that the lock was constructed with."""
        return self._loop

    @property
    def run_in_executor(self) -> bool:
        """Whether system calls that may take long are made on a thread of an executor."""
        return self._run_in_executor

    @property
    def executor(self) -> Executor | None:
        """The executor for system calls; None: that of the event loop, and only where they may take long."""
        return self._executor

    @executor.setter
    def executor(self, value: Executor | None) -> None:
        self._executor = value
        self._is_inline = not self._run_in_executor
        self._step_executor = value
        if self._has_coroutines:
            self._is_inline, self._step_executor = False, Threads()
        elif self._run_in_executor and value is None and not type(self)._is_backend:
            self._is_inline = None

    @property
    def _has_coroutines(self) -> bool:
        """Whether the steps of this backend have to be awaited."""
        return iscoroutinefunction(self._acquire) or iscoroutinefunction(self._release)

    def _finish_step(self, step: Any) -> None:
        """See a coroutine of a backend to its end; called on a thread that may wait for the loop."""
        finish(step, self._home)

    # What a lock is that was made without options.
    _loop: AbstractEventLoop | None = None
    _run_in_executor: bool = True
    _executor: Executor | None = None
    _step_executor: Executor | None = None
    """Where they are made otherwise."""
    _home: Home | None = None
    """Where a backend was last used."""
    _is_inline: bool | None = None
    """Whether system calls are made on the thread of the event loop; None: where that is known not to take long."""

    async def acquire(  # type: ignore[override]
        self,
        timeout: float | None = None,
        poll_interval: float | None = None,
        *,
        blocking: bool | None = None,
        cancel_check: Callable[[], bool] | None = None,
    ) -> AsyncAcquireReturnProxy[Self]:
        """
        Acquire the lock, or count one level more if this lock object is held.

        A task that is cancelled while it waits, or just when it got the lock, has not acquired it.

        :param timeout: seconds to wait; 0 makes one attempt, a negative number waits without limit, and None
            takes the lock's own ``timeout``
        :param poll_interval: seconds between two questions of ``cancel_check``, and the longest pause between
            two attempts where waiting has to poll; None takes the lock's own
        :param blocking: False makes one attempt, whatever the timeout; None takes the lock's own
        :param cancel_check: asked by the task after a failed attempt, every ``poll_interval``; the wait ends when it is
            true
        :return: an object that releases the lock at the end of an ``async with``
        :raises Timeout: if others held the lock until the timeout was over, or ``cancel_check`` ended the wait
        :raises RuntimeError: if the wait would never end (this task holds the file through another lock object); if
            there is no event loop of asyncio's kind; if the executor was shut down
        :raises OSError: if there can be no lock file at the path, with errno and filename
        """
        crowd = crowd_before()
        if crowd is not None:
            await crowd.queue_up()
        if type(self)._is_backend:
            self._home = Home.here() or self._home
        begun = _native.begin_acquire(self, timeout, poll_interval, blocking, cancel_check is not None, self._is_inline)
        if not isinstance(begun, bool):
            groups = self.context_error_policy == "group"
            begun = await settle(begun, self._step_executor, cancel_check, groups_errors=groups)
        if begun:
            await self._announce()
        return AsyncAcquireReturnProxy(self)

    async def _announce(self) -> None:
        """Call `on_acquired`; whoever does not hear that the lock was acquired does not have it."""
        try:
            if self._run_in_executor:
                await off_loop(self._step_executor, partial(_native.announce, self))
            else:
                _native.announce(self)
        except BaseException as error:
            try:
                await self.release()
            except BaseException as failure:  # noqa: BLE001 - it is raised, with the other one
                raise both_failed(error, failure) from None
            raise

    async def release(self, force: bool = False) -> None:  # type: ignore[override]  # noqa: FBT001, FBT002 - filelock's signature
        """
        Release one level of the hold; the last one gives the lock back. Unheld, do nothing.

        A task that is cancelled meanwhile has released it all the same.

        :param force: release all levels
        :raises OSError: if the operating system failed; if it could not unlock, the lock is still held
        """
        if type(self)._is_backend:
            self._home = Home.here() or self._home
        is_inline = self._is_inline
        if is_inline is None:
            is_inline = _native.is_quick(self)
        if is_inline or not (self.lock_counter == 1 or (force and self.lock_counter)):
            _native.NativeLock.release(self, force)
        else:
            await give_back(
                self._step_executor,
                partial(_native.NativeLock.release, self, force),
                groups_errors=self.context_error_policy == "group",
            )

    async def __aenter__(self) -> Self:
        """Acquire the lock as :meth:`acquire` does by default."""
        await self.acquire()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc_value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Release one level; an exception of the body goes on. Where both fail, the policy says what is raised."""
        await leave(self, exc_value)

    def __enter__(self) -> NoReturn:
        """Refuse: a task that waited here would stop its event loop."""
        raise NotImplementedError(f"{type(self).__name__} needs `async with` or `await acquire()`")

    def __exit__(
        self, exc_type: type[BaseException] | None, exc_value: BaseException | None, traceback: TracebackType | None
    ) -> NoReturn:
        """Refuse, as there is no way in."""
        self.__enter__()

    def __del__(self) -> None:
        """Release what is held, for nobody else can any more; a finalizer cannot wait."""
        _native.release_all(self)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as settings; loop and executor belong to this process."""
        make, (*made_of, options), state = super().__reduce__()
        own = {"_loop", "_run_in_executor", "_executor", "_is_inline", "_step_executor", "_home"}
        state = {name: value for name, value in (state or {}).items() if name not in own}
        if options is not None:
            options = {name: value for name, value in options.items() if name not in {"loop", "executor"}}
        return make, (*made_of, options), state or None

    def _settings(self) -> dict[str, Any]:
        return {**super()._settings(), "run_in_executor": self._run_in_executor}


_base_inits.append(BaseAsyncFileLock.__init__)

# What `inspect.signature` shows for the classes.
AsyncFileLockMeta.__call__.__wrapped__ = BaseAsyncFileLock.__init__  # type: ignore[attr-defined]


class AsyncUnixFileLock(UnixFileLock, BaseAsyncFileLock):
    """A :class:`UnixFileLock` for tasks."""


class AsyncWindowsFileLock(WindowsFileLock, BaseAsyncFileLock):
    """A :class:`WindowsFileLock` for tasks."""


class AsyncSoftFileLock(SoftFileLock, BaseAsyncFileLock):
    """A :class:`SoftFileLock` for tasks. Its members other than ``acquire`` and ``release`` block."""


class AsyncStrictSoftFileLock(StrictSoftFileLock, BaseAsyncFileLock):
    """A :class:`StrictSoftFileLock` for tasks. Its members other than ``acquire`` and ``release`` block."""


class AsyncSoftFileLease(SoftFileLease, BaseAsyncFileLock):
    """A :class:`SoftFileLease` for tasks. Its members other than ``acquire`` and ``release`` block."""


__all__ = [
    "AsyncAcquireReadWriteReturnProxy",
    "AsyncAcquireReturnProxy",
    "AsyncAcquireSoftReadWriteReturnProxy",
    "AsyncReadWriteLock",
    "AsyncSoftFileLease",
    "AsyncSoftFileLock",
    "AsyncSoftReadWriteLock",
    "AsyncStrictSoftFileLock",
    "AsyncUnixFileLock",
    "AsyncWindowsFileLock",
    "BaseAsyncFileLock",
]


def __dir__() -> list[str]:
    return list(__all__)
