"""``python -m ferrolock demo`` with real processes: that it passes, that it can fail, and that it leaves nothing.

Locks that do not lock, die or raise are written to a module in a temporary folder, which the demo's processes import
like any other.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import ferrolock
from ferrolock.__main__ import main
from test_demo import timeline

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

LONG_S = 60.0
"""A bound for what must finish; nothing that works comes near it."""

TEST_LOCKS = """
import os, socket

class NoLock:
    def __init__(self, path): pass
    def __enter__(self): return self
    def __exit__(self, *_): pass

class Dies(NoLock):
    def __enter__(self): os._exit(7)

class Raises(NoLock):
    def __enter__(self): raise OSError("the disk is on fire")

class Remarks(NoLock):
    def __init__(self, path): os.write(2, b"this file system does not lock")

class CallsHome(NoLock):
    def __init__(self, path): self.line = None
    def __enter__(self):
        if self.line is None:
            self.line = socket.create_connection(("127.0.0.1", int(os.environ["TEST_PORT"])))

class NeverGets(CallsHome):
    def __enter__(self):
        super().__enter__()
        self.line.recv(1)
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Give the demo a temporary folder of its own, and a module of test locks."""
    modules, temporary = tmp_path / "modules", tmp_path / "temporary"
    modules.mkdir()
    temporary.mkdir()
    (modules / "demo_test_locks.py").write_text(TEST_LOCKS)
    changed = dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(temporary))
    search_path = os.pathsep.join(filter(None, (str(modules), os.environ.get("PYTHONPATH"))))
    kept = {name: text for name, text in os.environ.items() if name not in {"NO_COLOR", "PYTHONWARNINGS"}}
    return {**kept, **changed, "PYTHONPATH": search_path, "COLUMNS": "80", "TERM": "xterm", "PYTHONIOENCODING": "utf-8"}


def demo_with(lock: str, processes: int, seconds: float) -> list[str]:
    """Return the command that runs the demo with one of the test locks; Ctrl-C works in it even under ``nohup``."""
    code = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); from ferrolock import _demo; "
        f"sys.exit(_demo.run({processes}, {seconds}, lock='demo_test_locks:{lock}'))"
    )
    return [sys.executable, "-c", code]


def demo(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "ferrolock", *arguments]


def finish(command: Sequence[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, env=environment, capture_output=True, encoding="utf-8", timeout=LONG_S, check=False)


def leftovers(environment: dict[str, str]) -> list[Path]:
    return list(Path(environment["TMPDIR"]).iterdir())


def test_processes_take_turns_and_nobody_is_inside_with_another(environment: dict[str, str]) -> None:
    done = finish(demo("demo", "--processes", "3", "--seconds", "0.5"), environment)

    assert (done.returncode, done.stderr) == (0, "")
    assert "\n0 overlaps\n" in done.stdout
    assert "\x1b" not in done.stdout
    assert "\r" not in done.stdout
    assert done.stdout.isascii()
    rows = timeline(done.stdout.partition("\n\n")[2])
    assert len(rows) == 3
    assert all(set(row) <= {"#", "."} for row in rows)
    total = re.search(r"^  total +([\d,]+) ", done.stdout, re.MULTILINE)
    assert total is not None
    turns = total[1]
    assert turns != "0"
    assert f"mark inside     0 of {turns} turns were disturbed" in done.stdout
    assert f"shared counter  {turns} of {turns} additions arrived" in done.stdout
    assert leftovers(environment) == []


def test_a_lock_that_does_not_lock_is_found_out_by_all_three_witnesses(environment: dict[str, str]) -> None:
    done = finish(demo_with("NoLock", 3, 0.3), environment)

    assert done.returncode == 1
    found = re.search(r"^([\d,]+) overlaps?$", done.stdout, re.MULTILINE)
    assert found is not None
    assert found[1] != "0"
    assert f"merged log      {found[1]} of " in done.stdout
    assert re.search(r"mark inside     [1-9][\d,]* of ", done.stdout)
    arrived = re.search(r"shared counter  ([\d,]+) of ([\d,]+) additions", done.stdout)
    assert arrived is not None
    assert int(arrived[1].replace(",", "")) < int(arrived[2].replace(",", ""))
    assert re.search(r"first: processes [123] and [123], ", done.stdout)
    assert "X" in "".join(timeline(done.stdout.partition("\n\n")[2]))


def test_a_process_that_dies_fails_the_demo_and_takes_the_others_along(environment: dict[str, str]) -> None:
    done = finish(demo_with("Dies", 3, 600), environment)

    assert done.returncode == 1
    assert re.search(r"process [123] died before the demo was over \(exit status 7\)", done.stderr)
    assert "Traceback" not in done.stderr
    assert "overlaps" not in done.stdout
    assert leftovers(environment) == []


def test_the_last_words_of_a_process_are_passed_on(environment: dict[str, str]) -> None:
    done = finish(demo_with("Raises", 2, 600), environment)

    assert done.returncode == 1
    assert "OSError: the disk is on fire" in done.stderr


def test_what_the_lock_warns_of_is_shown_once(environment: dict[str, str]) -> None:
    done = finish(demo_with("Remarks", 2, 0.05), environment)

    assert done.stderr == "this file system does not lock\n"


@contextlib.contextmanager
def at_work(
    lock: str, processes: int, environment: dict[str, str]
) -> Iterator[tuple[subprocess.Popen[str], list[socket.socket]]]:
    """Run a demo whose processes each call here when they contend; a call ends when its process does."""
    with contextlib.ExitStack() as cleanup:
        home = cleanup.enter_context(socket.create_server(("127.0.0.1", 0)))
        home.settimeout(LONG_S)
        command = demo_with(lock, processes, 600)
        running = subprocess.Popen(
            command,
            env={**environment, "TEST_PORT": str(home.getsockname()[1])},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            start_new_session=True,
        )
        cleanup.enter_context(running)
        cleanup.callback(end_session, running.pid)
        calls = [cleanup.enter_context(home.accept()[0]) for _ in range(processes)]
        for call in calls:
            call.settimeout(LONG_S)
        yield running, calls


def end_session(leader: int) -> None:
    """Kill a demo with all of its processes, as far as there still are any."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)


def hangs_up(call: socket.socket) -> bool:
    """Wait until the process at the other end is gone."""
    try:
        return call.recv(1) == b""
    except ConnectionError:
        return True


@pytest.mark.skipif(os.name == "nt", reason="a console's Ctrl-C cannot be sent to one process group of a test run")
@pytest.mark.parametrize("lock", ["CallsHome", "NeverGets"])
def test_ctrl_c_stops_the_processes_and_removes_the_folder(lock: str, environment: dict[str, str]) -> None:
    with at_work(lock, 2, environment) as (running, calls):
        # As a terminal does it: to the demo and all of its processes.
        os.killpg(running.pid, signal.SIGINT)
        said = running.communicate(timeout=LONG_S)[1]

        assert running.returncode == 130
        assert said.startswith("ferrolock demo: interrupted")
        assert said.count("\n") == 1
        assert all(hangs_up(call) for call in calls)
    assert leftovers(environment) == []


@pytest.mark.skipif(os.name == "nt", reason="Windows does not tell a process that its parent is gone")
def test_processes_whose_parent_was_killed_end_by_themselves(environment: dict[str, str]) -> None:
    with at_work("CallsHome", 2, environment) as (running, calls):
        running.kill()

        assert all(hangs_up(call) for call in calls)


@pytest.mark.skipif(os.name == "nt", reason="there are no pseudo-terminals")
def test_in_a_terminal_there_are_colours_blocks_and_a_live_line(environment: dict[str, str]) -> None:
    ours, theirs = os.openpty()
    seen = b""
    deadline = time.monotonic() + LONG_S
    command = demo("demo", "--processes", "2", "--seconds", "0.2")
    with subprocess.Popen(command, env=environment, stdout=theirs) as running:
        try:
            os.close(theirs)
            while select.select([ours], [], [], max(deadline - time.monotonic(), 0))[0]:
                # At its end a pseudo-terminal reports an error on Linux, nothing elsewhere.
                with contextlib.suppress(OSError):
                    if piece := os.read(ours, 1 << 16):
                        seen += piece
                        continue
                break
            assert running.wait(LONG_S) == 0
        finally:
            running.kill()
            os.close(ours)
    text = seen.decode()
    assert "\x1b[" in text
    assert "█" in text
    assert "running…" in text
    assert re.search(r"^\x1b\[1;32m0 overlaps\x1b\[0m\r?$", text, re.MULTILINE)


# The command line.


@pytest.mark.parametrize(
    "arguments",
    [
        *(["demo", "--processes", text] for text in ("0", "-1", "65", "2.5", "many", "")),
        *(["demo", "--seconds", text] for text in ("0", "-1", "nan", "inf", "1e999", "soon")),
        ["demo", "--unknown"],
        ["dance"],
    ],
)
def test_bad_arguments_are_refused_with_the_reason(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refusal:
        main(arguments)

    assert refusal.value.code == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert "error: " in output.err
    assert arguments[-1] in output.err


def test_bad_arguments_exit_with_status_2(environment: dict[str, str]) -> None:
    done = finish(demo("demo", "--processes", "0"), environment)

    assert done.returncode == 2
    assert "'0' is not a whole number from 1 to 64" in done.stderr


def test_without_a_command_there_is_help_and_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "demo" in capsys.readouterr().err


def test_the_version_is_the_package_s(environment: dict[str, str]) -> None:
    done = finish(demo("--version"), environment)

    assert (done.returncode, done.stdout) == (0, f"ferrolock {ferrolock.__version__}\n")


def test_importing_the_package_does_not_import_the_demo(environment: dict[str, str]) -> None:
    code = "import sys, ferrolock; sys.exit(any('_demo' in name for name in sys.modules))"

    assert finish([sys.executable, "-c", code], environment).returncode == 0
