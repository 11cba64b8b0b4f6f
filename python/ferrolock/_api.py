"""``BaseFileLock``: what all file locks have in common."""

from __future__ import annotations

import os
from abc import ABCMeta, abstractmethod

from ._backend import UNSET_FILE_MODE, FileLockContext, ThreadLocalFileContext
from ._error import Timeout
from ._native import AcquireReturnProxy, NativeLock, check_lifetime, check_options, check_policies, note_overrides

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, ParamSpec, TypeVar

    from ._options import CloseErrorPolicy, ContextErrorPolicy

    P = ParamSpec("P")
    R = TypeVar("R")

_new: Callable[[Any], Any] = NativeLock.__new__

_base_inits: list[Any] = []
"""``BaseFileLock.__init__``, and that of its like for tasks, from when there are any."""

_DEFAULTS = {
    "timeout": -1,
    "mode": -1,
    "thread_local": True,
    "blocking": True,
    "is_singleton": False,
    "poll_interval": 0.05,
    "lifetime": None,
    "context_error_policy": "chain",
    "close_error_policy": "default",
    "fallback_to_soft": True,
    "preserve_lock_file": False,
    "on_acquired": None,
    "unlink_on_release": False,
}


class FileLockMeta(ABCMeta):
    """Checks the options before a lock exists, and knows which of them a subclass takes."""

    _defaults = _DEFAULTS
    """All options that locks of this class take, and what they are if nobody says otherwise."""

    _is_plain: bool
    """Whether locks of this class are made as their base class makes them; None of its own changes that."""

    _is_backend: bool
    """Whether the class has an ``_acquire`` or ``_release`` of its own, for the core to call."""

    def __init__(cls, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        cls._note_construction()

    def __setattr__(cls, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name in {"__bases__", "__init__", "__new__", "_acquire", "_release", "acquire", "release"}:
            cls._note_construction()

    @property
    def _instances(cls) -> Any:
        """The living singletons of the class, by path."""
        from ._singleton import living

        return living(cls)

    def _note_construction(cls) -> None:
        is_made_as_base = getattr(cls, "__init__", None) in _base_inits and getattr(cls, "__new__", None) is _new
        steps = getattr(cls, "_acquire", None), getattr(cls, "_release", None)
        cls._is_backend = steps != (NativeLock._acquire_below, NativeLock._release_below)
        cls._is_plain = is_made_as_base and not cls._is_backend and not cls.__abstractmethods__
        methods = getattr(cls, "acquire", None), getattr(cls, "release", None)
        has_own_methods = methods != (NativeLock.acquire, NativeLock.release)
        # Of what is set on a class of another kind nobody hears.
        if has_own_methods or not all(isinstance(base, FileLockMeta) for base in cls.__mro__[:-2]):
            note_overrides()
        every_class: Any = cls
        for subclass in type.__subclasses__(every_class):
            subclass._note_construction()

    def __call__(
        cls,
        lock_file: str | os.PathLike[str],
        timeout: float = -1,
        mode: int = -1,
        thread_local: bool = True,  # noqa: FBT001, FBT002 - filelock's signature
        **options: Any,  # not named one by one: looking up their defaults costs each construction a tenth
    ) -> Any:
        if cls._is_plain and not options:
            lock = _new(cls)
            lock._configure(lock_file, timeout, mode, thread_local)
            return lock
        given = {"timeout": timeout, "mode": mode, "thread_local": thread_local, **options}
        return cls._construct(lock_file, {**cls._defaults, **given})

    def _construct(cls, lock_file: str | os.PathLike[str], options: dict[str, Any]) -> Any:
        """The way of all options beyond the first four, and of subclasses with an ``__init__`` of their own."""
        if cls.__abstractmethods__:
            names = ", ".join(sorted(cls.__abstractmethods__))
            msg = f"Can't instantiate abstract class {cls.__name__} with abstract methods {names}"
            raise TypeError(msg)
        lifetime = options["lifetime"]
        check_options(lifetime, options["poll_interval"], options["blocking"], options["timeout"], options["mode"])
        check_policies(options["context_error_policy"], options["close_error_policy"])
        cls._refuse_unsupported(options["preserve_lock_file"], options["on_acquired"])
        if lifetime is not None:
            options["lifetime"] = cls._admit_lifetime(lifetime, stacklevel=3)
        arguments = cls._accepted(options)

        def construct() -> BaseFileLock:
            lock: BaseFileLock = super(FileLockMeta, cls).__call__(lock_file, **arguments)
            return lock

        if not options.pop("is_singleton"):
            return construct()
        from ._singleton import get_or_construct

        return get_or_construct(cls, os.fspath(lock_file), cls._compared(options), construct)

    def _compared(cls, options: dict[str, Any]) -> dict[str, Any]:
        """The options in which two requests for one singleton must agree."""
        return options

    def _accepted(cls, options: dict[str, Any]) -> dict[str, Any]:
        """
        Of all options, the arguments for ``cls.__init__``: a subclass may take a few of them only.

        :raises TypeError: for one that it does not take, unless it has its default value
        """
        from ._parameters import parameters_of

        parameters = parameters_of(cls.__init__)  # type: ignore[misc]
        if parameters is None:
            return dict(options)
        unknown = [
            name
            for name, value in options.items()
            if name not in parameters and (name not in cls._defaults or value != cls._defaults[name])
        ]
        if unknown:
            msg = f"{cls.__name__} does not support non-default lock options: {', '.join(sorted(unknown))}"
            raise TypeError(msg)
        return {name: value for name, value in options.items() if name in parameters}

    def _admit_lifetime(cls, lifetime: float, stacklevel: int) -> float | None:  # noqa: ARG002 - a marker's class reads it
        """The lifetime that locks of this class can honour; a kernel lock has none."""
        import warnings

        msg = f"lifetime is ignored for {cls.__name__}: the operating system holds the lock for as long as its holder"
        warnings.warn(msg, UserWarning, stacklevel=stacklevel + 1)
        return None

    def _refuse_unsupported(cls, preserve_lock_file: Any, on_acquired: Any) -> None:
        """
        Refuse options that locks of this class cannot honour.

        :raises ValueError: for one of them
        """


class BaseFileLock(NativeLock, metaclass=FileLockMeta):
    """
    Abstract base of the file locks.

    A lock is a context manager and a decorator. It is reentrant: who holds it can acquire it again, and
    releases it as often. Each thread has a hold and a count of its own, unless ``thread_local=False``.

    A subclass with another way to lock implements :meth:`_acquire` and :meth:`_release`; waiting, counting, timeouts
    and the rest are here.
    """

    def __init__(
        self,
        lock_file: str | os.PathLike[str],
        timeout: float = -1,
        mode: int = -1,
        thread_local: bool = True,  # noqa: FBT001, FBT002 - filelock's signature
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
    ) -> None:
        """
        Touch no file; that is for :meth:`acquire`.

        :param lock_file: path of the lock file
        :param timeout: seconds to wait in :meth:`acquire`; negative or infinite is no limit
        :param mode: permission bits of a lock file that has to be created; -1 leaves them to the umask
        :param thread_local: give each thread a hold of its own, rather than all of them one
        :param blocking: wait at all in :meth:`acquire`
        :param is_singleton: give the living lock of this class on the same path, if there is one
        :param poll_interval: seconds between two questions of ``cancel_check``, and the longest pause
            between two attempts where waiting has to poll
        :param lifetime: seconds after which a marker counts as abandoned; ignored by kernel locks
        :param context_error_policy: what a ``with`` raises whose body and whose release have both failed: ``"chain"``
            the error of the release, with the other one as its ``__context__``; ``"group"`` an exception group of both
        :param close_error_policy: whether a release fails if closing the file does, when the lock is free already:
            ``"raise"``, ``"suppress"``, or ``"default"``, which raises except for kernel locks of Unix
        :param fallback_to_soft: where a file system has no lock call, or one that excludes nobody, go by a marker and
            warn: at the path itself, or in the second case at the path with ``.soft`` after it; False fails there
        :param preserve_lock_file: promise that the lock file is never removed: there is no fallback to a marker then
        :param on_acquired: called with the descriptor of the lock file when the lock was acquired, before ``acquire``
            returns; if it raises, the lock is released. There is no fallback to a marker then
        :param unlink_on_release: remove the lock file when the lock is given back and nobody stands in line for it, if
            it is empty; who locks it must look, as ferrolock does, whether it is still at the path
        :raises TypeError, ValueError: for an option of the wrong kind or out of range
        """
        if lifetime is not None:
            check_lifetime(lifetime)
            if not self._has_lifetime:  # who has markers was warned by the metaclass, also where a singleton is found
                lifetime = type(self)._admit_lifetime(lifetime, stacklevel=2)
        if preserve_lock_file or on_acquired is not None:
            type(self)._refuse_unsupported(preserve_lock_file, on_acquired)
        self._configure(
            lock_file,
            timeout,
            mode,
            thread_local,
            blocking,
            is_singleton,
            poll_interval,
            lifetime,
            context_error_policy=context_error_policy,
            close_error_policy=close_error_policy,
            fallback_to_soft=fallback_to_soft,
            preserve_lock_file=preserve_lock_file,
            on_acquired=on_acquired,
            unlink_on_release=unlink_on_release,
            is_backend=type(self)._is_backend,
        )
        if type(self)._is_backend:
            from ._at_exit import release_at_exit

            release_at_exit(self)

    _initialize = __init__
    """The ``__init__`` that knows all settings, whatever a subclass takes."""

    _singleton_options: dict[str, Any]

    _timeout_error = Timeout
    """What the native half raises."""

    _has_lifetime = False
    """Whether a lifetime means anything to locks of this class."""

    @abstractmethod
    def _acquire(self) -> None:
        """
        Make one attempt to get the lock, without waiting for anybody.

        Got, set ``self._context.lock_file_fd`` to the descriptor that stands for it; otherwise leave it None. Called
        again every ``poll_interval`` of a wait. What it raises comes out of :meth:`acquire`; if it has set the
        descriptor, :meth:`_release` is called before.
        """

    @abstractmethod
    def _release(self) -> None:
        """
        Give the lock back, and set ``self._context.lock_file_fd`` to None.

        If it raises with the descriptor still there, the lock is held as before; without one it is free.
        """

    def _finish_step(self, step: Any) -> None:
        """Refuse what nobody can wait for here."""
        step.close()
        msg = f"_acquire() and _release() of {type(self).__name__} are coroutines: it has to be a BaseAsyncFileLock"
        raise TypeError(msg)

    @property
    def _context(self) -> FileLockContext:
        """What filelock's own code and that of backends know of a lock object."""
        return (ThreadLocalFileContext if self.is_thread_local() else FileLockContext)(self)

    def _open_mode(self) -> int:
        """The permission bits that a backend should create a lock file with."""
        return self.mode if self.has_explicit_mode else 0o666

    @property
    def timeout(self) -> float:
        """Seconds to wait in :meth:`acquire`; negative or infinite is no limit."""
        return self._timeout

    @timeout.setter
    def timeout(self, value: float | str | bytes | bytearray) -> None:
        if isinstance(value, (str, bytes, bytearray)):
            import warnings

            msg = f"a timeout of type {type(value).__name__} is deprecated, use a number of seconds"
            warnings.warn(msg, DeprecationWarning, stacklevel=3)
            value = float(value)
        self._timeout = value

    @property
    def lifetime(self) -> float | None:
        """Seconds after which a marker counts as abandoned; always None for a kernel lock."""
        return None

    @lifetime.setter
    def lifetime(self, value: float | None) -> None:
        check_lifetime(value)
        if value is not None:
            type(self)._admit_lifetime(value, stacklevel=3)

    @property
    def context_error_policy(self) -> ContextErrorPolicy:
        """What a ``with`` raises whose body and whose release have both failed: ``"chain"`` or ``"group"``."""
        policy: ContextErrorPolicy = self._policy("context_error_policy")
        return policy

    @property
    def close_error_policy(self) -> CloseErrorPolicy:
        """Whether errors of closing a file that is unlocked already are raised."""
        policy: CloseErrorPolicy = self._policy("close_error_policy")
        return policy

    @property
    def fallback_to_soft(self) -> bool:
        """Whether a marker takes the place of a lock call that is not there, or excludes nobody."""
        falls_back: bool = self._policy("fallback_to_soft")
        return falls_back

    @property
    def preserve_lock_file(self) -> bool:
        """Whether it was promised that the lock file is never removed."""
        is_preserved: bool = self._policy("preserve_lock_file")
        return is_preserved

    @property
    def unlink_on_release(self) -> bool:
        """Whether the lock file is removed when the lock is given back and nobody stands in line for it."""
        goes: bool = self._policy("unlink_on_release")
        return goes

    @property
    def on_acquired(self) -> Callable[[int], object] | None:
        """What is called with the descriptor of the lock file when the lock was acquired."""
        hook: Callable[[int], object] | None = self._policy("on_acquired")
        return hook

    def __call__(self, func: Callable[P, R]) -> Callable[P, R]:
        """Decorate a function: each call runs with the lock held."""
        from functools import wraps

        @wraps(func)
        def locked(*args: P.args, **kwargs: P.kwargs) -> R:
            with self:
                return func(*args, **kwargs)

        return locked

    def __setattr__(self, name: str, value: Any) -> None:
        if name in {"acquire", "release"}:
            self._note_own_methods()
        super().__setattr__(name, value)

    if TYPE_CHECKING:

        def __del__(self) -> None:
            """Release what is held, for nobody else can any more."""
    else:
        __del__ = NativeLock._finalize  # not a function of Python's: it would cost each construction a sixth more

    def __repr__(self) -> str:
        state = "held" if self._is_held_by_anyone() else "unheld"
        try:
            described = f"{self.lock_file!r} {state}"
        except RuntimeError:  # in the traceback of a constructor that has not come to this class's
            described = "uninitialized"
        return f"<{type(self).__module__}.{type(self).__qualname__} {described} at {id(self):#x}>"

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as settings: what comes out is unheld."""
        state = dict(self.__dict__)
        options = state.pop("_singleton_options", None)
        return _unpickle, (type(self), self.lock_file, self._settings(), options), state or None

    def _settings(self) -> dict[str, Any]:
        return {
            "timeout": self.timeout,
            "mode": self.mode if self.has_explicit_mode else -1,
            "thread_local": self.is_thread_local(),
            "blocking": self.blocking,
            "is_singleton": self.is_singleton,
            "poll_interval": self.poll_interval,
            "lifetime": self.lifetime,
            "context_error_policy": self.context_error_policy,
            "close_error_policy": self.close_error_policy,
            "fallback_to_soft": self.fallback_to_soft,
            "preserve_lock_file": self.preserve_lock_file,
            "on_acquired": self.on_acquired,
            "unlink_on_release": self.unlink_on_release,
        }


_base_inits.append(BaseFileLock.__init__)

# What `inspect.signature` shows for the classes.
FileLockMeta.__call__.__wrapped__ = BaseFileLock.__init__  # type: ignore[attr-defined]


def _unpickle(cls: Any, lock_file: str, settings: dict[str, Any], options: dict[str, Any] | None) -> Any:
    """
    Make a lock without the ``__init__`` of a subclass, whose arguments nobody recorded.

    :param options: what a singleton was asked for
    """

    def construct() -> BaseFileLock:
        lock: BaseFileLock = _new(cls)
        cls._initialize(lock, lock_file, **settings)
        return lock

    if options is None:
        return construct()
    from ._singleton import get_or_construct

    return get_or_construct(cls, lock_file, options, construct)


_UNSET_FILE_MODE = UNSET_FILE_MODE
"""filelock's name for it in 3.x."""

__all__ = [
    "UNSET_FILE_MODE",
    "AcquireReturnProxy",
    "BaseFileLock",
    "FileLockContext",
    "FileLockMeta",
    "ThreadLocalFileContext",
]
