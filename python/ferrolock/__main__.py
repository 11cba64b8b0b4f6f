"""The command line: ``python -m ferrolock demo`` shows processes taking turns with one lock."""

from __future__ import annotations

import argparse
import math
import sys
from typing import TYPE_CHECKING

from ferrolock import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence

MOST_PROCESSES = 64


def _process_count(text: str) -> int:
    try:
        count = int(text)
    except ValueError:
        count = 0
    if not 1 <= count <= MOST_PROCESSES:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 to {MOST_PROCESSES}")
    return count


def _duration(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not (seconds > 0 and math.isfinite(seconds)):
        raise argparse.ArgumentTypeError(f"{text!r} is not a finite number of seconds above 0")
    return seconds


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status; bad arguments leave through ``SystemExit(2)``."""
    parser = argparse.ArgumentParser(prog="python -m ferrolock", description="File locks with a Rust core.")
    parser.add_argument("--version", action="version", version=f"ferrolock {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="command")
    about = "let several processes contend for one lock and show who held it when"
    demo = commands.add_parser("demo", help=about, description=about[0].upper() + about[1:] + ".")
    demo.add_argument("--processes", type=_process_count, default=8, metavar="N", help="how many (default: 8)")
    demo.add_argument("--seconds", type=_duration, default=3.0, metavar="S", help="for how long (default: 3)")
    chosen = parser.parse_args(arguments)
    if chosen.command is None:
        parser.print_help(sys.stderr)
        return 2

    # Here, as --help and --version need none of what it imports.
    from ferrolock import _demo

    return _demo.run(chosen.processes, chosen.seconds)


if __name__ == "__main__":
    sys.exit(main())
