"""The newcomer's first command: processes contend for one lock, and what happened is shown.

The contenders are fresh interpreters (``_demo_worker``), so nothing of the lock is shared but the file. ``_demo_crew``
starts and ends them, ``_demo_summary`` makes figures of their reports, and ``_demo_view`` makes text of the figures.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
import time
from pathlib import Path

from ferrolock import _demo_view as view
from ferrolock._demo_crew import PATIENCE_S, Crew, DemoError
from ferrolock._demo_summary import Meeting, Summary, summarise
from ferrolock._demo_worker import Witness, clock_ns

HOLD_S = 0.001
HEAD_START_NS = 100_000_000
"""From "everybody is ready" to the common start: time for the news to reach all of them."""
INTERRUPTED = 130
"""The status a shell shows for a command that Ctrl-C ended."""


def run(processes: int, seconds: float, *, lock: str = "ferrolock:FileLock") -> int:
    """Run the demo and print it; return the exit status: 1 if the lock did not exclude or the demo could not be done.

    ``lock`` ("module:class") is there for the tests, which must see the demo fail with a class that does not lock.
    """
    look = view.Look.of(sys.stdout)
    try:
        sys.stdout.write(view.header(processes, seconds, HOLD_S, look))
        sys.stdout.flush()
        summary = contend(processes, seconds, lock, look)
        sys.stdout.write(view.render(summary, round(seconds * 1e9), look))
        sys.stdout.flush()
    except KeyboardInterrupt:
        sys.stdout.flush()
        sys.stderr.write("ferrolock demo: interrupted; its processes are stopped and its folder is removed\n")
        return INTERRUPTED
    except DemoError as error:
        sys.stdout.flush()
        sys.stderr.write(f"ferrolock demo: {error}\n")
        return 1
    return 1 if summary.overlap_count else 0


def contend(processes: int, seconds: float, lock: str, look: view.Look) -> Summary:
    """Let fresh processes contend for one lock in a temporary folder; both are gone when this returns or raises."""
    live = view.LiveLine(sys.stdout, look)
    with contextlib.ExitStack() as cleanup:
        name = cleanup.enter_context(tempfile.TemporaryDirectory(prefix="ferrolock-demo-"))
        page = Path(name, "witness")
        page.write_bytes(bytes(Witness.SIZE))
        witness = Witness(page)
        cleanup.callback(witness.close)
        cleanup.callback(live.clear)
        crew = Crew(Path(name))
        cleanup.callback(crew.dismiss)

        launched_ns = clock_ns()
        for number in range(1, processes + 1):
            crew.hire().tell({"number": number, "folder": name, "lock": lock, "hold_s": HOLD_S})
        deadline_s = time.monotonic() + PATIENCE_S
        ready = crew.hear(deadline_s, last=False, tick=lambda: live.show(view.starting(processes, look)))
        if not all(launched_ns <= one["clock_ns"] <= clock_ns() for one in ready):
            raise DemoError("the clocks of the processes differ here, so their stamps cannot be compared")

        start_ns = clock_ns() + HEAD_START_NS
        for member in crew.members:
            member.tell({"start_ns": start_ns, "end_ns": start_ns + round(seconds * 1e9)})
        deadline_s = time.monotonic() + HEAD_START_NS / 1e9 + seconds + PATIENCE_S

        def tick() -> None:
            live.show(view.running((clock_ns() - start_ns) / 1e9, seconds, witness.count, look))

        reports = crew.hear(deadline_s, last=True, tick=tick)
        for member in crew.members:
            member.await_exit()
        remarks = {remark for member in crew.members if (remark := member.complaint())}
        counted = witness.count
    for remark in sorted(remarks):
        sys.stderr.write(f"{remark}\n")
    logs = [[(acquired, released) for acquired, released in report["turns"]] for report in reports]
    meetings = [Meeting(number, other) for number, report in enumerate(reports, 1) for other in report["met"]]
    return summarise(logs, meetings, counted)
