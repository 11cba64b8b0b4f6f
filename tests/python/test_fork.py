"""A forked child never owns its parent's locks, and the lock objects that it has inherited work.

The parent is a peer. The process of the tests is the third, which tells whether the lock is free in truth.
"""

from __future__ import annotations

import os
import textwrap
from typing import TYPE_CHECKING, Any

import pytest

from ferrolock import FileLock
from peers import LONG, Peer, is_free, run_program, still_waits

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")

KINDS = pytest.mark.parametrize(
    "options", [{}, {"thread_local": False}, {"is_singleton": True}], ids=["own", "shared", "singleton"]
)
UNHELD = [False, 0]


@pytest.fixture
def parent(spawn: Callable[..., Peer]) -> Peer:
    """The process that forks."""
    return spawn()


def make_lock(parent: Peer, path: Path, acquisitions: int = 0, **options: Any) -> None:
    """Have the parent make a lock object, and hold it so often."""
    source = """
        import gc, os, threading

        lock = FileLock(path, **options)
        for _ in range(acquisitions):
            lock.acquire(timeout=0)

        def state(lock=lock):
            return lock.is_locked, lock.lock_counter

        def is_refused(lock=lock, **limit):
            try:
                lock.acquire(**limit or {"timeout": 0})
            except TimeoutError:
                return True
            lock.release()
            return False
    """
    parent.run(source, path=path, acquisitions=acquisitions, options=options)


@KINDS
def test_a_child_starts_unheld(parent: Peer, lock_path: Path, options: dict[str, Any]) -> None:
    make_lock(parent, lock_path, 2, **options)
    assert parent.run("answer = in_child(state)") == UNHELD
    assert parent.run("answer = state()") == [True, 2]


@KINDS
def test_a_child_is_excluded_while_the_parent_holds(parent: Peer, lock_path: Path, options: dict[str, Any]) -> None:
    make_lock(parent, lock_path, 1, **options)
    for limit in ({"timeout": 0}, {"timeout": 0.02}, {"blocking": False}):
        assert parent.run("answer = in_child(lambda: [is_refused(**limit), state()])", limit=limit) == [True, UNHELD]
        assert parent.run("answer = in_child(lambda: is_refused(FileLock(path), **limit))")
    assert not is_free(lock_path)


@KINDS
def test_an_inherited_lock_works_in_the_child(parent: Peer, lock_path: Path, options: dict[str, Any]) -> None:
    make_lock(parent, lock_path, **options)
    parent.run(
        """
        go_on = os.pipe()
        def hold():
            with lock, lock:
                tell("holding", state())
                os.read(go_on[0], 1)
            return state()
        child = Forked(hold)
        """
    )
    assert parent.heard("holding") == [True, 2]
    assert not is_free(lock_path)
    assert parent.run("answer = [state(), is_refused()]") == [UNHELD, True]
    assert parent.run("os.write(go_on[1], b'.'); answer = child.answer()") == UNHELD
    assert is_free(lock_path)
    assert not parent.run("answer = is_refused()")


@KINDS
def test_a_child_waits_for_its_parents_release(parent: Peer, lock_path: Path, options: dict[str, Any]) -> None:
    """Without a limit: that this very thread holds the lock, and waits for itself, was true in the parent only."""
    make_lock(parent, lock_path, 1, **options)
    parent.run(
        """
        def wait(lock):
            def wait_in_the_child():
                lock.acquire(cancel_check=lambda: tell("waiting"))
                return state(lock)
            return wait_in_the_child
        children = [Forked(wait(lock)), Forked(wait(FileLock(path)))]
        """
    )
    for child in (0, 1):
        parent.heard("waiting")
        assert parent.run("answer = children[child].still_waits()", child=child)
    parent.run("lock.release()")
    # Each child ends without a release, and the end of the first is the turn of the other.
    assert parent.run("answer = [child.answer() for child in children]") == [[True, 1], [True, 1]]
    assert is_free(lock_path)


@KINDS
@pytest.mark.parametrize(
    "act",
    [
        "lock.release()",
        "lock.release(force=True)",
        "lock.__exit__(None, None, None)",
        "lock.__del__()",
        "is_refused(); lock.release(); lock.release(force=True)",
        "FileLock(path).release(force=True)",
        "thread = threading.Thread(target=lock.release); thread.start(); thread.join()",
    ],
)
def test_no_release_by_a_child_ends_the_parents_hold(
    parent: Peer, lock_path: Path, options: dict[str, Any], act: str
) -> None:
    make_lock(parent, lock_path, 2, **options)
    check_that_the_parent_keeps_the_lock(parent, lock_path, act)


@KINDS
def test_a_childs_garbage_collection_does_not_end_the_parents_hold(
    parent: Peer, lock_path: Path, options: dict[str, Any]
) -> None:
    make_lock(parent, lock_path, 2, **options)
    act = """
        global lock
        import weakref
        collected = weakref.ref(lock)
        del lock
        state.__defaults__ = is_refused.__defaults__ = ()
        gc.collect()
        assert collected() is None
    """
    check_that_the_parent_keeps_the_lock(parent, lock_path, act)


def check_that_the_parent_keeps_the_lock(parent: Peer, path: Path, act: str) -> None:
    """Fork a child that does this; a third process finds the lock held all the time, until the parent releases it."""
    parent.run(f"def act():\n{textwrap.indent(textwrap.dedent(act), '    ')}")
    parent.run(
        """
        go_on = os.pipe()
        def act_and_stay():
            try:
                act()
            finally:
                tell("done")
            os.read(go_on[0], 1)
        child = Forked(act_and_stay)
        """
    )
    parent.heard("done")
    assert not is_free(path), "while the child lives"
    parent.run("os.write(go_on[1], b'.'); child.answer()")
    assert not is_free(path), "after the child's end"
    assert parent.run("answer = state()") == [True, 2]
    parent.run("lock.release()")
    assert not is_free(path)
    parent.run("lock.release()")
    assert is_free(path)


def test_a_child_closes_no_file_of_its_own_by_mistake(parent: Peer, lock_path: Path) -> None:
    """The number of the descriptor that was closed in the child is soon that of another file."""
    make_lock(parent, lock_path, 1)
    source = """
        [number] = descriptors(path)
        def reuse_the_number():
            global lock
            mine = open(path + ".other", "w+")
            reused = mine.fileno() == number
            lock.release(force=True)
            del lock
            state.__defaults__ = is_refused.__defaults__ = ()
            gc.collect()
            mine.write("mine")
            mine.seek(0)
            return reused, mine.read()
        answer = in_child(reuse_the_number)
    """
    assert parent.run(source) == [True, "mine"]
    assert not is_free(lock_path)


@KINDS
def test_a_child_has_no_descriptor_of_the_lock_file(parent: Peer, lock_path: Path, options: dict[str, Any]) -> None:
    make_lock(parent, lock_path, 1, **options)
    assert len(parent.run("answer = descriptors(path)")) == 1
    assert parent.run("answer = in_child(lambda: descriptors(path))") == []


def test_a_child_does_not_keep_the_lock_of_a_parent_it_outlives(parent: Peer, lock_path: Path) -> None:
    make_lock(parent, lock_path, 1)
    parent.run(
        """
        def outlive():
            tell("child")
            os.read(0, 1)  # ends with the test, which has the other end of stdin
        child = Forked(outlive)
        """
    )
    parent.heard("child")
    assert not is_free(lock_path)
    parent.kill()
    assert is_free(lock_path)


def test_a_child_that_kept_a_descriptor_would_keep_the_lock(parent: Peer, lock_path: Path) -> None:
    """The control of the test above: the same with ``flock`` by hand."""
    parent.run(
        """
        import fcntl, os
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        def outlive():
            tell("child")
            os.read(0, 1)
        child = Forked(outlive)
        """,
        path=lock_path,
    )
    parent.heard("child")
    parent.kill()
    assert not is_free(lock_path)


def test_a_grandchild_owns_nothing_either(parent: Peer, lock_path: Path) -> None:
    make_lock(parent, lock_path, 1)
    own_path = lock_path.with_name("own.lock")
    source = """
        own = FileLock(own_path)
        def look():
            lock.release(force=True)
            own.release(force=True)
            return [
                state(), descriptors(path), is_refused(), state(own), descriptors(own_path), is_refused(own)
            ]
        def hold_and_fork():
            with own:
                below = in_child(look)
                return below, state(own), len(descriptors(own_path)), state()
        answer = in_child(hold_and_fork)
    """
    below, own_state, own_descriptors, state = parent.run(source, own_path=own_path)
    assert below == [UNHELD, [], True, UNHELD, [], True]
    assert (own_state, own_descriptors, state) == ([True, 1], 1, UNHELD)
    assert parent.run("answer = state()") == [True, 1]
    assert not is_free(lock_path)
    assert is_free(own_path)


@KINDS
def test_a_fork_by_a_thread_while_another_one_holds(parent: Peer, lock_path: Path, options: dict[str, Any]) -> None:
    make_lock(parent, lock_path, **options)
    source = """
        held, done = threading.Event(), threading.Event()
        def hold():
            with lock:
                held.set()
                done.wait(20)
        thread = threading.Thread(target=hold)
        thread.start()
        held.wait(10)
        def look():
            lock.release(force=True)
            return state(), descriptors(path), is_refused()
        answer = in_child(look)
    """
    assert parent.run(source) == [UNHELD, [], True]
    assert not is_free(lock_path)
    parent.run("done.set(); thread.join()")
    assert is_free(lock_path)


@KINDS
def test_a_thread_that_holds_may_fork(parent: Peer, lock_path: Path, options: dict[str, Any]) -> None:
    make_lock(parent, lock_path, **options)
    source = """
        def fork():
            global answer
            with lock:
                answer = in_child(lambda: (lock.release(), state(), descriptors(path), is_refused())), state()
        thread = threading.Thread(target=fork)
        thread.start()
        thread.join()
    """
    assert parent.run(source) == [[None, UNHELD, [], True], [True, 1]]
    assert is_free(lock_path)


def test_forks_while_threads_acquire_release_and_wait(parent: Peer, lock_path: Path) -> None:
    """Wherever in a transition a fork meets the other threads: the child neither hangs nor has their descriptors."""
    source = """
        import os, threading
        paths = [f"{path}.{number}" for number in range(4)]
        own, shared = FileLock(paths[0], poll_interval=0.002), FileLock(paths[1], thread_local=False)
        waiting = [FileLock(path, poll_interval=0.002), FileLock(path, thread_local=False, poll_interval=0.002)]
        locks = [own, shared, *waiting]
        done = threading.Event()

        def cycle(lock):
            while not done.is_set():
                with lock:
                    pass

        def construct_and_cycle():
            while not done.is_set():
                with FileLock(paths[2]):
                    pass

        def wait(lock):
            try:
                lock.acquire(cancel_check=done.is_set)
            except TimeoutError:
                pass

        threads = [threading.Thread(target=cycle, args=(lock,)) for lock in (own, own, shared)]
        threads.append(threading.Thread(target=construct_and_cycle))
        threads += [threading.Thread(target=wait, args=(lock,)) for lock in waiting]

        def look():
            inherited = [number for place in (path, *paths[:3]) for number in descriptors(place)]
            states = [(lock.is_locked, lock.lock_counter) for lock in locks]
            for lock in locks:
                lock.release()
                try:
                    lock.acquire(timeout=0)  # where the parent does not happen to hold it, this succeeds
                    lock.release()
                except TimeoutError:
                    pass
            with FileLock(paths[3]) as new:
                return inherited, states, new.is_locked

        for thread in threads:
            thread.start()
        try:
            while not all(map(os.path.exists, paths[:3])):
                pass
            answer = [in_child(look) for _ in range(30)]
        finally:
            done.set()
            for thread in threads:
                thread.join()
    """
    with FileLock(lock_path):
        children = parent.begin_run(source, path=lock_path).result(4 * LONG)
    assert children == [[[], [UNHELD] * 4, True]] * 30


@pytest.mark.parametrize("leave", ["raise SystemExit", "raise ValueError", "pass", "os._exit(0)"])
def test_a_child_that_leaves_the_with_block_it_was_forked_in(lock_path: Path, leave: str) -> None:
    """Through the block's end and the interpreter's, whatever they run: finalizers, exit handlers."""
    program = f"""
        import atexit, os, sys
        from ferrolock import FileLock
        from peer_program import in_child
        from peers import is_free

        path = sys.argv[1]
        lock = FileLock(path)
        atexit.register(lock.release, force=True)
        pid = None
        try:
            with lock:
                pid = os.fork()
                if not pid:
                    {leave}
                else:
                    _, status = os.waitpid(pid, 0)
                    print(os.waitstatus_to_exitcode(status), lock.lock_counter, in_child(lambda: is_free(path)))
        except ValueError:
            pass
        if pid:
            print(lock.is_locked, in_child(lambda: is_free(path)))
    """
    assert run_program(program, lock_path).splitlines() == ["0 1 False", "False True"]


def test_a_child_forked_in_the_middle_of_a_wait_leaves_the_wait_alone(parent: Peer, lock_path: Path) -> None:
    make_lock(parent, lock_path)
    source = """
        other = path + ".other"
        reports = []
        def look():
            with FileLock(other, timeout=5) as new:
                return state(), descriptors(path), new.is_locked
        def fork_once():
            if not reports:
                reports.append(in_child(look))
                tell("forked", reports[0])
            return False
        lock.acquire(cancel_check=fork_once)
        answer = state()
    """
    with FileLock(lock_path):
        wait = parent.begin_run(source)
        assert parent.heard("forked", unless=wait) == [UNHELD, [], True]
        assert still_waits(wait)
    assert wait.result(LONG) == [True, 1]
    assert not is_free(lock_path)
    parent.run("lock.release()")
    assert is_free(lock_path)


def test_a_wait_that_was_forked_goes_on_in_both(parent: Peer, lock_path: Path) -> None:
    """Each of the two that come out of the fork gets the lock in its turn."""
    make_lock(parent, lock_path)
    source = """
        child = None
        def wait():
            pids = []
            def fork_once():
                if not pids:
                    pids.append(os.fork())
                    tell("forked")
            lock.acquire(cancel_check=fork_once)
            holds = state(), len(descriptors(path))
            lock.release()
            if not pids[0]:
                tell("child", holds)
                os._exit(0)
            os.waitpid(pids[0], 0)
            return holds
        answer = wait()
    """
    with FileLock(lock_path):
        wait = parent.begin_run(source)
        parent.heard("forked", unless=wait)
        parent.heard("forked", unless=wait)
        assert still_waits(wait)
    assert wait.result(LONG) == [[True, 1], 1]
    assert parent.heard("child") == [[True, 1], 1]
    assert is_free(lock_path)


def test_workers_of_a_pool_take_turns_with_the_lock_of_their_module(lock_path: Path) -> None:
    """The usual way: a lock at the top of a module, and a pool that is forked, here even while the parent holds."""
    program = """
        import multiprocessing, sys, time
        from pathlib import Path
        from ferrolock import FileLock

        lock = FileLock(sys.argv[1])
        counter = Path(sys.argv[1] + ".counter")
        counter.write_text("0")

        def count(_):
            before = lock.is_locked
            with lock:
                value = int(counter.read_text())
                time.sleep(0.0005)
                counter.write_text(str(value + 1))
            return before

        with lock:
            pool = multiprocessing.get_context("fork").Pool(4)
            counts = pool.map_async(count, range(80), chunksize=1)
            counts.wait(0.1)
            early = counter.read_text()
        held_before = counts.get(20)
        pool.close()
        pool.join()
        print(early, sum(held_before), counter.read_text(), lock.is_locked)
    """
    output = run_program(program, lock_path, options=("-W", "ignore::DeprecationWarning"))
    assert output.split() == ["0", "0", "80", "False"]
