"""is_singleton=True: one object for one path, and an error rather than a second opinion about its settings."""

from __future__ import annotations

import gc
import math
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from ferrolock import FileLock, Timeout, UnixFileLock, WindowsFileLock

if TYPE_CHECKING:
    from pathlib import Path


def singleton(path: Any, **options: Any) -> FileLock:
    """Construct or find the path's one lock."""
    return FileLock(path, is_singleton=True, **options)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A path in a folder of its own, so that a link to the folder has room beside it."""
    (tmp_path / "folder").mkdir()
    return tmp_path / "folder" / "x.lock"


def test_the_same_path_gives_the_same_object(path: Path) -> None:
    lock = singleton(path)
    assert singleton(path) is lock
    assert singleton(str(path)) is lock
    assert lock.is_singleton is True


def test_another_path_gives_another_object(path: Path) -> None:
    lock = singleton(path)
    assert singleton(path.with_name("y.lock")) is not lock


@pytest.mark.parametrize("other_first", [True, False])
def test_an_ordinary_lock_never_comes_from_the_cache(path: Path, other_first: bool) -> None:
    plain = FileLock(path) if other_first else None
    one = singleton(path)
    plain = plain or FileLock(path)
    assert plain is not one
    assert FileLock(path) is not plain
    assert singleton(path) is one


def test_a_singleton_is_reentrant_wherever_it_is_constructed(path: Path) -> None:
    with singleton(path) as outer, singleton(path) as inner:
        assert outer is inner
        assert outer.lock_counter == 2
    with FileLock(path, timeout=0) as probe:
        assert probe.is_locked


def test_threads_get_the_same_object_and_holds_of_their_own(path: Path) -> None:
    one = singleton(path)
    seen: list[object] = []

    def visit() -> None:
        mine = singleton(path)
        seen.extend([mine is one, mine.lock_counter])
        try:
            mine.acquire(timeout=0)
        except Timeout:
            seen.append("refused")

    with one:
        thread = threading.Thread(target=visit)
        thread.start()
        thread.join(10)
    assert seen == [True, 0, "refused"]


def test_threads_that_construct_at_once_get_one_object(path: Path) -> None:
    barrier, pause = threading.Barrier(8), threading.Event()
    found: list[FileLock] = []

    class SlowToBuild(FileLock):
        built = 0

        def __init__(self, lock_file: str, **options: Any) -> None:
            super().__init__(lock_file, **options)
            pause.wait(0.05)  # lets the others in, if anything does
            type(self).built += 1

    def construct() -> None:
        barrier.wait(10)
        found.append(SlowToBuild(str(path), is_singleton=True))

    threads = [threading.Thread(target=construct) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert (len(found), len(set(found)), SlowToBuild.built) == (8, 1, 1)


def test_spellings_of_one_path_share(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = singleton(path)
    monkeypatch.chdir(path.parent)
    assert singleton(path.name) is lock
    assert singleton(f"./{path.name}") is lock
    assert singleton(f"../folder/{path.name}") is lock
    assert singleton(f"{path.parent}/.//{path.name}") is lock
    assert lock.lock_file == str(path)


def link_to(target: Path, link: Path) -> Path:
    """Make a symbolic link, or skip where the system has none."""
    try:
        link.symlink_to(target, target_is_directory=target.is_dir())
    except OSError as error:
        pytest.skip(f"no symbolic links here: {error}")
    return link


def test_a_linked_folder_is_the_same_folder(path: Path) -> None:
    lock = singleton(path)
    assert singleton(link_to(path.parent, path.parent.parent / "link") / path.name) is lock


def test_a_link_as_the_last_part_is_a_path_of_its_own(path: Path) -> None:
    lock = singleton(path)
    path.touch()
    assert singleton(link_to(path, path.with_name("link.lock"))) is not lock


def test_a_path_whose_folder_is_missing_is_shared_too(path: Path) -> None:
    absent = path.parent / "missing" / "deeper" / "x.lock"
    lock = singleton(absent)
    assert singleton(path.parent / "missing" / "." / "deeper" / "x.lock") is lock
    assert not absent.parent.exists()


@pytest.mark.parametrize(
    ("first", "second", "name"),
    [
        pytest.param({}, {"timeout": 5}, "timeout", id="timeout"),
        pytest.param({"timeout": 0}, {}, "timeout", id="zero-is-not-endless"),
        pytest.param({"timeout": 1}, {"timeout": math.nan}, "timeout", id="nan-is-no-number"),
        pytest.param({}, {"mode": 0o600}, "mode", id="mode"),
        pytest.param({"mode": 0o644}, {}, "mode", id="explicit-mode-is-not-unset"),
        pytest.param({}, {"thread_local": False}, "thread_local", id="thread_local"),
        pytest.param({}, {"blocking": False}, "blocking", id="blocking"),
        pytest.param({}, {"poll_interval": 0.1}, "poll_interval", id="poll_interval"),
    ],
)
def test_a_differing_argument_is_an_error_that_names_it(
    path: Path, first: dict[str, Any], second: dict[str, Any], name: str
) -> None:
    lock = singleton(path, **first)
    with pytest.raises(ValueError, match="cannot be initialized with differing arguments") as caught:
        singleton(path, **second)
    head, arguments, *items = str(caught.value).split("\n")
    assert head == "Singleton lock instances cannot be initialized with differing arguments"
    assert arguments.strip() == "Non-matching arguments:"
    assert [item.split()[0] for item in items] == [name]
    assert singleton(path, **first) is lock


def test_every_differing_argument_is_told_with_both_values(path: Path) -> None:
    lock = singleton(path, timeout=1.5, mode=0o600)
    with pytest.raises(ValueError, match="differing arguments") as caught:
        singleton(path, timeout=2.5, mode=0o640, blocking=False)
    told = {line.split()[0]: line for line in str(caught.value).split("\n")[2:]}
    assert told == {
        "timeout": "\ttimeout (existing lock has 1.5 but 2.5 was passed)",
        "mode": f"\tmode (existing lock has {0o600} but {0o640} was passed)",
        "blocking": "\tblocking (existing lock has True but False was passed)",
    }
    assert (lock.timeout, lock.mode, lock.blocking) == (1.5, 0o600, True)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (-1, -5),
        (-1, math.inf),
        (math.inf, -0.5),
        (math.nan, math.nan),
        (1, 1.0),
        (0, 0.0),
    ],
    ids=repr,
)
def test_timeouts_are_compared_by_what_they_do(path: Path, first: float, second: float) -> None:
    lock = singleton(path, timeout=first)
    assert singleton(path, timeout=second) is lock


def test_bad_options_are_judged_before_the_cache_is_asked(path: Path) -> None:
    lock = singleton(path)
    with pytest.raises(TypeError, match="blocking must be a bool"):
        singleton(path, blocking=1)
    with pytest.raises(TypeError, match="bogus"):
        singleton(path, bogus=1)
    assert singleton(path) is lock


def test_a_lifetime_is_compared_after_it_was_dropped(path: Path) -> None:
    lock = singleton(path)
    with pytest.warns(UserWarning, match="lifetime is ignored") as caught:
        assert singleton(path, lifetime=5) is lock
    assert [warning.filename for warning in caught] == [__file__]


def test_the_initialiser_runs_once_for_an_object(path: Path) -> None:
    class Counted(FileLock):
        calls = 0

        def __init__(self, lock_file: str, **options: Any) -> None:
            type(self).calls += 1
            super().__init__(lock_file, **options)

    lock = Counted(str(path), is_singleton=True)
    assert Counted(str(path), is_singleton=True) is lock
    assert Counted.calls == 1
    other = Counted(str(path))
    assert other is not lock
    assert Counted.calls == 2


def test_a_slow_initialiser_of_another_class_holds_nobody_up(path: Path) -> None:
    begun, may_end = threading.Event(), threading.Event()

    class Slow(FileLock):
        def __init__(self, lock_file: str, *, is_singleton: bool) -> None:
            super().__init__(lock_file, is_singleton=is_singleton)
            begun.set()
            assert may_end.wait(10), "it was waited for"

    construct: Any = Slow
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(construct, path, is_singleton=True)
        assert begun.wait(10)
        with FileLock(path, is_singleton=True) as lock:
            may_end.set()
        assert slow.result(10) is not lock


def test_a_failed_initialiser_leaves_nothing_in_the_cache(path: Path) -> None:
    class Failing(FileLock):
        fail = True

        def __init__(self, lock_file: str, **options: Any) -> None:
            super().__init__(lock_file, **options)
            if self.fail:
                raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        Failing(str(path), is_singleton=True)
    Failing.fail = False
    lock = Failing(str(path), is_singleton=True)
    assert Failing(str(path), is_singleton=True) is lock


def test_each_class_has_a_cache_of_its_own(path: Path) -> None:
    class Sub(FileLock):
        pass

    class SubSub(Sub):
        pass

    locks = [cls(path, is_singleton=True) for cls in (FileLock, Sub, SubSub)]
    assert [type(lock) for lock in locks] == [FileLock, Sub, SubSub]
    assert [cls(path, is_singleton=True) for cls in (FileLock, Sub, SubSub)] == locks
    foreign = WindowsFileLock if FileLock is UnixFileLock else UnixFileLock
    assert foreign(path, is_singleton=True) not in locks


def test_a_class_need_not_share_a_cached_subclass(path: Path) -> None:
    class Sub(FileLock):
        pass

    sub = Sub(path, is_singleton=True)
    lock = singleton(path, timeout=3)
    assert type(lock) is FileLock
    assert sub.timeout == -1.0


def test_the_cache_keeps_no_lock_alive(path: Path) -> None:
    reference = weakref.ref(singleton(path, timeout=1))
    gc.collect()
    assert reference() is None
    assert singleton(path, timeout=2).timeout == 2.0


def test_a_dropped_singleton_that_was_held_lets_go(path: Path) -> None:
    singleton(path).acquire()
    gc.collect()
    with singleton(path).acquire(timeout=0) as lock:
        assert lock.lock_counter == 1


def test_a_relative_path_means_another_file_after_chdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    monkeypatch.chdir(here)
    first = singleton("x.lock")
    monkeypatch.chdir(there)
    second = singleton("x.lock")
    assert second is not first
    assert singleton(there / "x.lock") is second
    with second:
        assert [path.name for path in tmp_path.glob("*/x.lock")] == ["x.lock"]
        assert (there / "x.lock").exists()


def test_a_path_that_resolves_elsewhere_now_gives_a_fresh_object(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    monkeypatch.chdir(here)
    first = singleton("x.lock")
    monkeypatch.chdir(there)
    # Unheld, the first object would now lock a file in the other folder: it no longer stands for this one.
    fresh = singleton(here / "x.lock")
    assert fresh is not first
    with first, fresh:
        assert sorted(path.parent.name for path in tmp_path.glob("*/x.lock")) == ["here", "there"]


def test_a_held_path_keeps_its_object_over_chdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    monkeypatch.chdir(here)
    with singleton("x.lock") as held:
        monkeypatch.chdir(there)
        assert singleton(here / "x.lock") is held
        with singleton(here / "x.lock"):
            assert held.lock_counter == 2
