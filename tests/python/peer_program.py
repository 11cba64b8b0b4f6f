"""An interpreter that does what a pipe tells it, a *peer*: ``python peer_program.py LOCK [FOLDER]``.

LOCK is the dotted name of a lock class, and FOLDER goes in front of ``sys.path``. It reads one command a line and
writes one answer, or an event, a line, all of them JSON.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time
import traceback
from typing import TYPE_CHECKING, Any

from peers import LONG, SHORT, descriptors, find_class, take_turns

if TYPE_CHECKING:
    from collections.abc import Callable


class Forked:
    """A forked child that does one thing, reports it, and ends without any finalizer."""

    def __init__(self, function: Callable[[], object]) -> None:
        self._pipe, report = os.pipe()
        self.pid = os.fork()
        if self.pid:
            os.close(report)
            return
        try:
            signal.alarm(int(3 * LONG))  # nothing outlives its test by much
            message: dict[str, object] = {"answer": function()}
        except BaseException:
            message = {"error": traceback.format_exc()}
        os.write(report, json.dumps(message).encode() + b"\n")
        os._exit(0)

    def still_waits(self) -> bool:
        """Whether it has nothing to report after a short while."""
        return not select.select([self._pipe], [], [], SHORT)[0]

    def answer(self) -> Any:
        """What the function returned. A child that hangs is killed, and an error."""
        data = b""
        deadline = time.monotonic() + LONG
        while not data.endswith(b"\n"):
            ready, _, _ = select.select([self._pipe], [], [], deadline - time.monotonic())
            chunk = os.read(self._pipe, 65536) if ready else b""
            if not chunk:
                os.kill(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
                raise RuntimeError("the child hangs" if not ready else "the child died without a word")
            data += chunk
        os.close(self._pipe)
        os.waitpid(self.pid, 0)
        message = json.loads(data)
        if "error" in message:
            raise RuntimeError(message["error"])
        return message["answer"]


def in_child(function: Callable[[], object]) -> Any:
    """Fork, run the function in the child, wait for it and return what it returned."""
    return Forked(function).answer()


class Server:
    """The commands."""

    def __init__(self, lock: str) -> None:
        # The protocol gets a descriptor that no executed program inherits, and what is printed goes to stderr.
        self.protocol = os.dup(1)
        os.dup2(2, 1)
        self.lock_class = find_class(lock)
        self.locks: dict[str, Any] = {}
        self.namespace: dict[str, Any] = {
            "FileLock": self.lock_class,
            "Forked": Forked,
            "in_child": in_child,
            "descriptors": descriptors,
            "tell": self.tell,
            "lock_on": self.lock_on,
        }
        # The first traceback imports modules (3.13), which may be out of reach once the peer has become another user.
        try:
            json.loads("no JSON")
        except ValueError:
            traceback.format_exc()

    def say(self, **message: Any) -> None:
        os.write(self.protocol, json.dumps(message).encode() + b"\n")

    def tell(self, event: str, value: object = None) -> None:
        """Tell of an event, also from another thread and from a forked child."""
        self.say(event=event, value=value)

    def lock_on(self, path: str) -> Any:
        """The lock object for the path."""
        if path not in self.locks:
            self.locks[path] = self.lock_class(path)
        return self.locks[path]

    def acquire(self, path: str, options: dict[str, Any], announce: bool = False) -> bool:
        announced: list[bool] = []

        def check() -> bool:
            if not announced:
                announced.append(True)
                self.tell("waiting")
            return False

        if announce:
            options["cancel_check"] = check
        try:
            self.lock_on(path).acquire(**options)
        except (TimeoutError, BlockingIOError):
            return False
        return True

    def release(self, path: str, options: dict[str, Any]) -> None:
        self.lock_on(path).release(**options)

    def state(self, path: str) -> tuple[bool, int]:
        lock = self.lock_on(path)
        return lock.is_locked, lock.lock_counter

    def turns(self, path: str, folder: str, rounds: int, party: int) -> int:
        return take_turns(self.lock_on(path), folder, rounds, party)

    def run(self, source: str, values: dict[str, Any]) -> Any:
        self.namespace.update(values, answer=None)
        exec(compile(source, "<peer>", "exec"), self.namespace)
        return self.namespace["answer"]

    def exit(self) -> None:
        raise SystemExit

    def hard_exit(self) -> None:
        os._exit(0)

    def serve(self) -> None:
        for line in iter(sys.stdin.readline, ""):
            request = json.loads(line)
            try:
                answer = getattr(self, request["command"])(**request["arguments"])
            except SystemExit:
                self.say(answer=None)
                return
            except BaseException as error:
                text = f"{error}\n{traceback.format_exc()}"
                place = getattr(error, "errno", None), getattr(error, "filename", None)
                self.say(error=[type(error).__name__, text, *place])
            else:
                self.say(answer=answer)


if __name__ == "__main__":
    sys.path[:0] = sys.argv[2:]
    Server(sys.argv[1]).serve()
