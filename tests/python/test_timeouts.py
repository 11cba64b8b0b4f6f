"""How long acquire waits, who may end the wait, and the Timeout that says so."""

from __future__ import annotations

import copy
import errno
import math
import pickle
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ferrolock import FileLock, Timeout
from peers import held_by_a_thread, run_program

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HOLD_IN_A_PROCESS = """
import sys
from ferrolock import FileLock
with FileLock(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the contended lock file is."""
    return tmp_path / "x.lock"


@pytest.fixture
def held(path: Path) -> Iterator[FileLock]:
    """The path's lock, held by this thread through an object that the test does not wait with."""
    with FileLock(path) as lock:
        yield lock


@contextmanager
def held_by_a_process(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Hold the path in another process."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD_IN_A_PROCESS, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "held"
        yield process
    finally:
        process.kill()
        process.communicate()


def seconds_until_timeout(acquire: Callable[[], object]) -> float:
    """How long the call took to give up."""
    start = time.monotonic()
    with pytest.raises(Timeout):
        acquire()
    return time.monotonic() - start


def count_attempts(acquire: Callable[[], object], caplog: pytest.LogCaptureFixture) -> int:
    """How many attempts the log tells of before the call gives up."""
    caplog.clear()
    with caplog.at_level("DEBUG", logger="filelock"), pytest.raises(Timeout):
        acquire()
    return sum(record.msg.startswith("Attempting to acquire") for record in caplog.records)


@pytest.mark.parametrize("timeout", [0.05, 0.2])
@pytest.mark.parametrize("poll_interval", [0.001, 0.05, 5], ids=lambda value: f"poll-{value}")
@pytest.mark.usefixtures("held")
def test_a_finite_wait_ends_neither_early_nor_a_poll_late(path: Path, timeout: float, poll_interval: float) -> None:
    lock = FileLock(path)
    seconds = seconds_until_timeout(lambda: lock.acquire(timeout, poll_interval))
    assert timeout <= seconds < timeout + 1
    assert lock.lock_counter == 0


@pytest.mark.usefixtures("held")
def test_a_zero_timeout_is_one_attempt(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lock = FileLock(path, poll_interval=5)
    assert count_attempts(lambda: lock.acquire(timeout=0), caplog) == 1
    assert seconds_until_timeout(lambda: lock.acquire(timeout=0)) < 1


@pytest.mark.parametrize("timeout", [None, -1, 0, 60, math.inf, math.nan], ids=repr)
@pytest.mark.usefixtures("held")
def test_non_blocking_beats_any_timeout(path: Path, caplog: pytest.LogCaptureFixture, timeout: float | None) -> None:
    lock = FileLock(path, poll_interval=5)
    assert count_attempts(lambda: lock.acquire(timeout, blocking=False), caplog) == 1
    assert seconds_until_timeout(lambda: lock.acquire(timeout, blocking=False)) < 1


@pytest.mark.parametrize("timeout", [0, 60, math.nan], ids=repr)
def test_one_attempt_is_enough_for_a_free_lock(path: Path, timeout: float) -> None:
    with FileLock(path).acquire(timeout, blocking=False) as lock:
        assert lock.is_locked
    with FileLock(path, timeout=0) as lock:
        assert lock.is_locked


@pytest.mark.usefixtures("held")
def test_the_instances_settings_count_where_an_argument_is_missing(path: Path) -> None:
    brief = FileLock(path, timeout=0.05)
    assert 0.05 <= seconds_until_timeout(brief.acquire) < 1
    assert 0.05 <= seconds_until_timeout(lambda: brief.acquire(None)) < 1
    refusing = FileLock(path, timeout=60, blocking=False)
    assert seconds_until_timeout(refusing.acquire) < 1
    assert seconds_until_timeout(lambda: refusing.acquire(blocking=None)) < 1


@pytest.mark.usefixtures("held")
def test_an_argument_counts_over_the_instances_setting(path: Path) -> None:
    patient = FileLock(path, timeout=60, poll_interval=60)
    assert seconds_until_timeout(lambda: patient.acquire(0)) < 1
    assert 0.05 <= seconds_until_timeout(lambda: patient.acquire(0.05)) < 1
    assert seconds_until_timeout(lambda: patient.acquire(blocking=False)) < 1
    refusing = FileLock(path, blocking=False)
    assert seconds_until_timeout(lambda: refusing.acquire(0.1, blocking=True)) >= 0.1
    assert (patient.timeout, patient.blocking, patient.poll_interval) == (60.0, True, 60.0)


@pytest.mark.usefixtures("held")
def test_the_settings_set_later_count_too(path: Path) -> None:
    lock = FileLock(path)
    lock.timeout = 0.05
    assert 0.05 <= seconds_until_timeout(lock.acquire) < 1
    lock.timeout = 60
    lock.blocking = False
    assert seconds_until_timeout(lock.acquire) < 1


@pytest.mark.parametrize("where", ["argument", "setting"])
def test_a_blocking_acquire_rejects_a_nan(path: Path, where: str) -> None:
    lock = FileLock(path, timeout=math.nan if where == "setting" else -1)
    with pytest.raises(ValueError, match="timeout must be a number of seconds, not nan"):
        lock.acquire(timeout=None if where == "setting" else math.nan)
    assert lock.lock_counter == 0
    assert not path.exists()


def test_the_old_name_of_poll_interval_is_deprecated_but_works(path: Path) -> None:
    lock: Any = FileLock(path)
    with pytest.warns(DeprecationWarning, match="use poll_interval instead of poll_intervall") as caught:
        lock.acquire(poll_intervall=0.01)
    assert [warning.filename for warning in caught] == [__file__]
    assert lock.is_locked
    lock.release()


@pytest.mark.filterwarnings("ignore:use poll_interval:DeprecationWarning")
def test_the_old_name_of_poll_interval_overrides_the_new_one(path: Path) -> None:
    lock: Any = FileLock(path)
    with pytest.raises(ValueError, match="must be finite and non-negative"):
        lock.acquire(poll_interval=0.05, poll_intervall=-1)
    with lock.acquire(poll_interval=-1, poll_intervall=0.05):
        assert lock.is_locked


def test_only_timeout_and_poll_interval_may_be_positional(path: Path) -> None:
    lock: Any = FileLock(path)
    with lock.acquire(1, 0.01):
        assert lock.is_locked
    with pytest.raises(TypeError):
        lock.acquire(1, 0.01, 0.01)


@pytest.mark.parametrize("timeout", [-1, -5, -0.001, math.inf], ids=repr)
@pytest.mark.parametrize("where", ["argument", "setting"])
def test_a_wait_without_limit_lasts_until_the_lock_is_free(path: Path, timeout: float, where: str) -> None:
    waiting, acquired = threading.Event(), threading.Event()
    abandoned = threading.Event()

    def started() -> bool:
        waiting.set()
        return abandoned.is_set()

    def wait() -> None:
        lock = FileLock(path, timeout=timeout if where == "setting" else 0)
        with lock.acquire(None if where == "setting" else timeout, 0.01, cancel_check=started):
            acquired.set()

    thread = threading.Thread(target=wait)
    try:
        with held_by_a_thread(FileLock(path)):
            thread.start()
            assert waiting.wait(10)
            assert not acquired.wait(0.05)
        assert acquired.wait(10)
    finally:
        abandoned.set()
        thread.join(10)


class Canceller:
    """A cancel_check that would end the wait, and counts how often it is asked."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self) -> bool:
        self.asked += 1
        return True


def test_a_cancel_check_is_not_asked_when_the_first_attempt_succeeds(path: Path) -> None:
    lock, check = FileLock(path), Canceller()
    with lock.acquire(cancel_check=check), lock.acquire(cancel_check=check):
        assert lock.lock_counter == 2
    assert check.asked == 0


@pytest.mark.parametrize(
    ("limit", "asked"), [({"blocking": False}, 0), ({"timeout": 0}, 1), ({"timeout": -1}, 1)], ids=repr
)
def test_a_cancel_check_is_asked_once_for_each_failed_poll_of_a_wait(
    path: Path, limit: dict[str, Any], asked: int
) -> None:
    check = Canceller()
    with held_by_a_thread(FileLock(path)), pytest.raises(Timeout):
        FileLock(path).acquire(**limit, cancel_check=check)
    assert check.asked == asked


@pytest.mark.parametrize("answer", [True, 1, "yes", [0]], ids=repr)
def test_a_true_cancel_check_ends_the_wait(path: Path, answer: Any) -> None:
    answers = iter([False, 0, None, "", answer])
    lock = FileLock(path, poll_interval=0.01)
    with held_by_a_thread(FileLock(path)):
        assert seconds_until_timeout(lambda: lock.acquire(cancel_check=lambda: next(answers))) < 10
        assert list(answers) == []
        assert (lock.lock_counter, lock.is_locked) == (0, False)
    with lock:
        assert lock.lock_counter == 1


@pytest.mark.parametrize("error", [KeyError, KeyboardInterrupt, SystemExit])
def test_what_a_cancel_check_raises_comes_out_and_leaves_nothing(path: Path, error: type[BaseException]) -> None:
    def fail() -> bool:
        raise error("mine")

    lock = FileLock(path, poll_interval=0.01)
    with held_by_a_thread(FileLock(path)):
        with pytest.raises(error, match="mine"):
            lock.acquire(cancel_check=fail)
        assert (lock.lock_counter, lock.is_locked) == (0, False)
    with FileLock(path, timeout=0), pytest.raises(Timeout):
        lock.acquire(0)
    with lock:
        assert lock.lock_counter == 1


@pytest.mark.usefixtures("held")
def test_a_cancel_check_does_not_outlast_the_timeout(path: Path) -> None:
    lock = FileLock(path, poll_interval=0.01)
    assert 0.1 <= seconds_until_timeout(lambda: lock.acquire(0.1, cancel_check=lambda: False)) < 1.1


def caught_timeout(path: Path) -> Timeout:
    """The Timeout of an attempt on a held path."""
    with pytest.raises(Timeout) as caught:
        FileLock(path, timeout=0).acquire()
    return caught.value


@pytest.mark.usefixtures("held")
def test_a_timeout_is_a_timeout_error_that_names_the_file(path: Path) -> None:
    error = caught_timeout(path)
    assert type(error) is Timeout
    assert Timeout.__mro__[1:3] == (TimeoutError, OSError)
    assert error.lock_file == str(path)
    assert f"The file lock '{path}' could not be acquired." in str(error).replace("\\\\", "\\")


@pytest.mark.usefixtures("held")
def test_a_timeout_names_the_file_as_it_was_given(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parent)
    assert caught_timeout(Path(path.name)).lock_file == path.name


@pytest.mark.parametrize(
    "limit", [{"blocking": False}, {"timeout": 0.01}, {"timeout": 9, "cancel_check": lambda: True}]
)
@pytest.mark.usefixtures("held")
def test_a_timeout_tells_in_the_handling_of_what_it_came(path: Path, limit: dict[str, Any]) -> None:
    handled = ZeroDivisionError()
    try:
        raise handled
    except ZeroDivisionError:
        with pytest.raises(Timeout) as caught:
            FileLock(path).acquire(**limit)
    assert caught.value.__context__ is handled
    with pytest.raises(Timeout) as caught:
        FileLock(path).acquire(**limit)
    assert caught.value.__context__ is None


def test_a_package_that_is_imported_anew_has_locks_that_raise_its_own_timeout(path: Path) -> None:
    program = """
        import sys
        import ferrolock as old

        def caught(package):
            try:
                package.FileLock(sys.argv[1], timeout=0).acquire()
            except package.Timeout:
                return True

        held = old.FileLock(sys.argv[1]).acquire()
        assert caught(old)
        for name in [name for name in sys.modules if name.startswith("ferrolock")]:
            del sys.modules[name]
        import ferrolock as new
        assert new.Timeout is not old.Timeout
        print(caught(new), caught(old))
    """
    assert run_program(program, path) == "True True\n"


def test_a_timeout_can_be_built_from_a_path_alone() -> None:
    error = Timeout("x.lock")
    assert error.lock_file == "x.lock"
    assert str(error) == "The file lock 'x.lock' could not be acquired."
    assert repr(error) == "Timeout('x.lock')"
    assert (error.args, error.errno, error.filename, error.strerror) == ((), None, None, None)
    assert error.errno != errno.ETIMEDOUT


def test_the_path_of_a_timeout_cannot_be_set() -> None:
    with pytest.raises(AttributeError):
        Timeout("x.lock").lock_file = "y.lock"  # type: ignore[misc]


class OwnTimeout(Timeout):
    """A caller's subclass that takes the path alone."""

    def __init__(self, lock_file: str) -> None:
        super().__init__(lock_file)


def clone_by_pickle(protocol: int) -> Callable[[Any], Any]:
    """Return a copier that goes through pickled bytes."""
    return lambda value: pickle.loads(pickle.dumps(value, protocol))


CLONERS = [
    pytest.param(copy.copy, id="copy"),
    pytest.param(copy.deepcopy, id="deepcopy"),
    *[pytest.param(clone_by_pickle(n), id=f"pickle-{n}") for n in range(pickle.HIGHEST_PROTOCOL + 1)],
]


@pytest.mark.parametrize("clone", CLONERS)
@pytest.mark.parametrize("cls", [Timeout, OwnTimeout])
def test_a_timeout_is_copied_whole(cls: type[Timeout], clone: Callable[[Any], Any]) -> None:
    error: Any = cls("x.lock")
    error.note = ["mine"]
    twin = clone(error)
    assert (type(twin), twin.lock_file, str(twin)) == (cls, "x.lock", str(error))
    assert repr(twin) == f"{cls.__name__}('x.lock')"
    assert twin.note == ["mine"]


@pytest.mark.skipif(sys.version_info < (3, 11), reason="notes came with 3.11")
def test_a_timeout_keeps_its_notes_when_copied() -> None:
    error: Any = Timeout("x.lock")
    error.add_note("seen on host h")
    assert pickle.loads(pickle.dumps(error)).__notes__ == ["seen on host h"]


@pytest.mark.parametrize("clone", CLONERS)
def test_a_caught_timeout_is_copied_with_its_message(path: Path, clone: Callable[[Any], Any]) -> None:
    with held_by_a_thread(FileLock(path)):
        error = caught_timeout(path)
        message = str(error)
    twin = clone(error)
    assert type(twin) is Timeout
    assert (twin.lock_file, str(twin)) == (str(path), message)


def listed_as_a_holder(pid: int) -> bool:
    """Whether Linux tells of the process's lock; without that nobody can name it."""
    return any(line.split()[4:5] == [str(pid)] for line in Path("/proc/locks").read_text().splitlines())


@pytest.fixture
def holder(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the path, and that the system tells about."""
    if sys.platform != "linux":
        pytest.skip("only Linux lists the holders of locks")
    with held_by_a_process(path) as process:
        if not listed_as_a_holder(process.pid):
            pytest.skip("/proc/locks does not list the holder here")
        yield process


def check_that_it_names(error: Timeout, holder: subprocess.Popen[str]) -> None:
    """The message says which process may hold the lock, and no more than that it may."""
    message = str(error)
    assert message.startswith(f"The file lock '{error.lock_file}' could not be acquired.")
    hint = message.replace(str(error.lock_file), "")
    assert "may be held by" in hint
    assert str(holder.pid) in hint.partition("may be held by")[2]


@pytest.mark.parametrize("limit", [{"timeout": 0}, {"timeout": 0.05}, {"blocking": False}], ids=repr)
def test_a_timeout_names_the_process_that_may_hold_the_lock(
    path: Path, holder: subprocess.Popen[str], limit: dict[str, Any]
) -> None:
    with pytest.raises(Timeout) as caught:
        FileLock(path).acquire(**limit)
    check_that_it_names(caught.value, holder)


def test_a_timeouts_message_is_about_the_time_it_was_first_read(path: Path, holder: subprocess.Popen[str]) -> None:
    error = caught_timeout(path)
    message = str(error)
    holder.kill()
    holder.wait()
    with FileLock(path):
        assert str(error) == message
    check_that_it_names(error, holder)


def test_a_pickled_timeout_takes_its_message_along(path: Path, holder: subprocess.Popen[str]) -> None:
    pickled = pickle.dumps(caught_timeout(path))
    holder.kill()
    holder.wait()
    with FileLock(path):
        check_that_it_names(pickle.loads(pickled), holder)
