"""``python -m ferrolock demo``: its figures, and what it looks like."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING

import pytest

from ferrolock import _demo_view as view
from ferrolock._demo_summary import Meeting, Overlap, Summary, percentile, summarise
from ferrolock._demo_worker import Witness

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MS = 1_000_000
ESCAPE = re.compile("\x1b\\[[0-9;]*m")
PLAIN = view.Look(80)
FULL = view.Look(80, colour=True, unicode=True, live=True)
LONG_S = 60.0
"""A bound for what must finish; nothing that works comes near it."""

# The figures.


def test_turns_that_touch_do_not_overlap() -> None:
    summary = summarise([[(0, 10), (20, 30)], [(10, 20)]])

    assert summary.overlaps == ()
    assert summary.overlap_count == 0


def test_a_turn_that_begins_inside_another_is_an_overlap_that_names_both() -> None:
    summary = summarise([[(0, 10)], [(7, 15)], [(15, 16)]])

    assert summary.overlaps == (Overlap(first=1, second=2, start_ns=7, end_ns=10),)
    assert summary.pairs() == [((1, 2), 1)]


def test_a_long_turn_overlaps_all_that_begin_in_it_also_after_shorter_ones() -> None:
    summary = summarise([[(0, 100)], [(10, 20), (50, 60)], [(30, 40)]])

    assert [(one.first, one.second) for one in summary.overlaps] == [(1, 2), (1, 3), (1, 2)]
    assert summary.pairs() == [((1, 2), 2), ((1, 3), 1)]


def test_what_only_the_mark_inside_noticed_counts_as_overlaps_too() -> None:
    summary = summarise([[(0, 10)], [(20, 30)]], [Meeting(2, 1), Meeting(1, 0)], counted=2)

    assert summary.overlaps == ()
    assert summary.overlap_count == 2
    assert dict(summary.pairs()) == {(1, 2): 1, (0, 1): 1}


@pytest.mark.parametrize("counted", [1, 3])
def test_what_only_the_shared_counter_noticed_counts_as_overlaps_too(counted: int) -> None:
    assert summarise([[(0, 10)], [(20, 30)]], counted=counted).overlap_count == 1


def test_a_hand_over_is_from_a_release_to_another_process_s_acquire() -> None:
    summary = summarise([[(0, 10), (11, 20), (53, 60)], [(25, 50)]])

    assert summary.hand_overs_ns == (3, 5)


def test_an_overlap_is_no_hand_over() -> None:
    assert summarise([[(0, 10)], [(5, 20)]]).hand_overs_ns == ()


def test_shares_count_those_who_never_had_a_turn() -> None:
    summary = summarise([[(0, 1), (2, 3), (4, 5)], [], [(6, 7)]])

    assert [(share.process, share.turns, share.fraction) for share in summary.shares] == [
        (1, 3, 0.75),
        (2, 0, 0.0),
        (3, 1, 0.25),
    ]
    assert summary.least_to_most == 0.0
    assert summarise([[(0, 1), (2, 3)], [(4, 5)]]).least_to_most == 0.5


def test_the_longest_wait_may_be_before_the_first_turn_or_after_the_last() -> None:
    summary = summarise([[(0, 10), (40, 50)], [(20, 30)]])

    assert summary.longest_wait(50) == (30, 1)
    assert summary.longest_wait(65) == (35, 2)
    assert summarise([[(0, 90)], [(90, 95)]]).longest_wait(95) == (90, 2)


def test_a_run_without_turns_has_no_figures() -> None:
    summary = summarise([[], []])

    assert (summary.least_to_most, summary.median_hold_ns, summary.hand_overs_ns) == (None, None, ())
    assert "no turns" in view.render(summary, MS, PLAIN)


def test_percentiles_are_values_that_were_measured() -> None:
    hundred = range(1, 101)

    assert [percentile(hundred, percent) for percent in (0, 50, 99, 100)] == [1, 50, 99, 100]
    assert percentile([1, 2, 3], 50) == 2
    assert percentile([7], 99) == 7


# The mark inside.


@pytest.fixture
def witnesses(tmp_path: Path) -> Iterator[tuple[Witness, Witness]]:
    path = tmp_path / "page"
    path.write_bytes(bytes(Witness.SIZE))
    one, two = Witness(path), Witness(path)
    yield one, two
    one.close()
    two.close()


def test_turns_one_after_the_other_leave_the_mark_undisturbed(witnesses: tuple[Witness, Witness]) -> None:
    one, two = witnesses

    assert (one.enter(1), one.leave()) == (0, 1)
    assert (two.enter(2), two.leave()) == (0, 2)
    assert one.count == 2


def test_who_comes_into_an_occupied_section_disturbs_both_and_loses_an_addition(
    witnesses: tuple[Witness, Witness],
) -> None:
    one, two = witnesses

    assert one.enter(1) == 0
    assert two.enter(2) == 1
    assert one.leave() == 2
    assert two.leave() == 0
    assert one.count == 1


# The looks.


def turns_in_order(processes: int, count: int, hold_ns: int = MS) -> Summary:
    """Let processes hold the lock in strict turns, without a gap."""
    logs: list[list[tuple[int, int]]] = [[] for _ in range(processes)]
    for turn in range(count):
        logs[turn % processes].append((turn * hold_ns, (turn + 1) * hold_ns))
    return summarise(logs, counted=count)


def timeline(report: str) -> list[str]:
    """Return the rows of the timeline, one per process, without their names."""
    section = report.partition("\n\n")[0]
    return [line.split(maxsplit=2)[2] for line in section.splitlines() if line.startswith("  process")]


def test_the_timeline_shows_each_turn_in_the_row_of_its_process() -> None:
    report = view.render(turns_in_order(3, 6), 6 * MS, PLAIN)

    assert timeline(report) == ["#..#..", ".#..#.", "..#..#"]
    assert "0 to 6 ms of the run; a column is 1 ms" in report


def test_a_turn_too_short_for_a_column_is_still_shown() -> None:
    summary = summarise([[(0, MS), (3 * MS, 4 * MS)], [(2 * MS + 100, 2 * MS + 200)]])

    assert timeline(view.render(summary, 4 * MS, PLAIN)) == ["#..#", "..#."]


def test_blocks_show_half_columns() -> None:
    summary = summarise([[(0, MS), (2 * MS + MS // 2, 3 * MS)], [(MS, MS + MS // 2)]])
    report = ESCAPE.sub("", view.render(summary, 3 * MS, FULL))

    assert timeline(report) == ["█·▐", "·▌·"]


def test_longer_turns_make_wider_columns() -> None:
    report = view.render(turns_in_order(2, 8, 16 * MS), 128 * MS, PLAIN)

    assert "a column is 20 ms" in report
    assert len(timeline(report)[0]) == 7


def test_the_timeline_moves_to_the_first_overlap_and_marks_both_rows() -> None:
    logs = [[(start * MS, start * MS + MS) for start in range(0, 1000, 2)] for _ in range(2)]
    logs[1] = [(501 * MS, 503 * MS)]
    report = view.render(summarise(logs), 1000 * MS, PLAIN)

    assert "Who held the lock, 490 to 5" in report
    assert timeline(report)[0].startswith("#.#.#.#.#.#.X.#.")
    assert timeline(report)[1].startswith("...........#X...")
    assert "\n1 overlap\n" in report
    assert "first: processes 2 and 1, 502 ms into the run, for 1.00 ms" in report


def test_an_overlap_that_only_the_mark_noticed_is_named() -> None:
    report = view.render(summarise([[(0, MS)], [(2 * MS, 3 * MS)]], [Meeting(2, 1)], counted=2), 3 * MS, PLAIN)

    assert "\n1 overlap\n" in report
    assert "  processes 1 and 2: 1 time\n" in report
    assert "did not exclude" in report


@pytest.mark.parametrize("width", [80, 120, 200])
@pytest.mark.parametrize("processes", [1, 8, 64])
@pytest.mark.parametrize("overlapping", [0, 1000])
def test_rows_are_aligned_and_fit_the_terminal(width: int, processes: int, overlapping: int) -> None:
    together = [[(MS * turn, MS * turn + MS) for turn in range(overlapping)] for _ in range(processes)]
    summary = summarise(together) if overlapping else turns_in_order(processes, 3000)
    plain = view.render(summary, 3000 * MS, view.Look(width))
    full = view.render(summary, 3000 * MS, view.Look(width, colour=True, unicode=True))

    assert plain.isascii()
    assert "\x1b" not in plain
    assert "\x1b[" in full
    for report in (plain, ESCAPE.sub("", full)):
        rows = timeline(report)
        assert len(rows) == processes
        assert {len(row) for row in rows} == {len(rows[0])}
        assert [line for line in report.splitlines() if len(line) > width] == []


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [(400, "0.40 us"), (14_000, "14.0 us"), (999_499, "999 us"), (999_900, "1.00 ms"), (31 * MS, "31.0 ms")],
)
def test_durations_have_three_digits_and_a_unit(nanoseconds: int, text: str) -> None:
    assert PLAIN.duration(nanoseconds) == text


class Stream(io.TextIOWrapper):
    """A stream of an encoding that says whether it is a terminal."""

    def __init__(self, *, terminal: bool, encoding: str = "utf-8") -> None:
        super().__init__(io.BytesIO(), encoding=encoding)
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


def test_colours_and_blocks_are_for_terminals_that_can_show_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")

    assert view.Look.of(Stream(terminal=True)) == view.Look(100, colour=True, unicode=True, live=True)
    assert view.Look.of(Stream(terminal=True, encoding="ascii")) == view.Look(100, colour=True, live=True)
    assert view.Look.of(Stream(terminal=False)) == view.Look(100)
    monkeypatch.setenv("NO_COLOR", "1")
    assert view.Look.of(Stream(terminal=True)) == view.Look(100, live=True)
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert view.Look.of(Stream(terminal=True)) == view.Look(100)


def test_the_live_line_never_fills_the_last_column_and_ends_empty() -> None:
    stream = io.StringIO()
    look = view.Look(40, live=True)
    line = view.LiveLine(stream, look)
    line.show(view.running(1.0, 2.0, 123_456_789, look))
    line.show("done")
    line.clear()

    shown = stream.getvalue().split("\r")
    assert shown[1].startswith("running... 1.0 of 2 s")
    assert shown[2].strip() == "done"
    assert {len(text) for text in shown[1:4]} == {39}
    assert shown[3:] == [" " * 39, ""]


def test_without_a_terminal_there_is_no_live_line() -> None:
    stream = io.StringIO()
    line = view.LiveLine(stream, PLAIN)
    line.show("running")
    line.clear()

    assert stream.getvalue() == ""
