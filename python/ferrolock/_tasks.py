"""What an event loop has to do with waiting: waking a task, and system calls that may take long."""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
import weakref
from collections import deque
from concurrent.futures import Executor, Future, wait
from functools import partial
from typing import NamedTuple, TypeVar

from . import _native
from ._error import both_failed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any

T = TypeVar("T")


class _Here(threading.local):
    """What a thread knows of its loop."""

    post: weakref.ref[Post] | None = None
    """Weakly: what was put there and never read goes with the tasks."""
    crowd: Crowd | None = None


_here = _Here()

MOST_AT_ONCE = 50
"""How many tasks begin to acquire, or hear of what came of it, in one iteration of the loop: others want it too."""


class Crowd:
    """Has many tasks that acquire at once begin one after the other, in order."""

    __slots__ = ("_begun", "_is_scheduled", "_later", "loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = weakref.ref(loop)
        self._begun = 0
        self._later: deque[asyncio.Future[None]] = deque()
        self._is_scheduled = False

    def may_begin(self) -> bool:
        """Count one more, and say whether there have not been too many already."""
        self._begun += 1
        return self._begun <= MOST_AT_ONCE

    async def queue_up(self) -> None:
        """Wait for the next iteration, or a later one."""
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        self._later.append(future)
        if not self._is_scheduled:
            self._is_scheduled = True
            loop.call_soon(self._let_begin, loop)
        await future

    def _let_begin(self, loop: asyncio.AbstractEventLoop) -> None:
        self._begun = 0
        while self._later and self._begun < MOST_AT_ONCE:
            future = self._later.popleft()
            if not future.done():
                self._begun += 1
                future.set_result(None)
        self._is_scheduled = bool(self._later)
        if self._is_scheduled:
            self._begun = MOST_AT_ONCE  # whoever comes now comes later than those
            loop.call_soon(self._let_begin, loop)


def crowd_before() -> Crowd | None:
    """Count an acquisition that begins. Those with whom it has to queue up first, if there are any."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return None  # as what follows will say
    crowd = _here.crowd
    if crowd is None or crowd.loop() is not loop:
        crowd = _here.crowd = Crowd(loop)
    return None if crowd.may_begin() else crowd


class Post:
    """Takes what threads have to tell the waiters of one event loop; of rings that come together one wakes the loop."""

    __slots__ = ("__weakref__", "_bells", "_is_scheduled", "loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = weakref.ref(loop)
        self._bells: deque[Bell] = deque()
        self._is_scheduled = False

    def put(self, bell: Bell) -> bool:
        """Have the loop wake the waiter of ``bell``; False: the loop is over, and nobody will ever look."""
        loop = self.loop()
        self._bells.append(bell)
        if loop is None or loop.is_closed():
            return self._bury()
        if self._is_scheduled:
            return True
        self._is_scheduled = True
        try:
            loop.call_soon_threadsafe(self._deliver)
        except RuntimeError:  # closed since
            return self._bury()
        return True

    def _deliver(self) -> None:
        # First of all: what is put after the last look below must come again.
        self._is_scheduled = False
        for _ in range(MOST_AT_ONCE):
            if not self._bells:
                return
            future = self._bells.popleft().future
            if not future.done():
                future.set_result(None)
        self._is_scheduled = True
        asyncio.get_running_loop().call_soon(self._deliver)

    def _bury(self) -> bool:
        """Give back what waiters got whose loop ended before they could hear of it."""
        while self._bells:
            try:
                bell = self._bells.popleft()
            except IndexError:  # another thread was faster
                break
            bell.deferred.withdraw()
        return False


class Bell:
    """Wakes one waiting task."""

    __slots__ = ("__weakref__", "_post", "deferred", "future")

    def __init__(self, loop: asyncio.AbstractEventLoop, deferred: _native.Deferred) -> None:
        kept = _here.post
        post = None if kept is None else kept()
        if post is None or post.loop() is not loop:
            post = Post(loop)
            _here.post = weakref.ref(post)
        self._post = post
        self.deferred = deferred
        self.future: asyncio.Future[None] = loop.create_future()

    async def heard(self) -> None:
        """Wait until it has rung since this was last waited for."""
        await self.future
        self.future = self.future.get_loop().create_future()

    def ring(self) -> bool:
        """Have the task look at its news; called from any thread."""
        return self._post.put(self)


class NotMadeError(RuntimeError):
    """The executor was shut down before it came to a call, or no event loop runs."""


async def off_loop(executor: Executor | None, call: Callable[[], T], *, groups_errors: bool = False) -> T:
    """
    Make a call on a thread of the executor.

    It comes to its end whatever happens: a cancellation is raised only then.

    :raises NotMadeError: if it was not made; a cancellation is its ``__cause__``
    """
    try:
        job = asyncio.get_running_loop().run_in_executor(executor, call)
    except RuntimeError as error:
        raise NotMadeError(*error.args) from None
    cancelled: asyncio.CancelledError | None = None
    while not job.done():
        try:
            await asyncio.wait([job])
        except asyncio.CancelledError as error:
            cancelled = error
    if job.cancelled():
        raise NotMadeError("the executor was shut down before it came to the call") from cancelled
    failure = job.exception()
    if failure is not None:
        if cancelled is not None and groups_errors:
            raise both_failed(cancelled, failure, "cancelled, and failed") from None
        if failure.__context__ is None:
            failure.__context__ = cancelled
        raise failure
    if cancelled is not None:
        raise cancelled
    return job.result()


async def give_back(executor: Executor | None, call: Callable[[], None], *, groups_errors: bool = False) -> None:
    """
    Make a call on a thread of the executor, and here where that cannot be: what is held would stay held.

    No loop runs where a coroutine is closed inside of an ``async with``.
    """
    try:
        await off_loop(executor, call, groups_errors=groups_errors)
    except NotMadeError as error:
        call()
        if error.__cause__ is not None:
            raise error.__cause__ from None


async def settle(
    deferred: _native.Deferred,
    executor: Executor | None,
    cancel_check: Callable[[], bool] | None,
    *,
    groups_errors: bool = False,
) -> bool:
    """
    Go on with an acquisition that was not over at once, until the lock is held.

    However it ends otherwise, nothing is left of it. Says whether `on_acquired` is to hear of it.
    """
    is_inline = deferred.is_attempted
    bell = None
    try:
        if not (
            deferred.is_granted
            if is_inline
            else await off_loop(executor, deferred.attempt, groups_errors=groups_errors)
        ):
            deferred.ask(cancel_check, is_first=True)
            if deferred.is_unattended:
                await _ask_again(deferred, executor, cancel_check)
            else:
                bell = Bell(asyncio.get_running_loop(), deferred)
                await _wait(deferred, bell, cancel_check)
        # Another thread is in a system call, and has no event to give.
        while (accepted := deferred.accept()) is None:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    except GeneratorExit:
        deferred.withdraw()  # nobody can wait for anything here
        raise
    except BaseException:
        try:
            if not is_inline and deferred.is_granted:
                await give_back(executor, deferred.withdraw)
        finally:
            deferred.withdraw()  # otherwise nothing is left to do
        if bell is not None and deferred.is_leaving:
            await _leave(deferred, bell)
        raise
    return accepted


async def _wait(deferred: _native.Deferred, bell: Bell, cancel_check: Callable[[], bool] | None) -> None:
    deferred.wait(bell)
    while True:
        await bell.heard()
        news = deferred.news()
        if news:
            return
        if news is False:
            deferred.ask(cancel_check)


async def _leave(deferred: _native.Deferred, bell: Bell) -> None:
    """
    Let the thread that waits in the kernel come away from there, where it waits for nobody else.

    It might be given the lock otherwise, and others would find it held by nobody. One that hangs is not waited for.
    """
    for _ in range(20):
        await asyncio.wait([bell.future], timeout=0.005)
        bell.future = bell.future.get_loop().create_future()
        if not deferred.is_leaving:
            return
        deferred.withdraw()


async def _ask_again(
    deferred: _native.Deferred, executor: Executor | None, cancel_check: Callable[[], bool] | None
) -> None:
    """
    Wait for a lock whose mechanism is Python's.

    No thread of the core may do it: the steps run on the lock's executor, or on the event loop, and nowhere else.
    """
    while True:
        await asyncio.sleep(deferred.check_time())
        if deferred.attempt() if deferred.is_attempted else await off_loop(executor, deferred.attempt):
            return
        deferred.ask(cancel_check)


class Threads(Executor):
    """A thread for each call: it waits for coroutines, and must not keep an executor's threads from them."""

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Make the call."""
        future: Future[T] = Future()
        future.set_running_or_notify_cancel()
        # The thread takes the call away, for it must not be the last one to drop the lock object.
        calls = [partial(fn, *args, **kwargs)]
        threading.Thread(target=_settle, args=(future, calls), name="ferrolock-step", daemon=True).start()
        return future


def _settle(future: Future[T], calls: list[partial[T]]) -> None:
    call = calls.pop()
    try:
        result = call()
    except BaseException as error:  # noqa: BLE001 - whoever waits has it
        del call
        future.set_exception(error)
    else:
        del call
        future.set_result(result)


class Home(NamedTuple):
    """The event loop on which a lock was last used, and the thread that ran it."""

    loop: asyncio.AbstractEventLoop
    thread: int

    @classmethod
    def here(cls) -> Home | None:
        """The one that is running, if there is one."""
        loop = asyncio._get_running_loop()
        return None if loop is None else cls(loop, threading.get_ident())


def finish(step: Coroutine[Any, Any, object], home: Home | None) -> None:
    """
    See a coroutine of a backend to its end, from where nobody can await it.

    :param home: where the lock was last used
    :raises RuntimeError: where that cannot be done
    """
    here = asyncio._get_running_loop()
    if here is None and home is not None and not home.loop.is_closed():
        loop = home.loop
        if loop.is_running():
            job = asyncio.run_coroutine_threadsafe(step, loop)
            while not wait([job], timeout=0.1).done:
                if loop.is_closed():
                    raise RuntimeError("the event loop was closed before it came to the end of a step")
            job.result()
            return
        # Another thread must not run it: its own may be about to.
        if home.thread == threading.get_ident():
            loop.run_until_complete(step)
            return
    # Also on the thread of a loop that is finalizing the lock or the task: a step that need not wait can be made.
    try:
        step.send(None)
    except StopIteration:
        return
    step.close()
    raise RuntimeError("a lock that has to wait for its release has to be released before it is dropped")


# A thread that nobody needs would make the interpreter warn of a fork; what cannot be told any more is not waited for.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_native.end_idle_porters)
atexit.register(_native.end_waits)
