"""The native half of the package: not an interface of its own."""

import os
from collections.abc import Callable
from types import GenericAlias, TracebackType
from typing import Any, Final, Generic, Literal, ParamSpec, TypeVar, final

from typing_extensions import Self, disjoint_base

from ._claim import StrictSoftFileClaimState
from ._compromise import LeaseCompromise
from ._marker import OwnerMode

_P = ParamSpec("_P")
_R = TypeVar("_R")
_L_co = TypeVar("_L_co", covariant=True, default=Any)

__all__ = [
    "MECHANISM",
    "AcquireReturnProxy",
    "Deferred",
    "ModeContext",
    "NativeDoor",
    "NativeLock",
    "NativeReadWriteLock",
    "__version__",
    "announce",
    "begin_acquire",
    "break_strict_claim",
    "canonical_path",
    "check_lease",
    "check_lifetime",
    "check_options",
    "check_policies",
    "end_holds_at_exit",
    "end_idle_porters",
    "end_waits",
    "is_quick",
    "lock_descriptor",
    "note_overrides",
    "possible_holder",
    "release_all",
    "remove_markers_at_exit",
    "strict_claims",
    "strict_occupant",
    "unlock_descriptor",
    "visit_leftover",
]

MECHANISM: Final[str]
"""The lock call of this platform: "flock", "LockFileEx" or "none"."""

__version__: Final[str]
"""The version of the package."""

@final
class AcquireReturnProxy(Generic[_L_co]):
    """
    The result of ``acquire``: leaves the lock when a ``with`` on it ends, and does not acquire again.

    Dropping it does not release.
    """

    def __new__(cls, lock: _L_co) -> Self: ...
    @property
    def lock(self) -> _L_co:
        """The lock that was acquired."""

    def __enter__(self) -> _L_co:
        """Give the lock."""

    def __exit__(
        self, exc_type: type[BaseException] | None, exc_value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Release the lock once; an exception of the body goes on."""

    @classmethod
    def __class_getitem__(cls, item: Any) -> GenericAlias: ...

@disjoint_base
class NativeLock:
    """The fast half of ``BaseFileLock``: everything that touches the core."""

    def __new__(cls, *_args: Any, **_kwargs: Any) -> Self: ...
    def _configure(
        self,
        lock_file: str | os.PathLike[str],
        timeout: float,
        mode: int,
        thread_local: bool,
        blocking: bool | None = None,
        is_singleton: bool | None = None,
        poll_interval: float | None = None,
        lifetime: float | None = None,
        *,
        mechanism: str | None = None,
        is_backend: bool = False,
        lease_duration: float | None = None,
        heartbeat_interval: float | None = None,
        on_compromise: Callable[[LeaseCompromise], object] | None = None,
        **policies: Any,
    ) -> None: ...
    def acquire(
        self,
        timeout: float | None = None,
        poll_interval: float | None = None,
        *,
        poll_intervall: float | None = None,
        blocking: bool | None = None,
        cancel_check: Callable[[], bool] | None = None,
    ) -> AcquireReturnProxy[Self]:
        """
        Acquire the lock, or count one level more if this thread holds it.

        :param timeout: seconds to wait; 0 makes one attempt, a negative number waits without limit, and None
            takes the lock's own ``timeout``
        :param poll_interval: seconds between two questions of ``cancel_check``, and the longest pause between
            two attempts where waiting has to poll; None takes the lock's own
        :param poll_intervall: an old spelling of ``poll_interval``, deprecated
        :param blocking: False makes one attempt, whatever the timeout; None takes the lock's own
        :param cancel_check: asked after a failed attempt, every ``poll_interval``; the wait ends when it is true
        :return: an object that releases the lock at the end of a ``with``
        :raises Timeout: if others held the lock until the timeout was over, or the wait was cancelled
        :raises RuntimeError: if the wait would never end (this thread holds the file through another lock
            object), or comes from inside a wait of this thread for the same lock
        :raises OSError: if there can be no lock file at the path, with errno and filename
        """

    def release(self, force: bool = False) -> None:
        """
        Release one level of this thread's hold; the last one gives the lock back. Unheld, do nothing.

        :param force: release all levels, and the holds of threads that have exited
        :raises OSError: if the operating system failed; if it could not unlock, the lock is still held
        """

    def __enter__(self) -> Self:
        """Acquire the lock as :meth:`acquire` does by default."""

    def __exit__(
        self, exc_type: type[BaseException] | None, exc_value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Release one level; an exception of the body goes on."""

    def _finalize(self) -> None: ...
    def _is_finalizing(self) -> bool: ...
    def _is_held_at(self, path: str | os.PathLike[str]) -> bool: ...
    def _is_held_by_anyone(self) -> bool: ...
    def _note_own_methods(self) -> None: ...
    def _marker_pid(self) -> int | None: ...
    def _is_marker_own(self) -> bool: ...
    def _marker_owner(self) -> tuple[int, str, OwnerMode, str | None, float | None, str | None, bool] | None: ...
    def _remove_marker(self) -> None: ...
    @property
    def lock_file(self) -> str:
        """The path of the lock file, as it was given."""

    @property
    def is_locked(self) -> bool:
        """Whether this thread holds the lock (a shared lock object: whether anybody holds it through it)."""

    @property
    def lock_counter(self) -> int:
        """How many levels of the hold are left to release; 0 is unheld."""

    @property
    def is_singleton(self) -> bool:
        """Whether there is one lock object for each path and class."""

    def _policy(self, name: str) -> Any: ...
    def _acquire_below(self) -> None: ...
    def _release_below(self) -> None: ...
    _descriptor: int | None
    @property
    def waits_by(self) -> Literal["kernel", "polling"]:
        """
        How a wait for the lock would go on: the kernel wakes the waiter, or the waiter asks again and again.

        The kernel does on Linux, on the file systems of this machine, and for threads that gevent or eventlet did
        not patch.
        """

    def is_thread_local(self) -> bool:
        """Whether each thread has a hold and a count of its own."""

    @property
    def mode(self) -> int:
        """The permission bits of a lock file that has to be created; 0o644 where none were given."""

    @property
    def has_explicit_mode(self) -> bool:
        """Whether a mode was given: then it is set exactly, whatever the umask."""

    _timeout: float
    _lifetime: float | None
    @property
    def _lease_duration(self) -> float: ...
    @property
    def _heartbeat_interval(self) -> float: ...
    @property
    def _on_compromise(self) -> Callable[[LeaseCompromise], object] | None: ...
    @property
    def _token(self) -> str | None: ...
    @property
    def _compromise(self) -> LeaseCompromise | None: ...
    @property
    def blocking(self) -> bool:
        """Whether :meth:`acquire` waits."""

    @blocking.setter
    def blocking(self, value: bool) -> None: ...
    @property
    def poll_interval(self) -> float:
        """Seconds between two questions of ``cancel_check``, and the longest pause of a waiter that polls."""

    @poll_interval.setter
    def poll_interval(self, value: float) -> None: ...

@disjoint_base
class NativeReadWriteLock:
    """The half of ``ReadWriteLock`` and ``SoftReadWriteLock`` that touches the core."""

    def __new__(cls, *_args: Any, **_kwargs: Any) -> Self: ...
    @staticmethod
    def _check(timeout: float, blocking: bool) -> None: ...
    @staticmethod
    def _check_lease(
        heartbeat_interval: float | None = None,
        stale_threshold: float | None = None,
        poll_interval: float | None = None,
        on_compromise: Callable[[LeaseCompromise], object] | None = None,
    ) -> None: ...
    def _configure(
        self,
        lock_file: str | os.PathLike[str],
        timeout: float,
        blocking: bool,
        *,
        mechanism: str,
        heartbeat_interval: float | None = None,
        stale_threshold: float | None = None,
        poll_interval: float | None = None,
        on_compromise: Callable[[LeaseCompromise], object] | None = None,
    ) -> None: ...
    def acquire_read(self, timeout: float | None = None, *, blocking: bool | None = None) -> AcquireReturnProxy[Self]:
        """
        Come in as a reader, or count one level more if this thread is one.

        :param timeout: seconds to wait; 0 makes one attempt, -1 waits without limit, and None takes the lock's own
        :param blocking: False makes one attempt, whatever the timeout; None takes the lock's own
        :return: an object that releases the lock at the end of a ``with``
        :raises Timeout: if a writer was inside or waited until the timeout was over
        :raises RuntimeError: if this thread is the writer, or another thread is through this lock object; if the lock
            was closed; if the wait would never end
        :raises ValueError: for a timeout that is negative and not -1, or nan; for a database in WAL mode
        :raises OSError: if there can be no lock file at the path, with errno and filename
        """

    def acquire_write(self, timeout: float | None = None, *, blocking: bool | None = None) -> AcquireReturnProxy[Self]:
        """
        Come in as the writer, or count one level more if this thread is it.

        :param timeout: as for :meth:`acquire_read`
        :param blocking: as for :meth:`acquire_read`
        :return: an object that releases the lock at the end of a ``with``
        :raises Timeout: if others were inside until the timeout was over
        :raises RuntimeError: if this thread is a reader, or another thread holds this lock object; otherwise as for
            :meth:`acquire_read`, as the rest
        """

    def read_lock(self, timeout: float | None = None, *, blocking: bool | None = None) -> ModeContext:
        """Be a reader inside a ``with``, or while a decorated function runs; arguments as for :meth:`acquire_read`."""

    def write_lock(self, timeout: float | None = None, *, blocking: bool | None = None) -> ModeContext:
        """Be the writer inside a ``with``, or while a decorated function runs; arguments as for `acquire_read`."""

    def release(self, *, force: bool = False) -> None:
        """
        Release one level of this thread's; the last one of all threads gives the lock back.

        :param force: release all levels of all threads; unheld, do nothing
        :raises RuntimeError: if this thread holds nothing
        :raises OSError: if the operating system failed; if it could not unlock, the lock is still held
        """

    def close(self) -> None:
        """Release all levels of all threads, and refuse all acquisitions from now on. Closing again does nothing."""

    @property
    def lock_file(self) -> str:
        """The path of the lock file, as it was given."""

    timeout: float
    blocking: bool
    _poll_interval: float
    @property
    def _heartbeat_interval(self) -> float: ...
    @property
    def _stale_threshold(self) -> float: ...
    @property
    def _on_compromise(self) -> Callable[[LeaseCompromise], object] | None: ...
    @property
    def _generation(self) -> int | None: ...
    @property
    def _compromise(self) -> LeaseCompromise | None: ...
    def _finalize(self) -> None: ...
    def _is_finalizing(self) -> bool: ...
    def _is_held_by_anyone(self) -> bool: ...
    def _is_held_at(self, path: str | os.PathLike[str]) -> bool: ...

@disjoint_base
class NativeDoor:
    """The half of the locks of readers and writers for tasks that touches the core."""

    def __new__(cls, *_args: Any, **_kwargs: Any) -> Self: ...
    def _lead_to(self, lock: NativeReadWriteLock) -> None: ...
    def _begin(
        self, is_writer: bool, timeout: float | None, blocking: bool | None, is_inline: bool | None
    ) -> Deferred | bool: ...
    def _unnest(self, force: bool) -> Any: ...
    def _release(self, owner: Any, force: bool) -> None: ...
    def _close(self) -> None: ...
    def _is_quick(self) -> bool: ...
    def _is_held_by_anyone(self) -> bool: ...
    def _finalize(self) -> None: ...

@final
class ModeContext:
    """What ``read_lock()`` and ``write_lock()`` give: each ``with`` acquires and releases. Also a decorator."""

    def __enter__(self) -> None:
        """Acquire."""

    def __exit__(
        self, exc_type: type[BaseException] | None, exc_value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Release one level; an exception of the body goes on."""

    def __call__(self, function: Callable[_P, _R], /) -> Callable[_P, _R]:
        """Decorate a function: each call runs with the lock held in this mode."""

def canonical_path(path: str | os.PathLike[str]) -> str:
    """The path with the links of its folder followed, but not one at its end."""

def visit_leftover(
    path: str | os.PathLike[str], min_age_seconds: float, removes: bool
) -> Literal["lock file", "marker", "in use", "young", "no lock file", "unknown", "gone"]:
    """Look whether the file at the path is left over of a lock, and with ``removes`` remove it."""

def check_lease(
    lease_duration: float,
    heartbeat_interval: float | None,
    on_compromise: Callable[[LeaseCompromise], object] | None = None,
) -> tuple[float, float]:
    """Check the duration of a lease and the time between its heartbeats, and give both: None is a third of it."""

def check_lifetime(lifetime: float | None) -> None:
    """Check the age in seconds at which a marker expires."""

def check_options(lifetime: float | None, poll_interval: float, blocking: bool, timeout: float, mode: int) -> None:
    """Check the options of a lock in the order in which filelock does."""

def check_policies(context_error_policy: str, close_error_policy: str) -> None:
    """Check the policies about errors in the order in which filelock does."""

def note_overrides() -> None:
    """Say that a class has an ``acquire`` or ``release`` of its own, or may come to have one that nobody hears of."""

def lock_descriptor(descriptor: int, *, blocking: bool, poll_interval: float) -> bool:
    """Lock the file of an open descriptor (on Windows a handle); False: somebody else has it."""

def unlock_descriptor(descriptor: int) -> None:
    """Give back the lock of the file of an open descriptor."""

def remove_markers_at_exit() -> None:
    """Remove the markers that nobody will release any more, at the end of the process."""

def end_holds_at_exit() -> None:
    """
    Remove them at the end of a process that does end.

    Other threads have a moment to give back what nobody would take from them, and take nothing of that kind any more.
    """

def strict_claims(
    lock: NativeLock,
) -> list[tuple[str, StrictSoftFileClaimState, str, int, str, int | None]]:
    """The claims on the lock, each as the fields of a ``StrictSoftFileClaim``."""

def break_strict_claim(lock: NativeLock, name: str) -> None:
    """Remove the claim, whoever it belongs to."""

def strict_occupant(lock: NativeLock) -> str | None:
    """What stands at the path instead of the sentinel, in words."""

def possible_holder(device: int, inode: int) -> int | None:
    """The process that may hold the lock on the file, where that can be known."""

@final
class Deferred:
    """An acquisition of a task that was not over at once."""

    @property
    def is_attempted(self) -> bool:
        """Whether an attempt was made already."""

    @property
    def is_granted(self) -> bool:
        """Whether there is something to accept, or to give back."""

    @property
    def is_unattended(self) -> bool:
        """Whether the task has to make all attempts itself: the mechanism is Python's."""

    def check_time(self) -> float:
        """Raise ``Timeout`` if there is no time for another attempt; give the time until that."""

    def attempt(self) -> bool:
        """Make one attempt, on a thread that may block: True, there is something to accept."""

    def wait(self, bell: Any) -> None:
        """Join the queue. ``bell.ring()`` will be called, from any thread, when there are news."""

    def news(self) -> bool | None:
        """Tell what has come: True, there is something to accept; False, questions may be asked; None, nothing."""

    def ask(self, cancel_check: Callable[[], bool] | None, *, is_first: bool = False) -> None:
        """Ask ``cancel_check``, and raise ``Timeout`` if it is true; tell the log that the wait goes on."""

    def accept(self) -> bool | None:
        """
        Make a hold of what was granted. None: not yet, for a release through this lock object is not over.

        True: it is to be announced.
        """

    @property
    def is_leaving(self) -> bool:
        """Whether a thread is still on its way out of the kernel's queue. The bell rings when that is over."""

    def withdraw(self) -> None:
        """End the wait, and give back what was granted."""

def begin_acquire(
    lock: NativeLock,
    timeout: float | None,
    poll_interval: float | None,
    blocking: bool | None,
    has_questions: bool,
    is_inline: bool | None,
) -> Deferred | bool:
    """
    Begin to acquire the lock for the running task. A bool: it is held; otherwise there is more to do.

    True: it is to be announced.
    """

def announce(lock: NativeLock) -> None:
    """Call ``on_acquired``, for a lock that the running task or its thread has come to hold."""

def is_quick(lock: NativeLock) -> bool:
    """Whether the lock object's calls on its path are known to come back soon."""

def release_all(lock: NativeLock) -> None:
    """Release all that is held through a lock object that nobody can reach any more."""

def end_idle_porters() -> None:
    """End the threads that wait for nobody."""

def end_waits() -> None:
    """End all waits of tasks, at the end of the process."""
