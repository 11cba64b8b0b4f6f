"""The tutorial's steps: its very code, taken from its text where that is at hand, and the same in our own words."""

from __future__ import annotations

import gc
import re
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ferrolock import FileLock, Timeout
from peers import LONG, is_free, run_program

if TYPE_CHECKING:
    from collections.abc import Callable

    from peers import Peer

TUTORIAL = Path(__file__).parents[2] / ".." / "shared" / "spec" / "tutorial.txt"

LAYOUTS = {
    "Now we have a lock object": """
        from pathlib
        from filelock
        lock =
    """,
    "Run this code multiple times": """
        with lock:
            # Inside
            print(
        # Outside
    """,
    "The key pattern here": """
        from pathlib
        from filelock
        data_file =
        lock =
        # Process A
        with lock:
            if not
                data_file.write_text
        # Process B
        with lock:
            with data_file
                f.write
    """,
    "No deadlock occurs": """
        from filelock
        lock =
        def helper
            with lock:
                print(
        with lock:
            print(
            helper_function
            print(
    """,
    "Key lesson": """
        lock =
        print(
        print(
        lock.acquire
        print(
        print(
        lock.acquire
        print(
        lock.release
        print(
        print(
        lock.release
        print(
        print(
    """,
    "Always use a": """
        lock.acquire
        try:
            print(
        finally:
            lock.release
    """,
    "Choose whichever": """
        @lock
        def protected_operation
            print(
        protected_operation()
    """,
    "This doesn't work reliably": """
        FileLock(
        # The lock
        # before
    """,
    "************************** Thread-local": """
        lock =
        with lock:
            # your code
            pass
    """,
}
"""
How the lines of the tutorial's code were laid out, by the prose that follows each block.

The text at hand has each run of white space as one space. So each line is given here by its indentation and how it
begins; the rest of it is the text's.
"""

AFTER_LOCKFILE = """
    from filelock
    lock =
    with lock:
        print(
        print(
"""
"""The same of what replaces lockfile's code, in the second half of a block."""

MARK = ".. code-block:: python "


def restore(text: str, layout: str) -> str:
    """Break the lines of one block where they were broken."""
    starts: list[tuple[int, str]] = []
    position = 0
    lines = [line for line in layout.splitlines() if line.strip()]
    margin = min(len(line) - len(line.lstrip()) for line in lines)
    for line in lines:
        beginning = line.strip()
        position = text.find(beginning, position)
        assert position == 0 or (starts and text[position - 1] == " "), f"no line begins with {beginning!r} in {text!r}"
        starts.append((position, " " * (len(line) - len(line.lstrip()) - margin)))
        position += len(beginning)
    ends = [start for start, _ in starts[1:]] + [len(text)]
    assert starts[0][0] == 0
    restored = "".join(
        f"{indent}{text[start:end].strip()}\n" for (start, indent), end in zip(starts, ends, strict=True)
    )
    assert restored.split() == text.split()
    return restored


def tutorial_blocks() -> list[str]:
    """The tutorial's code about FileLock, block by block."""
    if not TUTORIAL.is_file():
        pytest.skip("the text of the tutorial is not here")
    text = TUTORIAL.read_text(encoding="utf-8")
    blocks = []
    for follows, layout in LAYOUTS.items():
        end = text.index(follows)
        begin = text.rindex(MARK, 0, end) + len(MARK)
        blocks.append(restore(text[begin:end].strip(), layout))
    return blocks


def test_the_blocks_of_the_tutorial_are_found_whole() -> None:
    text_blocks = tutorial_blocks()
    text = TUTORIAL.read_text(encoding="utf-8")
    about_files = text[: text.index("from lockfile")]
    assert len(text_blocks) == about_files.count(MARK), "all before the part about other locks"
    for block in text_blocks:
        compile(block, "<tutorial>", "exec")
    code = "".join(text_blocks)
    assert code.count("\n") >= 50
    assert code.count("FileLock(") >= 5
    assert code.count("with lock:") >= 6


def test_the_tutorials_code_runs_as_it_stands(tmp_path: Path) -> None:
    """Line for line, in one program; only the name of the package is ours."""
    blocks = [block.replace("from filelock import", "from ferrolock import") for block in tutorial_blocks()]
    assert "from ferrolock import FileLock" in blocks[0]
    expected = [value for block in blocks for value in expected_output(block)]
    assert len(expected) >= 15
    program = f"""
import os, sys
os.chdir(sys.argv[1])
blocks = {blocks!r}
for block in blocks:
    exec(compile(block, "<tutorial>", "exec"), globals())
"""
    assert run_program(program, tmp_path).splitlines() == expected
    assert (tmp_path / "data.txt").read_text().splitlines() == ["Hello from Process A", "Hello from Process B"]
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix == ".lock") == [
        "data.txt.lock",
        "my.lock",
        "myapp.lock",
        "reentrant.lock",
    ]


def test_the_tutorials_replacement_for_lockfile_runs_as_it_stands(tmp_path: Path) -> None:
    """Only the name of the package and the folder are ours."""
    if not TUTORIAL.is_file():
        pytest.skip("the text of the tutorial is not here")
    text = TUTORIAL.read_text(encoding="utf-8")
    half = "# After (filelock): "
    begin = text.index(half) + len(half)
    block = restore(text[begin : text.index("Key differences", begin)].strip(), AFTER_LOCKFILE)
    path = tmp_path / "myapp.lock"
    block = block.replace("from filelock import", "from ferrolock import").replace("/tmp/myapp.lock", str(path))
    assert str(path) in block
    program = f"import os\nexec(compile({block!r}, '<tutorial>', 'exec'))\nprint(os.getpid())\n"
    pid, is_ours, own = run_program(program).splitlines()
    assert (pid, is_ours) == (own, "True")
    assert not path.exists()


def expected_output(block: str) -> list[str]:
    """What a block prints, by its own text: a string, or what the comment behind it says first."""
    printed = re.findall(r"print\((?:\"([^\"]*)\"|[\w.]+)\)(?:  ?# (\w+))?", block)
    if "def helper_function" in block:  # it is defined above the block that calls it
        helper, main, still = (text for text, _ in printed)
        return [main, helper, still]
    return [text or comment for text, comment in printed]


# In our own words.


def test_a_new_lock_object_touches_no_file(tmp_path: Path) -> None:
    lock = FileLock(tmp_path / "myapp.lock")
    assert list(tmp_path.iterdir()) == []
    assert not lock.is_locked
    with lock:
        assert [path.name for path in tmp_path.iterdir()] == ["myapp.lock"]


def test_a_program_that_is_started_several_times_runs_its_block_once_at_a_time(tmp_path: Path) -> None:
    program = """
        import sys, time
        from pathlib import Path
        from ferrolock import FileLock

        folder = Path(sys.argv[1])
        with FileLock(folder / "myapp.lock"):
            with open(folder / "log", "a") as log:
                print("enter", file=log, flush=True)
                time.sleep(0.01)
                print("leave", file=log, flush=True)
    """
    threads = [threading.Thread(target=run_program, args=(program, tmp_path)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "log").read_text().split() == ["enter", "leave"] * 4


def test_two_processes_write_one_file_in_a_consistent_order(tmp_path: Path, spawn: Callable[..., Peer]) -> None:
    """The first to come finds no file and writes the head; whoever comes second finds it."""
    source = """
        from pathlib import Path
        data = Path(folder, "data.txt")
        with FileLock(data.with_suffix(".lock")):
            is_first = not data.exists()
            with data.open("a") as file:
                file.write("head\\n" if is_first else "line\\n")
    """
    writers = [spawn().begin_run(source, folder=tmp_path) for _ in range(3)]
    for writer in writers:
        writer.result(LONG)
    assert (tmp_path / "data.txt").read_text().split() == ["head", "line", "line"]


def test_a_function_may_take_the_lock_that_its_caller_has(lock_path: Path) -> None:
    lock = FileLock(lock_path)

    def helper() -> int:
        with lock:
            return lock.lock_counter

    with lock:
        assert helper() == 2
        assert lock.lock_counter == 1
        assert not is_free(lock_path)
    assert is_free(lock_path)


def test_the_counter_counts_up_and_down(lock_path: Path) -> None:
    lock = FileLock(lock_path)
    seen = []
    for step in (None, lock.acquire, lock.acquire, lock.release, lock.release):
        if step is not None:
            step()
        seen.append((lock.lock_counter, lock.is_locked, is_free(lock_path)))
    assert seen == [(0, False, True), (1, True, False), (2, True, False), (1, True, False), (0, False, True)]


def test_acquire_and_release_by_hand(lock_path: Path) -> None:
    lock = FileLock(lock_path)
    lock.acquire()
    try:
        assert not is_free(lock_path)
    finally:
        lock.release()
    assert is_free(lock_path)


def test_a_decorated_function_runs_with_the_lock_held(lock_path: Path) -> None:
    lock = FileLock(lock_path)

    @lock
    def protected(left: int, *, right: int) -> tuple[int, bool, bool]:
        """Add."""
        return left + right, lock.is_locked, is_free(lock_path)

    assert protected(1, right=2) == (3, True, False)
    assert is_free(lock_path)
    assert (protected.__name__, protected.__doc__) == ("protected", "Add.")


def test_a_lock_that_is_not_kept_is_not_held(lock_path: Path) -> None:
    FileLock(lock_path).acquire()
    gc.collect()
    assert is_free(lock_path)


def test_each_thread_counts_for_itself(lock_path: Path) -> None:
    lock = FileLock(lock_path)
    seen: list[object] = []

    def look_and_try() -> None:
        seen.append(lock.lock_counter)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            seen.append("excluded")

    with lock, lock:
        thread = threading.Thread(target=look_and_try)
        thread.start()
        thread.join(LONG)
        assert lock.lock_counter == 2
    assert seen == [0, "excluded"]
