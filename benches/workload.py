"""The measured side: one candidate in a fresh process, driven by lines on standard input.

    workload.py ADAPTER CLASS FOLDER VERSION serve FOLDER NAME
    workload.py ADAPTER CLASS FOLDER VERSION contend PATH HOLD_NS sleep|spin REST_NS SECONDS BARRIER_FD
    workload.py ADAPTER CLASS FOLDER VERSION threads PATH HOLD_NS sleep|spin REST_NS SECONDS COUNT

`serve` answers a line `TASK COUNT` with `NANOSECONDS LOOP_NANOSECONDS`: the whole batch on one reading of the clock at
each end, and what the same loop costs empty. `take` and `give` hold a lock between two lines and answer with the moment
(and with the CPU time that waiting used). `contend` and `threads` answer with `CPU_NS ROWS [ROWS ...]` and then with
the rows as binary 64-bit triples: asked, acquired, released. The last row of each log is the turn the deadline ended;
it was not held for its time. bare_cycle.c speaks the same. An async lock does the same inside an event loop.
"""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import threading
import time
from array import array
from pathlib import Path
from typing import TYPE_CHECKING, Any

import adapters

if TYPE_CHECKING:
    from collections.abc import Callable

now = time.perf_counter_ns
# The one clock that all processes of this machine share, and C with them.
moment = time.monotonic_ns


def cycle_with(lock: adapters.Lock, count: int) -> int:
    """`with lock:` over and over."""
    turns = range(count)
    start = now()
    for _ in turns:
        with lock:
            pass
    return now() - start


def cycle_acquire(lock: adapters.Lock, count: int) -> int:
    """`acquire()` and `release()` over and over."""
    turns = range(count)
    start = now()
    for _ in turns:
        lock.acquire()
        lock.release()
    return now() - start


async def cycle_async_with(lock: adapters.AsyncLock, count: int) -> int:
    """`async with lock:` over and over."""
    turns = range(count)
    start = now()
    for _ in turns:
        async with lock:
            pass
    return now() - start


async def cycle_async_acquire(lock: adapters.AsyncLock, count: int) -> int:
    """`await acquire()` and `await release()` over and over."""
    turns = range(count)
    start = now()
    for _ in turns:
        await lock.acquire()
        await lock.release()
    return now() - start


async def cycle_async_nested(lock: adapters.AsyncLock, count: int) -> int:
    """`async with lock:` on a lock already held."""
    async with lock:
        return await cycle_async_with(lock, count)


class InLoop:
    """An async lock, used from outside: each call runs the event loop. Only for what is not timed by the turn."""

    def __init__(self, lock: adapters.AsyncLock) -> None:
        self.loop = asyncio.new_event_loop()
        self.lock = lock

    def acquire(self) -> None:
        """Take the lock."""
        self.loop.run_until_complete(self.lock.acquire())

    def release(self) -> None:
        """Give it back."""
        self.loop.run_until_complete(self.lock.release())


def construct(adapter: adapters.Adapter, path: str, count: int) -> int:
    """Build a lock object and drop it, over and over."""
    build = adapter.build
    turns = range(count)
    start = now()
    for _ in turns:
        build(path)
    return now() - start


def empty_loop(count: int) -> int:
    """Measure what the loop itself costs: the best of three."""
    best = sys.maxsize
    for _ in range(3):
        turns = range(count)
        start = now()
        for _ in turns:
            pass
        best = min(best, now() - start)
    return best


def serve(adapter: adapters.Adapter, folder: str, name: str) -> None:
    """Answer tasks until standard input ends."""
    os.chdir(folder)
    absolute = str(Path(folder) / name)
    locks = {"absolute": adapter.endless(absolute), "relative": adapter.endless(name)}
    is_async = hasattr(locks["absolute"], "__aenter__")
    lock: Any = InLoop(locks["absolute"]) if is_async else locks["absolute"]
    for line in sys.stdin:
        task, count_text = line.split()
        count = int(count_text)
        verb, _, path = task.partition(":")
        gc.collect()
        gc.disable()
        if verb == "take":
            answer("waiting")
            cpu = time.process_time_ns()
            lock.acquire()
            acquired = moment()
            answer(f"{acquired} {time.process_time_ns() - cpu}")
        elif verb == "give":
            released = moment()
            lock.release()
            answer(f"{released} 0")
        else:
            if is_async and verb != "construct":
                cycles = {"with": cycle_async_with, "acquire": cycle_async_acquire, "nested": cycle_async_nested}
                spent = lock.loop.run_until_complete(cycles[verb](locks[path], count))
            elif verb == "with":
                spent = cycle_with(locks[path], count)
            elif verb == "acquire":
                spent = cycle_acquire(locks[path], count)
            elif verb == "nested":
                with lock:
                    spent = cycle_with(lock, count)
            elif verb == "construct":
                spent = construct(adapter, absolute, count)
            else:
                raise ValueError(task)
            answer(f"{spent} {empty_loop(count)}")
        gc.enable()


def answer(line: str) -> None:
    """Send one line to the parent, at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


class Turns:
    """What a contender does: it holds the lock, asleep or busy, rests without it, and asks again."""

    def __init__(self, hold_ns: str, style: str, rest_ns: str, seconds: str) -> None:
        self.hold = spinning(int(hold_ns)) if style == "spin" else sleeping(int(hold_ns))
        self.hold_ns, self.rest_ns, self.style = int(hold_ns), int(rest_ns), style
        self.rest = sleeping(int(rest_ns))
        self.seconds = float(seconds)


def sleeping(nanoseconds: int) -> Callable[[], None]:
    """Make a function that sleeps; for no time at all it does nothing, not even yield."""
    seconds = nanoseconds / 1e9
    sleep = time.sleep
    return (lambda: sleep(seconds)) if nanoseconds else (lambda: None)


def spinning(nanoseconds: int) -> Callable[[], None]:
    """Make a function that keeps its processor busy."""

    def spin() -> None:
        until = moment() + nanoseconds
        while moment() < until:
            pass

    return spin


def turns_until(lock: adapters.Lock, turns: Turns) -> array[int]:
    """Take turns until the time is up, and log them."""
    log = array("q")
    hold, rest = turns.hold, turns.rest
    deadline = moment() + int(turns.seconds * 1e9)
    acquired = 0
    while acquired < deadline:
        asked = moment()
        lock.acquire()
        acquired = moment()
        if acquired < deadline:
            hold()
        released = moment()
        lock.release()
        log.extend((asked, acquired, released))
        rest()
    return log


async def async_turns_until(lock: adapters.AsyncLock, turns: Turns) -> array[int]:
    """Take turns as a task does."""
    log = array("q")
    deadline = moment() + int(turns.seconds * 1e9)
    acquired = 0
    while acquired < deadline:
        asked = moment()
        await lock.acquire()
        acquired = moment()
        if acquired < deadline:
            if turns.style == "spin":
                turns.hold()
            else:
                await asyncio.sleep(turns.hold_ns / 1e9)
        released = moment()
        await lock.release()
        log.extend((asked, acquired, released))
        if turns.rest_ns:
            await asyncio.sleep(turns.rest_ns / 1e9)
    return log


def hand_in(cpu_ns: int, logs: list[array[int]]) -> None:
    """Send the logs to the parent."""
    answer(" ".join([str(cpu_ns), *(str(len(log) // 3) for log in logs)]))
    for log in logs:
        sys.stdout.buffer.write(log.tobytes())
    sys.stdout.buffer.flush()


def contend(lock: Any, turns: Turns, barrier: int) -> None:
    """Be one of several processes that want the lock; the barrier opens when the parent closes its end."""
    gc.collect()
    gc.disable()
    answer("ready")
    os.read(barrier, 1)
    cpu = time.process_time_ns()
    log = asyncio.run(async_turns_until(lock, turns)) if hasattr(lock, "__aenter__") else turns_until(lock, turns)
    hand_in(time.process_time_ns() - cpu, [log])


def contend_in_threads(lock: adapters.Lock, turns: Turns, count: int) -> None:
    """Be several threads that want the lock through one object."""
    logs: list[array[int]] = []
    start = threading.Barrier(count + 1)

    def run() -> None:
        start.wait()
        logs.append(turns_until(lock, turns))

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    gc.collect()
    gc.disable()
    answer("ready")
    cpu = time.process_time_ns()
    start.wait()
    for thread in threads:
        thread.join()
    hand_in(time.process_time_ns() - cpu, logs)


def main(adapter_name: str, lock_class: str, folder: str, version: str, mode: str, *arguments: str) -> None:
    """Load the candidate and run one mode."""
    adapter = adapters.load(adapter_name, lock_class, folder, version)
    if mode == "origin":
        answer(adapter.origin)
        return
    if mode == "serve":
        serve(adapter, *arguments)
        return
    path, *turns, last = arguments
    run = {"contend": contend, "threads": contend_in_threads}[mode]
    run(adapter.endless(path), Turns(*turns), int(last))


if __name__ == "__main__":
    main(*sys.argv[1:])
