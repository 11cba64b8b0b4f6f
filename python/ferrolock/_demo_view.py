"""How the demo looks: pure functions from a summary to text, in plain ASCII or in blocks and colours."""

from __future__ import annotations

import math
import os
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO

from ferrolock._demo_summary import percentile

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ferrolock._demo_summary import Summary

MILLISECOND = 1_000_000
THOUSAND = 1000
NARROWEST, WIDEST = 40, 220
COLUMNS_PER_TICK = 10
BAR_COLUMNS = 24
MOST_PAIRS = 5
# The theme's own colours, so that they can be read on any background; red is kept for overlaps.
ROW_COLOURS = ("36", "33", "32", "35", "34", "96", "93", "92", "95", "94")
RED, GREEN, BOLD, DIM = "1;31", "1;32", "1", "2"
BLOCKS = " ▏▎▍▌▋▊▉█"
HALVES = {(False, False): "·", (True, False): "▌", (False, True): "▐", (True, True): "█"}


@dataclass(frozen=True)
class Look:
    """What the output can show."""

    width: int
    colour: bool = False
    """Escape codes for colours."""
    unicode: bool = False
    """Block characters."""
    live: bool = False
    """A line can be rewritten."""

    @classmethod
    def of(cls, stream: TextIO) -> Look:
        """Find out: everything in a terminal, plain ASCII elsewhere and where NO_COLOR asks for it."""
        width = min(max(shutil.get_terminal_size().columns, NARROWEST), WIDEST)
        if not stream.isatty() or os.environ.get("TERM") == "dumb":
            return cls(width)
        if os.environ.get("NO_COLOR"):
            return cls(width, live=True)
        try:
            (BLOCKS + "".join(HALVES.values()) + "µ…").encode(stream.encoding)
        except UnicodeEncodeError:
            blocks = False
        else:
            blocks = True
        # A console of Windows shows escape codes as text unless it is one of the newer terminals.
        colour = os.name != "nt" or any(name in os.environ for name in ("WT_SESSION", "TERM", "ANSICON"))
        return cls(width, colour=colour, unicode=blocks, live=True)

    def paint(self, text: str, code: str) -> str:
        """Colour a piece of text, where colours can be shown."""
        return f"\x1b[{code}m{text}\x1b[0m" if self.colour and text else text

    def bar(self, fraction: float, columns: int) -> str:
        """Draw a bar of at most ``columns``; what is above 0 is never drawn as nothing."""
        if not self.unicode:
            return "#" * max(round(fraction * columns), 1 if fraction > 0 else 0)
        eighths = max(round(fraction * columns * 8), 1 if fraction > 0 else 0)
        full, rest = divmod(eighths, 8)
        return BLOCKS[8] * full + (BLOCKS[rest] if rest else "")

    def duration(self, nanoseconds: int) -> str:
        """Write a duration with three digits and its unit."""
        value, unit = nanoseconds / THOUSAND, "µs" if self.unicode else "us"
        for larger in ("ms", "s"):
            if round(value) < THOUSAND:
                break
            value, unit = value / THOUSAND, larger
        decimals = 2 - min(int(math.log10(max(value, 1))), 2)
        return f"{value:,.{decimals}f} {unit}"


@dataclass(frozen=True)
class Window:
    """The part of the run that the timeline shows."""

    start_ns: int
    column_ns: int
    columns: int

    @property
    def end_ns(self) -> int:
        """The first stamp past the window."""
        return self.start_ns + self.columns * self.column_ns

    @classmethod
    def of(cls, summary: Summary, run_ns: int, columns: int) -> Window:
        """Choose the start of the run, or the surroundings of the first overlap; one turn fills about one column."""
        column_ns = MILLISECOND
        hold_ns = summary.median_hold_ns or 0
        for scale in range(1, 12):
            if hold_ns <= 1.5 * column_ns:
                break
            column_ns = MILLISECOND * (1, 2, 5)[scale % 3] * 10 ** (scale // 3)
        last_ns = max((turn.released_ns for turn in summary.turns), default=0)
        tick_ns = COLUMNS_PER_TICK * column_ns
        start_ns = 0
        if summary.overlaps:
            start_ns = max(summary.overlaps[0].start_ns // tick_ns - 1, 0) * tick_ns
        return cls(start_ns, column_ns, min(columns, math.ceil((max(run_ns, last_ns) - start_ns) / column_ns)))

    def cells(self, spans: Iterable[tuple[int, int]], per_column: int) -> list[bool]:
        """Mark the cells that a span covers at least by half; each span marks one cell at least."""
        marked = [False] * (self.columns * per_column)
        cell_ns = self.column_ns / per_column
        for start_ns, end_ns in spans:
            if end_ns <= self.start_ns or start_ns >= self.end_ns:
                continue
            start, end = ((stamp - self.start_ns) / cell_ns for stamp in (start_ns, end_ns))
            first, past = round(start), round(end)
            if past <= first:
                first = int((start + end) / 2)
                past = first + 1
            for cell in range(max(first, 0), min(past, len(marked))):
                marked[cell] = True
        return marked


def plural(count: int, noun: str) -> str:
    """Say how many: ``1 overlap``, ``2 overlaps``, ``2 processes``."""
    ending = "" if count == 1 else "es" if noun.endswith("s") else "s"
    return f"{count:,} {noun}{ending}"


def header(processes: int, seconds: float, hold_s: float, look: Look) -> str:
    """Say what is about to run."""
    title = look.paint("ferrolock demo", BOLD)
    return f"{title}: {plural(processes, 'process')}, one lock, {hold_s * 1000:g} ms a turn, {seconds:g} s\n"


def starting(processes: int, look: Look) -> str:
    """Say what takes the first moments."""
    return f"starting {plural(processes, 'process')}{'…' if look.unicode else '...'}"


def running(elapsed_s: float, seconds: float, turns: int, look: Look) -> str:
    """Say how far the run has come."""
    done = min(max(elapsed_s / seconds, 0.0), 1.0)
    text = f"running{'…' if look.unicode else '...'} {done * seconds:.1f} of {seconds:g} s   {plural(turns, 'turn')}   "
    return text + look.bar(done, min(BAR_COLUMNS, look.width - len(text) - 1))


class LiveLine:
    """One line of a terminal that is written over again and again; nothing where that cannot be done."""

    def __init__(self, stream: TextIO, look: Look) -> None:
        """Nothing is shown yet."""
        self._stream = stream
        self._look = look

    def _write(self, text: str) -> None:
        if self._look.live:
            self._stream.write(text)
            self._stream.flush()

    def show(self, text: str) -> None:
        """Replace what the line says. It stays one column short of the edge, where a terminal would go on below."""
        columns = self._look.width - 1
        self._write("\r" + self._look.paint(text[:columns].ljust(columns), DIM))

    def clear(self) -> None:
        """Leave the line empty, the cursor at its start."""
        self.show("")
        self._write("\r")


def _name(process: int, summary: Summary, look: Look) -> str:
    digits = len(str(len(summary.shares)))
    return look.paint(f"  process {process:{digits}}", _colour(process))


def _colour(process: int) -> str:
    return ROW_COLOURS[(process - 1) % len(ROW_COLOURS)]


def _timeline(summary: Summary, run_ns: int, look: Look) -> list[str]:
    margin = len(f"  process {len(summary.shares)}  ")
    window = Window.of(summary, run_ns, look.width - margin - 1)
    ticks = ""
    for column in range(0, window.columns, COLUMNS_PER_TICK):
        label = f"{(window.start_ns + column * window.column_ns) // MILLISECOND}"
        ticks += label.ljust(COLUMNS_PER_TICK)
    shown = f"{window.start_ns // MILLISECOND} to {window.end_ns // MILLISECOND} ms of the run"
    lines = [
        look.paint("Who held the lock", BOLD) + f", {shown}; a column is {window.column_ns // MILLISECOND} ms",
        look.paint(f"{' ' * margin}{ticks.rstrip()}", DIM),
    ]
    visible = [turn for turn in summary.turns if turn.acquired_ns < window.end_ns]
    overlaps = [one for one in summary.overlaps if one.start_ns < window.end_ns]
    for share in summary.shares:
        held = [(turn.acquired_ns, turn.released_ns) for turn in visible if turn.process == share.process]
        clashes = [(one.start_ns, one.end_ns) for one in overlaps if share.process in (one.first, one.second)]
        row = _row(window.cells(held, 2 if look.unicode else 1), window.cells(clashes, 1), _colour(share.process), look)
        lines.append(f"{_name(share.process, summary, look)}  {row}")
    if overlaps:
        lines.append(f"{' ' * margin}{look.paint('X', RED)} = inside together with another process")
    return lines


def _row(held: list[bool], clashing: list[bool], colour: str, look: Look) -> str:
    """Draw one process's row; runs of one colour share their escape codes."""
    pieces: list[tuple[str, str]] = []
    for column, clash in enumerate(clashing):
        if clash:
            cell = ("X", RED)
        elif look.unicode:
            halves = (held[2 * column], held[2 * column + 1])
            cell = (HALVES[halves], colour if any(halves) else DIM)
        else:
            cell = ("#" if held[column] else ".", "")
        if pieces and pieces[-1][1] == cell[1]:
            cell = (pieces.pop()[0] + cell[0], cell[1])
        pieces.append(cell)
    return "".join(look.paint(text, code) for text, code in pieces)


def _shares(summary: Summary, run_ns: int, look: Look) -> list[str]:
    most = max((share.turns for share in summary.shares), default=0)
    digits = len(f"{len(summary.turns):,}")
    lines = [look.paint("Turns", BOLD)]
    for share in summary.shares:
        bar = look.paint(look.bar(share.turns / max(most, 1), BAR_COLUMNS), _colour(share.process))
        figures = f"{share.turns:{digits},}  {share.fraction:6.1%}"
        lines.append(f"{_name(share.process, summary, look)}  {figures}  {bar}".rstrip())
    ratio = summary.least_to_most
    margin = len(f"  process {len(summary.shares)}")
    hold_ns = summary.median_hold_ns
    each = f"  of {look.duration(hold_ns)} each (median)" if hold_ns is not None else ""
    lines.append(f"{'  total':{margin}}  {len(summary.turns):{digits},}{each}")
    lines.append("  least-to-most ratio  " + ("-  (no turns)" if ratio is None else f"{ratio:.2f}  (1 is even)"))
    wait_ns, waiter = summary.longest_wait(run_ns)
    lines.append(f"  longest wait         {look.duration(wait_ns)}  (process {waiter})")
    return lines


def _hand_overs(summary: Summary, look: Look) -> list[str]:
    lines = [look.paint("Hand-over", BOLD) + ", from a release to the next process's acquire"]
    samples = summary.hand_overs_ns
    if not samples:
        return [*lines, "  none: the lock never went from one process to another"]
    chances = len(summary.turns) - 1
    return [
        *lines,
        f"  median     {look.duration(percentile(samples, 50))}",
        f"  p99        {look.duration(percentile(samples, 99))}",
        f"  passed on  after {len(samples):,} of {plural(chances, 'turn')} ({len(samples) / chances:.1%})",
    ]


def _verdict(summary: Summary, look: Look) -> list[str]:
    count, turns = summary.overlap_count, len(summary.turns)
    lines = [look.paint(plural(count, "overlap"), RED if count else GREEN)]
    lines += [
        f"  merged log      {len(summary.overlaps):,} of {plural(turns, 'turn')} began while another was going on",
        f"  mark inside     {len(summary.meetings):,} of {plural(turns, 'turn')} were disturbed",
        f"  shared counter  {turns - summary.lost_updates:,} of {plural(turns, 'addition')} arrived",
    ]
    if not count:
        return lines
    if summary.overlaps:
        first = summary.overlaps[0]
        lines.append(
            f"  first: processes {first.first} and {first.second}, {look.duration(first.start_ns)} into the run,"
            f" for {look.duration(first.end_ns - first.start_ns)}"
        )
    pairs = summary.pairs()
    for (one, other), times in pairs[:MOST_PAIRS]:
        who = f"processes {one} and {other}" if one else f"process {other} and one unknown"
        lines.append(f"  {who}: {plural(times, 'time')}")
    if len(pairs) > MOST_PAIRS:
        lines.append(f"  and {plural(len(pairs) - MOST_PAIRS, 'more pair')}")
    lines.append(look.paint("The lock did not exclude: two processes were inside at once.", RED))
    return lines


def render(summary: Summary, run_ns: int, look: Look) -> str:
    """Draw the whole report."""
    sections = (
        _timeline(summary, run_ns, look),
        _shares(summary, run_ns, look),
        _hand_overs(summary, look),
        _verdict(summary, look),
    )
    return "\n".join("\n".join(("", *section)) for section in sections) + "\n"
