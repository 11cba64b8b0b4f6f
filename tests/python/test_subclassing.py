"""Subclasses as other projects write them: every way in goes through their __init__, acquire and release."""

from __future__ import annotations

import gc
import hashlib
import threading
import weakref
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ferrolock import AcquireReturnProxy, FileLock, Timeout
from peers import run_program

if TYPE_CHECKING:
    from collections.abc import Callable

OPTIONS = {"timeout", "mode", "thread_local", "blocking", "is_singleton", "poll_interval", "lifetime"}


@pytest.fixture
def path(tmp_path: Path) -> str:
    """Where the lock file is."""
    return str(tmp_path / "x.lock")


def is_free(path: str) -> bool:
    """Whether a plain FileLock can take the path right now."""
    try:
        with FileLock(path, timeout=0):
            return True
    except Timeout:
        return False


class PathOnly(FileLock):
    """Knows no options at all."""

    def __init__(self, lock_file: str) -> None:
        super().__init__(lock_file)
        self.ready = True


class Everything(FileLock):
    """Passes on whatever comes, and remembers it."""

    def __init__(self, lock_file: str, **options: Any) -> None:
        self.seen = dict(options)
        own = {name: options.pop(name) for name in list(options) if name not in OPTIONS}
        super().__init__(lock_file, **options)
        self.own = own


class NamedSubset(FileLock):
    """Names two of the options, with defaults of its own."""

    def __init__(self, lock_file: str, timeout: float = 7, mode: int = 0o600) -> None:
        self.seen = (timeout, mode)
        super().__init__(lock_file, timeout=timeout, mode=mode)


class WithExtras(FileLock):
    """Adds parameters of its own."""

    def __init__(self, lock_file: str, *, label: str = "none", timeout: float = -1, retries: int = 3) -> None:
        super().__init__(lock_file, timeout)
        self.label, self.retries = label, retries


def test_a_subclass_without_options_takes_a_path(path: str) -> None:
    lock = PathOnly(path)
    assert lock.ready
    assert type(lock) is PathOnly
    with lock as entered:
        assert entered is lock
        assert not is_free(path)
    assert is_free(path)


def test_a_class_that_nothing_refers_to_is_collected(path: str) -> None:
    class Own(FileLock):
        def __init__(self, lock_file: str) -> None:
            super().__init__(lock_file)  # refers to the class

    assert Own(path).lock_file == path
    gone = weakref.ref(Own)
    del Own
    gc.collect()
    assert gone() is None


def test_a_constructor_need_not_be_a_function(path: str) -> None:
    class Own(FileLock):
        __init__ = object.__init__  # it can be the key of no weak dictionary

    assert type(Own(path)) is Own


def test_a_lock_whose_base_was_not_initialised_says_so(path: str) -> None:
    class Bare(FileLock):
        def __init__(self, lock_file: str) -> None:
            pass

    lock = Bare(path)
    assert "Bare uninitialized at" in repr(lock)
    for use in (lock.acquire, lock.release, lock.__enter__, lambda: lock.is_locked):
        with pytest.raises(RuntimeError, match="not initialized"):
            use()


def test_an_option_a_subclass_does_not_name_may_only_be_the_default(path: str) -> None:
    construct: Any = PathOnly
    assert construct(path, timeout=-1, blocking=True, is_singleton=False).timeout == -1.0
    with pytest.raises(TypeError, match="PathOnly does not support non-default lock options: mode, timeout"):
        construct(path, timeout=5, mode=0o600)
    with pytest.raises(TypeError, match="PathOnly does not support non-default lock options: is_singleton"):
        construct(path, is_singleton=True)
    with pytest.raises(TypeError, match="PathOnly does not support non-default lock options: label"):
        construct(path, label="mine")


def test_keyword_arguments_receive_every_option_and_the_extras(path: str) -> None:
    lock = Everything(path, timeout=3, label="mine")
    assert set(lock.seen) >= OPTIONS
    defaults = {name: lock.seen[name] for name in OPTIONS - {"timeout", "poll_interval"}}
    assert defaults == {"mode": -1, "thread_local": True, "blocking": True, "is_singleton": False, "lifetime": None}
    assert (lock.seen["timeout"], lock.seen["poll_interval"], lock.seen["label"]) == (3, 0.05, "mine")
    assert lock.own["label"] == "mine"
    assert (lock.timeout, lock.is_locked) == (3.0, False)


def test_positional_options_reach_a_subclass_by_keyword(path: str) -> None:
    construct: Any = Everything
    lock = construct(path, 3, 0o600, False)
    assert {name: lock.seen[name] for name in ("timeout", "mode", "thread_local")} == {
        "timeout": 3,
        "mode": 0o600,
        "thread_local": False,
    }
    assert (lock.timeout, lock.mode, lock.is_thread_local()) == (3.0, 0o600, False)


def test_a_default_a_subclass_declares_for_an_option_does_not_apply(path: str) -> None:
    lock = NamedSubset(path)
    assert list(lock.seen) == [-1, -1]
    assert (lock.timeout, lock.has_explicit_mode) == (-1.0, False)


def test_a_named_subset_receives_what_it_names(path: str) -> None:
    construct: Any = NamedSubset
    lock = construct(path, timeout=2, mode=0o640)
    assert lock.seen == (2, 0o640)
    assert (lock.timeout, lock.mode) == (2.0, 0o640)
    with pytest.raises(TypeError, match="NamedSubset does not support non-default lock options: blocking"):
        construct(path, blocking=False)


def test_parameters_of_a_subclass_keep_their_own_defaults(path: str) -> None:
    assert (WithExtras(path).label, WithExtras(path).retries) == ("none", 3)
    lock = WithExtras(path, label="mine", timeout=4)
    assert (lock.label, lock.retries, lock.timeout) == ("mine", 3, 4.0)
    construct: Any = WithExtras
    with pytest.raises(TypeError, match="WithExtras does not support non-default lock options: bogus"):
        construct(path, bogus=1)


def test_the_options_of_a_subclass_are_validated_alike(path: str) -> None:
    for cls in (PathOnly, Everything, NamedSubset):
        construct: Any = cls
        with pytest.raises(TypeError, match="blocking must be a bool"):
            construct(path, blocking=1)


def test_a_lifetime_warns_for_a_subclass_at_its_caller(path: str) -> None:
    with pytest.warns(UserWarning, match="lifetime is ignored for Everything: ") as caught:
        lock = Everything(path, lifetime=5)
    assert [warning.filename for warning in caught] == [__file__]
    assert lock.lifetime is None


class ShortName(FileLock):
    """Replaces a name the file system would refuse by a hash, and opens the file to the group."""

    LONGEST = 60

    def __init__(self, lock_file: str, *arguments: Any, **options: Any) -> None:
        whole = Path(lock_file)
        if len(whole.name) > self.LONGEST:
            whole = whole.with_name(hashlib.sha256(whole.name.encode()).hexdigest()[:16] + ".lock")
        options["mode"] = 0o660
        super().__init__(str(whole), *arguments, **options)


def test_a_subclass_may_rewrite_the_path_and_the_options(tmp_path: Path) -> None:
    long_path = str(tmp_path / ("x" * 300 + ".lock"))
    lock = ShortName(long_path, timeout=2)
    assert len(Path(lock.lock_file).name) == 21
    assert (lock.timeout, lock.mode, lock.has_explicit_mode) == (2.0, 0o660, True)
    with lock:
        assert [entry.name for entry in tmp_path.iterdir()] == [Path(lock.lock_file).name]
        with pytest.raises(Timeout) as caught:
            ShortName(long_path, timeout=0).acquire()
        assert caught.value.lock_file == lock.lock_file


class Counted(FileLock):
    """Counts its own depth around a thread lock, and calls the base at the outermost only, positionally."""

    def __init__(self, lock_file: str) -> None:
        Path(lock_file).parent.mkdir(parents=True, exist_ok=True)
        super().__init__(lock_file)
        self.depth = 0
        self.gate = threading.RLock()

    def acquire(self, timeout: float | None = None, poll_interval: float = 0.05) -> None:  # type: ignore[override]
        if not self.gate.acquire(timeout=-1 if timeout is None else timeout):
            raise Timeout(self.lock_file)
        try:
            if self.depth == 0:
                super().acquire(timeout, poll_interval)
        except BaseException:
            self.gate.release()
            raise
        self.depth += 1

    def release(self, force: bool = False) -> None:
        if self.depth == 0:
            return
        self.depth -= 1
        if self.depth == 0:
            super().release(force)
        self.gate.release()


def test_a_counting_subclass_drives_the_base_at_its_outermost_only(path: str) -> None:
    lock = Counted(path)
    with lock:
        with lock:
            assert (lock.depth, lock.lock_counter) == (2, 1)
        assert (lock.depth, lock.lock_counter) == (1, 1)
        assert not is_free(path)
    assert (lock.depth, lock.lock_counter) == (0, 0)
    assert is_free(path)


def test_a_counting_subclass_passes_the_timeout_on(path: str) -> None:
    lock = Counted(path)
    with FileLock(path):
        with pytest.raises(Timeout):
            lock.acquire(0.01, 0.001)
        assert (lock.depth, lock.lock_counter) == (0, 0)
    with lock:
        assert lock.is_locked


class Recording(FileLock):
    """Notes every call of acquire and release."""

    def __init__(self, lock_file: str, calls: list[str], **options: Any) -> None:
        super().__init__(lock_file, **options)
        self.calls = calls

    def acquire(self, *arguments: Any, **options: Any) -> AcquireReturnProxy[Any]:
        self.calls.append("acquire")
        return super().acquire(*arguments, **options)

    def release(self, *arguments: Any, **options: Any) -> None:
        self.calls.append("release")
        super().release(*arguments, **options)


def with_the_lock(lock: FileLock) -> None:
    """Enter and leave the lock itself."""
    with lock:
        assert lock.is_locked


def with_the_proxy(lock: FileLock) -> None:
    """Enter and leave what acquire returned."""
    with lock.acquire() as entered:
        assert entered is lock


def as_decorator(lock: FileLock) -> None:
    """Call a decorated function."""

    @lock
    def body() -> bool:
        return lock.is_locked

    assert body()


@pytest.mark.parametrize("use", [with_the_lock, with_the_proxy, as_decorator])
def test_every_way_in_and_out_goes_through_the_overridden_methods(path: str, use: Callable[[FileLock], None]) -> None:
    calls: list[str] = []
    lock = Recording(path, calls=calls)
    use(lock)
    assert calls == ["acquire", "release"]
    assert is_free(path)


LATE = {
    "the class": "FileLock.acquire = own",
    "its base": "BaseFileLock.acquire = own",
    "the object": "lock.acquire = lambda: own(lock)",
    "a mixin": "lock = type(FileLock)('Mixed', (Mixin, FileLock), {})(path); Mixin.acquire = own",
    "another base": "Mixin.acquire = own; Own.__bases__ = (Mixin, FileLock)",
    "another class": "lock.__class__ = type(FileLock)('Other', (FileLock,), {'acquire': own})",
    "a patch": "patch.object(Own, 'acquire', own).start()",
}


@pytest.mark.parametrize("where", LATE)
def test_a_method_that_comes_late_is_gone_through(path: str, where: str) -> None:
    """As long as nothing in a process has methods of its own, nobody looks for them: hence a program for each."""
    program = f"""
        import sys
        from unittest.mock import patch
        from ferrolock import BaseFileLock, FileLock
        path, calls = sys.argv[1], []
        native = FileLock.acquire
        def own(lock):
            calls.append("acquire")
            return native(lock)
        class Mixin:
            pass
        class Own(FileLock):
            pass
        lock = Own(path)
        {LATE[where]}
        with lock:
            print(lock.is_locked, calls)
    """
    assert run_program(program, path) == "True ['acquire']\n"


def test_the_finalizer_goes_through_the_overridden_release(path: str) -> None:
    calls: list[str] = []
    lock = Recording(path, calls=calls)
    lock.acquire()
    assert calls == ["acquire"]
    del lock
    gc.collect()
    assert "release" in calls
    assert is_free(path)


def test_a_subclass_may_extend_the_finalizer(path: str) -> None:
    ended: list[bool] = []

    class Ending(FileLock):
        def __del__(self) -> None:
            super().__del__()
            ended.append(self.is_locked)

    lock = Ending(path)
    lock.acquire()
    del lock
    gc.collect()
    assert ended == [False]
    assert is_free(path)


def test_a_held_lock_in_a_reference_cycle_is_released_when_collected(path: str) -> None:
    calls: list[str] = []
    lock: Any = Recording(path, calls=calls)
    lock.itself = lock
    lock.acquire()
    del lock
    gc.collect()
    assert "release" in calls
    assert is_free(path)


def test_a_failing_overridden_release_does_not_keep_a_collected_lock(path: str) -> None:
    class Stubborn(FileLock):
        def release(self, force: bool = False) -> None:
            super().release(force=force)
            raise KeyError("not from a finalizer")

    lock = Stubborn(path)
    lock.acquire()
    del lock
    gc.collect()
    assert is_free(path)


def test_a_subclass_may_return_a_value_of_its_own_from_acquire(path: str) -> None:
    class Answering(FileLock):
        def acquire(self, *arguments: Any, **options: Any) -> Any:
            super().acquire(*arguments, **options)
            return "mine"

    lock = Answering(path)
    assert lock.acquire() == "mine"
    with lock as entered:
        assert entered is lock
        assert lock.lock_counter == 2
    lock.release()
    assert is_free(path)


def test_an_overridden_acquire_that_refuses_leaves_with_unentered(path: str) -> None:
    class Refusing(FileLock):
        def acquire(self, *_arguments: Any, **_options: Any) -> AcquireReturnProxy[Any]:
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"), Refusing(path):
        pytest.fail("the body ran")
    assert is_free(path)


def test_properties_can_be_overridden_and_read_through_super(path: str) -> None:
    class Shouting(FileLock):
        @property
        def lock_file(self) -> str:
            return super().lock_file.upper()

    lock = Shouting(path)
    assert lock.lock_file == path.upper()
    with lock:
        assert lock.is_locked


class Noting:
    """A cooperative mixin with state of its own."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.notes: list[str] = []

    def acquire(self, *arguments: Any, **options: Any) -> Any:
        proxy = super().acquire(*arguments, **options)  # type: ignore[misc]
        self.notes.append("acquired")
        return proxy


def test_a_mixin_before_the_lock_cooperates(path: str) -> None:
    class Noted(Noting, FileLock):
        pass

    lock = Noted(path, timeout=2)
    assert (lock.notes, lock.timeout) == ([], 2.0)
    with lock:
        assert lock.notes == ["acquired"]
    assert is_free(path)


def test_an_abstract_mixin_has_no_metaclass_conflict(path: str) -> None:
    class Labelled(ABC):
        @abstractmethod
        def label(self) -> str: ...

    class Unfinished(FileLock, Labelled):
        pass

    class Finished(Unfinished):
        def label(self) -> str:
            return f"on {self.lock_file}"

    construct: Any = Unfinished
    with pytest.raises(TypeError, match="abstract"):
        construct(path)
    lock = Finished(path)
    assert isinstance(lock, Labelled)
    with lock:
        assert lock.label() == f"on {path}"


def test_a_subclass_excludes_its_base_and_the_other_way_round(path: str) -> None:
    for holder, contender in ((FileLock(path), PathOnly(path)), (PathOnly(path), FileLock(path))):
        with holder:
            with pytest.raises(Timeout):
                contender.acquire(timeout=0)
            with pytest.raises(RuntimeError, match="is_singleton=True"):
                contender.acquire()
