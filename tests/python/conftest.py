"""Fixtures that several topics share."""

from __future__ import annotations

import signal
import subprocess
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

pytest.register_assert_rewrite("async_peers", "async_rw_peers", "peers", "rw_pair_laws", "soft_peers")

from async_peers import how, make  # noqa: E402, F401 - fixtures, of the tests of async locks
from async_rw_peers import doors  # noqa: E402, F401 - a fixture, of the tests of async locks of readers and writers
from peers import Peer, ProcessContender, ThreadContender  # noqa: E402 - after the rewriting is ordered
from soft_peers import soft, soft_instead, strict_instead, surrounded, victim  # noqa: E402, F401 - fixtures too

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from peers import Contender

# A shell without job control has its background jobs ignore Ctrl-C, and the programs that these start too.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def lock_path(tmp_path: Path) -> Path:
    """Where a lock file may be."""
    return tmp_path / "x.lock"


@pytest.fixture
def spawn() -> Iterator[Callable[..., Peer]]:
    """Starts peers that end with the test."""
    with ExitStack() as stack:
        yield lambda *options, **more: stack.enter_context(Peer(*options, **more))


@pytest.fixture(params=["threads", "processes"])
def contender(request: pytest.FixtureRequest) -> Iterator[Callable[..., Contender]]:
    """Makes contenders, first threads and then processes, that end with the test."""
    kind: Any = ThreadContender if request.param == "threads" else ProcessContender
    with ExitStack() as stack:

        def make(*args: Any, **more: Any) -> Contender:
            made: Contender = kind(*args, **more)
            stack.callback(made.close)
            return made

        yield make


@pytest.fixture(scope="session")
def filelock_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Finds a folder with one release of the real filelock in it, or skips."""
    folders: dict[str, Path | str] = {}

    def install(version: str) -> Path | str:
        if version.startswith("4.") and sys.version_info < (3, 11):
            return f"filelock {version} needs Python 3.11"
        folder = tmp_path_factory.mktemp(f"filelock-{version}")
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--disable-pip-version-check"]
        done = subprocess.run(
            [*command, "--target", str(folder), f"filelock=={version}"], capture_output=True, text=True
        )
        return (
            folder if done.returncode == 0 else f"pip cannot install filelock {version}: {done.stderr.strip()[-300:]}"
        )

    def find(version: str) -> Path:
        found = folders.setdefault(version, "") or install(version)
        folders[version] = found
        if isinstance(found, str):
            pytest.skip(found)
        return found

    return find
