"""What a FileLock is made from: options, their validation, properties, identity and the package's public names."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import inspect
import math
import subprocess
import sys
import textwrap
import threading
import types
import weakref
from abc import ABCMeta
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

import ferrolock
from ferrolock import BaseFileLock, FileLock, UnixFileLock, WindowsFileLock

NATIVE, FOREIGN = (WindowsFileLock, UnixFileLock) if sys.platform == "win32" else (UnixFileLock, WindowsFileLock)
TOO_BIG_FOR_FLOAT = 10**400


class PathLike:
    """An os.PathLike that is neither str nor pathlib."""

    def __init__(self, path: Any) -> None:
        self.path = path

    def __fspath__(self) -> Any:
        return self.path


def make(path: Any = "x.lock", **options: Any) -> FileLock:
    """Construct without the type checker's opinion, for values of the wrong type."""
    return FileLock(path, **options)


def test_the_defaults_are_those_of_the_documentation() -> None:
    lock = FileLock("x.lock")
    assert (lock.timeout, lock.mode, lock.has_explicit_mode) == (-1.0, 0o644, False)
    assert (lock.blocking, lock.poll_interval, lock.lifetime) == (True, 0.05, None)
    assert lock.is_thread_local() is True
    assert lock.is_singleton is False
    assert (lock.is_locked, lock.lock_counter) == (False, 0)


def test_the_first_four_options_may_be_positional() -> None:
    lock = FileLock("x.lock", 3, 0o600, False)
    assert (lock.timeout, lock.mode, lock.is_thread_local()) == (3.0, 0o600, False)


def test_the_later_options_are_keyword_only() -> None:
    construct: Any = FileLock
    with pytest.raises(TypeError):
        construct("x.lock", -1, -1, True, True)


def test_a_lock_needs_a_path() -> None:
    construct: Any = FileLock
    with pytest.raises(TypeError):
        construct()


@pytest.mark.parametrize(
    "given",
    [
        pytest.param("some/where/x.lock", id="str"),
        pytest.param("./x.lock", id="relative-kept-as-given"),
        pytest.param("../y/../x.lock", id="dots-kept-as-given"),
        pytest.param("", id="empty"),
    ],
)
def test_the_path_reads_back_as_it_was_given(given: str) -> None:
    assert FileLock(given).lock_file == given


@pytest.mark.parametrize("wrap", [Path, PathLike], ids=["pathlib", "any-path-like"])
def test_a_path_like_is_kept_as_its_string(wrap: type[Any]) -> None:
    lock_file = make(wrap("x.lock")).lock_file
    assert lock_file == "x.lock"
    assert type(lock_file) is str


@pytest.mark.parametrize("given", [3, None, 1.5, [], PathLike(3)], ids=repr)
def test_what_is_no_path_is_a_type_error(given: Any) -> None:
    with pytest.raises(TypeError):
        make(given)


def test_a_bytes_path_constructs_but_does_not_acquire(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    lock = make(str(path).encode())
    with pytest.raises(TypeError):
        lock.acquire()
    assert lock.lock_counter == 0
    assert not path.exists()


def test_an_embedded_nul_is_a_value_error_when_acquiring(tmp_path: Path) -> None:
    lock = FileLock(str(tmp_path / "x\0y.lock"))
    with pytest.raises(ValueError, match=r"null|NUL"):
        lock.acquire()
    assert lock.lock_counter == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("option", "given", "stored"),
    [
        pytest.param("timeout", -1, -1.0, id="timeout--1"),
        pytest.param("timeout", -5, -5.0, id="timeout-negative"),
        pytest.param("timeout", 0, 0.0, id="timeout-0"),
        pytest.param("timeout", 1.5, 1.5, id="timeout-float"),
        pytest.param("timeout", Decimal("0.25"), 0.25, id="timeout-decimal"),
        pytest.param("timeout", Fraction(1, 2), 0.5, id="timeout-fraction"),
        pytest.param("timeout", math.inf, math.inf, id="timeout-inf"),
        pytest.param("poll_interval", 0, 0.0, id="poll-0"),
        pytest.param("poll_interval", 2, 2.0, id="poll-int"),
        pytest.param("poll_interval", Decimal("0.5"), 0.5, id="poll-decimal"),
        pytest.param("poll_interval", Fraction(1, 4), 0.25, id="poll-fraction"),
        pytest.param("poll_interval", threading.TIMEOUT_MAX, threading.TIMEOUT_MAX, id="poll-longest"),
        pytest.param("mode", 0o600, 0o600, id="mode-least"),
        pytest.param("mode", 0o644, 0o644, id="mode-default-said-aloud"),
        pytest.param("mode", 0o777, 0o777, id="mode-most"),
        pytest.param("mode", -1, 0o644, id="mode-unset"),
        pytest.param("blocking", True, True, id="blocking"),
        pytest.param("blocking", False, False, id="non-blocking"),
        pytest.param("lifetime", None, None, id="lifetime-none"),
    ],
)
def test_an_accepted_option_reads_back(option: str, given: Any, stored: Any) -> None:
    value = getattr(make(**{option: given}), option)
    assert value == stored
    assert type(value) is type(stored)


@pytest.mark.parametrize(("mode", "explicit"), [(-1, False), (0o600, True), (0o644, True)], ids=oct)
def test_a_mode_is_explicit_when_it_was_given(mode: int, explicit: bool) -> None:
    assert FileLock("x.lock", mode=mode).has_explicit_mode is explicit


def test_a_nan_timeout_constructs() -> None:
    assert math.isnan(FileLock("x.lock", timeout=math.nan).timeout)


@pytest.mark.parametrize("given", [True, False, 0, 1, "", "yes", None], ids=repr)
def test_thread_local_takes_anything_and_gives_it_back(given: Any) -> None:
    lock = make(thread_local=given)
    assert lock.is_thread_local() is given


@pytest.mark.parametrize("given", [0, 1, "", "yes", None], ids=repr)
def test_is_singleton_goes_by_truth(tmp_path: Path, given: Any) -> None:
    first = make(tmp_path / "x.lock", is_singleton=given)
    second = make(tmp_path / "x.lock", is_singleton=given)
    assert (first is second) is bool(given)
    assert bool(first.is_singleton) is bool(given)


REJECTED: list[tuple[str, Any, type[Exception], str]] = [
    *[("timeout", bad, TypeError, "timeout must be a number of seconds, not") for bad in (True, "1", b"1", None, 1j)],
    ("timeout", bytearray(b"1"), TypeError, "timeout must be a number of seconds, not bytearray"),
    ("timeout", [], TypeError, "timeout must be a number of seconds, not list"),
    ("timeout", TOO_BIG_FOR_FLOAT, ValueError, "timeout"),
    *[("mode", bad, TypeError, "mode must be an int") for bad in (True, "0o600", 384.0, None)],
    *[("mode", bad, ValueError, r"must be within 0o000-0o777") for bad in (-2, 0o1000, 0o100600, 1 << 80)],
    *[("mode", bad, ValueError, "must grant the owner read and write") for bad in (0, 0o400, 0o200, 0o077, 0o577)],
    *[("blocking", bad, TypeError, "blocking must be a bool, not") for bad in (0, 1, "no", None)],
    *[("poll_interval", bad, TypeError, "poll_interval must be a number of seconds, not") for bad in (True, "1", None)],
    *[("poll_interval", bad, ValueError, "must be finite and non-negative") for bad in (-1, -0.1, math.nan, math.inf)],
    ("poll_interval", threading.TIMEOUT_MAX * 2, ValueError, "poll_interval"),
    ("poll_interval", TOO_BIG_FOR_FLOAT, ValueError, "poll_interval"),
    *[("lifetime", bad, TypeError, "lifetime must be a number of seconds, not") for bad in (True, "1")],
    *[("lifetime", bad, ValueError, "lifetime must be finite and non-negative") for bad in (-1, math.nan, math.inf)],
]
# The timeout setter alone takes text, with a warning: see below.
REJECTED_BY_A_SETTER = [
    row
    for row in REJECTED
    if row[0] != "mode" and not (row[0] == "timeout" and isinstance(row[1], (str, bytes, bytearray)))
]


def rejected_id(value: Any) -> str | None:
    """Name a value in a test id, without 400 digits."""
    return repr(value) if len(repr(value)) < 20 else "too-big"


@pytest.mark.parametrize(("option", "given", "error", "message"), REJECTED, ids=rejected_id)
def test_a_bad_option_is_rejected_when_constructing(
    option: str, given: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        make(**{option: given})


@pytest.mark.parametrize(("option", "given", "error", "message"), REJECTED_BY_A_SETTER, ids=rejected_id)
def test_a_bad_option_is_rejected_when_set(option: str, given: Any, error: type[Exception], message: str) -> None:
    lock = FileLock("x.lock")
    before = getattr(lock, option)
    with pytest.raises(error, match=message):
        setattr(lock, option, given)
    assert getattr(lock, option) == before


def test_options_are_judged_in_a_fixed_order() -> None:
    bad = {"lifetime": "?", "poll_interval": "?", "blocking": "?", "timeout": "?", "mode": "?", "no_such_option": 1}
    while bad:
        first = next(iter(bad))
        with pytest.raises(TypeError, match=first):
            make(**bad)
        del bad[first]


def test_unknown_options_are_a_type_error_that_names_them() -> None:
    with pytest.raises(TypeError, match="does not support non-default lock options: bogus, zzz"):
        make(zzz=1, bogus=2)
    with pytest.raises(TypeError, match=NATIVE.__name__):
        make(bogus=2)


@pytest.mark.parametrize("lifetime", [0, 5, 1.5, Decimal("0.5")], ids=repr)
def test_a_native_lock_warns_about_a_lifetime_and_drops_it(lifetime: Any) -> None:
    with pytest.warns(UserWarning, match=f"lifetime is ignored for {NATIVE.__name__}: ") as caught:
        lock = make(lifetime=lifetime)
    assert [warning.filename for warning in caught] == [__file__]
    assert lock.lifetime is None


def test_setting_a_lifetime_warns_at_the_caller_and_drops_it() -> None:
    lock = FileLock("x.lock")
    with pytest.warns(UserWarning, match=f"lifetime is ignored for {NATIVE.__name__}: ") as caught:
        lock.lifetime = 5
    lifetimes = [lock.lifetime]
    lock.lifetime = None
    assert [*lifetimes, lock.lifetime] == [None, None]
    assert [warning.filename for warning in caught] == [__file__]


@pytest.mark.parametrize(
    ("option", "given", "stored"),
    [
        ("timeout", 3, 3.0),
        ("timeout", -1, -1.0),
        ("timeout", Decimal("0.5"), 0.5),
        ("timeout", math.inf, math.inf),
        ("blocking", False, False),
        ("poll_interval", 1, 1.0),
        ("poll_interval", 0, 0.0),
    ],
    ids=repr,
)
def test_a_setting_can_be_changed(option: str, given: Any, stored: Any) -> None:
    lock = FileLock("x.lock", timeout=9, poll_interval=9)
    setattr(lock, option, given)
    value = getattr(lock, option)
    assert value == stored
    assert type(value) is type(stored)


def test_a_nan_timeout_can_be_set() -> None:
    lock = FileLock("x.lock")
    lock.timeout = math.nan
    assert math.isnan(lock.timeout)


@pytest.mark.parametrize("text", ["1.5", b"1.5", bytearray(b"1.5")], ids=repr)
def test_setting_a_timeout_in_text_is_deprecated_but_works(text: Any) -> None:
    lock = FileLock("x.lock")
    with pytest.warns(DeprecationWarning, match="timeout") as caught:
        lock.timeout = text
    assert [warning.filename for warning in caught] == [__file__]
    assert lock.timeout == 1.5


@pytest.mark.parametrize(
    "name", ["lock_file", "mode", "has_explicit_mode", "is_locked", "lock_counter", "is_singleton"]
)
def test_a_read_only_property_cannot_be_set(name: str) -> None:
    lock = FileLock("x.lock")
    before = getattr(lock, name)
    with pytest.raises(AttributeError):
        setattr(lock, name, before)
    assert getattr(lock, name) == before


def test_the_states_are_properties_and_is_thread_local_a_method(tmp_path: Path) -> None:
    lock = FileLock(tmp_path / "x.lock")
    seen = [repr(lock.is_locked), repr(lock.lock_counter)]
    with lock:
        seen += [repr(lock.is_locked), repr(lock.lock_counter)]
    assert seen == ["False", "0", "True", "1"]
    assert callable(lock.is_thread_local)


def test_constructing_touches_no_file(tmp_path: Path) -> None:
    FileLock(tmp_path / "missing" / "x.lock")
    assert list(tmp_path.iterdir()) == []


def test_the_base_class_is_abstract() -> None:
    construct: Any = BaseFileLock
    with pytest.raises(TypeError, match=r"BaseFileLock"):
        construct("x.lock")


def test_the_classes_have_the_bases_that_code_relies_on() -> None:
    assert FileLock is NATIVE
    for cls in (UnixFileLock, WindowsFileLock):
        assert issubclass(cls, BaseFileLock)
        assert isinstance(cls, ABCMeta)
    assert not issubclass(UnixFileLock, WindowsFileLock)
    assert not issubclass(WindowsFileLock, UnixFileLock)


@pytest.mark.parametrize("blocking", [True, False], ids=["blocking", "non-blocking"])
def test_the_other_systems_lock_constructs_but_does_not_acquire(tmp_path: Path, blocking: bool) -> None:
    path = tmp_path / "x.lock"
    lock = FOREIGN(path, timeout=1, mode=0o600)
    assert (lock.timeout, lock.mode, lock.lock_file) == (1.0, 0o600, str(path))
    with pytest.raises(NotImplementedError):
        lock.acquire(blocking=blocking)
    assert (lock.is_locked, lock.lock_counter) == (False, 0)
    lock.release()
    assert not path.exists()


def test_has_fcntl_says_whether_unix_locking_is_there() -> None:
    expected = sys.platform != "win32" and importlib.util.find_spec("fcntl") is not None
    assert ferrolock.has_fcntl is expected


def test_the_version_is_that_of_the_distribution() -> None:
    assert ferrolock.__version__ == importlib.metadata.version("ferrolock")


def test_all_lists_the_public_names_and_nothing_else() -> None:
    machinery = {"annotations", "TYPE_CHECKING"}
    public = {
        name
        for name, value in inspect.getmembers(ferrolock)
        if not name.startswith("_") and name not in machinery and not isinstance(value, types.ModuleType)
    }
    assert sorted(ferrolock.__all__) == sorted(public | {"__version__"})


@pytest.mark.parametrize(
    "name",
    ["FileLock", "UnixFileLock", "WindowsFileLock", "BaseFileLock", "Timeout", "AcquireReturnProxy", "has_fcntl"],
)
def test_a_public_name_is_listed_once_and_importable(name: str) -> None:
    assert ferrolock.__all__.count(name) == 1
    assert name in dir(ferrolock)
    namespace: dict[str, Any] = {}
    exec("from ferrolock import *", namespace)
    assert namespace[name] is getattr(ferrolock, name)


def test_the_import_takes_little_along() -> None:
    # Each of them takes as long to import as the package itself.
    source = """
        import sys
        before = set(sys.modules)
        sys.path.append(folder)
        import ferrolock
        lock = ferrolock.FileLock("x.lock")
        heavy = {"asyncio", "collections", "contextlib", "functools", "logging", "threading", "typing", "weakref"}
        print(sorted(heavy & set(sys.modules) - before))
    """
    folder = str(Path(ferrolock.__file__).parent.parent)
    program = f"folder = {folder!r}\n" + textwrap.dedent(source)
    bare = [sys.executable, "-I", "-S", "-c", program]
    assert subprocess.run(bare, capture_output=True, text=True, check=True).stdout == "[]\n"


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        ferrolock.no_such_name  # type: ignore[attr-defined]  # noqa: B018


def test_two_locks_on_one_path_are_two_locks() -> None:
    first, second = FileLock("x.lock"), FileLock("x.lock")
    assert first != second
    assert first == first  # noqa: PLR0124
    assert len({first, second, first}) == 2


def test_a_lock_can_be_referred_to_weakly_and_carry_attributes() -> None:
    lock: Any = FileLock("x.lock")
    lock.note = "mine"
    assert lock.note == "mine"
    reference = weakref.ref(lock)
    assert reference() is lock
    del lock
    assert reference() is None


def test_the_repr_names_the_class_and_the_path(tmp_path: Path) -> None:
    class NamedLock(FileLock):
        pass

    path = tmp_path / "x.lock"
    assert NATIVE.__name__ in repr(FileLock(path))
    assert "NamedLock" in repr(NamedLock(path))
    assert repr(str(path))[1:-1] in repr(NamedLock(path))
