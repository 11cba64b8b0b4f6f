"""What the tests of soft locks share: markers made by hand, and the processes whose markers they are."""

from __future__ import annotations

import inspect
import os
import re
import shlex
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections import Counter
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from textwrap import dedent
from types import FunctionType
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

import ferrolock
import peers
from ferrolock import BaseFileLock, SoftFileLock, StrictSoftFileLock, Timeout
from peers import LONG, Peer, ProcessContender, ThreadContender

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import ModuleType

    from typing_extensions import Self

SOFT = "ferrolock.SoftFileLock"
"""What peers are told to lock with."""

NEVER_A_PROCESS = 2**22 + 1
"""One more than the largest process id that Linux gives."""

STRICT = b"1\nfilelock-strict-v1\0\n0\n"
RELEASED = b"filelock/released\n"
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="start tokens, namespaces and /proc are Linux's")
ROOT = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root may become another user and come back"
)


def is_free(path: str | os.PathLike[str]) -> bool:
    """Whether a soft lock of no concern to the test can be had right now."""
    try:
        with SoftFileLock(path, timeout=0):
            return True
    except Timeout:
        return False


def names(folder: Path) -> list[str]:
    """All that is in the folder."""
    return sorted(os.listdir(folder))


def facts(path: Path) -> tuple[int, ...]:
    """All that a contender could have changed but the content. Not when it was last read, which looking changes."""
    found = path.lstat()
    times = found.st_mtime_ns, found.st_ctime_ns
    return (found.st_mode, found.st_uid, found.st_ino, found.st_nlink, found.st_size, *times)


def contents(folder: Path) -> dict[str, Any]:
    """All that a contender could have changed: names, kinds, owners, modes, times, content."""
    found = {}
    for name in names(folder):
        facts = (folder / name).lstat()
        data = (folder / name).read_bytes() if stat.S_ISREG(facts.st_mode) else facts.st_size
        found[name] = (facts.st_mode, facts.st_uid, facts.st_ino, facts.st_nlink, facts.st_mtime_ns, data)
    return found


class Unlocked(peers.NoLock):
    """A soft lock that locks nothing."""

    def __init__(self, path: str | os.PathLike[str], **_options: object) -> None:
        super().__init__(path)


# Records, by the description of filelock's format and not by ours.


def boot_id() -> int:
    """The present start of the machine, as start tokens have it."""
    return int(Path("/proc/sys/kernel/random/boot_id").read_text().strip().replace("-", ""), 16)


def start_token(pid: int, *, boot: int | None = None, later: int = 0) -> int:
    """The start token of a process; `later`: of one that began so many ticks after it."""
    stat_line = Path(f"/proc/{pid}/stat").read_bytes()
    began = int(stat_line[stat_line.rindex(b")") + 1 :].split()[19])
    return ((boot_id() if boot is None else boot) << 64) | (began + later)


def host_field() -> str:
    """The machine, as its records name it."""
    name = "".join(
        chr(byte) if 0x21 <= byte <= 0x7E and byte != 0x3F else f"?{byte:02x}"
        for byte in os.fsencode(socket.gethostname())
    )
    inode = os.stat("/proc/self/ns/pid").st_ino if sys.platform == "linux" else 0xEFFFFFFC
    return name if inode == 0xEFFFFFFC else f"{name}?pidns-{inode:x}"


def record(pid: int, host: str | None = None, token: int | None = None) -> bytes:
    """The bytes of a marker."""
    lines = [str(pid), host_field() if host is None else host, *([] if token is None else [str(token)])]
    return "".join(f"{line}\n" for line in lines).encode()


def dead_record() -> bytes:
    """What somebody has left who is certainly dead, so certainly that nobody searches /proc for him."""
    return record(NEVER_A_PROCESS, token=start_token(os.getpid(), boot=boot_id() ^ 1))


# FileLock's tests, for soft locks.


def laws(*modules: ModuleType, without: set[str]) -> dict[str, Any]:
    """
    The tests and fixtures of these modules, for another one to collect them once more, with fixtures of its own.

    :param without: the tests that say something else there
    """
    fixture = type(pytest.fixture(lambda: None))
    found: dict[str, Any] = {}
    for module in modules:
        for name, member in vars(module).items():
            is_test = isinstance(member, FunctionType) and name.startswith("test_")
            if is_test or isinstance(member, fixture):
                known = found.setdefault(name, member)
                assert known is member or doing(known) == doing(member), f"two things are called {name}"
    assert found.keys() >= without, f"no such test: {without - found.keys()}"
    return {name: member for name, member in found.items() if name not in without}


def doing(definition: Any) -> tuple[object, ...]:
    """What a function does, whatever is said about it."""
    function = inspect.unwrap(definition)
    code = function.__code__
    return code.co_code, code.co_names, [value for value in code.co_consts if value != function.__doc__]


@pytest.fixture
def soft_instead(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let FileLock mean SoftFileLock: in the module of the test, in its peers, and in the programs that it runs."""
    put_in_place(SoftFileLock, request, monkeypatch)


@pytest.fixture
def strict_instead(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let FileLock mean StrictSoftFileLock."""
    put_in_place(StrictSoftFileLock, request, monkeypatch)


def put_in_place(cls: type[BaseFileLock], request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let FileLock mean another class."""
    name = f"ferrolock.{cls.__name__}"
    module: Any = sys.modules[request.function.__module__]
    original = peers.run_program

    def run_program(source: str, *arguments: object, **more: Any) -> str:
        prelude = f"import ferrolock; ferrolock.FileLock = {name}\n"
        return original(prelude + dedent(source), *arguments, **more)

    instead = {"FileLock": cls, "NATIVE": cls, "OURS": name, "run_program": run_program}
    for attribute, value in instead.items():
        if hasattr(module, attribute):
            monkeypatch.setattr(module, attribute, value)
    monkeypatch.setattr(ferrolock, "FileLock", cls)
    defaults: dict[Any, tuple[Any, ...]] = {ThreadContender: (name,), ProcessContender: (name, None)}
    for contender, values in defaults.items():
        monkeypatch.setattr(contender.__init__, "__defaults__", values)
    initialize: Any = Peer.__init__
    monkeypatch.setitem(initialize.__kwdefaults__, "lock", name)


# Peers in other surroundings.


@pytest.fixture
def soft(spawn: Callable[..., Peer]) -> Callable[[], Peer]:
    """Starts peers with soft locks."""
    return lambda: spawn(lock=SOFT)


@pytest.fixture
def surrounded(
    spawn: Callable[..., Peer], tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Peer]:
    """
    Starts a peer in namespaces of its own, or skips.

    The peer is started with the options of ``unshare`` and a line of shell before it; what is killed is ``unshare``,
    and the peer with it.
    """

    def start(*options: str, before: str = ":", lock: str = SOFT, folder: Path | None = None) -> Peer:
        command = unshare(*options, before=before)
        script = tmp_path_factory.mktemp("surroundings") / "python"
        inner = shlex.join([*command, "sh", "-c", f'{before} && exec "$0" "$@"', sys.executable])
        script.write_text(f'#!/bin/sh\nexec {inner} "$@"\n')
        script.chmod(0o755)
        with monkeypatch.context() as patch:
            patch.setattr(sys, "executable", str(script))
            return spawn(lock=lock, folder=folder)

    return start


def unshare(*options: str, before: str) -> list[str]:
    """The command for namespaces of one's own in which that line of shell works, or a skip."""
    if shutil.which("unshare") is None:
        pytest.skip("there is no unshare(1) here")
    command = ["unshare", *([] if os.geteuid() == 0 else ["--map-root-user"]), *options]
    tried = subprocess.run([*command, "sh", "-c", before], capture_output=True, text=True)
    if tried.returncode != 0:
        pytest.skip(f"{shlex.join(command)} with {before!r} is not permitted: {tried.stderr.strip()}")
    return command


# Processes that are stopped, ended or deceived at one of their system calls.


class Call(NamedTuple):
    """A system call that somebody made: the how many-th of its kind, and all of it in strace's words."""

    name: str
    number: int
    text: str

    def fault(self, what: str) -> str:
        """What strace has to be told, for this call to come out otherwise."""
        return f"inject={self.name}:{what}:when={self.number}"


class Victim:
    """A forked process that waits to be told, then does one thing, under strace, and ends without any finalizer."""

    def __init__(self, parent: Peer, act: str, record: Path, faults: tuple[str, ...]) -> None:
        self.parent, self.record = parent, record
        self.pid, self._go = parent.run(
            """
            import ctypes, os, select
            (ready, go), (is_there, there) = os.pipe(), os.pipe()
            pid = os.fork()
            if not pid:
                ctypes.CDLL(None).prctl(0x59616D61, ctypes.c_ulong(-1 % 2**64), 0, 0, 0)  # anybody may trace
                os.close(there)
                select.select([ready], [], [])
                try:
                    exec(act)
                except OSError as error:
                    os._exit(100 if isinstance(error, TimeoutError) else error.errno)
                except BaseException:
                    import traceback
                    traceback.print_exc()
                    os._exit(101)
                os._exit(0)
            os.close(there)
            os.read(is_there, 1)
            os.close(is_there)
            os.close(ready)
            answer = pid, go
            """,
            act=dedent(act),
        )
        command = ["strace", "-p", str(self.pid), "-s", "200", "-o", str(record)]
        options = [option for fault in faults for option in ("-e", fault)]
        self._strace = subprocess.Popen([*command, *options], stderr=subprocess.PIPE, text=True)
        assert self._strace.stderr is not None
        said = self._strace.stderr.readline()
        if "attached" not in said:
            self.close()
            pytest.skip(f"strace may not trace here: {said.strip()}")

    def go(self) -> Self:
        """Let it do its thing."""
        self.parent.run("os.write(go, b'.')", go=self._go)
        return self

    def wait_until_stopped(self, times: int = 1) -> Self:
        """Wait for a stop that strace was told to make, the first or a later one."""
        deadline = time.monotonic() + LONG
        while self.record.read_text().count("--- stopped by SIGSTOP") < times:
            assert time.monotonic() < deadline, f"it does not stop: {self.record.read_text()[-500:]}"
            assert self._strace.poll() is None, f"it has ended: {self.record.read_text()[-500:]}"
            time.sleep(0.001)
        return self

    def cont(self) -> Self:
        """Let it go on after a stop."""
        os.kill(self.pid, signal.SIGCONT)
        return self

    def wait(self) -> Self:
        """Wait for its end. It stays a zombie, for its parent has other things to do."""
        assert self._strace.stderr is not None
        self._strace.wait(LONG)
        self._strace.stderr.close()
        return self

    def status(self) -> int:
        """
        Let its parent ask about it; return how it ended.

        0 is well, 100 a timeout, 101 some other exception, another positive number the errno of an OSError, and a
        negative one a signal.
        """
        source = "os.close(go); answer = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])"
        return int(self.parent.run(source, pid=self.pid, go=self._go))

    def close(self) -> None:
        """End it, whatever it is doing."""
        if self._strace.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
        self.wait()

    def calls(self) -> list[Call]:
        """What it did, after it was told to and before it ended."""
        counts = Counter[str]()
        found = []
        for line in self.record.read_text().splitlines():
            if match := re.match(r"([a-z_0-9]+)\(", line):
                counts[match[1]] += 1
                found.append(Call(match[1], counts[match[1]], line))
        return [call for call in found if "select" not in call.name]


@contextmanager
def traced(peer: Peer, record: Path, fault: str) -> Iterator[None]:
    """Have calls of all threads of the peer fail meanwhile, of `utimensat`: refreshes."""
    if shutil.which("strace") is None:
        pytest.skip("there is no strace here")
    peer.run("__import__('ctypes').CDLL(None).prctl(0x59616D61, __import__('ctypes').c_ulong(-1 % 2**64), 0, 0, 0)")
    command = ["strace", "-f", "-p", str(peer.pid), "-o", str(record), "-e", "trace=utimensat", "-e", fault]
    strace = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert strace.stderr is not None
    try:
        said = strace.stderr.readline()
        if "attached" not in said:
            pytest.skip(f"strace may not trace here: {said.strip()}")
        yield
    finally:
        strace.terminate()
        strace.wait(LONG)
        strace.stderr.close()


@pytest.fixture
def victim(spawn: Callable[..., Peer], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Victim]]:
    """Makes victims: ``victim(act, *faults, **values)``, or with another parent than a process of ours."""
    if sys.platform != "linux" or shutil.which("strace") is None:
        pytest.skip("there is no strace here")
    folder = tmp_path_factory.mktemp("strace")
    ours: list[Peer] = []
    with ExitStack() as stack:

        def make(act: str, *faults: str, parent: Peer | None = None, **values: Any) -> Victim:
            if parent is None:
                ours[:] = ours or [spawn(lock=SOFT)]
                parent = ours[0]
            parent.run("pass", **values)
            made = Victim(parent, act, folder / str(len(list(folder.iterdir()))), faults)
            stack.callback(made.close)
            return made

        yield make
